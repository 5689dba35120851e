//! One quote against one challenge: key, signature, challenge, selection. [`crate::verify`] uses these steps, in this
//! order; [`check_quote`] is all of them for tools and tests.

use crate::tpm::{Curve, Public, PublicKey, Quote, Scheme, Signature, WrongAttest, attribute};
use pillar_model::{Bank, Digest};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use subtle::ConstantTimeEq;

/// Exponent of every RSA key that is accepted.
pub(crate) const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

/// Why a quote is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Not a quote at all.
    #[error(transparent)]
    NotAQuote(#[from] WrongAttest),
    /// The key's structure cannot be read.
    #[error("TPMT_PUBLIC of the AK {0}")]
    Key(crate::Malformed),
    /// The key cannot be trusted to sign quotes alone.
    #[error("AK is not fit to attest: {0}")]
    Unfit(&'static str),
    /// The signature's structure cannot be read.
    #[error("TPMT_SIGNATURE {0}")]
    SignatureForm(crate::Malformed),
    /// The signature names another scheme than the key fixes.
    #[error("signature's scheme {found:?} is not the key's {fixed:?}")]
    Scheme {
        /// The key's.
        fixed: Scheme,
        /// The signature's.
        found: Scheme,
    },
    /// The signature is wrong.
    #[error("signature does not verify with the AK")]
    Signature,
    /// The quote answers another challenge.
    #[error("extraData is not what this challenge demands")]
    Nonce,
    /// Other PCRs or banks than the policy demands.
    #[error("PCR selection {found} is not the policy's {expected}")]
    Selection {
        /// As the policy wants it, in hexadecimal.
        expected: String,
        /// As it is.
        found: String,
    },
}

/// Attributes that every attestation key must have: it was made in its TPM, stays there, and signs nothing but what
/// the TPM made.
const REQUIRED: u32 = attribute::FIXED_TPM
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::RESTRICTED
    | attribute::SIGN;

/// The attestation key from its public area, if it is fit to attest at all. Which one it must be is for the caller.
pub fn attestation_key(ak_public: &[u8]) -> Result<Public, QuoteError> {
    let key = Public::parse(ak_public).map_err(QuoteError::Key)?;
    if !key.has(attribute::RESTRICTED) {
        return Err(QuoteError::Unfit("it is not restricted: it would sign whatever it is given"));
    }
    if !key.has(REQUIRED) {
        return Err(QuoteError::Unfit("fixedTPM, fixedParent, sensitiveDataOrigin and sign must be set"));
    }
    if key.has(attribute::DECRYPT) || key.symmetric_bits.is_some() {
        return Err(QuoteError::Unfit("it decrypts as well"));
    }
    match (&key.key, key.scheme) {
        (_, None) => Err(QuoteError::Unfit("it fixes no signing scheme")),
        (PublicKey::Rsa { modulus }, Some(_)) if modulus.len() < 256 => {
            Err(QuoteError::Unfit("RSA with less than 2048 bits"))
        }
        (PublicKey::Ecc { curve: Curve::P256, .. }, Some(Scheme::Ecdsa(Bank::Sha256)))
        | (PublicKey::Ecc { curve: Curve::P384, .. }, Some(Scheme::Ecdsa(Bank::Sha384)))
        | (PublicKey::Rsa { .. }, Some(_)) => Ok(key),
        _ => Err(QuoteError::Unfit("its hash does not belong to its curve")),
    }
}

/// The signature over the message, by the scheme that the key fixes.
pub fn check_signature(key: &Public, message: &[u8], signature: &[u8]) -> Result<(), QuoteError> {
    let fixed = key.scheme.ok_or(QuoteError::Unfit("it fixes no signing scheme"))?;
    let signature = Signature::parse(signature, &key.key).map_err(QuoteError::SignatureForm)?;
    if signature.scheme != fixed {
        return Err(QuoteError::Scheme { fixed, found: signature.scheme });
    }
    let verified = match (&key.key, fixed) {
        (PublicKey::Rsa { modulus }, scheme) => {
            let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: &RSA_EXPONENT };
            rsa_parameters(scheme).is_some_and(|p| key.verify(p, message, &signature.bytes).is_ok())
        }
        (PublicKey::Ecc { curve, x, y }, _) => {
            let point = [&[4], x.as_slice(), y].concat();
            let algorithm = match curve {
                Curve::P256 => &ECDSA_P256_SHA256_FIXED,
                Curve::P384 => &ECDSA_P384_SHA384_FIXED,
            };
            UnparsedPublicKey::new(algorithm, point).verify(message, &signature.bytes).is_ok()
        }
    };
    if verified { Ok(()) } else { Err(QuoteError::Signature) }
}

fn rsa_parameters(scheme: Scheme) -> Option<&'static RsaParameters> {
    match scheme {
        Scheme::RsaSsa(Bank::Sha256) => Some(&RSA_PKCS1_2048_8192_SHA256),
        Scheme::RsaSsa(Bank::Sha384) => Some(&RSA_PKCS1_2048_8192_SHA384),
        Scheme::RsaSsa(Bank::Sha512) => Some(&RSA_PKCS1_2048_8192_SHA512),
        Scheme::RsaPss(Bank::Sha256) => Some(&RSA_PSS_2048_8192_SHA256),
        Scheme::RsaPss(Bank::Sha384) => Some(&RSA_PSS_2048_8192_SHA384),
        Scheme::RsaPss(Bank::Sha512) => Some(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

/// The challenge, compared in constant time.
pub fn check_nonce(quote: &Quote, nonce: &[u8]) -> Result<(), QuoteError> {
    if bool::from(quote.extra_data.ct_eq(nonce)) { Ok(()) } else { Err(QuoteError::Nonce) }
}

/// The selection, byte for byte.
pub fn check_selection(quote: &Quote, selection: &[u8]) -> Result<(), QuoteError> {
    if quote.selection == selection {
        return Ok(());
    }
    Err(QuoteError::Selection { expected: hex::encode(selection), found: hex::encode(&quote.selection) })
}

/// Everything about a quote that does not need a log: returns the digest over the PCR values, which still has to be
/// explained.
pub fn check_quote(
    attest: &[u8],
    signature: &[u8],
    ak_public: &[u8],
    nonce: &[u8],
    selection: &[u8],
) -> Result<Digest, QuoteError> {
    let quote = Quote::parse(attest)?;
    let key = attestation_key(ak_public)?;
    check_signature(&key, attest, signature)?;
    check_nonce(&quote, nonce)?;
    check_selection(&quote, selection)?;
    Ok(quote.pcr_digest)
}
