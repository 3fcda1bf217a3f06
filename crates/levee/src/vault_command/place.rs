//! From `--vault` to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use levee_store::limit::{Bandwidth, Timetable};
use levee_store::object_store::{LOCKED_DAYS_MAX, TransportOptions};
use levee_store::{
    Address, Error, FileType, LocalStore, ObjectStore, RestOptions, RestStore, RetryPolicy, RetryStore, SftpOptions,
    SftpStore, Store,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::cache::CacheArguments;
use super::credentials;

/// A server that cannot be reached at all is more likely a mistake in its address than an outage.
const FIRST_CONTACT: RetryPolicy = RetryPolicy {
    attempts_max: 4,
    time_max: Duration::from_secs(10),
    delay_first: Duration::from_millis(200),
    delay_max: Duration::from_secs(1),
};

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
    /// The storage class of file contents at s3:…, such as STANDARD_IA; all else stays in the usual one
    #[arg(long, global = true, value_name = "CLASS")]
    s3_data_class: Option<String>,
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
        let bandwidth = Bandwidth::new(self.limit_upload.clone(), self.limit_download.clone());
        match self.address()? {
            Address::Folder(path) => Ok(Arc::new(LocalStore::new(path))),
            Address::Rest(url) => {
                let options = RestOptions { base_url: credentials::rest(url), tls: self.tls()?, resolve: None };
                Ok(Arc::new(contacted(RestStore::new(options)?.with_bandwidth(bandwidth))?))
            }
            Address::Sftp(address) => {
                let arguments = self.sftp_args.as_deref().unwrap_or_default();
                let arguments = arguments.split_whitespace().map(String::from).collect();
                Ok(Arc::new(contacted(SftpStore::new(SftpOptions { address, arguments, bandwidth })?)?))
            }
            other => Ok(Arc::new(self.object_store(other, bandwidth)?)),
        }
    }

    /// The vault's bucket, for what S3 alone can do.
    pub fn s3_store(&self) -> anyhow::Result<RetryStore<ObjectStore>> {
        match self.address()? {
            address @ Address::S3(_) => self.object_store(address, Bandwidth::default()),
            _ => bail!("this is for vaults at s3:…: other stores have no object lock"),
        }
    }

    fn address(&self) -> anyhow::Result<Address> {
        let Some(vault) = self.vault.as_deref().filter(|vault| !vault.is_empty()) else {
            bail!("name the vault with --vault or LEVEE_VAULT");
        };
        let address = Address::parse(vault)?;
        if self.is_one_of_several {
            return Ok(address);
        }
        let has_certificates = self.cacert.is_some() || self.tls_client_cert.is_some();
        if has_certificates && matches!(address, Address::Folder(_) | Address::Sftp(_)) {
            bail!("--cacert and --tls-client-cert are for vaults that are reached over HTTPS");
        }
        if (self.s3_data_class.is_some() || self.s3_object_lock.is_some()) && !matches!(address, Address::S3(_)) {
            bail!("--s3-data-class and --s3-object-lock are for vaults at s3:…");
        }
        if self.sftp_args.is_some() && !matches!(address, Address::Sftp(_)) {
            bail!("--sftp-args is for vaults at sftp:…");
        }
        Ok(address)
    }

    fn object_store(&self, address: Address, bandwidth: Bandwidth) -> anyhow::Result<RetryStore<ObjectStore>> {
        let service = match address {
            Address::S3(address) => credentials::s3(address, self.s3_data_class.clone(), self.s3_object_lock)?,
            Address::Oss(address) => credentials::oss(address)?,
            Address::Cos(address) => credentials::cos(address)?,
            Address::Obs(address) => credentials::obs(address)?,
            Address::Azure(address) => credentials::azure(address)?,
            Address::Gcs(address) => credentials::gcs(address),
            Address::WebDav(url) => credentials::webdav(url),
            Address::Folder(_) | Address::Rest(_) | Address::Sftp(_) => bail!("this vault lies in no object store"),
        };
        contacted(ObjectStore::new(service, TransportOptions { tls: self.tls()?, bandwidth })?)
    }

    fn tls(&self) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        let Some(cacert) = &self.cacert else {
            if self.tls_client_cert.is_some() {
                bail!("--tls-client-cert needs --cacert: name the authority of the server");
            }
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(cacert)? {
            roots.add(certificate).with_context(|| format!("cannot trust what {} holds", cacert.display()))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match &self.tls_client_cert {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let key = PrivateKeyDer::from_pem_file(path)
                    .with_context(|| format!("cannot read the private key in {}", path.display()))?;
                builder
                    .with_client_auth_cert(certificates(path)?, key)
                    .with_context(|| format!("the certificate and the key in {} don't fit", path.display()))?
            }
        };
        Ok(Some(Arc::new(config)))
    }
}

/// A store that was reached once, and is patient from now on.
fn contacted<S: Store>(store: S) -> anyhow::Result<RetryStore<S>> {
    let store = RetryStore::new(store, FIRST_CONTACT);
    match store.size_bytes(FileType::Config, "") {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(store.with_policy(RetryPolicy::default())),
        Err(error) => Err(error.into()),
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let unreadable = || format!("cannot read the certificates in {}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .with_context(unreadable)?;
    if certificates.is_empty() {
        bail!("there is no certificate in {}", path.display());
    }
    Ok(certificates)
}
