//! A share sealed to one operator: libsodium's `crypto_box_seal` (X25519, XSalsa20-Poly1305, BLAKE2b) to the operator's
//! Ed25519 key, converted as `crypto_sign_ed25519_pk_to_curve25519` does.

use crate::{KEY_BYTES, Share, VolumeId};
use crypto_box::aead::rand_core::{CryptoRng, Error as RandomError, RngCore};
use crypto_box::{PublicKey, SecretKey};
use curve25519_dalek::edwards::CompressedEdwardsY;
use ring::digest;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// Random bytes that sealing one share takes: the ephemeral secret key.
pub const RANDOM_BYTES: usize = 32;
/// A SubjectPublicKeyInfo of Ed25519 without the key itself (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What is sealed: version, volume, index, value.
const PLAIN_BYTES: usize = 1 + 16 + 1 + KEY_BYTES;
const VERSION: u8 = 1;

/// An operator's Ed25519 public key that shares can be sealed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    ed25519: [u8; 32],
    x25519: [u8; 32],
}

impl Operator {
    /// From the raw public key. Refused when it is no point of the curve, or one that anybody can open for.
    pub fn new(ed25519: [u8; 32]) -> Result<Self, SealError> {
        let point = CompressedEdwardsY(ed25519).decompress().ok_or(SealError::NoKey)?;
        if point.is_small_order() || !point.is_torsion_free() {
            return Err(SealError::NoKey);
        }
        Ok(Operator { ed25519, x25519: point.to_montgomery().to_bytes() })
    }

    /// From a SubjectPublicKeyInfo, DER.
    pub fn of_spki(spki: &[u8]) -> Result<Self, SealError> {
        let key = spki.strip_prefix(&SPKI_PREFIX).and_then(|key| key.try_into().ok());
        Operator::new(key.ok_or(SealError::NoKey)?)
    }

    /// From the private key's seed.
    pub fn of_seed(seed: &[u8; 32]) -> Result<Self, SealError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SealError::NoKey)?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| SealError::NoKey)?;
        Operator::new(key)
    }

    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let spki: Vec<u8> = SPKI_PREFIX.iter().chain(&self.ed25519).copied().collect();
        hex::encode(digest::digest(&digest::SHA256, &spki))
    }
}

/// The seed in a private key file: PKCS#8 version 1 or 2 (with the public key behind it) of Ed25519, DER.
#[must_use]
pub fn seed_of_pkcs8(der: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    // ring checks it all (and, in version 2, that both halves belong together); the seed itself it does not give out.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
    let at = PKCS8_ALGORITHM_AND_SEED;
    let start = der.windows(at.len()).position(|window| window == at)? + at.len();
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(der.get(start..start + 32)?);
    Some(seed)
}

/// Algorithm Ed25519, an octet string within an octet string (RFC 8410, section 7).
const PKCS8_ALGORITHM_AND_SEED: [u8; 11] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why a share is not sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a key.
    #[error("the operator's key is not an Ed25519 key that a share can be sealed to")]
    NoKey,
    /// Opened with another key, or changed.
    #[error(
        "the sealed share does not open with this operator's key: it was changed, or sealed to somebody else"
    )]
    Damaged,
    /// Sealed by something newer.
    #[error("the sealed share has version {0}, expected {VERSION}")]
    Version(u8),
    /// Of another volume.
    #[error(
        "the share belongs to another volume\n  hint: it was made for another machine, or before this one was erased"
    )]
    OtherVolume,
    /// Sealed is something else than was committed to.
    #[error("share {index} is not what the volume's header says was made")]
    NotAsCommitted {
        /// Which.
        index: u8,
    },
    /// No share for that key.
    #[error("operator {operator} is not among those that the recovery key was split to: {}", .among.join(", "))]
    NotAmong {
        /// Whose key it is.
        operator: String,
        /// Who has a share.
        among: Vec<String>,
    },
}

/// Seals a share to an operator. `random` is fresh and used for nothing else.
pub fn seal_share(
    share: &Share,
    operator: &Operator,
    random: &[u8; RANDOM_BYTES],
) -> Result<Vec<u8>, SealError> {
    let mut plain = Zeroizing::new(Vec::with_capacity(PLAIN_BYTES));
    plain.push(VERSION);
    plain.extend_from_slice(&share.volume().0);
    plain.push(share.index());
    plain.extend_from_slice(share.value());
    let mut once = Once(Zeroizing::new(*random));
    PublicKey::from(operator.x25519).seal(&mut once, &plain).map_err(|_| SealError::NoKey)
}

/// Opens a share with the operator's Ed25519 seed.
pub fn open_share(sealed: &[u8], seed: &[u8; 32]) -> Result<Share, SealError> {
    let plain = x25519(seed).unseal(sealed).map(Zeroizing::new).map_err(|_| SealError::Damaged)?;
    let plain: &[u8; PLAIN_BYTES] = plain.as_slice().try_into().map_err(|_| SealError::Damaged)?;
    let (version, rest) = (plain[0], &plain[1..]);
    if version != VERSION {
        return Err(SealError::Version(version));
    }
    let mut volume = VolumeId([0; 16]);
    volume.0.copy_from_slice(&rest[..16]);
    let mut value = Zeroizing::new([0; KEY_BYTES]);
    value.copy_from_slice(&rest[17..]);
    Share::new(volume, rest[16], value).ok_or(SealError::Damaged)
}

/// The X25519 key of an Ed25519 seed: the first half of its SHA-512 (which X25519 clamps).
fn x25519(seed: &[u8; 32]) -> SecretKey {
    let hash = digest::digest(&digest::SHA512, seed);
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&hash.as_ref()[..32]);
    SecretKey::from(*scalar)
}

/// Randomness that was given, in the form in which `seal` takes it: it asks once, for the ephemeral key.
struct Once(Zeroizing<[u8; RANDOM_BYTES]>);

impl RngCore for Once {
    fn next_u32(&mut self) -> u32 {
        rand_bytes(self)
    }

    fn next_u64(&mut self) -> u64 {
        u64::from(rand_bytes(self)) << 32 | u64::from(rand_bytes(self))
    }

    fn fill_bytes(&mut self, into: &mut [u8]) {
        assert!(into.len() == RANDOM_BYTES, "a sealed box draws its ephemeral key and nothing else");
        into.copy_from_slice(&*self.0);
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), RandomError> {
        self.fill_bytes(into);
        Ok(())
    }
}

fn rand_bytes(_: &mut Once) -> u32 {
    unreachable!("a sealed box draws its ephemeral key in one piece")
}

impl CryptoRng for Once {}
