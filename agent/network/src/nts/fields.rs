//! NTS in NTP's packets (RFC 8915 section 5): extension fields that say for whom a packet is and prove by whom.
//!
//! What stands behind the proof, or is not covered by it, is not read.

use crate::ntp::PACKET_BYTES;
use crate::nts::records::{COOKIE_MAX_BYTES, COOKIES};
use aes_siv::KeyInit as _;
use aes_siv::siv::{Aes128Siv, IV_SIZE};
use std::fmt;
use zeroize::Zeroizing;

/// Of a key of AEAD_AES_SIV_CMAC_256.
pub const KEY_BYTES: usize = 32;
/// What an answer must repeat (RFC 8915 section 5.3: at least 32).
pub const UNIQUE_BYTES: usize = 32;
/// As many as servers must take at least (RFC 8915 section 5.6).
pub const NONCE_BYTES: usize = 16;
/// What every link with IPv6 carries, without its headers: a question is never longer, nor a true answer to it.
pub const QUESTION_MAX_BYTES: usize = 1280 - 40 - 8;

const UNIQUE: u16 = 0x0104;
const COOKIE: u16 = 0x0204;
const PLACEHOLDER: u16 = 0x0304;
const AUTHENTICATOR: u16 = 0x0404;

const HEADER_BYTES: usize = 4;
/// RFC 7822 section 3.
const FIELD_MIN_BYTES: usize = 16;
/// Fields that are looked at: a packet of 2 KiB could have 128.
const FIELDS_MAX: usize = 32;
/// A longer nonce is nobody's.
const NONCE_MAX_BYTES: usize = 64;
/// Of an authenticator: its two lengths, our nonce, and the proof of nothing encrypted.
const PROOF_BYTES: usize = HEADER_BYTES + 4 + NONCE_BYTES + IV_SIZE;

