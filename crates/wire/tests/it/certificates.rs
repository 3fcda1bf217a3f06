use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use jiff::Timestamp;
use levee_model::control::{Command, Desired};
use levee_wire::{AgentClient, AgentKey, CertificateAuthority, Credentials, Error, Exchange, FromServer, ServerClient};

use crate::fleet::{DAY, Fleet, TestAgent, agent_id};

async fn dial(from: &Credentials, agent: &str, address: std::net::SocketAddr) -> Result<AgentClient, Error> {
    AgentClient::connect(from, &agent_id(agent), &address.to_string()).await
}

#[tokio::test]
async fn only_agents_of_the_same_authority_speak_to_each_other() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let (west, _) = TestAgent::new().serve(fleet.agent("w1", "west")).await;
    let mut client = dial(&fleet.agent("e1", "east"), "w1", west.address).await.unwrap();
    assert_eq!(client.exchange(&Exchange::default()).await.unwrap(), Exchange::default());

    let error = dial(&stranger.agent("e1", "east"), "w1", west.address).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::WrongAuthority { .. }), "{error:?}");
    let error = dial(&fleet.agent("e1", "east"), "w2", west.address).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::OtherPeer { found, .. } if found == "agent w1 of site west"), "{error:?}");
    // The server's own certificate is no agent's.
    let error = dial(&fleet.server(), "w1", west.address).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Handshake { .. }), "{error:?}");
}

#[tokio::test]
async fn a_listener_refuses_a_foreign_authority_by_name() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let (west, _) = TestAgent::new().serve(fleet.agent("w1", "west")).await;
    // Trusts the fleet's authority, but shows a stranger's certificate.
    let foreign = stranger.agent("e1", "east");
    let key = AgentKey::generate().unwrap();
    let csr = key.signing_request(&agent_id("e1")).unwrap();
    let now = Timestamp::now();
    let issued = stranger.authority.issue_agent(&csr, &"east".parse().unwrap(), &agent_id("e1"), now).unwrap();
    let identity = levee_wire::Identity::new(issued.chain, &key).unwrap();
    let mixed = Credentials::new(fleet.authority.certificate().clone(), identity, foreign.grants().clone()).unwrap();
    let error = dial(&mixed, "w1", west.address).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::OwnAuthorityUnknown { .. }), "{error:?}");
}

#[tokio::test]
async fn a_revoked_agent_is_refused_at_its_next_call_and_at_its_next_connection() {
    let fleet = Fleet::new();
    let west_credentials = fleet.agent("w1", "west");
    let (west, _) = TestAgent::new().serve(west_credentials.clone()).await;
    let east = fleet.agent("e1", "east");
    let mut client = dial(&east, "w1", west.address).await.unwrap();
    client.exchange(&Exchange::default()).await.unwrap();

    assert!(west_credentials.revoke(&fleet.revocation(2, &["e1"])).unwrap());
    let error = client.exchange(&Exchange::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { message } if message.contains("revoked")), "{error:?}");
    let error = dial(&east, "w1", west.address).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::OwnCertificateRevoked), "{error:?}");

    // Neither an older list nor one that somebody else signed takes it back.
    assert!(!west_credentials.revoke(&fleet.revocation(1, &[])).unwrap());
    assert!(west_credentials.revoke(&Fleet::new().revocation(3, &[])).is_err());
    assert!(matches!(dial(&east, "w1", west.address).await.map(|_| ()), Err(Error::OwnCertificateRevoked)));

    // And the other way round: a revoked agent is not dialled.
    east.revoke(&fleet.revocation(2, &["w1"])).unwrap();
    assert!(matches!(dial(&east, "w1", west.address).await.map(|_| ()), Err(Error::Revoked { .. })));
}

