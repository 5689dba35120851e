//! Authorisation sessions, salted to a key of the TPM and with encrypted parameters (TPM 2.0 part 1, sections 19 and
//! 21): who listens on the wire between processor and TPM learns neither the salt nor what is sealed or unsealed.
//!
//! Every authorisation value in here is empty, so a session's key alone keys its HMACs and its cipher.

use crate::Error;
use crate::bytes::{Reader, sized};
use aes::Aes128;
use cfb_mode::cipher::KeyIvInit as _;
use cfb_mode::{Decryptor, Encryptor};
use pillar_measure::policy::ALG_SHA256;
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::digest::{Context, SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Nonces have the size of the session's hash.
const NONCE_BYTES: usize = 32;
/// A coordinate on P-256.
const COORDINATE_BYTES: usize = 32;
const KEY_AND_IV_BYTES: usize = 32;

const CONTINUE: u8 = 0x01;
const DECRYPT: u8 = 0x20;
const ENCRYPT: u8 = 0x40;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Authorises by its key.
    Hmac,
    /// Authorises by a policy.
    Policy,
}

impl Kind {
    /// `TPM_SE`.
    pub fn code(self) -> u8 {
        match self {
            Kind::Hmac => 0,
            Kind::Policy => 1,
        }
    }
}

/// The point of an ECC P-256 key.
#[derive(Debug, Clone)]
pub struct Point {
    /// X, padded to 32 bytes.
    pub x: Vec<u8>,
    /// Y, padded to 32 bytes.
    pub y: Vec<u8>,
}

/// Half a session: our nonce and the salt, before the TPM answered.
pub struct Opening {
    nonce: Vec<u8>,
    salt: Zeroizing<Vec<u8>>,
    /// `TPM2B_ENCRYPTED_SECRET` with its size.
    pub encrypted_salt: Vec<u8>,
}

impl Opening {
    /// Draws nonce and salt; the salt is agreed with the key of the TPM.
    pub fn new(salt_key: &Point) -> Result<Self, Error> {
        let random = SystemRandom::new();
        let mut nonce = vec![0; NONCE_BYTES];
        random.fill(&mut nonce).map_err(|_| Error::Random)?;
        let private = EphemeralPrivateKey::generate(&ECDH_P256, &random).map_err(|_| Error::Random)?;
        let public = private.compute_public_key().map_err(|_| Error::Random)?;
        let point = public.as_ref().get(1..).unwrap_or_default();
        let (x, y) = point.split_at_checked(COORDINATE_BYTES).ok_or(Error::Random)?;
        let peer = UnparsedPublicKey::new(&ECDH_P256, [&[4], &salt_key.x[..], &salt_key.y].concat());
        let salt = agree_ephemeral(private, &peer, |shared| kdfe(shared, b"SECRET", x, &salt_key.x));
        let salt = salt.map_err(|_| Error::StorageKey("its point is not on the curve"))?;
        let encrypted_salt = sized(&[sized(x), sized(y)].concat());
        Ok(Self { nonce, salt, encrypted_salt })
    }

    /// Our nonce.
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// The session, with the TPM's answer.
    pub fn finish(self, handle: u32, nonce_tpm: &[u8]) -> Session {
        let key = kdfa(&self.salt, b"ATH", nonce_tpm, &self.nonce, 32);
        Session { handle, key, ours: self.nonce, theirs: nonce_tpm.to_vec() }
    }
}

/// An open session.
pub struct Session {
    /// Its handle.
    pub handle: u32,
    key: Zeroizing<Vec<u8>>,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

/// Which parameter buffers a command hides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hidden {
    /// The first parameter of the command.
    pub request: bool,
    /// The first parameter of the answer.
    pub answer: bool,
}

impl Hidden {
    fn attributes(self) -> u8 {
        CONTINUE | if self.request { DECRYPT } else { 0 } | if self.answer { ENCRYPT } else { 0 }
    }
}

