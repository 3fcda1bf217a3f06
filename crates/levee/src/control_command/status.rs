use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use levee_api::{
    AppStatus, AssetView, BackupView, Client, ClientError, FleetStatus, GapView, Health, SetAside, VaultCopyView,
};
use levee_model::control::AssetState;
use levee_model::protection::CopyCount;
use levee_model::{AppName, SiteName, VaultName};

use super::connection::Connection;
use super::text::{ago, list, moment, seconds, table};
use crate::exit::Exit;
use crate::output::Output;

const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Of each asset; the newest, which bear on what is restored most often.
const GAPS_SHOWN: usize = 3;
/// Cursor home, then clear to the end (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Only this app
    app: Option<AppName>,
    /// Show it anew every second until interrupted (with --json: one line each)
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(arguments: StatusArguments, output: Output) -> anyhow::Result<Exit> {
    let client = arguments.connection.client()?;
    let app = arguments.app.as_ref();
    if !arguments.watch {
        let status = read(&client, app)?;
        output.result(&status, describe)?;
        return Ok(exit_code(&status));
    }
    loop {
        match read(&client, app) {
            Ok(status) => output.result(&status, |status| format!("{CLEAR}{}", describe(status)))?,
            // Whoever watches wants to see it come back.
            Err(error) if error.is_transient() => output.note(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(WATCH_PAUSE);
    }
}

fn read(client: &Client, app: Option<&AppName>) -> Result<FleetStatus, ClientError> {
    let mut status = client.status()?;
    if let Some(app) = app {
        let one = client.app_status(app)?;
        status.health = one.health;
        status.apps = vec![one];
    }
    Ok(status)
}

fn exit_code(status: &FleetStatus) -> Exit {
    if status.health == Health::Protected { Exit::DONE } else { Exit::NOT_PROTECTED }
}

fn describe(status: &FleetStatus) -> String {
    if status.apps.is_empty() {
        return "no app is protected yet: write a protection file and `levee apply -f FILE`\n".into();
    }
    let rows: Vec<Vec<String>> = status.apps.iter().flat_map(|app| rows(app, status.now)).collect();
    let heading = ["APP", "ASSET", "WRITES AT", "KEPT AT", "STATE", "RECOVERY POINT", "OBJECTIVE", "LAST PROOF"];
    let mut text = table(&heading, &rows);
    let rows: Vec<Vec<String>> = status.apps.iter().flat_map(|app| backup_rows(app, status.now)).collect();
    text.push('\n');
    text.push_str(&table(&["APP", "ASSET", "LAST GOOD BACKUP", "LAST VERIFIED", "LAST PROVEN", "COPIES"], &rows));
    let rows: Vec<Vec<String>> = status.apps.iter().flat_map(vault_rows).collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&["APP", "ASSET", "VAULT", "COPY THERE"], &rows));
    }
    for app in &status.apps {
        for line in remarks(app, status.now) {
            text.push_str(&format!("{}: {line}\n", app.app));
        }
    }
    for agent in &status.agents {
        if !agent.connected && !agent.revoked {
            let seen = agent.last_seen.map_or("not seen since the server was started".into(), |seen| {
                format!("last seen {}", ago(seen, status.now))
            });
            text.push_str(&format!("agent {} at {} is away, {seen}\n", agent.agent, agent.site));
        }
        for problem in &agent.problems {
            text.push_str(&format!("agent {} at {}: {problem}\n", agent.agent, agent.site));
        }
    }
    text
}

/// The site that keeps the app's copies.
fn kept_at(app: &AppStatus) -> &SiteName {
    if app.writer == app.home { &app.recovery } else { &app.home }
}

