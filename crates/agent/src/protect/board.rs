//! What is known of each asset, written by the threads that work on it and read for the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use levee_model::AssetName;
use levee_model::control::{AssetPoint, AssetState};
use levee_model::postgres::Lsn;
use tokio::sync::Notify;

/// The changing part of an asset's status.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub state: AssetState,
    pub point: Option<AssetPoint>,
    pub source_lsn: Option<Lsn>,
    pub problem: Option<String>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { state: AssetState::Waiting, point: None, source_lsn: None, problem: None }
    }
}

/// One app's board. Clones share it.
#[derive(Clone, Debug)]
pub struct Board {
    assets: Arc<Mutex<BTreeMap<AssetName, Standing>>>,
    changed: Arc<Notify>,
}

impl Board {
    pub fn new(changed: Arc<Notify>) -> Self {
        Self { assets: Arc::default(), changed }
    }

    /// Changes an asset's entry. A change of state or problem is sent to the server at once.
    pub fn update(&self, asset: &AssetName, change: impl FnOnce(&mut Standing)) {
        let mut assets = self.assets.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = assets.entry(asset.clone()).or_default();
        let before = (entry.state, entry.problem.clone());
        change(entry);
        if before != (entry.state, entry.problem.clone()) {
            self.changed.notify_one();
        }
    }

    pub fn problem(&self, asset: &AssetName, problem: impl ToString) {
        let problem = problem.to_string();
        self.update(asset, |entry| {
            if entry.problem.as_ref() != Some(&problem) {
                tracing::warn!(%asset, problem);
            }
            entry.problem = Some(problem);
        });
    }

    /// Forgets what was known in an earlier role.
    pub fn clear(&self) {
        self.assets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.changed.notify_one();
    }

    pub fn get(&self, asset: &AssetName) -> Standing {
        self.assets.lock().unwrap_or_else(PoisonError::into_inner).get(asset).cloned().unwrap_or_default()
    }
}
