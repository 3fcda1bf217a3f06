//! Whom a client trusts, and what it shows.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use crate::{Error, Result};

/// Where distributions keep the certificates of the public authorities.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Trusts the authorities of a PEM file and nobody else, and shows the certificate of another one, with its key.
pub fn client_config(authorities: &Path, own: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let failed = |path: &Path, reason: String| Error::Unauthorized { location: path.display().to_string(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        let added = roots.add(certificate);
        added.map_err(|error| failed(authorities, format!("cannot trust what it holds: {error}")))?;
    }
    let builder = builder(&authorities.display().to_string(), roots)?;
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let key = PrivateKeyDer::from_pem_file(path)
                .map_err(|error| failed(path, format!("cannot read its private key: {error}")))?;
            builder
                .with_client_auth_cert(certificates(path)?, key)
                .map_err(|error| failed(path, format!("the certificate and the key in it don't fit: {error}")))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let failed = |reason: String| Error::Unauthorized { location: path.display().to_string(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|found| found.collect::<std::result::Result<Vec<_>, _>>())
        .map_err(|error| failed(format!("cannot read the certificates: {error}")))?;
    if certificates.is_empty() {
        return Err(failed("there is no certificate in it".into()));
    }
    Ok(certificates)
}

/// The authorities that the machine trusts.
pub(crate) fn machine_roots(location: &str) -> Result<Arc<ClientConfig>> {
    let failed = |reason: String| Error::Unauthorized { location: location.into(), reason };
    let bundle = BUNDLES.iter().map(Path::new).find(|path| path.is_file()).ok_or_else(|| {
        failed("this machine has no bundle of certificate authorities: install ca-certificates, or name one".into())
    })?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(bundle)
        .map_err(|error| failed(format!("cannot read {}: {error}", bundle.display())))?;
    roots.add_parsable_certificates(certificates.flatten());
    config(location, roots)
}

/// For plain HTTP, where no certificate is ever looked at.
pub(crate) fn nobody(location: &str) -> Result<Arc<ClientConfig>> {
    config(location, RootCertStore::empty())
}

fn config(location: &str, roots: RootCertStore) -> Result<Arc<ClientConfig>> {
    Ok(Arc::new(builder(location, roots)?.with_no_client_auth()))
}

fn builder(location: &str, roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Unauthorized { location: location.into(), reason: error.to_string() })?;
    Ok(builder.with_root_certificates(roots))
}
