//! The shop's clients: they write numbered orders wherever they are taken, and remember those that were
//! acknowledged.

use std::net::SocketAddr;
use std::time::Duration;

use levee_testing::postgres::Session;
pub use levee_testing::rows::Row as Order;
use levee_testing::rows::{self, Load, Rows};

const LOAD: Load =
    Load { user: "shop", database: "shop", table: "orders", clients: 4, pause: Duration::from_millis(2) };
/// After so many it is plain that a database takes orders.
const SOME: usize = 20;

/// Clients that order until this is dropped.
pub struct Orders(Rows);

impl Orders {
    /// Orders at whichever of the addresses takes orders.
    pub fn start(databases: [SocketAddr; 2]) -> Orders {
        Orders(Rows::start(LOAD, &databases))
    }

    pub fn acknowledged(&self) -> Vec<Order> {
        self.0.acknowledged()
    }

    pub fn count_at(&self, database: SocketAddr) -> usize {
        self.0.count_at(database)
    }

    /// Waits until some more orders were acknowledged at a database.
    #[track_caller]
    pub fn wait_for_more_at(&self, database: SocketAddr, timeout: Duration) {
        self.0.wait_for_more_at(database, SOME, timeout);
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
    let there = Session::open(database, "shop", "shop").and_then(|mut open| open.query("select number from orders"));
    let there = there.unwrap_or_else(|error| panic!("cannot read the orders at {database}: {error}"));
    rows::check_all_in(acknowledged, there.values.iter().map(String::as_str));
    acknowledged.len()
}
