//! The endorsement key by the TCG EK Credential Profile for TPM Family 2.0 (version 2.5): certificate from NV, key from
//! the default template that belongs to that NV index. Templates and nonces of a manufacturer's own, in NV, are not
//! supported; a certificate for such a key is refused as foreign.

use crate::{Error, Primary, Tpm};
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, nv};
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{AuthHandle, NvIndexHandle, NvIndexTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{CapabilityData, Digest, Nonce, Public, SymmetricDefinition};
use tss_esapi::{Context, Error as TssError};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::RSAPublicKey;

/// First NV index of the range in which EK certificates are.
const NV_RANGE: u32 = 0x01c0_0000;
/// NV indices asked for at once; a TPM has a few dozen.
const NV_COUNT: u32 = 254;
/// An EK certificate larger than this is refused.
const CERTIFICATE_MAX_BYTES: usize = 8 * 1024;

/// The kinds of EK that are looked for, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Template L-2.
    EccP256,
    /// Template L-1.
    Rsa2048,
    /// Template H-3.
    EccP384,
}

/// An EK with its certificate.
pub(crate) struct Ek {
    pub kind: Kind,
    pub primary: Primary,
    pub certificate: Vec<u8>,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::EccP256, Kind::Rsa2048, Kind::EccP384];

    fn nv_index(self) -> u32 {
        match self {
            Kind::EccP256 => 0x01c0_000a,
            Kind::Rsa2048 => 0x01c0_0002,
            Kind::EccP384 => 0x01c0_0016,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::EccP256 => "ECC P-256",
            Kind::Rsa2048 => "RSA-2048",
            Kind::EccP384 => "ECC P-384 high range",
        }
    }

    fn template(self) -> Result<Public, TssError> {
        let algorithm = match self {
            Kind::EccP256 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
            Kind::Rsa2048 => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
            Kind::EccP384 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384),
        };
        create_ek_public_from_default_template_2(algorithm, None)
    }

    /// Runs `command` with what authorises the use of this EK: PolicySecret(endorsement) in the low range (PolicyA);
    /// in the high range `userWithAuth` is set and the empty password does, so PolicyB is not needed.
    pub(crate) fn authorize<T>(
        self,
        context: &mut Context,
        command: impl FnOnce(&mut Context, AuthSession) -> Result<T, TssError>,
    ) -> Result<T, TssError> {
        match self {
            Kind::EccP384 => command(context, AuthSession::Password),
            Kind::EccP256 | Kind::Rsa2048 => {
                let session = context.start_auth_session(
                    None,
                    None,
                    None,
                    SessionType::Policy,
                    SymmetricDefinition::AES_128_CFB,
                    HashingAlgorithm::Sha256,
                )?;
                let session =
                    session.ok_or(TssError::WrapperError(tss_esapi::WrapperErrorKind::WrongValueFromTpm))?;
                let result = satisfy_policy_a(context, session).and_then(|()| command(context, session));
                let flushed = context.flush_context(SessionHandle::from(session).into());
                result.and_then(|value| flushed.map(|()| value))
            }
        }
    }
}

fn satisfy_policy_a(context: &mut Context, session: AuthSession) -> Result<(), TssError> {
    let policy = PolicySession::try_from(session)?;
    context.execute_with_session(Some(AuthSession::Password), |context| {
        context
            .policy_secret(
                policy,
                AuthHandle::Endorsement,
                Nonce::default(),
                Digest::default(),
                Nonce::default(),
                None,
            )
            .map(drop)
    })
}

/// The best EK whose certificate is in NV and is for the key that its template gives.
pub(crate) fn find(tpm: &mut Tpm) -> Result<Ek, Error> {
    let present = nv_indices(tpm)?;
    let mut refused = None;
    for kind in Kind::ALL.into_iter().filter(|kind| present.contains(&kind.nv_index())) {
        match open(tpm, kind) {
            Ok(ek) => return Ok(ek),
            // The next kind may do; if none does, the first refusal is the one to tell.
            Err(error @ (Error::Certificate { .. } | Error::ForeignCertificate { .. })) => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::NoCertificate {
        looked: Kind::ALL.map(|kind| format!("{:#010x} {}", kind.nv_index(), kind.name())).join(", "),
    }))
}

fn open(tpm: &mut Tpm, kind: Kind) -> Result<Ek, Error> {
    let index = kind.nv_index();
    let padded = read_nv(tpm, index)?;
    let malformed = |reason: String| Error::Certificate { index, reason };
    if padded.len() > CERTIFICATE_MAX_BYTES {
        return Err(malformed(format!("{} bytes, at most {CERTIFICATE_MAX_BYTES} are read", padded.len())));
    }
    let (padding, certificate) =
        X509Certificate::from_der(&padded).map_err(|error| malformed(error.to_string()))?;
    let primary = tpm.primary("create EK", kind.template())?;
    if !is_for(&certificate, &primary.parsed) {
        return Err(Error::ForeignCertificate { index, template: kind.name() });
    }
    let length = padded.len() - padding.len();
    Ok(Ek { kind, primary, certificate: padded[..length].to_vec() })
}

/// Whether the certificate's key is that key, by its numbers. Certificates name RSA keys as rsaEncryption or RSAES-OAEP;
/// the key inside is the same structure.
fn is_for(certificate: &X509Certificate<'_>, key: &Public) -> bool {
    let bits = &certificate.public_key().subject_public_key.data;
    match key {
        Public::Ecc { unique, .. } => {
            let point = [&[4], unique.x().value(), unique.y().value()].concat();
            **bits == *point
        }
        Public::Rsa { unique, .. } => RSAPublicKey::from_der(bits).is_ok_and(|(_, rsa)| {
            let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
            modulus == unique.value() && rsa.try_exponent() == Ok(65537)
        }),
        _ => false,
    }
}

/// The NV indices that exist in the range of EK certificates: asked for, so that no read has to fail.
fn nv_indices(tpm: &mut Tpm) -> Result<Vec<u32>, Error> {
    const OPERATION: &str = "list the TPM's NV indices";
    let (capability, _) = tpm
        .attempt(OPERATION, |context| context.get_capability(CapabilityType::Handles, NV_RANGE, NV_COUNT))?;
    match capability {
        CapabilityData::Handles(handles) => Ok(handles.iter().map(|&handle| handle.into()).collect()),
        _ => Err(Error::Answer { operation: OPERATION }),
    }
}

fn read_nv(tpm: &mut Tpm, index: u32) -> Result<Vec<u8>, Error> {
    tpm.attempt("read the EK certificate", |context| {
        let handle = NvIndexTpmHandle::new(index)?;
        let object = context.tr_from_tpm_public(TpmHandle::NvIndex(handle))?;
        // With the index's own (empty) password: the owner's may belong to somebody. `read_full` closes the object.
        let auth = NvAuth::NvIndex(NvIndexHandle::from(object));
        context
            .execute_with_session(Some(AuthSession::Password), |context| nv::read_full(context, auth, handle))
    })
}
