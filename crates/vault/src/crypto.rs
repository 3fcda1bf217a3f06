//! Encryption as the restic format has it: AES-256-CTR, authenticated by Poly1305-AES.
//!
//! A sealed message is `IV (16) ‖ ciphertext ‖ MAC (16)`; the MAC covers the ciphertext and is keyed
//! by the IV. Source: restic's design document, "Keys, Encryption and MAC".

use aes::cipher::{BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher};
use aes::{Aes128, Aes256};
use poly1305::Poly1305;
use zeroize::Zeroize;

use crate::room::empty_with_room;
use crate::{Error, Result};

pub(crate) const IV_LENGTH: usize = 16;
/// What `seal_in_place` needs before the message.
pub(crate) const ROOM_FOR_IV: usize = IV_LENGTH;
pub(crate) const MAC_LENGTH: usize = 16;
/// By how much a sealed message is longer than its plaintext.
pub(crate) const OVERHEAD: usize = IV_LENGTH + MAC_LENGTH;

/// The bits of `r` that Poly1305 ignores; restic stores them cleared.
const R_MASK: [u8; 16] =
    [0xff, 0xff, 0xff, 0x0f, 0xfc, 0xff, 0xff, 0x0f, 0xfc, 0xff, 0xff, 0x0f, 0xfc, 0xff, 0xff, 0x0f];

/// A message that was not sealed with this key, or not left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unauthentic;

/// One symmetric key: 32 bytes for AES, `k` and `r` for the MAC.
#[derive(Clone)]
pub(crate) struct Key {
    bytes: KeyBytes,
    cipher: Aes256,
    mac_cipher: Aes128,
}

#[derive(Clone, Zeroize)]
#[zeroize(drop)]
pub(crate) struct KeyBytes {
    pub encrypt: [u8; 32],
    pub mac_k: [u8; 16],
    pub mac_r: [u8; 16],
}

impl Key {
    pub fn new(mut bytes: KeyBytes) -> Self {
        for (byte, mask) in bytes.mac_r.iter_mut().zip(R_MASK) {
            *byte &= mask;
        }
        let cipher = Aes256::new(&bytes.encrypt.into());
        let mac_cipher = Aes128::new(&bytes.mac_k.into());
        Self { bytes, cipher, mac_cipher }
    }

    /// From 64 bytes: the AES key, `k`, `r`.
    pub fn from_slice(bytes: &[u8; 64]) -> Self {
        let mut parts = KeyBytes { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        parts.encrypt.copy_from_slice(&bytes[..32]);
        parts.mac_k.copy_from_slice(&bytes[32..48]);
        parts.mac_r.copy_from_slice(&bytes[48..]);
        Self::new(parts)
    }

    pub fn bytes(&self) -> &KeyBytes {
        &self.bytes
    }

    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>> {
        let mut sealed = Vec::with_capacity(plaintext.len() + OVERHEAD);
        sealed.resize(ROOM_FOR_IV, 0);
        sealed.extend_from_slice(plaintext);
        self.seal_in_place(&mut sealed)?;
        Ok(sealed)
    }

    /// Seals a message in place that stands behind `ROOM_FOR_IV` bytes of room.
    pub fn seal_in_place(&self, message: &mut Vec<u8>) -> Result<()> {
        let Some((iv, plaintext)) = message.split_first_chunk_mut::<ROOM_FOR_IV>() else {
            return Err(Error::ReadBack { reason: "there is no room before what is to be sealed".into() });
        };
        random(iv)?;
        self.apply_keystream(iv, plaintext);
        let mac = self.mac(iv, plaintext);
        message.extend_from_slice(&mac);
        Ok(())
    }

    /// Opens a message in place and returns the part of it that is now plaintext.
    pub fn open_in_place<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], Unauthentic> {
        let (iv, ciphertext) = self.authenticate(sealed)?;
        let end = IV_LENGTH + ciphertext.len();
        let plaintext = &mut sealed[IV_LENGTH..end];
        self.apply_keystream(&iv, plaintext);
        Ok(plaintext)
    }

    /// Opens a message into `out`, replacing what it held.
    pub fn open_into(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), Unauthentic> {
        let (iv, ciphertext) = self.authenticate(sealed)?;
        empty_with_room(out, ciphertext.len());
        out.extend_from_slice(ciphertext);
        self.apply_keystream(&iv, out);
        Ok(())
    }

    fn authenticate<'a>(&self, sealed: &'a [u8]) -> Result<([u8; IV_LENGTH], &'a [u8]), Unauthentic> {
        let (iv, rest) = sealed.split_first_chunk::<IV_LENGTH>().ok_or(Unauthentic)?;
        let (ciphertext, mac) = rest.split_last_chunk::<MAC_LENGTH>().ok_or(Unauthentic)?;
        let expected = self.mac(iv, ciphertext);
        // Every byte is looked at, so that the time taken says nothing about where they differ.
        let difference = expected.iter().zip(mac).fold(0, |difference, (a, b)| difference | (a ^ b));
        if difference == 0 { Ok((*iv, ciphertext)) } else { Err(Unauthentic) }
    }

    fn apply_keystream(&self, iv: &[u8; IV_LENGTH], data: &mut [u8]) {
        let core = ctr::CtrCore::inner_iv_init(&self.cipher, &(*iv).into());
        ctr::Ctr128BE::<&Aes256>::from_core(core).apply_keystream(data);
    }

    fn mac(&self, iv: &[u8; IV_LENGTH], ciphertext: &[u8]) -> [u8; MAC_LENGTH] {
        let mut nonce = (*iv).into();
        self.mac_cipher.encrypt_block(&mut nonce);
        let mut one_time_key = [0; 32];
        one_time_key[..16].copy_from_slice(&self.bytes.mac_r);
        one_time_key[16..].copy_from_slice(&nonce);
        let mac = Poly1305::new(&one_time_key.into()).compute_unpadded(ciphertext).into();
        one_time_key.zeroize();
        mac
    }
}

/// Fills a buffer from the operating system's generator.
pub(crate) fn random(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer)
        .map_err(|error| Error::System { action: "get random bytes", source: std::io::Error::other(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        let mut bytes = [0; 64];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = index as u8;
        }
        Key::from_slice(&bytes)
    }

    /// D. J. Bernstein, "The Poly1305-AES message-authentication code", appendix B.
    #[test]
    fn mac_agrees_with_the_paper() {
        let mut parts = KeyBytes { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        parts.mac_k = hex_array("ec074c835580741701425b623235add6");
        parts.mac_r = hex_array("851fc40c3467ac0be05cc20404f3f700");
        let mac = Key::new(parts).mac(&hex_array("fb447350c4e868c52ac3275cf9d4327e"), &[0xf3, 0xf6]);
        assert_eq!(hex::encode(mac), "f4c633c3044fc145f84f335cb81953de");
    }

    fn hex_array(text: &str) -> [u8; 16] {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_sealed_opens_and_what_is_changed_does_not() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let plaintext = vec![7; length];
            let sealed = key().seal(&plaintext).unwrap();
            assert_eq!(sealed.len(), length + OVERHEAD);
            let mut opened = Vec::new();
            key().open_into(&sealed, &mut opened).unwrap();
            assert_eq!(opened, plaintext);
            assert_eq!(key().open_in_place(&mut sealed.clone()).unwrap(), plaintext);
            for position in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[position] ^= 0x10;
                assert_eq!(key().open_in_place(&mut changed), Err(Unauthentic), "byte {position}");
            }
            assert_eq!(key().open_in_place(&mut sealed[..OVERHEAD - 1].to_vec()), Err(Unauthentic));
        }
    }
}
