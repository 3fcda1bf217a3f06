//! Finding marks while a segment is closed, when its log passes by anyway.

use std::sync::Arc;

use levee_model::postgres::{Lsn, SegmentSize};

use crate::Lineage;
use crate::marks::{Mark, MarkBlock};

/// Looks through one timeline's log for marks. The engine that knows the log has it.
pub trait FindMarks: Send {
    /// Takes the next bytes, and adds the marks whose records end in them.
    fn feed(&mut self, bytes: &[u8], marks: &mut Vec<Mark>);

    /// The position behind which no mark was missed: where the first record begins that was seen whole. `None` as long
    /// as there was none.
    fn complete_from(&self) -> Option<Lsn>;
}

/// Begins to look at the start of a segment, whose first bytes may belong to a record that began before it.
pub type MarkFinder = Arc<dyn Fn(SegmentSize, Lsn) -> Box<dyn FindMarks> + Send + Sync>;

/// Goes from segment to segment, so that a record that lies in two of them is found.
pub(crate) struct Marking {
    finder: MarkFinder,
    /// Who has looked through everything before a position.
    carried: Option<(Lsn, Box<dyn FindMarks>)>,
}

impl Marking {
    pub(crate) fn new(finder: MarkFinder) -> Self {
        Self { finder, carried: None }
    }

    /// Begins with the log of one segment.
    pub(crate) fn begin(&mut self, lineage: &Lineage, start: Lsn) -> Looking<'_> {
        let found = match self.carried.take() {
            Some((end, found)) if end == start => found,
            _ => (self.finder)(lineage.segment_size, start),
        };
        Looking { marking: self, found, start, marks: Vec::new() }
    }
}

/// One segment that is looked through. Dropped without `end`, the next one begins anew.
pub(crate) struct Looking<'a> {
    marking: &'a mut Marking,
    found: Box<dyn FindMarks>,
    start: Lsn,
    marks: Vec<Mark>,
}

impl Looking<'_> {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.found.feed(bytes, &mut self.marks);
    }

    /// All of the segment was fed. The block begins where nothing was missed any more.
    pub(crate) fn end(self, end: Lsn) -> Option<MarkBlock> {
        let start = self.found.complete_from().map(|from| from.max(self.start)).filter(|from| *from < end);
        self.marking.carried = Some((end, self.found));
        let mut marks = self.marks;
        let start = start?;
        marks.retain(|mark| mark.lsn > start && mark.lsn <= end);
        Some(MarkBlock { start, end, marks })
    }
}
