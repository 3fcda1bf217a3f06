//! The end of an app's protection. Its data and copies stay where they are, and its databases go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_api::{AppRemoval, Remains};
use levee_model::control::EntryRecord;
use levee_model::protection::AppSpec;
use levee_model::{AgentId, AppName, Epoch, SiteName};
use serde::{Deserialize, Serialize};

use crate::adopt::newer_epoch;
use crate::config::{Config, app_key, entry_key, removed_key};
use crate::error::{Result, ServerError};
use crate::runs::open_key;
use crate::server::{Shared, frozen_key, proven_key};
use crate::state::{Compare, Op};

/// How long the agents have to take away what Levee has left in databases, before the answer names those that have not.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

/// What is kept of an app that was removed: agents and DNS nodes that were away learn of it when they are back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedApp {
    pub spec: AppSpec,
    /// One more than the app's last. An app of the same name begins above it.
    pub epoch: Epoch,
    pub writer: SiteName,
    pub agents: BTreeMap<SiteName, AgentId>,
    /// All names that it was ever reached by.
    pub names: Vec<String>,
    pub by: String,
    pub at: Timestamp,
}

impl RemovedApp {
    /// Says to every DNS node that the names were given up.
    pub fn entry_records(&self, app: &AppName) -> Vec<EntryRecord> {
        let record = |name: &String| EntryRecord {
            app: app.clone(),
            name: name.clone(),
            ttl_s: 0,
            epoch: self.epoch,
            version: 0,
            site: self.writer.clone(),
            address: None,
            signature: String::new(),
        };
        self.names.iter().map(record).collect()
    }

    /// Everything that stays, and where.
    fn remains(&self) -> Vec<Remains> {
        let databases = self.spec.postgres.iter().flat_map(|(asset, spec)| {
            spec.at.iter().map(move |(site, here)| (asset, site, here.data_directory.clone()))
        });
        let folders = self
            .spec
            .files
            .iter()
            .flat_map(|(asset, spec)| spec.at.iter().map(move |(site, here)| (asset, site, here.path.clone())));
        databases
            .chain(folders)
            .map(|(asset, site, path)| Remains {
                site: site.clone(),
                asset: asset.clone(),
                path,
                in_use: *site == self.writer,
            })
            .collect()
    }
}

impl Shared {
    /// Removes an app, in one durable transition.
    fn remove_app(&self, app: &AppName, by: &str, now: Timestamp) -> Result<RemovedApp> {
        let begun = Instant::now();
        loop {
            if let Some((run, kind)) = self.runs.open().remove(app) {
                return Err(ServerError::AppBusy { app: app.clone(), run, kind: kind.as_str() });
            }
            let config = Config::read(&self.store)?;
            let known = config.apps.get(app).ok_or_else(|| ServerError::UnknownApp { app: app.clone() })?;
            let record = &known.value;
            if let Some((asset, _)) = record.spec.postgres.iter().find(|(_, spec)| spec.zero_loss) {
                return Err(ServerError::CommitsWait { app: app.clone(), asset: asset.clone() });
            }
            let published = config.entries.get(app).map(|published| &published.value);
            let mut names: Vec<String> = levee_plan::entry_records(app, &record.spec, &record.writer, record.epoch)
                .into_iter()
                .map(|record| record.name)
                .collect();
            names.extend(published.into_iter().flat_map(|published| published.withdrawn.iter().cloned()));
            // A restored server may know less than the agents.
            let last = newer_epoch(app, record, &self.hub.snapshot()).unwrap_or(record.epoch);
            let removed = RemovedApp {
                spec: record.spec.clone(),
                epoch: last.next(),
                writer: record.writer.clone(),
                agents: record.agents.clone(),
                names,
                by: by.into(),
                at: now,
            };
            let compares = [Compare::ModRevision(app_key(app), known.revision), Compare::Absent(open_key(app))];
            let ops = [
                Op::put(removed_key(app), &removed)?,
                Op::delete(app_key(app)),
                Op::delete(entry_key(app)),
                Op::delete(frozen_key(app)),
                Op::delete(proven_key(app)),
            ];
            if self.store.txn(&compares, &ops)?.succeeded {
                tracing::info!(%app, %by, epoch = %removed.epoch, "the app is protected no more");
                return Ok(removed);
            }
            self.wait_to_decide_anew(begun, "the app was removed", &compares)?;
        }
    }

    /// Removes an app, and waits a while for its agents to have nothing left in its databases.
    pub async fn remove(self: &Arc<Self>, app: AppName, by: String) -> Result<AppRemoval> {
        let name = app.clone();
        let removed = self.clone().blocking(move |shared| shared.remove_app(&name, &by, Timestamp::now())).await?;
        self.push_wanted().await;
        let mut changes = self.hub.subscribe();
        let unconfirmed = || {
            let live = self.hub.snapshot();
            let has_released = |agent: &AgentId| {
                let status = live.get(agent).and_then(|live| live.status.as_ref());
                status.and_then(|status| status.released.get(&app)).is_some_and(|epoch| *epoch >= removed.epoch)
            };
            removed.agents.values().filter(|agent| !has_released(agent)).cloned().collect::<Vec<AgentId>>()
        };
        let released = async { while !unconfirmed().is_empty() && changes.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(RELEASE_PATIENCE, released).await;
        Ok(AppRemoval {
            unconfirmed: unconfirmed(),
            remains: removed.remains(),
            copies_at: removed.agents.clone(),
            writer: removed.writer,
            epoch: removed.epoch,
            app,
        })
    }
}
