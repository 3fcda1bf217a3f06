//! Servers that send anything but what they should.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use levee_engine::postgres::{BackupOptions, ConnectOptions, Connection, Host};
use levee_model::postgres::{Lsn, TimelineId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::fake_server::{hello, message, read_message, result_set};

/// Messages that a client could take for an answer, or for nothing at all.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::sample::select(b"RSKZTDCHWGdcEN1sAVnxX".to_vec());
    let bodies = prop_oneof![
        vec(any::<u8>(), 0..60),
        // Of the log: a position where it begins, and where the server is.
        vec(any::<u8>(), 0..60)
            .prop_map(|rest| [b"w\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0".as_slice(), &rest].concat()),
        vec(any::<u8>(), 16..18).prop_map(|rest| [b"k".as_slice(), &rest].concat()),
        vec(any::<u8>(), 0..40).prop_map(|rest| [b"n".as_slice(), &rest].concat()),
    ];
    let well_formed = (tags, bodies).prop_map(|(tag, body)| message(tag, &body));
    let result = Just(result_set(&["recptr", "tli"], &[&[Some("0/1"), Some("x")], &[None]]));
    vec(prop_oneof![5 => well_formed, 1 => vec(any::<u8>(), 0..20), 1 => result], 0..8)
        .prop_map(|messages| messages.concat())
}

#[test]
fn nothing_that_a_server_sends_makes_the_client_panic_or_hang() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let mut options = ConnectOptions::new(Host::Unix(folder.path().into()), 5432, "levee");
    options.password = Some(levee_engine::postgres::Password::new("x"));
    options.connect_timeout = Duration::from_secs(5);
    options.read_timeout = Duration::from_secs(5);

    let cases = (messages(), any::<bool>(), 0..4, prop::sample::select(vec!["14.9", "17.1"]));
    let mut runner = TestRunner::new(Config { cases: 500, ..Config::default() });
    let outcome = runner.run(&cases, |(sent, greets, question, version)| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                read_message(&mut stream, false);
                if greets {
                    stream.write_all(&hello(version)).unwrap();
                }
                // The client may have hung up already.
                let _ = stream.write_all(&sent);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let Ok(mut connection) = Connection::connect_replication(&options) else { return };
            match question {
                0 => drop(connection.simple_query("select 1")),
                1 => drop(connection.identify_system()),
                2 => {
                    let Ok(mut stream) = connection.start_replication(None, TimelineId(1), Lsn(1 << 24)) else {
                        return;
                    };
                    for _ in 0..20 {
                        let event = stream.poll(Duration::from_millis(100));
                        if event.is_err() || matches!(event, Ok(levee_engine::postgres::Event::Ended)) {
                            break;
                        }
                    }
                }
                _ => {
                    let options = BackupOptions {
                        label: String::new(),
                        fast_checkpoint: true,
                        verify_checksums: true,
                        rate_kib_max: None,
                        interrupt: None,
                    };
                    let Ok(mut backup) = connection.base_backup(options) else { return };
                    while let Ok(Some(_)) = backup.next_archive() {
                        let _ = backup.read_to_end(&mut Vec::new());
                    }
                }
            }
        });
        Ok(())
    });
    outcome.unwrap();
}
