use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use levee_engine::postgres::manifest::{Algorithm, Manifest};
use levee_engine::postgres::page::{PAGE_SIZE, PageState, check, first_block};
use levee_engine::postgres::tar::{Kind, TarReader};
use levee_engine::postgres::{Archive, BackupOptions, Connection, Error};
use levee_testing::postgres::{Cluster, Version};

use crate::options;

fn backup_options() -> BackupOptions {
    BackupOptions {
        label: "it's a test".into(),
        fast_checkpoint: true,
        verify_checksums: true,
        rate_kib_max: None,
        interrupt: None,
    }
}

/// Takes a base backup into a folder, checking everything that the manifest says.
fn take(cluster: &Cluster, target: &Path) -> (Manifest, usize) {
    let connection = Connection::connect_replication(&options(cluster)).unwrap();
    let mut stream = connection.base_backup(backup_options()).unwrap();
    let start = stream.start();
    let mut manifest = None;
    let mut received = BTreeMap::new();
    let mut pages = 0;
    while let Some(archive) = stream.next_archive().unwrap() {
        let prefix = match &archive {
            Archive::Data => String::new(),
            Archive::Tablespace { oid, .. } => format!("pg_tblspc/{oid}/"),
            Archive::Manifest => {
                let mut content = Vec::new();
                stream.read_to_end(&mut content).unwrap();
                fs::write(target.join("backup_manifest"), &content).unwrap();
                manifest = Some(Manifest::parse(&content).unwrap());
                continue;
            }
        };
        let mut tar = TarReader::new(&mut stream);
        while let Some(entry) = tar.next_entry().unwrap() {
            let path = format!("{prefix}{}", entry.path);
            match entry.kind {
                Kind::Directory => fs::create_dir_all(target.join(&path)).unwrap(),
                Kind::Symlink { target: link } => {
                    assert!(path.starts_with("pg_tblspc/"), "{path} -> {link}");
                    fs::create_dir_all(target.join(&path)).unwrap();
                }
                Kind::File => {
                    let mut content = Vec::new();
                    tar.read_to_end(&mut content).unwrap();
                    assert_eq!(content.len() as u64, entry.size);
                    if let Some(first) = first_block(&path) {
                        for (number, page) in content.chunks_exact(PAGE_SIZE).enumerate() {
                            let state = check(page.try_into().unwrap(), first + number as u32, start);
                            assert!(!matches!(state, PageState::Damaged { .. }), "{path} {number}: {state:?}");
                            pages += usize::from(state == PageState::Valid);
                        }
                    }
                    fs::write(target.join(&path), &content).unwrap();
                    received.insert(path, content);
                }
            }
        }
    }
    let end = stream.finish().unwrap();
    let manifest = manifest.unwrap();
    assert!(end.stop > start);
    assert_eq!(manifest.wal_ranges[0].start, start);
    assert_eq!(manifest.wal_ranges[0].end, end.stop);
    for (path, file) in &manifest.files {
        let content = received.get(path).unwrap_or_else(|| panic!("{path} is missing"));
        let checksum = file.checksum.as_ref().unwrap();
        assert_eq!(checksum.algorithm, Algorithm::Crc32c);
        let mut hasher = checksum.algorithm.hasher();
        hasher.update(content);
        assert_eq!((content.len() as u64, hasher.finish()), (file.size, checksum.value.clone()), "{path}");
    }
    (manifest, pages)
}

#[test]
fn a_base_backup_is_what_its_manifest_says() {
    for version in Version::MAIN {
        let cluster = Cluster::builder().version(version).start();
        cluster.pgbench().initialize(2);
        let space = cluster.site().database_folder("space");
        cluster.psql(&format!("create tablespace extra location '{}'", space.display()));
        cluster.psql("create table elsewhere tablespace extra as select generate_series(1, 1000) a");
        let target = cluster.site().database_folder("backup");
        let (manifest, pages) = take(&cluster, &target);
        assert!(manifest.files.keys().any(|path| path.starts_with("pg_tblspc/")));
        assert_eq!(manifest.system_identifier.is_some(), version.major() >= 17);
        assert!(pages > 3000, "{pages}");
        let answer = cluster.binaries().verify_backup(&target, &["-n"]);
        assert!(answer.contains("successfully verified"), "{answer}");
    }
}

#[test]
fn a_damaged_page_fails_the_backup_at_its_end() {
    let cluster = Cluster::builder().start();
    cluster.psql("create table t as select generate_series(1, 5000) a; checkpoint");
    let file = cluster.psql("select pg_relation_filepath('t')");
    let path = cluster.data_directory().join(file);
    let mut content = fs::read(&path).unwrap();
    content[PAGE_SIZE + 5000] ^= 0xFF;
    fs::write(&path, content).unwrap();
    let connection = Connection::connect_replication(&options(&cluster)).unwrap();
    let mut stream = connection.base_backup(backup_options()).unwrap();
    let failure = loop {
        match stream.next_archive() {
            Ok(Some(_)) => {}
            Ok(None) => break stream.finish().unwrap_err(),
            Err(error) => break error,
        }
    };
    assert_eq!(failure.sqlstate(), Some("XX001"), "{failure}");
}

#[test]
fn a_backup_can_be_interrupted() {
    let cluster = Cluster::builder().start();
    cluster.pgbench().initialize(5);
    let connection = Connection::connect_replication(&options(&cluster)).unwrap();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    let interrupt = Some(event.try_clone().unwrap());
    // So slow that it would take minutes.
    let options = BackupOptions { rate_kib_max: Some(100), interrupt, ..backup_options() };
    let mut stream = connection.base_backup(options).unwrap();
    stream.next_archive().unwrap();
    rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
    let error = loop {
        match stream.read(&mut [0; 65536]) {
            Ok(0) => panic!("it came to an end"),
            Ok(_) => {}
            Err(error) => break Error::from_read("reading", error),
        }
    };
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}
