//! The TPM's structures that evidence is made of: `TPMS_ATTEST`, `TPMT_SIGNATURE`, `TPMT_PUBLIC` (TPM 2.0 part 2), parsed
//! whole and strictly. Algorithms that are not listed here are not understood, so refused.

use crate::read::{Malformed, Reader};
use pillar_layout::pcr;
use pillar_model::{Bank, Digest, TpmVersion};
use ring::digest::{SHA256, SHA384, digest};
use serde::{Deserialize, Serialize};

/// `TPM_GENERATED_VALUE`: a restricted key signs nothing that begins with it unless the TPM itself made it.
pub const MAGIC: u32 = 0xFF54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
pub const ST_QUOTE: u16 = 0x8018;
/// `TPM_ST_ATTEST_CERTIFY`.
pub const ST_CERTIFY: u16 = 0x8017;
/// `TPM_RH_ENDORSEMENT`.
const RH_ENDORSEMENT: u32 = 0x4000_000B;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;

/// Longest name: algorithm and SHA-512.
const NAME_MAX: usize = 66;
const DIGEST_MAX: usize = 64;
/// RSA-4096.
const RSA_MAX: usize = 512;

/// `TPMA_OBJECT` bits (part 2, section 8.3).
pub mod attribute {
    /// The key never leaves its TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// The key never leaves its parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM made the key itself.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// A password (here: the empty one) authorises its use.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Only a policy authorises its administration.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// Wrong passwords do not lock it.
    pub const NO_DA: u32 = 1 << 10;
    /// It works on structures of the TPM alone.
    pub const RESTRICTED: u32 = 1 << 16;
    /// It decrypts.
    pub const DECRYPT: u32 = 1 << 17;
    /// It signs.
    pub const SIGN: u32 = 1 << 18;
}

/// An elliptic curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    /// Bytes of a coordinate.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
        }
    }

    fn from_id(id: u16) -> Result<Self, Malformed> {
        match id {
            CURVE_P256 => Ok(Curve::P256),
            CURVE_P384 => Ok(Curve::P384),
            value => Err(Malformed::Value { field: "curve", value: value.into() }),
        }
    }
}

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(Bank),
    /// RSASSA-PSS.
    RsaPss(Bank),
    /// ECDSA.
    Ecdsa(Bank),
}

/// The numbers of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA; the exponent is 65537.
    Rsa {
        /// Modulus, big endian, without leading zeros.
        modulus: Vec<u8>,
    },
    /// A point.
    Ecc {
        /// The curve.
        curve: Curve,
        /// X coordinate, in the curve's full length.
        x: Vec<u8>,
        /// Y coordinate, in the curve's full length.
        y: Vec<u8>,
    },
}

/// A `TPMT_PUBLIC` of an RSA or ECC key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// Hash of the name, and of what protects credentials for the key.
    pub name_alg: Bank,
    /// `TPMA_OBJECT`.
    pub attributes: u32,
    /// Policy that authorises the key's use.
    pub auth_policy: Vec<u8>,
    /// Bits of the AES-CFB key of a storage key.
    pub symmetric_bits: Option<u16>,
    /// The scheme, when the key fixes one.
    pub scheme: Option<Scheme>,
    /// The key.
    pub key: PublicKey,
    name: Vec<u8>,
}

impl Public {
    /// Parses a `TPMT_PUBLIC`, whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u16()?;
        let name_alg = name_hash(reader.u16()?)?;
        let attributes = reader.u32()?;
        let auth_policy = reader.sized("policy", DIGEST_MAX)?.to_vec();
        let symmetric_bits = symmetric(&mut reader)?;
        let scheme = scheme(&mut reader, kind)?;
        let key = match kind {
            ALG_RSA => rsa(&mut reader)?,
            ALG_ECC => ecc(&mut reader)?,
            value => return Err(Malformed::Value { field: "key type", value: value.into() }),
        };
        reader.end()?;
        let hashed = match name_alg {
            Bank::Sha384 => digest(&SHA384, bytes),
            _ => digest(&SHA256, bytes),
        };
        let name = [&name_alg.alg_id().to_be_bytes(), hashed.as_ref()].concat();
        Ok(Self { name_alg, attributes, auth_policy, symmetric_bits, scheme, key, name })
    }

    /// The key's name: the name algorithm's number, then the hash of the public area (part 1, section 16).
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether all these attributes are set.
    #[must_use]
    pub fn has(&self, attributes: u32) -> bool {
        self.attributes & attributes == attributes
    }
}

