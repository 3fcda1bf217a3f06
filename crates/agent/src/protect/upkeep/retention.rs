//! Taking copies off the list that the policy does not keep. Their data stay until they are cleared away.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use levee_model::control::Failure;
use levee_model::protection::{AppSpec, FilesSpec, PostgresSpec, Retention};
use levee_model::{AssetName, VaultName};
use levee_store::{FileType, LocalStore};
use levee_vault::SnapshotId;
use levee_vault::forget::{Arrival, Keep, Policy, RetainReceived, record_forgotten};

use super::super::app::{App, failure, in_full};
use super::super::copies::ListedBase;
use super::super::removals::TrimmedLog;
use super::super::tags;
use super::alarm::{Alarm, Alarms};
use super::bases::{self, KnownBase};

/// Removes what no rule keeps, and says how many snapshots that were. An asset that fails does not hold others up.
pub fn trim(app: &App, spec: &AppSpec, alarms: &Alarms, now: Timestamp) -> Result<usize, Failure> {
    let store = LocalStore::new(app.folder.repository());
    let arrivals = app.copies.arrivals().of(&store).map_err(|error| failure(in_full(&error)))?;
    app.removals.keep_present(&arrivals.iter().map(|arrival| arrival.id).collect())?;
    let leaver = Leaver { app, vaults: &spec.copy_to, now };
    let databases = spec.postgres.iter().map(|(asset, spec)| (asset, trim_database(&leaver, asset, spec, &arrivals)));
    let files =
        spec.files.iter().map(|(asset, spec)| (asset, trim_files(&leaver, asset, spec, &arrivals, alarms.get(asset))));
    let mut removed = 0;
    let mut first_failure = None;
    for (asset, trimmed) in databases.chain(files) {
        match trimmed {
            Ok(count) => {
                if count > 0 {
                    tracing::info!(app = %app.name, %asset, snapshots = count, "removed what is no longer kept");
                }
                removed += count;
            }
            Err(failure) => first_failure = first_failure.or(Some(failure)),
        }
    }
    first_failure.map_or(Ok(removed), Err)
}

/// When each copy of a folder came, and from whom, the oldest first.
pub fn arrivals_of_folder(app: &App, asset: &AssetName) -> Result<Vec<Arrival>, Failure> {
    let store = LocalStore::new(app.folder.repository());
    let arrivals = app.copies.arrivals().of(&store).map_err(|error| failure(in_full(&error)))?;
    among(app, asset, &arrivals)
}

fn among(app: &App, asset: &AssetName, arrivals: &[Arrival]) -> Result<Vec<Arrival>, Failure> {
    let of_asset = app.copies.snapshots_with_tag(&tags::files(&app.name, asset))?;
    let of_asset: BTreeSet<SnapshotId> = of_asset.into_iter().map(|(id, _)| id).collect();
    let mut arrivals: Vec<Arrival> =
        arrivals.iter().filter(|arrival| of_asset.contains(&arrival.id)).cloned().collect();
    arrivals.sort_by_key(|arrival| (arrival.received_at, arrival.id));
    Ok(arrivals)
}

/// What the protection file asks for, in the vault's words. `None` when nothing ever goes.
pub fn rules(keep: &Retention) -> Option<RetainReceived> {
    let days = |days: u32| SignedDuration::from_hours(i64::from(days) * 24);
    match keep {
        Retention::Forever => None,
        Retention::For(period) => {
            let age = SignedDuration::try_from(period.duration()).unwrap_or(SignedDuration::MAX);
            Some(RetainReceived { younger_than: Some(age), ..RetainReceived::default() })
        }
        Retention::Rules(rules) => {
            let count = |count: Option<u32>| count.map_or(Keep::None, Keep::Count);
            let policy = Policy {
                last: count(rules.last),
                hourly: count(rules.hourly),
                daily: count(rules.daily),
                weekly: count(rules.weekly),
                monthly: count(rules.monthly),
                yearly: count(rules.yearly),
                ..Policy::default()
            };
            Some(RetainReceived { policy, younger_than: rules.days.map(days), as_before: Vec::new() })
        }
    }
}

