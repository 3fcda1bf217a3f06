//! The vocabulary of Levee: names, positions, epochs, and what an operator asks for.
//!
//! Nothing here does I/O, reads a clock or starts a thread. Every other crate speaks in these types.

mod address;
pub mod control;
mod epoch;
mod flush;
mod names;
mod position;
pub mod postgres;
pub mod protection;
mod timetable;

pub use address::{Address, BucketAddress, ContainerAddress, InvalidAddress, SftpAddress};
pub use epoch::Epoch;
pub use flush::{FLUSH_INTERVAL, FlushSchedule};
pub use names::{AgentId, AppName, AssetId, AssetName, InvalidName, RunId, SiteName, VaultName};
pub use position::{LogPosition, Position};
pub use timetable::{Timetable, TimetableError};
