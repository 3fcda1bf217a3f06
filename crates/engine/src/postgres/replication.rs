use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId, history_file_name};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::connection::describe;
use super::{Connection, Error, ReplicationStream, Result, quote_identifier};

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentifiedSystem {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    /// The end of what is flushed; on a standby, of what is received or replayed.
    pub flushed: Lsn,
}

/// A timeline history file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    pub timeline: TimelineId,
    pub content: Vec<u8>,
}

impl TimelineHistory {
    /// Where this timeline began on its parent, with the parent: the last line. `None` when the file is damaged.
    pub fn branch_point(&self) -> Option<(TimelineId, Lsn)> {
        self.branches().last().copied()
    }

    /// Every ancestor with the position at which the next timeline left it, oldest first.
    ///
    /// Format: one line per ancestor, `TIMELINE<tab>LSN<tab>REASON`; `#` begins a comment.
    pub fn branches(&self) -> Vec<(TimelineId, Lsn)> {
        let text = String::from_utf8_lossy(&self.content);
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            Some((TimelineId(words.next()?.parse().ok()?), words.next()?.parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }
}

impl Connection {
    pub fn identify_system(&mut self) -> Result<IdentifiedSystem> {
        let doing = "identifying the server";
        let rows = self.simple_query("IDENTIFY_SYSTEM")?;
        let row = rows.first().ok_or_else(|| Error::protocol(doing, "no row"))?;
        Ok(IdentifiedSystem {
            system_identifier: row.parsed(doing, "systemid")?,
            timeline: TimelineId(row.parsed(doing, "timeline")?),
            flushed: row.parsed(doing, "xlogpos")?,
        })
    }

    /// Reads the history file of a timeline after the first.
    pub fn timeline_history(&mut self, timeline: TimelineId) -> Result<TimelineHistory> {
        let doing = "reading a timeline's history";
        // The content is sent as raw bytes; it is ASCII but for the reason, where a replacement character may appear.
        let rows = self.simple_query(&format!("TIMELINE_HISTORY {timeline}"))?;
        let row = rows.first().ok_or_else(|| Error::protocol(doing, "no row"))?;
        if row.by_name("filename") != Some(history_file_name(timeline).as_str()) {
            return Err(Error::protocol(doing, format!("a file named {:?}", row.by_name("filename"))));
        }
        let content = row.by_name("content").unwrap_or_default().as_bytes().to_vec();
        Ok(TimelineHistory { timeline, content })
    }

    /// Creates a physical slot that holds the log from the last checkpoint's redo position on.
    pub fn create_physical_slot(&mut self, slot: &str) -> Result<()> {
        self.simple_query(&format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quote_identifier(slot)))?;
        Ok(())
    }

    /// Fails with SQLSTATE 55006 while a receiver uses the slot.
    pub fn drop_slot(&mut self, slot: &str) -> Result<()> {
        self.simple_query(&format!("DROP_REPLICATION_SLOT {}", quote_identifier(slot)))?;
        Ok(())
    }

    /// Streams the log of `timeline` from `from` on, by physical replication.
    pub fn start_replication(
        mut self,
        slot: Option<&str>,
        timeline: TimelineId,
        from: Lsn,
    ) -> Result<ReplicationStream> {
        let doing = "starting replication";
        let slot = slot.map(|slot| format!("SLOT {} ", quote_identifier(slot))).unwrap_or_default();
        let command = format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}");
        self.send(doing, |buffer| frontend::query(&command, buffer))?;
        match self.receive_or_error(doing)? {
            Message::CopyOutResponse(_) => Ok(ReplicationStream::new(self, from)),
            // The position is the very end of a timeline that is not the newest: nothing is left to stream.
            Message::RowDescription(_) => {
                let row = match self.receive_or_error(doing)? {
                    Message::DataRow(row) => row,
                    other => return Err(Error::protocol(doing, describe(&other))),
                };
                ReplicationStream::ended(self, from, &row)
            }
            other => Err(Error::protocol(doing, describe(&other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_where_a_timeline_branched_off() {
        let content = b"1\t0/30001A0\tno recovery target specified\n\n2\t0/5000000\tbefore 2024-01-01\n".to_vec();
        let history = TimelineHistory { timeline: TimelineId(3), content };
        assert_eq!(history.branches(), [(TimelineId(1), Lsn(0x30001A0)), (TimelineId(2), Lsn(0x5000000))]);
        assert_eq!(history.branch_point(), Some((TimelineId(2), Lsn(0x5000000))));
        let damaged = TimelineHistory { timeline: TimelineId(2), content: b"\xff\0x".to_vec() };
        assert_eq!(damaged.branch_point(), None);
    }
}
