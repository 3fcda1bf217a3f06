//! A second vault, from which something is taken: restic's `--from-repo`.

use std::path::{Path, PathBuf};

use clap::Args;
use levee_vault::Vault;

use super::open;
use super::place::Place;

#[derive(Debug, Args)]
pub struct SourceArguments {
    /// Another vault, at an address as --vault has it
    #[arg(long, visible_alias = "from-vault", env = "LEVEE_FROM_VAULT", hide_env_values = true, value_name = "VAULT")]
    from_repo: Option<String>,
    /// A file that holds its password
    #[arg(long, env = "LEVEE_FROM_PASSWORD_FILE", value_name = "FILE")]
    from_password_file: Option<PathBuf>,
}

impl SourceArguments {
    pub fn is_given(&self) -> bool {
        self.from_repo.is_some()
    }

    /// Opens the other vault; what is trusted here is trusted there.
    pub fn open(&self, place: &Place) -> anyhow::Result<Vault> {
        let (Some(vault), Some(password_file)) = (&self.from_repo, &self.from_password_file) else {
            anyhow::bail!("the vault to copy from is not named: use --from-repo and --from-password-file");
        };
        open(&place.with_vault(vault, Path::new(password_file)))
    }
}
