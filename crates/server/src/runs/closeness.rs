//! Whether the recovery site is close behind, and since when it has come no closer. No clock of its own: whoever asks
//! says how late it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::{AssetPoint, AssetState, AssetStatus};

/// For how long the writer's side may name trouble with an asset, with nothing new arriving, before the wait for the other side to come close
/// counts as failed: its archive rides over short cuts. The step's further attempts make a minute and a half of it.
const TROUBLE_MAX: Duration = Duration::from_secs(10);

/// The same where nothing is named: over the age that is wanted, which may be a folder's whole period.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is known of the assets that are waited for.
#[derive(Default)]
pub struct Closeness {
    far: BTreeMap<AssetName, Far>,
}

/// An asset that is not close enough.
struct Far {
    point: Option<AssetPoint>,
    /// Since when that point has been the newest.
    since: Instant,
    trouble_since: Option<Instant>,
}

/// An asset that does not come closer.
#[derive(Debug, PartialEq, Eq)]
pub struct Stuck {
    pub asset: AssetName,
    /// What the writer's side has named.
    pub problem: Option<String>,
    pub silent_s: u64,
}

impl Closeness {
    /// Whether every asset is as close as wanted. `source_now` is the source's clock.
    pub fn look(
        &mut self,
        age_ms_max: &BTreeMap<AssetName, u64>,
        recovery: &BTreeMap<AssetName, AssetStatus>,
        writer: &BTreeMap<AssetName, AssetStatus>,
        source_now: Timestamp,
        now: Instant,
    ) -> Result<bool, Stuck> {
        let is_far = |asset: &AssetName| {
            age_ms_max.get(asset).is_some_and(|max| !is_close(recovery.get(asset), *max, source_now))
        };
        self.far.retain(|asset, _| is_far(asset));
        for (asset, max) in age_ms_max.iter().filter(|(asset, _)| is_far(asset)) {
            let point = recovery.get(asset).and_then(|status| status.point.clone());
            let problem = writer.get(asset).and_then(|status| status.problem.as_ref());
            let begins = || Far { point: point.clone(), since: now, trouble_since: None };
            let far = self.far.entry(asset.clone()).or_insert_with(begins);
            if far.point != point {
                *far = begins();
            }
            far.trouble_since = problem.map(|_| far.trouble_since.unwrap_or(now));
            let silent = now.duration_since(far.since);
            let is_troubled = far.trouble_since.is_some_and(|since| now.duration_since(since) >= TROUBLE_MAX);
            if is_troubled || silent >= SILENCE_MAX + Duration::from_millis(*max) {
                return Err(Stuck { asset: asset.clone(), problem: problem.cloned(), silent_s: silent.as_secs() });
            }
        }
        Ok(self.far.is_empty())
    }
}

fn is_close(status: Option<&AssetStatus>, age_ms_max: u64, now: Timestamp) -> bool {
    status.is_some_and(|status| {
        let age_ms = status.point.as_ref().map(|point| now.duration_since(point.as_of).as_millis().max(0));
        status.state == AssetState::Staged && age_ms.is_some_and(|age_ms| age_ms <= i128::from(age_ms_max))
    })
}

#[cfg(test)]
mod tests {
    use levee_model::control::Role;
    use levee_model::{Epoch, Position};

    use super::*;

    const WANTED_MS: u64 = 5_000;

    /// What is seen of one asset, second by second.
    struct Scene {
        closeness: Closeness,
        begun: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self { closeness: Closeness::default(), begun: Instant::now() }
        }

        /// `point_s` is when the newest point was taken.
        fn at(&mut self, second: u64, point_s: u64, problem: Option<&str>) -> Result<bool, Option<String>> {
            let asset: AssetName = "orders".parse().unwrap();
            let time = |second: u64| Timestamp::from_second(1_000_000 + i64::try_from(second).unwrap()).unwrap();
            let position = Position::Snapshot { id: format!("{point_s}"), taken_at: time(point_s) };
            let status = |role, problem: Option<&str>| AssetStatus {
                app: "shop".parse().unwrap(),
                asset: asset.clone(),
                role,
                epoch: Epoch(1),
                state: AssetState::Staged,
                point: Some(AssetPoint { position: position.clone(), as_of: time(point_s) }),
                source_lsn: None,
                problem: problem.map(str::to_string),
                notes: Vec::new(),
                verified: None,
                waiting: None,
                warned_since: None,
                gaps: Vec::new(),
                vaults: BTreeMap::new(),
            };
            let of = |status: AssetStatus| BTreeMap::from([(asset.clone(), status)]);
            let now = self.begun + Duration::from_secs(second);
            self.closeness
                .look(
                    &BTreeMap::from([(asset.clone(), WANTED_MS)]),
                    &of(status(Role::Recovery, None)),
                    &of(status(Role::Writer, problem)),
                    time(second),
                    now,
                )
                .map_err(|stuck| stuck.problem)
        }
    }

    #[test]
    fn what_gets_on_is_waited_for() {
        let mut scene = Scene::new();
        for second in (100..1_000).step_by(10) {
            assert_eq!(scene.at(second, second - 60, None), Ok(false), "at {second}");
        }
        assert_eq!(scene.at(1_000, 996, None), Ok(true));
    }

    #[test]
    fn named_trouble_counts_only_while_nothing_comes() {
        let mut scene = Scene::new();
        assert_eq!(scene.at(100, 0, Some("it is down")), Ok(false));
        assert_eq!(scene.at(109, 1, Some("it is down")), Ok(false), "something has come");
        assert_eq!(scene.at(118, 1, Some("it is down")), Ok(false));
        assert_eq!(scene.at(118, 1, None), Ok(false), "it is no longer named");
        assert_eq!(scene.at(120, 1, Some("it is down again")), Ok(false));
        assert_eq!(scene.at(130, 1, Some("it is down again")), Err(Some("it is down again".into())));
    }

    #[test]
    fn silence_has_an_end_too() {
        let mut scene = Scene::new();
        assert_eq!(scene.at(100, 0, None), Ok(false));
        assert_eq!(scene.at(164, 0, None), Ok(false));
        assert_eq!(scene.at(165, 0, None), Err(None));
    }
}
