//! Taking copies off the list that the policy does not keep. Their data stay until they are cleared away.
//!
//! What is damaged takes no sound copy's place, and the newest copy that was read back whole stays whatever came since.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use levee_journal::KeepRange;
use levee_model::control::Failure;
use levee_model::postgres::Lsn;
use levee_model::protection::{AppSpec, FilesSpec, Period, PostgresSpec, Retention};
use levee_model::{AssetName, SiteName, VaultName};
use levee_store::{FileType, LocalStore};
use levee_vault::SnapshotId;
use levee_vault::forget::{Arrival, Keep, Policy, RetainReceived, record_forgotten};

use super::super::app::{App, failure, in_full};
use super::super::copies::ListedBase;
use super::super::removals::TrimmedLog;
use super::super::tags;
use super::alarm::{Alarm, Alarms};
use super::bases::{self, Known, KnownBase};
use super::log_grace;
use super::offered::{Offered, OfferedLog};
use super::prune::Clearing;
use super::state::{UpkeepState, pack_ids};
use super::whole;

/// Under which name it is said that a clock holds something up.
const CLOCK: &str = "clock";
/// Under which name it is said that log stays for want of a base that was read back.
const UNVERIFIED: &str = "unverified bases";
/// How far ahead a copy may seem that came just before the clock was set right by a little.
const STEP_MAX: SignedDuration = SignedDuration::from_mins(1);
/// So many copies may be on their way for longer than a day: a first one takes its time.
const SLOW_MAX: usize = 1;

/// Removes what no rule keeps, and says how many snapshots that were. An asset that fails does not hold others up.
pub fn trim(
    app: &App,
    spec: &AppSpec,
    alarms: &Alarms,
    state: &UpkeepState,
    offered: &mut OfferedLog,
    now: Timestamp,
) -> Result<usize, Failure> {
    let store = LocalStore::new(app.folder.repository());
    let arrivals = app.copies.arrivals().of(&store).map_err(|error| failure(in_full(&error)))?;
    app.removals.keep_present(&arrivals.iter().map(|arrival| arrival.id).collect())?;
    let damaged = damaged(app, state, &arrivals)?;
    let kept = Kept { arrivals: &arrivals, damaged: &damaged, verified: &state.verified_copies };
    let delete_after = SignedDuration::try_from(spec.upkeep.delete_after().duration()).unwrap_or(SignedDuration::MAX);
    let verify_within = spec.upkeep.verify_within();
    let leaver = Leaver { app, vaults: &spec.copy_to, clearing: &state.clearing, delete_after, verify_within, now };
    offered.retain(|asset, _| spec.postgres.contains_key(asset));
    let databases =
        spec.postgres.iter().map(|(asset, spec)| (asset, trim_database(&leaver, asset, spec, &kept, offered)));
    let files =
        spec.files.iter().map(|(asset, spec)| (asset, trim_files(&leaver, asset, spec, &kept, alarms.get(asset))));
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

/// What is here of all assets.
struct Kept<'a> {
    arrivals: &'a [Arrival],
    /// Those that can't be restored whole.
    damaged: &'a BTreeSet<SnapshotId>,
    /// The newest of each asset that was read back whole.
    verified: &'a BTreeMap<AssetName, SnapshotId>,
}

/// What damage hits, asked anew: what has come since it was asked last may rely on the same.
fn damaged(app: &App, state: &UpkeepState, arrivals: &[Arrival]) -> Result<BTreeSet<SnapshotId>, Failure> {
    let mut damaged = state.hit.clone();
    let packs = pack_ids(&state.damaged);
    if !packs.is_empty() {
        let all: Vec<SnapshotId> = arrivals.iter().map(|arrival| arrival.id).collect();
        let hit = app.copies.vault()?.snapshots_hit(&all, &packs).map_err(|error| {
            failure(format!("nothing is removed: cannot say which copies are damaged: {}", in_full(&error)))
        })?;
        damaged.extend(hit);
    }
    Ok(damaged)
}

/// Which copies go. A damaged one takes no sound one's place, and goes when its own time has come.
pub fn leaving(
    rules: &RetainReceived,
    arrivals: &[Arrival],
    damaged: &BTreeSet<SnapshotId>,
    now: Timestamp,
) -> BTreeSet<SnapshotId> {
    let sound: Vec<Arrival> = arrivals.iter().filter(|arrival| !damaged.contains(&arrival.id)).cloned().collect();
    let of_damaged = rules.leaving(arrivals, now).into_iter().filter(|id| damaged.contains(id));
    rules.leaving(&sound, now).into_iter().chain(of_damaged).collect()
}

