use super::*;

fn schedule(toml: &str) -> Schedule {
    toml::from_str(toml).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What is due at `now` when the last copy began at `last`: the planned moment, or when to look again.
fn check(schedule: &Schedule, last: &str, now: &str, expected: Due) {
    let last = (!last.is_empty()).then(|| at(last));
    assert_eq!(schedule.due(last, at(now), "shop/documents"), expected, "last {last:?}, now {now}");
}

fn now(planned: &str) -> Due {
    Due::Now { planned: at(planned) }
}

fn later(moment: &str) -> Due {
    Due::Later(at(moment))
}

#[test]
fn chosen_hours_on_chosen_weekdays() {
    let twice = schedule("hours = [2, 14]\nweekdays = ['mon', 'thu']");
    // 2026-11-23 is a Monday.
    check(&twice, "2026-11-22T20:00:00Z", "2026-11-23T01:59:59Z", later("2026-11-23T02:00:00Z"));
    check(&twice, "2026-11-22T20:00:00Z", "2026-11-23T02:00:00Z", now("2026-11-23T02:00:00Z"));
    check(&twice, "2026-11-23T02:00:01Z", "2026-11-23T02:00:02Z", later("2026-11-23T14:00:00Z"));
    check(&twice, "2026-11-23T14:00:00Z", "2026-11-23T15:00:00Z", later("2026-11-26T02:00:00Z"));
}

#[test]
fn the_first_copy_does_not_wait_and_missed_ones_are_caught_up_once() {
    let nightly = schedule("cron = '30 2 * * *'");
    check(&nightly, "", "2026-11-23T12:00:00Z", now("2026-11-23T12:00:00Z"));
    check(&nightly, "2026-11-20T02:30:00Z", "2026-11-23T12:00:00Z", now("2026-11-21T02:30:00Z"));
    check(&nightly, "2026-11-23T12:00:00Z", "2026-11-23T12:00:01Z", later("2026-11-24T02:30:00Z"));
}

/// One copy made while the clock was a year ahead.
#[test]
fn a_last_copy_in_the_future_holds_up_nothing() {
    let nightly = schedule("cron = '30 2 * * *'\nblackout = ['08:00-18:00']");
    let ahead = "2027-11-23T12:00:00Z";
    check(&nightly, ahead, "2026-11-23T02:30:00Z", now("2026-11-23T02:30:00Z"));
    check(&nightly, ahead, "2026-11-23T19:00:00Z", now("2026-11-23T19:00:00Z"));
    // Closed windows stay closed to it.
    check(&nightly, ahead, "2026-11-23T12:00:00Z", later("2026-11-23T18:00:00Z"));
    // The copy that is made counts from then on: no second one at once, and the next in its night.
    check(&nightly, "2026-11-23T19:00:00Z", "2026-11-23T19:00:01Z", later("2026-11-24T02:30:00Z"));
    check(&nightly, "2026-11-23T19:00:00Z", "2026-11-24T02:30:00Z", now("2026-11-24T02:30:00Z"));
    // Ahead by so little that the clock catches up with it before the night.
    check(&nightly, "2026-11-23T19:00:01Z", "2026-11-23T19:00:00Z", now("2026-11-23T19:00:00Z"));
    check(&nightly, "2026-11-23T19:00:01Z", "2026-11-23T19:00:01Z", later("2026-11-24T02:30:00Z"));
}

#[test]
fn hours_are_those_of_the_time_zone_also_when_clocks_change() {
    let berlin = schedule("hours = [2]\nminute = 30\ntime_zone = 'Europe/Berlin'");
    check(&berlin, "2026-06-01T12:00:00Z", "2026-06-01T12:00:00Z", later("2026-06-02T00:30:00Z"));
    check(&berlin, "2026-12-01T12:00:00Z", "2026-12-01T12:00:00Z", later("2026-12-02T01:30:00Z"));
    // On 2026-03-29 there is no half past two: it is made up for when the clock is put forward.
    check(&berlin, "2026-03-28T12:00:00Z", "2026-03-28T12:00:00Z", later("2026-03-29T01:00:00Z"));
}

#[test]
fn a_change_of_the_clocks_makes_no_run_be_missed_or_made_twice() {
    // Of each, the moments after one of them; clocks go forward on 2026-03-29 at 01:00Z, and back on 2026-10-25 at 01:00Z.
    let check = |toml: &str, after: &str, expected: &[&str]| {
        let berlin = schedule(&format!("{toml}\ntime_zone = 'Europe/Berlin'"));
        let mut moment = at(after);
        for next in expected {
            moment = berlin.next_after(moment).unwrap();
            assert_eq!(moment, at(next), "{toml} after {after}");
        }
    };
    // Half past two is made up for at three, and on the other night it is half past two for the first time.
    let twice_a_day = "hours = [2, 14]\nminute = 30";
    let spring = ["2026-03-29T01:00:00Z", "2026-03-29T12:30:00Z", "2026-03-30T00:30:00Z"];
    check(twice_a_day, "2026-03-28T14:00:00Z", &spring);
    let autumn = ["2026-10-25T00:30:00Z", "2026-10-25T13:30:00Z", "2026-10-26T01:30:00Z"];
    check(twice_a_day, "2026-10-24T14:00:00Z", &autumn);
    // A catch-up that was begun while the clock showed the hour for the second time.
    check(twice_a_day, "2026-10-25T01:10:00Z", &autumn[1..]);
    check(twice_a_day, "2026-10-25T00:30:00.5Z", &autumn[1..]);
    // All that one hour leaves out is one run.
    let twice_an_hour = "cron = '0,30 2 * * *'";
    check(twice_an_hour, "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    let autumn = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"];
    check(twice_an_hour, "2026-10-24T12:00:00Z", &autumn);
    check("cron = '*/30 1-3 * * *'", "2026-03-29T00:00:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"]);
    // What is meant in every hour goes on by the hour.
    for hourly in ["cron = '30 * * * *'", "cron = '30 0-23 * * *'", "cron = '*/30 * * * *'"] {
        let step = if hourly.contains('/') { 30 } else { 60 };
        for from in ["2026-03-28T22:30:00Z", "2026-10-24T22:30:00Z"] {
            let moments = (1..10).map(|number| at(from) + SignedDuration::from_mins(number * step));
            let moments: Vec<String> = moments.map(|moment| moment.to_string()).collect();
            check(hourly, from, &moments.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

#[test]
fn nothing_begins_in_a_closed_window() {
    let closed = schedule("cron = '0 * * * *'\nblackout = ['mon-fri 08:00-18:00', '22:00-02:00']");
    check(&closed, "2026-11-23T07:30:00Z", "2026-11-23T08:00:00Z", later("2026-11-23T18:00:00Z"));
    check(&closed, "2026-11-23T07:30:00Z", "2026-11-23T18:00:00Z", now("2026-11-23T08:00:00Z"));
    check(&closed, "2026-11-23T21:00:00Z", "2026-11-24T01:15:00Z", later("2026-11-24T02:00:00Z"));
    // Saturday is open.
    check(&closed, "2026-11-28T11:00:00Z", "2026-11-28T12:00:00Z", now("2026-11-28T12:00:00Z"));
    // The first copy waits too.
    check(&closed, "", "2026-11-23T09:00:00Z", later("2026-11-23T18:00:00Z"));
}

#[test]
fn jitter_spreads_assets_and_stays_the_same() {
    let nightly = schedule("hours = [2]\njitter = '30m'");
    let (last, now) = (Some(at("2026-11-22T03:00:00Z")), at("2026-11-22T12:00:00Z"));
    let moments: Vec<Due> = (0..20).map(|number| nightly.due(last, now, &format!("shop/{number}"))).collect();
    for (number, due) in moments.iter().enumerate() {
        let Due::Later(moment) = *due else { panic!("{due:?}") };
        assert!((at("2026-11-23T02:00:00Z")..at("2026-11-23T02:30:00Z")).contains(&moment), "{moment}");
        assert_eq!(
            nightly.due(last, moment, &format!("shop/{number}")),
            Due::Now { planned: at("2026-11-23T02:00:00Z") }
        );
    }
    let mut different: Vec<String> = moments.iter().map(|due| format!("{due:?}")).collect();
    different.sort();
    different.dedup();
    assert!(different.len() > 15);
}

#[test]
fn what_a_closed_window_held_up_is_spread_behind_it() {
    let check = |blackout: &str, jitter: &str, last: &str, nows: [&str; 2], begin: &str, end: &str| {
        let closed = schedule(&format!("cron = '0 9 * * *'\njitter = '{jitter}'\nblackout = {blackout}"));
        let mut different = std::collections::BTreeSet::new();
        for number in 0..20 {
            let due = |now: Timestamp| closed.due(Some(at(last)), now, &format!("shop/{number}"));
            let Due::Later(moment) = due(at(nows[0])) else { panic!("{number} begins in the window") };
            assert!((at(begin)..at(end)).contains(&moment), "{blackout} {number}: {moment}");
            // It stays what it is when the window is over.
            for now in [at(nows[1]), at(begin), moment - SignedDuration::from_millis(1)] {
                if now < moment {
                    assert_eq!(due(now), Due::Later(moment), "{blackout} {number} at {now}");
                }
            }
            assert!(matches!(due(moment), Due::Now { .. }), "{blackout} {number}");
            different.insert(moment);
        }
        assert!(different.len() > 15, "{blackout}: {different:?}");
    };
    let day = "['08:00-18:00']";
    let (yesterday, noon, evening) = ("2026-11-22T20:00:00Z", "2026-11-23T12:00:00Z", "2026-11-23T18:00:00Z");
    check(day, "30m", yesterday, [noon, "2026-11-23T17:59:59Z"], evening, "2026-11-23T18:30:00Z");
    // One of days ago that is caught up by an agent that was started in the window.
    let days_ago = "2026-11-19T20:00:00Z";
    check(day, "30m", days_ago, [noon, "2026-11-23T17:59:59Z"], evening, "2026-11-23T18:30:00Z");
    // What is closed again before the jitter is over is not left out for it.
    let short = schedule("cron = '0 9 * * *'\njitter = '12h'\nblackout = ['00:00-18:00', '18:05-24:00']");
    for number in 0..20 {
        let Due::Later(moment) = short.due(Some(at(yesterday)), at(noon), &format!("shop/{number}")) else { panic!() };
        assert!((at(evening)..at("2026-11-23T18:05:00Z")).contains(&moment), "{number}: {moment}");
    }
    // The first copy waits for the window alone, and what is due later for none that is over.
    let closed = schedule("cron = '0 19 * * *'\njitter = '30m'\nblackout = ['08:00-18:00']");
    check_first(&closed, noon, evening);
    let Due::Later(moment) = closed.due(Some(at(yesterday)), at(evening), "shop/1") else { panic!("before its time") };
    assert!((at("2026-11-23T19:00:00Z")..at("2026-11-23T19:30:00Z")).contains(&moment), "{moment}");
    assert_eq!(closed.due(Some(at(yesterday)), moment, "shop/1"), now("2026-11-23T19:00:00Z"));
}

fn check_first(schedule: &Schedule, closed: &str, open: &str) {
    check(schedule, "", closed, later(open));
    check(schedule, "", open, now(open));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refuse = |toml: &str, expected: &str| {
        let message = toml::from_str::<Schedule>(toml).unwrap_err().to_string();
        assert!(message.contains(expected), "{toml}: {message}");
    };
    refuse("", "needs either `hours`");
    refuse("hours = [2]\ncron = '0 2 * * *'", "and not both");
    refuse("hours = [24]", "24 is not an hour");
    refuse("hours = [2]\nminute = 60", "60 is not a minute");
    refuse("cron = '0 2 * *'", "not a cron pattern of five fields");
    refuse("cron = '0 0 2 * * *'", "not a cron pattern of five fields");
    refuse("cron = '0 0 30 2 *'", "no time at which a copy could begin");
    refuse("hours = [2]\ntime_zone = 'Mars/Olympus'", "no time zone \"Mars/Olympus\"");
    refuse("hours = [2]\njitter = '2d'", "too long");
    refuse("hours = [2]\nblackout = ['00:00-24:00']", "no time at which a copy could begin");
    refuse("hours = [2]\nblackout = ['8-18']", "no window of time");
    refuse("hours = [2]\nblackout = ['noday 08:00-18:00']", "no window of time");
    refuse("hours = [2]\nhour = 3", "unknown field `hour`");
}

#[test]
fn it_is_written_as_it_was_read() {
    let toml = "hours = [2, 14]\nweekdays = [\"mon\"]\ntime_zone = \"Europe/Berlin\"\njitter = \"10m\"\n\
                blackout = [\"mon-fri 08:00-18:00\"]\n";
    let read = schedule(toml);
    assert_eq!(toml::to_string(&read).unwrap(), toml);
    assert_eq!(serde_json::from_str::<Schedule>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
    assert_eq!(
        "0 2 * * *".parse::<Schedule>().unwrap().next_after(at("2026-11-22T12:00:00Z")),
        Some(at("2026-11-23T02:00:00Z"))
    );
}
