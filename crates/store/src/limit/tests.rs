//! Time is moved by the tests: a transfer of a minute takes none.

use super::*;

/// How long a piece is under way on a link without any limit.
const LINK_TIME: Duration = Duration::from_millis(1);
const PIECE: u64 = PIECE_BYTES as u64;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// One limit in a time of its own.
struct World {
    throttle: Throttle,
    origin: Instant,
    start: Zoned,
}

/// One that sends piece after piece.
#[derive(Clone, Default)]
struct Sender {
    place: Option<u64>,
    next_at: Duration,
    pieces: u64,
}

impl World {
    fn new(timetable: &str, start: &str) -> Self {
        let throttle = Throttle::new(timetable.parse().unwrap());
        Self { throttle, origin: Instant::now(), start: start.parse().unwrap() }
    }

    fn at(&self, elapsed: Duration) -> Moment {
        Moment { monotonic: self.origin + elapsed, local: &self.start + elapsed }
    }

    /// As many as are named send without a pause for so many seconds. Gives the bytes that went in each of them, and the
    /// pieces of each sender.
    fn send(&self, begin_s: u64, seconds: u64, senders: usize) -> (Vec<u64>, Vec<u64>) {
        let begin = Duration::from_secs(begin_s);
        let end = begin + Duration::from_secs(seconds);
        let mut senders = vec![Sender { next_at: begin, ..Sender::default() }; senders];
        let mut went = vec![0; seconds as usize];
        while let Some(sender) = senders.iter_mut().min_by_key(|sender| sender.next_at) {
            if sender.next_at >= end {
                break;
            }
            let now = self.at(sender.next_at);
            let place = *sender.place.get_or_insert_with(|| self.throttle.let_in(PIECE_BYTES, &now));
            let left = self.throttle.wait_left(place, &now);
            if left.is_zero() {
                went[(sender.next_at - begin).as_secs() as usize] += PIECE;
                sender.place = None;
                sender.pieces += 1;
                sender.next_at += LINK_TIME;
            } else {
                assert!(left <= STEP_MAX, "{left:?} without a look at the timetable");
                sender.next_at += left;
            }
        }
        (went, senders.iter().map(|sender| sender.pieces).collect())
    }
}

/// From ten seconds before a boundary to ten after it: a second after it the new rate holds.
fn crosses(timetable: &str, start: &str, before: Option<u64>, after: Option<u64>) {
    let (went, _) = World::new(timetable, start).send(0, 20, 3);
    let check = |seconds: std::ops::Range<usize>, rate: Option<u64>| {
        let bytes: u64 = went[seconds.clone()].iter().sum();
        match rate {
            Some(rate) => {
                let expected = rate * seconds.len() as u64;
                // Two pieces more or less lie over the edges.
                let range = expected.saturating_sub(2 * PIECE)..=expected + 2 * PIECE;
                assert!(range.contains(&bytes), "{timetable} in {seconds:?}: {bytes} bytes for {expected}: {went:?}");
            }
            None => assert!(bytes > 20 * MIB * seconds.len() as u64, "{timetable} in {seconds:?}: {went:?}"),
        }
    };
    check(0..10, before);
    check(11..20, after);
    // And in the second of the boundary neither more than the faster one nor less than the slower one.
    let rates = [before.unwrap_or(u64::MAX / 2), after.unwrap_or(u64::MAX / 2)];
    let [lower, upper] = [rates[0].min(rates[1]), rates[0].max(rates[1])];
    let allowed = lower.saturating_sub(2 * PIECE)..=upper + 2 * PIECE;
    assert!(allowed.contains(&went[10]), "{timetable} at the boundary: {went:?}");
}

#[test]
fn a_boundary_within_a_transfer_is_followed_within_a_second() {
    let start = "2026-11-26T07:59:50[UTC]";
    crosses("07:00,1M 08:00,64k", start, Some(MIB), Some(64 * KIB));
    crosses("07:00,64k 08:00,1M", start, Some(64 * KIB), Some(MIB));
    crosses("07:00,64k 08:00,off", start, Some(64 * KIB), None);
    crosses("07:00,off 08:00,64k", start, None, Some(64 * KIB));
    // A piece that takes half a minute at the old rate does not wait for its end.
    crosses("07:00,1k 08:00,1M", start, Some(KIB), Some(MIB));
    crosses("07:00,1k 08:00,off", start, Some(KIB), None);
}