fn rows(app: &AppStatus, now: Timestamp) -> Vec<Vec<String>> {
    let proof = match &app.last_proof {
        Some(proof) if proof.passed => format!("passed {}", ago(proof.at, now)),
        Some(proof) => format!("FAILED {}", ago(proof.at, now)),
        None => "never proved".into(),
    };
    app.assets
        .iter()
        .map(|asset| {
            vec![
                app.app.to_string(),
                asset.asset.to_string(),
                app.writer.to_string(),
                kept_at(app).to_string(),
                state(asset),
                asset.age_s.map_or("none".into(), |age| format!("{} old", seconds(age))),
                format!("{} {}", app.objective.recovery_point, verdict(app, asset)),
                proof.clone(),
            ]
        })
        .collect()
}

/// The last good, verified and proven backup of each asset.
fn backup_rows(app: &AppStatus, now: Timestamp) -> Vec<Vec<String>> {
    let show = |backup: &Option<BackupView>, never: &str| match backup {
        None => never.to_string(),
        Some(BackupView { as_of, at, run, .. }) => {
            let at = at.map(|at| format!(", {}", ago(at, now))).unwrap_or_default();
            let run = run.as_ref().map(|run| format!(" by {run}")).unwrap_or_default();
            format!("of {}{at}{run}", moment(*as_of))
        }
    };
    let row = |asset: &AssetView| {
        vec![
            app.app.to_string(),
            asset.asset.to_string(),
            show(&asset.last_good, "none") + as_of_contact(asset),
            show(&asset.last_verified, "none yet") + as_of_contact(asset),
            show(&asset.last_proven, "never"),
            copies(&asset.copies),
        ]
    };
    app.assets.iter().map(row).collect()
}

/// Marks what the recovery site's agent has said, while it is away.
fn as_of_contact(asset: &AssetView) -> &'static str {
    if asset.last_contact.is_some() { ", as of last contact" } else { "" }
}

/// The copies of each asset in further vaults.
fn vault_rows(app: &AppStatus) -> Vec<Vec<String>> {
    let copy = |asset: &AssetView, copy: &VaultCopyView| {
        let contact = as_of_contact(asset);
        match (copy.as_of, copy.age_s) {
            (Some(as_of), Some(age_s)) => {
                // What is known from earlier alone may be young, and does not count either.
                let verdict = match (copy.counts, asset.last_contact.is_some()) {
                    (true, _) => "",
                    (false, true) => ", NOT COUNTED",
                    (false, false) => ", TOO OLD",
                };
                format!("of {}, {} old{verdict}{contact}", moment(as_of), seconds(age_s))
            }
            _ => format!("none yet{contact}"),
        }
    };
    let of_asset = |asset: &AssetView| {
        let row = |(vault, view): (&VaultName, &VaultCopyView)| {
            vec![app.app.to_string(), asset.asset.to_string(), vault.to_string(), copy(asset, view)]
        };
        asset.vaults.iter().map(row).collect::<Vec<_>>()
    };
    app.assets.iter().flat_map(of_asset).collect()
}

fn copies(count: &CopyCount) -> String {
    let CopyCount { copies, disks, hosts, fault_domains, zones, regions, providers } = count;
    format!(
        "{copies} ({disks} disk(s), {hosts} host(s), {fault_domains} fault domain(s), {zones} zone(s), {regions} region(s), \
         {providers} provider(s))"
    )
}

fn state(asset: &AssetView) -> String {
    let word = match asset.state {
        AssetState::Waiting => "waiting",
        AssetState::Copying => "first copy under way",
        AssetState::Received => "received, not opened yet",
        AssetState::Protected => "protected",
        AssetState::Staged => "protected, staged",
        AssetState::Unprotected => "UNPROTECTED",
        AssetState::Stopped => "stopped",
        AssetState::Failed => "FAILED",
    };
    // The server judges by more than the last word of the agent.
    let is_good = matches!(asset.state, AssetState::Protected | AssetState::Staged);
    if is_good && !asset.protected { "NOT PROTECTED".into() } else { word.into() }
}

