//! How times are written in the names of snapshots: Go's layouts, as restic's `--time-template` takes them.

/// What stands for a part of a time in Go's layouts, longer ones before those that they begin with.
const PARTS: [(&str, &str); 22] = [
    ("2006", "%Y"),
    ("January", "%B"),
    ("Jan", "%b"),
    ("Monday", "%A"),
    ("Mon", "%a"),
    ("MST", "%Z"),
    ("Z07:00", "%:z"),
    ("-07:00", "%:z"),
    ("Z0700", "%z"),
    ("-0700", "%z"),
    ("002", "%j"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("_2", "%e"),
    ("PM", "%p"),
    ("pm", "%P"),
    ("%", "%%"),
];

/// The same as a format of `strftime`.
pub(super) fn strftime_of(layout: &str) -> String {
    let mut format = String::with_capacity(2 * layout.len());
    let mut rest = layout;
    'parts: while let Some(character) = rest.chars().next() {
        for (part, directive) in PARTS {
            if let Some(after) = rest.strip_prefix(part) {
                format.push_str(directive);
                rest = after;
                continue 'parts;
            }
        }
        format.push(character);
        rest = &rest[character.len_utf8()..];
    }
    format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_layouts_are_understood() {
        let check = |layout: &str, expected: &str| assert_eq!(strftime_of(layout), expected, "{layout}");
        check("2006-01-02T15:04:05Z07:00", "%Y-%m-%dT%H:%M:%S%:z");
        check("Mon Jan _2 2006 03:04PM", "%a %b %e %Y %I:%M%p");
        check("Monday, January 02 (ä) 06 100%", "%A, %B %d (ä) %y 100%%");
        check("2006/01/02/150405-0700", "%Y/%m/%d/%H%M%S%z");
        let time = "2026-11-20T12:34:56Z".parse::<jiff::Timestamp>().unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        assert_eq!(time.strftime(&strftime_of("2006.01.02_15h04")).to_string(), "2026.11.20_12h34");
    }
}
