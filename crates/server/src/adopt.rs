//! Taking over a newer epoch from the agents: for a server that was restored from a backup that is older than the
//! last change of site.
//!
//! Agents hold their epochs durably and refuse an older one, so a restored server can do no harm, and nothing either.
//! An agent's word is not enough to change the app's writer by itself: an operator asks for it, and every agent of the
//! app must be there, because one that is away may know a still newer epoch.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use levee_api::{AdoptReport, Adoption};
use levee_model::control::Phase;
use levee_model::{AgentId, Epoch, SiteName};

use crate::config::{Adopted, AppRecord, Config, Published, app_key, entry_key};
use crate::error::Result;
use crate::hub::Live;
use crate::runs::open_key;
use crate::server::{Shared, frozen_key};
use crate::state::{Compare, Op};

/// The newest epoch that the agents of an app know or have heard of, when it is newer than the server's.
pub fn newer_epoch(app: &levee_model::AppName, record: &AppRecord, live: &BTreeMap<AgentId, Live>) -> Option<Epoch> {
    let known = live.values().filter_map(|live| live.status.as_ref()?.known.get(app));
    known.flat_map(|known| [Some(known.epoch), known.heard]).flatten().filter(|epoch| *epoch > record.epoch).max()
}

/// Who writes at the newest epoch. The error says why nobody can be named.
fn writer_at(
    app: &levee_model::AppName,
    record: &AppRecord,
    live: &BTreeMap<AgentId, Live>,
    newest: Epoch,
) -> Result<SiteName, String> {
    let mut writer = None;
    for (site, agent) in &record.agents {
        let here = live.get(agent).filter(|live| live.connected);
        let Some(known) = here.and_then(|live| live.status.as_ref()) else {
            return Err(format!(
                "agent {agent} at {site} is not connected, and may know a still newer epoch: start it, or revoke it if \
                 it is gone for good"
            ));
        };
        if known.known.get(app).is_some_and(|known| known.epoch == newest && known.phase == Phase::Writer) {
            writer = Some(site.clone());
        }
    }
    writer.ok_or_else(|| {
        format!(
            "no agent writes {app} at epoch {newest}: a run was under way when the server was lost. See \
             docs/operating/server-backup.md for how to go on"
        )
    })
}

impl Shared {
    /// Takes over the newer epochs of all apps, or with `dry_run` only says what it would do.
    pub fn adopt_epochs(&self, by: &str, dry_run: bool, now: Timestamp) -> Result<AdoptReport> {
        let begun = Instant::now();
        loop {
            let config = Config::read(&self.store)?;
            let live = self.hub.snapshot();
            let mut report = AdoptReport::default();
            let (mut compares, mut ops) = (Vec::new(), Vec::new());
            for (app, known) in &config.apps {
                let record = &known.value;
                let Some(newest) = newer_epoch(app, record, &live) else { continue };
                let writer = match self.runs.open().get(app) {
                    Some((run, _)) => Err(format!("run {run} is under way: end it with `levee run abort {run}`")),
                    None => writer_at(app, record, &live, newest),
                };
                let (writer, refused) = match writer {
                    Ok(writer) => (Some(writer), None),
                    Err(reason) => (None, Some(reason)),
                };
                report.apps.push(Adoption {
                    app: app.clone(),
                    epoch_before: record.epoch,
                    writer_before: record.writer.clone(),
                    epoch: newest,
                    writer: writer.clone(),
                    refused,
                });
                let Some(writer) = writer else { continue };
                let adopted = Adopted {
                    epoch_before: record.epoch,
                    writer_before: record.writer.clone(),
                    by: by.into(),
                    at: now,
                };
                let after = AppRecord {
                    epoch: newest,
                    writer: writer.clone(),
                    epoch_since: now,
                    adopted: Some(adopted),
                    ..record.clone()
                };
                let withdrawn = config.entries.get(app).map(|entry| entry.value.withdrawn.clone()).unwrap_or_default();
                let published = Published { epoch: newest, site: writer.clone(), version: 0, withdrawn };
                compares.push(Compare::ModRevision(app_key(app), known.revision));
                // A run is durable a moment before it is among the open ones.
                compares.push(Compare::Absent(open_key(app)));
                ops.push(Op::put(app_key(app), &after)?);
                ops.push(Op::put(entry_key(app), &published)?);
                // Nobody knows here whether the app is protected elsewhere; that is found out again.
                ops.push(Op::put(frozen_key(app), &writer)?);
            }
            if dry_run || ops.is_empty() || self.store.txn(&compares, &ops)?.succeeded {
                if !dry_run {
                    tracing::info!(%by, ?report, "took over the agents' epochs");
                }
                return Ok(report);
            }
            self.wait_to_decide_anew(begun, "the agents' epochs were taken over", &compares)?;
        }
    }
}
