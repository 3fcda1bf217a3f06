//! Clients that write numbered rows, one commit each, and remember those that were acknowledged.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::postgres::Session;
use crate::wait::wait_until;

const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(30);

/// What is written, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub user: &'static str,
    pub database: &'static str,
    /// It has a column `number`, and every other column a default.
    pub table: &'static str,
    /// So many write at once: as many commits can be under way when something is killed.
    pub clients: usize,
    /// How long a client rests after each row.
    pub pause: Duration,
}

/// A row that a server has acknowledged, and which one.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub number: u64,
    pub at: SocketAddr,
}

/// Clients that write until they are stopped.
pub struct Rows {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Filled by the clients, each row after its acknowledgement.
    acknowledged: Arc<Mutex<Vec<Row>>>,
}

impl Rows {
    /// Each client writes to one of these servers until that fails, and goes on at the next.
    pub fn start(load: Load, servers: &[SocketAddr]) -> Rows {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let client = |first: usize| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let servers = servers.to_vec();
            thread::spawn(move || {
                // A number is never used again: what became of it is not known.
                let mut numbers = (first as u64..).step_by(load.clients);
                for at in servers.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if write_until_failure(load, *at, &mut numbers, &stop, &acknowledged).is_err() {
                        thread::sleep(PAUSE_AFTER_FAILURE);
                    }
                }
            })
        };
        let threads = (0..load.clients).map(client).collect();
        Rows { stop, threads, acknowledged }
    }

    /// All rows that were acknowledged until now.
    pub fn acknowledged(&self) -> Vec<Row> {
        self.acknowledged.lock().expect("no client panics while it holds this lock").clone()
    }

    /// How many of them one server has acknowledged.
    pub fn count_at(&self, server: SocketAddr) -> usize {
        self.acknowledged().iter().filter(|row| row.at == server).count()
    }

    /// Waits until a server has acknowledged so many more rows.
    #[track_caller]
    pub fn wait_for_more_at(&self, server: SocketAddr, rows: usize, timeout: Duration) {
        let wanted = self.count_at(server) + rows;
        wait_until(&format!("rows at {server}"), timeout, || self.count_at(server) >= wanted);
    }

    /// Ends the clients, and returns what was acknowledged to them.
    pub fn stop(&mut self) -> Vec<Row> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
        self.acknowledged()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Checks that every acknowledged row is among those that are there, whose numbers are given as text.
#[track_caller]
pub fn check_all_in<'a>(acknowledged: &[Row], there: impl IntoIterator<Item = &'a str>) {
    let present: HashSet<u64> = there.into_iter().filter_map(|number| number.parse().ok()).collect();
    let lost: Vec<&Row> = acknowledged.iter().filter(|row| !present.contains(&row.number)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged rows are lost: {lost:?}", lost.len(), acknowledged.len());
}

fn write_until_failure(
    load: Load,
    at: SocketAddr,
    numbers: &mut impl Iterator<Item = u64>,
    stop: &AtomicBool,
    acknowledged: &Mutex<Vec<Row>>,
) -> io::Result<()> {
    let mut session = Session::open(at, load.user, load.database)?;
    for number in numbers {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        session.commit(&format!("insert into {} (number) values ({number})", load.table))?;
        acknowledged.lock().expect("no client panics while it holds this lock").push(Row { number, at });
        thread::sleep(load.pause);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::postgres::Cluster;

    #[test]
    fn a_lost_row_is_noticed() {
        let cluster = Cluster::builder().start();
        cluster.psql("create table numbers (number bigint primary key)");
        let server = SocketAddr::new(cluster.address(), cluster.port());
        let pause = Duration::from_millis(2);
        let load = Load { user: "postgres", database: "postgres", table: "numbers", clients: 3, pause };
        let mut rows = Rows::start(load, &[server]);
        rows.wait_for_more_at(server, 20, Duration::from_secs(60));
        let acknowledged = rows.stop();
        let numbers = || cluster.psql("select number from numbers");
        check_all_in(&acknowledged, numbers().lines());
        let lost = acknowledged[7].number;
        cluster.psql(&format!("delete from numbers where number = {lost}"));
        let there = numbers();
        let check = catch_unwind(AssertUnwindSafe(|| check_all_in(&acknowledged, there.lines())));
        let said = *check.unwrap_err().downcast::<String>().expect("a message");
        assert!(said.starts_with("1 of ") && said.contains(&format!("number: {lost},")), "{said}");
    }
}
