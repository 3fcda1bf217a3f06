//! When copies of an asset are taken: by a period or by a schedule.

use jiff::Timestamp;

use super::{Due, Period, Schedule};

/// When copies of an asset are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhythm<'a> {
    /// So long after the last one was begun.
    Every(Period),
    At(&'a Schedule),
}

impl Rhythm<'_> {
    /// Whether a copy is due, when the last one was begun at `last_begun`; `salt` as in `Schedule::due`.
    pub fn due(&self, last_begun: Option<Timestamp>, now: Timestamp, salt: &str) -> Due {
        let period = match self {
            Rhythm::At(schedule) => return schedule.due(last_begun, now, salt),
            Rhythm::Every(period) => *period,
        };
        // A clock that was put back must not hold copies up for ever.
        let Some(last) = last_begun.filter(|last| *last <= now) else { return Due::Now { planned: now } };
        let planned = last.checked_add(period.duration()).unwrap_or(Timestamp::MAX);
        if planned <= now { Due::Now { planned } } else { Due::Later(planned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_counts_from_the_last_copy() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let every = Rhythm::Every(Period::from_seconds(10));
        assert_eq!(every.due(None, at(100), ""), Due::Now { planned: at(100) });
        assert_eq!(every.due(Some(at(95)), at(100), ""), Due::Later(at(105)));
        assert_eq!(every.due(Some(at(80)), at(100), ""), Due::Now { planned: at(90) });
        assert_eq!(every.due(Some(at(5000)), at(100), ""), Due::Now { planned: at(100) });
    }
}
