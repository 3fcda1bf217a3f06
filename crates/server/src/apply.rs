//! What applying a protection file changes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use levee_model::protection::{AppSpec, PostgresSpec, ProtectionFile};
use levee_model::{AppName, Epoch, RunId};
use levee_plan::PlanKind;

use crate::config::{AppRecord, Config, Published, app_key, entry_key, site_key, vault_key};
use crate::control::{AppliedApp, ApplyReport, Change};
use crate::error::{Result, ServerError};
use crate::runs::open_key;
use crate::state::{Compare, Op};

/// A decision on a protection file: what to say, and what to change when nothing else has changed.
#[derive(Debug, Default)]
pub struct Application {
    pub report: ApplyReport,
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

/// Decides on a whole file: it is applied as a whole or not at all. Apps that it does not name stay.
pub fn decide(
    config: &Config,
    open_runs: &BTreeMap<AppName, (RunId, PlanKind)>,
    file: &ProtectionFile,
    now: Timestamp,
) -> Result<Application> {
    check_entries(config, file)?;
    let mut application = Application::default();
    for (app, spec) in &file.app {
        let change = match config.apps.get(app) {
            None => {
                create(config, app, spec, now, &mut application)?;
                Change::Created
            }
            Some(known) if known.value.spec == *spec => Change::Unchanged,
            Some(known) => {
                check_update(app, &known.value.spec, spec)?;
                check_sites(config, app, spec)?;
                if let Some((run, kind)) = open_runs.get(app) {
                    return Err(ServerError::AppBusy { app: app.clone(), run: run.clone(), kind: kind.as_str() });
                }
                let mut record = AppRecord { spec: spec.clone(), ..known.value.clone() };
                record.assign_agents(config);
                application.compares.push(Compare::ModRevision(app_key(app), known.revision));
                // A run is durable a moment before it is among the open ones, and goes by what it was planned for.
                application.compares.push(Compare::Absent(open_key(app)));
                application.ops.push(Op::put(app_key(app), &record)?);
                if known.value.spec.entry != spec.entry {
                    change_entries(config, app, &known.value.spec, spec, &mut application)?;
                }
                Change::Updated
            }
        };
        application.report.apps.push(AppliedApp { app: app.clone(), change });
    }
    for (site, place) in &file.site {
        if config.places.get(site) != Some(place) {
            application.ops.push(Op::put(site_key(site), place)?);
            application.report.sites.push(site.clone());
        }
    }
    for (vault, spec) in &file.vault {
        if config.vaults.get(vault) != Some(spec) {
            application.ops.push(Op::put(vault_key(vault), spec)?);
            application.report.vaults.push(vault.clone());
        }
    }
    Ok(application)
}

fn create(config: &Config, app: &AppName, spec: &AppSpec, now: Timestamp, application: &mut Application) -> Result<()> {
    check_sites(config, app, spec)?;
    // Agents remember an earlier life of the app.
    let epoch = config.removed.get(app).map_or(Epoch::FIRST, |removed| removed.epoch.next());
    let mut record = AppRecord {
        spec: spec.clone(),
        epoch,
        writer: spec.home.clone(),
        epoch_since: now,
        agents: BTreeMap::new(),
        adopted: None,
        acknowledged: BTreeMap::new(),
    };
    record.assign_agents(config);
    application.compares.push(Compare::Absent(app_key(app)));
    application.ops.push(Op::put(app_key(app), &record)?);
    // The app is up at its home already, so its entries can be answered at once.
    let published = Published { epoch, site: spec.home.clone(), version: 0, withdrawn: BTreeSet::new() };
    application.ops.push(Op::put(entry_key(app), &published)?);
    Ok(())
}

/// The DNS nodes are told which names are not to be answered any more: one that is away would go on for ever.
fn change_entries(
    config: &Config,
    app: &AppName,
    old: &AppSpec,
    new: &AppSpec,
    application: &mut Application,
) -> Result<()> {
    let Some(published) = config.entries.get(app) else { return Ok(()) };
    let names = |spec: &AppSpec| -> BTreeSet<String> {
        let records = levee_plan::entry_records(app, spec, &published.value.site, published.value.epoch);
        records.into_iter().map(|record| record.name).collect()
    };
    let changed = published.value.changed(&names(old), &names(new));
    application.compares.push(Compare::ModRevision(entry_key(app), published.revision));
    application.ops.push(Op::put(entry_key(app), &changed)?);
    Ok(())
}

fn check_sites(config: &Config, app: &AppName, spec: &AppSpec) -> Result<()> {
    match [&spec.home, &spec.recovery].into_iter().find(|site| !config.sites().contains(site)) {
        Some(site) => Err(ServerError::UnknownSiteInFile { app: app.clone(), site: site.clone() }),
        None => Ok(()),
    }
}

fn check_update(app: &AppName, old: &AppSpec, new: &AppSpec) -> Result<()> {
    if (&old.home, &old.recovery) != (&new.home, &new.recovery) {
        let sites = |spec: &AppSpec| format!("home {}, recovery {}", spec.home, spec.recovery);
        return Err(ServerError::SitesChanged { app: app.clone(), old: sites(old), new: sites(new) });
    }
    let changed_kind = |asset: &levee_model::AssetName, old, new| ServerError::KindChanged {
        app: app.clone(),
        asset: asset.to_string(),
        old,
        new,
    };
    if let Some(asset) = new.files.keys().find(|asset| old.postgres.contains_key(*asset)) {
        return Err(changed_kind(asset, "a postgres asset", "a files asset"));
    }
    if let Some(asset) = new.postgres.keys().find(|asset| old.files.contains_key(*asset)) {
        return Err(changed_kind(asset, "a files asset", "a postgres asset"));
    }
    let is_left_waiting =
        |(asset, spec): &(&levee_model::AssetName, &PostgresSpec)| spec.zero_loss && !new.postgres.contains_key(*asset);
    if let Some((asset, _)) = old.postgres.iter().find(is_left_waiting) {
        return Err(ServerError::AssetCommitsWait { app: app.clone(), asset: asset.clone() });
    }
    Ok(())
}

/// A DNS name belongs to one app: the epochs of two apps could not be told apart.
fn check_entries(config: &Config, file: &ProtectionFile) -> Result<()> {
    let canonical = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    let mut owners: BTreeMap<String, &AppName> = BTreeMap::new();
    let stay = config.apps.iter().filter(|(app, _)| !file.app.contains_key(*app)).map(|(app, r)| (app, &r.value.spec));
    for (app, spec) in stay.chain(&file.app) {
        for entry in spec.entry.values() {
            if let Some(owner) = owners.insert(canonical(&entry.name), app) {
                let (owner, app) = (owner.clone(), app.clone());
                return Err(ServerError::EntryTaken { name: entry.name.clone(), owner, app });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AgentRecord, Revised};

    const PLAIN: &str = r#"
[app.shop]
home = "east"
recovery = "west"
[app.shop.files.documents]
every = "5s"
at.east.path = "/srv/east/documents"
at.west.path = "/srv/west/documents"
"#;
    const ORDERS: &str = r#"
[app.shop.postgres.orders.at]
east = { data_directory = "/srv/east/pg", address = "127.0.0.2", port = 5433 }
west = { data_directory = "/srv/west/pg", address = "127.0.0.3", port = 5433 }
"#;
    const ZERO_LOSS: &str = "[app.shop.postgres.orders]\nzero_loss = true\n";

    /// What applying `new` changes where `old` was applied.
    fn decided(old: &[&str], new: &[&str]) -> Result<Application> {
        let parse = |parts: &[&str]| ProtectionFile::parse(&parts.concat()).unwrap();
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let agent = |site: &str| AgentRecord {
            site: site.parse().unwrap(),
            joined_at: now,
            certificates: BTreeMap::new(),
            addresses: None,
            revoked_at: None,
        };
        let mut config = Config::default();
        for site in ["east", "west"] {
            config.agents.insert(site.parse().unwrap(), Revised { value: agent(site), revision: 1 });
        }
        for (app, spec) in parse(old).app {
            let record = AppRecord {
                writer: spec.home.clone(),
                spec,
                epoch: Epoch::FIRST,
                epoch_since: now,
                agents: BTreeMap::new(),
                adopted: None,
                acknowledged: BTreeMap::new(),
            };
            config.apps.insert(app, Revised { value: record, revision: 7 });
        }
        decide(&config, &BTreeMap::new(), &parse(new), now)
    }

    #[test]
    fn a_database_whose_commits_wait_is_not_taken_out() {
        let error = decided(&[PLAIN, ZERO_LOSS, ORDERS], &[PLAIN]).unwrap_err();
        assert_eq!(error.code(), "commits_wait");
        for words in ["orders", "shop", "zero_loss = false", "synchronous_standby_names"] {
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
        // First its commits are let go.
        assert!(decided(&[PLAIN, ZERO_LOSS, ORDERS], &[PLAIN, ORDERS]).is_ok());
        let application = decided(&[PLAIN, ORDERS], &[PLAIN]).unwrap();
        assert!(matches!(application.report.apps[0].change, Change::Updated));
    }

    #[test]
    fn nothing_is_changed_beside_a_run_that_has_just_been_made() {
        let app: AppName = "shop".parse().unwrap();
        let compares = decided(&[PLAIN, ORDERS], &[PLAIN]).unwrap().compares;
        assert_eq!(compares, [Compare::ModRevision(app_key(&app), 7), Compare::Absent(open_key(&app))]);
    }
}
