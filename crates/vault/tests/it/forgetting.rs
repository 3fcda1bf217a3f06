//! Stock restic is the judge of what a policy keeps.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use levee_testing::random::Random;
use levee_testing::restic::Restic;
use levee_vault::forget::{GroupBy, Keep, Policy};
use levee_vault::{Error, ForgetOptions, SnapshotOptions, SnapshotWriter, Vault};

use crate::support::*;

fn snapshot(vault: &Vault, host: &str, tags: &[&str], time: Timestamp) {
    let options = SnapshotOptions {
        host: Some(host.into()),
        tags: tags.iter().map(|tag| tag.to_string()).collect(),
        paths: vec!["/data".into()],
        time: Some(time),
        ..SnapshotOptions::default()
    };
    SnapshotWriter::begin(vault, options).unwrap().finish().unwrap();
}

/// Which snapshots restic would keep, by id, with its reasons.
fn restic_keeps(restic: &Restic, scratch: &Scratch, arguments: &[String]) -> BTreeMap<String, Vec<String>> {
    let arguments: Vec<&str> =
        ["forget", "--dry-run", "--json"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let printed = restic.run(&scratch.path("repository"), PASSWORD, &arguments);
    let groups: serde_json::Value = serde_json::from_str(printed.lines().next().unwrap_or_default()).unwrap();
    let reasons = groups.as_array().unwrap().iter().flat_map(|group| group["reasons"].as_array().unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    reasons
        .map(|reason| {
            let matches = reason["matches"].as_array().unwrap().iter().map(text).collect();
            (text(&reason["snapshot"]["time"]) + &text(&reason["snapshot"]["tree"]), matches)
        })
        .collect()
}

/// A random policy, as options and as restic's arguments.
fn policy(dice: &mut Random) -> (Policy, Vec<String>) {
    let mut policy = Policy::default();
    let mut arguments = Vec::new();
    {
        let mut keep = |flag: &str, keep: &mut Keep| {
            if dice.below(3) == 0 {
                let count = 1 + dice.below(6);
                *keep = Keep::Count(count as u32);
                arguments.extend([format!("--keep-{flag}"), count.to_string()]);
            }
        };
        keep("last", &mut policy.last);
        keep("hourly", &mut policy.hourly);
        keep("daily", &mut policy.daily);
        keep("weekly", &mut policy.weekly);
        keep("monthly", &mut policy.monthly);
        keep("yearly", &mut policy.yearly);
    }
    {
        let mut within = |flag: &str, span: &mut levee_vault::forget::Span| {
            if dice.below(4) == 0 {
                let text = format!("{}m{}d{}h", dice.below(14), dice.below(40), 1 + dice.below(30));
                *span = text.parse().unwrap();
                arguments.extend([format!("--keep-within{flag}"), text]);
            }
        };
        within("", &mut policy.within);
        within("-hourly", &mut policy.within_hourly);
        within("-daily", &mut policy.within_daily);
        within("-weekly", &mut policy.within_weekly);
        within("-monthly", &mut policy.within_monthly);
        within("-yearly", &mut policy.within_yearly);
    }
    if dice.below(3) == 0 || arguments.is_empty() {
        policy.tag_lists = vec![vec!["a".into()], vec!["b".into(), "c".into()]];
        arguments.extend(["--keep-tag", "a", "--keep-tag", "b,c"].map(String::from));
    }
    (policy, arguments)
}

#[test]
fn policies_keep_what_restic_keeps() {
    let seeds: u64 = std::env::var("LEVEE_VAULT_FORGET_SEEDS").map_or(2, |value| value.parse().unwrap());
    // Older ones keep less: no oldest snapshot while there are counts left.
    let Some(restic) = Restic::newest() else { return };
    for seed in 1..=seeds {
        let (scratch, mut dice) = (Scratch::new(), Random::new(seed));
        let vault = scratch.init();
        let mut time: Timestamp = "2024-02-20T03:00:00Z".parse().unwrap();
        for _ in 0..24 {
            let step = [20 * 60, 3 * 3600, 30 * 3600, 9 * 86_400, 70 * 86_400][dice.below(5) as usize];
            time += SignedDuration::from_secs(1 + dice.below(step) as i64);
            let tags = [&[][..], &["a"], &["b", "c"], &["b"]][dice.below(4) as usize];
            snapshot(&vault, ["one", "two"][dice.below(2) as usize], tags, time);
        }
        for _ in 0..4 {
            let (policy, mut arguments) = policy(&mut dice);
            let group_by = GroupBy { host: dice.below(2) == 0, paths: dice.below(2) == 0, tags: dice.below(4) == 0 };
            let names = [(group_by.host, "host"), (group_by.paths, "paths"), (group_by.tags, "tags")];
            let names: Vec<&str> = names.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| *name).collect();
            arguments.extend(["--group-by".into(), names.join(",")]);
            arguments.extend(["--unsafe-allow-remove-all", "--path", "/data"].map(String::from));
            let expected = restic_keeps(&restic, &scratch, &arguments);
            let options =
                ForgetOptions { policy, group_by, allow_remove_all: true, dry_run: true, ..ForgetOptions::default() };
            let report = levee_vault::forget(&vault, &options, Timestamp::now()).unwrap();
            let kept = report.groups.iter().flat_map(|group| group.keep.iter().zip(&group.reasons));
            let actual: BTreeMap<String, Vec<String>> = kept
                .map(|((_, snapshot), (_, matches))| {
                    let json = serde_json::to_value(snapshot).unwrap();
                    (json["time"].as_str().unwrap().to_string() + json["tree"].as_str().unwrap(), matches.clone())
                })
                .collect();
            assert_eq!(actual, expected, "seed {seed}, {arguments:?}");
            assert_eq!(report.removed.len() + actual.len(), 24);
        }
    }
}

#[test]
fn a_day_begins_where_the_snapshot_was_made() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    // The same hour in two places: in Tokyo it is the next day already.
    for (zone, time) in [("Asia/Tokyo", "2026-05-02 00:30:00"), ("Asia/Tokyo", "2026-05-01 23:30:00")] {
        let mut command = scratch.restic_command(&["backup", "--time", time, source.to_str().unwrap()]);
        assert!(command.env("TZ", zone).output().unwrap().status.success());
    }
    let options =
        ForgetOptions { policy: Policy { daily: Keep::Count(5), ..Policy::default() }, ..ForgetOptions::default() };
    let report = levee_vault::forget(&vault, &options, Timestamp::now()).unwrap();
    assert_eq!((report.groups[0].keep.len(), report.removed.len()), (2, 0), "{report:?}");
    // A change of tags keeps the place.
    let change = levee_vault::TagChange::Set(vec!["new".into()]);
    levee_vault::tag(&vault, &levee_vault::TagOptions::new(change), |_| ()).unwrap();
    let report = levee_vault::forget(&vault, &options, Timestamp::now()).unwrap();
    assert_eq!(report.removed.len(), 0, "{report:?}");
}

#[test]
fn nothing_goes_by_mistake() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let time = Timestamp::now() - SignedDuration::from_hours(1);
    snapshot(&vault, "one", &[], time);
    let forget = |options: &ForgetOptions| levee_vault::forget(&vault, options, Timestamp::now());
    assert!(matches!(forget(&ForgetOptions::default()), Err(Error::EmptyPolicy)));
    let mut options = ForgetOptions {
        policy: Policy { tag_lists: vec![vec!["none".into()]], ..Policy::default() },
        ..ForgetOptions::default()
    };
    assert!(matches!(forget(&options), Err(Error::NothingKept { snapshots: 1 })));
    assert_eq!(vault.snapshots().unwrap().len(), 1);
    options.allow_remove_all = true;
    options.dry_run = true;
    assert_eq!(forget(&options).unwrap().removed.len(), 1);
    assert_eq!(vault.snapshots().unwrap().len(), 1);
    options.dry_run = false;
    assert_eq!(forget(&options).unwrap().removed.len(), 1);
    assert!(scratch.open().snapshots().unwrap().is_empty());
}
