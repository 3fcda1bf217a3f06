//! The base backup of 13 and 14, which are not to be had here: a server that sends what those send.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use levee_engine::postgres::{Archive, BackupOptions, ConnectOptions, Connection, Host};
use levee_model::postgres::{Lsn, TimelineId};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    message
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// A result set with text columns.
fn result_set(columns: &[&str], rows: &[&[Option<&str>]]) -> Vec<u8> {
    let mut description = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        description.extend(text(column));
        description.extend([0; 18]);
    }
    let mut sent = message(b'T', &description);
    for row in rows {
        let mut body = (row.len() as u16).to_be_bytes().to_vec();
        for value in *row {
            match value {
                None => body.extend((-1i32).to_be_bytes()),
                Some(value) => {
                    body.extend((value.len() as u32).to_be_bytes());
                    body.extend(value.as_bytes());
                }
            }
        }
        sent.extend(message(b'D', &body));
    }
    sent.extend(message(b'C', &text("SELECT")));
    sent
}

fn copy(pieces: &[&[u8]]) -> Vec<u8> {
    let mut sent = message(b'H', &[0, 0, 0]);
    for piece in pieces {
        sent.extend(message(b'd', piece));
    }
    sent.extend(message(b'c', &[]));
    sent
}

fn read_message(stream: &mut UnixStream, tagged: bool) -> String {
    let mut head = vec![0; if tagged { 5 } else { 4 }];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[head.len() - 4..].try_into().unwrap());
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8_lossy(&body).into_owned()
}

#[test]
fn the_form_of_13_and_14_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(read_message(&mut stream, false).contains("replication\0true\0"));
        let mut hello = message(b'R', &[0; 4]);
        hello.extend(message(b'S', &[text("server_version"), text("14.9")].concat()));
        hello.extend(message(b'K', &[0; 8]));
        hello.extend(message(b'Z', b"I"));
        stream.write_all(&hello).unwrap();
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
