//! A site that has heard of a higher epoch starts nothing any more, whoever asks.

use std::fs;

use jiff::Timestamp;
use levee_agent::{AgentFolder, start_database};
use levee_model::control::{Action, Assignment, Command, Desired, Grant, Peer, Phase, Place, Role};
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

fn shop() -> AppName {
    "shop".parse().unwrap()
}

fn assignment(levee: &Levee, own: &Peer, other: &Peer, role: Role, epoch: u64) -> Assignment {
    let spec: AppSpec = ProtectionFile::parse(SHOP).unwrap().app.remove(&shop()).unwrap();
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
    let is_written = |status: &levee_model::control::AgentStatus| {
        status.known.get(&shop()).is_some_and(|known| known.phase == Phase::Writer)
    };
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
        action: Action::Start { asset: "orders".parse().unwrap(), place: Place::Live },
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
