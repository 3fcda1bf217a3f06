//! The protection file: what an operator wants protected, where, and how well.
//!
//! It is TOML; unknown keys are errors, and every error names its line and column.

mod difference;
mod domain;
mod entry;
mod files;
mod postgres;
mod quantity;
mod retention;
mod rhythm;
mod schedule;
mod upkeep;
mod vault;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{AppName, AssetName, SiteName, Timetable, VaultName};
pub use difference::Difference;
pub use domain::{CopiesWanted, CopyCount, CopyPlace, SiteSpec};
pub use entry::{EntrySite, EntrySpec};
pub use files::{FilesSite, FilesSpec};
pub use postgres::{PostgresSite, PostgresSpec, SqlProbe};
pub use quantity::{InvalidQuantity, Period, Size};
pub use retention::{KeepRules, KeptFor, Retention};
pub use rhythm::Rhythm;
pub use schedule::{Due, InvalidSchedule, Schedule, Weekday, Window};
pub use upkeep::Upkeep;
pub use vault::{VaultAddress, VaultSpec};

/// A whole protection file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectionFile {
    /// What sites share with each other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub site: BTreeMap<SiteName, SiteSpec>,
    /// Places for copies beside the sites.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vault: BTreeMap<VaultName, VaultSpec>,
    #[serde(default)]
    pub app: BTreeMap<AppName, AppSpec>,
}

/// One app: the assets and entries that move together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// The site that writes when the app is first applied.
    pub home: SiteName,
    /// The site that keeps the copies and takes over.
    pub recovery: SiteName,
    #[serde(default)]
    pub objective: Objective,
    /// How the recovery site looks after the copies.
    #[serde(default, skip_serializing_if = "Upkeep::is_default")]
    pub upkeep: Upkeep,
    /// In how many different places the data are to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<CopiesWanted>,
    /// The vaults to which the recovery site copies everything.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub copy_to: BTreeSet<VaultName>,
    /// How fast copies of folders and base backups go to the recovery site; the log of databases never waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Timetable>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub postgres: BTreeMap<AssetName, PostgresSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<AssetName, FilesSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub entry: BTreeMap<AssetName, EntrySpec>,
}

impl AppSpec {
    /// The names of all assets, databases first.
    pub fn asset_names(&self) -> impl Iterator<Item = &AssetName> {
        self.postgres.keys().chain(self.files.keys())
    }

    /// The other of the app's two sites.
    pub fn peer_of(&self, site: &SiteName) -> &SiteName {
        if *site == self.home { &self.recovery } else { &self.home }
    }

    /// Whether the app may live at this site.
    pub fn has_site(&self, site: &SiteName) -> bool {
        *site == self.home || *site == self.recovery
    }
}

/// What must hold; measured figures are judged against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objective {
    /// How old the newest recovery point may be (RPO).
    pub recovery_point: Period,
    /// How long bringing the app back may take (RTO).
    pub recovery_time: Period,
}

impl Default for Objective {
    fn default() -> Self {
        Self { recovery_point: Period::from_seconds(60), recovery_time: Period::from_seconds(15 * 60) }
    }
}

/// Why a protection file was refused. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtectionError {
    #[error("line {line}, column {column}: {message}")]
    Syntax { line: usize, column: usize, message: String },
    #[error("{path}: {message}")]
    Rule { path: String, message: String },
}