impl Session {
    /// Encrypts the first parameter when asked to, and makes the authorisation area of a command (with its size).
    pub fn authorize(
        &mut self,
        command_code: u32,
        names: &[&[u8]],
        parameters: &mut [u8],
        hidden: Hidden,
    ) -> Result<Vec<u8>, Error> {
        let mut nonce = vec![0; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
        self.ours = nonce;
        if hidden.request {
            let (key, iv) = self.cipher(&self.ours, &self.theirs);
            let bytes = first_buffer(parameters)?;
            Encryptor::<Aes128>::new_from_slices(&key, &iv).map_err(|_| Error::Random)?.encrypt(bytes);
        }
        let mut hashed = Context::new(&SHA256);
        hashed.update(&command_code.to_be_bytes());
        names.iter().for_each(|name| hashed.update(name));
        hashed.update(parameters);
        let attributes = hidden.attributes();
        let mac = self.mac(hashed.finish().as_ref(), &self.ours, &self.theirs, attributes);
        let mut area = Vec::new();
        area.extend(self.handle.to_be_bytes());
        area.extend(sized(&self.ours));
        area.push(attributes);
        area.extend(sized(mac.as_ref()));
        Ok([&u32::try_from(area.len()).unwrap_or(u32::MAX).to_be_bytes()[..], &area].concat())
    }

    /// Checks the authorisation area of a good answer and decrypts its first parameter when it is hidden.
    pub fn accept(
        &mut self,
        command_code: u32,
        parameters: &mut [u8],
        area: &[u8],
        hidden: Hidden,
    ) -> Result<(), Error> {
        let mut reader = Reader(area);
        let nonce = reader.sized()?;
        let attributes = reader.take(1)?[0];
        let mac = reader.sized()?;
        reader.end()?;
        let mut hashed = Context::new(&SHA256);
        hashed.update(&0u32.to_be_bytes());
        hashed.update(&command_code.to_be_bytes());
        hashed.update(parameters);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        let message = [hashed.finish().as_ref(), nonce, &self.ours, &[attributes]].concat();
        hmac::verify(&key, &message, mac).map_err(|_| Error::Wire)?;
        self.theirs = nonce.to_vec();
        if hidden.answer {
            let (key, iv) = self.cipher(&self.theirs, &self.ours);
            let bytes = first_buffer(parameters)?;
            Decryptor::<Aes128>::new_from_slices(&key, &iv).map_err(|_| Error::Random)?.decrypt(bytes);
        }
        Ok(())
    }

    fn mac(&self, parameters: &[u8], newer: &[u8], older: &[u8], attributes: u8) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        hmac::sign(&key, &[parameters, newer, older, &[attributes]].concat())
    }

    fn cipher(&self, newer: &[u8], older: &[u8]) -> (Zeroizing<Vec<u8>>, Vec<u8>) {
        let both = kdfa(&self.key, b"CFB", newer, older, KEY_AND_IV_BYTES);
        let (key, iv) = both.split_at(KEY_AND_IV_BYTES / 2);
        (Zeroizing::new(key.to_vec()), iv.to_vec())
    }
}

/// The content of the `TPM2B` that parameters begin with.
fn first_buffer(parameters: &mut [u8]) -> Result<&mut [u8], Error> {
    let bytes = usize::from(Reader(parameters).u16()?);
    Ok(parameters.get_mut(2..2 + bytes).ok_or(crate::bytes::Malformed)?)
}

/// KDFa with SHA-256 (part 1, section 11.4.10.2).
fn kdfa(key: &[u8], label: &[u8], u: &[u8], v: &[u8], bytes: usize) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let bits = u32::try_from(bytes * 8).unwrap_or(u32::MAX);
    let mut output = Zeroizing::new(Vec::with_capacity(64));
    for counter in 1u32.. {
        let message = [&counter.to_be_bytes()[..], label, &[0], u, v, &bits.to_be_bytes()].concat();
        output.extend_from_slice(hmac::sign(&key, &message).as_ref());
        if output.len() >= bytes {
            break;
        }
    }
    output.truncate(bytes);
    output
}

/// KDFe with SHA-256, one block (part 1, section 11.4.10.3).
fn kdfe(shared: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8]) -> Zeroizing<Vec<u8>> {
    let message = Zeroizing::new([&1u32.to_be_bytes()[..], shared, label, &[0], party_u, party_v].concat());
    Zeroizing::new(digest(&SHA256, &message).as_ref().to_vec())
}

/// `TPMT_SYM_DEF` of every session: AES-128 in CFB mode; and the hash behind it.
pub fn algorithms() -> Vec<u8> {
    [0x0006u16, 128, 0x0043, ALG_SHA256].iter().flat_map(|word| word.to_be_bytes()).collect()
}
