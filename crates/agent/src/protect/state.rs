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
use levee_model::{AssetName, Epoch};
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
        Self { epoch, phase, assets: assets.map(|name| (name, standing.clone())).collect(), set_aside: Vec::new() }
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

    /// Takes over which assets the protection file names for a site that is what its assignment says. What is new lies where
    /// the app is written: there it is the operator's own, in its place, like an app's first assets.
    pub fn name_assets(&mut self, named: &BTreeSet<AssetName>) {
        let (phase, standing) = match self.phase {
            Phase::Writer => (Phase::Writer, Standing::Live),
            Phase::Recovery => (Phase::Recovery, Standing::Absent),
            // A run is at work, or is expected.
            Phase::Stopping | Phase::Stopped | Phase::Sealed => return,
        };
        // A copy of ours that still stands in the place of what is named no more is known as one.
        let is_copy = |standing: &Standing| phase == Phase::Recovery && *standing != Standing::Absent;
        self.assets.retain(|asset, standing| named.contains(asset) || is_copy(standing));
        for asset in named {
            self.assets.entry(asset.clone()).or_insert(standing.clone());
        }
    }

    /// Whether each of these assets that is known here is the app's own data.
    pub fn all_live(&self, named: &BTreeSet<AssetName>) -> bool {
        self.assets.iter().all(|(asset, standing)| *standing == Standing::Live || !named.contains(asset))
    }

    /// Notes that an asset has been started here; the app is written here once all that are named are.
    pub fn started(&mut self, asset: &AssetName, named: &BTreeSet<AssetName>) {
        self.assets.insert(asset.clone(), Standing::Live);
        if self.all_live(named) {
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

    #[test]
    fn assets_that_come_and_go_later_are_known_where_the_app_is_written_and_where_it_is_kept() {
        let named = BTreeSet::from([name("orders"), name("music")]);
        let mut writer = state(Role::Writer);
        writer.name_assets(&named);
        assert!(writer.is_written(&name("music")) && writer.all_live(&named));
        assert!(!writer.assets.contains_key(&name("documents")));
        let mut recovery = state(Role::Recovery);
        recovery.assets.insert(name("documents"), Standing::Staged);
        recovery.name_assets(&named);
        assert_eq!(recovery.standing(&name("documents")), Standing::Staged, "its copy still stands there");
        assert_eq!(recovery.assets.get(&name("music")), Some(&Standing::Absent));
        // A run brings what is named. What is not holds nothing up.
        recovery.phase = Phase::Sealed;
        recovery.started(&name("orders"), &named);
        assert_eq!(recovery.phase, Phase::Sealed);
        recovery.started(&name("music"), &named);
        assert_eq!(recovery.phase, Phase::Writer);
        // In the middle of a run nothing is taken over.
        let mut sealed = AppState { phase: Phase::Sealed, ..state(Role::Recovery) };
        let before = sealed.clone();
        sealed.name_assets(&named);
        assert_eq!(sealed, before);
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
