//! In which order `levee database archive` writes, syncs and acknowledges, as `strace` sees it: a SIGKILL alone would not
//! show a missing sync, since the kernel keeps what was written.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_testing::postgres::{Cluster, Session};
use levee_testing::wait::wait_until;
use levee_testing::{Child, leave_out, tools};

use super::trace::{self, Call};
use super::{LONG, Machine, archive_says, rows};

const ROWS: usize = 40;

/// A record of a tail (see `docs/formats/journal.md`), and when it, and its file's name, were on the disk.
struct Record {
    start: u64,
    end: u64,
    durable: Option<usize>,
}

/// The log that a write to a tail holds, as `start..end`. Runs, zeros and the slot are no log.
fn log_of(call: &Call) -> Option<(u64, u64)> {
    let bytes = call.bytes();
    if call.name != "pwrite64" || bytes.get(..4) != Some(&b"LREC"[..]) {
        return None;
    }
    let length = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    let start = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    Some((start, start + u64::from(length)))
}

/// The flush position that a status tells the server: CopyData with `r`, the written position and this one.
fn told(call: &Call) -> Option<u64> {
    // What is sealed may look like anything.
    call.path().filter(|path| path.to_str().is_some_and(|path| path.starts_with("socket:")))?;
    let bytes = call.bytes();
    if bytes.first() != Some(&b'd') || bytes.get(5) != Some(&b'r') {
        return None;
    }
    Some(u64::from_be_bytes(bytes.get(14..22)?.try_into().ok()?)).filter(|flush| *flush > 0)
}

/// When a file that was written, or a folder that was changed, at `since` was on the disk.
fn synced(calls: &[Call], path: &Path, since: usize) -> Option<usize> {
    calls
        .iter()
        .filter(|call| call.is_sync() && call.path() == Some(path) && call.begun > since)
        .map(|call| call.returned)
        .min()
}

/// When a file's name was on the disk: its folder is synced after the rename.
fn named(calls: &[Call], path: &Path) -> Option<usize> {
    let is_it = |call: &&Call| call.is_rename() && call.strings().get(1).map(Path::new) == Some(path);
    let renamed = calls.iter().find(is_it)?.returned;
    synced(calls, path.parent()?, renamed)
}

/// The first position of a tail, as its name has it.
fn start_of(tail: &Path) -> Option<u64> {
    u64::from_str_radix(tail.file_name()?.to_str()?.split('.').nth(1)?, 16).ok()
}

/// Checks that no position was told before all log below it was on the disk. Returns how many positions were told.
fn check_acknowledged(calls: &[Call]) -> Result<usize, String> {
    let mut records = Vec::new();
    let mut first = None;
    let mut names = HashMap::new();
    for call in calls {
        let (Some((start, end)), Some(tail)) = (log_of(call), call.path()) else { continue };
        first = first.or(start_of(tail));
        let name = *names.entry(tail.to_path_buf()).or_insert_with(|| named(calls, tail));
        let content = synced(calls, tail, call.returned);
        records.push(Record { start, end, durable: content.zip(name).map(|(content, name)| content.max(name)) });
    }
    // Nothing of the log lies below, so that it may be told at once.
    let first = first.ok_or("no log was written")?;
    let mut highest = first;
    let mut positions = 0;
    for call in calls {
        let Some(flush) = told(call).filter(|flush| *flush > highest) else { continue };
        let needed: Vec<&Record> = records.iter().filter(|record| record.start < flush).collect();
        if let Some(record) = needed.iter().find(|record| record.durable.is_none_or(|durable| durable >= call.begun)) {
            return Err(format!(
                "line {} tells {flush:X}, but {:X} to {:X} was not on the disk",
                call.begun + 1,
                record.start,
                record.end
            ));
        }
        if needed.iter().all(|record| record.end < flush) {
            return Err(format!("line {} tells {flush:X}, and so much was never written", call.begun + 1));
        }
        (highest, positions) = (flush, positions + 1);
    }
    Ok(positions)
}

/// Checks that each closed segment is synced, then named durably, and only then takes the place of its tail. Returns how
/// many were closed.
fn check_closed(calls: &[Call]) -> Result<usize, String> {
    let mut closed = 0;
    for rename in calls.iter().filter(|call| call.is_rename()) {
        let [from, to] = rename.strings()[..] else { continue };
        if !to.ends_with(".zst.age") {
            continue;
        }
        let before = |call: &&Call| call.path() == Some(Path::new(from)) && call.returned < rename.begun;
        let written = calls.iter().filter(before).filter(|call| call.is_write()).map(|call| call.returned).max();
        let written = written.ok_or_else(|| format!("{from} was never written"))?;
        if synced(calls, Path::new(from), written).is_none_or(|synced| synced >= rename.begun) {
            return Err(format!("{from} was renamed before it was synced"));
        }
        let name = named(calls, Path::new(to)).ok_or_else(|| format!("the folder of {to} was not synced"))?;
        let (stem, _) = to.rsplit_once('-').ok_or_else(|| format!("{to} names no range"))?;
        let tail = PathBuf::from(format!("{stem}.tail"));
        let is_it = |call: &&Call| call.is_removal() && call.strings().first().map(Path::new) == Some(&*tail);
        let removal = calls.iter().find(is_it).ok_or_else(|| format!("{} was not removed", tail.display()))?;
        if removal.begun <= name {
            return Err(format!("{} was removed before the name of {to} was on the disk", tail.display()));
        }
        closed += 1;
    }
    Ok(closed)
}

