//! How everything stands, from what is wanted and what the agents say.

use std::collections::BTreeMap;

use jiff::Timestamp;
use levee_model::control::{AssetPoint, AssetState, AssetStatus, Role};
use levee_model::protection::{CopyCount, CopyPlace, Objective, SiteSpec, VaultSpec};
use levee_model::{AgentId, AppName, AssetName, Position, RunId, SiteName, VaultName};
use levee_plan::AgentView;

use crate::adopt::newer_epoch;
use crate::config::{AppRecord, Config};
use crate::contact::Contact;
use crate::control::{
    AdoptedView, AgentSummary, AppStatus, AssetView, BackupView, EntryView, Health, Proof, SetAside, SiteView,
    VaultCopyView,
};
use crate::hub::Live;

/// A clock that is further off is named: ages and times shown would be wrong by as much.
const CLOCK_AHEAD_MS_MAX: u64 = 5_000;

/// What the server's own records say of an app.
#[derive(Default)]
pub struct AppFacts {
    pub frozen: Option<SiteName>,
    pub last_proof: Option<Proof>,
    pub open_run: Option<RunId>,
    /// The newest backup of each asset that was restored and probed.
    pub proven: BTreeMap<AssetName, BackupView>,
    /// What the keeper of each asset's copies has said last, also to an earlier process of this server.
    pub contacts: BTreeMap<AssetName, Contact>,
}

pub fn backup(point: &AssetPoint, at: Option<Timestamp>) -> BackupView {
    BackupView { position: point.position.clone(), as_of: point.as_of, at, run: None }
}

/// What is known beside the wanted state, at one moment.
pub struct Known<'a> {
    pub config: &'a Config,
    pub live: &'a BTreeMap<AgentId, Live>,
    pub now: Timestamp,
}

/// What a drill has shown to take longer than the app may be away.
fn too_slow(proof: &Proof, objective: &Objective) -> Option<String> {
    let took_s = proof.recovery_time_s.filter(|_| proof.passed)?;
    (took_s > objective.recovery_time.duration().as_secs_f64()).then(|| {
        format!(
            "the last drill took {took_s:.1} s to bring {} up, and its objective is {}: `levee run show {}` has the steps",
            proof.app, objective.recovery_time, proof.run
        )
    })
}