fn name_hash(id: u16) -> Result<Bank, Malformed> {
    match Bank::from_alg_id(id) {
        Some(bank @ (Bank::Sha256 | Bank::Sha384)) => Ok(bank),
        _ => Err(Malformed::Value { field: "name algorithm", value: id.into() }),
    }
}

/// `TPMT_SYM_DEF_OBJECT`: none, or AES-CFB.
fn symmetric(reader: &mut Reader<'_>) -> Result<Option<u16>, Malformed> {
    match reader.u16()? {
        ALG_NULL => Ok(None),
        ALG_AES => {
            let (bits, mode) = (reader.u16()?, reader.u16()?);
            if !matches!(bits, 128 | 256) {
                return Err(Malformed::Value { field: "AES key bits", value: bits.into() });
            }
            if mode != ALG_CFB {
                return Err(Malformed::Value { field: "AES mode", value: mode.into() });
            }
            Ok(Some(bits))
        }
        value => Err(Malformed::Value { field: "symmetric algorithm", value: value.into() }),
    }
}

/// `TPMT_RSA_SCHEME` or `TPMT_ECC_SCHEME`: none, or one of the signing schemes.
fn scheme(reader: &mut Reader<'_>, kind: u16) -> Result<Option<Scheme>, Malformed> {
    let id = reader.u16()?;
    if id == ALG_NULL {
        return Ok(None);
    }
    let hash = reader.u16()?;
    let hash = Bank::from_alg_id(hash)
        .filter(|b| *b != Bank::Sha1)
        .ok_or(Malformed::Value { field: "scheme's hash", value: hash.into() })?;
    match (kind, id) {
        (ALG_RSA, ALG_RSASSA) => Ok(Some(Scheme::RsaSsa(hash))),
        (ALG_RSA, ALG_RSAPSS) => Ok(Some(Scheme::RsaPss(hash))),
        (ALG_ECC, ALG_ECDSA) => Ok(Some(Scheme::Ecdsa(hash))),
        _ => Err(Malformed::Value { field: "scheme", value: id.into() }),
    }
}

fn rsa(reader: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    let (bits, exponent) = (reader.u16()?, reader.u32()?);
    if exponent != 0 && exponent != 65537 {
        return Err(Malformed::Value { field: "RSA exponent", value: exponent.into() });
    }
    let modulus = reader.sized("RSA modulus", RSA_MAX)?;
    // The top bit is set, so that there is one way to write the modulus.
    if usize::from(bits) != modulus.len() * 8 || modulus.first().is_none_or(|b| *b < 0x80) {
        return Err(Malformed::Value { field: "RSA key bits", value: bits.into() });
    }
    Ok(PublicKey::Rsa { modulus: modulus.to_vec() })
}

fn ecc(reader: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    let curve = Curve::from_id(reader.u16()?)?;
    let kdf = reader.u16()?;
    if kdf != ALG_NULL {
        return Err(Malformed::Value { field: "key derivation", value: kdf.into() });
    }
    let x = coordinate(reader, curve)?;
    let y = coordinate(reader, curve)?;
    Ok(PublicKey::Ecc { curve, x, y })
}

