//! Tables, times and sizes for a terminal.

use jiff::Timestamp;

/// Rows under a heading, in columns as wide as they need to be. The last column is not padded.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = line(&widths, heading.iter().copied());
    for row in rows {
        text.push_str(&line(&widths, row.iter().map(String::as_str)));
    }
    text
}

fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (cell, width) in cells.zip(widths) {
        text.push_str(&format!("{cell:<width$}  "));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// A length of time in the unit that reads best.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// How long ago something was.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", seconds(now.duration_since(at).as_secs_f64().max(0.0)))
}

/// A moment, to the second.
pub fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// What is there, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Names with commas, or a dash.
pub fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() { "-".into() } else { values.iter().map(T::to_string).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".into(), "x".into(), "1".into()], vec!["größer".into(), String::new(), "2".into()]];
        assert_eq!(table(&["NAME", "B", "C"], &rows), "NAME    B  C\na       x  1\ngrößer     2\n");
        assert_eq!(table(&["NAME"], &[]), "NAME\n");
    }

    #[test]
    fn times_read_well() {
        let cases = [(0.04, "0.0 s"), (9.9, "9.9 s"), (61.0, "61 s"), (600.0, "10 min"), (90_000.0, "25 h")];
        for (value, expected) in cases {
            assert_eq!(seconds(value), expected);
        }
        assert_eq!(seconds(864_000.0), "10 days");
    }
}
