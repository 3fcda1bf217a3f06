use jiff::Timestamp;

/// 2000-01-01 00:00:00 UTC, from which PostgreSQL counts, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A `TimestampTz`: microseconds since 2000-01-01 UTC. `None` when it is outside what a `Timestamp` can say.
pub fn from_postgres_time(microseconds: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds.checked_add(POSTGRES_EPOCH_US)?).ok()
}

/// Microseconds since 2000-01-01 UTC.
pub fn to_postgres_time(time: Timestamp) -> i64 {
    time.as_microsecond().saturating_sub(POSTGRES_EPOCH_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_year_2000() {
        assert_eq!(from_postgres_time(0).unwrap().to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(from_postgres_time(i64::MAX), None);
        assert_eq!(to_postgres_time("2000-01-01T00:00:01Z".parse().unwrap()), 1_000_000);
    }
}
