//! Whether this host could run a database that the other site writes: its version, extensions, locales, room, port. Said
//! while there is time to put it right, and not in the middle of a failover.

use std::collections::BTreeSet;
use std::sync::{Arc, TryLockError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use levee_database::postgres::fitness::{self, Misfit, Place};
use levee_model::AssetName;
use levee_model::control::Failure;
use levee_model::protection::Difference;

use super::app::App;
use super::database;
use super::state::{Phase, Standing};

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What the remark is about.
const ABOUT: &str = "fitness";

/// What does not fit; `None` when there was no way to tell.
type Found = Option<Seen>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    problems: Vec<String>,
    /// What the operator has accepted.
    accepted: Vec<String>,
}

impl Seen {
    fn of(misfits: Vec<Misfit>, accepts: &BTreeSet<Difference>) -> Self {
        let mut seen = Self::default();
        for Misfit { text, difference } in misfits {
            match difference.is_some_and(|difference| accepts.contains(&difference)) {
                true => seen.accepted.push(format!("accepted: {text}")),
                false => seen.problems.push(text),
            }
        }
        seen
    }
}

/// Looks now and then, on a thread of its own: a disk that does not answer must not hold up the watch over what arrives.
#[derive(Default)]
pub struct FitnessWatch {
    begun_at: Option<Instant>,
    looking: Option<JoinHandle<Result<Found, Failure>>>,
}

impl FitnessWatch {
    /// Says what the last look has found, and begins the next one when it is time. Does not wait.
    pub fn turn(&mut self, app: &Arc<App>, asset: &AssetName) {
        // One look at a time, however long it takes.
        if self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        match self.looking.take().map(JoinHandle::join) {
            Some(Ok(Ok(Some(Seen { problems, accepted })))) => {
                app.board.remark(asset, ABOUT, Some(problems.join("; ")).filter(|text| !text.is_empty()));
                app.board.update(asset, |entry| entry.notes = accepted);
            }
            Some(Ok(Err(failure))) => {
                tracing::info!(app = %app.name, %asset, problem = failure.message, "whether this host fits is not known");
            }
            // What was said before still holds.
            Some(Ok(Ok(None)) | Err(_)) | None => {}
        }
        // Before the first point there may be no base backup that says what is needed.
        let is_time = self.begun_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if !is_time || app.board.get(asset).point.is_none() {
            return;
        }
        self.begun_at = Some(Instant::now());
        let (name, of) = (format!("{}/fitness", app.name), asset.clone());
        let app = app.clone();
        match Builder::new().name(name).spawn(move || look(&app, &of)) {
            Ok(looking) => self.looking = Some(looking),
            Err(error) => tracing::info!(%asset, %error, "no thread to see whether this host fits"),
        }
    }

    /// What was found says nothing of a site that is no longer the recovery side.
    pub fn end(self, app: &App, asset: &AssetName) {
        app.board.remark(asset, ABOUT, None);
        app.board.update(asset, |entry| entry.notes = Vec::new());
    }
}

fn look(app: &App, asset: &AssetName) -> Result<Found, Failure> {
    let assignment = app.assignment();
    let Some(spec) = assignment.spec.postgres.get(asset) else { return Ok(None) };
    let here = database::place(spec, &assignment.site)?;
    let bases = app.copies.bases(asset)?;
    let Some(base) = bases.iter().max_by_key(|base| base.facts.started_at) else { return Ok(None) };
    if is_at_work(app, asset) {
        return Ok(None);
    }
    let place = Place {
        data_directory: &here.data_directory,
        tablespaces: &here.tablespaces,
        os_user: &here.os_user,
        binaries: here.binaries.as_deref(),
        address: here.address,
        port: here.port,
        is_restored: app.state().standing(asset) != Standing::Absent,
    };
    let misfits = fitness::look(&base.facts, &place);
    // What a run has just put there counts neither as room nor as somebody else's.
    Ok((!is_at_work(app, asset)).then(|| Seen::of(misfits, &spec.accepts)))
}

/// Whether a run works on the asset's place, or has brought the app here. Only asked: nothing waits for this look.
fn is_at_work(app: &App, asset: &AssetName) -> bool {
    if app.state().phase != Phase::Recovery {
        return true;
    }
    let place = app.place(asset);
    matches!(place.try_lock(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_shown_and_is_no_problem() {
        let misfits = || {
            let library = Misfit { text: "another C library".into(), difference: Some(Difference::CLibrary) };
            vec![Misfit { text: "no room".into(), difference: None }, library]
        };
        let all = Seen::of(misfits(), &BTreeSet::new());
        assert_eq!(all.problems, ["no room", "another C library"]);
        assert_eq!(all.accepted, [""; 0]);
        let accepted = Seen::of(misfits(), &BTreeSet::from([Difference::CLibrary]));
        assert_eq!(accepted.problems, ["no room"]);
        assert_eq!(accepted.accepted, ["accepted: another C library"]);
    }
}
