//! The endorsement key's certificate: issued, through any number of intermediates up to a limit, by a root that the
//! policy trusts; for this very key; for this very purpose (TCG EK Credential Profile for TPM Family 2.0; RFC 5280).
//!
//! An extension that is critical and not known here, an algorithm that is weak or not known, a key with the ROCA flaw:
//! all are refusals.

use crate::tpm::{Curve, PublicKey};
use pillar_model::TpmMaker;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};
use x509_parser::public_key::RSAPublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A certificate larger than this is refused; real EK certificates have 0.5 to 2 KB.
pub const CERTIFICATE_MAX_BYTES: usize = 8 << 10;
/// More roots or more intermediates than this in a policy are refused.
pub const AUTHORITIES_MAX: usize = 64;
/// Certificates between the EK's and the root, at most.
pub const INTERMEDIATES_MAX: usize = 4;

/// `tcg-kp-EKCertificate`.
const EK_PURPOSE: &str = "2.23.133.8.1";
/// `tcg-at-tpmManufacturer`, `tcg-at-tpmModel`, `tcg-at-tpmVersion`.
const TPM_ATTRIBUTES: [(&str, &str); 3] =
    [("manufacturer", "2.23.133.2.1"), ("model", "2.23.133.2.2"), ("version", "2.23.133.2.3")];

const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
const RSAES_OAEP: &str = "1.2.840.113549.1.1.7";
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const SHA256_RSA: &str = "1.2.840.113549.1.1.11";
const SHA384_RSA: &str = "1.2.840.113549.1.1.12";
const SHA512_RSA: &str = "1.2.840.113549.1.1.13";
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";

/// Why an EK certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EkError {
    /// A certificate cannot be read.
    #[error("{whose} certificate cannot be read: {reason}")]
    Unreadable {
        /// Whose: "EK", "root 0", "intermediate 1".
        whose: String,
        /// Why.
        reason: String,
    },
    /// More certificates than the limits allow, or no root at all.
    #[error(
        "policy has {0} roots and {1} intermediates; 1 to {AUTHORITIES_MAX} and 0 to {AUTHORITIES_MAX} are allowed"
    )]
    Count(usize, usize),
    /// The certificate is for another key.
    #[error("EK certificate is for another key than the EK")]
    OtherKey,
    /// The certificate is for other purposes.
    #[error(
        "EK certificate is for other purposes: its extended key usage lacks {EK_PURPOSE} (tcg-kp-EKCertificate)"
    )]
    Purpose,
    /// The certificate's key may not do what an EK does.
    #[error("EK certificate's key may neither encipher nor agree on keys")]
    Usage,
    /// The certificate does not tell of which TPM it is.
    #[error("EK certificate does not name the TPM's {0} in its subject alternative name")]
    NoTpm(&'static str),
    /// The certificate has no subject, and what stands for it may be passed over.
    #[error("EK certificate has neither a subject nor a critical subject alternative name")]
    NoSubject,
    /// The certificate is that of an authority.
    #[error("EK certificate is a certificate authority's")]
    IsAuthority,
    /// An extension that is critical and not known.
    #[error("{whose} certificate has the unknown critical extension {oid}")]
    Critical {
        /// Whose.
        whose: String,
        /// The extension.
        oid: String,
    },
    /// Outside of its time.
    #[error("{whose} certificate is valid from {from} to {to}, not now")]
    Expired {
        /// Whose.
        whose: String,
        /// Begin.
        from: String,
        /// End.
        to: String,
    },
    /// The key is known to be breakable.
    #[error("EK is a weak RSA key (ROCA, CVE-2017-15361): its private key can be computed")]
    Weak,
    /// No chain leads to a root.
    #[error("EK certificate's issuer \"{issuer}\" does not lead to a trusted root{detail}")]
    NoChain {
        /// Issuer of the EK certificate.
        issuer: String,
        /// Why the nearest candidate did not do, if there was one.
        detail: String,
    },
}

