//! The base backup of 13 and 14, which are not to be had here: a server that sends what those send.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use levee_engine::postgres::{Archive, BackupOptions, ConnectOptions, Connection, Host};
use levee_model::postgres::{Lsn, TimelineId};

use crate::fake_server::{copy, hello, message, read_message, result_set, text};

#[test]
fn the_form_of_13_and_14_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(read_message(&mut stream, false).contains("replication\0true\0"));
        stream.write_all(&hello("14.9")).unwrap();
        let command = read_message(&mut stream, true);
        let mut answer = result_set(&["recptr", "tli"], &[&[Some("0/2000028"), Some("1")]]);
        answer.extend(result_set(
            &["spcoid", "spclocation", "size"],
            &[&[Some("16385"), Some("/srv/space"), Some("7")], &[None, None, Some("4000")]],
        ));
        answer.extend(copy(&[b"the table", b"space"]));
        answer.extend(copy(&[b"the data directory"]));
        answer.extend(message(b'N', b"SNOTICE\0C00000\0Mby the way\0\0"));
        answer.extend(copy(&[b"the ", b"manifest"]));
        answer.extend(result_set(&["recptr", "tli"], &[&[Some("0/2000100"), Some("1")]]));
        answer.extend(message(b'C', &text("BASE_BACKUP")));
        answer.extend(message(b'Z', b"I"));
        stream.write_all(&answer).unwrap();
        command
    });

    let options = ConnectOptions::new(Host::Unix(folder.path().into()), 5432, "levee");
    let connection = Connection::connect_replication(&options).unwrap();
    let mut backup = connection
        .base_backup(BackupOptions {
            label: "it's".into(),
            fast_checkpoint: true,
            verify_checksums: false,
            rate_kib_max: Some(1024),
            interrupt: None,
        })
        .unwrap();
    assert_eq!((backup.start(), backup.timeline()), (Lsn(0x2000028), TimelineId(1)));
    let mut archives = Vec::new();
    while let Some(archive) = backup.next_archive().unwrap() {
        let mut content = String::new();
        // The data directory's is skipped.
        if archive != Archive::Data {
            backup.read_to_string(&mut content).unwrap();
        }
        archives.push((archive, content));
    }
    let space = Archive::Tablespace { oid: 16385, location: "/srv/space".into() };
    let expected = [
        (space, "the tablespace".to_owned()),
        (Archive::Data, String::new()),
        (Archive::Manifest, "the manifest".to_owned()),
    ];
    assert_eq!(archives, expected);
    assert_eq!(backup.finish().unwrap().stop, Lsn(0x2000100));
    assert_eq!(
        server.join().unwrap(),
        "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 1024 NOVERIFY_CHECKSUMS MANIFEST 'yes' \
         MANIFEST_CHECKSUMS 'CRC32C'\0"
    );
}
