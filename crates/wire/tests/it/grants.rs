use levee_model::control::{Role, Signed};
use levee_model::{AppName, Epoch};
use levee_wire::{CreateVaultRequest, Error, PeerIdentity};

use crate::fleet::{Fleet, TestAgent, agent_id, site};

#[test]
fn a_grant_is_good_for_its_agent_role_app_and_epoch() {
    let fleet = Fleet::new();
    let key = fleet.authority.signer().public_key();
    let check = |signed: &Signed, agent: &str, at: &str, app: &str, role: Role, known: u64| {
        let peer = PeerIdentity { site: site(at), agent: agent_id(agent), serial: "01".into() };
        let app: AppName = app.parse().unwrap();
        key.authorize(signed, &peer, &app, role, Epoch(known)).map(|grant| grant.epoch)
    };
    let grant = fleet.grant("e1", "east", Role::Writer, 3);
    assert_eq!(check(&grant, "e1", "east", "shop", Role::Writer, 3).unwrap(), Epoch(3));
    assert_eq!(check(&grant, "e1", "east", "shop", Role::Writer, 2).unwrap(), Epoch(3));
    let stale = check(&grant, "e1", "east", "shop", Role::Writer, 4);
    assert!(matches!(stale, Err(Error::StaleGrant { known: Epoch(4), .. })), "{stale:?}");
    for (agent, at, app, role) in [
        ("e2", "east", "shop", Role::Writer),
        ("e1", "west", "shop", Role::Writer),
        ("e1", "east", "bank", Role::Writer),
        ("e1", "east", "shop", Role::Recovery),
    ] {
        let refused = check(&grant, agent, at, app, role, 3);
        assert!(matches!(refused, Err(Error::NotGranted { .. })), "{agent} {at} {app} {role:?}: {refused:?}");
    }
}

#[test]
fn words_that_were_changed_or_signed_by_others_are_refused() {
    let fleet = Fleet::new();
    let key = fleet.authority.signer().public_key();
    let grant = fleet.grant("e1", "east", Role::Writer, 3);
    let changed = Signed { body: grant.body.replace("\"epoch\":3", "\"epoch\":4"), ..grant.clone() };
    assert_ne!(changed, grant);
    let swapped = Signed { body: grant.body.clone(), signature: fleet.revocation(1, &[]).signature };
    let empty = Signed { body: grant.body.clone(), signature: String::new() };
    for bad in [changed, swapped, empty, Fleet::new().grant("e1", "east", Role::Writer, 3)] {
        assert!(matches!(key.verify_grant(&bad), Err(Error::BadSignature { .. })), "{bad:?}");
    }
    // One kind of word can't be shown as the other.
    assert!(matches!(key.verify_revocations(&grant), Err(Error::BadSignature { .. })));
    assert!(matches!(key.verify_grant(&fleet.revocation(1, &[])), Err(Error::BadSignature { .. })));
}

#[tokio::test]
async fn a_vaults_key_goes_from_agent_to_agent_and_shows_nowhere() {
    let fleet = Fleet::new();
    let (west, agent) = TestAgent::new().serve(fleet.agent("w1", "west")).await;
    let east = fleet.agent("e1", "east");
    let mut client = levee_wire::AgentClient::connect(&east, &agent_id("w1"), &west.address.to_string()).await.unwrap();
    let grant = fleet.grant("e1", "east", Role::Writer, 1);
    let request = || CreateVaultRequest {
        app: "shop".parse().unwrap(),
        grant: grant.clone(),
        master_key: String::from("{\"mac\":\"hush\"}").into(),
        key_file_id: "ab".repeat(32),
        key_file: b"{}".to_vec(),
    };
    assert!(!format!("{:?}", request()).contains("hush"));
    client.create_vault(request()).await.unwrap();
    {
        let vaults = agent.vaults.lock().unwrap();
        let (peer, taken) = &vaults[0];
        assert_eq!((peer.agent.as_str(), peer.site.as_str()), ("e1", "east"));
        assert_eq!((taken.master_key.as_str(), &taken.grant), ("{\"mac\":\"hush\"}", &grant));
    }
    let error = client.create_vault(request()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { message } if message == "there is a repository already"), "{error:?}");
}
