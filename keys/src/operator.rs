//! An operator's key and its certificate. What counts is the key; the certificate carries it, with a name for people,
//! into the image and into TLS.

use crate::{Error, file_error};
use pillar_model::{OperatorKey, PillarId};
use pillar_signer::{KeyFile, PassphraseFrom, Signer};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Makes an operator's key in `file` and its certificate beside it, with the extension `crt`. Neither may be there
/// yet. With a passphrase the key is encrypted.
pub fn new_operator(
    name: &str,
    file: &Path,
    passphrase: Option<&PassphraseFrom>,
) -> Result<(OperatorKey, PathBuf), Error> {
    check_name(name)?;
    let beside = file.with_extension("crt");
    // Both are looked for first, so that a key without its certificate is not left behind.
    for path in [file, &beside] {
        if path.symlink_metadata().is_ok() {
            return Err(file_error("create", path)(std::io::ErrorKind::AlreadyExists.into()));
        }
    }
    let passphrase = passphrase.map(|from| from.ask_new("New passphrase: ")).transpose()?;
    let signer = Signer::File(KeyFile::create(file, passphrase.as_ref())?);
    write_certificate(name, &signer, &beside)?;
    Ok((signer.public(), beside))
}

/// Writes the certificate of a key, wherever that is, to a new file.
pub fn write_certificate(name: &str, signer: &Signer, file: &Path) -> Result<(), Error> {
    check_name(name)?;
    write_private(file, certificate(name, signer)?.as_bytes())
}

/// A constitution takes labels only (`agent/quorum`), and so do we.
fn check_name(name: &str) -> Result<(), Error> {
    name.parse::<PillarId>()?;
    Ok(())
}

/// The self-signed certificate of an operator's key, PEM.
pub fn certificate(name: &str, signer: &Signer) -> Result<String, Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    // Thirty years: who may decide is the constitution's, not a certificate's.
    parameters.not_before = rcgen::date_time_ymd(2025, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2055, 1, 1);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = Remote { signer, public: signer.public() };
    let certificate = parameters.self_signed(&key);
    let certificate = certificate.map_err(|source| Error::Certificate { name: name.to_owned(), source })?;
    Ok(certificate.pem())
}

/// A key that rcgen does not hold.
struct Remote<'a> {
    signer: &'a Signer,
    public: OperatorKey,
}

impl rcgen::PublicKeyData for Remote<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Remote<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(message).map(Vec::from).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A new file that only its owner may read, from its first byte on.
pub(crate) fn private_file(path: &Path) -> Result<File, Error> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(file_error("create", path))
}

pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    private_file(path)?.write_all(bytes).map_err(file_error("write", path))
}
