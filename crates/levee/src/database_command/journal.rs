//! A journal folder, from the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use levee_database::postgres::marks;
use levee_journal::{Identity, JournalKeys, LogJournal, Recipient};

/// A journal that is read.
#[derive(Debug, Args)]
pub struct JournalToRead {
    /// The journal's folder
    #[arg(short, long, env = "LEVEE_JOURNAL", value_name = "FOLDER")]
    pub journal: PathBuf,
    /// The age identity that opens it
    #[arg(short, long, env = "LEVEE_IDENTITY_FILE", value_name = "FILE")]
    pub identity_file: PathBuf,
}

impl JournalToRead {
    pub fn open(&self) -> anyhow::Result<LogJournal> {
        let identity = Identity::read_file(&self.identity_file)?;
        LogJournal::open_existing(&self.journal, JournalKeys::of_identity(identity))
            .with_context(|| format!("cannot open the journal in {}", self.journal.display()))
    }
}

/// A journal that is written.
#[derive(Debug, Args)]
pub struct JournalToWrite {
    /// The journal's folder; made when it is not there
    #[arg(short, long, env = "LEVEE_JOURNAL", value_name = "FOLDER")]
    journal: PathBuf,
    /// The age identity that is to open it (make one with age-keygen); needed to close what an earlier run left
    #[arg(short, long, env = "LEVEE_IDENTITY_FILE", value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// A further age public key that is to open it (can be repeated)
    #[arg(short = 'R', long, value_name = "AGE1…")]
    recipient: Vec<Recipient>,
}

impl JournalToWrite {
    pub fn folder(&self) -> &Path {
        &self.journal
    }

    pub fn open(&self) -> anyhow::Result<LogJournal> {
        let mut keys = match &self.identity_file {
            Some(path) => JournalKeys::of_identity(Identity::read_file(path)?),
            None => JournalKeys::default(),
        };
        keys.recipients.extend(self.recipient.iter().cloned());
        if keys.recipients.is_empty() {
            bail!(
                "say who may read the journal: --identity-file FILE (make one with age-keygen -o FILE) or --recipient"
            );
        }
        LogJournal::open(&self.journal, keys)
            .map(|journal| journal.with_marks(marks::finder()))
            .with_context(|| format!("cannot open the journal in {}", self.journal.display()))
    }
}
