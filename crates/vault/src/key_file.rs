//! Key files: the master key, sealed under a password.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use scrypt::Params;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{Key, KeyBytes, random};
use crate::file_time::as_timestamp;
use crate::vault::to_json;
use crate::{Error, Id, Result};

/// scrypt's cost for new key files, 32 MiB and some 60 ms: what restic's calibration arrives at.
const LOG_N: u8 = 15;
const R: u32 = 8;
const P: u32 = 1;
const SALT_BYTES: usize = 64;
/// A key file that asks for more memory than this is refused, so that a bad one can't take it all.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
const P_MAX: u32 = 64;

/// A password of a repository. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    pub fn new(password: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(password.into()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(..)")
    }
}

/// The key that everything in a repository is sealed with. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct MasterKey(pub(crate) Key);

impl fmt::Debug for MasterKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MasterKey(..)")
    }
}

#[derive(Deserialize)]
struct KeyJson {
    mac: MacJson,
    encrypt: String,
}

#[derive(Deserialize)]
struct MacJson {
    k: String,
    r: String,
}

impl Drop for KeyJson {
    fn drop(&mut self) {
        self.mac.k.zeroize();
        self.mac.r.zeroize();
        self.encrypt.zeroize();
    }
}

impl MasterKey {
    /// A new random key.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; 64]);
        random(&mut *bytes)?;
        Ok(Self(Key::from_slice(&bytes)))
    }

    /// The key as restic's JSON has it. To be kept as secret as the data.
    pub fn to_json(&self) -> Zeroizing<String> {
        let bytes = self.0.bytes();
        let part = |bytes: &[u8]| Zeroizing::new(BASE64.encode(bytes));
        let (k, r, encrypt) = (part(&bytes.mac_k), part(&bytes.mac_r), part(&bytes.encrypt));
        // Base64 has nothing that JSON would have to escape.
        Zeroizing::new(format!(
            "{{\"mac\":{{\"k\":\"{}\",\"r\":\"{}\"}},\"encrypt\":\"{}\"}}",
            k.as_str(),
            r.as_str(),
            encrypt.as_str()
        ))
    }

    pub fn from_json(json: &str) -> Result<Self> {
        let json: KeyJson = serde_json::from_str(json).map_err(|_| Error::InvalidMasterKey)?;
        let mut bytes = KeyBytes { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        let decode = |text: &str, target: &mut [u8]| {
            let decoded = Zeroizing::new(BASE64.decode(text).map_err(|_| Error::InvalidMasterKey)?);
            if decoded.len() != target.len() || decoded.iter().all(|byte| *byte == 0) {
                return Err(Error::InvalidMasterKey);
            }
            target.copy_from_slice(&decoded);
            Ok(())
        };
        decode(&json.encrypt, &mut bytes.encrypt)?;
        decode(&json.mac.k, &mut bytes.mac_k)?;
        decode(&json.mac.r, &mut bytes.mac_r)?;
        Ok(Self(Key::new(bytes)))
    }

    /// Seals the key under a password, for a repository's `keys` folder.
    pub fn seal_key_file(&self, password: &Password, hostname: &str, username: &str) -> Result<KeyFile> {
        let mut salt = vec![0; SALT_BYTES];
        random(&mut salt)?;
        let file = KeyFileJson {
            created: Timestamp::now(),
            username: username.into(),
            hostname: hostname.into(),
            kdf: "scrypt".into(),
            n: 1 << LOG_N,
            r: R,
            p: P,
            salt: BASE64.encode(&salt),
            data: String::new(),
        };
        let Ok(user_key) = file.user_key(password) else { return Err(Error::InvalidMasterKey) };
        let data = BASE64.encode(user_key.seal(self.to_json().as_bytes())?);
        let content = to_json(&KeyFileJson { data, ..file })?;
        Ok(KeyFile { id: Id::of(&content).to_hex(), content })
    }
}

/// A key file, ready to be stored under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// The file's name: the SHA-256 of its content.
    pub id: String,
    pub content: Vec<u8>,
}

/// What a key file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    pub id: Id,
    #[serde(with = "as_timestamp")]
    pub created: Timestamp,
    pub username: String,
    pub hostname: String,
    /// Whether the repository was opened with this one.
    pub current: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct KeyFileJson {
    #[serde(with = "as_timestamp")]
    pub created: Timestamp,
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

impl KeyFileJson {
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(content).map_err(|error| format!("it is not the JSON of a key file: {error}"))
    }

    fn user_key(&self, password: &Password) -> Result<Key, String> {
        if self.kdf != "scrypt" {
            return Err(format!("it uses the unknown key derivation {:?}", self.kdf));
        }
        let memory_bytes = u128::from(self.n) * u128::from(self.r) * 128;
        if !self.n.is_power_of_two() || self.n < 2 || memory_bytes > u128::from(MEMORY_BYTES_MAX) || self.p > P_MAX {
            return Err("its scrypt parameters are out of bounds".into());
        }
        let params = Params::new(self.n.ilog2() as u8, self.r, self.p)
            .map_err(|_| "its scrypt parameters are out of bounds".to_string())?;
        let salt = BASE64.decode(&self.salt).map_err(|_| "its salt is not base64".to_string())?;
        let mut derived = Zeroizing::new([0; 64]);
        scrypt::scrypt(&password.0, &salt, &params, &mut *derived).map_err(|error| error.to_string())?;
        Ok(Key::from_slice(&derived))
    }

    /// The master key, or `None` when the password is not this file's.
    pub fn open(&self, password: &Password) -> Result<Option<MasterKey>, String> {
        let mut data = BASE64.decode(&self.data).map_err(|_| "its data is not base64".to_string())?;
        let Ok(json) = self.user_key(password)?.open_in_place(&mut data) else { return Ok(None) };
        let text = std::str::from_utf8(json).map_err(|_| "its master key is not JSON".to_string())?;
        let master_key = MasterKey::from_json(text).map_err(|error| error.to_string());
        data.zeroize();
        master_key.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_opens_with_its_password_alone() {
        let master_key = MasterKey::generate().unwrap();
        let file = master_key.seal_key_file(&Password::new("correct"), "host", "user").unwrap();
        let json = KeyFileJson::parse(&file.content).unwrap();
        let opened = json.open(&Password::new("correct")).unwrap().unwrap();
        assert_eq!(*opened.to_json(), *master_key.to_json());
        assert!(json.open(&Password::new("wrong")).unwrap().is_none());
        assert_eq!(format!("{master_key:?} {:?}", Password::new("secret")), "MasterKey(..) Password(..)");
    }

    #[test]
    fn master_keys_that_are_none_are_refused() {
        let key = MasterKey::generate().unwrap().to_json();
        assert!(MasterKey::from_json(&key).is_ok());
        for bad in ["", "{}", "{\"mac\":{\"k\":\"\",\"r\":\"\"},\"encrypt\":\"\"}"] {
            assert!(matches!(MasterKey::from_json(bad), Err(Error::InvalidMasterKey)), "{bad}");
        }
    }
}
