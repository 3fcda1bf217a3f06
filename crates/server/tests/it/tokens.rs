use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use levee_api::TokenAccess;
use levee_server::{BackupKey, Server};

use crate::agent::Agent;
use crate::fixture::{TestServer, options, shop};
use crate::protect::two_sites;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_opens_the_server_and_tokens_are_kept_as_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let file = folder.path().join("server/admin-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let first = std::fs::read_to_string(&file).unwrap();
    let control = &server.control;
    let admin = control.authenticate(Some(first.trim())).await.unwrap();
    assert_eq!((admin.name.as_str(), admin.access), ("admin", TokenAccess::Admin));
    for bad in [None, Some(""), Some("levee-api-"), Some(&first[..first.len() - 3]), Some("levee-api-%-00")] {
        let error = control.authenticate(bad).await.unwrap_err();
        assert!(["no_token", "bad_token"].contains(&error.code()), "{error}");
    }
    let id = control.tokens().await.unwrap()[0].id.clone();
    assert_eq!(control.token_revoke(&admin, &id).await.unwrap_err().code(), "last_admin_token");

    let (view, text) = control.token_create(&admin, "watcher".into(), TokenAccess::Read, None).await.unwrap();
    let watcher = control.authenticate(Some(&text)).await.unwrap();
    assert_eq!(control.apply(&watcher, shop(), true).await.unwrap_err().code(), "read_only_token");
    control.token_revoke(&admin, &view.id).await.unwrap();
    assert_eq!(control.authenticate(Some(&text)).await.unwrap_err().code(), "bad_token");
    let past = Timestamp::now().checked_sub(SignedDuration::from_secs(1)).unwrap();
    let error = control.token_create(&admin, "late".into(), TokenAccess::Read, Some(past)).await.unwrap_err();
    assert_eq!(error.code(), "bad_expiry");
    let (_, second) = control.token_create(&admin, "second".into(), TokenAccess::Admin, None).await.unwrap();
    control.token_revoke(&admin, &id).await.unwrap();
    assert!(control.authenticate(Some(&second)).await.is_ok());
    server.stop().await;

    let state = std::fs::read(folder.path().join("server/state.db")).unwrap();
    for text in [first.trim(), second.as_str()] {
        let secret = text.rsplit('-').next().unwrap().as_bytes();
        assert!(!state.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_works_once_and_a_revoked_agent_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let token = server.join_token("east").await;
    let refused = async |token: &str, agent: &str, site: &str, expected: &str| {
        let Err(error) = Agent::join(token, agent, site).await else { panic!("{agent} could join") };
        assert!(levee_wire::chain(&error).contains(expected), "{error:?}");
    };
    refused(&token, "east-1", "west", "for site east").await;
    let east = Agent::join(&token, "east-1", "east").await.unwrap();
    refused(&token, "east-2", "east", "used already").await;
    refused(&server.join_token("west").await, "east-1", "west", "is one of site east already").await;
    let cancelled = server.join_token("east").await;
    let id = server.control.join_tokens().await.unwrap().into_iter().find(|view| view.used_by.is_none()).unwrap().id;
    for view in server.control.join_tokens().await.unwrap() {
        if view.used_by.is_none() {
            server.control.join_token_revoke(&server.caller, &view.id).await.unwrap();
        }
    }
    refused(&cancelled, "east-2", "east", "unknown to this server").await;
    assert_eq!(server.control.join_token_revoke(&server.caller, &id).await.unwrap_err().code(), "unknown_token");

    server.control.agent_revoke(&server.caller, &east.id).await.unwrap();
    assert!(east.session().await.is_err());
    refused(&server.join_token("east").await, "east-1", "east", "was revoked").await;
    // Another agent of the site takes its place.
    let token = server.join_token("west").await;
    Agent::join(&token, "west-1", "west").await.unwrap();
    Agent::join(&server.join_token("east").await, "east-2", "east").await.unwrap();
    server.control.apply(&server.caller, shop(), false).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_restores_with_stock_tools_and_agents_follow_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (_, west) = two_sites(&server).await;
    server.control.apply(&server.caller, shop(), false).await.unwrap();
    let key = folder.path().join("key");
    assert!(Command::new("age-keygen").arg("-o").arg(&key).status().unwrap().success());
    let recipient = Command::new("age-keygen").arg("-y").arg(&key).output().unwrap();
    let recipient = String::from_utf8(recipient.stdout).unwrap();
    let sealed = server.control.backup(&server.caller, BackupKey::Recipient(recipient)).await.unwrap();
    let wrong = server.control.backup(&server.caller, BackupKey::Recipient("nonsense".into())).await.unwrap_err();
    assert_eq!(wrong.code(), "backup");
    // The server goes on after the backup.
    let (revision, wire) =
        (server.control.app(&"shop".parse().unwrap()).await.unwrap().revision, server.listening.wire);
    server.stop().await;

    let file = folder.path().join("backup.age");
    std::fs::write(&file, sealed).unwrap();
    let restored = folder.path().join("restored/server");
    std::fs::create_dir_all(&restored).unwrap();
    let script = format!("age -d -i {} {} | tar -x -C {}", key.display(), file.display(), restored.display());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    assert_eq!(std::fs::metadata(restored.join("ca/ca-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let mut again = options(&folder.path().join("restored"));
    again.wire_listen = wire;
    let server = TestServer::start(again).await;
    let app = server.control.app(&"shop".parse().unwrap()).await.unwrap();
    assert!(app.revision > revision + 1000, "agents take only what is newer: {}", app.revision);
    let _session = west.run();
    crate::fixture::eventually("the agent works by the restored server", || async {
        west.memory.lock().unwrap().desired.revision > revision + 1000
    })
    .await;
    server.stop().await;
    assert!(Server::start(options(&folder.path().join("restored"))).await.is_ok());
}
