//! A writer's repository at the recovering agent, through the real link.

use std::sync::Arc;

use levee_agent::{AgentFolder, join};
use levee_model::Epoch;
use levee_model::control::{Assignment, Desired, Grant, Peer, Role};
use levee_model::protection::ProtectionFile;
use levee_store::{FileType, RestOptions, RestStore, Store};
use levee_vault::{MasterKey, Password, Vault};
use levee_wire::{AgentClient, CreateVaultRequest, Credentials, Error, Expected, Protocol, agent_host_name};

use crate::server::{Levee, Running, desired, join_as, options, send, status};

const PROTECTION: &str = r#"
[app.shop]
home = "east"
recovery = "west"
[app.shop.files.documents]
every = "1h"
at.east.path = "/srv/east/documents"
at.west.path = "/srv/west/documents"
"#;

/// The repository of the shop at west, as the agent of these credentials reaches it.
pub fn store(from: &Credentials, at: std::net::SocketAddr) -> RestStore {
    let west = "w1".parse().unwrap();
    let (host, tls) = (agent_host_name(&west), from.client_config(Expected::Agent(west), Protocol::Http1).unwrap());
    let base_url = format!("https://{host}:{}/shop/", at.port());
    RestStore::new(RestOptions { base_url, tls: Some(Arc::new(tls)), resolve: Some((host, at)) }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_makes_its_repository_and_can_only_add_to_it() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let (east, other, west) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (folder, agent, site) in [(&east, "e1", "east"), (&other, "e2", "east"), (&west, "w1", "west")] {
        join(&options(folder.path()), &join_as(agent, site), &levee.token(&server)).await.unwrap();
    }
    let writer = AgentFolder::new(east.path()).read_credentials().unwrap();
    let stranger = AgentFolder::new(other.path()).read_credentials().unwrap();
    let running = Running::start(&options(west.path())).await;
    let (_, mut link) = levee.next_link().await;

    let spec = ProtectionFile::parse(PROTECTION).unwrap().app.into_values().next().unwrap();
    let grant = |agent: &str, site: &str, role: Role| {
        levee.grant(&Grant {
            app: "shop".parse().unwrap(),
            agent: agent.parse().unwrap(),
            site: site.parse().unwrap(),
            role,
            epoch: Epoch(1),
            issued_at: jiff::Timestamp::now(),
        })
    };
    // Nobody listens at the writer; the recovery side need not dial it.
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let peer = Peer { agent: "e1".parse().unwrap(), site: "east".parse().unwrap(), wire: nowhere, store: nowhere };
    let assignment = Assignment {
        app: "shop".parse().unwrap(),
        spec,
        epoch: Epoch(1),
        site: "west".parse().unwrap(),
        role: Role::Recovery,
        acknowledged: Default::default(),
        vaults: Default::default(),
        peer: Some(peer),
        grant: grant("w1", "west", Role::Recovery),
    };
    send(&link, Desired { assignments: vec![assignment], ..desired(1) }).await;
    status(&mut link, |status| !status.assets.is_empty()).await;

    let (master_key, password) = (MasterKey::generate().unwrap(), Password::new("of the writer"));
    let key_file = master_key.seal_key_file(&password, "e1", "levee-writer").unwrap();
    let request = |agent: &str| CreateVaultRequest {
        app: "shop".parse().unwrap(),
        grant: grant(agent, "east", Role::Writer),
        master_key: master_key.to_json(),
        key_file_id: key_file.id.clone(),
        key_file: key_file.content.clone(),
    };
    let (wire, at) = (running.addresses.wire.to_string(), running.addresses.store);
    let west_id = "w1".parse().unwrap();
    let refused = AgentClient::connect(&stranger, &west_id, &wire).await.unwrap().create_vault(request("e2")).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    // With the grant of another it goes no better.
    let refused = AgentClient::connect(&stranger, &west_id, &wire).await.unwrap().create_vault(request("e1")).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    AgentClient::connect(&writer, &west_id, &wire).await.unwrap().create_vault(request("e1")).await.unwrap();

    tokio::task::spawn_blocking(move || {
        let vault = Vault::open(Arc::new(store(&writer, at)), &password).unwrap();
        assert_eq!(vault.snapshots().unwrap(), []);
        let store_of_writer = store(&writer, at);
        let keys = store_of_writer.list(FileType::Key).unwrap();
        assert!(keys.iter().any(|key| key.name == key_file.id) && keys.len() > 1, "{keys:?}");
        assert!(store_of_writer.remove(FileType::Key, &key_file.id).is_err());
        assert!(store_of_writer.remove(FileType::Config, "").is_err());
        assert!(store(&stranger, at).read(FileType::Config, "").is_err());
    })
    .await
    .unwrap();
    running.stop().await;
}
