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
    let attributes = crate::attributes(
        ObjectAttributesBuilder::new().with_user_with_auth(true).with_no_da(true).with_sign_encrypt(true),
    )?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_is_decryption_key(false)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::new(
            EccParameter::try_from(UNIQUE.to_vec())?,
            EccParameter::default(),
        ))
        .build()
}
