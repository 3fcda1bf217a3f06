//! How a database server is reached, from the command line.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use levee_engine::postgres::{ConnectOptions, Password};
use zeroize::Zeroizing;

#[derive(Args)]
pub struct Connect {
    /// The server: postgresql://USER@HOST:PORT/DATABASE or "host=… port=… user=…", without a password
    #[arg(short, long, env = "LEVEE_DATABASE", value_name = "SERVER")]
    connect: String,
    /// A file that holds the role's password; or set LEVEE_DATABASE_PASSWORD
    #[arg(long, env = "LEVEE_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    database_password_file: Option<PathBuf>,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text may hold a password, although it should not.
        formatter.debug_struct("Connect").finish_non_exhaustive()
    }
}

impl Connect {
    pub fn options(&self) -> anyhow::Result<ConnectOptions> {
        let mut options: ConnectOptions = self.connect.parse()?;
        if options.password.is_some() {
            bail!(
                "everyone on this machine can read a command's arguments: leave the password out, and give it with \
                 --database-password-file or LEVEE_DATABASE_PASSWORD"
            );
        }
        if let Some(path) = &self.database_password_file {
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            let text = text.with_context(|| format!("cannot read the password in {}", path.display()))?;
            options.password = Some(Password::new(text.trim_end_matches(['\r', '\n'])));
        } else if let Ok(text) = std::env::var("LEVEE_DATABASE_PASSWORD") {
            options.password = Some(Password::new(Zeroizing::new(text).as_str()));
        }
        Ok(options)
    }
}
