//! Over mutual TLS: the right peers understand each other, and others are told so at once.

use std::sync::Arc;

use levee_store::rest_server::Access;
use levee_store::{Error, FileType, LocalStore, RestOptions, RestStore, Store, conformance};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::server::Server;

pub const HOST: &str = "a1.agent.levee.internal";

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    fn issue(&self, host: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_string()]).unwrap().signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    pub fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider.clone());
        let (chain, key) = self.issue(HOST);
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    pub fn client_config(&self, shown: Option<&Authority>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        Arc::new(match shown {
            Some(authority) => {
                let (chain, key) = authority.issue("a2.agent.levee.internal");
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        })
    }
}

#[test]
fn mutual_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (Authority::new(), Authority::new());
    let server = Server::start_tls(LocalStore::new(dir.path().join("repository")), Access::Owner, ours.server_config());
    let client = |host: &str, tls: Option<Arc<ClientConfig>>| {
        let base_url = format!("https://{host}:{}/some/repository", server.address.port());
        let resolve = Some((host.to_string(), server.address));
        RestStore::new(RestOptions { base_url, tls, resolve }).unwrap()
    };
    conformance::check(&client(HOST, Some(ours.client_config(Some(&ours)))));

    let check = |what: &str, store: RestStore| {
        let refused = store.list(FileType::Snapshot).unwrap_err();
        assert!(matches!(refused, Error::Unauthorized { .. }), "{what}: {refused:?}");
    };
    check("no certificate", client(HOST, Some(ours.client_config(None))));
    check("a foreign certificate", client(HOST, Some(ours.client_config(Some(&foreign)))));
    check("a foreign server", client(HOST, Some(foreign.client_config(Some(&ours)))));
    check("another host", client("a9.agent.levee.internal", Some(ours.client_config(Some(&ours)))));
    check("the machine's own roots", client(HOST, None));
}
