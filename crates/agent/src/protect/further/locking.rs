//! Renewing object lock on what a further vault's snapshots refer to, some files at once: each is a round trip or two, and
//! there are hundreds of thousands. What is new is locked as it is written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_model::VaultName;
use levee_model::control::Failure;
use levee_store::{FileType, ObjectStore, RetryStore};
use levee_vault::{Error, ToRetain, Vault};

use super::super::app::failure;
use super::place::Place;
use super::state::{FurtherState, Locked, Missing};
use super::{Further, There};

/// How long locks are renewed before copies have their turn again.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Files that are renewed before the time is looked at again: so few that a turn lasts hardly longer than it may, and so
/// many that the last ones seldom keep the others waiting.
const FILES_AT_A_TIME: usize = 64;
/// Under which it is noted that some files have failed, while the others are still under way.
const SOME_FAILED: &str = "object lock of some files";
/// Under which it is noted that the lock was renewed on everything, for damage hid what is in use.
const ALL_LOCKED: &str = "object lock of everything";
/// Under which it is noted that packs in use are not there, so that nothing could be locked of them.
const SOME_MISSING: &str = "packs that are missing";
/// It is renewed after this share of its time, so that no less than the rest of it is left at any moment.
const RENEWED_AFTER_PERCENT: i32 = 12;

type File = (FileType, String);

/// A renewal that is under way. It ends when no file is left: one that fails for ever must not have all the others renewed
/// again and again.
pub struct Renewal {
    /// `None` after a failure: what opens it may be another secret by now.
    store: Option<RetryStore<ObjectStore>>,
    days: u16,
    begun: Timestamp,
    files: Files,
    /// What hid which packs are in use, so that the lock is renewed on all of them.
    damage: Option<String>,
    /// Packs in use that are not there, so that nothing can be locked of them.
    missing: Vec<String>,
}

/// The files of a renewal that have it before them.
#[derive(Default)]
struct Files {
    untried: VecDeque<File>,
    /// It could not be renewed on these. They hold no other up, and are tried again after a pause.
    failed: VecDeque<File>,
    /// So many of those that have failed, the first ones, are to be tried again before the next pause.
    again: usize,
    /// Why, of one of the last that have failed.
    cause: Option<Error>,
}

/// How a renewal stands after some more files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    UnderWay,
    /// What is left is tried again after a pause.
    Failed,
    Done,
}

impl Renewal {
    fn begin(place: &Place<'_>, vault: &Vault, days: u16) -> Result<Self, Failure> {
        let begun = Timestamp::now();
        let ToRetain { files, packs_left, damage, missing } =
            vault.files_to_retain().map_err(|error| place.failure("say what is in use in", &error))?;
        tracing::debug!(app = %place.app.name, vault = %place.name, files = files.len(), packs_left, days,
            "renewing object lock in a further vault");
        Ok(Self { store: None, days, begun, files: Files::new(files), damage, missing })
    }

    /// Whether nothing is left but what has failed before.
    pub fn tries_again(&self) -> bool {
        self.files.untried.is_empty()
    }

    /// Whether some files have failed for so long that it is time to renew on all the others again.
    fn is_outdated(&self, days: u16, now: Timestamp) -> bool {
        self.tries_again() && is_due(&Locked::new(self.begun, self.days), days, now)
    }
}

impl Files {
    fn new(files: Vec<File>) -> Self {
        Self { untried: files.into(), ..Self::default() }
    }

