//! The files that `pg_hba.conf` and `pg_ident.conf` refer to.
//!
//! `include`, `include_if_exists` and `include_dir` (from version 16 on) begin a line; `@file` stands in the place of a
//! name. Relative paths begin at the folder of the file that they stand in. The rules for words, quotes, comments and
//! continued lines are those of `next_token` in PostgreSQL's `hba.c`.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// What a file of rules refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub kind: Kind,
    /// As it is written.
    pub path: PathBuf,
    /// Where it is written, with its quotes and without the `@`.
    range: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// Need not be there.
    OptionalFile,
    /// Every file of it whose name ends in `.conf`.
    Folder,
}

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
        let kind = match word.text.as_str() {
            "include" => Some(Kind::File),
            "include_if_exists" => Some(Kind::OptionalFile),
            "include_dir" => Some(Kind::Folder),
            _ => None,
        };
        if let Some(kind) = kind.filter(|_| word.starts_line && !word.quoted) {
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

/// Where a path leads that stands in a file of rules, without `.` and `..`.
pub(super) fn resolved(file: &Path, path: &Path) -> PathBuf {
    let mut place = PathBuf::new();
    for component in file.parent().unwrap_or(Path::new("/")).join(path).components() {
        match component {
            Component::ParentDir => {
                place.pop();
            }
            Component::CurDir => {}
            other => place.push(other),
        }
    }
    place
}

/// The file with other paths in the place of those that it refers to.
pub(super) fn rewritten(text: &str, new_path: impl Fn(&Path) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut copied = 0;
    for reference in references(text) {
        let Some(path) = new_path(&reference.path) else { continue };
        result.push_str(&text[copied..reference.range.start]);
        result.push_str(&format!("\"{path}\""));
        copied = reference.range.end;
    }
    result.push_str(&text[copied..]);
    result
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

    #[test]
    fn a_path_begins_where_its_file_lies() {
        let check = |path: &str, expected: &str| {
            assert_eq!(resolved(Path::new("/etc/pg/main/hba"), Path::new(path)), Path::new(expected), "{path}");
        };
        check("d/a.conf", "/etc/pg/main/d/a.conf");
        check("./../b", "/etc/pg/b");
        check("/x/../../y", "/y");
    }

    #[test]
    fn paths_are_exchanged_and_all_else_stays() {
        let text = "include  a # why\nhost all @\"b\",c all trust\ninclude_dir d\n";
        let new_path = |path: &Path| (path != Path::new("d")).then(|| format!("/new/{}", path.display()));
        assert_eq!(
            rewritten(text, new_path),
            "include  \"/new/a\" # why\nhost all @\"/new/b\",c all trust\ninclude_dir d\n"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[@\"\\\\a#, \r\n\u{e4}]{0,40}(include)?[ \"@x\n]{0,9}") {
            prop_assert_eq!(rewritten(&text, |_| None), text);
        }
    }
}
