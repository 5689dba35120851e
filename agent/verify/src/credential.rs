//! `TPM2_MakeCredential` in software (TPM 2.0 part 1, section 24): wraps a secret for the TPM that has the EK, to be
//! given out only if the key with that name is in it.

use crate::tpm::{Curve, Public, PublicKey, attribute};
use aes::{Aes128, Aes256};
use cfb_mode::Encryptor;
use cfb_mode::cipher::KeyIvInit;
use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U2048};
use pillar_model::Bank;
use ring::agreement::{ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::digest::{Context, SHA256, SHA384};
use ring::hmac;
use ring::rand::SecureRandom;

/// Longest secret that is wrapped: the digest size of the weakest EK.
pub const SECRET_MAX_BYTES: usize = 32;

const RSA_2048_BYTES: usize = 256;
const IDENTITY: &[u8] = b"IDENTITY";

/// Why no credential can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The EK's public area cannot be read.
    #[error("TPMT_PUBLIC of the EK {0}")]
    Ek(#[from] crate::Malformed),
    /// The EK is not a storage key that stays in its TPM.
    #[error("EK is not a restricted decryption key that is fixed to its TPM")]
    Attributes,
    /// An EK of a size or kind that is not known.
    #[error("EK is neither RSA-2048 nor ECC P-256 or P-384")]
    Unsupported,
    /// The AK's name is not one.
    #[error("AK's name is not a SHA-256 or SHA-384 name")]
    Name,
    /// The secret is empty or over [`SECRET_MAX_BYTES`].
    #[error("secret of {0} bytes is not between 1 and {SECRET_MAX_BYTES}")]
    Secret(usize),
    /// The EK's point is not on its curve, or the modulus is even.
    #[error("EK's public key is not a valid one")]
    Key,
    /// The random source failed.
    #[error("no random bytes")]
    Random,
}

/// A wrapped secret, in the parts that `TPM2_ActivateCredential` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The content of `TPM2B_ID_OBJECT`, without its size.
    pub blob: Vec<u8>,
    /// The content of `TPM2B_ENCRYPTED_SECRET`, without its size.
    pub encrypted_secret: Vec<u8>,
}

/// Wraps the secret for the EK (`TPMT_PUBLIC`), bound to the AK's name. The random source is the caller's.
pub fn make_credential(
    ek_public: &[u8],
    ak_name: &[u8],
    secret: &[u8],
    random: &dyn SecureRandom,
) -> Result<Credential, CredentialError> {
    let ek = storage_key(ek_public)?;
    if !matches!(ak_name, [0, 0x0B, rest @ ..] if rest.len() == 32)
        && !matches!(ak_name, [0, 0x0C, rest @ ..] if rest.len() == 48)
    {
        return Err(CredentialError::Name);
    }
    if secret.is_empty() || secret.len() > SECRET_MAX_BYTES {
        return Err(CredentialError::Secret(secret.len()));
    }
    let (seed, encrypted_secret) = match &ek.key {
        PublicKey::Rsa { modulus } => rsa_seed(ek.name_alg, modulus, random)?,
        PublicKey::Ecc { curve, x, y } => ecc_seed(ek.name_alg, *curve, x, y, random)?,
    };
    let bits = ek.symmetric_bits.ok_or(CredentialError::Attributes)?;
    let blob = protect(ek.name_alg, bits, &seed, ak_name, secret)?;
    Ok(Credential { blob, encrypted_secret })
}

/// The EK, if it is one: it decrypts only what is wrapped for it, and only in its TPM.
pub(crate) fn storage_key(ek_public: &[u8]) -> Result<Public, CredentialError> {
    let ek = Public::parse(ek_public)?;
    let required = attribute::FIXED_TPM
        | attribute::FIXED_PARENT
        | attribute::SENSITIVE_DATA_ORIGIN
        | attribute::RESTRICTED
        | attribute::DECRYPT;
    if !ek.has(required) || ek.has(attribute::SIGN) || ek.symmetric_bits.is_none() || ek.scheme.is_some() {
        return Err(CredentialError::Attributes);
    }
    match &ek.key {
        PublicKey::Rsa { modulus } if modulus.len() != RSA_2048_BYTES => Err(CredentialError::Unsupported),
        _ => Ok(ek),
    }
}

