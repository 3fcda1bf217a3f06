//! What `levee status` says about the shop's database.

use levee_testing::wait::poll;
use serde_json::Value;

use super::world::{PATIENCE, World};

/// The database as the status has it; `None` when the server does not answer or knows no shop.
pub fn orders(world: &World) -> Option<Value> {
    let status = world.status()?;
    status["assets"].as_array()?.iter().find(|asset| asset["asset"] == "orders").cloned()
}

/// The database's problems, as they are printed.
pub fn problems(world: &World) -> Option<String> {
    Some(orders(world)?["problems"].to_string())
}

/// Waits until the database's problems contain all of these words.
#[track_caller]
pub fn wait_problem(world: &World, words: &[&str]) -> String {
    let mut seen = Vec::new();
    let found = poll(PATIENCE, || {
        let said = problems(world)?;
        if seen.last() != Some(&said) {
            seen.push(said.clone());
        }
        words.iter().all(|word| said.contains(word)).then_some(said)
    });
    found.unwrap_or_else(|| panic!("{words:?} was never said, but {seen:#?}\n{}", world.log_tails()))
}

/// Waits until the database has no problem any more.
#[track_caller]
pub fn wait_no_problem(world: &World) {
    let mut last = None;
    let gone = poll(PATIENCE, || {
        last = problems(world);
        (last.as_deref() == Some("[]")).then_some(())
    });
    gone.unwrap_or_else(|| panic!("still said after {PATIENCE:?}: {last:?}\n{}", world.log_tails()));
}

/// Waits until everything that is flushed at the source now is durable at west.
#[track_caller]
pub fn wait_caught_up(world: &mut World) {
    let end = parse_lsn(&world.cluster().flush_lsn());
    let mut last = None;
    let caught_up = poll(PATIENCE, || {
        last = orders(world);
        let at = last.as_ref()?["position"].to_string();
        let lsn = at.split('"').rfind(|word| word.contains('/')).map(parse_lsn)?;
        let asset = last.as_ref()?;
        (lsn >= end && asset["protected"] == true && asset["age_s"].as_f64()? < 3.0).then_some(())
    });
    assert!(caught_up.is_some(), "{:#}\n{}", last.unwrap_or_default(), world.log_tails());
}

fn parse_lsn(text: &str) -> u64 {
    let (high, low) = text.trim().split_once('/').unwrap_or_else(|| panic!("{text} is no position"));
    let part = |hex: &str| u64::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{text} is no position"));
    part(high) << 32 | part(low)
}
