//! A writer that is killed at any moment loses nothing that it has acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use levee_journal::Identity;
use levee_model::postgres::Lsn;

use crate::{SEGMENT, START, SYSTEM, TIMELINE, check_log, lineage, log, open};

const KILLS: u64 = 25;

/// Not a test of its own: the process that is killed. It writes until then, and says what was acknowledged.
#[test]
#[ignore = "run by killed_writers_lose_nothing_acknowledged"]
fn writer_to_be_killed() {
    let dir = std::env::var("JOURNAL_DIR").unwrap();
    let identity = Identity::read_file(&Path::new(&dir).join("key")).unwrap();
    let journal = open(&Path::new(&dir).join("journal"), &identity);
    let mut writer = journal.writer(lineage(1), START).unwrap();
    let mut out = std::io::stdout();
    loop {
        let size = 1 + (writer.end().0.wrapping_mul(0x9E37_79B9) >> 7) % 150_000;
        writer.append(writer.end(), &log(writer.end(), size as usize)).unwrap();
        writeln!(out, "acknowledged {}", writer.flush().unwrap().0).unwrap();
    }
}

#[test]
fn killed_writers_lose_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    std::fs::write(dir.path().join("key"), identity.to_file_text().as_bytes()).unwrap();
    let mut acknowledged = START;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::writer_to_be_killed", "--exact", "--ignored", "--nocapture"])
            .env("JOURNAL_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (first, told) = std::sync::mpsc::channel();
        let reading = std::thread::spawn(move || {
            let mut last = None;
            for line in lines.map_while(Result::ok) {
                if let Some((_, lsn)) = line.split_once("acknowledged ") {
                    last = lsn.parse().ok().map(Lsn).or(last);
                    let _ = first.send(());
                }
            }
            last
        });
        told.recv_timeout(Duration::from_secs(30)).expect("the writer acknowledges something");
        std::thread::sleep(Duration::from_micros(kill * 7919 % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = reading.join().unwrap().unwrap_or(acknowledged);
        let journal = open(&dir.path().join("journal"), &identity);
        let end = journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end;
        assert!(end >= acknowledged, "acknowledged {acknowledged}, durable {end}");
        check_log(&journal, Lsn(end.0.saturating_sub(2 * SEGMENT)).max(START), end);
    }
    let journal = open(&dir.path().join("journal"), &identity);
    drop(journal.writer(lineage(1), START).unwrap());
    let end = journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end;
    check_log(&journal, START, end);
    let left = crate::files(&dir.path().join("journal"));
    assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
}
