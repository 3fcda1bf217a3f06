use std::os::unix::fs::MetadataExt;

use levee_agent::{AgentFolder, Error, join};

use crate::server::{Levee, Running, join_as, options};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_once_and_may_join_again_as_itself() {
    let (levee, other) = (Levee::new(), Levee::new());
    let (server, other_server) = (levee.serve("127.0.0.1:0").await, other.serve("127.0.0.1:0").await);
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let error = levee_agent::Agent::start(&options).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NotJoined { .. }), "{error:?}");

    let east = join_as("e1", "east");
    let membership = join(&options, &east, &levee.token(&server)).await.unwrap();
    assert_eq!((&membership.agent, Some(&membership.site)), (&east.agent, east.site.as_ref()));
    assert_eq!(membership.servers, [server.address.to_string()]);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o077, 0, "{:?}", file.path());
    }
    assert!(!folder.path().join("joining-key.pem").exists());

    let before = AgentFolder::new(folder.path()).read_credentials().unwrap().facts();
    join(&options, &east, &levee.token(&server)).await.unwrap();
    assert_ne!(AgentFolder::new(folder.path()).read_credentials().unwrap().facts().subject, before.subject);

    for stranger in [join_as("e2", "east"), join_as("e1", "west")] {
        let error = join(&options, &stranger, &levee.token(&server)).await.unwrap_err();
        assert!(matches!(error, Error::OtherAgent { .. }), "{error:?}");
    }
    let error = join(&options, &east, &other.token(&other_server)).await.unwrap_err();
    assert!(matches!(error, Error::OtherAuthority { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_join_leaves_no_agent_behind() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let token = levee.token(&server);
    join(&options(first.path()), &join_as("e1", "east"), &token).await.unwrap();
    let error = join(&options(second.path()), &join_as("e2", "east"), &token).await.unwrap_err();
    let text = levee_wire::chain(&error);
    assert!(text.contains("was used already, by agent e1"), "{text}");
    assert!(AgentFolder::new(second.path()).read_membership().unwrap().is_none());
    // With a new token it goes on with the same key.
    join(&options(second.path()), &join_as("e2", "east"), &levee.token(&server)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_agent_process() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    join(&options, &join_as("e1", "east"), &levee.token(&server)).await.unwrap();
    let running = Running::start(&options).await;
    let error = levee_agent::Agent::start(&options).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::FolderInUse { .. }), "{error:?}");
    running.stop().await;
    Running::start(&options).await.stop().await;
}
