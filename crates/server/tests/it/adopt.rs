use levee_model::Epoch;
use levee_model::control::{KnownApp, Phase, Role};

use crate::agent::Agent;
use crate::fixture::{TestServer, eventually, options, shop};
use crate::protect::two_sites;

fn holds(agent: &Agent, epoch: u64, phase: Phase) {
    let known = KnownApp { epoch: Epoch(epoch), phase, heard: None, set_aside: vec!["/srv/old".into()] };
    agent.memory.lock().unwrap().known.insert("shop".parse().unwrap(), known);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_takes_over_what_its_agents_know_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (control, caller) = (&server.control, &server.caller);
    let (east, west) = two_sites(&server).await;
    control.apply(caller, shop(), false).await.unwrap();
    assert!(control.adopt_epochs(caller, false).await.unwrap().apps.is_empty(), "nobody knows anything newer");
    // The backup was made at epoch 1 in the east; since then the app has moved west and a run to the east has begun.
    holds(&east, 2, Phase::Recovery);
    holds(&west, 3, Phase::Sealed);
    let east_session = east.run();
    eventually("the server hears of epoch 2", || async {
        let problems = control.app_status(&"shop".parse().unwrap()).await.unwrap().problems;
        problems.iter().any(|problem| problem.contains("know epoch 2") && problem.contains("adopt-epochs"))
    })
    .await;
    let refused = control.adopt_epochs(caller, false).await.unwrap().apps.remove(0);
    assert!(refused.writer.is_none() && refused.refused.unwrap().contains("west-1 at west is not connected"));
    let west_session = west.run();
    let knows = |epoch: u64| async move {
        let report = control.adopt_epochs(caller, true).await.unwrap();
        report.apps.first().is_some_and(|adoption| adoption.epoch == Epoch(epoch))
    };
    eventually("the server hears of epoch 3", || knows(3)).await;
    let refused = control.adopt_epochs(caller, false).await.unwrap().apps.remove(0);
    assert!(refused.refused.unwrap().contains("no agent writes shop at epoch 3"));
    assert_eq!(control.app(&"shop".parse().unwrap()).await.unwrap().epoch, Epoch(1), "nothing has changed");

    holds(&west, 3, Phase::Writer);
    eventually("west is known to write", || async {
        let report = control.adopt_epochs(caller, true).await.unwrap();
        report.apps[0].writer.is_some()
    })
    .await;
    let error = control.adopt_epochs(&server.reader(), false).await.unwrap_err();
    assert_eq!(error.code(), "read_only_token");
    let adopted = control.adopt_epochs(caller, false).await.unwrap().apps.remove(0);
    assert_eq!(
        (adopted.epoch, adopted.writer.unwrap().as_str(), adopted.writer_before.as_str()),
        (Epoch(3), "west", "east")
    );
    eventually("the agents are told again what they know", || async {
        west.has_grants("shop", Role::Writer, 3) && east.has_grants("shop", Role::Recovery, 3)
    })
    .await;
    let status = control.app_status(&"shop".parse().unwrap()).await.unwrap();
    assert_eq!(status.adopted.unwrap().epoch_before, Epoch(1));
    assert_eq!((status.writer.as_str(), status.set_aside.len()), ("west", 2));
    assert!(!status.problems.iter().any(|problem| problem.contains("adopt-epochs")), "{:?}", status.problems);
    assert_eq!(status.entries[0].record.site.as_str(), "west");
    assert!(control.adopt_epochs(caller, false).await.unwrap().apps.is_empty());
    drop((east_session, west_session));
    server.stop().await;
}
