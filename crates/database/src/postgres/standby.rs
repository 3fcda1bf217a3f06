//! A standby that replays what a journal receives, so that a switchover need not wait for a restore.
//!
//! It is prepared as any restore, with `Mode::Standby`, and asks `restore_command` for the next segment
//! several times a second. Whole segments come as they are closed; the last one comes padded with zeros
//! as far as it is durable, is replayed up to the zeros, and is asked for again.

use std::time::{Duration, Instant};

use levee_engine::postgres::{ConnectOptions, Connection};
use levee_model::postgres::{Lsn, TimelineId};

use super::instance::{self, Instance, ServerState};
use crate::{Error, Result};

/// How far a standby is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub replayed: Lsn,
    /// The bytes of log that are durable and not replayed yet.
    pub behind_bytes: u64,
}

/// Where a standby is, against where the journal ends.
pub fn progress(connect: &ConnectOptions, durable_end: Lsn) -> Result<Progress> {
    let mut connection = Connection::connect(connect).map_err(Error::engine("connecting to a standby"))?;
    let replayed = instance::last_replayed(&mut connection)?.ok_or(Error::IsPrimary)?;
    Ok(Progress { replayed, behind_bytes: durable_end.bytes_since(replayed) })
}

/// Starts a prepared standby, and waits until it is consistent and open for reading.
pub fn start(standby: &Instance, timeout: Duration) -> Result<()> {
    standby.start(ServerState::Standby, timeout).map(drop)
}

/// Waits until the standby has replayed everything before `lsn`, and ends recovery: the server then
/// writes on a new timeline.
pub fn promote_at(
    standby: &Instance,
    connect: &ConnectOptions,
    lsn: Lsn,
    timeout: Duration,
) -> Result<(TimelineId, Duration)> {
    let begun = Instant::now();
    instance::wait_replayed(connect, lsn, timeout)?;
    let timeline = standby.promote(timeout)?;
    Ok((timeline, begun.elapsed()))
}
