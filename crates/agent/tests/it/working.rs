use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use levee_agent::{AgentFolder, join};
use levee_model::Epoch;
use levee_model::control::{Action, Command, Desired, Done, EntryRecord, Peer};
use levee_wire::server::AgentLink;
use levee_wire::{FromServer, Subject};

use crate::server::{DAY, Levee, Running, Server, answer, desired, join_as, options, send, status};

pub async fn started(
    levee: &Arc<Levee>,
    server: &Server,
    folder: &Path,
    agent: &str,
    site: &str,
) -> (Running, AgentLink) {
    let options = options(folder);
    join(&options, &join_as(agent, site), &levee.token(server)).await.unwrap();
    let running = Running::start(&options).await;
    let (peer, link) = levee.next_link().await;
    assert_eq!((peer.agent.as_str(), peer.site.as_str()), (agent, site));
    (running, link)
}

fn record(epoch: u64, site: &str, last: u8) -> EntryRecord {
    EntryRecord {
        app: "shop".parse().unwrap(),
        name: "shop.test.".into(),
        ttl_s: 1,
        epoch: Epoch(epoch),
        site: site.parse().unwrap(),
        version: 0,
        address: Some([127, 0, 0, last].into()),
        signature: String::new(),
    }
}

pub fn peer(running: &Running, agent: &str, site: &str) -> Peer {
    let (wire, store) = (running.addresses.wire, running.addresses.store);
    Peer { agent: agent.parse().unwrap(), site: site.parse().unwrap(), wire, store }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_is_kept_and_outlives_server_and_agent() {
    let (levee, folder) = (Levee::new(), tempfile::tempdir().unwrap());
    let server = levee.serve("127.0.0.1:0").await;
    let (running, mut link) = started(&levee, &server, folder.path(), "e1", "east").await;
    let first = status(&mut link, |_| true).await;
    assert_eq!((first.revision, first.wire, first.dns), (0, running.addresses.wire, running.addresses.dns));

    send(&link, Desired { entries: vec![record(1, "west", 3)], ..desired(5) }).await;
    let after = status(&mut link, |status| status.revision == 5).await;
    assert_eq!(after.entries.into_iter().collect::<Vec<_>>(), [("shop.test.".to_string(), Epoch(1))]);
    // An older revision changes nothing.
    send(&link, Desired { entries: vec![record(2, "east", 2)], ..desired(4) }).await;
    send(&link, Desired { entries: vec![record(1, "west", 3)], ..desired(6) }).await;
    let after = status(&mut link, |status| status.revision >= 4 && status.revision != 5).await;
    assert_eq!((after.revision, after.entries.get("shop.test.")), (6, Some(&Epoch(1))));

    // The server is killed. The agent starts again without it, and works by what it was told.
    let address = server.address.to_string();
    drop(link);
    server.stop().await;
    running.stop().await;
    let running = Running::start(&options(folder.path())).await;
    let server = levee.serve(&address).await;
    let (_, mut link) = levee.next_link().await;
    let again = status(&mut link, |_| true).await;
    assert_eq!((again.revision, again.entries.get("shop.test.")), (6, Some(&Epoch(1))));

    // And it finds a server that comes back while it runs.
    drop(link);
    server.stop().await;
    let _server = levee.serve(&address).await;
    let (_, mut link) = levee.next_link().await;
    assert_eq!(status(&mut link, |_| true).await.revision, 6);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_carried_out_once_and_answered_each_time() {
    let (levee, folder) = (Levee::new(), tempfile::tempdir().unwrap());
    let server = levee.serve("127.0.0.1:0").await;
    let (running, mut link) = started(&levee, &server, folder.path(), "e1", "east").await;
    let command = |id: &str, record: EntryRecord| Command {
        id: id.into(),
        run: "run-1".parse().unwrap(),
        app: "shop".parse().unwrap(),
        epoch: record.epoch,
        revision: 0,
        action: Action::SwitchEntry { record },
    };
    link.outgoing.send(FromServer::Command(command("c1", record(2, "west", 3)))).await.unwrap();
    let first = answer(&mut link, "c1").await;
    assert_eq!(first.result, Ok(Done::Nothing));
    status(&mut link, |status| status.entries.get("shop.test.") == Some(&Epoch(2))).await;

    // The same id again is answered from memory, whatever it says, also by the next process.
    link.outgoing.send(FromServer::Command(command("c1", record(9, "east", 2)))).await.unwrap();
    assert_eq!(answer(&mut link, "c1").await, first);
    drop(link);
    running.stop().await;
    let running = Running::start(&options(folder.path())).await;
    let (_, mut link) = levee.next_link().await;
    link.outgoing.send(FromServer::Command(command("c1", record(9, "east", 2)))).await.unwrap();
    assert_eq!(answer(&mut link, "c1").await, first);
    assert_eq!(status(&mut link, |_| true).await.entries.get("shop.test."), Some(&Epoch(2)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_tell_each_other_what_the_server_told_one_of_them() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let (east_folder, west_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, mut east_link) = started(&levee, &server, east_folder.path(), "e1", "east").await;
    let (west, mut west_link) = started(&levee, &server, west_folder.path(), "w1", "west").await;
    let peers = vec![peer(&east, "e1", "east"), peer(&west, "w1", "west")];
    send(&east_link, Desired { peers: peers.clone(), ..desired(1) }).await;
    send(&west_link, Desired { peers: peers.clone(), ..desired(1) }).await;
    status(&mut east_link, |status| status.revision == 1).await;
    status(&mut west_link, |status| status.revision == 1).await;

    let revocations = Some(levee.revocation(1, &["gone"]));
    // What this server has not signed is answered by the agent that was told, and believed by no other.
    let unsigned = EntryRecord { name: "bank.test.".into(), ..record(9, "west", 66) };
    let entries = vec![unsigned, levee.entry(record(3, "west", 3))];
    send(&west_link, Desired { peers, entries, revocations, ..desired(2) }).await;
    let taken = status(&mut east_link, |status| status.entries.get("shop.test.") == Some(&Epoch(3))).await;
    assert_eq!(taken.entries.len(), 1, "{:?}", taken.entries);
    let kept = east_folder.path().join("revocations.json");
    while !kept.exists() {
        status(&mut east_link, |_| true).await;
    }
    let credentials = AgentFolder::new(east_folder.path()).read_credentials().unwrap();
    assert_eq!(credentials.revocations().version(), 1);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_due_is_renewed_by_itself() {
    let (levee, folder) = (Levee::new(), tempfile::tempdir().unwrap());
    *levee.issued_ago.lock().unwrap() = 40 * DAY;
    let server = levee.serve("127.0.0.1:0").await;
    let (running, mut link) = started(&levee, &server, folder.path(), "e1", "east").await;
    let facts = || AgentFolder::new(folder.path()).read_credentials().unwrap().facts();
    while facts().not_after < Timestamp::now() + 89 * DAY {
        status(&mut link, |_| true).await;
    }
    let Subject::Agent(renewed) = facts().subject else { panic!() };
    running.stop().await;
    drop(link);
    let running = Running::start(&options(folder.path())).await;
    let (peer, _link) = levee.next_link().await;
    assert_eq!(peer, renewed);
    running.stop().await;
}
