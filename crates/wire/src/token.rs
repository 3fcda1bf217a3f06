//! Join tokens: how a new agent and its server come to trust each other.
//!
//! A token is `levee-join-` and the base64url of a JSON object followed by the first four bytes of its SHA-256, so
//! that a text that was not copied whole is noticed before anything is sent.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use levee_model::{AgentId, SiteName};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::ca::Fingerprint;
use crate::error::{Error, Result};

const PREFIX: &str = "levee-join-";
const CHECK_BYTES: usize = 4;

/// What an operator carries from the server to a new agent. Secret; works once, until it expires.
#[derive(Clone)]
pub struct JoinToken {
    pub id: String,
    /// `host:port` of the server, in the order in which they are tried.
    pub servers: Vec<String>,
    pub authority: Fingerprint,
    /// The only site that the token is good for.
    pub site: Option<SiteName>,
    pub(crate) secret: Zeroizing<Vec<u8>>,
}

/// What the server keeps of a token: enough to check it, not enough to use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub id: String,
    /// SHA-256 of the secret, in hexadecimal.
    pub secret_sha256: String,
    pub site: Option<SiteName>,
    pub expires_at: Timestamp,
    pub used: Option<TokenUse>,
}

/// That a token was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    pub by: AgentId,
    pub at: Timestamp,
    /// SHA-256 of the public key, in hexadecimal. A request for the same key may come again, because its answer may
    /// have been lost; it is of no use to anyone without the agent's private key.
    pub key_sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    id: String,
    servers: Vec<String>,
    authority: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<SiteName>,
    secret: String,
}

impl JoinToken {
    /// Makes a token and the record that the server keeps of it.
    pub fn issue(
        servers: Vec<String>,
        authority: Fingerprint,
        site: Option<SiteName>,
        expires_at: Timestamp,
    ) -> Result<(JoinToken, TokenRecord)> {
        let mut random = Zeroizing::new([0u8; 40]);
        SystemRandom::new()
            .fill(&mut *random)
            .map_err(|_| Error::Generate { what: "a token", source: rcgen::Error::RingUnspecified })?;
        let (id, secret) = random.split_at(8);
        let token = JoinToken {
            id: hex::encode(id),
            servers,
            authority,
            site: site.clone(),
            secret: Zeroizing::new(secret.to_vec()),
        };
        let secret_sha256 = hex::encode(Sha256::digest(secret));
        let record = TokenRecord { id: token.id.clone(), secret_sha256, site, expires_at, used: None };
        Ok((token, record))
    }

    /// The text to hand over. Secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let text = Text {
            id: self.id.clone(),
            servers: self.servers.clone(),
            authority: self.authority.to_string(),
            site: self.site.clone(),
            secret: URL_SAFE_NO_PAD.encode(&self.secret),
        };
        // Serializing these strings cannot fail.
        let mut bytes = Zeroizing::new(serde_json::to_vec(&text).unwrap_or_default());
        let check = Sha256::digest(&bytes);
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes)))
    }

    /// Reads a token's text; white space around it is ignored.
    pub fn parse(text: &str) -> Result<JoinToken> {
        let text = text.trim();
        // The error shows only the beginning, which holds no secret.
        let bad = || Error::NotAToken(text.chars().take(PREFIX.len()).collect());
        let bytes =
            text.strip_prefix(PREFIX).and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok()).ok_or_else(bad)?;
        let bytes = Zeroizing::new(bytes);
        let split = bytes.len().checked_sub(CHECK_BYTES).ok_or_else(bad)?;
        let (json, check) = bytes.split_at(split);
        if Sha256::digest(json)[..CHECK_BYTES] != *check {
            return Err(bad());
        }
        let text: Text = serde_json::from_slice(json).map_err(|_| bad())?;
        let authority = hex::decode(&text.authority).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)?;
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(Zeroizing::new(text.secret)).map_err(|_| bad())?);
        Ok(JoinToken { id: text.id, servers: text.servers, authority: Fingerprint(authority), site: text.site, secret })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JoinToken")
            .field("id", &self.id)
            .field("servers", &self.servers)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl TokenRecord {
    /// Checks a presented token and returns the record as it has to be stored, durably, *before* the certificate is
    /// handed out. `csr` is the certificate request that came with the secret.
    pub fn redeem(
        &self,
        secret: &[u8],
        site: &SiteName,
        agent: &AgentId,
        csr: &[u8],
        now: Timestamp,
    ) -> Result<TokenRecord> {
        // Hashes are compared, so that the time taken tells nothing about the secret.
        if hex::encode(Sha256::digest(secret)) != self.secret_sha256 {
            return Err(Error::UnknownToken);
        }
        if now >= self.expires_at {
            return Err(Error::ExpiredToken { at: self.expires_at });
        }
        let key_sha256 = public_key_sha256(csr)?;
        match &self.used {
            Some(used) if used.key_sha256 == key_sha256 && used.by == *agent => return Ok(self.clone()),
            Some(used) => return Err(Error::UsedToken { by: used.by.clone(), at: used.at }),
            None => {}
        }
        match &self.site {
            Some(bound) if bound != site => Err(Error::TokenOfOtherSite { bound: bound.clone(), asked: site.clone() }),
            _ => {
                let used = TokenUse { by: agent.clone(), at: now, key_sha256 };
                Ok(TokenRecord { used: Some(used), ..self.clone() })
            }
        }
    }
}

