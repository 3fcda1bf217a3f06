use std::time::Duration;

use jiff::Timestamp;
use levee_wire::{AgentKey, Error, JoinToken, join};

use crate::fleet::{DAY, Fleet, agent_id, site};

async fn attempt(token: &JoinToken, agent: &str, at: &str, key: &AgentKey) -> Result<(), String> {
    match join(token, &agent_id(agent), &site(at), key).await {
        Ok((identity, answer)) => {
            let peer = identity.facts().subject.to_string();
            assert_eq!(peer, format!("agent {agent} of site {at}"));
            assert_eq!(answer.issued.not_after, identity.facts().not_after);
            Ok(())
        }
        Err(error) => Err(levee_wire::chain(&error)),
    }
}

#[tokio::test]
async fn a_token_joins_one_agent_at_its_site() {
    let fleet = Fleet::new();
    let (serving, server) = fleet.serve(fleet.server(), None).await;
    let (token, record) = fleet.token(&serving.address, Timestamp::now() + DAY);
    *server.record.lock().unwrap() = Some(record);
    let token = JoinToken::parse(&token.to_text()).unwrap();
    let (key, other) = (AgentKey::generate().unwrap(), AgentKey::generate().unwrap());

    let refused = attempt(&token, "e1", "west", &key).await.unwrap_err();
    assert!(refused.contains("is for site east, not for site west"), "{refused}");
    attempt(&token, "e1", "east", &key).await.unwrap();
    // The answer may have been lost: the same agent asks again for the same key.
    attempt(&token, "e1", "east", &key).await.unwrap();
    let refused = attempt(&token, "e2", "east", &other).await.unwrap_err();
    assert!(refused.contains("was used already, by agent e1"), "{refused}");
}

#[tokio::test]
async fn an_expired_and_an_unknown_token_say_so() {
    let fleet = Fleet::new();
    let (serving, server) = fleet.serve(fleet.server(), None).await;
    let (token, record) = fleet.token(&serving.address, Timestamp::now() - Duration::from_secs(1));
    let key = AgentKey::generate().unwrap();
    let refused = attempt(&token, "e1", "east", &key).await.unwrap_err();
    assert!(refused.contains("unknown to this server"), "{refused}");
    *server.record.lock().unwrap() = Some(record);
    let refused = attempt(&token, "e1", "east", &key).await.unwrap_err();
    assert!(refused.contains("expired at"), "{refused}");
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_secret() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let (serving, server) = stranger.serve(stranger.server(), None).await;
    let (token, record) = fleet.token(&serving.address, Timestamp::now() + DAY);
    *server.record.lock().unwrap() = Some(record);
    let error = join(&token, &agent_id("e1"), &site("east"), &AgentKey::generate().unwrap()).await.unwrap_err();
    let expected = fleet.authority.fingerprint().to_string();
    assert!(matches!(&error, Error::WrongFingerprint { expected: named, .. } if *named == expected), "{error:?}");
    assert!(server.record.lock().unwrap().as_ref().unwrap().used.is_none());
}

#[tokio::test]
async fn a_second_server_address_is_tried() {
    let fleet = Fleet::new();
    let (serving, server) = fleet.serve(fleet.server(), None).await;
    let (mut token, record) = fleet.token(&serving.address, Timestamp::now() + DAY);
    *server.record.lock().unwrap() = Some(record);
    // Nothing listens on a port that was bound and given back.
    let (gone, address) = crate::fleet::listener().await;
    drop(gone);
    token.servers.insert(0, address.to_string());
    attempt(&token, "e1", "east", &AgentKey::generate().unwrap()).await.unwrap();
}