    /// Renews on some of these by `retain`, as long as `goes_on` says so.
    fn renew_some(
        &mut self,
        goes_on: impl Fn() -> bool + Sync,
        retain: impl Fn(FileType, &str) -> levee_store::Result<()> + Sync,
    ) -> Standing {
        let is_again = self.untried.is_empty();
        let left = if is_again { self.again } else { self.untried.len() };
        let count = left.min(FILES_AT_A_TIME);
        let queue = if is_again { &mut self.failed } else { &mut self.untried };
        let some = ToRetain { files: queue.drain(..count).collect(), ..ToRetain::default() };
        let tried = Mutex::new(BTreeMap::<File, bool>::new());
        let renewed = some.renew_while(goes_on, |file_type, name| {
            let result = retain(file_type, name);
            // One that was removed since the listing needs no lock.
            let has_failed = !matches!(&result, Ok(()) | Err(levee_store::Error::NotFound { .. }));
            let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
            tried.insert((file_type, name.to_string()), has_failed);
            result
        });
        let mut tried = tried.into_inner().unwrap_or_else(PoisonError::into_inner);
        // From the last to the first, so that what was not tried keeps its order.
        for file in some.files.into_iter().rev() {
            match tried.remove(&file) {
                Some(true) => self.failed.push_back(file),
                Some(false) => {}
                None if is_again => self.failed.push_front(file),
                None => self.untried.push_front(file),
            }
        }
        let first = renewed.first_failures.into_iter().next();
        self.cause = first.map(Error::from).or_else(|| self.cause.take());
        if self.untried.is_empty() && self.failed.is_empty() {
            return Standing::Done;
        }
        let is_over = match is_again {
            true => {
                self.again -= count;
                // Where all of some fail again nothing has changed, and the others wait. They come first the next time.
                self.again == 0 || renewed.files == 0
            }
            false => self.untried.is_empty(),
        };
        // The store itself has failed, or it is to stop.
        if is_over || renewed.not_tried > 0 {
            self.again = self.failed.len();
            return Standing::Failed;
        }
        Standing::UnderWay
    }

    /// How it went so far. `left` files are not tried before the pause.
    fn outcome(&self, place: &Place<'_>, left: usize) -> Result<(), Failure> {
        let failed = self.failed.len();
        let Some(error) = self.cause.as_ref().filter(|_| failed > 0) else { return Ok(()) };
        let doing = match left {
            0 => format!("renew object lock on {failed} files in"),
            left => format!("renew object lock on {failed} files, and {left} were not tried after that, in"),
        };
        Err(place.failure(&doing, error))
    }
}

impl Further<'_> {
    /// Renews for a while, when it is time.
    pub fn renew_locks(&mut self, there: &There, state: &mut FurtherState, now: Timestamp) -> Result<(), Failure> {
        self.besides.remove(SOME_FAILED);
        let Some(days) = self.spec.locked_for_days() else {
            self.renewal = None;
            self.besides.remove(ALL_LOCKED);
            self.besides.remove(SOME_MISSING);
            return Ok(());
        };
        // Said after a restart too: the next renewal is days away.
        self.tell_of_last(state);
        let is_due = state.locked.as_ref().is_none_or(|locked| is_due(locked, days, now));
        let renewal = match self.renewal.take() {
            Some(known) if !known.is_outdated(days, now) => known,
            _ if !is_due => return Ok(()),
            _ => Renewal::begin(&self.place, &there.vault, days)?,
        };
        let renewal = self.renewal.insert(renewal);
        let store = match renewal.store.take() {
            Some(store) => store,
            None => self.place.object_store()?,
        };
        let (stop, renewed_days) = (self.stop, renewal.days);
        let retain = |file_type: FileType, name: &str| {
            store.attempt(|store| store.retain(file_type, name, renewed_days)).map(drop)
        };
        let begun = Instant::now();
        let mut standing = Standing::UnderWay;
        while standing == Standing::UnderWay && begun.elapsed() < TURN_MAX && !stop.is_stopped() {
            standing = renewal.files.renew_some(|| !stop.is_stopped(), retain);
        }
        match standing {
            Standing::Done => {
                // All of them or none: a file whose lock was not renewed is not to be taken for one that was.
                let count = renewal.missing.len();
                let missing = renewal.missing.first().map(|first| Missing { count, first: first.clone() });
                let damage = renewal.damage.take();
                state.locked = Some(Locked { damage, missing, ..Locked::new(renewal.begun, renewed_days) });
                self.renewal = None;
                self.tell_of_last(state);
                Ok(())
            }
            _ if stop.is_stopped() => Ok(()),
            Standing::Failed => renewal.files.outcome(&self.place, renewal.files.untried.len()),
            Standing::UnderWay => {
                renewal.store = Some(store);
                let so_far = renewal.files.outcome(&self.place, 0);
                self.note_besides(SOME_FAILED, so_far);
                Ok(())
            }
        }
    }

    /// What the last renewal has found stays true until the next one.
    fn tell_of_last(&mut self, state: &FurtherState) {
        let told = state.locked.as_ref().map(|locked| found(locked, self.name));
        for (what, outcome) in told.into_iter().flatten() {
            self.note_besides(what, outcome);
        }
    }

    /// An error when what is in use was not locked anew for so long that some of it may be removable.
    pub fn locks_in_time(&self, state: &FurtherState, now: Timestamp) -> Result<(), Failure> {
        let (Some(days), Some(locked)) = (self.spec.locked_for_days(), &state.locked) else { return Ok(()) };
        let left = locked.runs_out().duration_since(now);
        match left < SignedDuration::from_hours(24 * i64::from(days)) / 2 {
            false => Ok(()),
            true => Err(failure(format!(
                "what is in vault {} is locked until {} only: object lock could not be renewed since {}; it goes on",
                self.name,
                locked.runs_out().strftime("%Y-%m-%d %H:%MZ"),
                locked.at.strftime("%Y-%m-%d %H:%MZ")
            ))),
        }
    }
}

