//! A journal's folder: what it holds, and the ways in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId, history_file_name};
use serde::{Deserialize, Serialize};

use crate::epoch::{self, EpochGate};
use crate::find_marks::MarkFinder;
use crate::keys::SharedKeys;
use crate::live::Live;
use crate::read::{self, LogReader, SegmentBytes};
use crate::writer::{Begin, LogWriter};
use crate::{Error, Extent, JournalKeys, Lineage, Result, durable, layout};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct FormatFile {
    format: String,
    version: u32,
}

/// The journal of one asset's log. Cheap to clone; everything that it knows is on the disk, but for the end of
/// its own writer's open tail.
#[derive(Clone)]
pub struct LogJournal {
    dir: Arc<Path>,
    keys: SharedKeys,
    /// Shared with every clone, and so with the writer that one of them opens.
    live: Arc<Live>,
    /// Finds the marks of each segment that a writer of this journal closes.
    finder: Option<MarkFinder>,
}

impl LogJournal {
    /// Opens the journal in `dir`, and makes an empty one when there is none.
    pub fn open(dir: &Path, keys: JournalKeys) -> Result<Self> {
        let format = dir.join("journal.json");
        if !format.exists() {
            durable::create_folder(dir)?;
            durable::write(&format, b"{\"format\":\"levee-log-journal\",\"version\":1}\n")?;
        }
        Self::open_existing(dir, keys)
    }

    /// Opens a journal that is there already. Writes nothing, and needs no more than reading the folder.
    pub fn open_existing(dir: &Path, keys: JournalKeys) -> Result<Self> {
        let path = dir.join("journal.json");
        let text = fs::read(&path).map_err(Error::io("open the journal's", &path))?;
        let format: FormatFile =
            serde_json::from_slice(&text).map_err(|error| Error::damaged(&path, 0, error.to_string()))?;
        if format.format != "levee-log-journal" {
            return Err(Error::damaged(&path, 0, "it does not say that this is a levee-log-journal"));
        }
        if format.version != VERSION {
            return Err(Error::Version { dir: dir.to_path_buf(), found: format.version, known: VERSION });
        }
        Ok(Self { dir: dir.into(), keys: Arc::new(keys), live: Arc::default(), finder: None })
    }

    /// Has the marks of each segment found and kept when it is closed.
    pub fn with_marks(self, finder: MarkFinder) -> Self {
        Self { finder: Some(finder), ..self }
    }

