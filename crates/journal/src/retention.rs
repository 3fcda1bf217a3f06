//! What of a journal is kept: pins, and the one place that removes anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{Error, LogJournal, Result, durable, layout};

/// Nothing of this timeline from this position on may be removed, as long as the pin is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub from: Lsn,
}

/// A stretch of log that must stay, both ends included: what a kept base needs to become consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepRange {
    pub start: Lsn,
    pub stop: Lsn,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimReport {
    pub segments: u64,
    pub bytes: u64,
}

type Pins = BTreeMap<String, Pin>;

impl LogJournal {
    /// Sets a pin, durably; one of the same name is replaced. A base backup pins its redo position
    /// before it starts.
    pub fn pin(&self, name: &str, pin: Pin) -> Result<()> {
        self.change_pins(|pins| {
            pins.insert(name.to_string(), pin);
        })
    }

    /// Removes a pin; that there is none is fine.
    pub fn unpin(&self, name: &str) -> Result<()> {
        self.change_pins(|pins| {
            pins.remove(name);
        })
    }

    pub fn pins(&self) -> Result<BTreeMap<String, Pin>> {
        read_pins(&self.pins_path())
    }

    /// Removes the closed segments of one timeline that lie wholly below `keep_from`, below every pin,
    /// and outside every range to keep. Open tails stay. The caller removes bases first, then their log.
    ///
    /// Positions are of this timeline alone: a timeline that nothing needs any more is trimmed with the
    /// highest position.
    pub fn trim(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        keep_from: Lsn,
        keep: &[KeepRange],
    ) -> Result<TrimReport> {
        let _owner = self.trim_lock()?;
        let pinned = self
            .pins()?
            .into_values()
            .filter(|pin| (pin.system_identifier, pin.timeline) == (system_identifier, timeline));
        let keep_from = pinned.map(|pin| pin.from).fold(keep_from, Lsn::min);
        let folder = self.folder(system_identifier, timeline);
        let mut report = TrimReport::default();
        let files = layout::list(&folder)?;
        for closed in files.closed {
            let needed = |range: &KeepRange| range.start < closed.end && closed.start <= range.stop;
            if closed.end > keep_from || keep.iter().any(needed) {
                continue;
            }
            let bytes = fs::metadata(&closed.path).map_err(Error::io("read", &closed.path))?.len();
            durable::remove(&closed.path)?;
            for marks in files.marks.iter().filter(|marks| closed.start <= marks.start && marks.end <= closed.end) {
                durable::remove(&marks.path)?;
            }
            report.segments += 1;
            report.bytes += bytes;
        }
        if report.segments > 0 {
            durable::sync_folder(&folder)?;
        }
        Ok(report)
    }

    fn change_pins(&self, change: impl FnOnce(&mut Pins)) -> Result<()> {
        let _owner = self.trim_lock()?;
        let path = self.pins_path();
        let mut pins = read_pins(&path)?;
        change(&mut pins);
        let text = serde_json::to_vec_pretty(&pins).map_err(|error| Error::damaged(&path, 0, error.to_string()))?;
        durable::write(&path, &text)
    }

    fn pins_path(&self) -> PathBuf {
        self.dir().join("pins.json")
    }

    /// Held by whoever trims or changes pins, so that no pin comes too late.
    fn trim_lock(&self) -> Result<fs::File> {
        let path = self.dir().join("trim.lock");
        let file = durable::lock_file(&path)?;
        durable::lock(&file, &path, FlockOperation::LockExclusive)?;
        Ok(file)
    }
}

fn read_pins(path: &Path) -> Result<Pins> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| Error::damaged(path, 0, error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Pins::new()),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
