//! The highest epoch of each app that another agent has told of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use levee_model::{AppName, Epoch};

use crate::error::Result;
use crate::folder::{AgentFolder, read_json, write_json};

/// Survives restarts. Clones share it.
#[derive(Clone, Debug)]
pub struct HeardEpochs {
    path: Arc<PathBuf>,
    /// Also keeps writers of the file apart.
    heard: Arc<Mutex<BTreeMap<AppName, Epoch>>>,
}

impl HeardEpochs {
    pub(crate) fn open(folder: &AgentFolder) -> Result<HeardEpochs> {
        let path = folder.epochs();
        let heard = read_json(&path)?.unwrap_or_default();
        Ok(HeardEpochs { path: Arc::new(path), heard: Arc::new(Mutex::new(heard)) })
    }

    /// The highest epoch that was heard of an app. A peer's word is a reason to stop, never one to begin.
    pub fn get(&self, app: &AppName) -> Option<Epoch> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(app).copied()
    }

    /// Everything heard.
    pub fn all(&self) -> BTreeMap<AppName, Epoch> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what is higher, durably. Returns whether anything was.
    pub(crate) fn hear(&self, told: &BTreeMap<AppName, Epoch>) -> Result<bool> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merged = heard.clone();
        for (app, epoch) in told {
            let known = merged.entry(app.clone()).or_insert(*epoch);
            *known = (*known).max(*epoch);
        }
        if merged == *heard {
            return Ok(false);
        }
        write_json(&self.path, &merged)?;
        *heard = merged;
        Ok(true)
    }
}
