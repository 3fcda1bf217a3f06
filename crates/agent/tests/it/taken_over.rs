//! A command is carried out by what its run was planned from, and not by what was wanted before.

use std::fs;

use levee_model::Epoch;
use levee_model::control::{Action, AgentStatus, Command, Desired, Done, Failure, Peer, Role};
use levee_wire::FromServer;
use levee_wire::server::AgentLink;

use crate::fencing::{assignment_of, shop};
use crate::server::{Levee, answer, desired, send, status};
use crate::working::{peer, started};

/// A shop of these folders, none of which is there.
fn folders(names: &[&str]) -> String {
    let folder = |name: &&str| {
        format!(
            "[app.shop.files.{name}]\nevery = \"60s\"\nat.east.path = \"/nowhere/east/{name}\"\n\
             at.west.path = \"/nowhere/west/{name}\"\n"
        )
    };
    let folders: String = names.iter().map(folder).collect();
    format!("[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n{folders}")
}

/// Has something begun that is done at once, by a run at epoch 1 that rests on this revision.
async fn begin(link: &AgentLink, id: &str, revision: u64) {
    let (run, action) = ("run-1".parse().unwrap(), Action::CleanUp);
    let command = Command { id: id.into(), run, app: shop(), epoch: Epoch(1), revision, action };
    link.outgoing.send(FromServer::Command(command)).await.unwrap();
}

/// The same, with its answer: each is one of the few attempts that a step has.
async fn ask(link: &mut AgentLink, id: &str, revision: u64) -> Result<Done, Failure> {
    begin(link, id, revision).await;
    answer(link, id).await.result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_what_it_rests_on_and_for_nothing_else() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let folder = tempfile::tempdir().unwrap();
    let (east, mut link) = started(&levee, &server, folder.path(), "e1", "east").await;
    let at_east = peer(&east, "e1", "east");
    let nobody = Peer { agent: "w1".parse().unwrap(), site: "west".parse().unwrap(), ..at_east.clone() };
    let wanted = |revision: u64, epoch: u64, assets: &[&str]| Desired {
        assignments: vec![assignment_of(&levee, &folders(assets), &at_east, &nobody, Role::Writer, epoch)],
        ..desired(revision)
    };
    // The app itself may not be open yet.
    send(&link, wanted(3, 1, &["documents"])).await;
    assert_eq!(ask(&mut link, "c1", 3).await, Ok(Done::Nothing));

    // What is newer here came beside the run, and a server of before says nothing of it: neither waits, not even for another.
    begin(&link, "c2", 5).await;
    assert_eq!(ask(&mut link, "c3", 2).await, Ok(Done::Nothing));
    assert_eq!(ask(&mut link, "c4", 0).await, Ok(Done::Nothing));
    send(&link, wanted(6, 1, &["documents", "music"])).await;
    assert_eq!(answer(&mut link, "c2").await.result, Ok(Done::Nothing));
    let state = fs::read_to_string(folder.path().join("apps/shop/state.json")).unwrap();
    assert!(state.contains("music"), "{state}");

    // Where a higher epoch comes with what it waits for, its run is over.
    begin(&link, "c5", 8).await;
    send(&link, wanted(8, 2, &["documents", "music"])).await;
    let refused = answer(&mut link, "c5").await.result.unwrap_err();
    assert!(!refused.transient && refused.message.contains("east knows epoch 2: make a new plan"), "{refused:?}");
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_kept_is_not_taken_over_until_it_can_be() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let folder = tempfile::tempdir().unwrap();
    let (east, mut link) = started(&levee, &server, folder.path(), "e1", "east").await;
    let at_east = peer(&east, "e1", "east");
    let nobody = Peer { agent: "w1".parse().unwrap(), site: "west".parse().unwrap(), ..at_east.clone() };
    let wanted = |revision: u64, assets: &[&str]| Desired {
        assignments: vec![assignment_of(&levee, &folders(assets), &at_east, &nobody, Role::Writer, 1)],
        ..desired(revision)
    };
    send(&link, wanted(3, &["documents"])).await;
    assert_eq!(ask(&mut link, "c1", 3).await, Ok(Done::Nothing));

    // No file takes the place of a folder.
    let state = folder.path().join("apps/shop/state.json");
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    send(&link, wanted(4, &["documents", "music"])).await;
    let is_said = |status: &AgentStatus| {
        status.assets.iter().any(|asset| asset.problem.as_ref().is_some_and(|said| said.contains("state.json")))
    };
    status(&mut link, is_said).await;
    let refused = ask(&mut link, "c2", 4).await.unwrap_err();
    let words = "rests on revision 4 of what is wanted of app shop, and east, which works by revision 3";
    assert!(refused.transient && refused.message.contains(words), "{refused:?}");

    // Put right, it is taken over with no further word of the server.
    fs::remove_dir(&state).unwrap();
    assert_eq!(ask(&mut link, "c2", 4).await, Ok(Done::Nothing));
    assert!(fs::read_to_string(&state).unwrap().contains("music"));
    east.stop().await;
}