impl ProtectionFile {
    /// Parses and checks a protection file.
    pub fn parse(text: &str) -> Result<Self, ProtectionError> {
        let file: ProtectionFile = toml::from_str(text).map_err(|error| {
            let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
            ProtectionError::Syntax { line, column, message: error.message().to_string() }
        })?;
        for (name, vault) in &file.vault {
            if let Some((key, message)) = vault.problem() {
                return Err(ProtectionError::Rule { path: format!("vault.{name}.{key}"), message });
            }
        }
        for (name, app) in &file.app {
            app.check(&format!("app.{name}"))?;
            if let Some(vault) = app.copy_to.iter().find(|vault| !file.vault.contains_key(*vault)) {
                return Err(ProtectionError::Rule {
                    path: format!("app.{name}.copy_to"),
                    message: format!("there is no [vault.{vault}] in this file: say there where it lies"),
                });
            }
        }
        Ok(file)
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl AppSpec {
    fn check(&self, path: &str) -> Result<(), ProtectionError> {
        let rule = |path: String, message: &str| Err(ProtectionError::Rule { path, message: message.into() });
        if self.home == self.recovery {
            return rule(format!("{path}.recovery"), "the recovery site must be another site than home");
        }
        if self.postgres.is_empty() && self.files.is_empty() {
            return rule(path.into(), "the app has no asset: add a [….postgres.NAME] or a [….files.NAME]");
        }
        if let Some(name) = self.files.keys().find(|name| self.postgres.contains_key(*name)) {
            return rule(format!("{path}.files.{name}"), "the name is already that of a postgres asset of this app");
        }
        let both = |kind: &str, name: &AssetName, places: Vec<&SiteName>| {
            let path = format!("{path}.{kind}.{name}");
            if let Some(site) = [&self.home, &self.recovery].into_iter().find(|site| !places.contains(site)) {
                let message =
                    format!("there is no [{path}.at.{site}]: say where it lives at each of the app's two sites");
                return Err(ProtectionError::Rule { path, message });
            }
            match places.iter().find(|site| !self.has_site(site)) {
                Some(stray) => Err(ProtectionError::Rule {
                    path: format!("{path}.at.{stray}"),
                    message: format!("{stray} is neither the home nor the recovery site of this app"),
                }),
                None => Ok(()),
            }
        };
        if let Some((key, message)) = self.upkeep.problem() {
            return rule(format!("{path}.upkeep.{key}"), message);
        }
        for (name, spec) in &self.postgres {
            if spec.keep.kept_for().is_none() {
                let message = "say how far back any moment can be restored, as in keep = \"7d\" or { days = 30 } or \
                               \"forever\"; which base backups stay for longer is said with keep_bases";
                return rule(format!("{path}.postgres.{name}.keep"), message);
            }
            if spec.base_every.is_some() && spec.base_schedule.is_some() {
                return rule(format!("{path}.postgres.{name}"), "say either base_every or base_schedule, not both");
            }
            both("postgres", name, spec.at.keys().collect())?;
            for (site, place) in &spec.at {
                absolute(&place.data_directory, || format!("{path}.postgres.{name}.at.{site}.data_directory"))?;
            }
        }
        for (name, spec) in &self.files {
            if spec.rhythm().is_none() {
                let message = "say when it is copied: either every = \"10m\" or schedule = { hours = [2] }";
                return rule(format!("{path}.files.{name}"), message);
            }
            both("files", name, spec.at.keys().collect())?;
            for (site, place) in &spec.at {
                absolute(&place.path, || format!("{path}.files.{name}.at.{site}.path"))?;
            }
        }
        for (name, spec) in &self.entry {
            both("entry", name, spec.at.keys().collect())?;
            let labels = spec.name.trim_end_matches('.');
            let label_is_bad = |label: &str| {
                label.is_empty()
                    || label.len() > 63
                    || !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if labels.len() > 253 || labels.split('.').any(label_is_bad) {
                return rule(format!("{path}.entry.{name}.name"), "this is not a DNS name");
            }
        }
        Ok(())
    }
}

fn absolute(value: &std::path::Path, path: impl Fn() -> String) -> Result<(), ProtectionError> {
    // The file system's root as a target would be emptied or set aside as a whole.
    if value.is_absolute() && value.parent().is_some() && !value.components().any(|part| part.as_os_str() == "..") {
        return Ok(());
    }
    Err(ProtectionError::Rule {
        path: path(),
        message: format!("{} must be an absolute path without '..', and not /", value.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = r#"
[app.shop]
home = "east"
recovery = "west"
objective = { recovery_point = "10s", recovery_time = "2m" }

[app.shop.postgres.orders]
zero_loss = true
slot_bound = "512 MiB"
probe = [{ database = "shop", sql = "select count(*) >= 0 from orders", expect = "t" }]
[app.shop.postgres.orders.at]
east = { data_directory = "/srv/east/pg", address = "127.0.0.2", port = 5433 }
west = { data_directory = "/srv/west/pg", address = "127.0.0.3", port = 5433 }

[app.shop.files.documents]
every = "5s"
at.east.path = "/srv/east/documents"
at.west.path = "/srv/west/documents"

[app.shop.entry.web]
name = "shop.example.test"
at.east.address = "127.0.0.2"
at.west.address = "127.0.0.3"
"#;

    #[test]
    fn a_whole_file_parses() {
        let file = ProtectionFile::parse(SHOP).unwrap();
        let shop = file.app.values().next().unwrap();
        assert_eq!(shop.objective.recovery_point, Period::from_seconds(10));
        assert_eq!(shop.postgres.values().next().unwrap().slot_bound, Size::from_bytes(512 << 20));
        assert_eq!(shop.asset_names().map(|name| name.as_str()).collect::<Vec<_>>(), ["orders", "documents"]);
    }

    #[test]
    fn limits_and_accepted_differences_are_kept_as_they_were_written() {
        let limit = "08:00,20M 18:00,100M";
        let text = SHOP
            .replace("recovery = \"west\"", &format!("recovery = \"west\"\nbandwidth = \"{limit}\""))
            .replace("zero_loss = true", "accepts = [\"c-library\"]");
        let file = ProtectionFile::parse(&text).unwrap();
        let shop = file.app.values().next().unwrap();
        assert_eq!(shop.bandwidth.as_ref().map(Timetable::to_string).as_deref(), Some(limit));
        let orders = shop.postgres.values().next().unwrap();
        assert!(orders.accepts.contains(&Difference::CLibrary));
        let json = serde_json::to_value(shop).unwrap();
        assert_eq!(json["bandwidth"], limit);
        assert_eq!(json["postgres"]["orders"]["accepts"], serde_json::json!(["c-library"]));
        assert_eq!(&serde_json::from_value::<AppSpec>(json).unwrap(), shop);
    }

    #[test]
    fn errors_point_at_the_place() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(SHOP.contains(from), "{from}");
            let message = ProtectionFile::parse(&SHOP.replace(from, to)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check("zero_loss = true", "zero_los = true", "line 8, column 1: unknown field `zero_los`");
        check("every = \"5s\"", "every = \"5 parsecs\"", "line 16, column 9:");
        check("every = \"5s\"", "", "app.shop.files.documents: say when it is copied");
        check("every = \"5s\"", "every = \"5s\"\nschedule = { hours = [2] }", "say when it is copied: either");
        check("every = \"5s\"", "schedule = { hours = [2, 24] }", "line 16, column 12: 24 is not an hour");
        check("zero_loss = true", "base_every = \"1d\"\nbase_schedule = { hours = [2] }", "not both");
        check("recovery = \"west\"", "recovery = \"WEST\"", "line 4, column 12:");
        check("recovery = \"west\"", "recovery = \"east\"", "app.shop.recovery: the recovery site must be another");
        check("at.west.path = \"/srv/west/documents\"", "", "there is no [app.shop.files.documents.at.west]");
        check("\"/srv/west/documents\"", "\"documents\"", "must be an absolute path");
        check("\"shop.example.test\"", "\"shop..test\"", "not a DNS name");
        check("[app.shop.postgres.orders]", "upkeep.verify_within = \"0s\"\n[app.shop.postgres.orders]", "longer than");
        let both = "upkeep = { prune_every = \"1d\", prune_schedule = { hours = [3] } }\n[app.shop.postgres.orders]";
        check("[app.shop.postgres.orders]", both, "app.shop.upkeep.prune_schedule: say either prune_every or");
        check("zero_loss = true", "keep = { daily = 7 }", "app.shop.postgres.orders.keep: say how far back");
        check("zero_loss = true", "keep_bases = { last = 0 }", "line 8, column 14: last must be at least 1");
        check("every = \"5s\"", "every = \"5s\"\nkeep = { days = 65537 }", "line 17, column 8: days must be a number");
        check("zero_loss = true", "accepts = [\"room\"]", "unknown variant `room`, expected `c-library`");
        check("zero_loss = true", "accepts = [\"room\"]", "line 8, column 1");
        let app = |lines: &str| format!("recovery = \"west\"\n{lines}");
        check("recovery = \"west\"", &app("bandwidth = \"fast\""), "line 5, column 13: \"fast\" is no bandwidth limit");
        check("recovery = \"west\"", &app("bandwidth = \"08:00,1M 8pm,5M\""), "line 5, column 13: \"8pm,5M\" is no");
        check("recovery = \"west\"", &app("bandwith = \"1M\""), "line 5, column 1: unknown field `bandwith`");
        check("port = 5433 }\nwest", "port = 543333 }\nwest", "line 12, column ");
    }
}
