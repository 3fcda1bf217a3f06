//! The end of an app's writing at this site: the fence of a failover and of a switchover, which leaves nothing behind.

mod link;
mod rest;

use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_database::postgres::SinkError;
use levee_database::postgres::instance::ControlData;
use levee_model::control::{AssetPoint, Done, Failure, Left, RecoveryPoint};
use levee_model::postgres::Lsn;
use levee_model::protection::{FilesSpec, PostgresSite, PostgresSpec};
use levee_model::{AssetId, AssetName, LogPosition, Position};

use super::app::{App, failure, transient};
use super::sink::WireSink;
use super::state::Phase;
use super::{database, writer};
use link::Link;

/// How long PostgreSQL, which waits at its end for the archive, may take before the archive is ended. What it had not
/// sent is sent from the data directory.
const SERVER_MAX: Duration = Duration::from_secs(5);
/// How long the archive may take to say that it has everything, once the server has stopped.
const ARCHIVE_MAX: Duration = Duration::from_secs(2);
/// How long the last of the log may take to the other site.
const SHIP_MAX: Duration = Duration::from_secs(30);
/// The same in a failover, over a link that was there a moment ago.
const SHIP_OR_LEAVE_MAX: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What became of a stopped asset's last changes.
enum Last {
    /// They are durable at the other site.
    Sent(AssetPoint),
    Left(Left),
}

/// Stops the app for good at this epoch and answers where everything of it lies at the other site.
///
/// With `may_leave` what cannot be sent soon stays here, and the answer names it.
pub fn stop(app: &Arc<App>, may_leave: bool) -> Result<Done, Failure> {
    let named = app.named();
    app.change_state(|state| match state.phase {
        Phase::Writer => {
            // What is stopped now is what a start at the same epoch has to bring back.
            state.name_assets(&named);
            state.phase = Phase::Stopping;
            Ok(())
        }
        Phase::Stopping | Phase::Stopped => Ok(()),
        Phase::Recovery | Phase::Sealed => {
            Err(failure(format!("app {} is not written at {}: there is nothing to stop", app.name, app.context.site)))
        }
    })?;
    database::shut_gate(app)?;
    let assignment = app.assignment();
    let mut last = Vec::new();
    // Found out while the databases stop, so that nothing waits for it one after the other.
    let link = Link::of(app, may_leave);
    // The archive goes on during this: PostgreSQL waits at its end until the archive has everything.
    for (asset, spec) in &assignment.spec.postgres {
        last.push((asset, stop_database(app, asset, spec, &link)?));
    }
    // What cut a database's log off cuts a copy off as well, which would take long to find out.
    let cut_off = last.iter().find_map(|(_, last)| match last {
        Last::Left(left) if left.ends_at.is_some() => Some(transient(left.reason.clone())),
        _ => None,
    });
    for (asset, spec) in &assignment.spec.files {
        // A copy rides over short cuts of the link, and so takes long to fail.
        let copied = match cut_off.as_ref().or_else(|| link.wait()) {
            Some(reason) => Err(reason.clone()),
            // The app is away meanwhile: this one goes as fast as it can.
            None => writer::copy_once(app, &assignment, asset, spec, None).map(|copied| Last::Sent(copied.point)),
        };
        last.push((asset, copied.or_else(|failure| leave_folder(app, asset, spec, may_leave, failure))?));
    }
    app.change_state(|state| {
        // It may have become the recovery side meanwhile.
        if state.phase == Phase::Stopping {
            state.phase = Phase::Stopped;
        }
        Ok(())
    })?;
    let (mut point, mut left) = (RecoveryPoint::default(), std::collections::BTreeMap::new());
    for (asset, last) in last {
        match last {
            Last::Sent(sent) => {
                point.assets.insert(asset.clone(), sent);
            }
            Last::Left(not_sent) => {
                tracing::warn!(app = %app.name, %asset, reason = not_sent.reason, "stopped, and its last changes stay in {}",
                    not_sent.kept_in.display());
                point.assets.extend(not_sent.sent.clone().map(|sent| (asset.clone(), sent)));
                left.insert(asset.clone(), not_sent);
            }
        }
    }
    Ok(Done::Stopped { point, left })
}

