//! From `--vault` to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use levee_store::limit::{Bandwidth, Timetable};
use levee_store::object_store::LOCKED_DAYS_MAX;
use levee_store::{Address, ObjectStore, Opening, Proxies, RetryStore, Store, trust};
use rustls::ClientConfig;

use super::cache::CacheArguments;

/// Where the vault is, and what is shown to it.
#[derive(Clone, Args)]
pub struct Place {
    /// The vault: a folder, or as restic names it: rest:https://HOST/PATH/, sftp:USER@HOST:/PATH,
    /// s3:https://HOST/BUCKET/PATH (so also oss:, cos:, obs:), azure:CONTAINER:/PATH, gs:BUCKET:/PATH,
    /// webdav:https://HOST/PATH/
    #[arg(
        short = 'r',
        long,
        visible_alias = "repo",
        env = "LEVEE_VAULT",
        hide_env_values = true,
        global = true,
        value_name = "VAULT"
    )]
    vault: Option<String>,
    /// A file that holds the password
    #[arg(short = 'p', long, env = "LEVEE_PASSWORD_FILE", global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// PEM certificates to trust instead of this machine's own
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// A PEM file with the certificate and the private key to show to the server
    #[arg(long, global = true, value_name = "FILE")]
    tls_client_cert: Option<PathBuf>,
    /// Further arguments for ssh, for vaults at sftp:…
    #[arg(long, global = true, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    sftp_args: Option<String>,
    /// Send no faster: KiB per second, or by time of day as in "08:00,512k 19:00,10M 23:00,off"
    #[arg(long, global = true, value_name = "RATE")]
    limit_upload: Option<Timetable>,
    /// Receive no faster
    #[arg(long, global = true, value_name = "RATE")]
    limit_download: Option<Timetable>,
    /// The storage class of file contents: at s3:… such as STANDARD_IA; at azure:… Hot, Cool, Cold or Archive; at gs:…
    /// STANDARD, NEARLINE, COLDLINE or ARCHIVE; all else stays in the usual one
    #[arg(long, alias = "s3-data-class", global = true, value_name = "CLASS")]
    data_class: Option<String>,
    /// Lock what is written to s3:… in compliance mode: for so many days nobody can remove it
    #[arg(long, global = true, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=i64::from(LOCKED_DAYS_MAX)))]
    s3_object_lock: Option<u16>,
    /// Another vault takes part, and what is said of stores may be meant for that one.
    #[arg(skip)]
    is_one_of_several: bool,
    #[command(flatten)]
    pub cache: CacheArguments,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The vault's URL may hold a password.
        formatter.debug_struct("Place").field("password_file", &self.password_file).finish_non_exhaustive()
    }
}

impl Place {
    /// Another vault, with a password of its own and what is trusted here.
    pub fn with_vault(&self, vault: &str, password_file: &Path) -> Self {
        let (vault, password_file) = (Some(vault.into()), Some(password_file.into()));
        Self { vault, password_file, is_one_of_several: true, ..self.clone() }
    }

    /// The same vault in a command that takes another one too.
    pub fn one_of_several(&self) -> Self {
        Self { is_one_of_several: true, ..self.clone() }
    }

    /// Whether the vault's name can be read.
    pub fn check(&self) -> anyhow::Result<()> {
        self.address().map(drop)
    }

    /// Whether the vault is on another machine, as far as its name says.
    pub fn is_remote(&self) -> bool {
        let scheme = self.vault.as_deref().and_then(|vault| vault.split_once(':')).map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| scheme != "local" && !scheme.contains('/'))
    }

    pub fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        let address = self.address()?;
        let bandwidth = Bandwidth::new(self.limit_upload.clone(), self.limit_download.clone());
        Ok(self.opening(&address, bandwidth)?.store(address)?)
    }

    /// The vault's bucket, for what S3 alone can do.
    pub fn s3_store(&self) -> anyhow::Result<RetryStore<ObjectStore>> {
        match self.address()? {
            address @ Address::S3(_) => Ok(self.opening(&address, Bandwidth::default())?.object_store(address)?),
            _ => bail!("this is for vaults at s3:…: other stores have no object lock"),
        }
    }

    fn address(&self) -> anyhow::Result<Address> {
        let Some(vault) = self.vault.as_deref().filter(|vault| !vault.is_empty()) else {
            bail!("name the vault with --vault or LEVEE_VAULT");
        };
        let address = Address::parse(vault)?;
        self.data_class_at(&address)?;
        if self.is_one_of_several {
            return Ok(address);
        }
        let has_certificates = self.cacert.is_some() || self.tls_client_cert.is_some();
        if has_certificates && matches!(address, Address::Folder(_) | Address::Sftp(_)) {
            bail!("--cacert and --tls-client-cert are for vaults that are reached over HTTPS");
        }
        if self.s3_object_lock.is_some() && !matches!(address, Address::S3(_)) {
            bail!("--s3-object-lock is for vaults at s3:…");
        }
        if self.sftp_args.is_some() && !matches!(address, Address::Sftp(_)) {
            bail!("--sftp-args is for vaults at sftp:…");
        }
        Ok(address)
    }

    /// The class of file contents in this vault. Where several take part, one of another kind of store is meant for that
    /// one; but what no store has is a mistake.
    fn data_class_at(&self, address: &Address) -> anyhow::Result<Option<String>> {
        let Some(class) = &self.data_class else { return Ok(None) };
        match address.data_class_problem(class) {
            None => Ok(Some(class.clone())),
            Some(_) if self.is_one_of_several && !address.has_data_classes() => Ok(None),
            Some(_) if self.is_one_of_several && Address::is_any_data_class(class) => Ok(None),
            Some(problem) => bail!("--data-class: {problem}"),
        }
    }

    /// Nothing of what opens a store is an argument, where every user of the machine could read it.
    fn opening(&self, address: &Address, bandwidth: Bandwidth) -> anyhow::Result<Opening<'static>> {
        let arguments = self.sftp_args.as_deref().unwrap_or_default();
        let has_http = address.has_certificates();
        Ok(Opening {
            proxies: if has_http { Proxies::from_variables(&variable)? } else { Proxies::default() },
            tls: if has_http { self.tls()? } else { None },
            sftp_arguments: arguments.split_whitespace().map(String::from).collect(),
            bandwidth,
            // Of the vault, not of who opens it.
            data_class: self.data_class_at(address)?,
            s3_locked_for_days: self.s3_object_lock,
            ..Opening::with(&variable)
        })
    }

    fn tls(&self) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        let Some(cacert) = &self.cacert else {
            if self.tls_client_cert.is_some() {
                bail!("--tls-client-cert needs --cacert: name the authority of the server");
            }
            return Ok(None);
        };
        Ok(Some(trust::client_config(cacert, self.tls_client_cert.as_deref())?))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
