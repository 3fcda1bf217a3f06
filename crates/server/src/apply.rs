//! What applying a protection file changes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use levee_model::protection::{AppSpec, ProtectionFile};
use levee_model::{AppName, Epoch, RunId};
use levee_plan::PlanKind;

use crate::config::{AppRecord, Config, Published, app_key, entry_key, site_key, vault_key};
use crate::control::{AppliedApp, ApplyReport, Change};
use crate::error::{Result, ServerError};
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
