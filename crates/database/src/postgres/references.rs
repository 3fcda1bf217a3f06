//! What configuration files refer to: other files, by paths that lead somewhere else on another machine.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::{access_rules, settings_files};

/// What a file refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub kind: Kind,
    /// As it is meant, without quotes.
    pub path: PathBuf,
    /// Where it is written, with its quotes.
    pub range: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// Need not be there.
    OptionalFile,
    /// Every file of it whose name ends in `.conf`.
    Folder,
}

impl Kind {
    /// Both languages have the same words for it.
    pub fn of_word(word: &str) -> Option<Kind> {
        match word {
            "include" => Some(Kind::File),
            "include_if_exists" => Some(Kind::OptionalFile),
            "include_dir" => Some(Kind::Folder),
            _ => None,
        }
    }
}

/// What is written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Language {
    /// `postgresql.conf` and what it includes.
    Settings,
    /// `pg_hba.conf`, `pg_ident.conf` and what they refer to.
    Rules,
}

impl Language {
    /// Everything that a file refers to, in its order.
    pub fn references(self, text: &str) -> Vec<Reference> {
        match self {
            Language::Settings => settings_files::references(text),
            Language::Rules => access_rules::references(text),
        }
    }

    /// The file with other paths in the place of those that it refers to.
    pub fn rewritten(self, text: &str, new_path: impl Fn(&Path) -> Option<String>) -> String {
        let mut result = String::with_capacity(text.len());
        let mut copied = 0;
        for reference in self.references(text) {
            let Some(path) = new_path(&reference.path) else { continue };
            result.push_str(&text[copied..reference.range.start]);
            match self {
                Language::Settings => result.push_str(&settings_files::quoted(&path)),
                Language::Rules => result.push_str(&format!("\"{path}\"")),
            }
            copied = reference.range.end;
        }
        result.push_str(&text[copied..]);
        result
    }
}

/// Where a path leads that stands in a file, without `.` and `..`.
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let check = |language: Language, text: &str, expected: &str| {
            let new_path = |path: &Path| (path != Path::new("d")).then(|| format!("/new/{}", path.display()));
            assert_eq!(language.rewritten(text, new_path), expected);
        };
        check(
            Language::Rules,
            "include  a # why\nhost all @\"b\",c all trust\ninclude_dir d\n",
            "include  \"/new/a\" # why\nhost all @\"/new/b\",c all trust\ninclude_dir d\n",
        );
        check(
            Language::Settings,
            "include = a # why\nport=1\nInclude_dir 'd'\ninclude_if_exists 'it''s'",
            "include = '/new/a' # why\nport=1\nInclude_dir 'd'\ninclude_if_exists '/new/it''s'",
        );
    }
}
