//! The end of an app's writing at this site: the fence of a switchover, with nothing left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_database::postgres::{Lineage, SinkError};
use levee_model::control::{AssetPoint, Done, Failure, RecoveryPoint};
use levee_model::postgres::Lsn;
use levee_model::protection::PostgresSpec;
use levee_model::{AssetId, AssetName, LogPosition, Position};

use super::app::{App, failure, in_full, transient};
use super::sink::WireSink;
use super::state::Phase;
use super::{database, writer};

/// The size of a shutdown checkpoint's record: header 24, block header 2, `CheckPoint` 88.
const SHUTDOWN_CHECKPOINT_BYTES: u64 = 114;
/// How long the last of the log may take to the other site, once the database has stopped.
const SHIP_MAX: Duration = Duration::from_secs(30);
const SHIP_EVERY: Duration = Duration::from_millis(20);

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
    let last_record_end = Lsn(control.checkpoint.0 + SHUTDOWN_CHECKPOINT_BYTES);
    let lineage = Lineage { system_identifier: control.system_identifier, timeline: control.timeline };
    let id = AssetId::new(app.name.clone(), asset.clone());
    let sink = WireSink::new(app.context.clone(), assignment.clone(), id, false)
        .map_err(|error| failure(format!("cannot open a log stream: {error}")))?;
    let deadline = Instant::now() + SHIP_MAX;
    loop {
        let known = app.board.get(asset).point.map(|point| point.position);
        let end = match known {
            Some(Position::Log(position)) if position.lsn >= last_record_end => Ok(position.lsn),
            _ => sink.remote_end(lineage, control.segment_size, control.checkpoint.segment_start(control.segment_size)),
        };
        let reason = match end {
            Ok(lsn) if lsn >= last_record_end => {
                let position =
                    LogPosition { system_identifier: lineage.system_identifier, timeline: lineage.timeline, lsn };
                return Ok(AssetPoint { position: Position::Log(position), as_of: jiff::Timestamp::now() });
            }
            Ok(lsn) => format!("it has the log up to {lsn}, and the last record ends at {last_record_end}"),
            Err(SinkError::Refused { reason }) => return Err(failure(reason)),
            Err(error @ SinkError::Unavailable { .. }) => in_full(&error),
        };
        if Instant::now() >= deadline {
            return Err(transient(format!(
                "{asset} is stopped, but its last changes are not at the other site: {reason}. Nothing is lost: repair \
                 the link and retry this step, or abort the run, which starts the app here again"
            )));
        }
        std::thread::sleep(SHIP_EVERY);
    }
}
