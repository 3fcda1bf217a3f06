//! What this site is for an app, durably: the state that fencing and the start gate rest on.
//!
//! ```text
//!  first Desired: writer ──▶ Writer ──Stop──▶ Stopping ──▶ Stopped
//!                             ▲  ▲                            │
//!                             │  └── Start at the same epoch ─┤   (an aborted switchover)
//!       Start of every asset  │                               │
//!                           Sealed                            │
//!                             ▲ Seal                          │
//!  first Desired: recovery ─▶ Recovery ◀── Desired: recovery ─┘   (a higher epoch; old data set aside)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use levee_model::control::Role;
use levee_model::protection::{AppSpec, PostgresSite};
use levee_model::{AssetName, Epoch, SiteName};
use serde::{Deserialize, Serialize};

pub use levee_model::control::Phase;

/// What stands in an asset's own place at this site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Nothing of ours: whatever lies there is set aside before anything is put there.
    #[default]
    Absent,
    /// A copy that follows what arrives.
    Staged,
    /// Rebuilt by a run, ready to be started.
    Rebuilt,
    /// The app's own data.
    Live,
}

/// What the protection file names, as far as it concerns one site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub assets: BTreeSet<AssetName>,
    /// Where the databases among them are at this site.
    pub databases: BTreeMap<AssetName, PostgresSite>,
}

impl Named {
    pub fn of(spec: &AppSpec, site: &SiteName) -> Self {
        let here = spec.postgres.iter().filter_map(|(asset, spec)| Some((asset.clone(), spec.at.get(site)?.clone())));
        Self { assets: spec.asset_names().cloned().collect(), databases: here.collect() }
    }
}

/// What Levee has left at a database that the protection file names no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remnant {
    /// A replication slot, which makes the database keep all log from now on.
    Slot,
    /// A server of Levee's own, which follows a log that comes no more.
    Standby,
}

/// A database that the protection file names no more, until nothing of Levee's is left there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    pub remnant: Remnant,
    pub place: PostgresSite,
}

/// The durable state of one app at this site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppState {
    /// The highest epoch that this site has heard of.
    pub epoch: Epoch,
    pub phase: Phase,
    #[serde(default)]
    pub assets: BTreeMap<AssetName, Standing>,
    /// Where old data were moved, newest last.
    #[serde(default)]
    pub set_aside: Vec<PathBuf>,
    /// Where the databases are that were named last: what goes out of the file is found by it, also after a crash.
    #[serde(default)]
    pub databases: BTreeMap<AssetName, PostgresSite>,
    /// What is to be taken away from databases that are named no more.
    #[serde(default)]
    pub leaving: BTreeMap<AssetName, Leaving>,
}

/// What a new assignment means for this site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing changes, or the assignment is older than what is known here.
    Stay,
    /// Another site writes at a higher epoch: stop, set the old data aside, become the recovery side.
    Demote,
    /// The epoch grows and the role stays.
    Advance,
}

impl AppState {
    /// The state at the first assignment. A writer's data are the operator's own, in their place.
    pub fn first(role: Role, epoch: Epoch, assets: impl Iterator<Item = AssetName>) -> Self {
        let (phase, standing) = match role {
            Role::Writer => (Phase::Writer, Standing::Live),
            Role::Recovery => (Phase::Recovery, Standing::Absent),
        };
        Self {
            epoch,
            phase,
            assets: assets.map(|name| (name, standing.clone())).collect(),
            set_aside: Vec::new(),
            databases: BTreeMap::new(),
            leaving: BTreeMap::new(),
        }
    }

