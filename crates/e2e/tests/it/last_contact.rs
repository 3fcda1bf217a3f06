//! What the status still says of copies whose agent is away, after the server was started anew meanwhile.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use levee_testing::wait::{poll, wait_until};
use serde_json::Value;

use super::upkeep::asset;
use super::world::{PATIENCE, Process, Setup, Site, World};

const ASSETS: [&str; 2] = ["orders", "documents"];

fn moment(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no moment"))
}

#[test]
fn good_and_verified_copies_are_named_after_the_server_was_restarted_while_the_recovery_agent_is_away() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    for name in ASSETS {
        wait_until("a verified copy", PATIENCE, || {
            asset(&world, name)
                .is_some_and(|asset| asset["last_verified"].is_object() && asset["last_contact"].is_null())
        });
    }
    // Enough for what was verified last to be kept, whatever becomes of the very last word.
    std::thread::sleep(Duration::from_secs(12));
    world.kill(Process::Agent(Site::West));
    world.wait_connected(Site::West, false);
    let before = ASSETS.map(|name| asset(&world, name).unwrap());

    world.kill(Process::Server);
    world.start(Process::Server);
    world.wait_connected(Site::East, true);
    for (name, before) in ASSETS.iter().zip(&before) {
        let after = asset(&world, name).unwrap();
        for backup in ["last_good", "last_verified"] {
            // A server that is killed forgets the last seconds at most.
            let (as_of, known) = (moment(&after[backup]["as_of"]), moment(&before[backup]["as_of"]));
            let forgotten = known.duration_since(as_of);
            assert!(
                forgotten <= SignedDuration::from_secs(30),
                "{backup} of {name}: {after:#}\nand before: {before:#}"
            );
        }
        assert_eq!(after["protected"], false, "{after:#}");
        assert_eq!(after["copies"]["copies"], 1, "{after:#}");
        assert!(moment(&after["last_contact"]["seen_at"]) <= Timestamp::now(), "{after:#}");
        let age_s = after["age_s"].as_f64().unwrap();
        let grows = poll(PATIENCE, || (asset(&world, name)?["age_s"].as_f64()? > age_s + 1.0).then_some(()));
        assert!(grows.is_some(), "the age of {name} stays {age_s}\n{}", world.log_tails());
    }
    let shop = world.status().unwrap();
    assert_eq!((&shop["health"], &shop["meets_objective"]), (&Value::from("unprotected"), &Value::Null), "{shop:#}");
    let shown = world.operator(&["status"]);
    let text = String::from_utf8_lossy(&shown.stdout);
    for words in ["as of the last contact with its agent", "as of last contact", "west-1 at west is away, last seen"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(shown.status.code(), Some(2), "{text}");

    // What west says itself takes its place.
    world.start(Process::Agent(Site::West));
    world.wait_protected(Site::East);
    wait_until("west's own word", PATIENCE, || {
        ASSETS.iter().all(|name| asset(&world, name).is_some_and(|asset| asset["last_contact"].is_null()))
    });
}