/// The archive as `Machine::archive` starts it, below strace.
fn traced_archive(machine: &Machine, strace: &Path, trace: &Path) -> Child {
    let archive = machine.command(&["--json", "database", "archive", "--asset", "shop/orders"]);
    let mut command = Command::new(strace);
    command.args(["-f", "-y", "-x", "-s", trace::STRING_BYTES, "-e", trace::CALLS, "-o"]).arg(trace);
    command.arg("--").arg(archive.get_program()).args(archive.get_args());
    for (name, value) in archive.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Child::spawn("archive", &mut command, &machine.path("archive.log"))
}

fn has_closed_segment(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().map(|entry| entry.path()).any(|path| match path.is_dir() {
        true => has_closed_segment(&path),
        false => path.to_str().is_some_and(|path| path.ends_with(".zst.age")),
    })
}

#[test]
fn a_position_is_acknowledged_only_when_its_log_is_synced() {
    let Some(strace) = tools::find("strace") else {
        leave_out("strace is not installed");
        return;
    };
    let cluster = Cluster::builder().setting("synchronous_standby_names", "levee_shop_orders").start();
    let machine = Machine::with(cluster);
    let path = machine.path("trace");
    let mut archive = traced_archive(&machine, &strace, &path);
    wait_until("the archive streams", LONG, || archive_says(&machine, "\"connected\":true"));
    machine.cluster.psql(rows::TABLE);
    let address = SocketAddr::new(machine.cluster.address(), machine.cluster.port());
    let mut session = Session::open(address, "postgres", "postgres").unwrap();
    let mut write = |number: usize| {
        let outcome = session.query(&format!("insert into numbers values ({number})")).unwrap();
        assert_eq!(outcome.notices, [""; 0]);
    };
    (0..ROWS).for_each(&mut write);
    machine.cluster.switch_wal();
    write(ROWS);
    wait_until("a full segment is closed", LONG, || has_closed_segment(&machine.path("journal")));
    assert_eq!(archive.terminate(LONG).and_then(|status| status.code()), Some(0), "{}", archive.log_tail(5));

    let calls = trace::parse(&fs::read_to_string(&path).unwrap());
    // Each row waited for a position of its own.
    let positions = check_acknowledged(&calls).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(positions > ROWS, "only {positions} positions were told for {ROWS} rows");
    let closed = check_closed(&calls).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(closed > 0);
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// What the checks above are to find, on traces made by hand.
#[test]
fn a_missing_sync_is_found() {
    const TAIL: &str = "/j/W.0000000000000100.tail";
    let record = |start: u64, length: u32| {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(b"LREC");
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[16..24].copy_from_slice(&start.to_le_bytes());
        format!("1 pwrite64(5<{TAIL}>, \"{}\"..., 90, 700) = 90", hexadecimal(&bytes))
    };
    let status = |flush: u64| {
        let head = [&b"d\0\0\0\x26r"[..], &flush.to_be_bytes(), &flush.to_be_bytes(), &[0; 17]].concat();
        format!("1 sendto(9<socket:[1]>, \"{}\", 39, 0, NULL, 0) = 39", hexadecimal(&head))
    };
    let (sync, folder) = (format!("1 fdatasync(5<{TAIL}>) = 0"), "1 fsync(6</j>) = 0".to_string());
    let enter = format!("1 rename(\"{TAIL}.new\", \"{TAIL}\") = 0");
    let acknowledged = |lines: &[&String]| {
        let lines: Vec<&str> = lines.iter().map(|line| line.as_str()).collect();
        check_acknowledged(&trace::parse(&lines.join("\n")))
    };
    let (one, two) = (record(0x100, 16), record(0x110, 16));
    let (told_first, told_one, told_two) = (status(0x100), status(0x110), status(0x120));
    let good = [&enter, &folder, &told_first, &one, &sync, &told_one, &two, &sync, &told_two];
    assert_eq!(acknowledged(&good), Ok(2));
    let not_synced = acknowledged(&[&enter, &folder, &one, &sync, &told_one, &two, &told_two, &sync]);
    assert!(not_synced.unwrap_err().contains("tells 120, but 110 to 120 was not on the disk"));
    let not_named = acknowledged(&[&enter, &one, &sync, &told_one, &folder]);
    assert!(not_named.unwrap_err().contains("was not on the disk"));
    let never_written = acknowledged(&[&enter, &folder, &one, &sync, &told_two]);
    assert!(never_written.unwrap_err().contains("never written"));

    const CLOSED: &str = "/j/W.0000000000000100-0000000000000200.e1.zst.age";
    let write = format!("1 write(7<{CLOSED}.tmp>, \"age\", 3) = 3");
    let sync = format!("1 fsync(7<{CLOSED}.tmp>) = 0");
    let rename = format!("1 rename(\"{CLOSED}.tmp\", \"{CLOSED}\") = 0");
    let remove = format!("1 unlink(\"{TAIL}\") = 0");
    let closed = |lines: &[&String]| {
        let lines: Vec<&str> = lines.iter().map(|line| line.as_str()).collect();
        check_closed(&trace::parse(&lines.join("\n")))
    };
    assert_eq!(closed(&[&write, &sync, &rename, &folder, &remove]), Ok(1));
    let cases = [
        ([&write, &rename, &sync, &folder, &remove], "was renamed before it was synced"),
        ([&sync, &write, &rename, &folder, &remove], "was renamed before it was synced"),
        ([&write, &sync, &folder, &rename, &remove], "was not synced"),
        ([&write, &sync, &rename, &remove, &folder], "was removed before"),
    ];
    for (lines, expected) in cases {
        let problem = closed(&lines).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
}