/// What a renewal has found, by the names under which it is noted.
fn found(locked: &Locked, vault: &VaultName) -> [(&'static str, Result<(), Failure>); 2] {
    let all_locked = locked.damage.as_ref().map_or(Ok(()), |damage| {
        Err(failure(format!(
            "object lock was renewed on all packs in vault {vault}, for it can't be said which are in use: {damage}; `levee \
             vault check` names what is damaged"
        )))
    });
    let some_missing = locked.missing.as_ref().map_or(Ok(()), |Missing { count, first }| {
        Err(failure(format!(
            "{count} packs in use are not there in vault {vault}, first data/{first}: hidden by somebody who has the bucket's \
             keys, or lost. What is hidden can be removed for good once its lock has run out: run `levee vault repair \
             versions` there; the next renewal of object lock looks again"
        )))
    });
    [(ALL_LOCKED, all_locked), (SOME_MISSING, some_missing)]
}

fn is_due(locked: &Locked, days: u16, now: Timestamp) -> bool {
    let after = SignedDuration::from_hours(24 * i64::from(locked.days)) * RENEWED_AFTER_PERCENT / 100;
    let due_at = locked.at.checked_add(after).unwrap_or(Timestamp::MAX);
    // Longer than it was asked for before; or noted by a clock that was put back since.
    days > locked.days || now >= due_at || now < locked.at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_renewed_long_before_it_runs_out_and_when_it_is_to_be_longer() {
        let at = |hours: i64| Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap();
        let locked = Locked::new(at(0), 30);
        let check = |days: u16, hours: i64, expected: bool| assert_eq!(is_due(&locked, days, at(hours)), expected);
        check(30, 1, false);
        check(30, 86, false);
        check(30, 87, true);
        check(31, 1, true);
        check(7, 1, false);
        check(30, -1, true);
        assert_eq!(locked.runs_out(), at(30 * 24));
    }

    #[test]
    fn what_a_renewal_has_found_is_said_after_a_restart_too() {
        let vault: VaultName = "far".parse().unwrap();
        let said = |locked: &Locked| {
            // As it is read again.
            let read: Locked = serde_json::from_str(&serde_json::to_string(locked).unwrap()).unwrap();
            found(&read, &vault).map(|(what, outcome)| (what, outcome.err().map(|failure| failure.message)))
        };
        let mut locked = Locked::new(Timestamp::UNIX_EPOCH, 30);
        assert_eq!(said(&locked), [(ALL_LOCKED, None), (SOME_MISSING, None)]);
        locked.damage = Some("an index file is damaged".into());
        locked.missing = Some(Missing { count: 3, first: "abcd".into() });
        let [(_, all_locked), (_, some_missing)] = said(&locked);
        assert!(all_locked.unwrap().contains("which are in use: an index file is damaged"));
        assert!(some_missing.unwrap().starts_with("3 packs in use are not there in vault far, first data/abcd"));
    }

    fn files(count: u32) -> Files {
        Files::new((0..count).map(|number| (FileType::Data, number.to_string())).collect())
    }

    fn denied() -> levee_store::Error {
        let (location, name, reason) = (String::new(), String::new(), "AccessDenied".to_string());
        levee_store::Error::Denied { location, action: "retain", file_type: FileType::Data, name, reason }
    }

    fn unreachable() -> levee_store::Error {
        let (location, name, reason) = (String::new(), String::new(), "timed out".to_string());
        levee_store::Error::Unreachable { location, action: "retain", file_type: FileType::Data, name, reason }
    }

    /// Goes on until a pause or the end. How it stands then, and how many files were asked for.
    fn go_on(files: &mut Files, failure: impl Fn(u32) -> Option<levee_store::Error> + Sync) -> (Standing, usize) {
        let asked = Mutex::new(0);
        loop {
            let standing = files.renew_some(
                || true,
                |_, name| {
                    *asked.lock().unwrap() += 1;
                    failure(name.parse().unwrap()).map_or(Ok(()), Err)
                },
            );
            if standing != Standing::UnderWay {
                return (standing, asked.into_inner().unwrap());
            }
        }
    }

    #[test]
    fn only_what_has_failed_is_tried_again() {
        let mut all = files(1000);
        assert_eq!(go_on(&mut all, |number| (number % 400 == 7).then(denied)), (Standing::Failed, 1000));
        for _ in 0..3 {
            assert_eq!(go_on(&mut all, |number| (number % 400 == 7).then(denied)), (Standing::Failed, 3));
            assert_eq!(all.failed.len(), 3);
        }
        assert!(all.cause.as_ref().is_some_and(|cause| cause.to_string().contains("AccessDenied")), "{:?}", all.cause);
        assert_eq!(go_on(&mut all, |number| (number == 407).then(denied)), (Standing::Failed, 3));
        assert_eq!(go_on(&mut all, |_| None), (Standing::Done, 1));
        // Nothing is left of it, nor of one that was removed meanwhile.
        let gone =
            || levee_store::Error::NotFound { location: String::new(), file_type: FileType::Data, name: String::new() };
        assert_eq!(go_on(&mut files(10), |number| (number == 3).then(gone)), (Standing::Done, 10));
    }

    #[test]
    fn where_all_is_refused_some_are_asked_for_after_each_pause() {
        let mut all = files(1000);
        assert_eq!(go_on(&mut all, |_| Some(denied())), (Standing::Failed, 1000));
        assert_eq!(go_on(&mut all, |_| Some(denied())), (Standing::Failed, FILES_AT_A_TIME));
        assert_eq!(all.failed.len(), 1000);
        assert_eq!(go_on(&mut all, |_| None), (Standing::Done, 1000));
    }

    #[test]
    fn what_a_cut_link_leaves_untried_goes_on_after_the_pause() {
        let mut all = files(1000);
        let before = 3 * FILES_AT_A_TIME;
        let (standing, first) = go_on(&mut all, |number| (number as usize >= before).then(unreachable));
        assert_eq!(standing, Standing::Failed);
        assert!(first < before + FILES_AT_A_TIME, "{first}");
        let (failed, untried) = (all.failed.len(), all.untried.len());
        assert!(failed > 0 && failed + untried == 1000 - before, "{failed} and {untried}");
        // Those that were not tried come first, and then those that have failed, after a pause of their own.
        assert_eq!(go_on(&mut all, |_| None), (Standing::Failed, untried));
        assert_eq!(go_on(&mut all, |_| None), (Standing::Done, failed));
    }

    #[test]
    fn what_has_failed_for_long_has_all_renewed_again() {
        let at = |hours: i64| Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap();
        let (files_left, missing) = (Files::default(), Vec::new());
        let mut renewal = Renewal { store: None, days: 30, begun: at(0), files: files_left, damage: None, missing };
        assert!(!renewal.is_outdated(30, at(86)));
        assert!(renewal.is_outdated(30, at(87)));
        // One that is slow is not begun anew before its end.
        renewal.files = files(1);
        assert!(!renewal.is_outdated(30, at(87)));
    }
}
