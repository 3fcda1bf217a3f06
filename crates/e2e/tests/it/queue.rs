//! Copies that wait for others: the status says behind what.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use levee_testing::wait::{poll, wait_until};
use serde_json::Value;

use super::hooks::put;
use super::repository::{count, count_of};
use super::status::wait_no_problem;
use super::world::{PATIENCE, Setup, Site, World};

const FOLDERS: [&str; 3] = ["documents", "music", "pictures"];

/// Apps beside the shop, each with a folder.
const APPS: [(&str, &str); 3] = [("mail", "boxes"), ("photos", "albums"), ("wiki", "pages")];
/// How many copies an agent makes at once when nobody says otherwise.
const BOUND: usize = 2;

/// What the protection file says of one more folder. It is made at east, with a file of this content.
pub fn folder(world: &World, app: &str, name: &str, every: &str, content: &[u8]) -> String {
    let mut section = format!("[app.{app}.files.{name}]\nevery = \"{every}\"\n");
    for site in [Site::East, Site::West] {
        section.push_str(&format!("at.{}.path = {:?}\n", site.name(), world.folder(site).join(name)));
    }
    let path = world.folder(Site::East).join(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("1.txt"), content).unwrap();
    section
}

/// What each asset waits behind, of those that wait.
fn waiting(world: &World) -> Option<Vec<(String, String)>> {
    let status = world.status()?;
    let assets = status["assets"].as_array()?;
    let text = |value: &Value| value.as_str().map(str::to_string);
    Some(assets.iter().filter_map(|asset| Some((text(&asset["asset"])?, text(&asset["waiting"])?))).collect())
}

#[test]
fn a_copy_that_waits_for_others_is_shown_with_what_it_waits_behind() {
    let world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    // Copies begin, and do not end for as long as this file is there. Two are made at once.
    let hold = world.root().join("client/hold");
    fs::write(&hold, "").unwrap();
    let script = format!("while [ -e '{}' ]; do sleep 0.1; done", hold.display());
    put(&world, Site::East, "before-copy", &script, 0o755);
    let mut file = world.protection_file();
    for name in &FOLDERS[1..] {
        file.push_str(&folder(&world, "shop", name, "2s", name.as_bytes()));
    }
    world.apply(&file);

    let mut last = None;
    let shown = poll(PATIENCE, || {
        last = waiting(&world);
        let waiting = last.clone()?;
        // Two hold the line up; every folder of the three that is not one of them waits behind both.
        let (who, behind) = waiting.iter().find(|(who, _)| FOLDERS.contains(&who.as_str()))?;
        (behind.contains("shop/") && behind.contains(" and ") && !behind.contains(&format!("shop/{who}"))).then_some(())
    });
    assert!(shown.is_some(), "{last:?}\n{}", world.log_tails());

    fs::remove_file(&hold).unwrap();
    world.wait_protected(Site::East);
    let over = poll(PATIENCE, || {
        last = waiting(&world);
        last.as_ref()?.is_empty().then_some(())
    });
    assert!(over.is_some(), "{last:?} still\n{}", world.log_tails());
    wait_no_problem(&world);
}

/// It was due, and waited; when its turn comes nothing may begin any more.
#[test]
fn a_copy_that_waited_until_a_blackout_began_is_not_begun_in_it() {
    const DOCUMENTS: &str = "levee-files:shop/documents";
    /// Longer than a folder's agent waits until it looks again.
    const SETTLED: Duration = Duration::from_secs(7);
    let world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let mut file = world.protection_file();
    for name in &FOLDERS[1..] {
        file.push_str(&folder(&world, "shop", name, "2s", name.as_bytes()));
    }
    world.apply(&file);
    world.wait_protected(Site::East);
    // The two others, the database's base if it comes to that, and nothing else hold the line up.
    let hold = world.root().join("client/hold");
    fs::write(&hold, "").unwrap();
    let wait = format!("while [ -e '{}' ]; do sleep 0.1; done", hold.display());
    put(&world, Site::East, "before-copy", &format!("[ \"$LEVEE_ASSET\" = documents ] && exit 0\n{wait}"), 0o755);
    // Due with each minute, and closed from the next but one on, of which at least one is far enough to be waited for.
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let begin = (now().as_secs() + 35) / 60 + 2;
    let time = |minutes: u64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    let blackout = format!("{}-{}", time(begin), time(begin + 60));
    let every_minute = format!("schedule = {{ cron = \"* * * * *\", blackout = [\"{blackout}\"] }}\nprobe");
    let closing = file.replace("every = \"2s\"\nprobe", &every_minute);
    assert!(closing.contains(&blackout), "{closing}");
    world.apply(&closing);
    let mut last = None;
    let in_line = poll(PATIENCE, || {
        last = waiting(&world);
        last.as_ref()?.iter().any(|(who, _)| who == "documents").then_some(())
    });
    assert!(in_line.is_some(), "{last:?}\n{}", world.log_tails());
    std::thread::sleep(Duration::from_secs(begin * 60 + 1).saturating_sub(now()));

    let before = (count(&world, DOCUMENTS), count(&world, "levee-files:shop/music"));
    assert!(waiting(&world).unwrap_or_default().iter().any(|(who, _)| who == "documents"), "it waits still");
    fs::remove_file(&hold).unwrap();
    wait_until("the others to go on", PATIENCE, || count(&world, "levee-files:shop/music") > before.1 + 1);
    std::thread::sleep(SETTLED);
    assert_eq!(count(&world, DOCUMENTS), before.0, "{}", world.log_tails());
    let status = world.status().unwrap_or_default();
    assert!(!waiting(&world).unwrap_or_default().iter().any(|(who, _)| who == "documents"), "{status:#}");
}

