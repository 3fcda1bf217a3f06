//! How long copies are kept: `"7d"`, `"forever"`, `{ days = 65536 }`, `{ daily = 7, weekly = 5 }`.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Period;

/// The largest number of days that can be asked for.
pub const DAYS_MAX: u32 = 65_536;
const FOREVER: &str = "forever";

/// Which copies are kept. The moment at which the recovery site received a copy is what counts, never what the copy
/// says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retention {
    Forever,
    /// Everything that is younger than this.
    For(Period),
    Rules(KeepRules),
}

/// Rules of keeping. A copy stays when any of them keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepRules {
    /// Everything that came within so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// The newest, so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// The newest of each of the last so many hours in which any came, and so on. Pieces of time are those of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hourly: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yearly: Option<u32>,
}

impl KeepRules {
    fn named(&self) -> [(&'static str, Option<u32>); 7] {
        [
            ("days", self.days),
            ("last", self.last),
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ]
    }

    fn check(&self) -> Result<(), String> {
        if self.days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
            return Err(format!("days must be a number from 1 to {DAYS_MAX}; for ever is written \"{FOREVER}\""));
        }
        match self.named().into_iter().find(|(_, count)| *count == Some(0)) {
            Some((name, _)) => Err(format!("{name} must be at least 1: leave it out when it is to keep nothing")),
            None if *self == Self::default() => {
                Err("this keeps nothing: give days, last, hourly, daily, weekly, monthly or yearly".into())
            }
            None => Ok(()),
        }
    }
}

impl Retention {
    /// The length of time that it comes to; `None` when that depends on what comes. For ever has no end.
    pub fn kept_for(&self) -> Option<KeptFor> {
        match self {
            Retention::Forever => Some(KeptFor::Forever),
            Retention::For(period) => Some(KeptFor::For(*period)),
            Retention::Rules(rules) => match (rules.days, rules) {
                (Some(days), rules) if *rules == (KeepRules { days: Some(days), ..KeepRules::default() }) => {
                    Some(KeptFor::For(Period::from_seconds(u64::from(days) * 24 * 3600)))
                }
                _ => None,
            },
        }
    }
}

/// How far back everything is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptFor {
    For(Period),
    Forever,
}

impl Default for Retention {
    /// A week.
    fn default() -> Self {
        Retention::For(Period::from_seconds(7 * 24 * 3600))
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Retention::Forever => formatter.write_str(FOREVER),
            Retention::For(period) => period.fmt(formatter),
            Retention::Rules(rules) => {
                let rules = rules.named().into_iter().filter_map(|(name, count)| Some(format!("{name} {}", count?)));
                formatter.write_str(&rules.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Retention::Forever => serializer.serialize_str(FOREVER),
            Retention::For(period) => period.serialize(serializer),
            Retention::Rules(rules) => rules.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable;
        impl<'de> Visitor<'de> for TextOrTable {
            type Value = Retention;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter
                    .write_str("how long copies are kept: \"7d\", \"forever\" or { days = 30, last = 3, daily = 7 }")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Retention, E> {
                match text {
                    FOREVER => Ok(Retention::Forever),
                    text => Ok(Retention::For(text.parse().map_err(E::custom)?)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Retention, A::Error> {
                let rules = KeepRules::deserialize(MapAccessDeserializer::new(map))?;
                rules.check().map_err(A::Error::custom)?;
                Ok(Retention::Rules(rules))
            }
        }
        deserializer.deserialize_any(TextOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Line {
        keep: Retention,
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        let check = |text: &str, shown: &str| {
            let line: Line = toml::from_str(&format!("keep = {text}")).unwrap();
            assert_eq!(line.keep.to_string(), shown);
            // What agents of earlier versions are sent stays what they know.
            let json = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&json).unwrap(), line, "{json}");
        };
        check("\"7d\"", "1w");
        check("\"90s\"", "90s");
        check("\"forever\"", "forever");
        check("{ days = 65536 }", "days 65536");
        check("{ last = 3, daily = 7, yearly = 3 }", "last 3, daily 7, yearly 3");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |text: &str, words: &str| {
            let error = toml::from_str::<Line>(&format!("keep = {text}")).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check("{ days = 65537 }", "from 1 to 65536");
        check("{ days = 0 }", "from 1 to 65536");
        check("{ last = 0 }", "last must be at least 1");
        check("{}", "keeps nothing");
        check("{ dayly = 7 }", "unknown field `dayly`");
        check("\"always\"", "is not a period of time");
        check("7", "how long copies are kept");
    }

    #[test]
    fn only_what_is_counted_in_time_alone_is_a_window() {
        let rules = |days, daily| Retention::Rules(KeepRules { days, daily, ..KeepRules::default() });
        assert_eq!(rules(Some(2), None).kept_for(), Some(KeptFor::For(Period::from_seconds(172_800))));
        assert_eq!(rules(Some(2), Some(7)).kept_for(), None);
        assert_eq!(Retention::Forever.kept_for(), Some(KeptFor::Forever));
    }
}