/// A number of at most the curve's length, padded to it. TPMs may leave leading zeros away, but never mix both ways.
fn coordinate(reader: &mut Reader<'_>, curve: Curve) -> Result<Vec<u8>, Malformed> {
    let bytes = reader.sized("coordinate", curve.bytes())?;
    if bytes.len() < curve.bytes() && bytes.first().is_none_or(|b| *b == 0) {
        return Err(Malformed::Value { field: "coordinate's length", value: bytes.len() as u64 });
    }
    let mut full = vec![0; curve.bytes() - bytes.len()];
    full.extend_from_slice(bytes);
    Ok(full)
}

/// A `TPMT_SIGNATURE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The scheme that it claims.
    pub scheme: Scheme,
    /// RSA: the signature. ECDSA: r and s, each in the length of P-384 or P-256, whichever holds them.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Parses a `TPMT_SIGNATURE`, whole; the key's type says how long its numbers are.
    pub fn parse(bytes: &[u8], key: &PublicKey) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let (id, hash) = (reader.u16()?, reader.u16()?);
        let hash = Bank::from_alg_id(hash)
            .ok_or(Malformed::Value { field: "signature's hash", value: hash.into() })?;
        let unknown = Malformed::Value { field: "signature scheme", value: id.into() };
        let signature = match (id, key) {
            (ALG_RSASSA | ALG_RSAPSS, PublicKey::Rsa { .. }) => {
                let bytes = reader.sized("RSA signature", RSA_MAX)?.to_vec();
                let scheme = if id == ALG_RSASSA { Scheme::RsaSsa(hash) } else { Scheme::RsaPss(hash) };
                Self { scheme, bytes }
            }
            (ALG_ECDSA, PublicKey::Ecc { curve, .. }) => {
                let mut bytes = coordinate(&mut reader, *curve)?;
                bytes.extend(coordinate(&mut reader, *curve)?);
                Self { scheme: Scheme::Ecdsa(hash), bytes }
            }
            _ => return Err(unknown),
        };
        reader.end()?;
        Ok(signature)
    }
}

/// The TPM's clock and counters as a quote has them; comparable with those of an earlier quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Milliseconds that the TPM was powered.
    pub clock_ms: u64,
    /// TPM resets: one for each boot of the machine.
    pub reset_count: u32,
    /// Restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Whether the clock surely never showed a higher value: not so after the power went without notice.
    pub safe: bool,
    /// The TPM's firmware version, by its manufacturer's counting.
    pub firmware_version: u64,
}

impl Counters {
    /// The firmware's version as people write it.
    #[must_use]
    pub fn tpm_version(&self) -> TpmVersion {
        TpmVersion(self.firmware_version)
    }
}

/// What every `TPMS_ATTEST` has, behind its magic and type (part 2, section 10.12.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Name of the key that signed, with its hierarchy.
    pub qualified_signer: Vec<u8>,
    /// What the challenger wanted signed.
    pub extra_data: Vec<u8>,
    /// Clock and counters.
    pub counters: Counters,
}

/// Why bytes are not the attestation that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongAttest {
    /// The structure was not made by a TPM.
    #[error("magic is {0:#010x}, not TPM_GENERATED: the TPM did not make this structure")]
    Magic(u32),
    /// Another kind: a quote, a certification, a time stamp, an audit …
    #[error("attestation of type {found:#06x}, not {wanted}")]
    Type {
        /// What was wanted, in words.
        wanted: &'static str,
        /// `TPMI_ST_ATTEST` that was found.
        found: u16,
    },
    /// Malformed.
    #[error("TPMS_ATTEST {0}")]
    Malformed(#[from] Malformed),
}

impl Head {
    fn read(reader: &mut Reader<'_>, kind: u16, wanted: &'static str) -> Result<Self, WrongAttest> {
        let magic = reader.u32()?;
        if magic != MAGIC {
            return Err(WrongAttest::Magic(magic));
        }
        let found = reader.u16()?;
        if found != kind {
            return Err(WrongAttest::Type { wanted, found });
        }
        let qualified_signer = reader.sized("qualified signer", NAME_MAX)?.to_vec();
        let extra_data = reader.sized("extra data", DIGEST_MAX)?.to_vec();
        let (clock_ms, reset_count, restart_count) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let safe = match reader.u8()? {
            0 => false,
            1 => true,
            value => return Err(Malformed::Value { field: "safe", value: value.into() }.into()),
        };
        let firmware_version = reader.u64()?;
        let counters = Counters { clock_ms, reset_count, restart_count, safe, firmware_version };
        Ok(Self { qualified_signer, extra_data, counters })
    }
}

