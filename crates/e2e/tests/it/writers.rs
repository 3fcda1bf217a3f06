//! Watches that there are never two writers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use levee_testing::postgres::Session;

const PAUSE: Duration = Duration::from_millis(15);

/// Asks both databases all the time whether they take writes.
pub struct WriterWatch {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl WriterWatch {
    pub fn start(databases: [SocketAddr; 2]) -> WriterWatch {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicU64::new(0));
        let (told_to_stop, counter) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let [mut first, mut second] = databases.map(|address| Watched { address, session: None });
            while !told_to_stop.load(Ordering::Relaxed) {
                if let Some(overlap) = two_writers(&mut first, &mut second) {
                    return Some(overlap);
                }
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            None
        });
        WriterWatch { stop, asked, thread: Some(thread) }
    }

    /// Ends the watch; fails when it has seen two writers, or nothing at all.
    #[track_caller]
    pub fn check(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let overlap = self.thread.take().map(JoinHandle::join);
        match overlap {
            Some(Ok(None)) => assert!(self.asked.load(Ordering::Relaxed) > 0, "nobody was ever asked"),
            Some(Ok(Some(overlap))) => panic!("there were two writers: {overlap}"),
            _ => panic!("the watch over the writers has failed"),
        }
    }
}

impl Drop for WriterWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Watched {
    address: SocketAddr,
    session: Option<Session>,
}

/// A server that takes writes goes on doing so for as long as a session lasts. So when one session says
/// yes before and after the other server says yes, both were writers at that moment, however slow the
/// machine is.
fn two_writers(first: &mut Watched, second: &mut Watched) -> Option<String> {
    if !first.takes_writes() {
        first.session = None;
        // A session that is kept from now on knows nothing of the time before.
        second.takes_writes();
        return None;
    }
    let overlap = second.takes_writes() && first.takes_writes_still();
    overlap.then(|| format!("{} and {}", first.address, second.address))
}

impl Watched {
    fn takes_writes(&mut self) -> bool {
        if self.session.is_none() {
            self.session = Session::open(self.address, "postgres", "postgres").ok();
        }
        self.takes_writes_still()
    }

    /// Asks the session that there is, and no new one.
    fn takes_writes_still(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        let question = "select not pg_is_in_recovery() and not current_setting('default_transaction_read_only')::bool";
        let answer: io::Result<_> = session.query(question);
        if answer.is_err() {
            self.session = None;
        }
        answer.is_ok_and(|outcome| outcome.values == ["t"])
    }
}

#[test]
fn two_servers_that_take_writes_are_noticed() {
    use levee_testing::postgres::Cluster;
    let clusters = [Cluster::builder().start(), Cluster::builder().start()];
    let [mut first, mut second] = [0, 1].map(|index: usize| {
        let cluster = &clusters[index];
        Watched { address: SocketAddr::new(cluster.address(), cluster.port()), session: None }
    });
    assert!(two_writers(&mut first, &mut second).is_some());
    clusters[1].set("default_transaction_read_only", "on");
    second.session = None;
    levee_testing::wait::wait_until("a reader", Duration::from_secs(30), || {
        second.session = None;
        two_writers(&mut first, &mut second).is_none()
    });
}