    pub(crate) fn finder(&self) -> Option<MarkFinder> {
        self.finder.clone()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn keys(&self) -> &JournalKeys {
        &self.keys
    }

    pub(crate) fn shared_keys(&self) -> SharedKeys {
        self.keys.clone()
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Refuses every writer of an older epoch from now on, durably. When it returns, everything that
    /// an older writer ever got acknowledged can be read, and it gets nothing more acknowledged.
    pub fn seal(&self, epoch: Epoch) -> Result<()> {
        EpochGate::open(&self.dir)?.seal(epoch)
    }

    /// The sealed epoch; 0 when nothing was ever sealed or written.
    pub fn epoch(&self) -> Result<Epoch> {
        epoch::current(&self.dir)
    }

    /// Opens the one writer. `start` is the earliest position that the source can send; the writer's
    /// `end()` says where it must send from: behind what is already durable, or, in a new journal, at
    /// the start of the segment that holds `start`.
    ///
    /// # Errors
    /// `StaleEpoch`, `Busy`, `UnknownLineage`; `Gap` when the journal ends before `start`; `Lost` when
    /// acknowledged log is unreadable.
    pub fn writer(&self, lineage: Lineage, start: Lsn) -> Result<LogWriter> {
        LogWriter::open(self, lineage, Begin::At(start))
    }

    /// As `writer`, but goes on where the journal ends, wherever the source begins: whether it still has the log
    /// from there on is for the source to say. `start` counts in a new journal only.
    pub fn writer_at_end(&self, lineage: Lineage, start: Lsn) -> Result<LogWriter> {
        LogWriter::open(self, lineage, Begin::AtEnd { otherwise: start })
    }

    /// As `writer`, but accepts that the log between the journal's end and `start` is missing. Bases
    /// from before the gap can't be rolled forward over it: a new base backup is needed.
    pub fn writer_after_gap(&self, lineage: Lineage, start: Lsn) -> Result<LogWriter> {
        LogWriter::open(self, lineage, Begin::AfterGap(start))
    }

    /// Every system identifier and timeline that there is log or a history file of, in order.
    pub fn lineages(&self) -> Result<Vec<(SystemIdentifier, TimelineId)>> {
        let mut lineages = Vec::new();
        for system in layout::systems(&self.dir)? {
            lineages.extend(layout::timelines(&self.dir, system)?.into_iter().map(|timeline| (system, timeline)));
        }
        Ok(lineages)
    }

    /// The newest unbroken stretch of a timeline; `None` when nothing of it is here.
    pub fn extent(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> Result<Option<Extent>> {
        Ok(self.extents(system_identifier, timeline)?.pop())
    }

    /// Every unbroken stretch of a timeline, by ascending position; more than one means gaps.
    pub fn extents(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> Result<Vec<Extent>> {
        read::extents(&self.folder(system_identifier, timeline), &self.keys, &self.live)
    }

    /// The size of a timeline's segments, told by the files' names alone; `None` when there is no log of it.
    pub fn segment_size(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
    ) -> Result<Option<SegmentSize>> {
        read::segment_size(&self.folder(system_identifier, timeline))
    }

    /// Keeps a timeline's history file. The same content again is fine.
    ///
    /// # Errors
    /// `HistoryConflict` when another content is already here.
    pub fn put_history(&self, system_identifier: SystemIdentifier, timeline: TimelineId, content: &[u8]) -> Result<()> {
        match self.history(system_identifier, timeline)? {
            Some(known) if known == content => Ok(()),
            Some(_) => Err(Error::HistoryConflict { system_identifier, timeline }),
            None => {
                durable::create_folder(&layout::system_folder(&self.dir, system_identifier))?;
                durable::write(&self.history_path(system_identifier, timeline), content)
            }
        }
    }

    /// A timeline's history file, as the database wrote it.
    pub fn history(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> Result<Option<Vec<u8>>> {
        let path = self.history_path(system_identifier, timeline);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// The log from a position on, up to what is durable now. The position may lie anywhere in an
    /// unbroken stretch.
    ///
    /// # Errors
    /// `NotHere` when the position is in no stretch.
    pub fn reader(&self, system_identifier: SystemIdentifier, timeline: TimelineId, from: Lsn) -> Result<LogReader> {
        let folder = self.folder(system_identifier, timeline);
        let not_here = Error::NotHere { system_identifier, timeline, lsn: from };
        LogReader::open(folder, self.keys.clone(), &self.live, from)?.ok_or(not_here)
    }

    /// One segment, padded with zeros to its full size; `None` when nothing of it is durable here.
    /// `segment_start` is its first position.
    pub fn segment(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        segment_start: Lsn,
    ) -> Result<Option<SegmentBytes>> {
        read::segment(&self.folder(system_identifier, timeline), &self.keys, &self.live, segment_start)
    }

    pub(crate) fn folder(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> PathBuf {
        layout::timeline_folder(&self.dir, system_identifier, timeline)
    }

    fn history_path(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> PathBuf {
        layout::system_folder(&self.dir, system_identifier).join(history_file_name(timeline))
    }

    /// One journal holds one cluster's log.
    pub(crate) fn check_system(&self, lineage: &Lineage) -> Result<()> {
        match layout::systems(&self.dir)?.into_iter().find(|known| *known != lineage.system_identifier) {
            Some(known) => {
                Err(Error::UnknownLineage { dir: self.dir.to_path_buf(), known, found: lineage.system_identifier })
            }
            None => Ok(()),
        }
    }

    /// A new timeline continues the one that its history names, when that one is here.
    pub(crate) fn check_parent(&self, lineage: &Lineage) -> Result<()> {
        let system_identifier = lineage.system_identifier;
        let Some(history) = self.history(system_identifier, lineage.timeline)? else { return Ok(()) };
        let Some((parent, switched_at)) = last_switch(&history) else { return Ok(()) };
        match self.extent(system_identifier, parent)? {
            Some(extent) if extent.durable_end < switched_at => Err(Error::Gap {
                system_identifier,
                timeline: parent,
                expected: extent.durable_end,
                found: switched_at,
            }),
            _ => Ok(()),
        }
    }
}

/// The parent timeline and the position at which a timeline left it: the last line of its history file.
fn last_switch(history: &[u8]) -> Option<(TimelineId, Lsn)> {
    let text = String::from_utf8_lossy(history);
    let switch = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        Some((TimelineId(fields.next()?.parse().ok()?), fields.next()?.parse().ok()?))
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(switch).next_back()
}