/// A `TPMS_ATTEST` that is a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Name of the key that signed, with its hierarchy.
    pub qualified_signer: Vec<u8>,
    /// What the challenger wanted signed.
    pub extra_data: Vec<u8>,
    /// Clock and counters.
    pub counters: Counters,
    /// `TPML_PCR_SELECTION`, byte for byte.
    pub selection: Vec<u8>,
    /// Hash over the selected PCRs' values, one after the other.
    pub pcr_digest: Digest,
}

impl Quote {
    /// Parses a `TPMS_ATTEST` that is a quote, whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, WrongAttest> {
        let mut reader = Reader::new(bytes);
        let Head { qualified_signer, extra_data, counters } =
            Head::read(&mut reader, ST_QUOTE, "a quote (0x8018)")?;
        let start = reader.offset();
        let count = reader.u32()?;
        // As many banks as a TPM can have; what is right is for the policy to say.
        if count > 16 {
            return Err(Malformed::Value { field: "number of banks", value: count.into() }.into());
        }
        for _ in 0..count {
            let _hash = reader.u16()?;
            let len = reader.u8()?;
            reader.take(len.into())?;
        }
        let selection = reader.since(start).to_vec();
        let pcr_digest = Digest(reader.sized("PCR digest", DIGEST_MAX)?.to_vec());
        reader.end()?;
        Ok(Self { qualified_signer, extra_data, counters, selection, pcr_digest })
    }
}

/// A `TPMS_ATTEST` that certifies a key: `TPM2_Certify`'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certification {
    /// Head.
    pub head: Head,
    /// Name of the key that is certified.
    pub name: Vec<u8>,
    /// Its name with its parents'.
    pub qualified_name: Vec<u8>,
}

impl Certification {
    /// Parses a `TPMS_ATTEST` that certifies a key, whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, WrongAttest> {
        let mut reader = Reader::new(bytes);
        let head = Head::read(&mut reader, ST_CERTIFY, "a certification (0x8017)")?;
        let name = reader.sized("name", NAME_MAX)?.to_vec();
        let qualified_name = reader.sized("qualified name", NAME_MAX)?.to_vec();
        reader.end()?;
        Ok(Self { head, name, qualified_name })
    }
}

/// The qualified name of a primary key of the endorsement hierarchy (part 1, section 26.5): the hash over the hierarchy's
/// handle and the key's name.
#[must_use]
pub fn endorsement_primary(key: &Public) -> Vec<u8> {
    let algorithm = if key.name_alg == Bank::Sha384 { &SHA384 } else { &SHA256 };
    let mut context = ring::digest::Context::new(algorithm);
    context.update(&RH_ENDORSEMENT.to_be_bytes());
    context.update(key.name());
    [&key.name_alg.alg_id().to_be_bytes(), context.finish().as_ref()].concat()
}

/// The canonical `TPML_PCR_SELECTION` of these PCRs in one bank: three bytes of bits, as PC Client TPMs write it.
#[must_use]
pub fn selection(bank: Bank, pcrs: &[u8]) -> Vec<u8> {
    let mut bits = [0u8; 3];
    for pcr in pcrs {
        if let Some(byte) = bits.get_mut(usize::from(pcr / 8)) {
            *byte |= 1 << (pcr % 8);
        }
    }
    [&1u32.to_be_bytes()[..], &bank.alg_id().to_be_bytes(), &[3], &bits].concat()
}

/// [`selection`] of `layout::pcr::QUOTED`: the one that evidence must have.
#[must_use]
pub fn evidence_selection(bank: Bank) -> Vec<u8> {
    selection(bank, &pcr::QUOTED)
}