fn stop_database(app: &Arc<App>, asset: &AssetName, spec: &PostgresSpec, link: &Link) -> Result<Last, Failure> {
    let may_leave = !matches!(link, Link::Needed);
    let place = app.place(asset);
    let _alone = place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let assignment = app.assignment();
    let here = database::place(spec, &assignment.site)?;
    let mut stopped = stop_server(app, asset, here, link)?;
    if !may_leave && !database::control_data(app, asset)?.is_shut_down() {
        if let Err(failure) = recover(app, asset) {
            // It must not open for writing by itself later.
            database::stop_if_running(app, asset, here)?;
            return Err(failure);
        }
        stopped = stop_server(app, asset, here, link)?;
    }
    // What the archive knows is forgotten with its thread.
    let sent = app.board.get(asset).point;
    let control = database::control_data(app, asset)?;
    let leave = |ends_at: Option<Lsn>, reason: String| {
        Last::Left(Left {
            kept_in: here.data_directory.clone(),
            ends_at: ends_at.map(|lsn| position(&control, lsn)),
            sent: sent.clone(),
            reason,
        })
    };
    // The shutdown checkpoint is the last record of a clean stop.
    if !control.is_shut_down() {
        let reason =
            format!("the database in {} did not stop cleanly: it is {}", here.data_directory.display(), control.state);
        if may_leave {
            return Ok(leave(None, reason));
        }
        return Err(transient(format!(
            "{reason}: retry this step, abort the run, which starts it here again and lets it recover, or fail over"
        )));
    }
    let rest = rest::Rest::of(&here.data_directory, &control);
    let arrived = |lsn: Lsn| {
        Last::Sent(AssetPoint { position: Position::Log(position(&control, lsn)), as_of: jiff::Timestamp::now() })
    };
    let archive_max = if stopped == Archive::Ended { Duration::ZERO } else { ARCHIVE_MAX };
    let deadline = Instant::now() + archive_max;
    while Instant::now() < deadline && link.cut().is_none() {
        match app.board.get(asset).point.map(|point| point.position) {
            Some(Position::Log(position)) if position.lsn >= rest.end => return Ok(arrived(position.lsn)),
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
    if let Some(cut) = link.wait() {
        return Ok(leave(Some(rest.end), cut.message.clone()));
    }
    // The archive's own stream holds the journal; with the server down it has nothing more to send.
    app.end_tasks_of(asset);
    let id = AssetId::new(app.name.clone(), asset.clone());
    let mut sink = WireSink::new(app.context.clone(), assignment.clone(), id, false)
        .map_err(|error| failure(format!("cannot open a log stream: {error}")))?;
    let deadline = Instant::now() + if may_leave { SHIP_OR_LEAVE_MAX } else { SHIP_MAX };
    loop {
        let reason = match rest.ship(&mut sink, deadline) {
            Ok(lsn) => return Ok(arrived(lsn)),
            Err(SinkError::Refused { reason }) if may_leave => return Ok(leave(Some(rest.end), reason)),
            Err(SinkError::Refused { reason }) => return Err(failure(reason)),
            Err(SinkError::Unavailable { reason }) => reason,
        };
        if Instant::now() >= deadline {
            if may_leave {
                return Ok(leave(Some(rest.end), reason));
            }
            return Err(transient(format!(
                "{asset} is stopped, but its last changes are not at the other site: {reason}. Nothing is lost: repair \
                 the link and retry this step, or abort the run, which starts the app here again"
            )));
        }
        std::thread::sleep(RETRY_AFTER);
    }
}

/// Lets a server that has died recover, so that it can be stopped cleanly: everything that it has acknowledged is on its
/// disk, and only a clean end says where its log ends. Until this run has stopped it nobody else was given the app; where
/// another site was nevertheless, it stays as it is.
fn recover(app: &Arc<App>, asset: &AssetName) -> Result<(), Failure> {
    let known = app.state().epoch;
    if let Some(heard) = app.context.heard.get(&app.name).filter(|heard| *heard > known) {
        return Err(failure(format!(
            "{asset} was not shut down cleanly, and must not be started to recover: the other site has told of epoch \
             {heard}, and {} knows epoch {known}",
            app.context.site
        )));
    }
    tracing::warn!(app = %app.name, %asset, "its server was not shut down cleanly: letting it recover before it is stopped");
    database::recover(app, asset)
}

fn position(control: &ControlData, lsn: Lsn) -> LogPosition {
    LogPosition { system_identifier: control.system_identifier, timeline: control.timeline, lsn }
}

/// Whether the archive still runs when the server has stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Archive {
    Runs,
    Ended,
}

/// Stops the server. One that waits for an archive which cannot send has its archive taken away.
fn stop_server(app: &Arc<App>, asset: &AssetName, here: &PostgresSite, link: &Link) -> Result<Archive, Failure> {
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| database::stop_if_running(app, asset, here));
        let deadline = Instant::now() + SERVER_MAX;
        while !stopping.is_finished() && Instant::now() < deadline && link.cut().is_none() {
            std::thread::sleep(LOOK_EVERY);
        }
        let archive = if stopping.is_finished() { Archive::Runs } else { Archive::Ended };
        if archive == Archive::Ended {
            app.end_tasks_of(asset);
        }
        let stopped = stopping
            .join()
            .unwrap_or_else(|_| Err(failure(format!("stopping {asset} failed inside the agent; see its log"))));
        stopped.map(|()| archive)
    })
}

fn leave_folder(
    app: &App,
    asset: &AssetName,
    spec: &FilesSpec,
    may_leave: bool,
    failure: Failure,
) -> Result<Last, Failure> {
    match spec.at.get(&app.context.site) {
        Some(here) if may_leave => Ok(Last::Left(Left {
            kept_in: here.path.clone(),
            ends_at: None,
            sent: app.board.get(asset).point,
            reason: failure.message,
        })),
        _ => Err(failure),
    }
}
