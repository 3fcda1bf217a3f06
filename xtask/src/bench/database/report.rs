//! The figures, side by side.

use std::fmt;

use levee_testing::postgres::PgbenchReport;
use serde::Serialize;

use super::Setup;
use super::archiver::Archiver;
use crate::bench::{median, percentile};

/// One measurement.
pub struct Sample {
    pub setup: Setup,
    pub load: PgbenchReport,
    /// How long flushed log was on its way to the archiver's disk, as PostgreSQL measures it, in seconds.
    pub lags_s: Vec<f64>,
    /// How much log the load wrote, in units of 10^9 bytes.
    pub log_gb: f64,
    /// What all of the archiver's processes took of the processors.
    pub cpu_s_per_gb: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (load, waiting) = (&self.load, if self.setup.synchronous { ", synchronous" } else { "" });
        write!(
            formatter,
            "{:?}{waiting}: {:.0} transactions/s, {:.2} ms, {:.2} GB of log, {:.2} CPU s/GB, lag p99 {:.3} s",
            self.setup.archiver,
            load.transactions_per_s,
            load.latency_average_ms,
            self.log_gb,
            self.cpu_s_per_gb,
            percentile(self.lags_s.clone(), 99.0)
        )
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    rounds: u32,
    seconds: u32,
    clients: u32,
    asynchronous: Comparison,
    synchronous: Comparison,
    /// `levee database archive` under full load, asynchronous.
    archive_lag_p99_s: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    pg_receivewal: Figures,
    /// `levee database archive`, on one machine.
    levee: Figures,
    levee_ratio: Ratio,
    /// A server and two agents, to the other site's journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agents_ratio: Option<Ratio>,
}

/// Against `pg_receivewal`. Above 1 Levee is the faster one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Ratio {
    throughput: f64,
    latency: f64,
}

/// Medians over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    transactions_per_s: f64,
    latency_ms: f64,
    cpu_s_per_gb: f64,
    /// Of all rounds together.
    lag_p99_s: f64,
}

impl Report {
    pub fn of(samples: &[Sample], rounds: u32, seconds: u32, clients: u32) -> Report {
        let asynchronous = Comparison::of(samples, false);
        let archive_lag_p99_s = asynchronous.levee.lag_p99_s;
        let synchronous = Comparison::of(samples, true);
        Report { rounds, seconds, clients, asynchronous, synchronous, archive_lag_p99_s }
    }
}

impl Comparison {
    fn of(samples: &[Sample], synchronous: bool) -> Comparison {
        let figures = |archiver| {
            let setup = Setup { archiver, synchronous };
            let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.setup == setup).collect();
            let median_of = |value: fn(&Sample) -> f64| median(samples.iter().map(|sample| value(sample)).collect());
            Figures {
                transactions_per_s: median_of(|sample| sample.load.transactions_per_s),
                latency_ms: median_of(|sample| sample.load.latency_average_ms),
                cpu_s_per_gb: median_of(|sample| sample.cpu_s_per_gb),
                lag_p99_s: percentile(samples.iter().flat_map(|sample| sample.lags_s.iter().copied()).collect(), 99.0),
            }
        };
        let pg_receivewal = figures(Archiver::PgReceivewal);
        let ratio = |figures: &Figures| Ratio {
            throughput: figures.transactions_per_s / pg_receivewal.transactions_per_s,
            latency: pg_receivewal.latency_ms / figures.latency_ms,
        };
        let levee = figures(Archiver::Levee);
        let has_agents = samples.iter().any(|sample| sample.setup.archiver == Archiver::Agents);
        let agents = has_agents.then(|| figures(Archiver::Agents));
        Comparison {
            pg_receivewal,
            levee,
            levee_ratio: ratio(&levee),
            agents,
            agents_ratio: agents.as_ref().map(ratio),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<30}{:>8}{:>10}{:>8}{:>12}{:>10}{:>10}",
            "", "tx/s", "ms", "ratio", "CPU s/GB", "lag p99", "latency"
        )?;
        for (name, comparison) in [("asynchronous", &self.asynchronous), ("synchronous", &self.synchronous)] {
            let rows = [
                ("pg_receivewal", Some(comparison.pg_receivewal), None),
                ("levee database archive", Some(comparison.levee), Some(comparison.levee_ratio)),
                ("levee, two agents", comparison.agents, comparison.agents_ratio),
            ];
            writeln!(formatter, "{name}")?;
            for (who, figures, ratio) in rows {
                let Some(figures) = figures else { continue };
                let of =
                    |value: fn(Ratio) -> f64| ratio.map_or_else(String::new, |ratio| format!("{:.2}", value(ratio)));
                writeln!(
                    formatter,
                    "  {who:<28}{:>8.0}{:>10.2}{:>8}{:>12.2}{:>10.3}{:>10}",
                    figures.transactions_per_s,
                    figures.latency_ms,
                    of(|ratio| ratio.throughput),
                    figures.cpu_s_per_gb,
                    figures.lag_p99_s,
                    of(|ratio| ratio.latency)
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_above_one_are_good_for_levee() {
        let sample = |archiver, transactions_per_s, latency_average_ms| Sample {
            setup: Setup { archiver, synchronous: true },
            load: PgbenchReport { transactions_per_s, latency_average_ms, transactions: 1 },
            lags_s: vec![0.5],
            log_gb: 1.0,
            cpu_s_per_gb: 3.0,
        };
        let samples = [sample(Archiver::PgReceivewal, 100.0, 8.0), sample(Archiver::Levee, 200.0, 4.0)];
        let report = Report::of(&samples, 1, 1, 1);
        assert_eq!(report.synchronous.levee_ratio, Ratio { throughput: 2.0, latency: 2.0 });
        assert!(report.synchronous.agents.is_none());
        assert_eq!((report.synchronous.levee.cpu_s_per_gb, report.synchronous.levee.lag_p99_s), (3.0, 0.5));
        assert!(report.asynchronous.levee_ratio.throughput.is_nan());
    }
}