impl Known<'_> {
    /// The agents that serve an app, as a plan sees them.
    pub fn agents_of(&self, record: &AppRecord) -> Vec<AgentView> {
        let view = |(site, agent): (&SiteName, &AgentId)| {
            let live = self.live.get(agent).cloned().unwrap_or_default();
            AgentView {
                agent: agent.clone(),
                site: site.clone(),
                connected: live.connected,
                status: live.status,
                clock_ahead_ms: live.clock_ahead_ms,
                heard_at: live.seen_at,
            }
        };
        record.agents.iter().map(view).collect()
    }

    pub fn app(&self, app: &AppName, facts: AppFacts) -> Option<AppStatus> {
        let AppFacts { frozen, last_proof, open_run, proven, contacts } = facts;
        let record = &self.config.apps.get(app)?.value;
        let agents = self.agents_of(record);
        let mut problems = Vec::new();
        for site in [&record.spec.home, &record.spec.recovery] {
            match agents.iter().find(|view| view.site == *site) {
                None => problems.push(format!("no agent serves {app} at {site}: let an agent join there")),
                Some(view) if !view.connected => {
                    problems.push(format!("the agent {} at {site} is not connected", view.agent));
                }
                Some(view) => problems.extend(clock_problem(&view.agent, view.clock_ahead_ms)),
            }
        }
        if let Some(newest) = newer_epoch(app, record, self.live) {
            problems.push(format!(
                "the agents know epoch {newest} of {app}, and the server only {}: it was restored from a backup that is \
                 older than the last change of site. `levee server adopt-epochs` takes over what they know",
                record.epoch
            ));
        }
        problems.extend(last_proof.as_ref().and_then(|proof| too_slow(proof, &record.spec.objective)));
        let set_aside = agents
            .iter()
            .filter_map(|view| Some((&view.site, view.status.as_ref()?.known.get(app)?)))
            .flat_map(|(site, known)| {
                known.set_aside.iter().map(|path| SetAside { site: site.clone(), path: path.clone() })
            })
            .collect();
        let mut assets: Vec<AssetView> =
            record.spec.asset_names().map(|asset| self.asset(app, record, &agents, asset, proven.get(asset))).collect();
        let objective_s = record.spec.objective.recovery_point.duration().as_secs_f64();
        let meets_objective = oldest_age_s(&assets).map(|age_s| age_s <= objective_s);
        let health = if assets.iter().any(|asset| !asset.protected) {
            Health::Unprotected
        } else if meets_objective != Some(true)
            || !problems.is_empty()
            || assets.iter().any(|asset| !asset.problems.is_empty())
        {
            Health::Degraded
        } else {
            Health::Protected
        };
        // Only now: what is known from earlier is shown, and nothing above may count it.
        for asset in &mut assets {
            self.add_last_contact(record, &agents, contacts.get(&asset.asset), asset);
        }
        Some(AppStatus {
            app: app.clone(),
            home: record.spec.home.clone(),
            recovery: record.spec.recovery.clone(),
            writer: record.writer.clone(),
            epoch: record.epoch,
            objective: record.spec.objective.clone(),
            health,
            recovery_point_age_s: oldest_age_s(&assets),
            meets_objective,
            vault_frozen_at: frozen,
            assets,
            entries: self.entries(app),
            last_proof,
            open_run,
            adopted: record.adopted.as_ref().map(|adopted| AdoptedView {
                epoch_before: adopted.epoch_before,
                writer_before: adopted.writer_before.clone(),
                by: adopted.by.clone(),
                at: adopted.at,
            }),
            set_aside,
            problems,
        })
    }

    fn asset(
        &self,
        app: &AppName,
        record: &AppRecord,
        agents: &[AgentView],
        asset: &AssetName,
        proven: Option<&BackupView>,
    ) -> AssetView {
        let status_at = |site: &SiteName, role: Role| -> Option<&AssetStatus> {
            agents.iter().find(|view| view.site == *site)?.status.as_ref()?.assets.iter().find(|status| {
                status.app == *app && status.asset == *asset && status.role == role && status.epoch == record.epoch
            })
        };
        let keeper_site = record.spec.peer_of(&record.writer);
        let writer = status_at(&record.writer, Role::Writer);
        let keeper = status_at(keeper_site, Role::Recovery);
        let point = keeper.and_then(|status| status.point.as_ref());
        let state = match (keeper, writer) {
            (Some(keeper), _) => keeper.state,
            // The writer's word on what is protected elsewhere is none.
            (None, Some(writer)) if matches!(writer.state, AssetState::Protected | AssetState::Staged) => {
                AssetState::Unprotected
            }
            (None, writer) => writer.map_or(AssetState::Waiting, |status| status.state),
        };
        let source_now = agents.iter().find(|view| view.site == record.writer).map_or(self.now, |v| v.clock(self.now));
        let source_end = writer.and_then(|status| status.source_lsn).max(keeper.and_then(|status| status.source_lsn));
        let log_behind_bytes = match (source_end, point.map(|point| &point.position)) {
            (Some(end), Some(Position::Log(position))) => Some(end.bytes_since(position.lsn)),
            _ => None,
        };
        let mut problems = Vec::new();
        for (site, status) in [(&record.writer, writer), (keeper_site, keeper)] {
            if let Some(problem) = status.and_then(|status| status.problem.as_ref()) {
                problems.push(format!("{site}: {problem}"));
            }
        }
        let statuses = [(&record.writer, writer), (keeper_site, keeper)];
        let notes = statuses.into_iter().filter_map(|(site, status)| Some((site, status?)));
        let notes = notes.flat_map(|(site, status)| status.notes.iter().map(move |note| format!("{site}: {note}")));
        let notes: Vec<String> = notes.collect();
        let age_s = point.map(|point| source_now.duration_since(point.as_of).as_secs_f64().max(0.0));
        // Of one that was not heard of since, nobody knows what has become of its copies.
        let keeper_is_there = agents.iter().any(|view| view.site == *keeper_site && view.connected);
        let vaults = self.vaults(record, keeper, keeper_is_there, source_now);
        problems.extend(self.left_behind(record, &vaults));
        let age_max_s = record.spec.objective.recovery_point.duration().as_secs_f64();
        let counts = keeper_is_there || age_s.is_some_and(|age_s| age_s <= age_max_s);
        let copies = self.copies(record, is_protected(keeper) && counts, &vaults);
        if let Some(wanted) = &record.spec.copies {
            problems.extend(copies.missing(wanted));
        }
        AssetView {
            asset: asset.clone(),
            copies,
            vaults,
            kind: if record.spec.postgres.contains_key(asset) { "postgres".into() } else { "files".into() },
            protected: is_protected(keeper),
            state,
            position: point.map(|point| point.position.clone()),
            as_of: point.map(|point| point.as_of),
            age_s,
            log_behind_bytes,
            // A point stands for what this site has opened with its own keys.
            last_good: point.map(|point| backup(point, None)),
            last_verified: keeper
                .and_then(|status| status.verified.as_ref())
                .map(|verified| backup(&verified.point, Some(verified.at))),
            last_proven: proven.cloned(),
            // It is added when all is judged.
            last_contact: None,
            warned_since: keeper.and_then(|status| status.warned_since),
            // The writer's copies are the newer news; the recovery side's go on to further vaults.
            waiting: [writer, keeper].into_iter().flatten().find_map(|status| status.waiting.clone()),
            notes,
            problems,
            // They outlive what the agents say now.
            gaps: Vec::new(),
        }
    }

    /// What could be rebuilt from each further vault, as the recovery side says, or said while it was there.
    fn vaults(
        &self,
        record: &AppRecord,
        keeper: Option<&AssetStatus>,
        keeper_is_there: bool,
        source_now: Timestamp,
    ) -> BTreeMap<VaultName, VaultCopyView> {
        let newest = keeper.and_then(|keeper| Some(keeper.point.as_ref()?.as_of));
        let of_vault = |(vault, spec): (&VaultName, &VaultSpec)| {
            let copy =
                keeper.and_then(|keeper| keeper.vaults.get(vault)).map_or_else(VaultCopyView::default, |point| {
                    let age_s = source_now.duration_since(point.as_of).as_secs_f64().max(0.0);
                    // Where nothing newer has come to the recovery site either, nothing is behind.
                    let is_newest = keeper_is_there && newest.is_some_and(|newest| point.as_of >= newest);
                    let counts = is_newest || age_s <= spec.within.duration().as_secs_f64();
                    VaultCopyView { as_of: Some(point.as_of), age_s: Some(age_s), counts }
                });
            (vault.clone(), copy)
        };
        self.config.vaults_of(&record.spec).map(of_vault).collect()
    }

    /// Copies in further vaults that are too old to count.
    fn left_behind(&self, record: &AppRecord, copies: &BTreeMap<VaultName, VaultCopyView>) -> Vec<String> {
        let problem = |(vault, spec): (&VaultName, &VaultSpec)| {
            let as_of = copies.get(vault).filter(|copy| !copy.counts)?.as_of?;
            Some(format!(
                "the copy in vault {vault} is of {}, older than {} (within), and does not count",
                as_of.strftime("%Y-%m-%d %H:%M:%SZ"),
                spec.within
            ))
        };
        self.config.vaults_of(&record.spec).filter_map(problem).collect()
    }

    /// The original, the copy that could be brought back, and those in further vaults that are not left behind.
    fn copies(&self, record: &AppRecord, has_copy: bool, vaults: &BTreeMap<VaultName, VaultCopyView>) -> CopyCount {
        let keeper = Some(record.spec.peer_of(&record.writer)).filter(|_| has_copy);
        let at_site = |site: &SiteName| {
            let place = self.config.places.get(site).cloned().unwrap_or_default();
            // Without a word of its host, an agent has one to itself.
            let host = place.host.clone().unwrap_or(record.agents.get(site)?.to_string());
            Some((Some(host), place))
        };
        let at_sites = [Some(&record.writer), keeper].into_iter().flatten().filter_map(at_site);
        let counted =
            self.config.vaults_of(&record.spec).filter(|(vault, _)| vaults.get(*vault).is_some_and(|copy| copy.counts));
        let places: Vec<(Option<String>, SiteSpec)> =
            at_sites.chain(counted.map(|(_, spec)| (spec.host.clone(), spec.place()))).collect();
        let places: Vec<CopyPlace<'_>> =
            places.iter().map(|(host, site)| CopyPlace { host: host.as_deref(), site }).collect();
        CopyCount::of(&places)
    }

    fn entries(&self, app: &AppName) -> Vec<EntryView> {
        let records =
            self.config.entry_records().into_iter().filter(|record| record.app == *app && record.address.is_some());
        records
            .map(|record| {
                // An agent that runs no DNS node has nothing to confirm.
                let is_behind = |live: &Live| {
                    live.status.as_ref().is_some_and(|status| {
                        status.dns.is_some()
                            && status.entries.get(&record.name).is_none_or(|epoch| *epoch < record.epoch)
                    })
                };
                let unconfirmed =
                    self.live.iter().filter(|(_, live)| is_behind(live)).map(|(agent, _)| agent.clone()).collect();
                EntryView { record, unconfirmed }
            })
            .collect()
    }

    pub fn agents(&self) -> Vec<AgentSummary> {
        let summary = |(id, record): (&AgentId, &crate::config::Revised<crate::config::AgentRecord>)| {
            let record = &record.value;
            let live = self.live.get(id).cloned().unwrap_or_default();
            let status = live.status.as_ref();
            let mut problems = Vec::new();
            if record.revoked_at.is_none() {
                if !live.connected {
                    problems.push("not connected".to_string());
                }
                problems.extend(clock_problem(id, live.clock_ahead_ms));
                let ends = record.certificates.values().max().copied();
                if ends.is_some_and(|ends| ends < self.now) {
                    problems.push("its certificate has ended: let it join again".into());
                }
            }
            AgentSummary {
                agent: id.clone(),
                site: record.site.clone(),
                connected: live.connected,
                revoked: record.revoked_at.is_some(),
                joined_at: record.joined_at,
                last_seen: live.seen_at,
                version: status.map(|status| status.version.clone()),
                wire: record.addresses.map(|addresses| addresses.wire),
                store: record.addresses.map(|addresses| addresses.store),
                dns: record.addresses.and_then(|addresses| addresses.dns),
                revision: status.map(|status| status.revision),
                wanted_revision: self.config.revision,
                clock_ahead_ms: live.seen_at.map(|_| live.clock_ahead_ms),
                problems,
            }
        };
        self.config.agents.iter().map(summary).collect()
    }

    pub fn sites(&self) -> Vec<SiteView> {
        let mut sites: std::collections::BTreeSet<&SiteName> = self.config.sites();
        for record in self.config.apps.values() {
            sites.extend([&record.value.spec.home, &record.value.spec.recovery]);
        }
        let apps = |test: &dyn Fn(&AppRecord) -> bool| -> Vec<AppName> {
            self.config.apps.iter().filter(|(_, record)| test(&record.value)).map(|(app, _)| app.clone()).collect()
        };
        sites
            .into_iter()
            .map(|site| {
                let agents: Vec<AgentId> = self.config.agents_of(site).cloned().collect();
                SiteView {
                    site: site.clone(),
                    connected: agents.iter().any(|agent| self.live.get(agent).is_some_and(|live| live.connected)),
                    agents,
                    writes: apps(&|record| record.writer == *site),
                    keeps: apps(&|record| record.spec.has_site(site) && record.writer != *site),
                }
            })
            .collect()
    }
}

/// The age of the recovery point of the asset that is off worst, when each has one.
fn oldest_age_s(assets: &[AssetView]) -> Option<f64> {
    assets.iter().map(|asset| asset.age_s).try_fold(0.0, |oldest: f64, age| Some(oldest.max(age?)))
}

/// Whether the recovery side has opened its data with its own keys.
pub fn is_protected(keeper: Option<&AssetStatus>) -> bool {
    keeper.is_some_and(|status| {
        status.point.is_some() && matches!(status.state, AssetState::Protected | AssetState::Staged)
    })
}

fn clock_problem(agent: &AgentId, ahead_ms: i64) -> Option<String> {
    if ahead_ms.unsigned_abs() <= CLOCK_AHEAD_MS_MAX {
        return None;
    }
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let seconds = ahead_ms.unsigned_abs() / 1000;
    Some(format!("the clock of agent {agent} is {seconds} s {way} the server's: set both, for example by NTP"))
}
