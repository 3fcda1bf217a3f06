//! What `pg_controldata` says of a data directory.

use std::collections::BTreeMap;
use std::str::FromStr;

use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

/// The facts in a cluster's control file, as of its last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    pub system_identifier: SystemIdentifier,
    /// As `pg_controldata` words it, for example `in production`.
    pub state: String,
    /// Where the latest checkpoint's record begins. After a clean stop it is the last record.
    pub checkpoint: Lsn,
    /// Where replay of the latest checkpoint begins.
    pub redo: Lsn,
    /// The latest checkpoint's timeline.
    pub timeline: TimelineId,
    /// How far a standby must replay before it is consistent; zero on a primary.
    pub min_recovery_end: Lsn,
    pub segment_size: SegmentSize,
}

impl ControlData {
    /// Whether the cluster was stopped cleanly.
    pub fn is_shut_down(&self) -> bool {
        matches!(self.state.as_str(), "shut down" | "shut down in recovery")
    }

    /// Reads the program's output in the C locale; the error names the line that is missing.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let lines: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
        fn value<T: FromStr>(lines: &BTreeMap<&str, &str>, name: &'static str) -> Result<T, &'static str> {
            lines.get(name).and_then(|value| value.parse().ok()).ok_or(name)
        }
        let segment_bytes = value(&lines, "Bytes per WAL segment")?;
        Ok(ControlData {
            system_identifier: value(&lines, "Database system identifier")?,
            state: value(&lines, "Database cluster state")?,
            checkpoint: value(&lines, "Latest checkpoint location")?,
            redo: value(&lines, "Latest checkpoint's REDO location")?,
            timeline: TimelineId(value(&lines, "Latest checkpoint's TimeLineID")?),
            min_recovery_end: value(&lines, "Minimum recovery ending location")?,
            segment_size: SegmentSize::new(segment_bytes).map_err(|_| "Bytes per WAL segment")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
pg_control version number:            1300
Database system identifier:           7300000000000000001
Database cluster state:               shut down
pg_control last modified:             Fri 20 Nov 2026 11:22:33 AM UTC
Latest checkpoint location:           0/3000028
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/0
Bytes per WAL segment:                16777216
";

    #[test]
    fn the_output_is_read_and_a_missing_line_is_named() {
        let control = ControlData::parse(OUTPUT).unwrap();
        assert!(control.is_shut_down());
        assert_eq!((control.checkpoint, control.timeline), (Lsn(0x300_0028), TimelineId(2)));
        assert_eq!(control.segment_size, SegmentSize::DEFAULT);
        let without = OUTPUT.replace("REDO", "UNDO");
        assert_eq!(ControlData::parse(&without), Err("Latest checkpoint's REDO location"));
        assert!(!ControlData::parse(&OUTPUT.replace("shut down", "in production")).unwrap().is_shut_down());
    }
}
