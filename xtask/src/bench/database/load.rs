//! What is measured beside pgbench's own figures: the archive's lag, and the processor's time.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use levee_testing::postgres::Session;

const LAG_SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// The unit of times in /proc on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Asks PostgreSQL for the archiver's lag while the load runs.
pub struct LagSampler {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<f64>>,
}

impl LagSampler {
    pub fn start(address: SocketAddr, name: &str) -> Result<LagSampler> {
        let mut session =
            Session::open(address, "postgres", "postgres").context("cannot connect to measure the lag")?;
        // Nothing under way is no lag; PostgreSQL then says null.
        let sql = format!(
            "select coalesce(extract(epoch from flush_lag), 0) from pg_stat_replication where application_name = '{name}'"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let told_to_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut lags = Vec::new();
            while !told_to_stop.load(Ordering::Relaxed) {
                std::thread::sleep(LAG_SAMPLE_INTERVAL);
                let Ok(outcome) = session.query(&sql) else { break };
                lags.extend(outcome.values.first().and_then(|value| value.parse::<f64>().ok()));
            }
            lags
        });
        Ok(LagSampler { stop, thread })
    }

    /// The lags in seconds.
    pub fn stop(self) -> Vec<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// The processor's time that the processes of these groups have taken so far.
pub fn cpu_seconds(groups: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("cannot list /proc")?.flatten() {
        // A process that has ended meanwhile, or an entry of another kind.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((group, taken)) = parse_stat(&stat)
            && groups.contains(&group)
        {
            ticks += taken;
        }
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// The process's group, and its ticks in user mode and in the kernel.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    // The second field is the program's name in brackets, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((number(2)?.try_into().ok()?, number(11)? + number(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_process_are_read() {
        let stat = "77 (a) b) S 1 42 42 0 -1 4194304 7 0 0 0 130 25 1 1 20 0 9 0 100 1 1";
        assert_eq!(parse_stat(stat), Some((42, 155)));
        assert_eq!(parse_stat("77 (short) S 1"), None);
        assert!(cpu_seconds(&[]).unwrap() == 0.0);
    }
}
