use std::sync::Arc;

use levee_store::{FileType, LocalStore};
use levee_vault::{Error, MasterKey, Password, SnapshotSelection, Vault};

use crate::support::*;

#[test]
fn each_way_of_not_opening_has_its_own_error() {
    let scratch = Scratch::new();
    assert!(matches!(Vault::open(scratch.store(), &password()), Err(Error::NoRepository { .. })));
    let vault = scratch.init();
    assert!(matches!(Vault::init(scratch.store(), &password()), Err(Error::AlreadyInitialized { .. })));
    let wrong = Vault::open(scratch.store(), &Password::new("wrong"));
    assert!(matches!(wrong, Err(Error::WrongPassword { key_files: 1, .. })));
    let foreign = Vault::open_with_master_key(scratch.store(), MasterKey::generate().unwrap());
    assert!(matches!(foreign, Err(Error::Damaged { file, .. }) if file == "config"));
    assert_eq!(scratch.open().id(), vault.id());
    assert_eq!(format!("{vault:?}"), format!("Vault({})", vault.location()));

    let config = scratch.path("repository/config");
    let mut content = std::fs::read(&config).unwrap();
    content[20] ^= 1;
    rewrite(&config, &content);
    assert!(matches!(Vault::open(scratch.store(), &password()), Err(Error::Damaged { file, .. }) if file == "config"));
}

fn rewrite(path: &std::path::Path, content: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, content).unwrap();
}

#[test]
fn the_owner_opens_with_his_own_key_and_restic_with_either() {
    let scratch = Scratch::new();
    let master_key = MasterKey::generate().unwrap();
    let passed_on = MasterKey::from_json(&master_key.to_json()).unwrap();
    let keys = [
        master_key.seal_key_file(&Password::new("of the writer"), "east", "levee").unwrap(),
        passed_on.seal_key_file(&password(), "west", "levee").unwrap(),
    ];
    let vault = Vault::init_with_keys(scratch.store(), &passed_on, &keys).unwrap();
    let by_key = Vault::open_with_master_key(scratch.store(), master_key).unwrap();
    assert_eq!(by_key.id(), vault.id());
    assert!(Vault::open(scratch.store(), &Password::new("of the writer")).is_ok());
    let hosts: Vec<_> = vault.keys().unwrap().into_iter().map(|key| key.hostname).collect();
    assert!(hosts.contains(&"east".into()) && hosts.contains(&"west".into()), "{hosts:?}");
    assert!(scratch.restic(&["key", "list"]).contains("east"));
}

#[test]
fn keys_come_and_go() {
    let scratch = Scratch::new();
    scratch.init();
    let vault = scratch.open();
    let current = vault.keys().unwrap()[0].clone();
    assert!(current.current);
    assert!(matches!(vault.remove_key(&current.id), Err(Error::KeyInUse { .. })));
    let added = vault.add_key(&Password::new("another"), "host", "user").unwrap();
    let other = Vault::open(scratch.store(), &Password::new("another")).unwrap();
    other.remove_key(&current.id).unwrap();
    assert!(matches!(Vault::open(scratch.store(), &password()), Err(Error::WrongPassword { .. })));
    assert_eq!(other.keys().unwrap().iter().map(|key| key.id).collect::<Vec<_>>(), [added]);
}

#[test]
fn junk_among_the_keys_does_not_keep_the_owner_out() {
    let scratch = Scratch::new();
    scratch.init();
    let store = scratch.store();
    for number in 0..30 {
        let junk = format!("{{\"junk\":{number}}}");
        store.write(FileType::Key, &levee_vault::Id::of(junk.as_bytes()).to_hex(), junk.as_bytes()).unwrap();
    }
    // What a creation that was cut short leaves behind: the same password, another master key.
    let other = MasterKey::generate().unwrap().seal_key_file(&password(), "h", "u").unwrap();
    store.write(FileType::Key, &other.id, &other.content).unwrap();
    scratch.open();
}

#[test]
fn versions_that_are_not_known_are_refused() {
    let scratch = Scratch::new();
    scratch.restic(&["init"]);
    let vault = scratch.open();
    let config = format!("{{\"version\":3,\"id\":\"{}\",\"chunker_polynomial\":\"25b468838dcb75\"}}", vault.id());
    let sealed = seal_with(&vault, config.as_bytes());
    rewrite(&scratch.path("repository/config"), &sealed);
    let opened = Vault::open(Arc::new(LocalStore::new(scratch.path("repository"))), &password());
    assert!(matches!(opened, Err(Error::UnknownVersion { version: 3, .. })), "{opened:?}");
}

/// Seals as the format describes it, with nothing of the crate's own but the key.
fn seal_with(vault: &Vault, plaintext: &[u8]) -> Vec<u8> {
    use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
    use base64::Engine;
    let json: serde_json::Value = serde_json::from_str(&vault.master_key().to_json()).unwrap();
    let part =
        |value: &serde_json::Value| base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    let (key, k, r) = (part(&json["encrypt"]), part(&json["mac"]["k"]), part(&json["mac"]["r"]));
    let iv = [42_u8; 16];
    let mut ciphertext = plaintext.to_vec();
    ctr::Ctr128BE::<aes::Aes256>::new_from_slices(&key, &iv).unwrap().apply_keystream(&mut ciphertext);
    let mut nonce = iv.into();
    aes::Aes128::new_from_slice(&k).unwrap().encrypt_block(&mut nonce);
    let one_time = [r.as_slice(), &nonce[..]].concat();
    let mac = poly1305::Poly1305::new_from_slice(&one_time).unwrap().compute_unpadded(&ciphertext);
    [&iv[..], &ciphertext, &mac[..]].concat()
}

#[test]
fn snapshots_are_found_by_prefix_and_as_latest() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    let none = vault.find_snapshot("latest", &Default::default());
    assert!(matches!(none, Err(Error::SnapshotNotFound { .. })));
    let first = backup(&vault, &source).snapshot_id.unwrap();
    let mut options = backup_options(&source);
    options.host = Some("elsewhere".into());
    options.tags = vec!["a".into(), "b".into()];
    let second = levee_vault::backup(&vault, &options, &()).unwrap().snapshot_id.unwrap();
    let find = |wanted: &str, among: SnapshotSelection| vault.find_snapshot(wanted, &among).unwrap().0;
    assert_eq!(find("latest", Default::default()), second);
    assert_eq!(find(&first.short(), Default::default()), first);
    let of_tag = SnapshotSelection { tag_lists: vec![vec!["b".into()]], ..Default::default() };
    assert_eq!(find("latest", of_tag), second);
    let of_host = SnapshotSelection { hosts: vec!["nobody".into()], ..Default::default() };
    assert!(matches!(vault.find_snapshot("latest", &of_host), Err(Error::SnapshotNotFound { .. })));
    let digits = "0123456789abcdef".chars().find(|digit| !first.to_string().starts_with(*digit)).unwrap();
    let unknown = vault.find_snapshot(&format!("{digits}{}", &first.to_string()[1..]), &Default::default());
    assert!(matches!(unknown, Err(Error::SnapshotNotFound { .. })));
    assert_eq!(vault.snapshots().unwrap().len(), 2);
    assert_eq!(vault.read_file(&first, &source.join("plain")).unwrap(), b"plain content");
    let listed = vault.list_tree(&first).unwrap().map(|entry| entry.unwrap().0).collect::<Vec<_>>();
    assert!(listed.contains(&source.strip_prefix("/").unwrap().join("deep/er/est/file")));
}
