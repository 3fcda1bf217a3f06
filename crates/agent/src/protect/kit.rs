//! The recovery kit: what a blank machine needs to restore an app when everything else is gone.

use std::fmt::Write;
use std::path::Path;

use levee_model::{AppName, SiteName};
use zeroize::Zeroizing;

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
  restic password      {password}
  age identity         {journal_identity}

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
