//! The attestation key: ECC P-256, restricted, signing with ECDSA and SHA-256, a primary of the endorsement hierarchy.

use tss_esapi::Error;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::structures::{
    EccParameter, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, SymmetricDefinitionObject,
};

/// Goes into the derivation of the key, so that no other program's primary under the same template is this key.
/// Changing it changes every pillar's AK.
const UNIQUE: &[u8; 32] = b"pillar attestation key, v1\0\0\0\0\0\0";

/// The template; with one endorsement seed it always gives the same key.
pub(crate) fn template() -> Result<Public, Error> {
    signing_key(UNIQUE, true)
}

/// A signing key that never leaves its TPM and that nothing but its use needs a password for, and that one is empty.
/// A restricted one signs what the TPM itself made, and nothing else.
pub(crate) fn signing_key(unique: &[u8; 32], restricted: bool) -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(restricted)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_is_decryption_key(false)
        .with_restricted(restricted)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::new(
            EccParameter::try_from(unique.to_vec())?,
            EccParameter::default(),
        ))
        .build()
}
