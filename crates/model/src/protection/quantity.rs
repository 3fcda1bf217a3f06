use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Text that is no period of time or no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {what}")]
pub struct InvalidQuantity {
    value: String,
    what: &'static str,
}

/// A length of time, written `250ms`, `5s`, `10m`, `1h`, `7d` or `2w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period {
    milliseconds: u64,
}

const PERIOD_UNITS: [(&str, u64); 6] =
    [("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Period {
    pub const fn from_seconds(seconds: u64) -> Self {
        Self { milliseconds: seconds * 1000 }
    }

    pub const fn from_milliseconds(milliseconds: u64) -> Self {
        Self { milliseconds }
    }

    pub fn milliseconds(self) -> u64 {
        self.milliseconds
    }

    pub fn duration(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

/// A number of bytes, written `512`, `64 KiB`, `10GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    bytes: u64,
}

const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

fn parse(
    text: &str,
    units: &[(&str, u64)],
    bare_unit: Option<&str>,
    what: &'static str,
) -> Result<u64, InvalidQuantity> {
    let invalid = || InvalidQuantity { value: text.chars().take(40).collect(), what };
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits_end].parse().map_err(|_| invalid())?;
    let unit = match text[digits_end..].trim() {
        "" => bare_unit.ok_or_else(invalid)?,
        unit => unit,
    };
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
    number.checked_mul(*factor).ok_or_else(invalid)
}

fn write_in_largest_unit(formatter: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let (unit, factor) =
        units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor)).unwrap_or(&units[units.len() - 1]);
    formatter.pad(&format!("{}{unit}", value / factor))
}

impl FromStr for Period {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let milliseconds = parse(
            text,
            &PERIOD_UNITS,
            None,
            "a period of time: write a whole number and ms, s, m, h, d or w, as in 10s",
        )?;
        Ok(Self { milliseconds })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_in_largest_unit(formatter, self.milliseconds, &PERIOD_UNITS)
    }
}

impl FromStr for Size {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let bytes = parse(
            text,
            &SIZE_UNITS,
            Some("B"),
            "a size: write a whole number and B, KiB, MiB, GiB or TiB, as in 10GiB",
        )?;
        Ok(Self { bytes })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_in_largest_unit(formatter, self.bytes, &SIZE_UNITS)
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = InvalidQuantity;
            fn try_from(text: String) -> Result<Self, InvalidQuantity> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

as_text!(Period);
as_text!(Size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_back_as_written() {
        for text in ["0ms", "250ms", "5s", "90s", "10m", "36h", "3d", "2w"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        for text in ["512B", "3KiB", "10GiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for bad in ["", "5", "s", "-5s", "5 parsecs", "99999999999999999999s", "9999999999999999999w"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
