//! Changing where users go: authoritative DNS nodes that answer the entries of the apps.
//!
//! A node answers from its `Records`, of which the highest epoch wins, and asks `decision` whether it
//! may. It never recurses, never forwards and never answers for a name that is not an entry.
//! Correctness rests on the fence between two writers, never on DNS; a node only must not make things
//! worse. Nothing here knows the server: whoever holds the records (an agent, the server) puts them in.

mod answer;
mod decision;
mod error;
mod node;
mod records;

pub use decision::{Decision, SiteView, decide};
pub use error::TrafficError;
pub use node::DnsNode;
pub use records::{Records, Update};
