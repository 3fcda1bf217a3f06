use std::path::{Path, PathBuf};

use levee_model::{AgentId, AppName, AssetName, Epoch, RunId, VaultName};

/// Where one app's things lie below the agent's folder.
///
/// ```text
/// apps/APP/state.json            epoch and phase of the app at this site
///          state-removed-epochN.json what it was when the app was removed
///          repository/           backups, in the restic format (recovery side)
///          repository-password   opens it; never leaves this host
///          writer-key-AGENT.json master key of the repository that AGENT keeps (writer side)
///          journal/ASSET/        continuous record of a database's log (recovery side)
///          journal-identity      age identity that opens the journal; never leaves this host
///          recovery-kit.txt      made once with the repository; to be moved to a safe place
///          recovery-kit-identity the kit's own age identity, until the kit is made
///          runs/RUN/             scratch of a drill
///          upkeep/               of looking after the copies (recovery side):
///            state.json            when old data were last cleared away, and what is damaged
///            arrivals              who sent which snapshot, and when it came
///            alarms.json           what is usual for each folder, and what looks like ransomware
///            rereads               when each stored pack was last read
///            log-rereads           when each closed segment of a journal was last read
///            own-locks             the repository's locks that this site has taken
///            removed.json          what was removed here and is still to go from further vaults
///            ahead.json            which copies both clocks put into the future when they came
///            log-grace.json        which log no rule keeps any more, and since when
///          further/VAULT/        of bringing copies to a further vault (recovery side):
///            state.json            what is there, and when old data were last cleared away there
///            own-locks             the locks there that this site has taken
///            cache/                its index, snapshots and directories
///          log-start-ASSET.json  where the unbroken log at the other site begins (writer side)
///          gaps-ASSET.json       gaps in the archived log, and the base backups behind them (writer side)
///          unsettled-ASSET       there while a staged copy of files takes something in (recovery side)
///          damaged-ASSET.json    base backups that were found damaged (recovery side)
///          server/ASSET/         socket and log of the app's own database server
///          APP.gate.json         the start gate
/// ```
#[derive(Clone, Debug)]
pub struct AppFolder {
    root: PathBuf,
}

impl AppFolder {
    pub fn new(agent_folder: &Path, app: &AppName) -> Self {
        Self { root: apps(agent_folder).join(app.as_str()) }
    }

    /// Of every app that has anything here.
    pub fn all(agent_folder: &Path) -> impl Iterator<Item = Self> {
        std::fs::read_dir(apps(agent_folder)).into_iter().flatten().flatten().map(|entry| Self { root: entry.path() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What looking after the copies needs.
    pub fn upkeep(&self) -> PathBuf {
        self.root.join("upkeep")
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// What the state becomes when the app is protected no more.
    pub fn removed_state(&self, epoch: Epoch) -> PathBuf {
        self.root.join(format!("state-removed-epoch{epoch}.json"))
    }

    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    pub fn repository_password(&self) -> PathBuf {
        self.root.join("repository-password")
    }

    pub fn writer_key(&self, peer: &AgentId) -> PathBuf {
        self.root.join(format!("writer-key-{peer}.json"))
    }

    pub fn journal(&self, asset: &AssetName) -> PathBuf {
        self.root.join("journal").join(asset.as_str())
    }

    pub fn journal_identity(&self) -> PathBuf {
        self.root.join("journal-identity")
    }

    /// The public half of the recovery kit's age identity: the journal is sealed for it as well.
    pub fn kit_recipient(&self) -> PathBuf {
        self.root.join("recovery-kit-recipient")
    }

    /// The private half, from the journal's first use until the kit is made.
    pub fn kit_identity(&self) -> PathBuf {
        self.root.join("recovery-kit-identity")
    }

    pub fn recovery_kit(&self) -> PathBuf {
        self.root.join("recovery-kit.txt")
    }

    /// Who sent which snapshot.
    pub fn arrivals(&self) -> PathBuf {
        self.upkeep().join("arrivals")
    }

    /// What looking after the copies has come to.
    pub fn upkeep_state(&self) -> PathBuf {
        self.upkeep().join("state.json")
    }

    /// The repository's locks that this site has taken to look after it.
    pub fn own_locks(&self) -> PathBuf {
        self.upkeep().join("own-locks")
    }

    /// What was removed here and is still to go from further vaults.
    pub fn removals(&self) -> PathBuf {
        self.upkeep().join("removed.json")
    }

    /// What bringing copies to a further vault needs.
    pub fn further(&self, vault: &VaultName) -> PathBuf {
        self.all_further().join(vault.as_str())
    }

    pub fn all_further(&self) -> PathBuf {
        self.root.join("further")
    }

    /// What is usual for each folder, and what is not.
    pub fn alarms(&self) -> PathBuf {
        self.upkeep().join("alarms.json")
    }

    /// When each stored pack was last read.
    pub fn log_rereads(&self) -> PathBuf {
        self.upkeep().join("log-rereads")
    }

    pub fn rereads(&self) -> PathBuf {
        self.upkeep().join("rereads")
    }

    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub fn run(&self, run: &RunId) -> PathBuf {
        self.runs().join(run.as_str())
    }

    /// Where the log that is archived now began at the other site: a base backup must not be older.
    pub fn log_start(&self, asset: &AssetName) -> PathBuf {
        self.root.join(format!("log-start-{asset}.json"))
    }

    /// The timeline that was archived last, and at which epoch.
    pub fn log_stream(&self, asset: &AssetName) -> PathBuf {
        self.root.join(format!("log-stream-{asset}.json"))
    }

    /// The gaps in an asset's log.
    pub fn gaps(&self, asset: &AssetName) -> PathBuf {
        self.root.join(format!("gaps-{asset}.json"))
    }

    /// There while a staged copy of files takes something in.
    pub fn unsettled(&self, asset: &AssetName) -> PathBuf {
        self.root.join(format!("unsettled-{asset}"))
    }

    /// The base backups of an asset that were found damaged.
    pub fn damaged(&self, asset: &AssetName) -> PathBuf {
        self.root.join(format!("damaged-{asset}.json"))
    }

    /// What belongs to the app's own server at this site: its socket and log, and what only it may read.
    pub fn server(&self, asset: &AssetName) -> PathBuf {
        self.root.join("server").join(asset.as_str())
    }
}

/// Where the apps lie below an agent's folder.
fn apps(agent_folder: &Path) -> PathBuf {
    agent_folder.join("apps")
}
