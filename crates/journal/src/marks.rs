//! Marks: where in a log something happened that an operator can name.
//!
//! The engine that knows the log finds them (`find_marks`); here they are only kept (`mark_files`), in blocks that
//! each cover a range of the log, so that it is known where marks have been looked for.

use jiff::Timestamp;
use levee_model::postgres::Lsn;

/// Something that happened at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The position just behind the record: log up to here contains what is marked.
    pub lsn: Lsn,
    /// The source's clock, which may run backwards.
    pub time: Timestamp,
    pub kind: MarkKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Commit { xid: u32 },
    RestorePoint { name: String },
}

/// The log between two positions, and every mark in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkBlock {
    pub start: Lsn,
    pub end: Lsn,
    /// By ascending position.
    pub marks: Vec<Mark>,
}

/// A position at which the log reaches a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeCandidate {
    /// Restoring up to here gives everything up to the moment.
    pub lsn: Lsn,
    /// When the last commit before the position was made.
    pub last_commit: Timestamp,
}

/// What the marks say of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeLookup {
    /// There is no commit in the range at all.
    NoCommits,
    /// Every commit is later.
    BeforeFirst {
        first: Timestamp,
    },
    /// Every commit is earlier or at that moment; whether the log reaches so far, only its end can tell.
    AfterLast {
        last: TimeCandidate,
    },
    At(TimeCandidate),
    /// The source's clock ran backwards: it passed the moment more than once. Ask for a position.
    Ambiguous(Vec<TimeCandidate>),
}

impl TimeLookup {
    /// Looks a moment up among marks by ascending position.
    pub fn among<'a>(marks: impl IntoIterator<Item = &'a Mark>, moment: Timestamp) -> Self {
        let commits = marks.into_iter().filter(|mark| matches!(mark.kind, MarkKind::Commit { .. }));
        let mut first = None;
        let mut previous: Option<TimeCandidate> = None;
        let mut crossings = Vec::new();
        for commit in commits {
            first = first.min(Some(commit.time)).or(Some(commit.time));
            match previous {
                Some(before) if before.last_commit <= moment && commit.time > moment => crossings.push(before),
                _ => {}
            }
            previous = Some(TimeCandidate { lsn: commit.lsn, last_commit: commit.time });
        }
        let (Some(first), Some(last)) = (first, previous) else { return TimeLookup::NoCommits };
        let reached_at_end = last.last_commit <= moment;
        match (crossings.len(), reached_at_end) {
            (0, true) => TimeLookup::AfterLast { last },
            (0, false) => TimeLookup::BeforeFirst { first },
            (1, false) => TimeLookup::At(crossings[0]),
            _ => {
                crossings.extend(reached_at_end.then_some(last));
                TimeLookup::Ambiguous(crossings)
            }
        }
    }
}
