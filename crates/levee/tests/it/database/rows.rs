//! Clients that write numbered rows, one commit each, and remember those that were acknowledged.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use levee_testing::postgres::Session;
use levee_testing::wait::wait_until;

use super::LONG;

pub const TABLE: &str = "create table numbers (number bigint primary key)";
/// So many write at once: as many commits can be under way when something is killed.
const CLIENTS: u64 = 3;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(30);

/// Clients that write until they are stopped.
pub struct Rows {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Filled by the clients, each row after its acknowledgement.
    acknowledged: Arc<Mutex<Vec<u64>>>,
}

impl Rows {
    pub fn start(database: SocketAddr) -> Rows {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let client = |first: u64| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                // A number is never used again: what became of it is not known.
                let mut numbers = (first..).step_by(CLIENTS as usize);
                while !stop.load(Ordering::Relaxed) {
                    if write_until_failure(database, &mut numbers, &stop, &acknowledged).is_err() {
                        std::thread::sleep(PAUSE_AFTER_FAILURE);
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Rows { stop, threads, acknowledged }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no client panics while it holds this lock").len()
    }

    /// Waits until so many more rows were acknowledged.
    #[track_caller]
    pub fn wait_for_more(&self, rows: usize) {
        let wanted = self.count() + rows;
        wait_until("more rows are acknowledged", LONG, || self.count() >= wanted);
    }

    /// Ends the clients, and returns what was acknowledged to them.
    pub fn stop(&mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
        self.acknowledged.lock().expect("no client panics while it holds this lock").clone()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Checks that every acknowledged row is among those that are there, one number a line.
#[track_caller]
pub fn check_all_in(acknowledged: &[u64], there: &str) {
    let present: HashSet<u64> = there.lines().filter_map(|line| line.parse().ok()).collect();
    let lost: Vec<&u64> = acknowledged.iter().filter(|number| !present.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged rows are lost: {lost:?}", lost.len(), acknowledged.len());
}

/// A row counts only when its commit came without a warning: one that was cancelled while it waited has one.
fn write_until_failure(
    database: SocketAddr,
    numbers: &mut impl Iterator<Item = u64>,
    stop: &AtomicBool,
    acknowledged: &Mutex<Vec<u64>>,
) -> io::Result<()> {
    let mut session = Session::open(database, "postgres", "postgres")?;
    for number in numbers {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let outcome = session.query(&format!("insert into numbers values ({number})"))?;
        if !outcome.notices.is_empty() {
            return Err(io::Error::other(outcome.notices.join("; ")));
        }
        acknowledged.lock().expect("no client panics while it holds this lock").push(number);
    }
    Ok(())
}
