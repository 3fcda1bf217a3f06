//! Databases: base backup, continuous log archive, restore to a moment, standby and promotion.
//!
//! One module per engine. A module writes to a sink and reads from a source; whoever uses it joins
//! those to a journal on this machine or to the wire. Nothing here knows the server.

mod error;
pub mod postgres;
mod stop;

pub(crate) use error::error_text;
pub use error::{Error, Result};
pub use stop::StopSignal;