/// When each copy of a folder came, and from whom, the oldest first.
pub fn arrivals_of_folder(app: &App, asset: &AssetName) -> Result<Vec<Arrival>, Failure> {
    let store = LocalStore::new(app.folder.repository());
    let arrivals = app.copies.arrivals().of(&store).map_err(|error| failure(in_full(&error)))?;
    Ok(among(&arrivals, &taken_at(app, asset)?))
}

/// When each copy of a folder was taken, by its writer's word.
fn taken_at(app: &App, asset: &AssetName) -> Result<BTreeMap<SnapshotId, Timestamp>, Failure> {
    let of_asset = app.copies.snapshots_with_tag(&tags::files(&app.name, asset))?;
    Ok(of_asset.into_iter().map(|(id, snapshot)| (id, snapshot.time)).collect())
}

fn among(arrivals: &[Arrival], of_asset: &BTreeMap<SnapshotId, Timestamp>) -> Vec<Arrival> {
    let mut arrivals: Vec<Arrival> =
        arrivals.iter().filter(|arrival| of_asset.contains_key(&arrival.id)).cloned().collect();
    arrivals.sort_by_key(|arrival| (arrival.received_at, arrival.id));
    arrivals
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
            Some(RetainReceived { policy, younger_than: rules.days.map(days), ..RetainReceived::default() })
        }
    }
}

fn trim_files(
    leaver: &Leaver<'_>,
    asset: &AssetName,
    spec: &FilesSpec,
    kept: &Kept<'_>,
    alarm: Option<&Alarm>,
) -> Result<usize, Failure> {
    let Leaver { app, now, .. } = *leaver;
    let Some(mut rules) = rules(&spec.keep) else {
        app.board.remark(asset, CLOCK, None);
        return Ok(0);
    };
    rules.as_before = alarm.map(Alarm::hold).unwrap_or_default();
    rules.taken_at = taken_at(app, asset)?;
    let of_asset = among(kept.arrivals, &rules.taken_at);
    let from_ahead = rules.from_ahead(&of_asset, now);
    app.board.remark(asset, CLOCK, clock_text(&app.context.site, &from_ahead, now));
    let leaving = leaving(&rules, &of_asset, kept.damaged, now);
    if leaving.is_empty() {
        return Ok(0);
    }
    // What would be restored now stays, whatever else has come since, and what is known to be whole.
    let newest = app.copies.newest_files(asset)?.map(|(id, _)| id);
    let verified = kept.verified.get(asset).copied();
    // What could not be read at the source must not push out the last copy that has it.
    let is_no_help = |id: &SnapshotId| kept.damaged.contains(id) || from_ahead.iter().any(|ahead| ahead.id == *id);
    let whole = whole::newest(app, asset, &of_asset, is_no_help)?;
    let staying = [newest, verified, whole];
    let stays = |id: &SnapshotId| staying.contains(&Some(*id)) || alarm.is_some_and(|alarm| alarm.needs(id));
    let leaving: Vec<SnapshotId> = leaving.into_iter().filter(|id| !stays(id)).collect();
    leaver.remove(&leaving)
}

