//! Measured, not checked: `cargo test -p levee-journal --test it -- --ignored --nocapture flush_latency`.

use std::time::{Duration, Instant};

use levee_journal::{Identity, Lineage, LogJournal};
use levee_model::postgres::SegmentSize;

use crate::{START, keys, lineage, log};

/// Flushes of 8 KiB into segments of 16 MiB, with segments being closed beside them.
#[test]
#[ignore = "a measurement"]
fn flush_latency_while_segments_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = LogJournal::open(dir.path(), keys(&Identity::generate())).unwrap();
    let lineage = Lineage { segment_size: SegmentSize::DEFAULT, ..lineage(1) };
    let mut writer = journal.writer(lineage, START).unwrap();
    let bytes = log(START, 8192);
    let mut times: Vec<Duration> = (0..10_000)
        .map(|_| {
            let begun = Instant::now();
            writer.append(writer.end(), &bytes).unwrap();
            writer.flush().unwrap();
            begun.elapsed()
        })
        .collect();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("flush of 8 KiB: p50 {:?}, p99 {:?}, p99.9 {:?}, worst {:?}", at(0.5), at(0.99), at(0.999), at(1.0));
}
