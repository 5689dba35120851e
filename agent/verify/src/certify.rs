//! The TLS key: that it is the TPM's, by a certification with the AK (`TPM2_Certify`, TPM 2.0 part 3, section 18.2). A
//! restricted key signs such a statement only about a key that is loaded in its own TPM.

use crate::quote::{QuoteError, attestation_key, check_signature};
use crate::tpm::{
    Certification, Curve, Public, PublicKey, Scheme, WrongAttest, attribute, endorsement_primary,
};
use pillar_model::Bank;
use subtle::ConstantTimeEq;

/// Qualifying data of the certification: SHA-256 of "pillar-tls-key-v1". Fixed, because the statement is about the key
/// alone; that the key is there now is what the TLS handshake shows.
pub const TLS_CERTIFY_DATA: &[u8; 32] = &[
    0x4e, 0x46, 0xcc, 0xdb, 0xe9, 0x50, 0x25, 0xcc, 0xbb, 0xd7, 0x47, 0xa6, 0xbf, 0x68, 0x0b, 0xdb, 0x17,
    0x93, 0xbb, 0x11, 0x12, 0x38, 0x94, 0x12, 0x25, 0xa2, 0x56, 0x01, 0x42, 0xd6, 0xac, 0x19,
];

/// SubjectPublicKeyInfo (RFC 5480) of a P-256 key, up to its point.
const SPKI_P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Attributes that the TLS key must have: made in its TPM, stays there, signs.
const REQUIRED: u32 =
    attribute::FIXED_TPM | attribute::FIXED_PARENT | attribute::SENSITIVE_DATA_ORIGIN | attribute::SIGN;

/// Why a TLS key is not believed to be the TPM's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsKeyError {
    /// A structure is over its limit.
    #[error("{what} has {len} bytes; 1 to {limit} are allowed")]
    Size {
        /// Which.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The AK or its signature.
    #[error(transparent)]
    Ak(#[from] QuoteError),
    /// The key's structure cannot be read.
    #[error("TPMT_PUBLIC of the TLS key {0}")]
    Key(crate::Malformed),
    /// The key can leave its TPM, or was not made there, or is of another kind.
    #[error("TLS key {0}")]
    Unfit(&'static str),
    /// Not a certification.
    #[error(transparent)]
    Attest(#[from] WrongAttest),
    /// The statement was made for something else.
    #[error("certification was made for another purpose: its qualifying data is not that of a TLS key")]
    Purpose,
    /// The statement is about another key.
    #[error("certification is about another key than the TLS key")]
    OtherKey,
    /// The AK is not where AKs are.
    #[error("AK is not a primary key of the endorsement hierarchy")]
    Hierarchy,
}

/// The TLS key as SubjectPublicKeyInfo (DER), when the AK certified it: a P-256 key that was made in the AK's TPM, stays
/// there, and signs what TLS wants signed. Which AK it must be is for the caller.
pub fn tls_key(
    ak_public: &[u8],
    tls_public: &[u8],
    tls_attest: &[u8],
    tls_signature: &[u8],
) -> Result<Vec<u8>, TlsKeyError> {
    let (spki, statement, ak) =
        certified(ak_public, tls_public, tls_attest, tls_signature, TLS_CERTIFY_DATA)?;
    if statement.head.qualified_signer != endorsement_primary(&ak) {
        return Err(TlsKeyError::Hierarchy);
    }
    Ok(spki)
}

/// [`tls_key`] under other qualifying data and with an AK of any hierarchy: for tools and tests.
pub fn certified_key(
    ak_public: &[u8],
    tls_public: &[u8],
    tls_attest: &[u8],
    tls_signature: &[u8],
    data: &[u8],
) -> Result<Vec<u8>, TlsKeyError> {
    certified(ak_public, tls_public, tls_attest, tls_signature, data).map(|(spki, ..)| spki)
}

fn certified(
    ak_public: &[u8],
    tls_public: &[u8],
    tls_attest: &[u8],
    tls_signature: &[u8],
    data: &[u8],
) -> Result<(Vec<u8>, Certification, Public), TlsKeyError> {
    let sizes = [
        ("AK", ak_public.len(), crate::PUBLIC_MAX_BYTES),
        ("TLS key", tls_public.len(), crate::PUBLIC_MAX_BYTES),
        ("certification", tls_attest.len(), crate::ATTEST_MAX_BYTES),
        ("certification's signature", tls_signature.len(), crate::SIGNATURE_MAX_BYTES),
    ];
    if let Some((what, len, limit)) = sizes.into_iter().find(|(_, len, limit)| *len == 0 || len > limit) {
        return Err(TlsKeyError::Size { what, len, limit });
    }
    let statement = Certification::parse(tls_attest)?;
    let ak = attestation_key(ak_public)?;
    let key = Public::parse(tls_public).map_err(TlsKeyError::Key)?;
    let spki = fit(&key)?;
    check_signature(&ak, tls_attest, tls_signature)?;
    if !bool::from(statement.head.extra_data.ct_eq(data)) {
        return Err(TlsKeyError::Purpose);
    }
    if statement.name != key.name() {
        return Err(TlsKeyError::OtherKey);
    }
    Ok((spki, statement, ak))
}

/// The SubjectPublicKeyInfo of a key that is fit for TLS.
fn fit(key: &Public) -> Result<Vec<u8>, TlsKeyError> {
    if !key.has(REQUIRED) {
        let reason = "may leave its TPM or was not made there: fixedTPM, fixedParent, sensitiveDataOrigin and sign must be set";
        return Err(TlsKeyError::Unfit(reason));
    }
    if key.has(attribute::RESTRICTED) {
        return Err(TlsKeyError::Unfit("is restricted: it cannot sign a handshake"));
    }
    if key.has(attribute::DECRYPT) || key.symmetric_bits.is_some() {
        return Err(TlsKeyError::Unfit("decrypts as well"));
    }
    let scheme = matches!(key.scheme, None | Some(Scheme::Ecdsa(Bank::Sha256)));
    match &key.key {
        PublicKey::Ecc { curve: Curve::P256, x, y } if scheme && key.name_alg == Bank::Sha256 => {
            Ok([SPKI_P256.as_slice(), x, y].concat())
        }
        _ => Err(TlsKeyError::Unfit("is not a P-256 key for ECDSA with SHA-256")),
    }
}