/// The base first, then the log before it, as soon as the base can be brought back no more.
fn trim_database(
    leaver: &Leaver<'_>,
    asset: &AssetName,
    spec: &PostgresSpec,
    kept: &Kept<'_>,
    offered: &mut OfferedLog,
) -> Result<usize, Failure> {
    let Leaver { app, clearing, delete_after, verify_within, now, .. } = *leaver;
    let journal = app.copies.journal(asset)?;
    let fail =
        |error: &dyn std::error::Error| failure(format!("cannot trim the journal of {asset}: {}", in_full(error)));
    let mut extents = BTreeMap::new();
    for (system_identifier, timeline) in journal.lineages().map_err(|error| fail(&error))? {
        let stretches = journal.extents(system_identifier, timeline).map_err(|error| fail(&error))?;
        extents.insert((system_identifier, timeline), stretches);
    }
    let judged = |ListedBase { base, is_sound }: ListedBase| {
        let arrival = kept.arrivals.iter().find(|arrival| arrival.id == base.snapshot)?;
        let facts = &base.facts;
        let has_log = extents.get(&(facts.system_identifier, facts.timeline)).is_some_and(|stretches| {
            stretches.iter().any(|extent| extent.start <= facts.start && extent.durable_end >= facts.stop)
        });
        Some(KnownBase {
            arrival: arrival.clone(),
            taken_at: facts.ended_at,
            system_identifier: facts.system_identifier,
            timeline: facts.timeline,
            start: facts.start,
            stop: facts.stop,
            has_log,
            is_sound: is_sound && !kept.damaged.contains(&base.snapshot),
        })
    };
    // Those as well that can't be opened just now: their log must not go before them.
    let bases: Vec<KnownBase> = app.copies.listed_bases(asset)?.into_iter().filter_map(judged).collect();
    let log_until = extents.values().flatten().filter_map(|extent| extent.as_of).max();
    let refused_at = app.board.get(asset).refused_at;
    let offer = Offered::look(offered.get(asset).copied(), log_until, refused_at, Instant::now());
    offered.extend(offer.map(|offer| (asset.clone(), offer)));
    let known = Known {
        log_until,
        offered_until: offer.map(|offer| offer.until),
        verified: kept.verified.get(asset).copied(),
        verify_within: SignedDuration::try_from(verify_within.duration()).unwrap_or(SignedDuration::MAX),
    };
    app.board.remark(asset, CLOCK, clock_text(&app.context.site, &bases_from_ahead(&bases, now), now));
    let plan = bases::plan(&bases, &spec.keep, spec.keep_bases.as_ref(), known, now);
    let unverified_since = plan.as_ref().and_then(|plan| plan.unverified_since);
    app.board.remark(asset, UNVERIFIED, unverified_since.map(|since| unverified_text(since, verify_within)));
    let planned = extents.into_keys().filter_map(|(system_identifier, timeline)| {
        let (keep_from, ranges) = plan.as_ref()?.log_to_keep(system_identifier, timeline)?;
        let mut keep: Vec<(Lsn, Lsn)> = ranges.iter().map(|range| (range.start, range.stop)).collect();
        keep.sort();
        Some(TrimmedLog { system_identifier, timeline, keep_from, keep })
    });
    let going = log_grace::may_go(app, asset, planned.collect(), clearing, delete_after, now)?;
    let Some(plan) = plan else { return Ok(0) };
    let removed = leaver.remove(&plan.leaving)?;
    for trimmed in going {
        if !leaver.vaults.is_empty() {
            app.removals.note_trim(asset, trimmed.clone())?;
        }
        let TrimmedLog { system_identifier, timeline, keep_from, keep } = trimmed;
        let ranges: Vec<KeepRange> = keep.into_iter().map(|(start, stop)| KeepRange { start, stop }).collect();
        let report = journal.trim(system_identifier, timeline, keep_from, &ranges).map_err(|error| fail(&error))?;
        if report.segments > 0 {
            tracing::info!(app = %app.name, %asset, %timeline, report.segments, report.bytes, "trimmed the journal");
        }
    }
    Ok(removed)
}

fn unverified_text(since: Timestamp, verify_within: Period) -> String {
    format!(
        "no base backup that came after {} was read back whole yet, so log stays for longer than `keep` says, by up to \
         {verify_within}: where nothing else here says why, reading goes on",
        since.strftime("%Y-%m-%d %H:%M:%SZ")
    )
}

/// Base backups that came at a time which is not yet, or which their source's clock does not know of.
fn bases_from_ahead(bases: &[KnownBase], now: Timestamp) -> Vec<&Arrival> {
    let taken_at = |base: &KnownBase| (base.arrival.id, base.taken_at);
    let rules = RetainReceived { taken_at: bases.iter().map(taken_at).collect(), ..RetainReceived::default() };
    let arrivals: Vec<Arrival> = bases.iter().map(|base| base.arrival.clone()).collect();
    let from_ahead: BTreeSet<SnapshotId> =
        rules.from_ahead(&arrivals, now).into_iter().map(|arrival| arrival.id).collect();
    bases.iter().map(|base| &base.arrival).filter(|arrival| from_ahead.contains(&arrival.id)).collect()
}

