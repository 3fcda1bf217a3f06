//! The locales that a database needs of the operating system.

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::base::BaseFacts;

const SETTINGS: [&str; 4] = ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"];

/// What the databases and the settings name and this host has not. Only names with a character set are judged: the others
/// may be another's alias.
pub(super) fn missing(facts: &BaseFacts, here: &BTreeSet<String>) -> Vec<String> {
    let mut used: BTreeMap<&str, String> = BTreeMap::new();
    for database in &facts.databases {
        for locale in [&database.collate, &database.ctype] {
            used.entry(locale.as_str()).or_insert_with(|| format!("database {}", database.name));
        }
    }
    for name in SETTINGS {
        if let Some(locale) = facts.settings.get(name) {
            used.entry(locale.as_str()).or_insert_with(|| format!("the setting {name}"));
        }
    }
    let here: BTreeSet<String> = here.iter().map(|locale| normalised(locale)).collect();
    // Every C library has some form of these.
    let is_judged = |locale: &str| locale.contains('.') && !locale.starts_with("C.") && !locale.starts_with("POSIX.");
    let missing = used.into_iter().filter(|(locale, _)| is_judged(locale) && !here.contains(&normalised(locale)));
    missing
        .map(|(locale, user)| {
            format!(
                "the locale {locale}, which {user} needs, is not installed here (`locale -a`), and PostgreSQL does not go \
                 without it: install it (Debian: `dpkg-reconfigure locales`)"
            )
        })
        .collect()
}

/// `de_DE.UTF-8` and `de_DE.utf8` are the same to the C library.
fn normalised(locale: &str) -> String {
    let Some((language, rest)) = locale.split_once('.') else { return locale.into() };
    let (codeset, modifier) = match rest.find('@') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let codeset: String = codeset.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{language}.{}{modifier}", codeset.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_set_has_more_than_one_spelling() {
        let check = |one: &str, other: &str, same: bool| {
            assert_eq!(normalised(one) == normalised(other), same, "{one} {other}");
        };
        check("de_DE.UTF-8", "de_DE.utf8", true);
        check("de_DE.ISO-8859-15@euro", "de_DE.iso885915@euro", true);
        check("de_DE.UTF-8", "de_AT.utf8", false);
        check("de_DE.UTF-8@euro", "de_DE.utf8", false);
        check("C", "POSIX", false);
    }
}
