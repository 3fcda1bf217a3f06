//! Asking for packs in archive classes, and waiting for them.

use std::collections::HashMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use levee_store::{ThawRequest, ThawSpeed};
use levee_vault::{Id, Thaw, ThawState, Vault};
use serde::Serialize;

use super::amounts::parse_duration;
use super::ended;
use crate::output::Output;

/// How to bring back what lies in an archive class.
#[derive(Clone, Debug, Args)]
pub struct ThawArguments {
    /// How many days packs in an archive class of S3 stay readable once they are thawed; at Azure they stay so for good
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=3660))]
    thaw_days: u16,
    /// How soon they are wanted, which is what it costs
    #[arg(long, value_enum, default_value_t)]
    thaw_speed: Speed,
    /// Look so often whether they are thawed
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    thaw_poll: Duration,
}

/// S3's words.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Speed {
    /// Minutes; not for every class
    Expedited,
    /// Hours
    #[default]
    Standard,
    /// The cheapest: half a day or two; at Azure as standard
    Bulk,
}

impl From<Speed> for ThawSpeed {
    fn from(speed: Speed) -> Self {
        match speed {
            Speed::Expedited => ThawSpeed::Expedited,
            Speed::Standard => ThawSpeed::Standard,
            Speed::Bulk => ThawSpeed::Bulk,
        }
    }
}

/// What to do about packs that cannot be read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Only say it.
    Look,
    /// Ask for them.
    Ask,
    /// Ask, and come back when all of them can be read.
    Wait,
}

#[derive(Serialize)]
struct ThawLine {
    message_type: &'static str,
    requested: bool,
    #[serde(flatten)]
    state: ThawState,
    /// Those that cannot be read, where they are said for the first time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    packs: Vec<Id>,
}

/// Says what must be thawed among archived packs that are needed, and does what is wished about it.
pub fn thaw(
    vault: &Vault,
    archived: &HashMap<Id, u64>,
    is_needed: impl Fn(&Id) -> bool,
    wish: Wish,
    arguments: &ThawArguments,
    output: Output,
) -> anyhow::Result<ThawState> {
    let mut thaw = Thaw::look(vault, archived, is_needed).map_err(ended)?;
    let state = thaw.state();
    let tell = |state: ThawState, requested, packs| {
        let line = ThawLine { message_type: "thaw", requested, state, packs };
        if output.is_json() {
            return output.result(&line, |_| String::new());
        }
        output.note(&text(state, requested));
        Ok(())
    };
    if state != ThawState::default() {
        tell(state, false, thaw.unreadable().collect())?;
    }
    if state.is_done() || wish == Wish::Look {
        return Ok(state);
    }
    let request = ThawRequest { days: arguments.thaw_days, speed: arguments.thaw_speed.into() };
    thaw.request(&request).map_err(ended)?;
    let mut state = thaw.state();
    tell(state, true, Vec::new())?;
    while wish == Wish::Wait && !state.is_done() {
        std::thread::sleep(arguments.thaw_poll);
        thaw.look_again().map_err(ended)?;
        if thaw.state().packs_frozen > 0 {
            // The days of some were over before the others came.
            thaw.request(&request).map_err(ended)?;
        }
        let now = thaw.state();
        if now != state {
            state = now;
            tell(state, true, Vec::new())?;
        }
    }
    Ok(state)
}

fn text(state: ThawState, requested: bool) -> String {
    let bytes = indicatif::BinaryBytes;
    let ThawState { packs_frozen, bytes_frozen, packs_thawing, bytes_thawing, packs_thawed, bytes_thawed } = state;
    let mut text = match (requested, state.is_done()) {
        (_, true) => format!("all {packs_thawed} packs ({}) in an archive class are thawed", bytes(bytes_thawed)),
        (true, false) => format!(
            "{packs_thawing} packs ({}) are being thawed; {packs_thawed} ({}) are ready",
            bytes(bytes_thawing),
            bytes(bytes_thawed)
        ),
        (false, false) => format!(
            "{} packs ({}) lie in an archive class and must be thawed first; {packs_thawed} ({}) are ready",
            packs_frozen + packs_thawing,
            bytes(bytes_frozen + bytes_thawing),
            bytes(bytes_thawed)
        ),
    };
    if !requested && packs_thawing > 0 {
        text.push_str(&format!("; {packs_thawing} ({}) were asked for already", bytes(bytes_thawing)));
    }
    text
}