/// PolicyA of the EK Credential Profile: PolicySecret(endorsement), with SHA-256.
const POLICY_A_SHA256: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
/// PolicyB: PolicyOR of PolicyA and an authorised policy, with SHA-256 and SHA-384.
const POLICY_B_SHA256: &str = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0";
const POLICY_B_SHA384: &str =
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12";

/// Whether the EK is of one of the default templates of the TCG EK Credential Profile (2.5, annex B): L-1 and L-2 in the
/// low range, H-1 to H-3 in the high range.
pub(crate) fn is_default_template(ek: &Public) -> bool {
    let low = attribute::FIXED_TPM
        | attribute::FIXED_PARENT
        | attribute::SENSITIVE_DATA_ORIGIN
        | attribute::ADMIN_WITH_POLICY
        | attribute::RESTRICTED
        | attribute::DECRYPT;
    let high = low | attribute::USER_WITH_AUTH;
    let policy = hex::encode(&ek.auth_policy);
    match (&ek.key, ek.name_alg, ek.symmetric_bits) {
        (PublicKey::Rsa { .. } | PublicKey::Ecc { curve: Curve::P256, .. }, Bank::Sha256, Some(128)) => {
            (ek.attributes == low && policy == POLICY_A_SHA256)
                || (ek.attributes == high && policy == POLICY_B_SHA256)
        }
        (PublicKey::Ecc { curve: Curve::P384, .. }, Bank::Sha384, Some(256)) => {
            ek.attributes == high && policy == POLICY_B_SHA384
        }
        _ => false,
    }
}

/// The outer wrap (part 1, section 24.4): the secret encrypted, an HMAC over it and the name in front.
fn protect(
    name_alg: Bank,
    bits: u16,
    seed: &[u8],
    name: &[u8],
    secret: &[u8],
) -> Result<Vec<u8>, CredentialError> {
    let mut identity = sized(secret);
    let key = kdfa(name_alg, seed, b"STORAGE", name, usize::from(bits) / 8);
    let iv = [0; 16];
    let unfit = |_| CredentialError::Attributes;
    if bits == 128 {
        Encryptor::<Aes128>::new_from_slices(&key, &iv).map_err(unfit)?.encrypt(&mut identity);
    } else {
        Encryptor::<Aes256>::new_from_slices(&key, &iv).map_err(unfit)?.encrypt(&mut identity);
    }
    let key = hmac::Key::new(
        hmac_algorithm(name_alg),
        &kdfa(name_alg, seed, b"INTEGRITY", &[], name_alg.digest_bytes()),
    );
    let mut integrity = hmac::Context::with_key(&key);
    integrity.update(&identity);
    integrity.update(name);
    Ok([sized(integrity.sign().as_ref()), identity].concat())
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    // Every caller's bytes are a digest, a coordinate or a secret of at most 32 bytes.
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn hmac_algorithm(name_alg: Bank) -> hmac::Algorithm {
    match name_alg {
        Bank::Sha384 => hmac::HMAC_SHA384,
        _ => hmac::HMAC_SHA256,
    }
}

/// KDFa (part 1, section 11.4.10.2) with one context; the output is never longer than two digests here.
fn kdfa(name_alg: Bank, key: &[u8], label: &[u8], context: &[u8], bytes: usize) -> Vec<u8> {
    let key = hmac::Key::new(hmac_algorithm(name_alg), key);
    let mut output = Vec::new();
    for counter in 1u32.. {
        let mut block = hmac::Context::with_key(&key);
        block.update(&counter.to_be_bytes());
        block.update(label);
        block.update(&[0]);
        block.update(context);
        block.update(&(bytes as u32 * 8).to_be_bytes());
        output.extend_from_slice(block.sign().as_ref());
        if output.len() >= bytes {
            break;
        }
    }
    output.truncate(bytes);
    output
}

/// An ephemeral key agreed with the EK: KDFe over the shared X (part 1, section 11.4.10.3 and C.6.1).
fn ecc_seed(
    name_alg: Bank,
    curve: Curve,
    x: &[u8],
    y: &[u8],
    random: &dyn SecureRandom,
) -> Result<(Vec<u8>, Vec<u8>), CredentialError> {
    let algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    };
    let private = EphemeralPrivateKey::generate(algorithm, random).map_err(|_| CredentialError::Random)?;
    let public = private.compute_public_key().map_err(|_| CredentialError::Random)?;
    let point = public.as_ref().get(1..).unwrap_or_default();
    let (own_x, own_y) = point.split_at_checked(curve.bytes()).ok_or(CredentialError::Random)?;
    let peer = UnparsedPublicKey::new(algorithm, [&[4], x, y].concat());
    let seed = agree_ephemeral(private, &peer, |shared| {
        let mut block = Context::new(if name_alg == Bank::Sha384 { &SHA384 } else { &SHA256 });
        for part in [&1u32.to_be_bytes()[..], shared, IDENTITY, &[0], own_x, x] {
            block.update(part);
        }
        block.finish().as_ref().to_vec()
    });
    let seed = seed.map_err(|_| CredentialError::Key)?;
    Ok((seed, [sized(own_x), sized(own_y)].concat()))
}

