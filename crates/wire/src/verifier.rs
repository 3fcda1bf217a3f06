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

/// Judges whom an agent has dialled.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    expected: Expected,
    revocations: Arc<Revocations>,
}

impl PeerVerifier {
    pub fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        expected: Expected,
        revocations: Arc<Revocations>,
    ) -> Self {
        Self { roots, provider, expected, revocations }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        verify_chain(&self.provider, &self.roots, end_entity, intermediates, now)?;
        let subject = read_subject(end_entity)?;
        let is_expected = match (&subject, &self.expected) {
            (Subject::Server { .. }, Expected::Server) => true,
            (Subject::Agent(peer), Expected::Agent(agent)) => peer.agent == *agent,
            _ => false,
        };
        if !is_expected {
            return Err(other(OtherSubject { expected: self.expected.to_string(), found: subject.to_string() }));
        }
        if self.revocations.contains_subject(&subject) {
            return Err(CertificateError::Revoked.into());
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

/// Judges the server while joining, when only the fingerprint of its authority is known.
#[derive(Debug)]
pub(crate) struct PinnedVerifier {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    pub fn new(authority: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        Self { authority, provider }
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let pinned = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == self.authority);
        let Some(pinned) = pinned else {
            return Err(other(OtherFingerprint));
        };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        verify_chain(&self.provider, &roots, end_entity, &[], now)?;
        match read_subject(end_entity)? {
            Subject::Server { .. } => Ok(ServerCertVerified::assertion()),
            found => Err(other(OtherSubject { expected: "the server".into(), found: found.to_string() })),
        }
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
