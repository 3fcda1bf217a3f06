//! Up to when the writer of a database has offered log, also where there was no room for it.
//!
//! What has come says how old log is, and old log that goes makes room. On a full disk nothing comes. There each refusal
//! says that the writer has more, and how much time has passed since log came last says a clock that nobody sets.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use levee_model::AssetName;

/// By database. In memory alone: after a restart it is counted anew, from the end of what is stored.
pub type OfferedLog = BTreeMap<AssetName, Offered>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// By the source's clock, at the latest when this was found out.
    pub until: Timestamp,
    at: Instant,
}

impl Offered {
    /// What is known now, when the log here ends at `log_until` and some was last refused at `refused_at`. `None` while there
    /// never was any.
    pub fn look(
        known: Option<Self>,
        log_until: Option<Timestamp>,
        refused_at: Option<Instant>,
        now: Instant,
    ) -> Option<Self> {
        let known = known.map(|known| known.refused(refused_at));
        let stored = log_until.map(|until| Self { until, at: now });
        match (known, stored) {
            (Some(known), Some(stored)) if stored.until <= known.until => Some(known),
            (known, stored) => stored.or(known),
        }
    }

    fn refused(self, refused_at: Option<Instant>) -> Self {
        let Some(at) = refused_at.filter(|at| *at > self.at) else { return self };
        let passed = SignedDuration::try_from(at.saturating_duration_since(self.at)).unwrap_or(SignedDuration::ZERO);
        Self { until: self.until.checked_add(passed).unwrap_or(self.until), at }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_passes_with_what_comes_and_with_what_is_refused_and_with_nothing_else() {
        let begun = Instant::now();
        let after = |hours: u64| begun + Duration::from_secs(hours * 3600);
        let at = |hours: i64| Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap();
        let mut known = None;
        let mut look = |hour: u64, log_until: Option<i64>, refused: Option<u64>| {
            known = Offered::look(known, log_until.map(at), refused.map(after), after(hour));
            known.map(|known| known.until)
        };
        assert_eq!(look(0, None, Some(0)), None, "nothing says when that was");
        assert_eq!(look(1, Some(1), Some(0)), Some(at(1)));
        assert_eq!(look(5, Some(5), Some(0)), Some(at(5)));
        // It falls silent.
        assert_eq!(look(50, Some(5), Some(0)), Some(at(5)));
        // It is there, and the disk is full.
        assert_eq!(look(60, Some(5), Some(59)), Some(at(59)));
        assert_eq!(look(90, Some(5), Some(59)), Some(at(59)), "it is silent again");
        assert_eq!(look(100, Some(5), Some(99)), Some(at(99)));
        // There is some room, and it catches up.
        assert_eq!(look(101, Some(40), Some(99)), Some(at(99)));
        assert_eq!(look(102, Some(40), Some(101)), Some(at(101)));
        assert_eq!(look(103, Some(103), Some(101)), Some(at(103)));
    }
}
