//! The recovery kit: what a blank machine needs to restore an app when everything else is gone.

use std::fmt::Write;
use std::path::Path;

use levee_model::{AppName, SiteName};
use zeroize::Zeroizing;

/// The names of what opens the copies, as they stand in the text.
const PASSWORD: &str = "restic password";
const IDENTITY: &str = "age identity";

/// What goes into a kit. The password and the identity open the copies: the kit is as secret as they are.
pub struct Kit<'a> {
    pub app: &'a AppName,
    pub site: &'a SiteName,
    pub host: &'a str,
    pub repository: &'a Path,
    pub journal: &'a Path,
    pub password: &'a str,
    pub journal_identity: &'a str,
    pub ca_certificate: &'a str,
    pub made_at: jiff::Timestamp,
}

/// The password in a kit's text, where the kit is the one of this identity.
pub fn password_for<'a>(text: &'a str, journal_identity: &str) -> Option<&'a str> {
    let password = value(text, PASSWORD)?;
    (value(text, IDENTITY)? == journal_identity && !password.is_empty()).then_some(password)
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

impl Kit<'_> {
    /// The kit as text that can be printed on paper.
    pub fn text(&self) -> Zeroizing<String> {
        let Kit { app, site, host, repository, journal, password, journal_identity, ca_certificate, made_at } = self;
        let (repository, journal) = (repository.display(), journal.display());
        let mut text = Zeroizing::new(String::new());
        // Writing into a string can't fail.
        let _ = write!(
            text,
            "LEVEE RECOVERY KIT for app {app}, kept at site {site}, made {made_at:.0}

Keep this offline, in a safe place away from both sites, and delete the file.
It opens every copy of the app. It was made once; Levee keeps no other copy of it.

WHERE THINGS LIE
  host                 {host}
  backups (restic)     {repository}
  database log         {journal}/ASSET/

WHAT OPENS THEM
  {PASSWORD}      {password}
  {IDENTITY}         {journal_identity}

BY HAND, WITH STOCK TOOLS ONLY
  Put the password into a file password.txt and the identity into identity.txt, both mode 0600.
  1. Files and database base backups:
       restic -r {repository} --password-file password.txt snapshots
       restic -r {repository} --password-file password.txt restore SNAPSHOT --target DIR
  2. Each closed log file below {journal}/ASSET/ becomes the database's own log file by
       age -d -i identity.txt FILE | zstd -d > NAME
  3. The whole way is in docs/operating/without-levee.md.

THE AUTHORITY THAT THE AGENTS TRUST
{ca_certificate}
"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_found_again_for_the_kits_own_identity_alone() {
        let kit = Kit {
            app: &"shop".parse().unwrap(),
            site: &"west".parse().unwrap(),
            host: "west-1",
            repository: Path::new("/agent/apps/shop/repository"),
            journal: Path::new("/agent/apps/shop/journal"),
            password: "0badc0de",
            journal_identity: "AGE-SECRET-KEY-1",
            ca_certificate: "",
            made_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let text = kit.text();
        let lines = "\n  restic password      0badc0de\n  age identity         AGE-SECRET-KEY-1\n";
        assert!(text.contains(lines), "{}", *text);
        assert_eq!(password_for(&text, "AGE-SECRET-KEY-1"), Some("0badc0de"));
        assert_eq!(password_for(&text, "AGE-SECRET-KEY-2"), None);
        assert_eq!(password_for("", "AGE-SECRET-KEY-1"), None);
    }
}