/// What to say while copies stay since a clock is, or was, wrong.
fn clock_text(site: &SiteName, from_ahead: &[&Arrival], now: Timestamp) -> Option<String> {
    let latest = from_ahead.iter().max_by_key(|arrival| (arrival.received_at, arrival.id))?;
    let (count, id) = (from_ahead.len(), latest.id.short());
    let at = latest.received_at.strftime("%Y-%m-%d %H:%M:%SZ");
    // A step back of a moment, as NTP makes one, is over before anybody has read of it.
    if latest.received_at.duration_since(now) > STEP_MAX {
        return Some(format!(
            "{count} copies are marked as received at a time to come, the last of them, {id}, at {at}: the clock of {site}'s \
             agent was ahead then, or is behind now. They stay, and count for no rule until then; `levee vault forget` \
             removes one that nobody needs"
        ));
    }
    (latest.received_at <= now && from_ahead.len() > SLOW_MAX).then(|| {
        format!(
            "{count} copies were received more than a day after they were taken, by {site}'s clock and their writer's, the \
             last of them, {id}, at {at}: one of the two is wrong. They make nothing old until both agree: set both, for \
             example by NTP"
        )
    })
}

/// Takes copies off the list.
struct Leaver<'a> {
    app: &'a App,
    /// From which they are to go as well.
    vaults: &'a BTreeSet<VaultName>,
    clearing: &'a Clearing,
    /// For how long what has left can be brought back.
    delete_after: SignedDuration,
    /// Within what time what is stored is to be read again.
    verify_within: Period,
    now: Timestamp,
}

impl Leaver<'_> {
    fn remove(&self, leaving: &[SnapshotId]) -> Result<usize, Failure> {
        let Leaver { app, vaults, now, .. } = *self;
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

#[cfg(test)]
mod tests {
    use super::*;
    use levee_model::protection::KeepRules;

    const NOW: &str = "2026-11-26T12:00:00Z";

    fn arrival(number: u8, hours_ago: i64) -> Arrival {
        let id = format!("{number:02x}").repeat(32).parse().unwrap();
        let received_at = NOW.parse::<Timestamp>().unwrap() - SignedDuration::from_hours(hours_ago);
        Arrival { id, received_at, writer: "e1".into() }
    }

    #[test]
    fn what_is_damaged_pushes_out_nothing_that_is_sound() {
        let check = |keep: &Retention, hours_ago: &[i64], damaged: &[u8], expected: &[u8]| {
            let arrivals: Vec<Arrival> = (0..).zip(hours_ago).map(|(number, hours)| arrival(number, *hours)).collect();
            let ids = |numbers: &[u8]| numbers.iter().map(|number| arrival(*number, 0).id).collect::<BTreeSet<_>>();
            let leaving = leaving(&rules(keep).unwrap(), &arrivals, &ids(damaged), NOW.parse().unwrap());
            assert_eq!(leaving, ids(expected), "{keep:?} {damaged:?}");
        };
        let last = Retention::Rules(KeepRules { last: Some(3), ..KeepRules::default() });
        check(&last, &[4, 3, 2, 1], &[], &[0]);
        check(&last, &[5, 4, 3, 2, 1], &[1, 2, 3, 4], &[1]);
        check(&last, &[5, 4, 3, 2, 1], &[3], &[0]);
        let day = Retention::Rules(KeepRules { days: Some(1), ..KeepRules::default() });
        check(&day, &[90, 60, 2, 1], &[2, 3], &[0]);
        check(&day, &[90, 60, 2, 1], &[1, 3], &[0, 1]);
        check(&day, &[90, 60], &[0, 1], &[0]);
    }

    #[test]
    fn a_clock_that_was_ahead_is_said_and_a_slow_copy_is_not() {
        let now = NOW.parse().unwrap();
        let site = "west".parse().unwrap();
        let said =
            |arrivals: &[Arrival]| clock_text(&site, &arrivals.iter().collect::<Vec<_>>(), now).unwrap_or_default();
        assert_eq!(said(&[]), "");
        assert_eq!(said(&[arrival(1, 0)]), "");
        assert!(said(&[arrival(1, -5)]).contains("01010101, at 2026-11-26 17:00:00Z"), "{}", said(&[arrival(1, -5)]));
        assert!(said(&[arrival(1, 5), arrival(2, 4)]).contains("2 copies were received more than a day after"));
    }
}
