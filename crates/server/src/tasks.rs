use std::future::Future;
use std::sync::{Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The tasks of a running server that come and go: links of agents, runs. They end with it.
#[derive(Default)]
pub struct Tasks {
    /// Held to start a task, and to take all out at the end.
    set: Mutex<JoinSet<()>>,
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.set.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.lock();
        // Those that have ended would pile up otherwise.
        while set.try_join_next().is_some() {}
        set.spawn_on(task, runtime);
    }

    /// Ends all tasks, soon.
    pub fn abort(&self) {
        self.lock().abort_all();
    }

    /// Ends all tasks, and returns when none is left.
    pub async fn end(&self) {
        let mut set = std::mem::take(&mut *self.lock());
        set.shutdown().await;
    }
}