/// A random seed under RSAES-OAEP with the label "IDENTITY" and its NUL (part 1, B.4 and B.10.4).
fn rsa_seed(
    name_alg: Bank,
    modulus: &[u8],
    random: &dyn SecureRandom,
) -> Result<(Vec<u8>, Vec<u8>), CredentialError> {
    let mut seed = vec![0; name_alg.digest_bytes()];
    let mut mask_seed = vec![0; name_alg.digest_bytes()];
    random.fill(&mut seed).and_then(|()| random.fill(&mut mask_seed)).map_err(|_| CredentialError::Random)?;
    let padded = oaep(name_alg, &seed, &mask_seed);
    let modulus = Odd::new(U2048::from_be_slice(modulus)).into_option().ok_or(CredentialError::Key)?;
    let parameters = FixedMontyParams::new(modulus);
    let message = FixedMontyForm::new(&U2048::from_be_slice(&padded), &parameters);
    let encrypted = message.pow_bounded_exp(&U2048::from(65537u32), 17).retrieve();
    Ok((seed, encrypted.to_be_bytes().as_ref().to_vec()))
}

/// EME-OAEP encoding (RFC 8017, section 7.1.1) into 256 bytes.
fn oaep(hash: Bank, message: &[u8], seed: &[u8]) -> Vec<u8> {
    let mut data = pillar_measure::hash::hash(hash, &[IDENTITY, &[0]]).0;
    data.resize(RSA_2048_BYTES - hash.digest_bytes() - message.len() - 2, 0);
    data.push(1);
    data.extend_from_slice(message);
    mgf1_xor(hash, seed, &mut data);
    let mut masked_seed = seed.to_vec();
    mgf1_xor(hash, &data, &mut masked_seed);
    [&[0], masked_seed.as_slice(), &data].concat()
}

/// MGF1 (RFC 8017, B.2.1), applied to the target.
fn mgf1_xor(hash: Bank, seed: &[u8], target: &mut [u8]) {
    for (counter, chunk) in (0u32..).zip(target.chunks_mut(hash.digest_bytes())) {
        let mask = pillar_measure::hash::hash(hash, &[seed, &counter.to_be_bytes()]);
        chunk.iter_mut().zip(mask.0).for_each(|(byte, mask)| *byte ^= mask);
    }
}
