//! From `--vault` to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use levee_store::{Error, FileType, LocalStore, RestOptions, RestStore, RetryPolicy, RetryStore, Store};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

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
    /// The vault: a folder, or rest:https://HOST:PORT/PATH/
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
        Self { vault: Some(vault.into()), password_file: Some(password_file.into()), ..self.clone() }
    }

    pub fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        let Some(vault) = self.vault.as_deref().filter(|vault| !vault.is_empty()) else {
            bail!("name the vault with --vault or LEVEE_VAULT");
        };
        let Some(url) = vault.strip_prefix("rest:") else {
            if self.cacert.is_some() || self.tls_client_cert.is_some() {
                bail!("--cacert and --tls-client-cert are for vaults at rest:https://…");
            }
            return Ok(Arc::new(LocalStore::new(folder(vault)?)));
        };
        let options = RestOptions { base_url: url.into(), tls: self.tls()?, resolve: None };
        let store = RetryStore::new(RestStore::new(options)?, FIRST_CONTACT);
        match store.size_bytes(FileType::Config, "") {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(Arc::new(store.with_policy(RetryPolicy::default()))),
            Err(error) => Err(error.into()),
        }
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

/// A folder, with or without restic's `local:`. Other schemes would end up as strange folders.
fn folder(vault: &str) -> anyhow::Result<&Path> {
    if let Some(path) = vault.strip_prefix("local:") {
        return Ok(Path::new(path));
    }
    let other = ["s3:", "sftp:", "b2:", "azure:", "gs:", "swift:", "rclone:", "http:", "https:"];
    match other.iter().find(|scheme| vault.starts_with(**scheme)) {
        Some(scheme) => bail!("vaults at {scheme}… are not supported: use a folder or rest:https://…"),
        None => Ok(Path::new(vault)),
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
