//! The threads that work for one app: started, told to end, and waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use levee_model::control::{Assignment, Role};
use levee_model::{AssetName, Epoch, VaultName};

use super::state::{AppState, Phase};
use super::task::Task;

/// How long a thread of the writing side is waited for. It may be in the middle of a call to a site that cannot be
/// reached, which takes many seconds to fail; whoever ends it, such as a failover, must not wait for that. What it
/// still brings about is refused there by its epoch, and it works on nothing that others work on here.
const ENDING_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long nothing is started anew for work whose thread has panicked: the same may happen again.
const PAUSE_AFTER_DEATH: Duration = Duration::from_secs(10);
/// How long work must go on without another panic until nothing more is said of the last one.
const WELL_AFTER: Duration = Duration::from_secs(600);

/// What a thread works on. Two never work on the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Asset(AssetName),
    /// Taking away what is left of ours at a database that is named no more.
    Leaving(AssetName),
    /// Looking after all copies of the app that are here.
    Upkeep,
    /// Bringing them to a further vault.
    Vault(VaultName),
}

impl Work {
    /// Whether it is on the same, so that one has to wait for the other.
    fn meets(&self, other: &Work) -> bool {
        match (self, other) {
            (Work::Asset(asset) | Work::Leaving(asset), Work::Asset(other) | Work::Leaving(other)) => asset == other,
            _ => self == other,
        }
    }

    /// Whether an asset suffers when this does not go on.
    pub fn hits(&self, asset: &AssetName) -> bool {
        match self {
            Work::Asset(of) => of == asset,
            // Of an asset that the status does not show any more.
            Work::Leaving(_) | Work::Upkeep | Work::Vault(_) => true,
        }
    }

    /// What part of the agent's work it is, in words.
    pub fn part(&self) -> String {
        match self {
            Work::Asset(_) => "the agent's work on this asset".into(),
            Work::Leaving(asset) => format!("the agent's last work on {asset}"),
            Work::Upkeep => "the upkeep of the copies here".into(),
            Work::Vault(vault) => format!("the copying to vault {vault}"),
        }
    }
}

/// What a thread was started for. When any of it changes, the thread is replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskKey {
    pub work: Work,
    pub role: Role,
    pub epoch: Epoch,
    /// Its part of the assignment as JSON; an asset's with the peer.
    pub wanted: String,
}

/// The threads of one app.
#[derive(Default)]
pub struct Tasks {
    running: BTreeMap<TaskKey, Task>,
    /// Told to end, and not waited for any longer. Nothing is started for the same work until they have ended.
    ending: Vec<(TaskKey, Task)>,
    /// Work whose thread has panicked, and when that was.
    died: BTreeMap<Work, Instant>,
    /// The same for longer: of which it is still said.
    ailing: BTreeMap<Work, Instant>,
}

impl Tasks {
    /// Whether a thread for this may be started: none runs for it, none is still ending that works on the same, and none
    /// has died of it just now.
    pub fn has_room_for(&self, key: &TaskKey) -> bool {
        let has_died = self.died.get(&key.work).is_some_and(|at| at.elapsed() < PAUSE_AFTER_DEATH);
        let is_worked_on = self.ending.iter().any(|(ending, _)| ending.work.meets(&key.work));
        !has_died && !self.running.contains_key(key) && !is_worked_on
    }

    pub fn add(&mut self, key: TaskKey, task: Task) {
        self.running.insert(key, task);
    }

    /// Ends all threads but these, side by side. Those of the recovery side have ended when this returns; those of the
    /// writing side have, or are left to end by themselves, and so are those that bring copies to further vaults: they
    /// change nothing here that others work on, and a run must not wait for a vault that does not answer.
    pub fn keep(&mut self, keep: impl Fn(&TaskKey) -> bool) {
        self.tell(keep);
        let deadline = Instant::now() + ENDING_MAX;
        let is_waited_for = |(key, task): &(TaskKey, Task)| match (&key.work, key.role) {
            _ if task.is_finished() => false,
            (Work::Vault(_), _) => false,
            (_, Role::Recovery) => true,
            (_, Role::Writer) => Instant::now() < deadline,
        };
        while self.ending.iter().any(is_waited_for) {
            std::thread::sleep(LOOK_EVERY);
        }
        self.reap();
    }

