//! What the server knows for good.
//!
//! `Store` is the small transactional interface of the design: it maps one to one onto etcd, so that
//! the control plane can outlive its own site one day. `History` is local: runs that have ended, what
//! steps took, samples and proofs. Both lie in one SQLite file (write-ahead log, `synchronous=FULL`).

mod contacts;
mod database;
mod gaps;
mod history;
mod lease;
mod store;
mod watch;

pub use database::Database;
pub use history::History;
pub use store::{Compare, KeyValue, Op, Store};
