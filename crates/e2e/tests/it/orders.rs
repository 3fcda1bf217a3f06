//! The shop's clients: they write numbered orders wherever they are taken, and remember those that were
//! acknowledged.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use levee_testing::postgres::Session;
use levee_testing::wait::wait_until;

/// So many clients write at once: as many commits can be under way when a site is lost.
const CLIENTS: u64 = 4;
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(30);

/// An order that the database has acknowledged, and where.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub number: u64,
    pub at: SocketAddr,
}

/// Clients that order until this is dropped.
pub struct Orders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Filled by the clients, each order after its acknowledgement.
    acknowledged: Arc<Mutex<Vec<Order>>>,
}

impl Orders {
    /// Orders at whichever of the addresses takes orders.
    pub fn start(databases: [SocketAddr; 2]) -> Orders {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let client = |first: u64| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                let mut numbers = (first..).step_by(CLIENTS as usize);
                let mut place = 0;
                while !stop.load(Ordering::Relaxed) {
                    // A number is never used again: what became of it is not known.
                    if write_until_failure(databases[place], &mut numbers, &stop, &acknowledged).is_err() {
                        place = 1 - place;
                        std::thread::sleep(PAUSE_AFTER_FAILURE);
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Orders { stop, threads, acknowledged }
    }

    pub fn acknowledged(&self) -> Vec<Order> {
        self.acknowledged.lock().expect("no client panics while it holds this lock").clone()
    }

    pub fn count_at(&self, database: SocketAddr) -> usize {
        self.acknowledged().iter().filter(|order| order.at == database).count()
    }

    /// Waits until some more orders were acknowledged at a database.
    #[track_caller]
    pub fn wait_for_more_at(&self, database: SocketAddr, timeout: Duration) {
        let wanted = self.count_at(database) + 20;
        wait_until(&format!("orders at {database}"), timeout, || self.count_at(database) >= wanted);
    }

    /// Checks that every order that was acknowledged until now is in a database. Returns how many there are.
    #[track_caller]
    pub fn check_all_in(&self, database: SocketAddr) -> usize {
        check_in(&self.acknowledged(), database)
    }
}

/// Checks that each of these orders is in a database. Returns how many there are.
#[track_caller]
pub fn check_in(acknowledged: &[Order], database: SocketAddr) -> usize {
    let rows = Session::open(database, "shop", "shop").and_then(|mut open| open.query("select number from orders"));
    let rows = rows.unwrap_or_else(|error| panic!("cannot read the orders at {database}: {error}"));
    let present: HashSet<u64> = rows.values.iter().filter_map(|value| value.parse().ok()).collect();
    let lost: Vec<&Order> = acknowledged.iter().filter(|order| !present.contains(&order.number)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged orders are lost: {lost:?}", lost.len(), acknowledged.len());
    acknowledged.len()
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

/// Writes orders to one database. An order counts only when its commit came without a warning: one that
/// was cancelled while it waited for the other site has one.
fn write_until_failure(
    at: SocketAddr,
    numbers: &mut impl Iterator<Item = u64>,
    stop: &AtomicBool,
    acknowledged: &Mutex<Vec<Order>>,
) -> io::Result<()> {
    let mut session = Session::open(at, "shop", "shop")?;
    for number in numbers {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let outcome = session.query(&format!("insert into orders (number) values ({number})"))?;
        if !outcome.notices.is_empty() {
            return Err(io::Error::other(outcome.notices.join("; ")));
        }
        acknowledged.lock().expect("no client panics while it holds this lock").push(Order { number, at });
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[test]
fn a_lost_order_is_noticed() {
    use levee_testing::postgres::Cluster;
    let cluster = Cluster::builder().start();
    cluster.psql("create role shop login");
    cluster.psql("create database shop owner shop");
    cluster.psql_in("shop", "set role shop; create table orders (number bigint primary key)");
    let database = SocketAddr::new(cluster.address(), cluster.port());
    let orders = Orders::start([database; 2]);
    orders.wait_for_more_at(database, Duration::from_secs(60));
    assert!(orders.check_all_in(database) >= 20);
    let lost = orders.acknowledged()[7].number;
    cluster.psql_in("shop", &format!("delete from orders where number = {lost}"));
    let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| orders.check_all_in(database)));
    let said = *check.unwrap_err().downcast::<String>().expect("a message");
    assert!(said.starts_with("1 of ") && said.contains(&format!("number: {lost},")), "{said}");
}
