//! What an agent does for the apps that it was given: copying them away, keeping what arrives, and
//! bringing them back.
//!
//! - `app` holds one app's state, assignment and threads; `state` says which turns are legal.
//! - `hooks` runs the operator's commands around copies, `queue` lets copies wait for their turn.
//! - Writer side: `writer` (loops), `sink` (log stream), `remote` (repository at the other site).
//! - Recovery side: `recovery` (watches what arrives), `fitness` (whether this host could run it), `copies` (repository, journals), `session`, `arrivals` (who
//!   sent what), `upkeep` (retention, clearing away), `further` (copies in further vaults), `removals` (what goes there).
//! - `word` is what the server said last, until it is taken over.
//! - `release` ends an app's protection, `leaving` that of a database that goes out of the protection file.
//! - `actions` carries out a run's commands; `rebuild`, `place` and `drill` do the work.

mod actions;
mod app;
mod arrivals;
mod board;
mod by_hand;
mod copies;
mod damaged;
mod database;
mod demote;
mod drill;
mod fitness;
pub(crate) mod folder;
mod further;
mod gaps;
mod hooks;
mod kit;
mod leaving;
mod live;
mod owner_store;
mod probe;
mod queue;
mod rebuild;
mod recovery;
mod release;
mod remote;
mod removals;
mod session;
mod sink;
mod state;
mod stop;
mod tags;
mod task;
mod tasks;
mod unsettled;
mod upkeep;
mod word;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use levee_model::control::{
    Action, AssetStatus, Assignment, Command, Desired, Done, Failure, Grant, KnownApp, Removed, Role,
};
use levee_model::{AgentId, AppName, Epoch};
use levee_store::Store;
use levee_store::rest_server::Access;
use levee_wire::log::{LogOpen, LogRefusal, LogSession, RefusalReason};
use levee_wire::{CreateVaultRequest, PeerIdentity};
use zeroize::Zeroizing;

use crate::context::ProtectContext;
use app::{App, failure, in_full, transient};
pub use by_hand::start_database;
pub use further::FurtherVaults;
pub use gaps::read_gaps;
pub use queue::CopyQueue;
use release::Releases;
use state::Phase;
use task::survives;
use word::LastWord;

/// How often it is looked whether a peer has told of a higher epoch: a bound of how long two sites could write
/// after a wrong word of an operator, as long as they can reach each other.
const LISTEN_EVERY: Duration = Duration::from_millis(200);
/// How long the thread that looks after all apps pauses when one of them has met a defect. Short: the others wait for it.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);
/// How long copies to further vaults are waited for when the agent ends.
const FURTHER_ENDING_MAX: Duration = Duration::from_secs(5);

/// Whose word a `Desired` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The server has said it to this process.
    Server,
    /// It is what the server said before this agent was started.
    Remembered,
}

type Wanted = (Desired, Source);

/// Owns every app at this site. Its calls may be made from any thread that may block.
pub struct Supervisor {
    context: ProtectContext,
    apps: RwLock<BTreeMap<AppName, Arc<App>>>,
    releases: Releases,
    /// To the one thread that takes over what is wanted, in order.
    desired: Mutex<Sender<Wanted>>,
    /// No command that still waits is begun any more.
    is_ending: AtomicBool,
}