/// A key of one direction. Gone from memory when dropped.
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// From TLS.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    fn cipher(&self) -> Aes128Siv {
        Aes128Siv::new((&*self.0).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Why a packet is no proven answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// No fields that can be read.
    #[error("its fields are malformed")]
    Malformed,
    /// It repeats another identifier, or none: an old answer, or one for somebody else.
    #[error("it answers another question")]
    NotOurs,
    /// A field that must be there once.
    #[error("it has two {0}")]
    Repeated(&'static str),
    /// Nothing proves it.
    #[error("it is not authenticated")]
    Unproven,
    /// The proof is wrong.
    #[error("its authenticator is wrong")]
    Forged,
}

/// Asks with this packet of NTP. Each cookie is for one question; `wanted` says how many new ones should come.
#[must_use]
pub fn question(
    header: &[u8; PACKET_BYTES],
    unique: &[u8; UNIQUE_BYTES],
    cookie: &[u8],
    wanted: usize,
    key: &Key,
    nonce: &[u8; NONCE_BYTES],
) -> Vec<u8> {
    let mut packet = header.to_vec();
    write(&mut packet, UNIQUE, unique);
    let before = packet.len();
    write(&mut packet, COOKIE, cookie);
    let each = packet.len() - before;
    // Placeholders are as long as the cookies that shall come for them: no answer is longer than its question.
    let room = QUESTION_MAX_BYTES.saturating_sub(packet.len() + PROOF_BYTES) / each;
    for _ in 1..wanted.min(COOKIES).min(room + 1) {
        write(&mut packet, PLACEHOLDER, &vec![0; cookie.len()]);
    }
    let proof = seal(key, &packet, nonce, &[]);
    write(&mut packet, AUTHENTICATOR, &proof);
    packet
}

/// The body of an authenticator over `before`.
fn seal(key: &Key, before: &[u8], nonce: &[u8], secret: &[u8]) -> Vec<u8> {
    let sealed =
        key.cipher().encrypt([before, nonce], secret).expect("AES-SIV takes 126 headers, and these are two");
    let mut body = Vec::new();
    body.extend((nonce.len() as u16).to_be_bytes());
    body.extend((sealed.len() as u16).to_be_bytes());
    for part in [nonce, &sealed] {
        body.extend(part);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    body
}

/// A field, with zeros behind its value up to the next multiple of four bytes.
fn write(packet: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (HEADER_BYTES + value.len()).next_multiple_of(4).max(FIELD_MIN_BYTES);
    let end = packet.len() + length;
    packet.extend(kind.to_be_bytes());
    packet.extend((length as u16).to_be_bytes());
    packet.extend(value);
    packet.resize(end, 0);
}

/// One field: its type and its value with what it was filled up with.
type Field<'a> = (u16, &'a [u8]);

/// The first field of these bytes, and how long it is.
fn field(bytes: &[u8]) -> Result<(Field<'_>, usize), FieldError> {
    let [kind, kind_low, length, length_low] =
        *bytes.first_chunk::<HEADER_BYTES>().ok_or(FieldError::Malformed)?;
    let length = usize::from(u16::from_be_bytes([length, length_low]));
    if length < FIELD_MIN_BYTES || length % 4 != 0 {
        return Err(FieldError::Malformed);
    }
    let value = bytes.get(HEADER_BYTES..length).ok_or(FieldError::Malformed)?;
    Ok(((u16::from_be_bytes([kind, kind_low]), value), length))
}

/// Takes an answer to the question with this identifier, proven by the server's key. Returns the new cookies. What the
/// packet of NTP itself says is not judged here.
pub fn open(packet: &[u8], unique: &[u8; UNIQUE_BYTES], key: &Key) -> Result<Vec<Vec<u8>>, FieldError> {
    let (before, proof) = find(packet, unique)?;
    let secret = unseal(key, before, proof.ok_or(FieldError::Unproven)?)?;
    cookies(&secret)
}

/// True when a packet without a proof answers this question: all that a server can say which lost its keys (RFC 8915
/// section 5.7). Anybody who sees the question can say it too.
#[must_use]
pub fn is_unproven_answer(packet: &[u8], unique: &[u8; UNIQUE_BYTES]) -> bool {
    matches!(find(packet, unique), Ok((_, None)))
}

/// What stands before the authenticator, and the authenticator's value.
fn find<'a>(packet: &'a [u8], unique: &[u8]) -> Result<(&'a [u8], Option<&'a [u8]>), FieldError> {
    let mut at = PACKET_BYTES;
    let mut ours = false;
    for _ in 0..FIELDS_MAX {
        let rest = packet.get(at..).ok_or(FieldError::Malformed)?;
        if rest.is_empty() {
            return if ours { Ok((packet, None)) } else { Err(FieldError::Unproven) };
        }
        let ((kind, value), length) = field(rest)?;
        match kind {
            UNIQUE if ours => return Err(FieldError::Repeated("identifiers")),
            // Nothing is secret in an identifier, which the question shows to everybody on the way.
            UNIQUE if value != unique => return Err(FieldError::NotOurs),
            UNIQUE => ours = true,
            AUTHENTICATOR if !ours => return Err(FieldError::NotOurs),
            AUTHENTICATOR => return Ok((packet.get(..at).unwrap_or_default(), Some(value))),
            _ => {}
        }
        at += length;
    }
    Err(FieldError::Malformed)
}

/// What was encrypted, when the proof is right.
fn unseal(key: &Key, before: &[u8], proof: &[u8]) -> Result<Zeroizing<Vec<u8>>, FieldError> {
    let ([nonce_length, nonce_low, length, length_low], rest) =
        proof.split_first_chunk().ok_or(FieldError::Malformed)?;
    let nonce_bytes = usize::from(u16::from_be_bytes([*nonce_length, *nonce_low]));
    let sealed_bytes = usize::from(u16::from_be_bytes([*length, *length_low]));
    if !(1..=NONCE_MAX_BYTES).contains(&nonce_bytes) || sealed_bytes < IV_SIZE {
        return Err(FieldError::Malformed);
    }
    let nonce = rest.get(..nonce_bytes).ok_or(FieldError::Malformed)?;
    let from = nonce_bytes.next_multiple_of(4);
    let sealed = rest.get(from..from + sealed_bytes).ok_or(FieldError::Malformed)?;
    // It compares in constant time.
    key.cipher().decrypt([before, nonce], sealed).map(Zeroizing::new).map_err(|_| FieldError::Forged)
}

/// Cookies among the fields that were encrypted. The server made them for us: they are as long as it likes, up to our
/// limit.
fn cookies(secret: &[u8]) -> Result<Vec<Vec<u8>>, FieldError> {
    let mut cookies = Vec::new();
    let mut rest = secret;
    for _ in 0..FIELDS_MAX {
        if rest.is_empty() {
            return Ok(cookies);
        }
        let ((kind, value), length) = field(rest)?;
        if kind == COOKIE && value.len() <= COOKIE_MAX_BYTES && cookies.len() < COOKIES {
            cookies.push(value.to_vec());
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Err(FieldError::Malformed)
}

#[cfg(test)]
mod tests;
