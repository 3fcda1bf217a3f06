//! Measurements that stand beside a peer, in one run: ratios mean something where absolute figures of
//! a shared machine do not.

mod database;
mod measured;
mod memory_limit;
mod vault;

use anyhow::Result;

#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// PostgreSQL under full load, archived by Levee and by pg_receivewal
    Database(database::Options),
    /// Backup, restore and check, by Levee, restic, Borg and (where installed) rustic
    Vault(vault::Options),
}

pub fn run(options: Options) -> Result<()> {
    match options.what {
        What::Database(options) => database::run(options),
        What::Vault(options) => vault::run(options),
    }
}

/// The middle of the values; of an even number of them the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// The value that so many of a hundred do not exceed (nearest rank).
fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(percentile((1..=200).map(f64::from).collect(), 99.0), 198.0);
        assert_eq!(percentile(vec![5.0], 99.0), 5.0);
        assert!(median(Vec::new()).is_nan() && percentile(Vec::new(), 99.0).is_nan());
    }
}