fn verdict(app: &AppStatus, asset: &AssetView) -> &'static str {
    // An age that was known once says nothing of an asset that could not be brought back now.
    let is_past = asset.last_contact.is_some() && !asset.protected;
    match asset.age_s {
        Some(age_s) if !is_past && age_s <= app.objective.recovery_point.duration().as_secs_f64() => "met",
        _ => "MISSED",
    }
}

fn remarks(app: &AppStatus, now: Timestamp) -> Vec<String> {
    let mut lines = app.problems.clone();
    // One agent keeps all of an app's copies.
    let contacts = app.assets.iter().filter_map(|asset| asset.last_contact.as_ref());
    if let Some(seen_at) = contacts.map(|contact| contact.seen_at).min() {
        let ago = ago(seen_at, now);
        lines.push(format!(
            "what is said of the copies at {} is as of the last contact with its agent, {ago}",
            kept_at(app)
        ));
    }
    for asset in &app.assets {
        lines.extend(asset.problems.iter().map(|problem| format!("{}: {problem}", asset.asset)));
        lines.extend(asset.notes.iter().map(|note| format!("{}: {note}", asset.asset)));
        lines.extend(asset.waiting.iter().map(|waiting| format!("{}: waiting behind {waiting}", asset.asset)));
        let older = asset.gaps.len().saturating_sub(GAPS_SHOWN);
        lines.extend(asset.gaps.iter().skip(older).map(|gap| describe_gap(asset, gap)));
        if older > 0 {
            lines.push(format!("{}: {older} older gaps, see --json", asset.asset));
        }
    }
    if let Some(run) = &app.open_run {
        lines.push(format!("run {run} is under way: `levee run watch {run}`"));
    }
    if let Some(site) = &app.vault_frozen_at {
        lines.push(format!("the vault at {site} is frozen until the app is protected elsewhere again"));
    }
    if let Some(adopted) = &app.adopted {
        lines.push(format!(
            "epoch and writer were taken over from the agents on {} by {}; the server knew epoch {} at {}",
            moment(adopted.at),
            adopted.by,
            adopted.epoch_before,
            adopted.writer_before
        ));
    }
    for SetAside { site, path } in &app.set_aside {
        lines.push(format!("old data at {site}, which may hold what was never sent: {}", path.display()));
    }
    for entry in app.entries.iter().filter(|entry| !entry.unconfirmed.is_empty()) {
        lines.push(format!("{} is not answered anew yet by {}", entry.record.name, list(&entry.unconfirmed)));
    }
    lines
}

/// A gap stays worth knowing after it was closed: no point within it can be restored.
fn describe_gap(asset: &AssetView, gap: &GapView) -> String {
    let state = match (&gap.base, gap.closed_at) {
        (Some(base), Some(at)) => format!(
            "whole again from {} on, by base backup {}; points within it can't be restored",
            moment(at),
            base.get(..8).unwrap_or(base)
        ),
        _ => "open until a base backup lies behind it".into(),
    };
    let (asset, site, noticed) = (&asset.asset, &gap.site, moment(gap.noticed_at));
    format!("{asset}: gap in the log from {site}, noticed {noticed}: {}; {state}", gap.message)
}

#[cfg(test)]
mod tests {
    use levee_api::ContactView;

    use super::*;

