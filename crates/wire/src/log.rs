//! Log streams: the writer's agent sends a database's log, the recovering agent makes it durable and says so.

mod receive;
mod send;
mod session;

pub(crate) use receive::receive;
pub(crate) use send::open;
pub use send::{LogEnded, LogError, LogReceiver, LogSender, LogStream};
pub use session::{LogChunk, LogOpen, LogRefusal, LogSession, RefusalReason};

/// The largest piece of log in one message. PostgreSQL sends at most 128 KiB at a time.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