    /// Ends every thread, and returns when none works any more, but for those that bring copies to further vaults: they
    /// end by themselves.
    pub fn end_all(&mut self) {
        self.tell(|_| false);
        let is_left = |(key, task): &(TaskKey, Task)| matches!(key.work, Work::Vault(_)) && !task.is_finished();
        let (left, waited_for): (Vec<_>, Vec<_>) = self.ending.drain(..).partition(is_left);
        waited_for.into_iter().for_each(|(_, task)| task.end());
        self.ending = left;
    }

    /// Tells every thread to end, and waits for none.
    pub fn tell_all(&mut self) {
        self.tell(|_| false);
    }

    /// Waits until then at most for those that were left to end by themselves.
    pub fn wait_for_the_rest(&mut self, deadline: Instant) {
        while self.ending.iter().any(|(_, task)| !task.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        self.reap();
    }

    /// Lets go of the threads that have ended since they were told to. Returns whether there were any.
    pub fn reap(&mut self) -> bool {
        let (ended, ending): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.ending).into_iter().partition(|(_, task)| task.is_finished());
        self.ending = ending;
        let any = !ended.is_empty();
        ended.into_iter().for_each(|(_, task)| task.end());
        any
    }

    /// Takes out the threads that have ended in a panic, and gives what they worked on: nobody else would work on it again.
    pub fn take_dead(&mut self) -> Vec<Work> {
        let is_dead = |_: &TaskKey, task: &mut Task| task.has_died();
        let dead: Vec<(TaskKey, Task)> = self.running.extract_if(.., is_dead).collect();
        let works = dead.into_iter().map(|(key, task)| {
            task.end();
            self.died.insert(key.work.clone(), Instant::now());
            self.ailing.insert(key.work.clone(), Instant::now());
            key.work
        });
        works.collect()
    }

    /// Takes out the work that has gone on for long enough since its thread has died. Says so once.
    pub fn take_well(&mut self) -> Vec<Work> {
        let is_well = |_: &Work, at: &mut Instant| at.elapsed() >= WELL_AFTER;
        self.ailing.extract_if(.., is_well).map(|(work, _)| work).collect()
    }

    /// Whether the pause is over for something whose thread has died. Says so once.
    pub fn may_begin_again(&mut self) -> bool {
        let before = self.died.len();
        self.died.retain(|_, at| at.elapsed() < PAUSE_AFTER_DEATH);
        self.died.len() < before
    }

    fn tell(&mut self, keep: impl Fn(&TaskKey) -> bool) {
        let (keep, end): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.running).into_iter().partition(|(key, _)| keep(key));
        self.running = keep;
        end.values().for_each(Task::tell);
        self.ending.extend(end);
    }
}