    fn status(age_s: Option<f64>, state: &str, protected: bool, health: &str) -> FleetStatus {
        let value = serde_json::json!({
            "now": "2026-11-20T12:00:00Z", "health": health, "agents": [],
            "apps": [{
                "app": "shop", "home": "east", "recovery": "west", "writer": "west", "epoch": 2,
                "objective": { "recovery_point": "10s", "recovery_time": "2m" }, "health": health,
                "recovery_point_age_s": age_s, "meets_objective": null, "vault_frozen_at": null,
                "assets": [{
                    "asset": "orders", "kind": "postgres", "protected": protected, "state": state,
                    "position": null, "as_of": null, "age_s": age_s, "log_behind_bytes": null,
                    "last_verified": { "position": { "kind": "snapshot", "id": "5a", "taken_at": "2026-11-20T10:00:00Z" },
                        "as_of": "2026-11-20T10:00:00Z", "at": "2026-11-20T11:00:00Z" },
                    "waiting": "files of shop/pictures",
                    "notes": ["west: accepted: the collation provider's version differs"],
                    "vaults": { "far": { "as_of": "2026-11-20T11:59:28Z", "age_s": 32.0, "counts": true },
                        "near": { "as_of": "2026-11-18T12:00:00Z", "age_s": 172800.0, "counts": false },
                        "new": { "as_of": null, "age_s": null, "counts": false } },
                                        "problems": ["the slot is gone"],
                    "gaps": [{ "site": "east", "noticed_at": "2026-11-20T11:00:00Z", "message": "0/3000000 is gone",
                               "closed_at": "2026-11-20T11:00:09Z", "base": "0123456789abcdef" }]
                }],
                "entries": [], "last_proof": null, "open_run": null, "problems": []
            }]
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_table_says_what_matters() {
        let check = |status: &FleetStatus, words: &[&str], exit: Exit| {
            let text = describe(status);
            for word in words {
                assert!(text.contains(word), "{word} in {text}");
            }
            assert_eq!(exit_code(status), exit);
        };
        let gap = "orders: gap in the log from east, noticed 2026-11-20 11:00:00Z: 0/3000000 is gone; whole again from \
                   2026-11-20 11:00:09Z on, by base backup 01234567; points within it can't be restored";
        let good = [
            "west",
            "east",
            "protected ",
            "0.3 s old",
            "10s met",
            "never proved",
            "shop: orders: the slot is gone",
            gap,
            "of 2026-11-20 10:00",
            "orders: waiting behind files of shop/pictures",
            "orders: west: accepted: the collation provider's version differs",
            "VAULT",
            "far    of 2026-11-20 11:59:28Z, 32 s old\n",
            "near   of 2026-11-18 12:00:00Z, 2 days old, TOO OLD\n",
            "new    none yet\n",
        ];
        check(&status(Some(0.3), "protected", true, "protected"), &good, Exit::DONE);
        check(&status(Some(25.0), "protected", true, "degraded"), &["25 s old", "10s MISSED"], Exit::NOT_PROTECTED);
        check(&status(None, "copying", false, "unprotected"), &["first copy", "none"], Exit::NOT_PROTECTED);
        check(&status(None, "protected", false, "unprotected"), &["NOT PROTECTED"], Exit::NOT_PROTECTED);
    }

    #[test]
    fn what_is_known_from_the_last_contact_is_marked_and_meets_nothing() {
        let mut away = status(Some(0.3), "unprotected", false, "unprotected");
        let seen_at: Timestamp = "2026-11-20T11:30:00Z".parse().unwrap();
        for asset in &mut away.apps[0].assets {
            asset.last_contact = Some(ContactView { seen_at, age_s: 1800.0 });
            asset.vaults.values_mut().for_each(|copy| copy.counts = false);
        }
        let text = describe(&away);
        let words = [
            "UNPROTECTED",
            "0.3 s old",
            "10s MISSED",
            "none, as of last contact",
            "of 2026-11-20 10:00:00Z, 60 min ago, as of last contact",
            "far    of 2026-11-20 11:59:28Z, 32 s old, NOT COUNTED, as of last contact\n",
            "new    none yet, as of last contact\n",
            "shop: what is said of the copies at east is as of the last contact with its agent, 30 min ago\n",
        ];
        for word in words {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert_eq!(exit_code(&away), Exit::NOT_PROTECTED);
    }

    #[test]
    fn an_empty_fleet_is_told_what_to_do() {
        let status = FleetStatus { apps: Vec::new(), ..status(None, "waiting", false, "protected") };
        assert!(describe(&status).contains("levee apply"));
    }
}
