//! A database: its log goes to the other site's journal as it is written, and a base backup every so often
//! into the repository there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_database::postgres::archive::{self, ArchiveEnd, ArchiveOptions, ArchiveStatus};
use levee_database::postgres::base::{self, BaseBackup, BaseOptions};
use levee_database::postgres::{Expect, Needs, SourceReport, Warning, preflight, slot};
use levee_engine::postgres::ConnectOptions;
use levee_model::control::{AssetPoint, AssetState, Assignment, Failure};
use levee_model::protection::{Due, PostgresSite, PostgresSpec};
use levee_model::{AssetId, AssetName, LogPosition, Position};

use super::super::app::{App, failure, in_full, transient};
use super::super::database;
use super::super::gaps::Gaps;
use super::super::hooks::{self, Hooked, NotMade, Saved};
use super::super::queue::Entered;
use super::super::sink::WireSink;
use super::super::task::beside;
use crate::durable;

/// How soon something that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a receiver of the same name may take to go: this process's own of a moment ago may still be there.
const PREDECESSOR_MAX: Duration = Duration::from_secs(5);
const PREDECESSOR_LOOK: Duration = Duration::from_millis(250);
/// An archive that is less behind than this keeps up: commits may wait for it.
const KEEPS_UP_BYTES: u64 = 1 << 20;
/// How soon the operator's command is asked again whether a base backup may be taken.
const HOOK_AGAIN_AFTER: Duration = Duration::from_secs(15);
/// What is said of the operator's commands, by the time at which they run.
const BEFORE: &str = "before-copy";
const AFTER: &str = "after-copy";
/// How often it is looked whether a base backup is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub fn run(app: &Arc<App>, assignment: &Arc<Assignment>, asset: &AssetName, spec: &PostgresSpec, stop: &StopSignal) {
    app.board.update(asset, |entry| {
        if entry.point.is_none() {
            entry.state = AssetState::Unprotected;
        }
    });
    let writer = Writer {
        app,
        assignment,
        id: AssetId::new(app.name.clone(), asset.clone()),
        spec,
        stop,
        status: Mutex::default(),
        gap: Mutex::default(),
    };
    let mut after_gap = false;
    loop {
        match writer.protect(after_gap) {
            Ok(()) => {}
            Err(Ended::Gap(message)) => {
                writer.gaps().note(&message, Timestamp::now());
                app.board.problem(asset, message);
                after_gap = true;
            }
            Err(Ended::Failed(failure)) => app.board.problem(asset, failure.message),
        }
        if stop.wait(RETRY_AFTER) {
            return;
        }
    }
}

/// Why archiving ended.
enum Ended {
    /// The log that is needed next is gone at the source.
    Gap(String),
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Ended::Failed(failure)
    }
}

/// A base backup at the other site.
struct Known {
    base: BaseBackup,
    /// By this machine's clock, by which the next one is due: the source's may be off, and then there would be one base
    /// after the other.
    begun_at: Timestamp,
}

struct Writer<'a> {
    app: &'a Arc<App>,
    assignment: &'a Arc<Assignment>,
    id: AssetId,
    spec: &'a PostgresSpec,
    stop: &'a StopSignal,
    /// How the archive stands, for the thread that takes base backups.
    status: Mutex<ArchiveStatus>,
    /// What the gap is that no base backup lies behind yet.
    gap: Mutex<Option<String>>,
}