#[tokio::test]
async fn certificates_of_another_time_name_the_clocks() {
    let fleet = Fleet::new();
    let now = Timestamp::now();
    let (west, _) = TestAgent::new().serve(fleet.agent("w1", "west")).await;
    let (future, _) = TestAgent::new().serve(fleet.agent_of("w2", "west", now + 3 * DAY)).await;
    let (past, _) = TestAgent::new().serve(fleet.agent_of("w3", "west", now - 100 * DAY)).await;
    let east = fleet.agent("e1", "east");

    let error = dial(&east, "w2", future.address).await.map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("differ by at least 1 d 23 h") || error.to_string().contains("2 d 0 h"),
        "{error}"
    );
    let error = dial(&east, "w3", past.address).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("10 d 0 h later"), "{error}");
    for issued_at in [now + 3 * DAY, now - 100 * DAY] {
        let error = dial(&fleet.agent_of("e1", "east", issued_at), "w1", west.address).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::OwnCertificateNotValidNow { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_while_connections_go_on() {
    let fleet = Fleet::new();
    let (serving, server) = fleet.serve(fleet.server(), None).await;
    let now = Timestamp::now();
    let east = fleet.agent_of("e1", "east", now - 31 * DAY);
    assert!(east.identity().is_due(now) && !east.identity().is_due(now - 2 * DAY));
    assert!(!fleet.agent("e1", "east").identity().is_due(now + 29 * DAY));

    let mut client = ServerClient::connect(&east, &serving.address.to_string()).await.unwrap();
    let mut link = client.open().await.unwrap();
    let (peer, agent_link) = server.next_link().await;
    let key = AgentKey::generate().unwrap();
    let identity = client.renew(&agent_id("e1"), &key).await.unwrap();
    let before = east.facts();
    east.renew(identity).unwrap();
    assert!(east.facts().not_after > before.not_after && east.facts().subject != before.subject);

    agent_link.outgoing.send(FromServer::Desired(Desired { revision: 7, ..Desired::default() })).await.unwrap();
    assert!(matches!(link.receive().await.unwrap(), FromServer::Desired(desired) if desired.revision == 7));
    // A new connection shows the new certificate.
    let mut again = ServerClient::connect(&east, &serving.address.to_string()).await.unwrap();
    let _link = again.open().await.unwrap();
    let (renewed, _) = server.next_link().await;
    assert_eq!((&renewed.agent, &renewed.site), (&peer.agent, &peer.site));
    assert_ne!(renewed.serial, peer.serial);
}

#[tokio::test]
async fn calls_other_than_join_need_a_certificate() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let (serving, _) = fleet.serve(fleet.server(), None).await;
    let error = ServerClient::connect(&stranger.agent("e1", "east"), &serving.address.to_string()).await;
    assert!(matches!(error.map(|_| ()), Err(Error::WrongAuthority { .. })));
    let mut client = ServerClient::connect(&fleet.agent("e1", "east"), &serving.address.to_string()).await.unwrap();
    client.open().await.unwrap();
}

#[tokio::test]
async fn a_link_ends_when_either_side_drops_it() {
    let fleet = Fleet::new();
    let (serving, server) = fleet.serve(fleet.server(), None).await;
    let mut client = ServerClient::connect(&fleet.agent("e1", "east"), &serving.address.to_string()).await.unwrap();
    let mut link = client.open().await.unwrap();
    let (_, agent_link) = server.next_link().await;
    let command: Command =
        serde_json::from_str(r#"{"id":"c1","run":"r1","app":"shop","epoch":1,"action":{"action":"choose_point"}}"#)
            .unwrap();
    agent_link.outgoing.send(FromServer::Command(command.clone())).await.unwrap();
    assert_eq!(link.receive().await.unwrap(), FromServer::Command(command));
    drop(agent_link);
    let ended = tokio::time::timeout(Duration::from_secs(20), link.receive()).await.unwrap();
    assert!(matches!(ended, Err(Error::Disconnected { .. })));

    let link = client.open().await.unwrap();
    let (_, mut agent_link) = server.next_link().await;
    drop(link);
    assert!(tokio::time::timeout(Duration::from_secs(20), agent_link.incoming.recv()).await.unwrap().is_none());
}

#[test]
fn an_authority_is_kept_in_private_files() {
    let fleet = Fleet::new();
    for file in ["ca-key.pem", "grant-key.pem", "ca.pem"] {
        let mode = std::fs::metadata(fleet.folder.path().join(file)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let again = CertificateAuthority::open_or_create(fleet.folder.path(), Timestamp::now()).unwrap();
    assert_eq!(again.fingerprint(), fleet.authority.fingerprint());
    let key = fleet.folder.path().join("ca-key.pem");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = CertificateAuthority::open(fleet.folder.path()).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}