    /// What an assignment of this role and epoch means here.
    pub fn turn(&self, role: Role, epoch: Epoch) -> Turn {
        match (self.phase, role) {
            _ if epoch < self.epoch => Turn::Stay,
            // An assignment at the same epoch never takes writing away: only a higher epoch does.
            (Phase::Writer | Phase::Stopping | Phase::Stopped | Phase::Sealed, Role::Recovery)
                if epoch > self.epoch =>
            {
                Turn::Demote
            }
            (Phase::Recovery, Role::Recovery) | (Phase::Writer, Role::Writer) if epoch > self.epoch => Turn::Advance,
            _ => Turn::Stay,
        }
    }

    pub fn standing(&self, asset: &AssetName) -> Standing {
        self.assets.get(asset).cloned().unwrap_or_default()
    }

    /// Whether a run is bringing the app here, and has started some of it.
    pub fn has_begun(&self) -> bool {
        self.phase == Phase::Sealed && self.assets.values().any(|asset| *asset == Standing::Live)
    }

    /// Whether this site may start the asset for writing at this epoch.
    pub fn may_start(&self, asset: &AssetName, epoch: Epoch) -> Result<(), String> {
        if epoch != self.epoch {
            return Err(format!("the command is for epoch {epoch}, but this site knows epoch {}", self.epoch));
        }
        match (self.phase, self.standing(asset)) {
            (Phase::Recovery, _) => Err(format!(
                "another site writes this app at epoch {}; move it here with `levee switchover` or `levee failover`",
                self.epoch
            )),
            (_, Standing::Absent) => Err("nothing of this asset has been rebuilt here".into()),
            _ => Ok(()),
        }
    }

    /// Whether the asset is written here now, and is to be copied away.
    pub fn is_written(&self, asset: &AssetName) -> bool {
        self.phase != Phase::Stopped && self.phase != Phase::Recovery && self.standing(asset) == Standing::Live
    }

    /// Whether anything of the copies at this site may be removed. Beside a writer they are frozen: until the app is
    /// protected elsewhere again they are the only ones, and while a run is bringing it here it rebuilds from them.
    pub fn may_remove_copies(&self) -> bool {
        self.phase == Phase::Recovery
    }

    /// Whether what stands in an asset's place was brought here by the run that is at work, or is written here.
    pub fn is_of_this_run(&self, asset: &AssetName) -> bool {
        matches!(self.phase, Phase::Sealed | Phase::Writer)
            && matches!(self.standing(asset), Standing::Rebuilt | Standing::Live)
    }

    /// Takes over what the protection file names, where this site is what its assignment says.
    pub fn assigned(&mut self, role: Role, epoch: Epoch, named: &Named) {
        if epoch != self.epoch {
            return;
        }
        // What a run was still to bring has gone out of the file since: what is left has all been started.
        let is_whole = named.assets.iter().all(|asset| self.standing(asset) == Standing::Live);
        if role == Role::Writer && self.has_begun() && is_whole {
            self.phase = Phase::Writer;
        }
        if matches!((self.phase, role), (Phase::Writer, Role::Writer) | (Phase::Recovery, Role::Recovery)) {
            self.name_assets(named);
        }
    }

    /// Takes over which assets are named, where no run is at work or expected. What is new lies where the app is written:
    /// there it is the operator's own, in its place, like an app's first assets. What is named no more is not known any
    /// more: named again, whatever stands in its place by then is nothing of ours.
    pub fn name_assets(&mut self, named: &Named) {
        let standing = match self.phase {
            Phase::Writer => Standing::Live,
            Phase::Recovery => Standing::Absent,
            Phase::Stopping | Phase::Stopped | Phase::Sealed => return,
        };
        for (asset, place) in std::mem::replace(&mut self.databases, named.databases.clone()) {
            let remnant = match self.standing(&asset) {
                Standing::Live => Remnant::Slot,
                Standing::Staged => Remnant::Standby,
                Standing::Absent | Standing::Rebuilt => continue,
            };
            if !named.assets.contains(&asset) {
                self.leaving.insert(asset, Leaving { remnant, place });
            }
        }
        let is_anothers =
            |place: &PostgresSite| named.databases.values().any(|named| named.data_directory == place.data_directory);
        // Under another name, a standby in the same place is that one's.
        self.leaving.retain(|asset, leaving| {
            let is_named = named.assets.contains(asset);
            !(is_named || leaving.remnant == Remnant::Standby && is_anothers(&leaving.place))
        });
        self.assets.retain(|asset, _| named.assets.contains(asset));
        for asset in &named.assets {
            let known = self.assets.entry(asset.clone()).or_insert(standing.clone());
            // Of an earlier time here. A run that took it for its own would start old data.
            if self.phase == Phase::Recovery && matches!(*known, Standing::Rebuilt | Standing::Live) {
                *known = Standing::Absent;
            }
        }
    }