/// Every asset of every app, as APP/ASSET and as the status has it; nothing when the server does not answer.
fn assets(world: &World) -> Vec<(String, Value)> {
    let said = world.operator(&["status", "--json"]).stdout;
    let said = String::from_utf8_lossy(&said);
    let status: Value = said.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let mut found = Vec::new();
    for app in status["apps"].as_array().into_iter().flatten() {
        for asset in app["assets"].as_array().into_iter().flatten() {
            let name = |value: &Value| value.as_str().unwrap_or_default().to_string();
            found.push((format!("{}/{}", name(&app["app"]), name(&asset["asset"])), asset.clone()));
        }
    }
    found
}

#[test]
fn copies_of_more_apps_than_the_bound_wait_and_each_is_made_once() {
    let world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let (hold, list) = (world.root().join("client/hold"), world.root().join("client/list"));
    fs::write(&hold, "").unwrap();
    // Both run while the copy has its turn.
    let note = |word: &str| format!("echo \"{word} $LEVEE_APP/$LEVEE_ASSET\" >> '{}'", list.display());
    let wait = format!("while [ -e '{}' ]; do sleep 0.1; done", hold.display());
    put(&world, Site::East, "before-copy", &format!("{}\n{wait}", note("begun")), 0o755);
    put(&world, Site::East, "after-copy", &note("$LEVEE_BACKUP_RESULT"), 0o755);
    let mut file = world.protection_file().replace("every = \"2s\"", "every = \"1h\"");
    for (app, name) in APPS {
        file.push_str(&format!("[app.{app}]\nhome = \"east\"\nrecovery = \"west\"\n"));
        file.push_str(&folder(&world, app, name, "1h", name.as_bytes()));
    }
    let mut all = BTreeSet::from(["shop/orders".to_string(), "shop/documents".to_string()]);
    all.extend(APPS.map(|(app, name)| format!("{app}/{name}")));
    world.apply(&file);

    // As many as are allowed have begun, and all others are shown to wait.
    let mut last: Vec<(String, Value)> = Vec::new();
    let lines = || fs::read_to_string(&list).unwrap_or_default();
    // One that could not be made, since the other site was not ready yet, has ended and comes again.
    let at_work = || {
        let lines = lines();
        let mut at_work = BTreeSet::new();
        for (word, name) in lines.lines().filter_map(|line| line.split_once(' ')) {
            match word {
                "begun" => at_work.insert(name.to_string()),
                _ => at_work.remove(name),
            };
        }
        at_work
    };
    let shown = poll(PATIENCE, || {
        last = assets(&world).into_iter().filter(|(_, asset)| asset["waiting"].is_string()).collect();
        let at_work = at_work();
        let waiting = last.iter().map(|(name, _)| name.clone());
        let is_so = at_work.len() == BOUND && at_work.iter().cloned().chain(waiting).collect::<BTreeSet<_>>() == all;
        is_so.then_some(())
    });
    assert!(shown.is_some(), "{last:#?}\n{}\n{}", lines(), world.log_tails());
    let text = String::from_utf8_lossy(&world.operator(&["status"]).stdout).into_owned();
    assert!(text.contains("waiting behind the "), "{text}");

    fs::remove_file(&hold).unwrap();
    wait_until("every app to be protected", PATIENCE, || {
        let assets = assets(&world);
        assets.len() == all.len() && assets.iter().all(|(_, asset)| asset["protected"] == true)
    });
    let saved = |text: &str| text.lines().filter(|line| line.starts_with("saved ")).count();
    wait_until("what runs after the last copy", PATIENCE, || saved(&lines()) >= all.len());
    // Never more at once than allowed, none beside itself, and none a second time.
    let (lines, mut open, mut saved) = (lines(), BTreeSet::new(), BTreeSet::new());
    for line in lines.lines() {
        let (word, name) = line.split_once(' ').unwrap();
        match word {
            "begun" => assert!(open.insert(name) && open.len() <= BOUND, "{name} in {lines}"),
            "saved" => assert!(open.remove(name) && saved.insert(name), "{name} in {lines}"),
            _ => assert!(open.remove(name), "{name} in {lines}"),
        }
    }
    assert!(saved.into_iter().eq(all.iter().map(String::as_str)), "{lines}");
    for (app, name) in APPS {
        assert_eq!(count_of(&world, app, &format!("levee-files:{app}/{name}")), 1, "{lines}");
    }
    wait_until("nothing to wait any more", PATIENCE, || {
        let assets = assets(&world);
        !assets.is_empty() && assets.iter().all(|(_, asset)| asset["waiting"].is_null())
    });
}
