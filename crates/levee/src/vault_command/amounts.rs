//! Amounts as restic's flags take them: `5G`, `10%`, `90s`, `unlimited`.

use std::time::Duration;

use levee_vault::MaxUnused;
use levee_vault::check::Subset;
use levee_vault::forget::Keep;

/// A number of bytes with a suffix k, m, g or t.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text:?} is no size: write a number with k, M, G or T, as in 500M");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(invalid()),
    };
    let number: u64 = digits.parse().map_err(|_| invalid())?;
    number.checked_mul(1 << shift).ok_or_else(invalid)
}

pub fn parse_max_unused(text: &str) -> Result<MaxUnused, String> {
    if text == "unlimited" {
        return Ok(MaxUnused::Unlimited);
    }
    let Some(percent) = text.strip_suffix('%') else { return parse_bytes(text).map(MaxUnused::Bytes) };
    match percent.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(MaxUnused::Percent(percent)),
        _ => Err(format!("{text:?} is no share: write 0% to 100%, a size, or unlimited")),
    }
}

/// A choice among packs: `2/5`, `2.5%` or a size.
pub fn parse_subset(text: &str) -> Result<Subset, String> {
    let invalid = || {
        let parts_max = Subset::PARTS_MAX;
        format!(
            "{text:?} is none of N/T (part N of T, at most {parts_max}), a percentage as 2.5%, or a size as 50M or 1G"
        )
    };
    let subset = if let Some((part, of)) = text.split_once('/') {
        let (part, of) = (part.parse().map_err(|_| invalid())?, of.parse().map_err(|_| invalid())?);
        ((1..=of).contains(&part) && of <= Subset::PARTS_MAX).then_some(Subset::Part { part, of })
    } else if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| invalid())?;
        (percent > 0.0 && percent <= 100.0).then_some(Subset::Percent(percent))
    } else {
        parse_bytes(text).ok().filter(|bytes| *bytes > 0).map(Subset::Bytes)
    };
    subset.ok_or_else(invalid)
}

/// How many snapshots to keep.
pub fn parse_keep(text: &str) -> Result<Keep, String> {
    match text {
        "unlimited" | "-1" => Ok(Keep::All),
        _ => text.parse().map(Keep::Count).map_err(|_| format!("{text:?} is no count: write a number or unlimited")),
    }
}

/// A time with a unit: `90s`, `30m`, `24h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no time: write a number with s, m, h or d, as in 24h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "" if digits == "0" => 1,
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(invalid()),
    };
    let number: u64 = digits.parse().map_err(|_| invalid())?;
    // Beyond this nothing is added to a date any more.
    const YEARS_MAX_S: u64 = 1000 * 366 * 86_400;
    number.checked_mul(unit_s).filter(|seconds| *seconds <= YEARS_MAX_S).map(Duration::from_secs).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_restic_does() {
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("17b"), Ok(17));
        assert_eq!(parse_bytes("5k"), Ok(5120));
        assert_eq!(parse_bytes("100k"), Ok(102_400));
        assert_eq!(parse_bytes("2G"), Ok(2 << 30));
        assert_eq!(parse_bytes("3G"), Ok(3 << 30));
        assert_eq!(parse_bytes("1t"), Ok(1 << 40));
        assert_eq!(parse_max_unused("10%"), Ok(MaxUnused::Percent(10.0)));
        assert_eq!(parse_max_unused("1M"), Ok(MaxUnused::Bytes(1 << 20)));
        assert_eq!(parse_keep("unlimited"), Ok(Keep::All));
        assert_eq!(parse_keep("3"), Ok(Keep::Count(3)));
        assert_eq!(parse_duration("36h"), Ok(Duration::from_secs(36 * 3600)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "x", "k", "1x", "5x", "-1", "-5", "99999999T", "99999999999T", "ü"] {
            assert!(parse_bytes(bad).is_err() && parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_max_unused("101%").is_err() && parse_keep("-2").is_err() && parse_duration("5").is_err());
    }

    #[test]
    fn a_subset_of_the_packs_is_read() {
        let check = |text: &str, expected| assert_eq!(parse_subset(text).ok(), expected, "{text}");
        check("1/5", Some(Subset::Part { part: 1, of: 5 }));
        check("256/256", Some(Subset::Part { part: 256, of: 256 }));
        check("2.5%", Some(Subset::Percent(2.5)));
        check("100%", Some(Subset::Percent(100.0)));
        check("50M", Some(Subset::Bytes(50 << 20)));
        check("1g", Some(Subset::Bytes(1 << 30)));
        check("7", Some(Subset::Bytes(7)));
        for text in
            ["", "0/5", "6/5", "1/257", "1/0", "/", "0%", "101%", "-1%", "nan%", "0", "1X", "M", "99999999999T", "1 G"]
        {
            check(text, None);
        }
    }
}