#[test]
fn midnight_and_the_end_of_the_week_are_boundaries() {
    crosses("00:00,1M 12:00,64k", "2026-11-26T23:59:50[UTC]", Some(64 * KIB), Some(MIB));
    crosses("Mon-00:00,1M Fri-18:00,64k", "2026-11-29T23:59:50[UTC]", Some(64 * KIB), Some(MIB));
    // The last rate of a week holds on until the first one of the next.
    crosses("Mon-08:00,1M Fri-18:00,64k", "2026-11-30T07:59:50[UTC]", Some(64 * KIB), Some(MIB));
}

#[test]
fn the_timetable_goes_by_the_clock_on_the_wall_where_it_jumps() {
    // From 02:00 to 03:00: what begins at 02:30 began with it.
    crosses("00:00,64k 02:30,1M", "2026-03-29T01:59:50+01:00[Europe/Berlin]", Some(64 * KIB), Some(MIB));
    crosses("00:00,64k 03:00,1M", "2026-03-29T01:59:50+01:00[Europe/Berlin]", Some(64 * KIB), Some(MIB));
    // From 03:00 back to 02:00: the hour comes twice, and so does the rate of its first half.
    crosses("00:00,1M 02:30,64k", "2026-10-25T02:59:50+02:00[Europe/Berlin]", Some(64 * KIB), Some(MIB));
    crosses("00:00,1M 02:30,64k", "2026-10-25T02:29:50+01:00[Europe/Berlin]", Some(MIB), Some(64 * KIB));
}

#[test]
fn threads_share_one_limit_and_take_turns() {
    for senders in [2, 3, 7] {
        let (went, pieces) = World::new("1M", "2026-11-26T09:00:00[UTC]").send(0, 10, senders);
        let bytes: u64 = went.iter().sum();
        assert!((10 * MIB - PIECE..=10 * MIB).contains(&bytes), "{senders} senders: {went:?}");
        let (least, most) = (pieces.iter().min().unwrap(), pieces.iter().max().unwrap());
        assert!(most - least <= 1, "{pieces:?}");
    }
}

#[test]
fn nothing_is_saved_up_in_an_idle_hour() {
    let world = World::new("64k", "2026-11-26T09:00:00[UTC]");
    world.send(0, 3, 2);
    let (went, _) = world.send(3600, 5, 2);
    for seconds in 1..=5 {
        let bytes: u64 = went[..seconds].iter().sum();
        assert!(bytes <= 64 * KIB * seconds as u64, "{went:?}");
    }
    // Nor in hours without a limit that end in an idle one.
    let world = World::new("08:00,off 09:00,64k", "2026-11-26T08:59:50[UTC]");
    world.send(0, 5, 2);
    let (went, _) = world.send(3600, 5, 2);
    assert!(went[0] <= 64 * KIB && went.iter().sum::<u64>() <= 5 * 64 * KIB, "{went:?}");
}

#[test]
fn a_limited_reader_takes_its_time() {
    let content = vec![7; 48 << 10];
    let throttle = Throttle::new("128".parse().unwrap());
    let started = Instant::now();
    let mut read = Vec::new();
    Limited::new(content.as_slice(), Some(throttle)).read_to_end(&mut read).unwrap();
    assert_eq!(read, content);
    assert!(started.elapsed() >= Duration::from_millis(370), "{:?}", started.elapsed());
}

#[test]
fn a_request_has_the_time_that_its_limit_takes() {
    let bandwidth = |upload: &str| Bandwidth::new(Some(upload.parse().unwrap()), None);
    let pack_bytes = 16 << 20;
    // Each of many that share it gets a part of it.
    let time = bandwidth("08:00,64k 20:00,off").upload_time_for(pack_bytes);
    assert_eq!(time, Duration::from_secs(256 * SHARERS_MAX));
    assert_eq!(bandwidth("off").upload_time_for(pack_bytes), Duration::ZERO);
    assert_eq!(bandwidth("1b").upload_time_for(pack_bytes), TIME_MAX);
    assert_eq!(bandwidth("64k").download_time_for(pack_bytes), Duration::ZERO);
}