fn public_key_sha256(csr: &[u8]) -> Result<String> {
    let (_, request) = X509CertificationRequest::from_der(csr)
        .map_err(|error| Error::Malformed { what: "the certificate request".into(), why: error.to_string() })?;
    Ok(hex::encode(Sha256::digest(request.certification_request_info.subject_pki.raw)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::AgentKey;

    fn issue(site: Option<&str>) -> (JoinToken, TokenRecord) {
        let site = site.map(|site| site.parse().unwrap());
        JoinToken::issue(vec!["h:1".into()], Fingerprint([7; 32]), site, Timestamp::from_second(1000).unwrap()).unwrap()
    }

    #[test]
    fn a_token_reads_back_and_a_damaged_one_does_not() {
        let (token, _) = issue(Some("east"));
        let text = token.to_text();
        let read = JoinToken::parse(&format!(" {}\n", *text)).unwrap();
        assert_eq!((read.id, read.servers, read.authority), (token.id.clone(), token.servers.clone(), token.authority));
        assert_eq!((read.site, read.secret), (token.site.clone(), token.secret.clone()));
        for length in 0..text.len() {
            assert!(JoinToken::parse(&text[..length]).is_err(), "{length}");
        }
        assert!(!format!("{token:?}").contains(&*URL_SAFE_NO_PAD.encode(&token.secret)));
    }

    #[test]
    fn the_text_of_a_token_stays_as_it_is() {
        let token = JoinToken {
            id: "0011223344556677".into(),
            servers: vec!["levee.example.test:7601".into()],
            authority: Fingerprint([0xab; 32]),
            site: Some("east".parse().unwrap()),
            secret: Zeroizing::new((0..32).collect()),
        };
        let text = include_str!("../tests/golden/join-token.txt").trim_end();
        assert_eq!(*token.to_text(), text);
        assert_eq!(*JoinToken::parse(text).unwrap().secret, *token.secret);
    }

    #[test]
    fn a_token_works_once_in_time_and_at_its_site() {
        let (token, record) = issue(Some("east"));
        let (key, other) = (AgentKey::generate().unwrap(), AgentKey::generate().unwrap());
        let at = |second| Timestamp::from_second(second).unwrap();
        let redeem = |record: &TokenRecord, secret: &[u8], site: &str, agent: &str, key: &AgentKey, second| {
            let agent = agent.parse().unwrap();
            let csr = key.signing_request(&agent).unwrap();
            record.redeem(secret, &site.parse().unwrap(), &agent, &csr, at(second))
        };
        assert!(matches!(redeem(&record, b"guess", "east", "a", &key, 1), Err(Error::UnknownToken)));
        let check = redeem(&record, &token.secret, "east", "a", &key, 1000);
        assert!(matches!(check, Err(Error::ExpiredToken { .. })));
        let check = redeem(&record, &token.secret, "west", "a", &key, 1);
        assert!(matches!(check, Err(Error::TokenOfOtherSite { .. })));
        let used = redeem(&record, &token.secret, "east", "a", &key, 1).unwrap();
        assert_eq!(redeem(&used, &token.secret, "east", "a", &key, 2).unwrap(), used);
        for (agent, key) in [("a", &other), ("b", &key)] {
            let check = redeem(&used, &token.secret, "east", agent, key, 2);
            assert!(matches!(check, Err(Error::UsedToken { .. })), "{agent}");
        }
    }
}