    /// Whether each of these assets that is known here is the app's own data.
    pub fn all_live(&self, named: &BTreeSet<AssetName>) -> bool {
        self.assets.iter().all(|(asset, standing)| *standing == Standing::Live || !named.contains(asset))
    }

    /// Notes that an asset has been started here; the app is written here once all that are named are.
    pub fn started(&mut self, asset: &AssetName, named: &BTreeSet<AssetName>) {
        self.assets.insert(asset.clone(), Standing::Live);
        let is_whole = match self.phase {
            // What is not known yet is still to come: taken for the app's own, it would be missing.
            Phase::Sealed => named.iter().all(|asset| self.standing(asset) == Standing::Live),
            _ => self.all_live(named),
        };
        if is_whole {
            self.phase = Phase::Writer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AssetName {
        text.parse().unwrap()
    }

    fn state(role: Role) -> AppState {
        AppState::first(role, Epoch(3), [name("orders"), name("documents")].into_iter())
    }

    #[test]
    fn only_a_higher_epoch_takes_writing_away() {
        let check = |phase: Phase, role: Role, epoch: u64, expected: Turn| {
            let state = AppState { phase, ..state(Role::Writer) };
            assert_eq!(state.turn(role, Epoch(epoch)), expected, "{phase:?} {role:?} {epoch}");
        };
        check(Phase::Writer, Role::Recovery, 3, Turn::Stay);
        check(Phase::Writer, Role::Recovery, 2, Turn::Stay);
        check(Phase::Writer, Role::Recovery, 4, Turn::Demote);
        check(Phase::Stopping, Role::Recovery, 4, Turn::Demote);
        check(Phase::Stopped, Role::Recovery, 4, Turn::Demote);
        check(Phase::Stopped, Role::Writer, 3, Turn::Stay);
        check(Phase::Sealed, Role::Recovery, 3, Turn::Stay);
        check(Phase::Sealed, Role::Writer, 3, Turn::Stay);
        check(Phase::Recovery, Role::Recovery, 5, Turn::Advance);
        // Writing is only ever taken up by a run's commands, never by an assignment.
        check(Phase::Recovery, Role::Writer, 9, Turn::Stay);
    }

    /// What a protection file names in which `orders` is a database, if it names that.
    fn named(assets: &[&str]) -> Named {
        let assets: BTreeSet<AssetName> = assets.iter().map(|asset| name(asset)).collect();
        let databases = assets.iter().filter(|asset| asset.as_str() == "orders");
        Named { databases: databases.map(|asset| (asset.clone(), place(5432))).collect(), assets }
    }

    fn place(port: u16) -> PostgresSite {
        let place = format!(r#"{{"data_directory": "/srv/orders", "address": "127.0.0.1", "port": {port}}}"#);
        serde_json::from_str(&place).unwrap()
    }

    #[test]
    fn assets_that_come_and_go_later_are_known_where_the_app_is_written_and_where_it_is_kept() {
        let now = named(&["orders", "music"]);
        let mut writer = state(Role::Writer);
        writer.name_assets(&now);
        assert!(writer.is_written(&name("music")) && writer.all_live(&now.assets));
        assert!(!writer.assets.contains_key(&name("documents")));
        let mut recovery = state(Role::Recovery);
        recovery.name_assets(&now);
        assert_eq!(recovery.assets.get(&name("music")), Some(&Standing::Absent));
        assert!(!recovery.assets.contains_key(&name("documents")));
        // A run brings what is named. What is not holds nothing up.
        recovery.phase = Phase::Sealed;
        recovery.started(&name("orders"), &now.assets);
        assert_eq!(recovery.phase, Phase::Sealed);
        recovery.started(&name("music"), &now.assets);
        assert_eq!(recovery.phase, Phase::Writer);
        // In the middle of a run nothing is taken over.
        let mut sealed = AppState { phase: Phase::Sealed, ..state(Role::Recovery) };
        let before = sealed.clone();
        sealed.assigned(Role::Writer, Epoch(3), &now);
        assert_eq!(sealed, before);
        // Nor by an assignment of another epoch or role.
        let mut writer = state(Role::Writer);
        writer.assigned(Role::Writer, Epoch(4), &now);
        writer.assigned(Role::Recovery, Epoch(3), &now);
        assert_eq!(writer, state(Role::Writer));
    }

    #[test]
    fn what_stood_here_at_an_earlier_time_is_never_taken_for_what_a_run_has_brought() {
        for standing in [Standing::Staged, Standing::Rebuilt, Standing::Live] {
            let mut recovery = state(Role::Recovery);
            recovery.assets.insert(name("documents"), standing.clone());
            recovery.name_assets(&named(&["orders"]));
            recovery.name_assets(&named(&["orders", "documents"]));
            assert_eq!(recovery.standing(&name("documents")), Standing::Absent, "{standing:?}");
            // As a state has it that was written before such was forgotten.
            recovery.assets.insert(name("documents"), standing.clone());
            assert!(!recovery.is_of_this_run(&name("documents")), "{standing:?} at the recovery site");
            recovery.name_assets(&named(&["orders", "documents"]));
            let is_copy = standing == Standing::Staged;
            let expected = if is_copy { Standing::Staged } else { Standing::Absent };
            assert_eq!(recovery.standing(&name("documents")), expected);
            // And of a run that is at work, it is.
            recovery.assets.insert(name("documents"), standing.clone());
            recovery.phase = Phase::Sealed;
            assert_eq!(recovery.is_of_this_run(&name("documents")), !is_copy);
        }
    }

    #[test]
    fn what_levee_has_left_at_a_database_that_goes_is_known_until_it_is_named_again() {
        let (with, without) = (named(&["orders", "documents"]), named(&["documents"]));
        for (role, standing, remnant) in
            [(Role::Writer, Standing::Live, Remnant::Slot), (Role::Recovery, Standing::Staged, Remnant::Standby)]
        {
            let mut state = state(role);
            state.assets.insert(name("orders"), standing);
            state.assigned(role, Epoch(3), &with);
            assert!(state.leaving.is_empty());
            state.assigned(role, Epoch(3), &without);
            let expected = BTreeMap::from([(name("orders"), Leaving { remnant, place: place(5432) })]);
            assert_eq!(state.leaving, expected);
            assert!(!state.assets.contains_key(&name("orders")));
            // Also over a restart, and as long as it takes.
            let mut read: AppState = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
            assert_eq!(read, state);
            read.assigned(role, Epoch(3), &without);
            assert_eq!(read.leaving, expected);
            read.assigned(role, Epoch(3), &with);
            assert!(read.leaving.is_empty() && read.databases.contains_key(&name("orders")));
        }
        // Nothing of ours is at a database that has never come.
        let mut recovery = state(Role::Recovery);
        recovery.name_assets(&with);
        recovery.name_assets(&without);
        assert!(recovery.leaving.is_empty());
        // A site that has written it and does so no more still has the slot: it was never set aside.
        let mut demoted = state(Role::Writer);
        demoted.name_assets(&with);
        demoted.phase = Phase::Recovery;
        demoted.name_assets(&without);
        assert_eq!(demoted.leaving[&name("orders")].remnant, Remnant::Slot);
    }

    #[test]
    fn a_site_that_only_lacks_what_is_named_no_more_becomes_the_writer() {
        let mut sealed = AppState { phase: Phase::Sealed, ..state(Role::Recovery) };
        sealed.assigned(Role::Writer, Epoch(3), &named(&["orders"]));
        assert_eq!(sealed.phase, Phase::Sealed, "nothing of it has been started");
        sealed.started(&name("orders"), &named(&["orders", "documents"]).assets);
        assert_eq!(sealed.phase, Phase::Sealed);
        let check = |role: Role, epoch: u64, assets: &[&str], expected: Phase| {
            let mut state = sealed.clone();
            state.assigned(role, Epoch(epoch), &named(assets));
            assert_eq!(state.phase, expected, "{role:?} {epoch} {assets:?}");
        };
        check(Role::Writer, 3, &["orders", "documents"], Phase::Sealed);
        check(Role::Writer, 3, &["orders", "music"], Phase::Sealed);
        check(Role::Writer, 2, &["orders"], Phase::Sealed);
        check(Role::Recovery, 3, &["orders"], Phase::Sealed);
        check(Role::Writer, 3, &["orders"], Phase::Writer);
    }

    #[test]
    fn an_asset_that_is_named_and_not_known_holds_a_run_up() {
        let mut sealed = AppState { phase: Phase::Sealed, ..state(Role::Recovery) };
        let named = named(&["orders", "documents", "music"]).assets;
        sealed.started(&name("orders"), &named);
        sealed.started(&name("documents"), &named);
        assert_eq!(sealed.phase, Phase::Sealed);
        sealed.started(&name("music"), &named);
        assert_eq!(sealed.phase, Phase::Writer);
        // What was written here is all in its place: a start at the same epoch waits for nothing new.
        let mut stopped = AppState { phase: Phase::Stopped, ..state(Role::Writer) };
        stopped.started(&name("orders"), &named);
        assert_eq!(stopped.phase, Phase::Writer);
    }

    #[test]
    fn a_state_of_an_earlier_version_is_read() {
        let text = r#"{"epoch": 3, "phase": "writer", "assets": {"orders": {"standing": "live"}}}"#;
        let read: AppState = serde_json::from_str(text).unwrap();
        assert!(read.leaving.is_empty() && read.databases.is_empty() && read.is_written(&name("orders")));
    }

    #[test]
    fn the_start_gate_opens_for_the_writer_of_this_epoch_only() {
        let mut at_recovery = state(Role::Recovery);
        assert!(at_recovery.may_start(&name("orders"), Epoch(3)).is_err());
        at_recovery.phase = Phase::Sealed;
        at_recovery.epoch = Epoch(4);
        assert!(at_recovery.may_start(&name("orders"), Epoch(4)).is_err(), "nothing was rebuilt");
        at_recovery.assets.insert(name("orders"), Standing::Rebuilt);
        assert!(at_recovery.may_start(&name("orders"), Epoch(3)).is_err(), "an older run");
        assert!(at_recovery.may_start(&name("orders"), Epoch(4)).is_ok());
        let named = BTreeSet::from([name("orders"), name("documents")]);
        at_recovery.started(&name("orders"), &named);
        assert_eq!(at_recovery.phase, Phase::Sealed);
        assert!(!at_recovery.may_remove_copies(), "what the app was rebuilt from");
        assert!(at_recovery.is_written(&name("orders")) && !at_recovery.is_written(&name("documents")));
        at_recovery.started(&name("documents"), &named);
        assert_eq!(at_recovery.phase, Phase::Writer);
        assert!(!at_recovery.may_remove_copies() && state(Role::Recovery).may_remove_copies());
    }
}