/// Who made the TPM, as its EK certificate says; none when the certificate cannot be read or names no maker in the
/// TCG's form. Believed is that only of a certificate that [`check_ek`] let pass, or that was known before by its digest.
#[must_use]
pub fn tpm_maker(certificate: &[u8]) -> Option<TpmMaker> {
    let leaf = Certificate::parse(certificate, "EK".into(), true).ok()?;
    let [(_, manufacturer), ..] = TPM_ATTRIBUTES;
    let alternative = leaf.parsed.subject_alternative_name().ok()??;
    let directory = alternative.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    });
    let attributes = directory.flat_map(|name| name.iter_attributes());
    let mut named = attributes.filter(|attribute| attribute.attr_type().to_id_string() == manufacturer);
    let text = named.next()?.as_str().ok()?;
    // Two makers are none.
    if named.next().is_some() || !text.starts_with("id:") {
        return None;
    }
    text.parse().ok()
}

struct Certificate<'a> {
    whose: String,
    parsed: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    fn parse(der: &'a [u8], whose: String, padding: bool) -> Result<Self, EkError> {
        let unreadable = |reason: String| EkError::Unreadable { whose: whose.clone(), reason };
        if der.len() > CERTIFICATE_MAX_BYTES {
            return Err(unreadable(format!("{} bytes, the limit is {CERTIFICATE_MAX_BYTES}", der.len())));
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|e| unreadable(e.to_string()))?;
        // NV indices are larger than the certificate in them; what is left is 0x00 or 0xFF throughout.
        let padded = padding && (rest.iter().all(|b| *b == 0) || rest.iter().all(|b| *b == 0xFF));
        if !rest.is_empty() && !padded {
            return Err(unreadable(format!("{} bytes behind it", rest.len())));
        }
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(unreadable("it names two signature algorithms".into()));
        }
        if !is_canonical(&der[..der.len() - rest.len()], &parsed) {
            return Err(unreadable("what is around the signed part is not DER".into()));
        }
        if let Some(extension) =
            parsed.extensions().iter().find(|e| e.critical && !is_known(e.parsed_extension()))
        {
            return Err(EkError::Critical { whose, oid: extension.oid.to_id_string() });
        }
        Ok(Self { whose, parsed })
    }

    fn check_time(&self, now: ASN1Time) -> Result<(), EkError> {
        let validity = self.parsed.validity();
        if validity.is_valid_at(now) {
            return Ok(());
        }
        let (from, to) = (validity.not_before.to_string(), validity.not_after.to_string());
        Err(EkError::Expired { whose: self.whose.clone(), from, to })
    }

    /// Why this certificate's owner may not issue others, with so many intermediates below it.
    fn no_authority(&self, below: usize) -> Option<String> {
        let Ok(Some(constraints)) = self.parsed.basic_constraints() else {
            return Some(format!("{} is not a certificate authority", self.whose));
        };
        if !constraints.value.ca {
            return Some(format!("{} is not a certificate authority", self.whose));
        }
        if constraints.value.path_len_constraint.is_some_and(|most| below > most as usize) {
            return Some(format!("{} allows fewer certificates below it", self.whose));
        }
        match self.parsed.key_usage() {
            Ok(None) => None,
            Ok(Some(usage)) if usage.value.key_cert_sign() => None,
            _ => Some(format!("{} may not sign certificates", self.whose)),
        }
    }
}

/// Whether the bytes around the signed part (header, algorithm, signature's header) are the only ones that DER allows:
/// no signature covers them, and the parser is more tolerant.
fn is_canonical(der: &[u8], parsed: &X509Certificate<'_>) -> bool {
    let signed = parsed.tbs_certificate.as_ref();
    let signature = &*parsed.signature_value.data;
    let bit_string = [header(0x03, signature.len() + 1).as_slice(), &[0], signature].concat();
    let Some((_, behind)) = der.split_at_checked(4) else { return false };
    let Some(algorithm) =
        behind.strip_prefix(signed).and_then(|rest| rest.strip_suffix(bit_string.as_slice()))
    else {
        return false;
    };
    // The same algorithm stands, signed, inside.
    let inside = signed.windows(algorithm.len().max(1)).any(|window| window == algorithm);
    inside && der.starts_with(&header(0x30, behind.len()))
}

fn header(tag: u8, len: usize) -> Vec<u8> {
    match len {
        0..0x80 => vec![tag, len as u8],
        0x80..0x100 => vec![tag, 0x81, len as u8],
        // Certificates are limited to 8 KB.
        _ => [&[tag, 0x82], (len as u16).to_be_bytes().as_slice()].concat(),
    }
}

/// Extensions that mean nothing that could forbid the certificate's use, or that are checked.
fn is_known(extension: &ParsedExtension<'_>) -> bool {
    matches!(
        extension,
        ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::CertificatePolicies(_)
    )
}

