//! What the server does by the clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::config::Config;
use crate::contact::forget_removed;
use crate::control::Sample;
use crate::error::Result;
use crate::server::{Shared, frozen_key};
use crate::state::{Compare, Op};
use crate::status::{AppFacts, Known};

const BEAT: Duration = Duration::from_secs(1);
/// Ages of recovery points are kept at this distance: 17,000 a day and asset.
const SAMPLE_EVERY_BEATS: u64 = 5;
const HOUSEKEEPING_EVERY_BEATS: u64 = 3600;
const SAMPLES_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The server's certificate lives for 90 days; it is renewed well before.
const CERTIFICATE_LEFT_MIN: SignedDuration = SignedDuration::from_hours(60 * 24);

/// Runs until the task is dropped.
pub async fn run(shared: Arc<Shared>) {
    let mut beats: u64 = 0;
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.hub.sweep(Instant::now());
        let beat = beats;
        let done = shared.clone().blocking(move |shared| shared.beat(beat)).await;
        if let Err(error) = done {
            tracing::error!(error = %levee_wire::chain(&error), "the regular work failed; trying again in a moment");
        }
        beats += 1;
    }
}

impl Shared {
    fn beat(&self, beat: u64) -> Result<()> {
        let now = Timestamp::now();
        self.store.expire_leases(Instant::now())?;
        let config = Config::read(&self.store)?;
        let live = self.hub.snapshot();
        let known = Known { config: &config, live: &live, now };
        for app in config.apps.keys() {
            let frozen = self.store.get(&frozen_key(app))?;
            let Some(status) = known.app(app, AppFacts::default()) else { continue };
            // The vault beside the writer is thawed when the other site could bring the app back by itself.
            if let Some(frozen) = frozen
                && status.assets.iter().all(|asset| asset.protected)
            {
                let compares = [
                    Compare::ModRevision(frozen_key(app), frozen.mod_revision),
                    Compare::ModRevision(
                        crate::config::app_key(app),
                        config.apps.get(app).map_or(0, |record| record.revision),
                    ),
                ];
                self.store.txn(&compares, &[Op::delete(frozen_key(app))])?;
            }
            if beat.is_multiple_of(SAMPLE_EVERY_BEATS) {
                let samples: Vec<Sample> = status
                    .assets
                    .iter()
                    .filter_map(|asset| Some(Sample { at: now, asset: asset.asset.clone(), age_s: asset.age_s? }))
                    .collect();
                self.history.put_samples(app, &samples)?;
            }
        }
        forget_removed(&self.history, &config)?;
        if beat.is_multiple_of(HOUSEKEEPING_EVERY_BEATS) {
            self.history.trim_samples(now.checked_sub(SAMPLES_KEPT).unwrap_or(now))?;
            if self.credentials.facts().not_after.duration_since(now) < CERTIFICATE_LEFT_MIN {
                self.credentials.renew(self.authority.issue_server(now)?)?;
            }
        }
        Ok(())
    }
}
