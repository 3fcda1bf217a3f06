//! Index files that can't be read. Whoever only reads passes over them: one such file, which anybody can add who may add to
//! the repository, must not keep all others from being restored. Whoever removes anything must know what each says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Id;

/// One that could not be read is read again no sooner: somebody may have put it right.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct PassedOver(BTreeMap<Id, Unreadable>);

struct Unreadable {
    read_at: Instant,
    reason: String,
}

impl PassedOver {
    pub fn knows(&self, file: &Id) -> bool {
        self.0.contains_key(file)
    }

    /// Whether a file was found damaged a moment ago.
    pub fn is_due_later(&self, file: &Id, now: Instant) -> bool {
        self.0.get(file).is_some_and(|known| now.saturating_duration_since(known.read_at) < READ_AGAIN_AFTER)
    }

    /// Whether nobody has heard of it yet.
    pub fn note(&mut self, file: &Id, reason: &str, now: Instant) -> bool {
        let new = Unreadable { read_at: now, reason: reason.into() };
        self.0.insert(*file, new).is_none_or(|known| known.reason != reason)
    }

    /// One that could be read.
    pub fn forget(&mut self, file: &Id) {
        self.0.remove(file);
    }

    /// All are to be read again at once.
    pub fn make_due(&mut self) {
        self.0.clear();
    }

    /// Those that are in no list any more are damaged no longer.
    pub fn keep_only(&mut self, is_listed: impl Fn(&Id) -> bool) {
        self.0.retain(|file, _| is_listed(file));
    }

    /// Each with what is wrong with it.
    pub fn list(&self) -> Vec<(Id, String)> {
        self.0.iter().map(|(file, known)| (*file, known.reason.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_told_once_and_read_again_after_a_minute() {
        let (mut passed_over, begin, file) = (PassedOver::default(), Instant::now(), Id::of(b"file"));
        let second = |second: u64| begin + Duration::from_secs(second);
        assert!(!passed_over.is_due_later(&file, begin));
        assert!(passed_over.note(&file, "junk", begin));
        assert!(passed_over.is_due_later(&file, second(59)));
        assert!(!passed_over.is_due_later(&file, second(60)));
        assert!(!passed_over.note(&file, "junk", second(60)));
        assert!(passed_over.is_due_later(&file, second(61)));
        assert!(passed_over.note(&file, "other junk", second(120)));
        assert_eq!(passed_over.list(), [(file, "other junk".to_string())]);
        passed_over.keep_only(|_| false);
        assert!(!passed_over.knows(&file));
    }
}
