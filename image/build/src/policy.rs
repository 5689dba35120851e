//! The policies that the policy key signs for one image: who may open the state volume, who may write the minimum epoch.
//! They travel in the UKI's `.pcrsig` section beside systemd's own entries; that section is not measured into PCR 11, which
//! is what they are about.

use crate::error::{Error, file};
use crate::run::{Scratch, run};
use crate::seal::Sealer;
use object::LittleEndian as LE;
use object::read::pe::PeFile64;
use pillar_keys::KeySource;
use pillar_layout::phase;
use pillar_measure::policy::{self, EPOCH_REF, Policy, STATE_REF};
use pillar_measure::predict;
use pillar_model::{Bank, Digest, SIGNED_POLICIES_KEY, SignedPolicies, SignedPolicy};
use serde_json::Value;
use std::fs;
use std::path::Path;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

const WHAT: &str = "the policy key";
/// What TPMs verify without exception.
const MODULUS_BYTES: usize = 256;

/// `TPMT_PUBLIC` of the policy key from its public key or certificate, PEM.
pub fn public_area(path: &Path) -> Result<Vec<u8>, Error> {
    let refused = |problem: String| Error::PolicyKey { path: path.to_owned(), problem };
    let pem = fs::read(path).map_err(file("read", path))?;
    let (_, block) = parse_x509_pem(&pem).map_err(|error| refused(format!("is not PEM ({error})")))?;
    let certificate;
    let (_, info) = match block.label.as_str() {
        "CERTIFICATE" => {
            certificate = block.parse_x509().map_err(|error| refused(format!("is not X.509 ({error})")))?;
            (&[][..], certificate.public_key().clone())
        }
        "PUBLIC KEY" => SubjectPublicKeyInfo::from_der(&block.contents)
            .map_err(|error| refused(format!("holds no public key ({error})")))?,
        other => return Err(refused(format!("holds a {other}, neither a public key nor a certificate"))),
    };
    let PublicKey::RSA(rsa) = info.parsed().map_err(|error| refused(error.to_string()))? else {
        return Err(refused("is no RSA key, which every TPM can check".to_owned()));
    };
    let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
    if modulus.len() != MODULUS_BYTES || rsa.try_exponent() != Ok(65537) {
        return Err(refused("is not an RSA key of 2048 bits with exponent 65537".to_owned()));
    }
    Ok(policy::verifying_key(modulus))
}

/// What the second pass of making a UKI puts in: the public key as it was in the first, and the signatures.
#[derive(Debug)]
pub struct Sections {
    /// `.pcrpkey`.
    pub public: Vec<u8>,
    /// `.pcrsig`.
    pub signatures: Vec<u8>,
}

/// Signs the policies of a UKI that has systemd's signatures already.
pub fn sign(
    sealer: &Sealer<'_>,
    uki: &Path,
    key: &KeySource,
    public_area: &[u8],
    epoch: u64,
    scratch: &Scratch,
) -> Result<Sections, Error> {
    let bytes = fs::read(uki).map_err(file("read", uki))?;
    let phases = predict::uki_pcr11(&bytes, Bank::Sha256)?;
    let at = |name: &'static str| {
        phases.get(name).ok_or(Error::Output { program: "ukify", problem: format!("no phase {name}") })
    };
    let (sysinit, ready) = (at(phase::SYSINIT)?, at(phase::READY)?);
    let index = policy::epoch_name(&policy::name(public_area));
    let signed = |policy: &Policy, reference: &[u8]| {
        let signature = signature(sealer, key, &policy::message(policy, reference), scratch)?;
        Ok::<_, Error>(SignedPolicy { policy: policy.digest().clone(), signature: Digest(signature) })
    };
    let policies = SignedPolicies {
        epoch,
        state: signed(&policy::state_policy(sysinit, epoch, &index), STATE_REF)?,
        epoch_first: signed(&policy::first_epoch_policy(sysinit), EPOCH_REF)?,
        epoch_raise: signed(&policy::raise_epoch_policy(ready, epoch, &index), EPOCH_REF)?,
    };
    let json = |source| Error::Json { what: "the UKI's policies", source };
    let mut all: Value = serde_json::from_slice(section(&bytes, ".pcrsig")?).map_err(json)?;
    all[SIGNED_POLICIES_KEY] = serde_json::to_value(policies).map_err(json)?;
    Ok(Sections {
        public: section(&bytes, ".pcrpkey")?.to_vec(),
        signatures: serde_json::to_vec(&all).map_err(json)?,
    })
}

/// RSASSA with SHA-256. The key never comes to us: OpenSSL reads the file or asks the token.
fn signature(
    sealer: &Sealer<'_>,
    key: &KeySource,
    message: &[u8],
    scratch: &Scratch,
) -> Result<Vec<u8>, Error> {
    let (input, output) = (scratch.join("policy.message"), scratch.join("policy.signature"));
    fs::write(&input, message).map_err(file("write", &input))?;
    let mut command = sealer.command("openssl");
    command.args(["pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pkcs1"]);
    match key {
        KeySource::File(path) => command.arg("-inkey").arg(path),
        KeySource::Pkcs11(uri) => {
            command.args(["-provider", crate::seal::TOKEN_PROVIDER, "-provider", "default", "-inkey", uri])
        }
    };
    run("openssl", command.arg("-in").arg(&input).arg("-out").arg(&output))?;
    let signature = fs::read(&output).map_err(file("read", &output))?;
    if signature.len() != MODULUS_BYTES {
        let problem = format!("{WHAT} made a signature of {} bytes", signature.len());
        return Err(Error::Output { program: "openssl", problem });
    }
    Ok(signature)
}

/// The content of a section that is text: without the padding that aligns it.
fn section<'a>(uki: &'a [u8], name: &str) -> Result<&'a [u8], Error> {
    let missing = || Error::Output { program: "ukify", problem: format!("no section {name}") };
    let pe = PeFile64::parse(uki).map_err(|_| missing())?;
    let header = pe.section_table().iter().find(|s| s.raw_name() == name.as_bytes()).ok_or_else(missing)?;
    let start = header.pointer_to_raw_data.get(LE) as usize;
    let bytes = header.virtual_size.get(LE).min(header.size_of_raw_data.get(LE)) as usize;
    uki.get(start..start + bytes).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_rsa_key_of_2048_bits_is_taken() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("key.pub");
        for (text, reason) in [
            ("nothing", "is not PEM"),
            ("-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n", "holds a DH PARAMETERS"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds no public key"),
            (
                // An Ed25519 key.
                "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
                "is no RSA key",
            ),
        ] {
            fs::write(&path, text).expect("written");
            let error = public_area(&path).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
