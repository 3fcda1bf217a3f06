//! Which packs are to be read next, so that everything is read within a stated time and the reading is spread evenly.

use jiff::{SignedDuration, Timestamp};

use crate::Id;

/// A pack is read again after this share of the time at the earliest, and at the latest, in percent: between them its
/// own moment lies, so that what came on one day is not all read on one day. The rest is room for a machine that is
/// busy or away.
const EARLIEST_PERCENT: i64 = 60;
const LATEST_PERCENT: i64 = 95;
/// What is damaged is looked at again so soon: a cable may have been loose, and whoever mends it waits for the word.
const DAMAGED_AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(1);
/// What never was sound came so, mostly, and nobody mends it: the wait doubles up to this, or whoever sends junk would have the
/// disk read nothing else.
const JUNK_AGAIN_AFTER_MAX: SignedDuration = SignedDuration::from_hours(1);

/// What is known of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackAge {
    pub id: Id,
    pub bytes: u64,
    pub stored_at: Timestamp,
    /// When it was last read and found sound.
    pub verified_at: Option<Timestamp>,
    /// When it was last found damaged, if it was not sound since.
    pub damaged_at: Option<Timestamp>,
}

/// Within what time everything is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub within: SignedDuration,
}

impl Pace {
    /// The packs to be read now, the most urgent first: what was never read, then what is due the longest, and last what is
    /// known to be damaged. However much of that there is, it keeps nothing else from being read in time.
    pub fn due<'a>(&self, packs: &'a [PackAge], now: Timestamp) -> Vec<&'a PackAge> {
        let mut due: Vec<(bool, bool, Timestamp, &PackAge)> = packs
            .iter()
            .map(|pack| (pack.damaged_at.is_some(), pack.verified_at.is_some(), self.due_at(pack, now), pack))
            .filter(|(_, _, due_at, _)| *due_at <= now)
            .collect();
        due.sort_by_key(|(is_damaged, was_read, due_at, pack)| (*is_damaged, *was_read, *due_at, pack.id));
        due.into_iter().map(|(_, _, _, pack)| pack).collect()
    }

    fn due_at(&self, pack: &PackAge, now: Timestamp) -> Timestamp {
        if let Some(damaged_at) = pack.damaged_at {
            let wait = match pack.verified_at {
                Some(_) => DAMAGED_AGAIN_AFTER,
                // As long again as it had been here at the last look.
                None => {
                    let been_here = damaged_at.duration_since(pack.stored_at);
                    been_here.clamp(DAMAGED_AGAIN_AFTER, JUNK_AGAIN_AFTER_MAX)
                }
            };
            // Found in the future: the clock was put back since.
            return if damaged_at > now { now } else { damaged_at.checked_add(wait).unwrap_or(Timestamp::MAX) };
        }
        match pack.verified_at {
            None => Timestamp::MIN,
            // Read in the future: the clock was put back since.
            Some(verified_at) if verified_at > now => now,
            Some(verified_at) => {
                let spread = i64::from(pack.id.as_bytes()[0]) * (LATEST_PERCENT - EARLIEST_PERCENT) / 255;
                let wait_s = self.within.as_secs() / 100 * (EARLIEST_PERCENT + spread);
                verified_at.checked_add(SignedDuration::from_secs(wait_s)).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// The packs that were not read within the time, damaged ones aside.
    pub fn overdue<'a>(&self, packs: &'a [PackAge], now: Timestamp) -> impl Iterator<Item = &'a PackAge> {
        let since = now.checked_sub(self.within).unwrap_or(Timestamp::MIN);
        packs.iter().filter(move |pack| pack.damaged_at.is_none() && pack.verified_at.unwrap_or(pack.stored_at) < since)
    }

    /// How much must be read in a second, in the mean, so that so much is read in time.
    pub fn bytes_per_second(&self, total_bytes: u64) -> f64 {
        let mean_percent = (EARLIEST_PERCENT + LATEST_PERCENT) as f64 / 2.0;
        total_bytes as f64 / (self.within.as_secs_f64().max(1.0) * mean_percent / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);
    const PACE: Pace = Pace { within: SignedDuration::from_hours(30 * 24) };

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn pack(number: u32, stored_at: Timestamp) -> PackAge {
        let id = Id::of(&number.to_le_bytes());
        PackAge { id, bytes: 16 << 20, stored_at, verified_at: None, damaged_at: None }
    }

    /// Half a year of a repository that grows, read every six hours.
    #[test]
    fn everything_is_read_in_time_and_evenly() {
        const DAYS: u32 = 180;
        let mut packs: Vec<PackAge> = (0..400).map(|number| pack(number, start())).collect();
        let mut read_by_day = vec![0u32; DAYS as usize];
        let mut now = start();
        for turn in 0..DAYS * 4 {
            now += HOUR * 6;
            packs.push(pack(10_000 + turn, now));
            let due: HashSet<Id> = PACE.due(&packs, now).into_iter().map(|pack| pack.id).collect();
            read_by_day[turn as usize / 4] += due.len() as u32;
            packs.iter_mut().filter(|pack| due.contains(&pack.id)).for_each(|pack| pack.verified_at = Some(now));
            assert_eq!(PACE.overdue(&packs, now).count(), 0, "turn {turn}");
        }
        // Most came on the first day; from the third round on the days are alike.
        let mean = 1000.0 / (30.0 * 0.775);
        let most = *read_by_day[90..].iter().max().unwrap();
        assert!(f64::from(most) < 2.0 * mean, "{most} packs on one day, {mean} in the mean");
        let in_mean = f64::from(read_by_day[90..].iter().sum::<u32>()) / 90.0;
        assert!((0.6 * mean..1.3 * mean).contains(&in_mean), "{in_mean} {mean}");
    }

    #[test]
    fn what_was_never_read_comes_first_and_damage_is_looked_at_again() {
        let now = start() + HOUR * 24 * 100;
        let old = PackAge { verified_at: Some(start()), ..pack(1, start()) };
        let older = PackAge { verified_at: Some(start() - HOUR), ..pack(1, start()) };
        let new = pack(2, now);
        let read = PackAge { verified_at: Some(now - HOUR), ..pack(3, start()) };
        let damaged = PackAge { damaged_at: Some(now - HOUR / 120), ..pack(4, start()) };
        let packs = [old.clone(), older.clone(), new.clone(), read, damaged.clone()];
        assert_eq!(PACE.due(&packs, now), [&new, &older, &old]);
        assert_eq!(PACE.overdue(&packs, now).count(), 2);
        assert_eq!(PACE.due(&[damaged], now + HOUR).len(), 1);
        // The clock was put back by a year.
        let from_the_future = PackAge { verified_at: Some(now + HOUR * 24 * 365), ..pack(5, now) };
        assert_eq!(PACE.due(&[from_the_future], now).len(), 1);
    }

    #[test]
    fn junk_keeps_nothing_from_being_read_in_time() {
        let now = start() + HOUR * 24 * 100;
        let overdue = PackAge { verified_at: Some(start()), ..pack(1, start()) };
        let minute = HOUR / 60;
        let junk = (10..110).map(|number| PackAge { damaged_at: Some(now - minute), ..pack(number, now - minute * 2) });
        let packs: Vec<PackAge> = junk.chain([overdue.clone()]).collect();
        let due = PACE.due(&packs, now);
        assert_eq!((due[0], due.len()), (&overdue, 101));
        // It is looked at ever more seldom, and never given up.
        let mut junk = pack(2, start());
        let mut looks = Vec::new();
        for minutes in 0..24 * 60 {
            let now = start() + minute * minutes;
            if !PACE.due(std::slice::from_ref(&junk), now).is_empty() {
                looks.push(minutes);
                junk.damaged_at = Some(now);
            }
        }
        assert_eq!(&looks[..9], [0, 1, 2, 4, 8, 16, 32, 64, 124]);
        assert_eq!(*looks.last().unwrap(), 124 + 21 * 60);
        // What was sound before is being mended, perhaps.
        let rotten = PackAge { verified_at: Some(start()), damaged_at: Some(now - minute), ..pack(3, start()) };
        assert_eq!(PACE.due(std::slice::from_ref(&rotten), now).len(), 1);
        // The clock was put back by a year.
        let from_the_future = PackAge { damaged_at: Some(now + HOUR * 24 * 365), ..pack(4, start()) };
        assert_eq!(PACE.due(std::slice::from_ref(&from_the_future), now).len(), 1);
    }

    #[test]
    fn the_rate_says_whether_it_can_be_done() {
        let rate = PACE.bytes_per_second(1 << 40) / f64::from(1 << 20);
        assert!((0.5..0.55).contains(&rate), "{rate} MiB/s for a TiB in 30 days");
    }
}
