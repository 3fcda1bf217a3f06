//! What the server shows: the operator's certificate, or one that it makes for itself.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, bail};
use levee_wire::private_file;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Below the served folder; names that begin with a dot are never served.
const FOLDER: &str = ".tls";

/// The files of a certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    /// The certificate that is kept in the served folder, made when there is none.
    pub(super) fn kept_in(served: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        let folder = served.join(FOLDER);
        let identity = Self { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
        if identity.certificate.exists() && identity.key.exists() {
            return Ok(identity);
        }
        let make = || -> anyhow::Result<()> {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let mut names = vec!["localhost".to_string(), "127.0.0.1".to_string(), host.clone()];
            if !listen.ip().is_unspecified() && !listen.ip().is_loopback() {
                names.push(listen.ip().to_string());
            }
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, host);
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?;
            // The key first: a certificate without its key would be in the way of the next attempt.
            private_file::write(&identity.key, key.serialize_pem().as_bytes())?;
            private_file::write(&identity.certificate, certificate.pem().as_bytes())?;
            Ok(())
        };
        make().with_context(|| format!("cannot make a certificate in {}", folder.display()))?;
        Ok(identity)
    }

    /// Shows what is in the files at each handshake, so that a renewed certificate counts without a restart.
    pub(super) fn server_config(&self) -> anyhow::Result<ServerConfig> {
        let shown = Shown { identity: self.clone(), current: Mutex::new(self.read()?) };
        Ok(ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown)))
    }

    fn read(&self) -> anyhow::Result<Current> {
        // Before the files themselves: a change in between is seen the next time.
        let changed_at = self.changed_at();
        let unreadable = || format!("cannot read the certificates in {}", self.certificate.display());
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(|found| found.collect::<Result<Vec<_>, _>>())
            .with_context(unreadable)?;
        if chain.is_empty() {
            bail!("there is no certificate in {}", self.certificate.display());
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("cannot read the private key in {}", self.key.display()))?;
        let key = CertifiedKey::from_der(chain, key, &default_provider())
            .with_context(|| format!("{} and its key don't fit", self.certificate.display()))?;
        Ok(Current { changed_at, key: Arc::new(key) })
    }

    /// When the certificate and the key were written.
    fn changed_at(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|file| fs::metadata(file).and_then(|metadata| metadata.modified()).ok())
    }
}

/// The certificate as it was read last.
#[derive(Debug)]
struct Current {
    changed_at: [Option<SystemTime>; 2],
    key: Arc<CertifiedKey>,
}

#[derive(Debug)]
struct Shown {
    identity: Identity,
    current: Mutex<Current>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed_at = self.identity.changed_at();
        if changed_at != current.changed_at {
            match self.identity.read() {
                Ok(renewed) => {
                    tracing::info!("the certificate in {} was renewed", self.identity.certificate.display());
                    *current = renewed;
                }
                // Somebody may be in the middle of renewing it. It is looked at again when the files change.
                Err(error) => {
                    tracing::warn!("{error:#}; the certificate stays as it was");
                    current.changed_at = changed_at;
                }
            }
        }
        Some(current.key.clone())
    }
}