/// The threads that state and assignment ask for.
pub fn wanted(assignment: &Assignment, state: &AppState) -> Vec<TaskKey> {
    // An assignment of another epoch than this site's own is waiting for a run's commands.
    if assignment.epoch != state.epoch {
        return Vec::new();
    }
    let spec = &assignment.spec;
    let key = |work: Work, wanted: String| TaskKey { work, role: assignment.role, epoch: assignment.epoch, wanted };
    let of_asset = |asset: &AssetName| {
        let wanted = (spec.postgres.get(asset), spec.files.get(asset), &assignment.peer);
        key(Work::Asset(asset.clone()), serde_json::to_string(&wanted).unwrap_or_default())
    };
    let is_wanted = |asset: &&AssetName| match assignment.role {
        Role::Writer => state.is_written(asset),
        Role::Recovery => state.phase == Phase::Recovery,
    };
    let mut tasks: Vec<TaskKey> = spec.asset_names().filter(is_wanted).map(of_asset).collect();
    let is_gone = |asset: &AssetName| spec.asset_names().all(|named| named != asset);
    tasks.extend(state.leaving.iter().filter(|(asset, _)| is_gone(asset)).map(|(asset, leaving)| TaskKey {
        work: Work::Leaving(asset.clone()),
        // Whichever side this is: nobody waits for a database that does not answer.
        role: Role::Writer,
        epoch: assignment.epoch,
        wanted: serde_json::to_string(leaving).unwrap_or_default(),
    }));
    if assignment.role == Role::Recovery && state.phase == Phase::Recovery {
        // It reads what is wanted anew at each turn.
        tasks.push(key(Work::Upkeep, String::new()));
        let vaults = spec.copy_to.iter().filter_map(|vault| Some((vault, assignment.vaults.get(vault)?)));
        tasks.extend(
            vaults
                .map(|(vault, spec)| key(Work::Vault(vault.clone()), serde_json::to_string(spec).unwrap_or_default())),
        );
    }
    tasks
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn key(asset: &str, role: Role) -> TaskKey {
        TaskKey { work: Work::Asset(asset.parse().unwrap()), role, epoch: Epoch(1), wanted: String::new() }
    }

    #[test]
    fn a_thread_that_waits_for_the_other_site_is_left_and_its_asset_has_no_second_one() {
        let (mut tasks, (answer, link)) = (Tasks::default(), mpsc::channel::<()>());
        let hangs = Task::spawn("hangs".into(), move |_| {
            let _ = link.recv();
        })
        .unwrap();
        let obeys = Task::spawn("obeys".into(), |stop| {
            stop.wait(Duration::from_secs(600));
        })
        .unwrap();
        tasks.add(key("orders", Role::Writer), hangs);
        tasks.add(key("documents", Role::Writer), obeys);
        tasks.keep(|_| false);
        assert!(tasks.has_room_for(&key("documents", Role::Recovery)));
        assert!(!tasks.has_room_for(&key("orders", Role::Recovery)), "the old thread is still at it");
        let leaves = |asset: &str| TaskKey { work: Work::Leaving(asset.parse().unwrap()), ..key(asset, Role::Writer) };
        assert!(!tasks.has_room_for(&leaves("orders")), "its slot is in use");
        assert!(tasks.has_room_for(&leaves("documents")));
        assert!(!tasks.reap());
        drop(answer);
        tasks.end_all();
        assert!(tasks.has_room_for(&key("orders", Role::Recovery)));
    }

    #[test]
    fn nobody_waits_for_a_vault_that_does_not_answer_and_it_has_no_second_thread() {
        let (mut tasks, (answer, link)) = (Tasks::default(), mpsc::channel::<()>());
        let of_vault = TaskKey { work: Work::Vault("far".parse().unwrap()), ..key("orders", Role::Recovery) };
        let hangs = Task::spawn("hangs".into(), move |_| {
            let _ = link.recv();
        });
        tasks.add(of_vault.clone(), hangs.unwrap());
        let begun = Instant::now();
        tasks.keep(|_| false);
        tasks.end_all();
        assert!(begun.elapsed() < ENDING_MAX, "it was waited for");
        assert!(!tasks.has_room_for(&TaskKey { epoch: Epoch(2), ..of_vault.clone() }));
        assert!(tasks.has_room_for(&TaskKey { work: Work::Vault("near".parse().unwrap()), ..of_vault.clone() }));
        assert!(tasks.has_room_for(&TaskKey { work: Work::Upkeep, ..of_vault.clone() }));
        drop(answer);
        while !tasks.reap() {
            std::thread::sleep(LOOK_EVERY);
        }
        assert!(tasks.has_room_for(&of_vault));
    }

    #[test]
    fn a_thread_that_dies_is_found_and_its_work_is_begun_again_after_a_pause() {
        let mut tasks = Tasks::default();
        let key = key("orders", Role::Writer);
        tasks.add(key.clone(), Task::spawn("dies".into(), |_| panic!("a defect")).unwrap());
        let dead = loop {
            let dead = tasks.take_dead();
            if !dead.is_empty() {
                break dead;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        assert_eq!(dead, std::slice::from_ref(&key.work));
        assert!(tasks.take_dead().is_empty() && !tasks.has_room_for(&key) && !tasks.may_begin_again());
        let long_ago = Instant::now().checked_sub(PAUSE_AFTER_DEATH).unwrap();
        tasks.died.insert(key.work.clone(), long_ago);
        assert!(tasks.has_room_for(&key));
        assert!(tasks.may_begin_again() && !tasks.may_begin_again());
        assert!(tasks.take_well().is_empty(), "it has not lived for long yet");
        tasks.ailing.insert(key.work.clone(), Instant::now().checked_sub(WELL_AFTER).unwrap());
        assert_eq!(tasks.take_well(), [key.work]);
        assert!(tasks.take_well().is_empty());
    }

    #[test]
    fn a_thread_of_the_recovery_side_is_always_waited_for() {
        let mut tasks = Tasks::default();
        let late = ENDING_MAX + Duration::from_millis(200);
        let restores = Task::spawn("restores".into(), move |_| std::thread::sleep(late)).unwrap();
        tasks.add(key("orders", Role::Recovery), restores);
        tasks.keep(|_| false);
        assert!(tasks.has_room_for(&key("orders", Role::Writer)));
    }
}
