//! The threads that work for one app: started, told to end, and waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use levee_model::control::Role;
use levee_model::{AssetName, Epoch};

use super::task::Task;

/// How long a thread of the writing side is waited for. It may be in the middle of a call to a site that cannot be
/// reached, which takes many seconds to fail; whoever ends it, such as a failover, must not wait for that. What it
/// still brings about is refused there by its epoch, and it works on nothing that others work on here.
const ENDING_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a thread was started for. When any of it changes, the thread is replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskKey {
    /// `None` for what looks after all copies of the app.
    pub asset: Option<AssetName>,
    pub role: Role,
    pub epoch: Epoch,
    /// The asset's part of the assignment as JSON, with the peer.
    pub wanted: String,
}

/// The threads of one app.
#[derive(Default)]
pub struct Tasks {
    running: BTreeMap<TaskKey, Task>,
    /// Told to end, and not waited for any longer. Nothing is started for their assets until they have ended.
    ending: Vec<(TaskKey, Task)>,
}

impl Tasks {
    /// Whether a thread for this may be started: none runs for it, and none is still ending that works on the asset.
    pub fn has_room_for(&self, key: &TaskKey) -> bool {
        !self.running.contains_key(key) && !self.ending.iter().any(|(ending, _)| ending.asset == key.asset)
    }

    pub fn add(&mut self, key: TaskKey, task: Task) {
        self.running.insert(key, task);
    }

    /// Ends all threads but these, side by side. Those of the recovery side have ended when this returns; those of the
    /// writing side have, or are left to end by themselves.
    pub fn keep(&mut self, keep: impl Fn(&TaskKey) -> bool) {
        self.tell(keep);
        let deadline = Instant::now() + ENDING_MAX;
        let is_waited_for = |(key, task): &(TaskKey, Task)| {
            !task.is_finished() && (key.role == Role::Recovery || Instant::now() < deadline)
        };
        while self.ending.iter().any(is_waited_for) {
            std::thread::sleep(LOOK_EVERY);
        }
        self.reap();
    }

    /// Ends every thread, and returns when none works any more.
    pub fn end_all(&mut self) {
        self.tell(|_| false);
        self.ending.drain(..).for_each(|(_, task)| task.end());
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

    fn tell(&mut self, keep: impl Fn(&TaskKey) -> bool) {
        let (keep, end): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.running).into_iter().partition(|(key, _)| keep(key));
        self.running = keep;
        end.values().for_each(Task::tell);
        self.ending.extend(end);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn key(asset: &str, role: Role) -> TaskKey {
        TaskKey { asset: Some(asset.parse().unwrap()), role, epoch: Epoch(1), wanted: String::new() }
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
        assert!(!tasks.reap());
        drop(answer);
        tasks.end_all();
        assert!(tasks.has_room_for(&key("orders", Role::Recovery)));
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
