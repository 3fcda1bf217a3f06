//! A run's commands. Each first looks whether its work is done, so that it can be sent again after a crash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_model::control::{Action, Command, Done, Failure, Place, RecoveryPoint};
use levee_model::{AssetName, Epoch, Position};

use super::app::{App, failure, transient};
use super::state::Phase;
use super::{demote, drill, live, probe, rebuild, stop};

/// How long to wait for data that are on their way. The command may be sent again.
const AWAIT_MAX: Duration = Duration::from_secs(60);
const AWAIT_EVERY: Duration = Duration::from_millis(20);
/// How long a command waits until this site has taken over what it rests on. An agent with many apps takes them over one after
/// the other, and every answer that it has not done so yet costs a step one of its few attempts.
pub const TAKE_OVER_MAX: Duration = Duration::from_secs(10);

/// Asks again for a while, as long as the answer is that it may pass by itself, and gives the last answer. Once `is_over` it asks
/// no more. Holds nothing between two attempts: what is waited for is done by another thread.
pub fn wait_out<T>(
    patience: Duration,
    is_over: impl Fn() -> bool,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Err(failure) if failure.transient && !is_over() && Instant::now() < deadline => {
                std::thread::sleep(AWAIT_EVERY);
            }
            outcome => return outcome,
        }
    }
}

pub fn execute(app: &Arc<App>, command: &Command) -> Result<Done, Failure> {
    match &command.action {
        Action::Stop { may_leave } => stop::stop(app, *may_leave),
        Action::Seal => seal(app, command.epoch),
        Action::Await { point } => await_point(app, point),
        Action::ChoosePoint => choose_point(app),
        Action::Rebuild { asset, position, place } => rebuild::rebuild(app, &command.run, asset, position, place),
        Action::Stage { asset } => live::stage(app, asset),
        Action::CatchUp { asset, position } => live::catch_up(app, asset, position),
        Action::Start { asset, place: Place::Live, by_hand } => live::start(app, asset, command.epoch, *by_hand),
        Action::Start { asset, place: Place::Drill, .. } => drill::start(app, &command.run, asset),
        Action::Probe { asset, place } => probe::probe(app, &command.run, command.epoch, asset, place),
        Action::CleanUp => drill::clean_up(app, &command.run),
        Action::SetAside => demote::set_aside(app),
        // Answered by the supervisor: it concerns the node, not the app.
        Action::SwitchEntry { .. } => Ok(Done::Nothing),
    }
}

/// Refuses everything of older epochs from now on, durably, and says what is here.
fn seal(app: &Arc<App>, epoch: Epoch) -> Result<Done, Failure> {
    let named = app.named();
    app.change_state(|state| match state.phase {
        Phase::Writer | Phase::Stopping | Phase::Stopped if epoch > state.epoch => Err(failure(format!(
            "app {} is written at this site at epoch {}: there is nothing to seal against",
            app.name, state.epoch
        ))),
        Phase::Recovery => {
            // All that is to be started before the app is written here is known from now on.
            state.name_assets(&named);
            state.epoch = epoch;
            state.phase = Phase::Sealed;
            Ok(())
        }
        _ => {
            state.epoch = epoch;
            Ok(())
        }
    })?;
    app.copies.seal(app.assignment().spec.postgres.keys(), epoch)?;
    // What the watching threads knew may be older than what the last stream brought; and nothing is protected by the
    // copies that the app is brought back from.
    app.reconcile();
    app.board.clear();
    choose_point(app)
}

fn is_database(app: &App, asset: &AssetName) -> bool {
    app.assignment().spec.postgres.contains_key(asset)
}

fn choose_point(app: &App) -> Result<Done, Failure> {
    let mut point = RecoveryPoint::default();
    for asset in app.assignment().spec.asset_names() {
        let newest = app.copies.point(asset, is_database(app, asset))?.ok_or_else(|| {
            failure(format!(
                "{} holds no complete copy of {asset} that opens with its own keys; nothing can be rebuilt from it yet",
                app.context.site
            ))
        })?;
        point.assets.insert(asset.clone(), newest);
    }
    Ok(Done::Point { point })
}

/// Waits until everything up to these positions is durable here, and opens with this site's own keys.
fn await_point(app: &App, wanted: &RecoveryPoint) -> Result<Done, Failure> {
    let deadline = Instant::now() + AWAIT_MAX;
    for (asset, asset_point) in &wanted.assets {
        while !has(app, asset, &asset_point.position)? {
            if Instant::now() >= deadline {
                return Err(transient(format!(
                    "{asset} has not arrived at {} up to {} within {} s: is the link between the sites up?",
                    app.context.site,
                    asset_point.position,
                    AWAIT_MAX.as_secs()
                )));
            }
            std::thread::sleep(AWAIT_EVERY);
        }
    }
    Ok(Done::Point { point: wanted.clone() })
}

fn has(app: &App, asset: &AssetName, position: &Position) -> Result<bool, Failure> {
    Ok(match position {
        Position::Log(wanted) => app.copies.journal_end(asset, wanted)?.is_some_and(|end| end >= wanted.lsn),
        Position::Snapshot { id, .. } => app.copies.has_snapshot(id)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// These answers come one after the other. The last one that is asked for is the outcome.
    fn check(patience: Duration, is_over: bool, answers: &[Result<u8, Failure>], asked_expected: usize) {
        let mut asked = 0;
        let outcome = wait_out(
            patience,
            || is_over,
            || {
                asked += 1;
                answers[asked - 1].clone()
            },
        );
        assert_eq!((outcome, asked), (answers[asked_expected - 1].clone(), asked_expected));
    }

    #[test]
    fn only_what_may_pass_is_waited_for_and_not_for_ever() {
        let (not_yet, never) = (|| Err(transient("not yet")), || Err(failure("never")));
        check(LONG, false, &[Ok(1), Ok(2)], 1);
        check(LONG, false, &[not_yet(), not_yet(), Ok(1)], 3);
        check(LONG, false, &[not_yet(), never(), Ok(1)], 2);
        check(Duration::ZERO, false, &[not_yet(), Ok(1)], 1);
        // An agent that ends begins nothing more.
        check(LONG, true, &[not_yet(), Ok(1)], 1);
    }
}
