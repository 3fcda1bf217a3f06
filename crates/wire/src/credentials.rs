//! What a process proves itself with and judges others by: identity, authority, grant key, revocations.

use std::fmt;
use std::sync::{Arc, RwLock};

use levee_model::AgentId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::ca::Fingerprint;
use crate::error::{Error, Result};
use crate::grant::GrantKey;
use crate::identity::{CertificateFacts, Identity};
use crate::revocation::Revocations;
use crate::verifier::{AgentVerifier, DialledVerifier};

/// Which protocol a connection speaks (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Http2,
    /// Repositories.
    Http1,
}

impl Protocol {
    fn alpn(self) -> Vec<Vec<u8>> {
        vec![match self {
            Protocol::Http2 => b"h2".to_vec(),
            Protocol::Http1 => b"http/1.1".to_vec(),
        }]
    }
}

/// Who has to answer at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Server,
    Agent(AgentId),
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Server => formatter.write_str("the server"),
            Expected::Agent(agent) => write!(formatter, "agent {agent}"),
        }
    }
}

/// Whether a listener asks for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    Required,
    /// The server: an agent that joins has none yet. Each other call checks for it.
    Optional,
}

/// Identity, authority, grant key and live revocation list of this process. Clones share all of it.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    authority: CertificateDer<'static>,
    roots: Arc<RootCertStore>,
    grant_key: GrantKey,
    revocations: Arc<Revocations>,
    identity: Arc<LiveIdentity>,
}

impl Credentials {
    pub fn new(authority: CertificateDer<'static>, identity: Identity, grant_key: GrantKey) -> Result<Credentials> {
        let mut roots = RootCertStore::empty();
        let added = roots.add(authority.clone());
        added.map_err(|source| Error::TlsSetup { what: "the authority's certificate", source })?;
        Ok(Credentials(Arc::new(Inner {
            authority,
            roots: Arc::new(roots),
            grant_key,
            revocations: Arc::default(),
            identity: Arc::new(LiveIdentity::new(identity)?),
        })))
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.0.authority
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.authority)
    }

    /// Verifies grants and revocation lists.
    pub fn grants(&self) -> &GrantKey {
        &self.0.grant_key
    }

    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.0.revocations
    }

    /// Takes over a newer revocation list; connections that exist are refused at their next call.
    pub fn revoke(&self, signed: &levee_model::control::Signed) -> Result<bool> {
        self.0.revocations.update(signed, &self.0.grant_key)
    }

    /// The identity that new connections use.
    pub fn identity(&self) -> Arc<Identity> {
        self.0.identity.current().0
    }

    pub fn facts(&self) -> CertificateFacts {
        self.identity().facts().clone()
    }

    /// New connections use this identity from now on.
    pub fn renew(&self, identity: Identity) -> Result<()> {
        self.0.identity.replace(identity)
    }

    /// TLS 1.3 with this identity, to a peer that must be the expected one of our own authority.
    ///
    /// The name that is dialled plays no part: the certificate's own name decides.
    pub fn client_config(&self, expected: Expected, protocol: Protocol) -> Result<ClientConfig> {
        let provider = provider();
        let verifier =
            DialledVerifier::of_peer(self.0.roots.clone(), provider.clone(), expected, self.0.revocations.clone());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| Error::TlsSetup { what: "TLS 1.3", source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.0.identity.clone());
        // A resumed session would skip the check of the certificate, and with it the revocation list.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocol.alpn();
        Ok(config)
    }

    /// TLS 1.3 for a listener that agents dial.
    pub fn server_config(&self, client: ClientCertificate, protocol: Protocol) -> Result<ServerConfig> {
        let provider = provider();
        let builder = WebPkiClientVerifier::builder_with_provider(self.0.roots.clone(), provider.clone());
        let builder = match client {
            ClientCertificate::Required => builder,
            ClientCertificate::Optional => builder.allow_unauthenticated(),
        };
        let verifier = builder.build().map_err(|error| Error::TlsSetup {
            what: "the check of client certificates",
            source: rustls::Error::General(error.to_string()),
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| Error::TlsSetup { what: "TLS 1.3", source })?
            .with_client_cert_verifier(Arc::new(AgentVerifier::new(verifier, self.0.revocations.clone())))
            .with_cert_resolver(self.0.identity.clone());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = protocol.alpn();
        Ok(config)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificate in use, exchanged when it is renewed.
struct LiveIdentity {
    /// Read at each handshake, replaced at a renewal.
    current: RwLock<(Arc<Identity>, Arc<CertifiedKey>)>,
}

impl LiveIdentity {
    fn new(identity: Identity) -> Result<LiveIdentity> {
        Ok(LiveIdentity { current: RwLock::new(certified(identity)?) })
    }

    fn current(&self) -> (Arc<Identity>, Arc<CertifiedKey>) {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn replace(&self, identity: Identity) -> Result<()> {
        let new = certified(identity)?;
        *self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = new;
        Ok(())
    }
}

fn certified(identity: Identity) -> Result<(Arc<Identity>, Arc<CertifiedKey>)> {
    let key = CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider())
        .map_err(|source| Error::TlsSetup { what: "this process's certificate", source })?;
    Ok((Arc::new(identity), Arc::new(key)))
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LiveIdentity")
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().1)
    }
}

impl rustls::client::ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().1)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
