//! The files that `postgresql.conf` includes, by the rules of PostgreSQL's `guc-file.l`: a line is a name, perhaps `=`, a
//! value and perhaps a comment; names are compared without regard to case; a value is a word or stands in quotes.

use super::references::{Kind, Reference};

/// Everything that a file of settings includes, in its order.
pub(super) fn references(text: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some((name, value)) = setting(line)
            && let Some(kind) = Kind::of_word(&name.to_ascii_lowercase())
        {
            let range = start + value.range.start..start + value.range.end;
            found.push(Reference { kind, path: value.text.into(), range });
        }
        start += line.len();
    }
    found
}

/// A value as it stands in a file of settings.
pub(super) fn quoted(value: &str) -> String {
    // A backslash begins an escape inside the quotes.
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

struct Value {
    text: String,
    /// With its quotes.
    range: std::ops::Range<usize>,
}

/// The name and the value of a line that sets or includes something.
fn setting(line: &str) -> Option<(&str, Value)> {
    let is_blank = |character: char| matches!(character, ' ' | '\t' | '\r');
    let begin = line.find(|character| !is_blank(character))?;
    let is_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '.' | '$');
    let name_end = line[begin..].find(|character| !is_name(character)).map_or(line.len(), |length| begin + length);
    let mut at = name_end + line[name_end..].find(|character| !is_blank(character))?;
    if line[at..].starts_with('=') {
        at += 1;
        at += line[at..].find(|character| !is_blank(character))?;
    }
    let value = value(line, at)?;
    (name_end > begin).then_some((&line[begin..name_end], value))
}

fn value(line: &str, start: usize) -> Option<Value> {
    if !line[start..].starts_with('\'') {
        let ends = |character: char| character.is_whitespace() || character == '#';
        let end = line[start..].find(ends).map_or(line.len(), |length| start + length);
        return (end > start).then(|| Value { text: line[start..end].into(), range: start..end });
    }
    let mut text = String::new();
    let mut characters = line[start + 1..].char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => match characters.next_if(|(_, next)| *next == '\'') {
                Some(_) => text.push('\''),
                None => return Some(Value { text, range: start..start + 1 + at + 1 }),
            },
            '\n' => return None,
            // Escapes of control characters are in no path that anybody has.
            '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
            other => text.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::references::Language;
    use super::*;

    #[test]
    fn every_way_to_include_is_found() {
        let check = |text: &str, expected: &[(Kind, &str)]| {
            let found = references(text);
            let found: Vec<(Kind, &str)> =
                found.iter().map(|reference| (reference.kind, reference.path.to_str().unwrap())).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("#include 'no'\nport = 1 # include 'no'\nincluded = 'no'\n\n=\n", &[]);
        check(
            "include '/a b.conf'\n  INCLUDE_IF_EXISTS='/it''s'#x\ninclude_dir = 'conf.d'\t# why\r\ninclude plain.conf",
            &[
                (Kind::File, "/a b.conf"),
                (Kind::OptionalFile, "/it's"),
                (Kind::Folder, "conf.d"),
                (Kind::File, "plain.conf"),
            ],
        );
        check("include 'a\\'b' \n", &[(Kind::File, "a'b")]);
        check("include 'not closed\ninclude\ninclude =\ninclude #x\n", &[]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(include(_dir)?[ =\t]{0,2}['\\\\a#\r\n\u{e4}]{0,12}\n?){0,4}") {
            prop_assert_eq!(Language::Settings.rewritten(&text, |_| None), text);
        }
    }
}