impl Supervisor {
    /// Starts the thread that takes over what is wanted. Nothing is protected before the first `apply`.
    pub fn start(context: ProtectContext) -> std::io::Result<Arc<Supervisor>> {
        let (desired, wanted) = mpsc::channel::<Wanted>();
        let supervisor = Arc::new(Supervisor {
            context,
            apps: RwLock::default(),
            releases: Releases::default(),
            desired: Mutex::new(desired),
            is_ending: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&supervisor);
        std::thread::Builder::new().name("reconcile".into()).spawn(move || {
            let mut word = LastWord::default();
            loop {
                let said = match wanted.recv_timeout(LISTEN_EVERY) {
                    // Only the newest counts.
                    Ok(next) => Some(wanted.try_iter().last().unwrap_or(next)),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let Some(supervisor) = weak.upgrade() else { return };
                // Nobody looks after this thread: should it end, a site would write on beside another.
                if let Some(wanted) = word.wanted_now(said, supervisor.releases.is_due(), Instant::now()) {
                    let mut is_whole = false;
                    survives("taking over what is wanted", || is_whole = supervisor.take_over(wanted));
                    word.was_taken_over(is_whole, Instant::now());
                }
                let mut is_well = true;
                for app in supervisor.all() {
                    is_well &= survives(&format!("looking after app {}", app.name), || {
                        app.obey(supervisor.context.heard.get(&app.name));
                        app.demote_again();
                        app.look_after_tasks();
                    });
                }
                if !is_well {
                    std::thread::sleep(PAUSE_AFTER_PANIC);
                }
            }
        })?;
        Ok(supervisor)
    }

    /// Brings this site in line with what is wanted, soon. Does not wait.
    pub fn apply(&self, desired: &Desired, source: Source) {
        // The thread ends only with the supervisor itself.
        let _ = self.desired.lock().unwrap_or_else(PoisonError::into_inner).send((desired.clone(), source));
    }

    /// Says whether every app was taken over: one that meets a defect here, or cannot be kept, must not hinder the others.
    fn take_over(&self, (desired, source): Wanted) -> bool {
        let revision = desired.revision;
        let wanted: Vec<AppName> = desired.assignments.iter().map(|assignment| assignment.app.clone()).collect();
        let unreleased = self.release(&desired.removed);
        let mut is_whole = true;
        for assignment in desired.assignments {
            if unreleased.contains(&assignment.app) {
                // What is left of its earlier life would be taken for its state.
                continue;
            }
            let what = format!("taking over what is wanted of app {}", assignment.app);
            let mut is_kept = false;
            survives(&what, || is_kept = self.assign(assignment, revision, source));
            is_whole &= is_kept;
        }
        // An app that is no longer assigned is left as it is: its threads end, its data stay.
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<AppName> = apps.keys().filter(|app| !wanted.contains(app)).cloned().collect();
        let ended: Vec<Arc<App>> = gone.iter().filter_map(|app| apps.remove(app)).collect();
        drop(apps);
        ended.iter().for_each(|app| app.end_tasks());
        is_whole
    }

    /// Says whether the app's part of it could be kept. One that cannot be opened at all waits for the next word.
    fn assign(&self, assignment: Assignment, revision: u64, source: Source) -> bool {
        let known = self.find(&assignment.app);
        let opened = match known {
            Some(app) => Ok(app),
            None => App::open(self.context.clone(), assignment.clone()),
        };
        match opened {
            Ok(app) => {
                let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
                apps.insert(assignment.app.clone(), app.clone());
                drop(apps);
                let is_kept = app.assign(assignment, revision);
                if source == Source::Server {
                    app.confirm();
                }
                is_kept
            }
            Err(failure) => {
                tracing::error!(app = %assignment.app, "{}", failure.message);
                true
            }
        }
    }

    /// Ends the work on removed apps. Returns those of which something is left.
    fn release(&self, removed: &[Removed]) -> Vec<AppName> {
        self.releases.begin();
        let is_over = |removed: &&Removed| {
            let known = self.find(&removed.app);
            if let Some(app) = known.filter(|app| app.state().epoch < removed.epoch) {
                app.end_tasks();
                self.apps.write().unwrap_or_else(PoisonError::into_inner).remove(&removed.app);
            }
            !self.releases.release(&self.context, removed)
        };
        removed.iter().filter(is_over).map(|removed| removed.app.clone()).collect()
    }

    /// The removed apps of which nothing is left in any database here.
    pub fn released(&self) -> BTreeMap<AppName, Epoch> {
        self.releases.done()
    }

    /// What this site holds durably of each app.
    pub fn known_apps(&self) -> BTreeMap<AppName, KnownApp> {
        self.all().iter().map(|app| (app.name.clone(), app.known())).collect()
    }

    fn find(&self, app: &AppName) -> Option<Arc<App>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    fn all(&self) -> Vec<Arc<App>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn app(&self, name: &AppName) -> Result<Arc<App>, Failure> {
        self.find(name).ok_or_else(|| {
            transient(format!(
                "this agent has not been told of app {name}: apply its protection file, or wait a moment"
            ))
        })
    }

    /// Carries out one action of a run. Blocks until it is done, and before that for as long as this site needs to take over what
    /// the run rests on; may be called again for the same command.
    pub fn execute(&self, command: &Command) -> Result<Done, Failure> {
        // A DNS node answers for apps that live elsewhere as well.
        if let Action::SwitchEntry { record } = &command.action {
            self.context
                .records
                .update(record.clone())
                .map_err(|error| failure(format!("cannot switch {}: {}", record.name, in_full(&error))))?;
            return Ok(Done::Nothing);
        }
        let is_over = || self.is_ending.load(Ordering::SeqCst);
        let app = actions::wait_out(actions::TAKE_OVER_MAX, is_over, || {
            let app = self.app(&command.app)?;
            app.check_epoch(command)?;
            app.check_revision(command)?;
            Ok(app)
        })?;
        // With what it waited for a higher epoch may have come.
        app.check_epoch(command)?;
        let result = actions::execute(&app, command);
        app.reconcile();
        result
    }

    pub fn status(&self) -> Vec<AssetStatus> {
        self.all().iter().flat_map(|app| app.status()).collect()
    }

    /// The highest epoch that this site knows of each app.
    pub fn known_epochs(&self) -> BTreeMap<AppName, Epoch> {
        self.all().iter().map(|app| (app.name.clone(), app.state().epoch)).collect()
    }

    /// Whether an agent is the other side of an app. Only its word on the app's epoch counts.
    pub fn is_peer(&self, app: &AppName, agent: &AgentId) -> bool {
        self.find(app).is_some_and(|app| app.assignment().peer.as_ref().is_some_and(|peer| peer.agent == *agent))
    }

    /// Begins to take in a database's log from the writer's agent.
    pub fn open_log(&self, peer: &PeerIdentity, open: LogOpen) -> Result<Box<dyn LogSession>, LogRefusal> {
        let app = self
            .find(&open.asset.app)
            .ok_or_else(|| LogRefusal::new(RefusalReason::NotReady, "this site has not been told of this app yet"))?;
        self.check_grant(peer, &open.grant, &open.asset.app, open.epoch)
            .map_err(|failure| LogRefusal::new(RefusalReason::NotGranted, failure.message))?;
        Ok(Box::new(session::JournalSession::open(app, open)?))
    }

    fn check_grant(
        &self,
        peer: &PeerIdentity,
        grant: &levee_model::control::Signed,
        app: &AppName,
        epoch: Epoch,
    ) -> Result<Grant, Failure> {
        self.context
            .credentials
            .grants()
            .authorize(grant, peer, app, Role::Writer, epoch)
            .map_err(|error| failure(in_full(&error)))
    }

    /// Makes an app's repository, at the request of its writer.
    pub fn create_vault(&self, peer: &PeerIdentity, request: CreateVaultRequest) -> Result<(), Failure> {
        let app = self.app(&request.app)?;
        self.check_writer(&app, peer)?;
        self.check_grant(peer, &request.grant, &request.app, app.state().epoch)?;
        let master_key = levee_vault::MasterKey::from_json(&request.master_key)
            .map_err(|error| failure(format!("the repository's master key can't be read: {}", in_full(&error))))?;
        app.copies.create(copies::NewRepository {
            master_key: &master_key,
            writer_key_file: levee_vault::KeyFile {
                id: request.key_file_id.clone(),
                content: request.key_file.clone(),
            },
            host: self.context.agent.as_str(),
            site: &self.context.site,
            ca_certificate: &levee_wire::certificates_to_pem(&[self.context.credentials.authority().clone()]),
        })
    }

    /// The repository that a peer may use, and how.
    pub fn repository(&self, peer: &PeerIdentity, app: &AppName) -> Result<(Arc<dyn Store>, Access), Failure> {
        let app = self.app(app)?;
        self.check_writer(&app, peer)?;
        // Nothing is written into another repository that was put in this one's place.
        if app.copies.exists() {
            app.copies.vault()?;
        }
        Ok((app.copies.receiving(&peer.agent), Access::Append))
    }

    /// Copies are taken from the app's writer at this site's own epoch only.
    fn check_writer(&self, app: &App, peer: &PeerIdentity) -> Result<(), Failure> {
        let (state, assignment) = (app.state(), app.assignment());
        if state.phase != Phase::Recovery || assignment.role != Role::Recovery || assignment.epoch != state.epoch {
            return Err(failure(format!(
                "{} takes no copies of app {} now: it knows epoch {} and is {:?} there",
                self.context.site, app.name, state.epoch, state.phase
            )));
        }
        match &assignment.peer {
            Some(writer) if writer.agent == peer.agent && writer.site == peer.site => Ok(()),
            _ => Err(failure(format!("agent {} at {} is not the writer of app {}", peer.agent, peer.site, app.name))),
        }
    }

    /// Ends every thread. Databases go on.
    pub fn shut_down(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        let apps = self.all();
        // Side by side.
        apps.iter().for_each(|app| app.tell_tasks());
        apps.iter().for_each(|app| app.end_tasks());
        // A copy to a further vault ends as soon as that answers; what the operator runs after it is begun then.
        let deadline = Instant::now() + FURTHER_ENDING_MAX;
        apps.iter().for_each(|app| app.wait_for_the_rest(deadline));
    }
}

/// 160 random bits as text that can be typed from paper.
fn random_password() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0u8; 20]);
    // Without the system's random numbers nothing secret can be made, so there is nothing to fall back to.
    getrandom::fill(bytes.as_mut()).expect("the system gives random numbers");
    Zeroizing::new(hex::encode(*bytes))
}
