//! Tokens for the API. Only hashes are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::control::{Caller, TokenAccess, TokenView};
use crate::error::{Result, ServerError};
use crate::state::{Compare, Op, Store};

const PREFIX: &str = "token/";
const TEXT_PREFIX: &str = "levee-api-";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    access: TokenAccess,
    secret_sha256: String,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl Record {
    fn view(&self, id: &str) -> TokenView {
        TokenView {
            id: id.into(),
            name: self.name.clone(),
            access: self.access,
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

/// A token that was made and is not kept yet.
pub struct NewToken {
    id: String,
    record: Record,
    pub text: Zeroizing<String>,
}

/// Makes a token: `levee-api-ID-SECRET`.
pub fn generate(name: &str, access: TokenAccess, expires_at: Option<Timestamp>, now: Timestamp) -> Result<NewToken> {
    let mut random = Zeroizing::new([0u8; ID_BYTES + SECRET_BYTES]);
    getrandom::fill(&mut *random).map_err(|error| ServerError::File {
        doing: "read random bytes for a token from",
        path: "/dev/urandom".into(),
        source: error.into(),
    })?;
    let (id, secret) = random.split_at(ID_BYTES);
    let id = hex::encode(id);
    let text = Zeroizing::new(format!("{TEXT_PREFIX}{id}-{}", *Zeroizing::new(hex::encode(secret))));
    let secret_sha256 = hex::encode(Sha256::digest(secret));
    let name = name.chars().take(100).collect();
    Ok(NewToken { id, record: Record { name, access, secret_sha256, created_at: now, expires_at }, text })
}

/// Keeps a new token, durably.
pub fn keep(store: &Store, token: &NewToken) -> Result<TokenView> {
    let key = format!("{PREFIX}{}", token.id);
    if !store.txn(&[Compare::Absent(key.clone())], &[Op::put(key, &token.record)?])?.succeeded {
        return Err(ServerError::Contended { doing: "a token was made" });
    }
    Ok(token.record.view(&token.id))
}

/// Who a token's text belongs to.
pub fn authenticate(store: &Store, text: &str, now: Timestamp) -> Result<Caller> {
    let (id, secret) =
        text.trim().strip_prefix(TEXT_PREFIX).and_then(|rest| rest.split_once('-')).ok_or(ServerError::BadToken)?;
    let secret = Zeroizing::new(hex::decode(secret).map_err(|_| ServerError::BadToken)?);
    if id.len() != 2 * ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ServerError::BadToken);
    }
    let record: Record = store.get(&format!("{PREFIX}{id}"))?.ok_or(ServerError::BadToken)?.parse()?;
    // Hashes are compared, so that the time taken tells nothing about the secret.
    if record.secret_sha256 != hex::encode(Sha256::digest(&*secret)) || !record.is_valid(now) {
        return Err(ServerError::BadToken);
    }
    Ok(Caller { token: id.into(), name: record.name, access: record.access })
}

pub fn list(store: &Store) -> Result<Vec<TokenView>> {
    store.range(PREFIX)?.values.iter().map(|kv| Ok(kv.parse::<Record>()?.view(kv.name(PREFIX)))).collect()
}

/// Revokes a token. The last one that may change things stays, or nobody could make another.
pub fn revoke(store: &Store, id: &str, now: Timestamp) -> Result<()> {
    let tokens = store.range(PREFIX)?.values;
    let key = format!("{PREFIX}{id}");
    let Some(found) = tokens.iter().find(|kv| kv.key == key) else {
        return Err(ServerError::UnknownToken { id: id.chars().take(40).collect() });
    };
    let mut compares = vec![Compare::ModRevision(key.clone(), found.mod_revision)];
    if found.parse::<Record>()?.access == TokenAccess::Admin {
        let mut others = Vec::new();
        for kv in tokens.iter().filter(|kv| kv.key != key) {
            let record: Record = kv.parse()?;
            if record.access == TokenAccess::Admin && record.expires_at.is_none() && record.is_valid(now) {
                others.push(kv);
            }
        }
        let Some(other) = others.first() else { return Err(ServerError::LastAdminToken { id: id.into() }) };
        // Two tokens that revoke each other must not both succeed.
        compares.push(Compare::ModRevision(other.key.clone(), other.mod_revision));
    }
    if !store.txn(&compares, &[Op::delete(key)])?.succeeded {
        return Err(ServerError::Contended { doing: "a token was revoked" });
    }
    Ok(())
}

/// Whether no token was ever made.
pub fn none(store: &Store) -> Result<bool> {
    Ok(store.range(PREFIX)?.values.is_empty())
}
