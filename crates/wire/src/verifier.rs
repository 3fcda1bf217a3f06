//! How certificates are judged during a handshake: authority, time, name, revocation.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::ca::Fingerprint;
use crate::credentials::Expected;
use crate::identity::{CertificateFacts, Subject};
use crate::revocation::Revocations;

/// The peer is somebody of our own authority, but not who was expected.
#[derive(Debug)]
pub(crate) struct OtherSubject {
    pub expected: String,
    pub found: String,
}

impl fmt::Display for OtherSubject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "expected {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for OtherSubject {}

fn read_subject(certificate: &CertificateDer<'_>) -> Result<Subject, TlsError> {
    match CertificateFacts::read(certificate) {
        Ok(facts) => Ok(facts.subject),
        Err(error) => Err(other(error)),
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Judges whom this process has dialled.
#[derive(Debug)]
pub(crate) struct DialledVerifier {
    provider: Arc<CryptoProvider>,
    known: Known,
}

/// What is known of whom was dialled.
#[derive(Debug)]
enum Known {
    /// Its authority, and who it is.
    Peer { roots: Arc<RootCertStore>, expected: Expected, revocations: Arc<Revocations> },
    /// While joining: that it is the server, and the fingerprint of its authority.
    Fingerprint(Fingerprint),
}

impl DialledVerifier {
    pub fn of_peer(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        expected: Expected,
        revocations: Arc<Revocations>,
    ) -> Self {
        Self { provider, known: Known::Peer { roots, expected, revocations } }
    }

    pub fn pinned(authority: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        Self { provider, known: Known::Fingerprint(authority) }
    }
}

impl ServerCertVerifier for DialledVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verify =
            |roots: &RootCertStore, between: &[_]| verify_chain(&self.provider, roots, end_entity, between, now);
        match &self.known {
            Known::Peer { roots, expected, revocations } => {
                verify(roots, intermediates)?;
                judge_peer(&read_subject(end_entity)?, expected, revocations)?;
            }
            Known::Fingerprint(authority) => {
                verify(&pinned_root(intermediates, authority)?, &[])?;
                judge_server(&read_subject(end_entity)?)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn judge_peer(subject: &Subject, expected: &Expected, revocations: &Revocations) -> Result<(), TlsError> {
    let is_expected = match (subject, expected) {
        (Subject::Server { .. }, Expected::Server) => true,
        (Subject::Agent(peer), Expected::Agent(agent)) => peer.agent == *agent,
        _ => false,
    };
    if !is_expected {
        return Err(other(OtherSubject { expected: expected.to_string(), found: subject.to_string() }));
    }
    match revocations.contains_subject(subject) {
        true => Err(CertificateError::Revoked.into()),
        false => Ok(()),
    }
}

fn judge_server(subject: &Subject) -> Result<(), TlsError> {
    match subject {
        Subject::Server { .. } => Ok(()),
        found => Err(other(OtherSubject { expected: "the server".into(), found: found.to_string() })),
    }
}

/// The authority among what the server has shown.
fn pinned_root(shown: &[CertificateDer<'_>], authority: &Fingerprint) -> Result<RootCertStore, TlsError> {
    let pinned = shown.iter().find(|certificate| Fingerprint::of(certificate) == *authority);
    let pinned = pinned.ok_or_else(|| other(OtherFingerprint))?;
    let mut roots = RootCertStore::empty();
    roots.add(pinned.clone().into_owned())?;
    Ok(roots)
}

fn verify_chain(
    provider: &CryptoProvider,
    roots: &RootCertStore,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), TlsError> {
    let certificate = ParsedCertificate::try_from(end_entity)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)
}

/// The server's authority is not the one that the token names.
#[derive(Debug)]
pub(crate) struct OtherFingerprint;

impl fmt::Display for OtherFingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the authority has another fingerprint")
    }
}

impl std::error::Error for OtherFingerprint {}

/// Judges who dials: an agent of our own authority that is not revoked.
#[derive(Debug)]
pub(crate) struct AgentVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    revocations: Arc<Revocations>,
}

impl AgentVerifier {
    pub fn new(chain: Arc<dyn ClientCertVerifier>, revocations: Arc<Revocations>) -> Self {
        Self { chain, revocations }
    }
}

impl ClientCertVerifier for AgentVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match read_subject(end_entity)? {
            Subject::Agent(peer) if self.revocations.contains(&peer) => Err(CertificateError::Revoked.into()),
            Subject::Agent(_) => Ok(verified),
            found => Err(other(OtherSubject { expected: "an agent".into(), found: found.to_string() })),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
