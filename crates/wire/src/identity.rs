//! Who somebody is, by their certificate.

use std::fmt;

use jiff::Timestamp;
use levee_model::{AgentId, SiteName};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The DNS name in the server's certificate.
pub const SERVER_NAME: &str = "server.levee.internal";
const SERVER_URI: &str = "levee://server";

/// An agent, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIdentity {
    pub site: SiteName,
    pub agent: AgentId,
    /// The certificate's serial number in lower-case hexadecimal.
    pub serial: String,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "agent {} of site {}", self.agent, self.site)
    }
}

/// Whom a certificate of Levee's own authority stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Server { serial: String },
    Agent(PeerIdentity),
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Server { .. } => formatter.write_str("the server"),
            Subject::Agent(peer) => peer.fmt(formatter),
        }
    }
}

/// The DNS name in an agent's certificate; for the address of its repositories.
pub fn agent_host_name(agent: &AgentId) -> String {
    format!("{agent}.agent.levee.internal")
}

pub(crate) fn agent_uri(site: &SiteName, agent: &AgentId) -> String {
    format!("levee://site/{site}/agent/{agent}")
}

pub(crate) fn server_uri() -> &'static str {
    SERVER_URI
}

/// A certificate's subject and times, read without checking any signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    pub subject: Subject,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl CertificateFacts {
    /// Reads what a certificate says. Its signature is *not* checked here.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<CertificateFacts> {
        let malformed = |why: String| Error::Malformed { what: "a certificate".into(), why };
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
        let time = |seconds| Timestamp::from_second(seconds).map_err(|error| malformed(error.to_string()));
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| malformed(error.to_string()))?
            .ok_or_else(|| malformed("it names nobody".into()))?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        // Two would let one certificate be two agents.
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(malformed("it must hold exactly one levee:// name".into()));
        };
        Ok(CertificateFacts {
            subject: parse_uri(uri, hex::encode(parsed.raw_serial()))?,
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
        })
    }
}

fn parse_uri(uri: &str, serial: String) -> Result<Subject> {
    if uri == SERVER_URI {
        return Ok(Subject::Server { serial });
    }
    let names = uri.strip_prefix("levee://site/").and_then(|rest| rest.split_once("/agent/"));
    let Some((site, agent)) = names else {
        let why =
            format!("its name {:?} is not levee://site/SITE/agent/AGENT", uri.chars().take(80).collect::<String>());
        return Err(Error::Malformed { what: "a certificate".into(), why });
    };
    Ok(Subject::Agent(PeerIdentity { site: site.parse()?, agent: agent.parse()?, serial }))
}

/// A private key that was made on this host and never leaves it.
pub struct AgentKey(KeyPair);

impl AgentKey {
    pub fn generate() -> Result<AgentKey> {
        let made = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
        made.map(AgentKey).map_err(|source| Error::Generate { what: "a private key", source })
    }

    /// Reads the first private key of a PEM text, which may hold certificates as well.
    pub fn from_pem(pem: &str) -> Result<AgentKey> {
        let malformed = |why: String| Error::Malformed { what: "the private key".into(), why };
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| malformed(error.to_string()))?;
        KeyPair::try_from(&key).map(AgentKey).map_err(|error| malformed(error.to_string()))
    }

    /// PKCS#8. Secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// A certificate signing request in DER. The authority takes only the public key from it.
    pub fn signing_request(&self, agent: &AgentId) -> Result<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, agent.as_str());
        let made = params.serialize_request(&self.0);
        made.map(|request| request.der().to_vec())
            .map_err(|source| Error::Generate { what: "a certificate request", source })
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AgentKey")
    }
}

/// A certificate with its private key.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    facts: CertificateFacts,
}

impl Identity {
    /// `chain` starts with the own certificate; the CA may be its last.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &AgentKey) -> Result<Identity> {
        let Some(own) = chain.first() else {
            return Err(Error::Malformed { what: "the certificate chain".into(), why: "it is empty".into() });
        };
        let (_, parsed) = X509Certificate::from_der(own)
            .map_err(|error| Error::Malformed { what: "the certificate".into(), why: error.to_string() })?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.0.public_key_raw() {
            let why = "it was not made for the private key beside it".into();
            return Err(Error::Malformed { what: "the certificate".into(), why });
        }
        let facts = CertificateFacts::read(own)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.0.serialize_der()));
        Ok(Identity { chain, key, facts })
    }

    pub fn from_pem(chain: &str, key: &str) -> Result<Identity> {
        Identity::new(certificates_from_pem(chain)?, &AgentKey::from_pem(key)?)
    }

    /// The certificates as PEM, the own one first.
    pub fn chain_pem(&self) -> String {
        certificates_to_pem(&self.chain)
    }

    /// The own certificate first, the CA last.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Whether it is time for a new certificate: a third of its days have passed.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at()
    }

    /// When this certificate is renewed: 30 days of 90 after it was issued.
    pub fn renew_at(&self) -> Timestamp {
        let (from, to) = (self.facts.not_before.as_second(), self.facts.not_after.as_second());
        let issued = from.saturating_add(crate::ca::BACKDATED.as_secs().cast_signed());
        let due = issued.saturating_add((to - issued) / 3);
        Timestamp::from_second(due).unwrap_or(self.facts.not_after)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Reads every certificate of a PEM text.
pub fn certificates_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let malformed = |why: String| Error::Malformed { what: "the certificate file".into(), why };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(error.to_string()))?;
    if certificates.is_empty() { Err(malformed("there is no certificate in it".into())) } else { Ok(certificates) }
}

/// PEM with lines of 64 characters, as RFC 7468 wants it.
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    use base64::Engine;
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = base64::engine::general_purpose::STANDARD.encode(certificate);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_agents_is_refused() {
        let check = |uri: &str| parse_uri(uri, "01".into());
        assert!(matches!(check("levee://site/east/agent/a1"), Ok(Subject::Agent(peer)) if peer.agent.as_str() == "a1"));
        for bad in
            ["", "levee://site/east", "levee://site/east/agent/", "levee://site//agent/a", "levee://site/e/agent/a/b"]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
