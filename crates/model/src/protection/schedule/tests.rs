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
