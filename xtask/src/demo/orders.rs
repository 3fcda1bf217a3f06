//! The shop's client: it finds the shop by its name, writes numbered orders, and keeps a ledger of
//! those that were acknowledged.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::dns::Resolver;
use super::ledger::{Entry, Ledger};
use levee_testing::postgres::Session;

const PAUSE_BETWEEN_ORDERS: Duration = Duration::from_millis(10);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// The client, running in a thread of its own until it is dropped.
pub struct OrderClient {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    ledger: PathBuf,
}

/// What a move of the shop has done to the orders.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OrderLoss {
    /// Acknowledged, and not in the database.
    pub lost: Vec<u64>,
    /// When the newest order was acknowledged before which none is lost.
    pub complete_until: Option<Timestamp>,
}

impl OrderClient {
    /// Starts ordering at whatever address the resolver gives.
    pub fn start(mut resolver: Resolver, port: u16, ledger_path: &Path) -> Result<OrderClient> {
        let mut ledger =
            Ledger::create(ledger_path).with_context(|| format!("cannot make the ledger {}", ledger_path.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told_to_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut session: Option<(IpAddr, Session)> = None;
            let mut number = 0;
            while !told_to_stop.load(Ordering::Relaxed) {
                number += 1;
                let pause = match order(&mut resolver, &mut session, port, number, &mut ledger) {
                    Ok(()) => PAUSE_BETWEEN_ORDERS,
                    Err(_) => {
                        session = None;
                        PAUSE_AFTER_FAILURE
                    }
                };
                std::thread::sleep(pause);
            }
        });
        Ok(OrderClient { stop, thread: Some(thread), ledger: ledger_path.into() })
    }

    /// Every order that was acknowledged so far.
    pub fn acknowledged(&self) -> Result<Vec<Entry>> {
        Ledger::read(&self.ledger).context("cannot read the ledger of orders")
    }
}

impl Drop for OrderClient {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

/// Writes one order. It counts only when the server says that it is committed, without a warning, and
/// the ledger has it on disk.
fn order(
    resolver: &mut Resolver,
    session: &mut Option<(IpAddr, Session)>,
    port: u16,
    number: u64,
    ledger: &mut Ledger,
) -> io::Result<()> {
    let address = resolver.resolve()?;
    if session.as_ref().is_none_or(|(connected_to, _)| *connected_to != address) {
        *session = Some((address, Session::open(SocketAddr::new(address, port), "shop", "shop")?));
    }
    let Some((_, open)) = session else { return Ok(()) };
    open.commit(&format!("insert into orders (number, placed_at) values ({number}, now())"))?;
    ledger.append(&Entry { number, at: Timestamp::now(), fields: vec![address.to_string()] })
}

/// Holds a database against the orders that were acknowledged.
pub fn compare(acknowledged: &[Entry], database: SocketAddr) -> Result<OrderLoss> {
    let read = || Session::open(database, "shop", "shop")?.query("select number from orders");
    let rows = read().with_context(|| format!("cannot read the orders at {database}"))?.values;
    let present: HashSet<u64> = rows.iter().filter_map(|value| value.parse().ok()).collect();
    Ok(loss(acknowledged, &present))
}

fn loss(acknowledged: &[Entry], present: &HashSet<u64>) -> OrderLoss {
    let is_lost = |entry: &&Entry| !present.contains(&entry.number);
    OrderLoss {
        lost: acknowledged.iter().filter(is_lost).map(|entry| entry.number).collect(),
        complete_until: acknowledged.iter().take_while(|entry| !is_lost(entry)).last().map(|entry| entry.at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_orders_are_counted_and_dated() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let entries: Vec<Entry> =
            (1..=4).map(|number| Entry { number, at: at(number as i64), fields: Vec::new() }).collect();
        let check = |present: &[u64], lost: &[u64], complete_until: Option<i64>| {
            let found = loss(&entries, &present.iter().copied().collect());
            assert_eq!(found.lost, lost);
            assert_eq!(found.complete_until, complete_until.map(at));
        };
        check(&[1, 2, 3, 4, 9], &[], Some(4));
        check(&[1, 2], &[3, 4], Some(2));
        check(&[1, 3], &[2, 4], Some(1));
        check(&[], &[1, 2, 3, 4], None);
    }
}
