//! Words that the server has signed: grants, revocation lists and DNS records.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use levee_model::control::{EntryRecord, Grant, RevocationList, Role, Signed};
use levee_model::{AppName, Epoch};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::identity::PeerIdentity;

// In front of the body under the signature, so that one kind of word can't be shown as the other.
const GRANT: &str = "grant";
const REVOCATIONS: &str = "revocation list";
const ENTRY: &str = "DNS record";

/// What the signature under a record stands for, in a form that two records never share.
fn entry_body(record: &EntryRecord) -> String {
    let EntryRecord { app, name, ttl_s, epoch, version, site, address, signature: _ } = record;
    serde_json::json!([app, name, ttl_s, epoch, version, site, address]).to_string()
}

fn signed_bytes(kind: &str, body: &str) -> Vec<u8> {
    format!("levee {kind} 1\n{body}").into_bytes()
}

/// Signs grants, revocation lists and DNS records. Lives on the server.
pub struct GrantSigner(KeyPair);

impl GrantSigner {
    pub(crate) fn new(key: KeyPair) -> Result<GrantSigner> {
        if key.is_compatible(&rcgen::PKCS_ED25519) {
            return Ok(GrantSigner(key));
        }
        Err(Error::Malformed { what: "the key for grants".into(), why: "it is not an Ed25519 key".into() })
    }

    pub fn sign_grant(&self, grant: &Grant) -> Result<Signed> {
        self.sign(GRANT, grant)
    }

    pub fn sign_revocations(&self, list: &RevocationList) -> Result<Signed> {
        self.sign(REVOCATIONS, list)
    }

    /// The record with the signature that lets agents pass it on to each other.
    pub fn sign_entry(&self, record: EntryRecord) -> Result<EntryRecord> {
        let signature = self.signature(ENTRY, &entry_body(&record))?;
        Ok(EntryRecord { signature, ..record })
    }

    /// What agents verify with.
    pub fn public_key(&self) -> GrantKey {
        GrantKey(self.0.der_bytes().to_vec())
    }

    fn sign(&self, kind: &'static str, words: &impl Serialize) -> Result<Signed> {
        let body = serde_json::to_string(words)
            .map_err(|error| Error::Malformed { what: format!("a {kind}"), why: error.to_string() })?;
        let signature = self.signature(kind, &body)?;
        Ok(Signed { body, signature })
    }

    fn signature(&self, kind: &'static str, body: &str) -> Result<String> {
        let signature = self.0.sign(&signed_bytes(kind, body));
        let signature = signature.map_err(|source| Error::Generate { what: "a signature", source })?;
        Ok(STANDARD.encode(signature))
    }
}

impl fmt::Debug for GrantSigner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GrantSigner")
    }
}

/// The public key of the server that verifies its words: 32 bytes of Ed25519.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantKey(Vec<u8>);

impl GrantKey {
    pub fn from_bytes(bytes: &[u8]) -> Result<GrantKey> {
        if bytes.len() == 32 {
            return Ok(GrantKey(bytes.to_vec()));
        }
        Err(Error::Malformed { what: "the server's key for grants".into(), why: "it must have 32 bytes".into() })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn verify_grant(&self, signed: &Signed) -> Result<Grant> {
        self.verify(GRANT, signed)
    }

    pub fn verify_revocations(&self, signed: &Signed) -> Result<RevocationList> {
        self.verify(REVOCATIONS, signed)
    }

    /// Whether `peer` may act for `app` in `role`, by this grant, where epoch `known` is the highest known of the app.
    /// Returns the grant; its epoch may be higher than `known`.
    pub fn authorize(
        &self,
        signed: &Signed,
        peer: &PeerIdentity,
        app: &AppName,
        role: Role,
        known: Epoch,
    ) -> Result<Grant> {
        let grant = self.verify_grant(signed)?;
        if grant.agent != peer.agent || grant.site != peer.site || grant.app != *app || grant.role != role {
            let describe = |agent: &dyn fmt::Display, site: &dyn fmt::Display, app: &AppName, role: Role| {
                format!("agent {agent} of site {site} as {role:?} of {app}")
            };
            return Err(Error::NotGranted {
                granted: describe(&grant.agent, &grant.site, &grant.app, grant.role),
                asked: describe(&peer.agent, &peer.site, app, role),
            });
        }
        if grant.epoch < known {
            return Err(Error::StaleGrant { app: app.clone(), granted: grant.epoch, known });
        }
        Ok(grant)
    }

    /// Whether the server has said this of an entry, whoever brings it.
    pub fn verify_entry(&self, record: &EntryRecord) -> Result<()> {
        self.check(ENTRY, &entry_body(record), &record.signature)
    }

    fn check(&self, kind: &'static str, body: &str, signature: &str) -> Result<()> {
        let bad = || Error::BadSignature { what: kind };
        let signature = STANDARD.decode(signature).map_err(|_| bad())?;
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(&signed_bytes(kind, body), &signature).map_err(|_| bad())
    }

    fn verify<T: DeserializeOwned>(&self, kind: &'static str, signed: &Signed) -> Result<T> {
        self.check(kind, &signed.body, &signed.signature)?;
        serde_json::from_str(&signed.body)
            .map_err(|error| Error::Malformed { what: format!("the server's {kind}"), why: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_made_as_ever() {
        // RFC 8410, section 10.3.
        const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
            MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
            oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n\
            Z9w7lshQhqowtrbLDFw4rXAxZuE=\n\
            -----END PRIVATE KEY-----\n";
        let signer = GrantSigner::new(KeyPair::from_pem(KEY).unwrap()).unwrap();
        let body =
            r#"{"app":"shop","agent":"e1","site":"east","role":"writer","epoch":3,"issued_at":"2026-01-02T03:04:05Z"}"#;
        let grant: Grant = serde_json::from_str(body).unwrap();
        let signed = signer.sign_grant(&grant).unwrap();
        assert_eq!(signed.body, body);
        assert_eq!(signed.signature, include_str!("../tests/golden/grant-signature.txt").trim_end());
        assert_eq!(signer.public_key().verify_grant(&signed).unwrap(), grant);
        check_entries(&signer);
    }

    fn check_entries(signer: &GrantSigner) {
        let record = r#"{"app":"shop","name":"shop.test.","ttl_s":1,"epoch":3,"site":"east","address":"127.0.0.2"}"#;
        let record: EntryRecord = serde_json::from_str(record).unwrap();
        assert_eq!(entry_body(&record), r#"["shop","shop.test.",1,3,0,"east","127.0.0.2"]"#);
        let key = signer.public_key();
        assert!(key.verify_entry(&record).is_err(), "it is not signed");
        let signed = signer.sign_entry(record).unwrap();
        key.verify_entry(&signed).unwrap();
        let changes: [fn(&mut EntryRecord); 6] = [
            |record| record.address = Some([127, 0, 0, 66].into()),
            |record| record.address = None,
            |record| record.epoch = record.epoch.next(),
            |record| record.version += 1,
            |record| record.name = "bank.test.".into(),
            |record| record.app = "bank".parse().unwrap(),
        ];
        for change in changes {
            let mut forged = signed.clone();
            change(&mut forged);
            assert!(key.verify_entry(&forged).is_err(), "{forged:?}");
        }
    }
}
