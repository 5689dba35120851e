//! The endorsement key by the TCG EK Credential Profile for TPM Family 2.0 (version 2.5): certificate from NV, key from
//! the default template that belongs to that NV index, or from the maker's own template or nonce when these are in NV.
//! Whichever it is, the certificate must be for the key.

use crate::error::Fault;
use crate::{Error, Primary, Tpm, nv, session};
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, KeyCustomization};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::AuthHandle;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, EccParameter, EccPoint, Nonce, Public, PublicBuilder, PublicKeyRsa};
use tss_esapi::traits::UnMarshall;
use tss_esapi::{Context, Error as TssError};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::RSAPublicKey;

/// An EK certificate larger than this is refused.
const CERTIFICATE_MAX_BYTES: usize = 8 * 1024;
/// Size of the `unique` field of the low range's RSA key, and of its ECC key's coordinates.
const RSA_UNIQUE_BYTES: usize = 256;
const COORDINATE_BYTES: usize = 32;

/// PolicyA with SHA-256, `TPM2_PolicySecret(TPM_RH_ENDORSEMENT)`, as the profile has it.
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// PolicyB with SHA-256, `TPM2_PolicyOR` of PolicyA and PolicyC. tss-esapi has those of the larger
/// hashes only.
const POLICY_B: [u8; 32] = [
    0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3, 0xa3,
    0x85, 0xd4, 0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0,
];

/// A kind of EK: the NV indices of its certificate, its template and its nonce, and what the key is.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    certificate: u32,
    template: u32,
    /// In the low range alone.
    nonce: Option<u32>,
    algorithm: AsymmetricAlgorithmSelection,
}

/// The kinds that are looked for, best first: what everybody verifies before what few do. (H-5 is SM2.)
const KINDS: [Kind; 8] = [
    Kind {
        name: "L-2 (ECC P-256)",
        certificate: 0x01c0_000a,
        template: 0x01c0_000c,
        nonce: Some(0x01c0_000b),
        algorithm: AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
    },
    Kind::high("H-2 (ECC P-256)", 0x01c0_0014, AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256)),
    Kind {
        name: "L-1 (RSA-2048)",
        certificate: 0x01c0_0002,
        template: 0x01c0_0004,
        nonce: Some(0x01c0_0003),
        algorithm: AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
    },
    Kind::high("H-1 (RSA-2048)", 0x01c0_0012, AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048)),
    Kind::high("H-3 (ECC P-384)", 0x01c0_0016, AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384)),
    Kind::high("H-4 (ECC P-521)", 0x01c0_0018, AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP521)),
    Kind::high("H-6 (RSA-3072)", 0x01c0_001c, AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa3072)),
    Kind::high("H-7 (RSA-4096)", 0x01c0_001e, AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa4096)),
];

/// An EK with its certificate.
pub(crate) struct Ek {
    pub authorization: Authorization,
    pub primary: Primary,
    pub certificate: Vec<u8>,
}

/// What authorises the use of an EK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// The empty password: `userWithAuth` is set, in the high range, so PolicyB is not needed.
    Password,
    /// PolicyA, in the low range.
    PolicyA,
}

impl Kind {
    const fn high(name: &'static str, certificate: u32, algorithm: AsymmetricAlgorithmSelection) -> Self {
        Self { name, certificate, template: certificate + 1, nonce: None, algorithm }
    }

    /// The templates that the certified key may have been made from, the likeliest first: what is in NV, then the
    /// profile's own.
    fn templates(&self, tpm: &mut Tpm, present: &[u32]) -> Result<Vec<Result<Public, TssError>>, Error> {
        const OPERATION: &str = "read the EK's template";
        let mut templates = Vec::new();
        let mut nonce = None;
        if let Some(index) = self.nonce.filter(|index| present.contains(index)) {
            nonce = Some(nv::read(tpm, OPERATION, index)?);
        }
        if present.contains(&self.template) {
            let bytes = nv::read(tpm, OPERATION, self.template)?;
            let index = self.template;
            let template = Public::unmarshall(&bytes).map_err(|_| Error::Template { index })?;
            if !stays_and_decrypts(&template) {
                return Err(Error::Template { index });
            }
            templates.push(match &nonce {
                Some(nonce) => with_unique(template.clone(), nonce),
                None => Ok(template.clone()),
            });
            templates.push(Ok(template));
        }
        if let Some(nonce) = &nonce {
            templates.push(self.default_template().and_then(|template| with_unique(template, nonce)));
        }
        templates.push(self.default_template());
        Ok(templates)
    }

    fn default_template(&self) -> Result<Public, TssError> {
        let small = matches!(
            self.algorithm,
            AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048)
                | AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256)
        );
        // tss-esapi takes these two for the low range's.
        let high = (small && self.nonce.is_none()).then_some(High(self.algorithm));
        match high {
            Some(high) => create_ek_public_from_default_template_2(self.algorithm, high),
            None => create_ek_public_from_default_template_2(self.algorithm, None),
        }
    }
}

/// What the high range's templates of H-1 and H-2 have else than the low range's: the password, the policy, and an empty
/// `unique`.
struct High(AsymmetricAlgorithmSelection);

