//! Whom a client trusts when its owner doesn't say.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::{Error, Result};

/// Where distributions keep the certificates of the public authorities.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

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
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Unauthorized { location: location.into(), reason: error.to_string() })?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
