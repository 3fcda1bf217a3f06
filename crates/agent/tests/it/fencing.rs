//! A site that has heard of a higher epoch starts nothing any more, whoever asks.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use levee_agent::{AgentFolder, start_database};
use levee_model::control::{Action, AgentStatus, Assignment, Command, Desired, Grant, Peer, Phase, Place, Role};
use levee_model::protection::{AppSpec, ProtectionFile};
use levee_model::{AppName, Epoch};
use levee_wire::FromServer;

use crate::server::{Levee, Running, answer, desired, options, send, status};
use crate::working::{peer, started};

/// A database that was never made: nothing may get as far as looking for it.
const SHOP: &str = r#"
[app.shop]
home = "east"
recovery = "west"
[app.shop.postgres.orders.at.east]
data_directory = "/nowhere/at/all/east"
address = "127.0.0.1"
port = 1
[app.shop.postgres.orders.at.west]
data_directory = "/nowhere/at/all/west"
address = "127.0.0.1"
port = 1
"#;

pub fn shop() -> AppName {
    "shop".parse().unwrap()
}

fn assignment(levee: &Levee, own: &Peer, other: &Peer, role: Role, epoch: u64) -> Assignment {
    assignment_of(levee, SHOP, own, other, role, epoch)
}

pub fn assignment_of(levee: &Levee, file: &str, own: &Peer, other: &Peer, role: Role, epoch: u64) -> Assignment {
    let spec: AppSpec = ProtectionFile::parse(file).unwrap().app.remove(&shop()).unwrap();
    let grant = Grant {
        app: shop(),
        agent: own.agent.clone(),
        site: own.site.clone(),
        role,
        epoch: Epoch(epoch),
        issued_at: Timestamp::now(),
    };
    Assignment {
        app: shop(),
        spec,
        epoch: Epoch(epoch),
        site: own.site.clone(),
        role,
        peer: Some(other.clone()),
        grant: levee.grant(&grant),
        acknowledged: Default::default(),
        vaults: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_at_a_site_that_was_told_of_a_higher_epoch() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let (east_folder, west_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, mut east_link) = started(&levee, &server, east_folder.path(), "e1", "east").await;
    let (west, west_link) = started(&levee, &server, west_folder.path(), "w1", "west").await;
    let (at_east, at_west) = (peer(&east, "e1", "east"), peer(&west, "w1", "west"));
    let peers = vec![at_east.clone(), at_west.clone()];
    let wanted = |revision: u64, assignment: Assignment| Desired {
        assignments: vec![assignment],
        peers: peers.clone(),
        ..desired(revision)
    };
    let writes = assignment(&levee, &at_east, &at_west, Role::Writer, 1);
    send(&east_link, wanted(1, writes)).await;
    let keeps = |epoch| assignment(&levee, &at_west, &at_east, Role::Recovery, epoch);
    send(&west_link, wanted(1, keeps(1))).await;
    let is_written = |status: &AgentStatus| status.known.get(&shop()).is_some_and(|known| known.phase == Phase::Writer);
    status(&mut east_link, is_written).await;
    let state = east_folder.path().join("apps/shop/state.json");
    let before = fs::read(&state).unwrap();

    // The app was given on; the server's word reaches west alone, and west tells it east.
    send(&west_link, wanted(2, keeps(2))).await;
    let fenced = status(&mut east_link, |status| {
        status.known.get(&shop()).is_some_and(|known| known.heard == Some(Epoch(2)) && known.phase == Phase::Stopped)
    })
    .await;
    assert_eq!(fenced.known[&shop()].epoch, Epoch(1), "a peer's word is no assignment");

    // A server that does not know of it, as one from an old backup, has the database started again.
    let start = Command {
        id: "c1".into(),
        run: "run-1".parse().unwrap(),
        app: shop(),
        epoch: Epoch(1),
        revision: 0,
        action: Action::Start { asset: "orders".parse().unwrap(), place: Place::Live, by_hand: false },
    };
    east_link.outgoing.send(FromServer::Command(start)).await.unwrap();
    let refused = answer(&mut east_link, "c1").await.result.unwrap_err();
    let words = "may not be started at east: the other site has told of epoch 2, and the command is for epoch 1";
    assert!(refused.message.contains(words) && !refused.transient, "{refused:?}");

    // Neither by hand, nor where the agent was killed after it had heard and before it had stopped.
    drop((east_link, west_link, server));
    east.stop().await;
    west.stop().await;
    let by_hand = || {
        start_database(&AgentFolder::new(east_folder.path()), &"shop/orders".parse().unwrap(), true)
            .unwrap_err()
            .message
    };
    let stopped = by_hand();
    assert!(stopped.contains("is not written at east now"), "{stopped}");
    fs::write(&state, before).unwrap();
    let heard = by_hand();
    assert!(heard.contains("it has told of epoch 2, and this site knows epoch 1 only"), "{heard}");
    // It is so for the next process as well, which learns nothing from a server that is away.
    let again = Running::start(&options(east_folder.path())).await;
    let fenced = || fs::read_to_string(&state).unwrap().contains("stopped");
    while !fenced() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    again.stop().await;
}

/// A shop of two databases, whose data directories at east lie below this folder.
fn two_databases(folder: &Path) -> String {
    let place = |name: &str, port: u16| {
        let at_east = folder.join(name);
        format!(
            "[app.shop.postgres.{name}.at.east]\ndata_directory = {at_east:?}\naddress = \"127.0.0.1\"\nport = {port}\n\
             [app.shop.postgres.{name}.at.west]\ndata_directory = \"/nowhere/at/all/{name}\"\naddress = \"127.0.0.1\"\n\
             port = {port}\n"
        )
    };
    format!("[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n{}{}", place("books", 1), place("orders", 2))
}

pub fn phase(status: &AgentStatus) -> Option<Phase> {
    status.known.get(&shop()).map(|known| known.phase)
}

/// What is said of every asset.
fn problems(status: &AgentStatus) -> String {
    status.assets.iter().filter_map(|asset| asset.problem.clone()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_writing_that_has_failed_is_tried_again_until_all_is_stopped() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let (east_folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, mut east_link) = started(&levee, &server, east_folder.path(), "e1", "east").await;
    let at_east = peer(&east, "e1", "east");
    let nobody = Peer { agent: "w1".parse().unwrap(), site: "west".parse().unwrap(), ..at_east.clone() };
    let file = two_databases(data.path());
    // Directories that nobody can tell the version of: whether a server runs on them cannot be found out.
    let marks = ["books", "orders"].map(|name| data.path().join(name).join("PG_VERSION"));
    for mark in &marks {
        fs::create_dir(mark.parent().unwrap()).unwrap();
        fs::write(mark, "?").unwrap();
    }
    let wanted = |revision: u64, role: Role, epoch: u64| Desired {
        assignments: vec![assignment_of(&levee, &file, &at_east, &nobody, role, epoch)],
        ..desired(revision)
    };
    send(&east_link, wanted(1, Role::Writer, 1)).await;
    status(&mut east_link, |status| phase(status) == Some(Phase::Writer)).await;

    // The server's own word: neither is stopped, both were tried, and nothing is set aside yet.
    send(&east_link, wanted(2, Role::Recovery, 2)).await;
    let both = |status: &AgentStatus| {
        ["books", "orders"].iter().all(|name| problems(status).contains(&format!("{}/{name}", data.path().display())))
    };
    let tried = status(&mut east_link, both).await;
    assert_eq!(phase(&tried), Some(Phase::Stopping), "a database may still write");
    assert!(marks.iter().all(|mark| mark.exists()));

    // One is put right, and the agent is killed: the next process goes on with what is left.
    fs::remove_file(&marks[0]).unwrap();
    east.stop().await;
    let east = Running::start(&options(east_folder.path())).await;
    let (_, mut east_link) = levee.next_link().await;
    let only_orders =
        |status: &AgentStatus| problems(status).contains("/orders") && !problems(status).contains("/books");
    assert_eq!(phase(&status(&mut east_link, only_orders).await), Some(Phase::Stopping));
    fs::remove_file(&marks[1]).unwrap();
    status(&mut east_link, |status| phase(status) == Some(Phase::Recovery)).await;
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_word_reaches_an_app_that_was_opened_late() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let folder = tempfile::tempdir().unwrap();
    let (east, mut link) = started(&levee, &server, folder.path(), "e1", "east").await;
    let at_east = peer(&east, "e1", "east");
    let nobody = Peer { agent: "w1".parse().unwrap(), site: "west".parse().unwrap(), ..at_east.clone() };
    let writes = Desired { assignments: vec![assignment(&levee, &at_east, &nobody, Role::Writer, 1)], ..desired(1) };
    send(&link, writes.clone()).await;
    status(&mut link, |status| phase(status) == Some(Phase::Writer)).await;
    east.stop().await;

    // The machine restarts, and the agent cannot read the app's state at first.
    let app = folder.path().join("apps/shop");
    let (state, gate) = (app.join("state.json"), app.join("shop.gate.json"));
    let confirmed = || fs::read_to_string(&gate).unwrap();
    let before = confirmed();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&gate, before.replace(boot.trim(), "another")).unwrap();
    let kept = fs::read(&state).unwrap();
    fs::write(&state, "{").unwrap();
    let east = Running::start(&options(folder.path())).await;
    let (_, mut link) = levee.next_link().await;
    status(&mut link, |status| status.revision == 1).await;
    fs::write(&state, kept).unwrap();
    send(&link, writes).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while confirmed() != before {
        assert!(std::time::Instant::now() < deadline, "the gate was never opened: {}", confirmed());
        status(&mut link, |_| true).await;
    }
    east.stop().await;
}
