use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// What binds a password's proof to this TLS connection: the hash of the server's certificate by the hash of its own
/// signature, with SHA-256 in the place of MD5 and SHA-1 (RFC 5929, section 4.1). `None` where the signature has no
/// such hash, as Ed25519 has none.
pub(crate) fn tls_server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let hash = match SignatureAlgorithm::try_from(&parsed.signature_algorithm).ok() {
        // Its name says nothing of its hash.
        Some(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => parsed.signature_algorithm.algorithm.to_id_string(),
    };
    let digest = match hash.as_str() {
        // MD5, SHA-1 and SHA-256: of the hash alone, with RSA, with ECDSA, in this order in each line.
        "1.2.840.113549.2.5" | "1.2.840.113549.1.1.4" => Sha256::digest(certificate).to_vec(),
        "1.3.14.3.2.26" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => Sha256::digest(certificate).to_vec(),
        "2.16.840.1.101.3.4.2.1" | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => {
            Sha256::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.4" | "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => {
            Sha224::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.2" | "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            Sha384::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.3" | "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    };
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_binds_nothing() {
        for bytes in [&b""[..], b"\x30\x80", &[0x30; 500]] {
            assert_eq!(tls_server_end_point(&CertificateDer::from(bytes)), None);
        }
    }
}