/// Checks the EK certificate (DER, padding behind it allowed) against the key and the policy's authorities (DER).
/// Returns the issuers' names, nearest first.
pub fn check_ek(
    certificate: &[u8],
    key: &PublicKey,
    roots: &[Vec<u8>],
    intermediates: &[Vec<u8>],
    now_unix_s: u64,
) -> Result<Vec<String>, EkError> {
    if roots.is_empty() || roots.len() > AUTHORITIES_MAX || intermediates.len() > AUTHORITIES_MAX {
        return Err(EkError::Count(roots.len(), intermediates.len()));
    }
    let leaf = Certificate::parse(certificate, "EK".into(), true)?;
    let now = i64::try_from(now_unix_s).ok().and_then(|s| ASN1Time::from_timestamp(s).ok());
    let now =
        now.ok_or_else(|| EkError::Unreadable { whose: "EK".into(), reason: "now is no date".into() })?;
    if !is_for(leaf.parsed.public_key(), key) {
        return Err(EkError::OtherKey);
    }
    if let PublicKey::Rsa { modulus } = key
        && is_roca(modulus)
    {
        return Err(EkError::Weak);
    }
    check_purpose(&leaf.parsed)?;
    leaf.check_time(now)?;
    let roots: Vec<Certificate<'_>> = parse_all("root", roots)?;
    let intermediates: Vec<Certificate<'_>> = parse_all("intermediate", intermediates)?;
    let mut chain = Vec::new();
    let mut detail = String::new();
    if build(&leaf, &roots, &intermediates, now, &mut chain, &mut detail) {
        return Ok(chain);
    }
    Err(EkError::NoChain { issuer: leaf.parsed.issuer().to_string(), detail })
}

fn parse_all<'a>(kind: &str, list: &'a [Vec<u8>]) -> Result<Vec<Certificate<'a>>, EkError> {
    list.iter().enumerate().map(|(n, der)| Certificate::parse(der, format!("{kind} {n}"), false)).collect()
}

