//! One app at this site: its durable state, its assignment, and the threads that work for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use levee_model::control::{Action, AssetState, AssetStatus, Assignment, Command, Failure, KnownApp, Role};
use levee_model::{AppName, AssetName, Epoch};
use levee_store::LocalStore;

use super::board::Board;
use super::copies::Copies;
use super::folder::AppFolder;
use super::owner_store::remove_left_locks;
use super::remote::RemoteVault;
use super::removals::Removals;
use super::state::{AppState, Named, Phase, Standing, Turn};
use super::task::{Task, survives};
use super::tasks::{Tasks, Work};
use super::{demote, further, gaps, leaving, recovery, tasks, upkeep, writer};
use crate::context::ProtectContext;
use crate::durable;

/// Between two attempts to end the writing here. One that finds a server that does not stop takes long enough by itself.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

pub struct App {
    pub name: AppName,
    pub folder: AppFolder,
    pub context: ProtectContext,
    pub board: Board,
    /// Recovery side: what has arrived here.
    pub copies: Copies,
    /// Recovery side: what is still to go from the further vaults.
    pub removals: Removals,
    /// Writer side: the repository at the other site.
    pub remote: RemoteVault,
    /// Short holds only. Whoever changes it makes the change durable before anyone else can see it.
    state: Mutex<AppState>,
    assignment: RwLock<Arc<Assignment>>,
    /// The revision of what is wanted up to which everything is taken over here. Grows when all of it is durable.
    taken_over: AtomicU64,
    /// The running threads. Held while they are brought in line with state and assignment, so that
    /// two reconciliations never overlap.
    tasks: Mutex<Tasks>,
    /// When an end of writing here that has failed is tried again.
    again_at: Mutex<Option<Instant>>,
    /// The writing here is being ended, on a thread of its own.
    is_ending: AtomicBool,
    /// Actions on one asset's own place run one after the other.
    places: Mutex<BTreeMap<AssetName, Arc<Mutex<()>>>>,
}

impl App {
    /// Takes up an app at its first assignment, or again after a restart.
    pub fn open(context: ProtectContext, assignment: Assignment) -> Result<Arc<App>, Failure> {
        let folder = AppFolder::new(context.folder.root(), &assignment.app);
        let fail = |error: std::io::Error| {
            failure(format!("cannot read the state of app {} in {}: {error}", assignment.app, folder.state().display()))
        };
        let state = match durable::read_json(&folder.state()).map_err(fail)? {
            Some(state) => state,
            None => {
                let first = AppState::first(assignment.role, assignment.epoch, assignment.spec.asset_names().cloned());
                durable::write_json(&folder.state(), &first).map_err(fail)?;
                first
            }
        };
        remove_left_locks(&LocalStore::new(folder.repository()), &folder.own_locks()).map_err(|error| {
            failure(format!("cannot remove what {} names: {}", folder.own_locks().display(), in_full(&error)))
        })?;
        let app = App {
            name: assignment.app.clone(),
            board: Board::new(context.changed.clone()),
            copies: Copies::new(assignment.app.clone(), folder.clone()),
            removals: Removals::new(folder.removals()),
            remote: RemoteVault::new(assignment.app.clone(), folder.clone(), context.clone()),
            folder,
            context,
            state: Mutex::new(state),
            assignment: RwLock::new(Arc::new(assignment)),
            taken_over: AtomicU64::new(0),
            tasks: Mutex::default(),
            again_at: Mutex::default(),
            is_ending: AtomicBool::new(false),
            places: Mutex::default(),
        };
        app.publish_right_to_write();
        Ok(Arc::new(app))
    }

    pub fn state(&self) -> AppState {
        self.lock_state().clone()
    }