impl Writer<'_> {
    fn here(&self) -> Result<&PostgresSite, Failure> {
        database::place(self.spec, &self.assignment.site)
    }

    /// Archives until stopped or until something fails that a new attempt may mend.
    ///
    /// After a gap the log goes on behind it, and a new base backup is taken: what was stored before stays
    /// restorable up to the gap.
    fn protect(&self, after_gap: bool) -> Result<(), Ended> {
        let connect = database::connect_options(&self.app.context.secrets, self.here()?)?;
        let slot = slot::name_for(&self.id);
        let needs = Needs {
            expect: Expect::Primary,
            zero_loss: self.spec.zero_loss,
            application_name: slot.clone(),
            slot: Some(slot.clone()),
            system_identifier: None,
        };
        let report = match self.preflight_after_predecessor(&connect, &needs) {
            // Copies of a database whose commits do not wait yet are better than none. The status goes on saying so.
            Err(levee_database::Error::NotInEveryQuorum { .. } | levee_database::Error::CommitsDoNotWait { .. }) => {
                preflight(&connect, &Needs { zero_loss: false, ..needs })
            }
            report => report,
        };
        let report = report.map_err(|error| failure(format!("{} can't be protected: {}", self.id, in_full(&error))))?;
        // Ages and moments are told by the source's clock, and shown beside this machine's.
        let is_skew = |warning: &&Warning| matches!(warning, Warning::ClockSkew { .. });
        let skew = report.warnings.iter().find(is_skew).map(|warning| format!("{}: {warning}", self.id));
        let options = ArchiveOptions {
            slot_bound_bytes: Some(self.spec.slot_bound.bytes()),
            zero_loss: self.spec.zero_loss,
            system_identifier: Some(report.system_identifier),
            ..ArchiveOptions::new(connect, slot)
        };
        let mut sink = WireSink::new(self.app.context.clone(), self.assignment.clone(), self.id.clone(), after_gap)
            .map_err(|error| failure(format!("cannot open a log stream: {error}")))?;
        let bases_stop =
            StopSignal::new().map_err(|error| failure(format!("cannot start the base backups: {error}")))?;
        // What an earlier attempt knew must not let a base backup begin before the log arrives again.
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = ArchiveStatus::default();
        *self.gap.lock().unwrap_or_else(PoisonError::into_inner) = self.gaps().open();
        let ended = beside(
            self.stop,
            &bases_stop,
            || archive::run(&options, &mut sink, self.stop, &mut |status| self.note(status, skew.as_ref())),
            || self.take_bases(&options, &bases_stop),
        );
        match ended {
            Ok(ArchiveEnd::Stopped) => Ok(()),
            Ok(ArchiveEnd::SlotDropped { held_bytes, bound_bytes }) => Err(failure(format!(
                "the slot {} held back {held_bytes} bytes of log at the source, more than its bound of {bound_bytes}, \
                 and was dropped so that the source's disk does not fill up; archiving starts again by itself, with a \
                 new base backup if the log between is gone",
                options.slot
            ))
            .into()),
            Err(error @ levee_database::Error::Gap { .. }) => Err(Ended::Gap(in_full(&error))),
            Err(error) => Err(failure(in_full(&error)).into()),
        }
    }

    fn preflight_after_predecessor(
        &self,
        connect: &ConnectOptions,
        needs: &Needs,
    ) -> Result<SourceReport, levee_database::Error> {
        let deadline = Instant::now() + PREDECESSOR_MAX;
        loop {
            match preflight(connect, needs) {
                Err(levee_database::Error::ApplicationNameTaken { .. })
                    if Instant::now() < deadline && !self.stop.wait(PREDECESSOR_LOOK) => {}
                report => return report,
            }
        }
    }

    fn gaps(&self) -> Gaps<'_> {
        Gaps { folder: &self.app.folder, asset: &self.id }
    }

    fn note(&self, status: &ArchiveStatus, skew: Option<&String>) {
        let gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status.clone();
        let position = match (status.system_identifier, status.timeline, status.durable) {
            (Some(system_identifier), Some(timeline), Some(lsn)) => {
                Some(LogPosition { system_identifier, timeline, lsn })
            }
            _ => None,
        };
        self.app.board.update(&self.id.asset, |entry| {
            entry.source_lsn = status.source_end;
            if let (Some(position), Some(as_of)) = (position, status.as_of) {
                entry.state = AssetState::Received;
                entry.point = Some(AssetPoint { position: Position::Log(position), as_of });
            }
            // A gap is a problem until a base backup lies behind it, however well the log arrives meanwhile.
            let problems = [status.problem.as_ref(), gap.as_ref(), status.zero_loss_problem.as_ref(), skew];
            let problems: Vec<&str> = problems.into_iter().flatten().map(String::as_str).collect();
            entry.problem = Some(problems.join("; ")).filter(|problems| !problems.is_empty());
        });
    }

    fn status(&self) -> ArchiveStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a base backup whenever one is due, as long as the archive runs beside it.
    fn take_bases(&self, options: &ArchiveOptions, stop: &StopSignal) {
        // Listed once: this agent is the only one that adds any.
        let mut bases: Option<Vec<Known>> = None;
        while !stop.wait(LOOK_EVERY) {
            let status = self.status();
            // The log must be arriving before a base starts: it needs everything from its redo position on.
            if !status.connected || status.durable.is_none() {
                continue;
            }
            match self.take_base_if_due(options, &status, &mut bases, stop) {
                Ok(()) => self.restore_zero_loss(&status, &options.application_name),
                Err(_) if stop.is_stopped() => return,
                Err(NotMade::Hook(failure)) => {
                    self.app.board.remark(&self.id.asset, BEFORE, Some(failure.message));
                    self.restore_zero_loss(&status, &options.application_name);
                    if stop.wait(HOOK_AGAIN_AFTER) {
                        return;
                    }
                }
                Err(NotMade::Copy(failure)) => {
                    bases = None;
                    self.app.remote.forget();
                    self.app.board.problem(&self.id.asset, failure.message);
                    if stop.wait(RETRY_AFTER) {
                        return;
                    }
                }
            }
        }
    }

    /// A database that Levee has brought back writes without waiting, so that it can write at all. Once its copies
    /// arrive at the other site again, its commits wait for them again.
    fn restore_zero_loss(&self, status: &ArchiveStatus, application_name: &str) {
        let keeps_up = match (status.durable, status.source_end) {
            (Some(durable), Some(end)) => end.bytes_since(durable) < KEEPS_UP_BYTES,
            _ => false,
        };
        if self.spec.zero_loss && status.zero_loss_problem.is_some() && keeps_up {
            match database::make_synchronous(self.app, &self.id.asset, application_name) {
                Ok(false) => {}
                Ok(true) => tracing::info!(asset = %self.id, "commits wait for the other site again"),
                Err(failure) => self.app.board.problem(&self.id.asset, failure.message),
            }
        }
    }

    fn take_base_if_due(
        &self,
        options: &ArchiveOptions,
        status: &ArchiveStatus,
        bases: &mut Option<Vec<Known>>,
        stop: &StopSignal,
    ) -> Result<(), NotMade> {
        let vault = self.app.remote.vault(self.assignment, self.app.assignment().spec.bandwidth.as_ref())?;
        let now = Timestamp::now();
        let known = match bases {
            Some(known) => known,
            None => {
                let listed = base::list(&vault, &self.id).map_err(|error| {
                    transient(format!("cannot list the base backups of {}: {}", self.id, in_full(&error)))
                })?;
                // By a source's clock that is ahead, they were begun in a time to come.
                bases.insert(
                    listed.into_iter().map(|base| Known { begun_at: base.facts.started_at.min(now), base }).collect(),
                )
            }
        };
        if !self.is_due(known, status, now) {
            self.app.board.remark(&self.id.asset, BEFORE, None);
            return Ok(());
        }
        let tell = |waiting| self.app.board.update(&self.id.asset, |entry| entry.waiting = waiting);
        let _turn = match self.app.context.queue.enter(format!("the base backup of {}", self.id), stop, tell) {
            Entered::Turn(turn) => turn,
            Entered::Stopped => return Ok(()),
            Entered::Overlaps => {
                return Err(transient(format!("another base backup of {} is under way", self.id)).into());
            }
        };
        // The log may have broken off meanwhile: then a base that began now would be of no use.
        let status = self.status();
        if !status.connected || status.durable.is_none() || !self.is_due(known, &status, Timestamp::now()) {
            return Ok(());
        }
        tracing::info!(asset = %self.id, "taking a base backup");
        let base_options = BaseOptions::new(options.connect.clone(), self.id.clone(), self.assignment.epoch);
        let take = || {
            base::take(&base_options, &vault, &(), stop)
                .map_err(|error| transient(format!("the base backup of {} failed: {}", self.id, in_full(&error))))
        };
        let copy = hooks::CopyOf { app: self.app, asset: &self.id.asset, kind: hooks::Kind::Base };
        let saved = |taken: &BaseBackup| Some(Saved { snapshot: taken.snapshot.to_string(), is_whole: true });
        let Hooked { made: taken, after } = hooks::around(&copy, stop, take, saved)?;
        self.app.board.remark(&self.id.asset, BEFORE, None);
        self.app.board.remark(&self.id.asset, AFTER, after);
        tracing::info!(asset = %self.id, snapshot = %taken.snapshot, start = %taken.facts.start, stop = %taken.facts.stop,
            "base backup taken");
        self.gaps().close(&taken.snapshot.to_string(), Timestamp::now());
        *self.gap.lock().unwrap_or_else(PoisonError::into_inner) = None;
        known.push(Known { base: taken, begun_at: now });
        Ok(())
    }

    fn is_due(&self, bases: &[Known], status: &ArchiveStatus, now: Timestamp) -> bool {
        // A base from before the unbroken log began can't be rolled forward to now, and one of an earlier epoch is not
        // what this epoch is protected by: an app that was removed and is protected anew has such.
        let log_start: Option<LogPosition> =
            durable::read_json(&self.app.folder.log_start(&self.id.asset)).unwrap_or_default();
        let usable = |Known { base, .. }: &&Known| {
            base.facts.epoch == self.assignment.epoch
                && Some(base.facts.system_identifier) == status.system_identifier
                && Some(base.facts.timeline) == status.timeline
                && log_start.is_some_and(|start| start.timeline != base.facts.timeline || start.lsn <= base.facts.start)
        };
        // One from ahead of the clock, which was put back since, says nothing of when the next is due.
        let begun = bases.iter().filter(usable).map(|known| known.begun_at).filter(|begun_at| *begun_at <= now);
        let Some(newest) = begun.max() else {
            // Without one nothing can be restored: that does not wait for the hour.
            return true;
        };
        matches!(self.spec.base_rhythm().due(Some(newest), now, &self.id.to_string()), Due::Now { .. })
    }
}