/// Walks up from a certificate: true when a root issued it, or an intermediate did for which the same holds.
fn build(
    child: &Certificate<'_>,
    roots: &[Certificate<'_>],
    intermediates: &[Certificate<'_>],
    now: ASN1Time,
    chain: &mut Vec<String>,
    detail: &mut String,
) -> bool {
    let below = chain.len();
    for (candidate, is_root) in
        roots.iter().map(|c| (c, true)).chain(intermediates.iter().map(|c| (c, false)))
    {
        if candidate.parsed.subject().as_raw() != child.parsed.issuer().as_raw() {
            continue;
        }
        let fault =
            candidate.no_authority(below).or_else(|| candidate.check_time(now).err().map(|e| e.to_string()));
        let fault = fault
            .or_else(|| (!signed(child, candidate)).then(|| format!("{} did not sign it", candidate.whose)));
        if let Some(fault) = fault {
            *detail = format!(": {fault}");
            continue;
        }
        chain.push(candidate.parsed.subject().to_string());
        if is_root
            || (below < INTERMEDIATES_MAX && build(candidate, roots, intermediates, now, chain, detail))
        {
            return true;
        }
        chain.truncate(below);
    }
    false
}

fn signed(child: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
    let key = issuer.parsed.public_key();
    let algorithm = child.parsed.signature_algorithm.algorithm.to_id_string();
    let Some(algorithm) = verification(&key.algorithm.algorithm.to_id_string(), curve(key), &algorithm)
    else {
        return false;
    };
    UnparsedPublicKey::new(algorithm, &*key.subject_public_key.data)
        .verify(child.parsed.tbs_certificate.as_ref(), &child.parsed.signature_value.data)
        .is_ok()
}

fn curve(key: &SubjectPublicKeyInfo<'_>) -> Option<Curve> {
    match key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string().as_str() {
        P256 => Some(Curve::P256),
        P384 => Some(Curve::P384),
        _ => None,
    }
}

fn verification(
    key: &str,
    curve: Option<Curve>,
    signature: &str,
) -> Option<&'static dyn VerificationAlgorithm> {
    match (key, curve, signature) {
        (RSA_ENCRYPTION, None, SHA256_RSA) => Some(&RSA_PKCS1_2048_8192_SHA256),
        (RSA_ENCRYPTION, None, SHA384_RSA) => Some(&RSA_PKCS1_2048_8192_SHA384),
        (RSA_ENCRYPTION, None, SHA512_RSA) => Some(&RSA_PKCS1_2048_8192_SHA512),
        (EC_PUBLIC_KEY, Some(Curve::P256), ECDSA_SHA256) => Some(&ECDSA_P256_SHA256_ASN1),
        (EC_PUBLIC_KEY, Some(Curve::P256), ECDSA_SHA384) => Some(&ECDSA_P256_SHA384_ASN1),
        (EC_PUBLIC_KEY, Some(Curve::P384), ECDSA_SHA256) => Some(&ECDSA_P384_SHA256_ASN1),
        (EC_PUBLIC_KEY, Some(Curve::P384), ECDSA_SHA384) => Some(&ECDSA_P384_SHA384_ASN1),
        _ => None,
    }
}

fn check_purpose(certificate: &X509Certificate<'_>) -> Result<(), EkError> {
    if let Ok(Some(constraints)) = certificate.basic_constraints()
        && constraints.value.ca
    {
        return Err(EkError::IsAuthority);
    }
    // Old certificates have no purposes; those that have some must have this one.
    match certificate.extended_key_usage() {
        Ok(None) => {}
        Ok(Some(usage)) if usage.value.other.iter().any(|oid| oid.to_id_string() == EK_PURPOSE) => {}
        _ => return Err(EkError::Purpose),
    }
    match certificate.key_usage() {
        Ok(None) => {}
        Ok(Some(usage)) if usage.value.key_encipherment() || usage.value.key_agreement() => {}
        _ => return Err(EkError::Usage),
    }
    names_tpm(certificate)
}

/// A TPM is named by manufacturer, model and version, as attributes of a directory name in the subject alternative name
/// (EK Credential Profile section 3.1.2). Where the subject is empty, that name stands for it and has to be critical.
fn names_tpm(certificate: &X509Certificate<'_>) -> Result<(), EkError> {
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else {
        return Err(EkError::NoTpm("manufacturer, model and version"));
    };
    let has = |oid: &str| {
        let names = alternative.value.general_names.iter();
        let mut directory = names.filter_map(|name| match name {
            GeneralName::DirectoryName(name) => Some(name),
            _ => None,
        });
        directory.any(|name| name.iter_attributes().any(|a| a.attr_type().to_id_string() == oid))
    };
    if let Some((missing, _)) = TPM_ATTRIBUTES.iter().find(|(_, oid)| !has(oid)) {
        return Err(EkError::NoTpm(missing));
    }
    if certificate.subject().iter_attributes().next().is_none() && !alternative.critical {
        return Err(EkError::NoSubject);
    }
    Ok(())
}

/// Whether the certificate's key is this key, by its numbers. Certificates name RSA keys as rsaEncryption or as
/// RSAES-OAEP; the key inside is the same structure.
fn is_for(info: &SubjectPublicKeyInfo<'_>, key: &PublicKey) -> bool {
    let bits = &*info.subject_public_key.data;
    let algorithm = info.algorithm.algorithm.to_id_string();
    match key {
        PublicKey::Rsa { modulus } if algorithm == RSA_ENCRYPTION || algorithm == RSAES_OAEP => {
            RSAPublicKey::from_der(bits).is_ok_and(|(rest, rsa)| {
                let found = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
                rest.is_empty() && found == modulus && rsa.try_exponent() == Ok(65537)
            })
        }
        PublicKey::Ecc { curve: of_key, x, y } if algorithm == EC_PUBLIC_KEY => {
            curve(info) == Some(*of_key) && bits == [&[4], x.as_slice(), y].concat()
        }
        _ => false,
    }
}

/// The fingerprint of keys made by the flawed Infineon library: modulo each small prime the modulus is a power of 65537
/// (Nemec et al., "The Return of Coppersmith's Attack", 2017). A sound key looks so once in some 2^27.
fn is_roca(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101,
        103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        (0..*prime).any(|_| {
            power = power * 65537 % prime;
            power == rest
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // attack: B8
    #[test]
    fn powers_of_65537_are_weak_and_other_moduli_are_not() {
        // 65537 squared; and 2^2047 + 1, which leaves the subgroup at a small prime.
        assert!(is_roca(&[0x01, 0x00, 0x02, 0x00, 0x01]));
        let mut sound = [0; 256];
        (sound[0], sound[255]) = (0x80, 1);
        assert!(!is_roca(&sound));
    }
}
