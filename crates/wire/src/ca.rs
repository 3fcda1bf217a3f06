//! Levee's own certificate authority, and the key under grants and revocation lists.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use levee_model::{AgentId, SiteName};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::grant::GrantSigner;
use crate::identity::{
    AgentKey, CertificateFacts, Identity, SERVER_NAME, agent_host_name, agent_uri, certificates_from_pem,
    certificates_to_pem, server_uri,
};
use crate::private_file;

/// Certificates start a day early, so that a clock that is somewhat behind still takes them.
pub const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// How long an agent's or the server's certificate is valid from its issue.
pub const CERTIFICATE_VALID: Duration = Duration::from_secs(90 * 24 * 3600);
const AUTHORITY_VALID: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}

/// The certificate authority of one Levee. Lives on the server, in three files of mode 0600:
/// `ca.pem`, `ca-key.pem` and `grant-key.pem`.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    signer: GrantSigner,
}

/// A certificate as it was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The new certificate first, the CA last.
    pub chain: Vec<CertificateDer<'static>>,
    /// Lower-case hexadecimal.
    pub serial: String,
    pub not_after: Timestamp,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    grant_key: PathBuf,
}

impl Files {
    fn in_folder(folder: &Path) -> Files {
        Files {
            certificate: folder.join("ca.pem"),
            key: folder.join("ca-key.pem"),
            grant_key: folder.join("grant-key.pem"),
        }
    }
}

impl CertificateAuthority {
    /// Opens the authority in `folder`, or makes a new one when none of its files is there.
    pub fn open_or_create(folder: &Path, now: Timestamp) -> Result<CertificateAuthority> {
        let files = Files::in_folder(folder);
        if files.certificate.exists() {
            return CertificateAuthority::open(folder);
        }
        let key = generate(&rcgen::PKCS_ECDSA_P256_SHA256, "the authority's key")?;
        let mut params = CertificateParams::default();
        let serial = random_serial()?;
        // Two authorities must differ by name, or the certificate of one looks damaged to the other.
        let number = hex::encode(&serial.to_bytes()[..4]);
        params.distinguished_name = common_name(&format!("Levee certificate authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial);
        set_validity(&mut params, now, AUTHORITY_VALID);
        let made = params.self_signed(&key);
        let made = made.map_err(|source| Error::Generate { what: "the authority's certificate", source })?;
        let grant_key = generate(&rcgen::PKCS_ED25519, "the key for grants")?;
        // The certificate comes last: while it is missing, nothing was ever signed with the keys.
        private_file::write(&files.key, zeroize::Zeroizing::new(key.serialize_pem()).as_bytes())?;
        private_file::write(&files.grant_key, zeroize::Zeroizing::new(grant_key.serialize_pem()).as_bytes())?;
        private_file::write(&files.certificate, certificates_to_pem(&[made.der().clone()]).as_bytes())?;
        CertificateAuthority::open(folder)
    }

    /// Opens the authority in `folder`.
    pub fn open(folder: &Path) -> Result<CertificateAuthority> {
        let files = Files::in_folder(folder);
        let mut certificates = certificates_from_pem(&private_file::read(&files.certificate)?)?;
        let certificate = certificates.remove(0);
        let key = read_key(&files.key)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| Error::Malformed {
            what: format!("the authority's certificate {}", files.certificate.display()),
            why: error.to_string(),
        })?;
        Ok(CertificateAuthority { certificate, issuer, signer: GrantSigner::new(read_key(&files.grant_key)?)? })
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What a join token carries.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Signs grants and revocation lists.
    pub fn signer(&self) -> &GrantSigner {
        &self.signer
    }

    /// Signs an agent's certificate. Only the public key is taken from the request: the names come from the caller.
    pub fn issue_agent(&self, csr: &[u8], site: &SiteName, agent: &AgentId, now: Timestamp) -> Result<Issued> {
        let malformed = |error: rcgen::Error| Error::Malformed {
            what: format!("the certificate request of agent {agent}"),
            why: error.to_string(),
        };
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr.to_vec()))
            .map_err(malformed)?;
        let mut params = leaf(agent.as_str(), &agent_uri(site, agent), now)?;
        // A name that DNS does not allow (a label that ends in a dash) has only the URI.
        if let Ok(name) = agent_host_name(agent).try_into() {
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let made = params.signed_by(&request.public_key, &self.issuer).map_err(malformed)?;
        self.issued(made.der().clone())
    }

    /// A certificate for the server itself, with a new key that is never written down.
    pub fn issue_server(&self, now: Timestamp) -> Result<Identity> {
        let failed = |source| Error::Generate { what: "the server's certificate", source };
        let key = AgentKey::generate()?;
        let request = key.signing_request(&AgentId::new("server")?)?;
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request));
        let mut params = leaf("Levee server", server_uri(), now)?;
        params.subject_alt_names.push(SanType::DnsName(SERVER_NAME.try_into().map_err(failed)?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let made = params.signed_by(&request.map_err(failed)?.public_key, &self.issuer).map_err(failed)?;
        Identity::new(self.issued(made.der().clone())?.chain, &key)
    }

    fn issued(&self, certificate: CertificateDer<'static>) -> Result<Issued> {
        let facts = CertificateFacts::read(&certificate)?;
        let serial = match facts.subject {
            crate::Subject::Server { serial } => serial,
            crate::Subject::Agent(peer) => peer.serial,
        };
        Ok(Issued { chain: vec![certificate, self.certificate.clone()], serial, not_after: facts.not_after })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CertificateAuthority({})", self.fingerprint())
    }
}

fn leaf(common: &str, uri: &str, now: Timestamp) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(common);
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial()?);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let uri = uri.try_into().map_err(|source| Error::Generate { what: "a certificate's name", source })?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    set_validity(&mut params, now, CERTIFICATE_VALID);
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, valid: Duration) {
    let now = SystemTime::from(now);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + valid).into();
}

fn random_serial() -> Result<SerialNumber> {
    let mut bytes = [0u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Generate { what: "random bytes", source: rcgen::Error::RingUnspecified })?;
    // A positive number without leading zeros, so that its hexadecimal form is the same everywhere.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn generate(algorithm: &'static rcgen::SignatureAlgorithm, what: &'static str) -> Result<KeyPair> {
    KeyPair::generate_for(algorithm).map_err(|source| Error::Generate { what, source })
}

fn read_key(path: &Path) -> Result<KeyPair> {
    let pem = private_file::read_secret(path)?;
    KeyPair::from_pem(&pem)
        .map_err(|error| Error::Malformed { what: format!("the key file {}", path.display()), why: error.to_string() })
}