impl KeyCustomization for High {
    fn attributes(&self, attributes: ObjectAttributesBuilder) -> ObjectAttributesBuilder {
        attributes.with_user_with_auth(true)
    }

    fn template(&self, template: PublicBuilder) -> PublicBuilder {
        let template = match Digest::try_from(POLICY_B.to_vec()) {
            Ok(policy) => template.with_auth_policy(policy),
            Err(_) => template,
        };
        match self.0 {
            AsymmetricAlgorithmSelection::Rsa(_) => {
                template.with_rsa_unique_identifier(PublicKeyRsa::default())
            }
            AsymmetricAlgorithmSelection::Ecc(_) => template.with_ecc_unique_identifier(EccPoint::default()),
        }
    }
}

/// The template with the maker's nonce in front of its `unique` field, the rest zeros.
fn with_unique(template: Public, nonce: &[u8]) -> Result<Public, TssError> {
    let padded = |bytes: usize| {
        let mut unique = nonce.to_vec();
        unique.resize(bytes.max(nonce.len()), 0);
        unique
    };
    Ok(match template {
        Public::Rsa { object_attributes, name_hashing_algorithm, auth_policy, parameters, .. } => {
            Public::Rsa {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                unique: PublicKeyRsa::try_from(padded(RSA_UNIQUE_BYTES))?,
            }
        }
        Public::Ecc { object_attributes, name_hashing_algorithm, auth_policy, parameters, .. } => {
            Public::Ecc {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                unique: EccPoint::new(
                    EccParameter::try_from(padded(COORDINATE_BYTES))?,
                    EccParameter::try_from(vec![0; COORDINATE_BYTES])?,
                ),
            }
        }
        other => other,
    })
}

/// A storage key that was made in its TPM and never leaves it: an EK, whatever else is in its template.
fn stays_and_decrypts(key: &Public) -> bool {
    let attributes = key.object_attributes();
    attributes.fixed_tpm()
        && attributes.fixed_parent()
        && attributes.sensitive_data_origin()
        && attributes.restricted()
        && attributes.decrypt()
        && !attributes.sign_encrypt()
}

impl Authorization {
    fn of(key: &Public) -> Option<Self> {
        let policy = match key {
            Public::Rsa { auth_policy, .. } | Public::Ecc { auth_policy, .. } => auth_policy,
            _ => return None,
        };
        match key.object_attributes().user_with_auth() {
            true => Some(Self::Password),
            false => (policy.value() == POLICY_A).then_some(Self::PolicyA),
        }
    }

    /// Runs `command` with what authorises the use of the EK.
    pub(crate) fn authorize<T>(
        self,
        context: &mut Context,
        command: impl FnOnce(&mut Context, AuthSession) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self {
            Self::Password => command(context, AuthSession::Password),
            Self::PolicyA => {
                let session = session::start(context, None, SessionType::Policy)?;
                let result = satisfy_policy_a(context, session)
                    .map_err(Fault::from)
                    .and_then(|()| command(context, session));
                let closed = session::close(context, session);
                let value = result?;
                closed?;
                Ok(value)
            }
        }
    }
}

fn satisfy_policy_a(context: &mut Context, session: AuthSession) -> Result<(), TssError> {
    let policy = PolicySession::try_from(session)?;
    context.execute_with_session(Some(AuthSession::Password), |context| {
        let (none, digest) = (Nonce::default(), Digest::default());
        context.policy_secret(policy, AuthHandle::Endorsement, none.clone(), digest, none, None).map(drop)
    })
}

/// The best EK whose certificate is in NV and is for the key that its template gives.
pub(crate) fn find(tpm: &mut Tpm) -> Result<Ek, Error> {
    let present = nv::indices(tpm, 0)?;
    let mut refused = None;
    for kind in KINDS.iter().filter(|kind| present.contains(&kind.certificate)) {
        match open(tpm, kind, &present) {
            Ok(ek) => return Ok(ek),
            // The next kind may do; if none does, the first refusal is the one to tell.
            Err(error) if error.is_about_an_ek() => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::NoCertificate {
        looked: KINDS.map(|kind| format!("{:#010x} {}", kind.certificate, kind.name)).join(", "),
    }))
}

fn open(tpm: &mut Tpm, kind: &Kind, present: &[u32]) -> Result<Ek, Error> {
    let index = kind.certificate;
    let padded = nv::read(tpm, "read the EK certificate", index)?;
    let malformed = |reason: String| Error::Certificate { index, reason };
    if padded.len() > CERTIFICATE_MAX_BYTES {
        return Err(malformed(format!("{} bytes, at most {CERTIFICATE_MAX_BYTES} are read", padded.len())));
    }
    let (padding, certificate) =
        X509Certificate::from_der(&padded).map_err(|error| malformed(error.to_string()))?;
    let length = padded.len() - padding.len();
    for template in kind.templates(tpm, present)? {
        // No session yet: it will be salted to this key.
        let primary = tpm.primary("create EK", template, AuthSession::Password)?;
        if is_for(&certificate, &primary.parsed) {
            let authorization =
                Authorization::of(&primary.parsed).ok_or(Error::Template { index: kind.template })?;
            return Ok(Ek { authorization, primary, certificate: padded[..length].to_vec() });
        }
    }
    Err(Error::ForeignCertificate { index, template: kind.name })
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