    pub fn assignment(&self) -> Arc<Assignment> {
        self.assignment.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The assets that the protection file names.
    pub fn named_assets(&self) -> BTreeSet<AssetName> {
        self.assignment().spec.asset_names().cloned().collect()
    }

    /// The same, with where the databases among them are here.
    pub fn named(&self) -> Named {
        let assignment = self.assignment();
        Named::of(&assignment.spec, &assignment.site)
    }

    fn lock_state(&self) -> MutexGuard<'_, AppState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state: durable first, then visible.
    pub fn change_state<T>(&self, change: impl FnOnce(&mut AppState) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut state = self.lock_state();
        let mut changed = state.clone();
        let result = change(&mut changed)?;
        if changed != *state {
            durable::write_json(&self.folder.state(), &changed).map_err(|error| {
                failure(format!(
                    "cannot write {}: {error}; make room or repair the disk, and try again",
                    self.folder.state().display()
                ))
            })?;
            *state = changed;
        }
        drop(state);
        self.publish_right_to_write();
        Ok(result)
    }

    /// The DNS node beside this agent answers this site's address only while this site may write.
    fn publish_right_to_write(&self) {
        let state = self.lock_state();
        if state.phase == Phase::Writer && state.all_live(&self.named_assets()) {
            self.context.view.allow(self.name.clone(), state.epoch);
        } else {
            self.context.view.forbid(&self.name);
        }
    }

    /// The lock for work on an asset's own place.
    pub fn place(&self, asset: &AssetName) -> Arc<Mutex<()>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).entry(asset.clone()).or_default().clone()
    }

    /// Takes over an assignment, which stands in what is wanted at this revision, and brings the threads in line with it.
    /// Says whether everything could be kept: otherwise it has to be done again.
    pub fn assign(self: &Arc<Self>, assignment: Assignment, revision: u64) -> bool {
        let turn = self.lock_state().turn(assignment.role, assignment.epoch);
        let (role, epoch) = (assignment.role, assignment.epoch);
        *self.assignment.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(assignment);
        let is_advanced = match turn {
            Turn::Stay => true,
            Turn::Advance => {
                let advanced = self.change_state(|state| {
                    state.epoch = epoch;
                    Ok(())
                });
                self.report(advanced)
            }
            Turn::Demote => {
                tracing::info!(app = %self.name, %epoch, ?role, "another site writes this app now");
                // What fails of it is gone on with in any case.
                self.ended_writing(self.demote());
                true
            }
        };
        let is_kept = self.name_assets() && is_advanced;
        if is_kept {
            // Before the threads: one that is slow to end must not hold up a run.
            self.taken_over.store(revision, Ordering::SeqCst);
        }
        self.reconcile();
        // Once the threads have ended that wrote it. Named again, an asset has nothing of its earlier time to show.
        self.board.keep_only(&self.named_assets());
        is_kept
    }

    /// Takes over assets that came into the protection file, or went out of it. Says whether that could be kept.
    fn name_assets(&self) -> bool {
        let taken = self.change_state(|state| {
            // Read once the state is held: beside another assignment an older one must not come after a newer one.
            let assignment = self.assignment();
            let named = Named::of(&assignment.spec, &assignment.site);
            state.assigned(assignment.role, assignment.epoch, &named);
            Ok(())
        });
        self.report(taken)
    }

    /// Goes on with a demotion that has failed: nobody else would, until the server wants something new.
    pub fn demote_again(self: &Arc<Self>) {
        let assignment = self.assignment();
        let is_left = self.lock_state().turn(assignment.role, assignment.epoch) == Turn::Demote;
        if is_left && self.may_try_again() {
            self.end_writing(Self::demote);
        }
    }

    fn demote(self: &Arc<Self>) -> Result<(), Failure> {
        self.end_tasks();
        demote::demote(self, self.assignment().epoch)?;
        self.name_assets();
        Ok(())
    }

    /// Ends the writing here beside everything else: a server may take minutes to stop, and other apps must not wait for it.
    fn end_writing(self: &Arc<Self>, end: impl FnOnce(&Arc<App>) -> Result<(), Failure> + Send + 'static) {
        if self.is_ending.swap(true, Ordering::SeqCst) {
            return;
        }
        let app = self.clone();
        let ending = std::thread::Builder::new().name("end-writing".into()).spawn(move || {
            let mut ended = None;
            survives("ending the writing here", || ended = Some(end(&app)));
            let defect = || failure("ending the writing here met a defect of the agent's own: its log says where");
            app.ended_writing(ended.unwrap_or_else(|| Err(defect())));
            // In any case: otherwise nobody would try again.
            app.is_ending.store(false, Ordering::SeqCst);
            app.reconcile();
        });
        if let Err(error) = ending {
            self.is_ending.store(false, Ordering::SeqCst);
            self.report(Err(failure(format!("cannot start a thread that stops {} here: {error}", self.name))));
        }
    }

    fn may_try_again(&self) -> bool {
        self.again_at.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|at| at <= Instant::now())
    }

    /// Says how an attempt to end the writing here went, and when the next one may be made.
    fn ended_writing(&self, outcome: Result<(), Failure>) {
        let again_at = outcome.is_err().then(|| Instant::now() + AGAIN_AFTER);
        *self.again_at.lock().unwrap_or_else(PoisonError::into_inner) = again_at;
        self.report(outcome);
    }

    /// Says at every asset why something has failed. Returns whether it has not.
    fn report(&self, outcome: Result<(), Failure>) -> bool {
        let Err(failure) = outcome else { return true };
        for asset in self.assignment().spec.asset_names() {
            self.board.problem(asset, &failure.message);
        }
        false
    }

    /// Starts the threads that state and assignment ask for, and ends all others.
    pub fn reconcile(self: &Arc<Self>) {
        let mut tasks = self.lock_tasks();
        let (assignment, state) = (self.assignment(), self.state());
        let wanted = tasks::wanted(&assignment, &state);
        tasks.keep(|key| wanted.contains(key));
        for key in wanted {
            if !tasks.has_room_for(&key) {
                continue;
            }
            let (app, work, role) = (Arc::clone(self), key.work.clone(), key.role);
            let what = match &work {
                Work::Asset(asset) | Work::Leaving(asset) => asset.as_str(),
                Work::Upkeep => "upkeep",
                Work::Vault(vault) => vault.as_str(),
            };
            let name = format!("{}/{what}", self.name);
            let spawned = Task::spawn(name, move |stop| match (work, role) {
                (Work::Asset(asset), Role::Writer) => writer::run(&app, &asset, &stop),
                (Work::Asset(asset), Role::Recovery) => recovery::run(&app, &asset, &stop),
                (Work::Leaving(asset), _) => leaving::run(&app, &asset, &stop),
                (Work::Upkeep, _) => upkeep::run(&app, &stop),
                (Work::Vault(vault), _) => further::run(&app, &vault, &stop),
            });
            match spawned {
                Ok(task) => tasks.add(key, task),
                Err(error) => self.problem_with(&key.work, &format!("cannot start a thread: {error}")),
            }
        }
    }

    /// Says what hinders some work at the assets that it is for.
    fn problem_with(&self, work: &Work, text: &str) {
        for asset in self.named_assets().iter().filter(|asset| work.hits(asset)) {
            self.board.problem(asset, text);
        }
    }

    /// Says that the thread of some work has died, or takes it back. As a problem it would go with the next look at the asset.
    fn remark_death(&self, work: &Work, has_died: bool) {
        let about = format!("defect of {}", work.part());
        let text = format!(
            "{} ended in a defect of the agent's own and is started again; the agent's log says where",
            work.part()
        );
        for asset in self.named_assets().iter().filter(|asset| work.hits(asset)) {
            self.board.remark(asset, &about, has_died.then(|| text.clone()));
        }
    }

    /// Starts what had to wait for threads that were slow to end, and what a thread worked on that has died.
    pub fn look_after_tasks(self: &Arc<Self>) {
        let (dead, well, is_due) = {
            let mut tasks = self.lock_tasks();
            (tasks.take_dead(), tasks.take_well(), tasks.reap() | tasks.may_begin_again())
        };
        dead.iter().for_each(|work| self.remark_death(work, true));
        well.iter().for_each(|work| self.remark_death(work, false));
        if is_due {
            self.reconcile();
        }
    }

    /// Ends every thread, and returns when none works any more.
    pub fn end_tasks(&self) {
        self.lock_tasks().end_all();
    }

    /// Tells every thread to end, and waits for none.
    pub fn tell_tasks(&self) {
        self.lock_tasks().tell_all();
    }

    /// Waits until then at most for threads that are left to end by themselves.
    pub fn wait_for_the_rest(&self, deadline: Instant) {
        self.lock_tasks().wait_for_the_rest(deadline);
    }

    /// Ends the threads that work on one asset. One that waits for the other site is left to end by itself.
    pub fn end_tasks_of(&self, asset: &AssetName) {
        self.lock_tasks().keep(|key| !matches!(&key.work, Work::Asset(of) if of == asset));
    }

    fn lock_tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has said that this assignment still holds: after a restart of the machine the start gate waits
    /// for this.
    pub fn confirm(&self) {
        let (assignment, state) = (self.assignment(), self.state());
        let is_writer = assignment.role == Role::Writer && assignment.epoch == state.epoch;
        let gate = super::database::gate(self);
        if is_writer
            && (state.phase == Phase::Writer || state.has_begun())
            // The same word comes again and again, and an open gate needs no writing.
            && gate.check_start(state.epoch).is_err()
            && let Err(error) = gate.open_for_writer(state.epoch)
        {
            tracing::warn!(app = %self.name, "{}", in_full(&error));
        }
    }

    /// Stops writing when the other site has told of a higher epoch. A peer's word is a reason to stop, never
    /// one to begin.
    pub fn obey(self: &Arc<Self>, heard: Option<Epoch>) {
        let state = self.state();
        let Some(heard) = heard.filter(|heard| *heard > state.epoch) else { return };
        // A run that was bringing the app here may have started some of it.
        if (state.has_begun() || matches!(state.phase, Phase::Writer | Phase::Stopping)) && self.may_try_again() {
            self.end_writing(move |app| demote::fence(app, heard));
        }
    }

    /// Refuses a command of an epoch that is over. Only sealing may bring a new one.
    pub fn check_epoch(&self, command: &Command) -> Result<(), Failure> {
        let known = self.lock_state().epoch;
        let newer_is_right = matches!(command.action, Action::Seal | Action::SwitchEntry { .. });
        if command.epoch == known || (command.epoch > known && newer_is_right) {
            return Ok(());
        }
        let (run, epoch, app, site) = (&command.run, command.epoch, &self.name, &self.context.site);
        if epoch > known {
            // A site that has just come back hears of it at any moment, and has to end its own writing first.
            return Err(transient(format!(
                "run {run} works at epoch {epoch} of app {app}, and {site}, which knows epoch {known}, has not taken it over yet"
            )));
        }
        Err(failure(format!(
            "run {run} works at epoch {epoch} of app {app}, but {site} knows epoch {known}: make a new plan"
        )))
    }

    /// Puts off a command that rests on more of what is wanted than was taken over here: it would be carried out by what was
    /// wanted before. One that rests on less goes on. While a run is open nobody changes what its app is to be; what changes
    /// beside it is the epoch, by the run itself, a warning that was looked at, an agent in another's place, other apps.
    pub fn check_revision(&self, command: &Command) -> Result<(), Failure> {
        let taken_over = self.taken_over.load(Ordering::SeqCst);
        if command.revision <= taken_over {
            return Ok(());
        }
        Err(transient(format!(
            "run {} rests on revision {} of what is wanted of app {}, and {}, which works by revision {taken_over}, has not \
             taken it over yet; if that stays so, `levee status {}` or the agent's log there says why",
            command.run, command.revision, self.name, self.context.site, self.name
        )))
    }

    /// What is held durably here, with old data that are still there.
    pub fn known(&self) -> KnownApp {
        let state = self.state();
        KnownApp {
            epoch: state.epoch,
            phase: state.phase,
            heard: self.context.heard.get(&self.name),
            set_aside: state.set_aside.into_iter().filter(|path| path.exists()).collect(),
        }
    }

    pub fn status(&self) -> Vec<AssetStatus> {
        let (assignment, state) = (self.assignment(), self.state());
        assignment
            .spec
            .asset_names()
            .map(|asset| {
                let known = self.board.get(asset);
                let standing = state.standing(asset);
                let (role, asset_state) = match state.phase {
                    Phase::Stopping | Phase::Stopped => (Role::Writer, AssetState::Stopped),
                    Phase::Recovery if standing == Standing::Staged && known.state == AssetState::Protected => {
                        (Role::Recovery, AssetState::Staged)
                    }
                    Phase::Recovery | Phase::Sealed if standing != Standing::Live => (Role::Recovery, known.state),
                    // Whoever writes cannot know what the other site can open.
                    _ => match known.state {
                        AssetState::Protected | AssetState::Staged => (Role::Writer, AssetState::Received),
                        other => (Role::Writer, other),
                    },
                };
                let damaged = self.copies.damaged.problem(asset).filter(|_| role == Role::Recovery);
                let problems = [known.all_problems(), damaged];
                let problem = problems.into_iter().flatten().reduce(|first, second| format!("{first}; {second}"));
                AssetStatus {
                    app: self.name.clone(),
                    asset: asset.clone(),
                    role,
                    epoch: state.epoch,
                    state: if known.problem.is_some() && asset_state == AssetState::Waiting {
                        AssetState::Failed
                    } else {
                        asset_state
                    },
                    point: known.point,
                    source_lsn: known.source_lsn,
                    problem,
                    notes: known.notes,
                    verified: known.verified,
                    waiting: known.waiting,
                    warned_since: known.warned_since,
                    gaps: gaps::newest(&self.folder, asset),
                    vaults: known
                        .vaults
                        .into_iter()
                        .filter(|(vault, _)| role == Role::Recovery && assignment.spec.copy_to.contains(vault))
                        .collect(),
                }
            })
            .collect()
    }
}

/// A failure that trying again will not mend.
pub fn failure(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), transient: false }
}

/// A failure that may pass by itself.
pub fn transient(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), transient: true }
}

/// An error with all its causes in one line.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}
