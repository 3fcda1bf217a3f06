//! The files that `pg_hba.conf` and `pg_ident.conf` refer to.
//!
//! `include`, `include_if_exists` and `include_dir` (from version 16 on) begin a line; `@file` stands in the place of a
//! name. Relative paths begin at the folder of the file that they stand in. The rules for words, quotes, comments and
//! continued lines are those of `next_token` in PostgreSQL's `hba.c`.

use std::ops::Range;

use super::references::{Kind, Reference};

struct Word {
    text: String,
    /// With its quotes.
    range: Range<usize>,
    starts_line: bool,
    /// Its first character is a quote, which takes every other meaning from it.
    quoted: bool,
}

/// Everything that a file of rules refers to, in its order.
pub(super) fn references(text: &str) -> Vec<Reference> {
    let words = words(text);
    let mut found = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let kind = Kind::of_word(&word.text).filter(|_| word.starts_line && !word.quoted);
        if let Some(kind) = kind {
            if let Some(path) = words.next_if(|next| !next.starts_line) {
                found.push(Reference { kind, path: path.text.into(), range: path.range });
            }
        } else if let Some(path) = word.text.strip_prefix('@').filter(|path| !path.is_empty() && !word.quoted) {
            let range = word.range.start + 1..word.range.end;
            found.push(Reference { kind: Kind::File, path: path.into(), range });
        }
    }
    found
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut starts_line = true;
    let mut characters = text.char_indices().peekable();
    while let Some(&(start, first)) = characters.peek() {
        match first {
            '\n' => {
                starts_line = true;
                characters.next();
            }
            '#' => while characters.next_if(|(_, character)| *character != '\n').is_some() {},
            // The line goes on in the next one.
            '\\' if text[start + 1..].starts_with('\n') || text[start + 1..].starts_with("\r\n") => {
                while characters.next().is_some_and(|(_, character)| character != '\n') {}
            }
            _ if first.is_ascii_whitespace() || first == ',' => {
                characters.next();
            }
            _ => {
                let mut word = Word { text: String::new(), range: start..start, starts_line, quoted: first == '"' };
                starts_line = false;
                let mut inside = false;
                while let Some((at, character)) = characters.next_if(|(_, character)| {
                    *character != '\n'
                        && (inside || !(character.is_ascii_whitespace() || [',', '#'].contains(character)))
                }) {
                    // Two quotes inside of quotes would be one; no path has any.
                    match character {
                        '"' => inside = !inside,
                        _ => word.text.push(character),
                    }
                    word.range.end = at + character.len_utf8();
                }
                words.push(word);
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::references::Language;
    use super::*;

    #[test]
    fn every_kind_of_reference_is_found() {
        let check = |text: &str, expected: &[(Kind, &str)]| {
            let found = references(text);
            let found: Vec<(Kind, &str)> =
                found.iter().map(|reference| (reference.kind, reference.path.to_str().unwrap())).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("# include no\nlocal all all trust # @no\n", &[]);
        check(
            "include a.conf\ninclude_if_exists \"b c.conf\"\n  include_dir d",
            &[(Kind::File, "a.conf"), (Kind::OptionalFile, "b c.conf"), (Kind::Folder, "d")],
        );
        check("host @dbs,sales x,@\"my users\" all trust", &[(Kind::File, "dbs"), (Kind::File, "my users")]);
        check("host all include all\nhost \"@no\" all \"include\" x", &[]);
        check("include\nhost all all @", &[]);
        check("host all \\\ninclude /x trust\ninclude /y", &[(Kind::File, "/y")]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[@\"\\\\a#, \r\n\u{e4}]{0,40}(include)?[ \"@x\n]{0,9}") {
            prop_assert_eq!(Language::Rules.rewritten(&text, |_| None), text);
        }
    }
}
