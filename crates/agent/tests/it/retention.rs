//! Copies go by when the recovery site has received them: what a writer says of itself counts nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_agent::{AgentFolder, join};
use levee_model::Epoch;
use levee_model::control::{Desired, Grant, Peer, Role};
use levee_testing::wait::wait_until;
use levee_vault::{Chunking, MasterKey, NodeMeta, Password, SnapshotId, SnapshotOptions, SnapshotWriter, Vault};
use levee_wire::server::AgentLink;
use levee_wire::{AgentClient, CreateVaultRequest};

use crate::fencing::{assignment_of, shop};
use crate::repositories::store;
use crate::server::{Levee, PATIENCE, desired, join_as, options, send, status};
use crate::working::{peer, started};

/// How long copies of the documents are kept.
const KEEP: Duration = Duration::from_secs(30);

/// Retention goes through the folders in the order of their names.
const PROTECTION: &str = r#"
[app.shop]
home = "east"
recovery = "west"
[app.shop.files.documents]
every = "2s"
keep = "30s"
at.east.path = "/srv/east/documents"
at.west.path = "/srv/west/documents"
[app.shop.files.pictures]
every = "2s"
keep = { last = 2 }
at.east.path = "/srv/east/pictures"
at.west.path = "/srv/west/pictures"
[app.shop.files.records]
every = "2s"
keep = { last = 1 }
at.east.path = "/srv/east/records"
at.west.path = "/srv/west/records"
"#;

const YEARS_AGO: Option<&str> = Some("2001-01-01T00:00:00Z");
const YEARS_AHEAD: Option<&str> = Some("2199-01-01T00:00:00Z");

/// Sends a copy of a folder that says it was taken at this time, or now.
fn send_copy(vault: &Vault, asset: &str, time: Option<&str>) -> SnapshotId {
    let options = SnapshotOptions {
        tags: vec![format!("levee-files:shop/{asset}"), "levee-epoch:1".into()],
        time: time.map(|time| time.parse().unwrap()),
        ..SnapshotOptions::default()
    };
    let mut writer = SnapshotWriter::begin(vault, options).unwrap();
    let meta = NodeMeta::new(0o644, Timestamp::UNIX_EPOCH);
    // Always the same, so that nothing looks like ransomware at work.
    writer.file(Path::new("folder/1.txt"), &meta, &mut &b"the first document"[..], Chunking::Content).unwrap();
    writer.finish().unwrap().snapshot_id.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_counts_by_when_it_was_received_whatever_time_it_claims() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let (east, west) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    join(&options(east.path()), &join_as("e1", "east"), &levee.token(&server)).await.unwrap();
    // Whoever has broken into the writer has these, and the key of the repository.
    let writer = AgentFolder::new(east.path()).read_credentials().unwrap();
    let (running, mut link) = started(&levee, &server, west.path(), "w1", "west").await;
    let at_west = peer(&running, "w1", "west");
    // Nobody listens at the writer; the recovery side need not dial it.
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let at_east = Peer { agent: "e1".parse().unwrap(), site: "east".parse().unwrap(), wire: nowhere, store: nowhere };
    let keeps = assignment_of(&levee, PROTECTION, &at_west, &at_east, Role::Recovery, 1);
    send(&link, Desired { assignments: vec![keeps], ..desired(1) }).await;
    status(&mut link, |status| !status.assets.is_empty()).await;

    let (master_key, password) = (MasterKey::generate().unwrap(), Password::new("of the writer"));
    let key_file = master_key.seal_key_file(&password, "e1", "levee-writer").unwrap();
    let grant = Grant {
        app: shop(),
        agent: at_east.agent.clone(),
        site: at_east.site.clone(),
        role: Role::Writer,
        epoch: Epoch(1),
        issued_at: Timestamp::now(),
    };
    let request = CreateVaultRequest {
        app: shop(),
        grant: levee.grant(&grant),
        master_key: master_key.to_json(),
        key_file_id: key_file.id.clone(),
        key_file: key_file.content.clone(),
    };
    let wire = running.addresses.wire.to_string();
    AgentClient::connect(&writer, &at_west.agent, &wire).await.unwrap().create_vault(request).await.unwrap();

    // What west says meanwhile is not looked at, and must not wait for it either.
    let AgentLink { mut incoming, outgoing: _outgoing } = link;
    tokio::spawn(async move { while incoming.recv().await.is_some() {} });
    let (at, snapshots) = (running.addresses.store, west.path().join("apps/shop/repository/snapshots"));
    let story = move || {
        let vault = Vault::open(Arc::new(store(&writer, at)), &password).unwrap();
        let is_kept = |copy: &SnapshotId| snapshots.join(copy.to_string()).exists();
        // The first copy of each stays longest: those that come are held against it.
        let documents = [None, YEARS_AGO, YEARS_AHEAD, None].map(|time| send_copy(&vault, "documents", time));
        let received = Instant::now();
        let pictures = [None, YEARS_AHEAD, None, None].map(|time| send_copy(&vault, "pictures", time));
        // The second of these goes when retention has come to know of them all, and has looked at the others before.
        let records = [None, None, None].map(|time| send_copy(&vault, "records", time));
        wait_until("a turn of retention", PATIENCE, || !is_kept(&records[1]));
        for copy in &documents {
            assert!(is_kept(copy), "{copy} of {documents:?} has gone for its time");
        }
        // Of these the newest two, as they came.
        for copy in &pictures[2..] {
            assert!(is_kept(copy), "{copy} of {pictures:?} was pushed out by one from years ahead");
        }

        // When they have become old here, and something newer came, they go like all others.
        wait_until("the time of keeping to be over", KEEP + PATIENCE, || received.elapsed() > KEEP);
        let newest = send_copy(&vault, "documents", None);
        let [_, years_ago, _, honest] = &documents;
        wait_until("what has become old to go", PATIENCE, || !is_kept(years_ago) && !is_kept(honest));
        assert!(is_kept(&newest), "the newest, {newest}, has gone");
    };
    tokio::task::spawn_blocking(story).await.unwrap();
    running.stop().await;
}