fn trim_files(
    leaver: &Leaver<'_>,
    asset: &AssetName,
    spec: &FilesSpec,
    arrivals: &[Arrival],
    alarm: Option<&Alarm>,
) -> Result<usize, Failure> {
    let Leaver { app, now, .. } = *leaver;
    let Some(mut rules) = rules(&spec.keep) else { return Ok(0) };
    rules.as_before = alarm.map(Alarm::hold).unwrap_or_default();
    let of_asset = among(app, asset, arrivals)?;
    let leaving = rules.leaving(&of_asset, now);
    if leaving.is_empty() {
        return Ok(0);
    }
    // What would be restored now stays, whatever else has come since.
    let newest = app.copies.newest_files(asset)?.map(|(id, _)| id);
    let stays = |id: &SnapshotId| Some(*id) == newest || alarm.is_some_and(|alarm| alarm.needs(id));
    let leaving: Vec<SnapshotId> = leaving.into_iter().filter(|id| !stays(id)).collect();
    leaver.remove(&leaving)
}

/// The base first, then the log before it.
fn trim_database(
    leaver: &Leaver<'_>,
    asset: &AssetName,
    spec: &PostgresSpec,
    arrivals: &[Arrival],
) -> Result<usize, Failure> {
    let Leaver { app, now, .. } = *leaver;
    let journal = app.copies.journal(asset)?;
    let fail =
        |error: &dyn std::error::Error| failure(format!("cannot trim the journal of {asset}: {}", in_full(error)));
    let mut extents = BTreeMap::new();
    for (system_identifier, timeline) in journal.lineages().map_err(|error| fail(&error))? {
        let stretches = journal.extents(system_identifier, timeline).map_err(|error| fail(&error))?;
        extents.insert((system_identifier, timeline), stretches);
    }
    let known = |ListedBase { base, is_sound }: ListedBase| {
        let arrival = arrivals.iter().find(|arrival| arrival.id == base.snapshot)?;
        let facts = &base.facts;
        let has_log = extents.get(&(facts.system_identifier, facts.timeline)).is_some_and(|stretches| {
            stretches.iter().any(|extent| extent.start <= facts.start && extent.durable_end >= facts.stop)
        });
        Some(KnownBase {
            arrival: arrival.clone(),
            system_identifier: facts.system_identifier,
            timeline: facts.timeline,
            start: facts.start,
            stop: facts.stop,
            has_log,
            is_sound,
        })
    };
    // Those as well that can't be opened just now: their log must not go before them.
    let bases: Vec<KnownBase> = app.copies.listed_bases(asset)?.into_iter().filter_map(known).collect();
    let Some(plan) = bases::plan(&bases, &spec.keep, spec.keep_bases.as_ref(), now) else { return Ok(0) };
    let removed = leaver.remove(&plan.leaving)?;
    for (system_identifier, timeline) in extents.into_keys() {
        let Some((keep_from, ranges)) = plan.log_to_keep(system_identifier, timeline) else { continue };
        if !leaver.vaults.is_empty() {
            let keep = ranges.iter().map(|range| (range.start, range.stop)).collect();
            app.removals.note_trim(asset, TrimmedLog { system_identifier, timeline, keep_from, keep })?;
        }
        let report = journal.trim(system_identifier, timeline, keep_from, &ranges).map_err(|error| fail(&error))?;
        if report.segments > 0 {
            tracing::info!(app = %app.name, %asset, %timeline, report.segments, report.bytes, "trimmed the journal");
        }
    }
    Ok(removed)
}

/// Takes copies off the list.
struct Leaver<'a> {
    app: &'a App,
    /// From which they are to go as well.
    vaults: &'a BTreeSet<VaultName>,
    now: Timestamp,
}

impl Leaver<'_> {
    fn remove(&self, leaving: &[SnapshotId]) -> Result<usize, Failure> {
        let Leaver { app, vaults, now } = *self;
        if leaving.is_empty() {
            return Ok(0);
        }
        let may_remove = || match app.state().may_remove_copies() {
            true => Ok(()),
            false => {
                let site = &app.context.site;
                Err(failure(format!("the copies of app {} at {site} are frozen: nothing is removed", app.name)))
            }
        };
        may_remove()?;
        let vault = app.copies.vault()?;
        app.removals.note(leaving, vaults)?;
        // A rule that was written by mistake can be taken back, until the next prune's time of grace is over.
        record_forgotten(&vault, leaving, now)
            .map_err(|error| failure(format!("cannot note what is about to be removed: {}", in_full(&error))))?;
        for id in leaving {
            may_remove()?;
            match app.copies.store().remove(FileType::Snapshot, &id.to_string()) {
                Ok(()) | Err(levee_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failure(format!("cannot remove snapshot {id}: {}", in_full(&error)))),
            }
        }
        Ok(leaving.len())
    }
}
