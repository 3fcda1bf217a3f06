//! The end of an app's writing at this site: the fence of a switchover, with nothing left behind.

mod rest;

use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_database::postgres::SinkError;
use levee_model::control::{AssetPoint, Done, Failure, RecoveryPoint};
use levee_model::postgres::Lsn;
use levee_model::protection::PostgresSpec;
use levee_model::{AssetId, AssetName, LogPosition, Position};

use super::app::{App, failure, transient};
use super::sink::WireSink;
use super::state::Phase;
use super::{database, writer};

/// How long the archive, which PostgreSQL waits for at its end, may take to say so. If the stream was cut before, the
/// rest is sent from the data directory.
const ARCHIVE_MAX: Duration = Duration::from_secs(2);
/// How long the last of the log may take to the other site.
const SHIP_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Stops the app for good at this epoch and answers where everything of it lies at the other site.
pub fn stop(app: &Arc<App>) -> Result<Done, Failure> {
    app.change_state(|state| match state.phase {
        Phase::Writer => {
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
    let mut point = RecoveryPoint::default();
    // The archive goes on during this: PostgreSQL waits at its end until the archive has everything.
    for (asset, spec) in &assignment.spec.postgres {
        point.assets.insert(asset.clone(), stop_database(app, asset, spec)?);
    }
    for (asset, spec) in &assignment.spec.files {
        point.assets.insert(asset.clone(), writer::copy_once(app, &assignment, asset, spec)?.point);
    }
    app.change_state(|state| {
        state.phase = Phase::Stopped;
        Ok(())
    })?;
    Ok(Done::Stopped { point })
}

fn stop_database(app: &Arc<App>, asset: &AssetName, spec: &PostgresSpec) -> Result<AssetPoint, Failure> {
    let place = app.place(asset);
    let _alone = place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let assignment = app.assignment();
    let here = database::place(spec, &assignment.site)?;
    database::stop_if_running(app, asset, here)?;
    // The shutdown checkpoint is the last record of a clean stop.
    let control = database::control_data(app, asset)?;
    if !control.is_shut_down() {
        return Err(failure(format!(
            "the database in {} did not stop cleanly (it is {}): start it, let it recover, and stop the app again, \
             or fail over",
            here.data_directory.display(),
            control.state
        )));
    }
    let rest = rest::Rest::of(&here.data_directory, &control);
    let arrived = |lsn: Lsn| {
        let position = LogPosition { system_identifier: control.system_identifier, timeline: control.timeline, lsn };
        AssetPoint { position: Position::Log(position), as_of: jiff::Timestamp::now() }
    };
    let deadline = Instant::now() + ARCHIVE_MAX;
    while Instant::now() < deadline {
        match app.board.get(asset).point.map(|point| point.position) {
            Some(Position::Log(position)) if position.lsn >= rest.end => return Ok(arrived(position.lsn)),
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
    // The archive's own stream holds the journal; with the server down it has nothing more to send.
    app.end_tasks();
    let id = AssetId::new(app.name.clone(), asset.clone());
    let mut sink = WireSink::new(app.context.clone(), assignment.clone(), id, false)
        .map_err(|error| failure(format!("cannot open a log stream: {error}")))?;
    let deadline = Instant::now() + SHIP_MAX;
    loop {
        let reason = match rest.ship(&mut sink, deadline) {
            Ok(lsn) => return Ok(arrived(lsn)),
            Err(SinkError::Refused { reason }) => return Err(failure(reason)),
            Err(SinkError::Unavailable { reason }) => reason,
        };
        if Instant::now() >= deadline {
            return Err(transient(format!(
                "{asset} is stopped, but its last changes are not at the other site: {reason}. Nothing is lost: repair \
                 the link and retry this step, or abort the run, which starts the app here again"
            )));
        }
        std::thread::sleep(RETRY_AFTER);
    }
}
