//! PostgreSQL 13 to 17.

mod access_rules;
pub mod archive;
pub mod base;
pub mod fetch_wal;
pub mod fitness;
pub mod gate;
pub mod hindrance;
pub mod instance;
mod journal_sink;
pub mod marks;
mod preflight;
mod quorum;
mod references;
pub mod restore;
mod settings_files;
mod sink;
pub mod slot;
pub mod standby;

pub use journal_sink::JournalSink;
pub use preflight::{Expect, Needs, SourceReport, Warning, preflight};
pub use quorum::StandbyNames;
pub use sink::{Lineage, LogChunk, LogSink, SinkError, SourceLog};
