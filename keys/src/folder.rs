//! A folder of keys as it lies on the disk.

use crate::{Error, FILE_MAX_BYTES, file_error};
use pillar_model::{Digest, SecureBootKeys};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A Secure Boot variable whose content we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// Platform key: who may change KEK.
    Pk,
    /// Key exchange key: who may change db.
    Kek,
    /// Signature database: whose programs may boot.
    Db,
}

impl Variable {
    /// All of them, the order in which one signs the next.
    pub const ALL: [Variable; 3] = [Variable::Pk, Variable::Kek, Variable::Db];

    /// The variable whose key signs this one's content (the platform key signs itself).
    #[must_use]
    pub fn signer(self) -> Variable {
        match self {
            Variable::Pk | Variable::Kek => Variable::Pk,
            Variable::Db => Variable::Kek,
        }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Variable::Pk => "PK",
            Variable::Kek => "KEK",
            Variable::Db => "db",
        })
    }
}

/// One Secure Boot key and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecureBootKey {
    /// RSA private key, PEM.
    pub key: PathBuf,
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// The variable's content with its signature (`EFI_VARIABLE_AUTHENTICATION_2`, UEFI section 8.2.2), as
    /// systemd-boot enrols it.
    pub auth: PathBuf,
}

/// The key that signs PCR policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrKey {
    /// RSA private key, PEM.
    pub key: PathBuf,
    /// Public key, PEM.
    pub public: PathBuf,
}

/// One operator's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// For example "operator-1".
    pub name: String,
    /// Ed25519 private key, PKCS#8 PEM.
    pub key: PathBuf,
    /// Its self-signed certificate, PEM.
    pub certificate: PathBuf,
}

/// A folder that holds every key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    dir: PathBuf,
    operators: Vec<Operator>,
}

impl Keys {
    /// The folder, when every file is there and no private key is open to other users.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        if !dir.is_dir() {
            return Err(Error::NoFolder(dir.to_owned()));
        }
        let keys = Self { dir: dir.to_owned(), operators: operators(dir)? };
        keys.check()?;
        Ok(keys)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files of one Secure Boot key.
    #[must_use]
    pub fn secure_boot(&self, variable: Variable) -> SecureBootKey {
        secure_boot(&self.dir, variable)
    }

    /// The files of the key that signs PCR policies.
    #[must_use]
    pub fn pcr(&self) -> PcrKey {
        pcr(&self.dir)
    }

    /// The operators, by number.
    #[must_use]
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// The operators' certificates, one PEM block after the other: the image's `layout::root::OPERATORS`.
    pub fn operators_pem(&self) -> Result<String, Error> {
        let mut all = String::new();
        for operator in &self.operators {
            all.push_str(&read_text(&operator.certificate)?);
        }
        Ok(all)
    }

    /// A Secure Boot variable's certificate as DER: the form that firmware menus take.
    pub fn certificate_der(&self, variable: Variable) -> Result<Vec<u8>, Error> {
        Ok(certificate(&self.secure_boot(variable).certificate)?.to_vec())
    }

    /// SHA-256 over the DER of the certificates in PK, KEK and db, as a release names them.
    pub fn certificate_digests(&self) -> Result<SecureBootKeys, Error> {
        let digest = |variable| certificate_digest(&secure_boot(&self.dir, variable).certificate);
        Ok(SecureBootKeys {
            pk: digest(Variable::Pk)?,
            kek: digest(Variable::Kek)?,
            db: digest(Variable::Db)?,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let mut files = Vec::new();
        for variable in Variable::ALL {
            let SecureBootKey { key, certificate, auth } = self.secure_boot(variable);
            files.extend([key, certificate, auth]);
        }
        let PcrKey { key, public } = self.pcr();
        files.extend([key, public]);
        for operator in &self.operators {
            files.extend([operator.key.clone(), operator.certificate.clone()]);
        }
        let mut missing: Vec<String> = files.iter().filter(|f| !f.is_file()).map(|f| file_name(f)).collect();
        if self.operators.is_empty() {
            missing.push("operator-1.key".to_owned());
        }
        if !missing.is_empty() {
            return Err(Error::Incomplete { dir: self.dir.clone(), missing });
        }
        for key in files.iter().filter(|f| f.extension().is_some_and(|e| e == "key")) {
            let mode = fs::metadata(key).map_err(file_error("look at", key))?.permissions().mode() & 0o7777;
            if mode & 0o077 != 0 {
                return Err(Error::Open { path: key.clone(), mode });
            }
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn secure_boot(dir: &Path, variable: Variable) -> SecureBootKey {
    let file = |extension| dir.join(format!("{variable}.{extension}"));
    SecureBootKey { key: file("key"), certificate: file("crt"), auth: file("auth") }
}

pub(crate) fn pcr(dir: &Path) -> PcrKey {
    PcrKey { key: dir.join("pcr.key"), public: dir.join("pcr.pub") }
}

pub(crate) fn operator(dir: &Path, number: usize) -> Operator {
    let name = format!("operator-{number}");
    Operator { key: dir.join(format!("{name}.key")), certificate: dir.join(format!("{name}.crt")), name }
}

/// Every operator of whom there is a key or a certificate, by number.
fn operators(dir: &Path) -> Result<Vec<Operator>, Error> {
    let mut numbers: Vec<usize> = fs::read_dir(dir)
        .map_err(file_error("list", dir))?
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let known = path.extension().is_some_and(|e| e == "key" || e == "crt");
            path.file_stem()?.to_str()?.strip_prefix("operator-")?.parse().ok().filter(|_| known)
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers.into_iter().map(|number| operator(dir, number)).collect())
}

/// Text of a file that is no larger than a key file can be.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let file = File::open(path).map_err(file_error("open", path))?;
    file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(file_error("read", path))?;
    if text.len() as u64 > FILE_MAX_BYTES {
        let problem = format!("it is larger than {FILE_MAX_BYTES} bytes");
        return Err(Error::Content { path: path.to_owned(), expected: "a key or certificate", problem });
    }
    Ok(text)
}

fn not_a_certificate(path: &Path, problem: &dyn fmt::Display) -> Error {
    Error::Content { path: path.to_owned(), expected: "a PEM certificate", problem: problem.to_string() }
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(read_text(path)?.as_bytes()).map_err(|e| not_a_certificate(path, &e))
}

/// SHA-256 over a PEM certificate's DER.
pub fn certificate_digest(path: &Path) -> Result<Digest, Error> {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate(path)?.as_ref());
    Ok(Digest(digest.as_ref().to_vec()))
}

/// Common name of a PEM certificate's subject.
pub fn common_name(path: &Path) -> Result<String, Error> {
    let der = certificate(path)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| not_a_certificate(path, &e))?;
    let name = parsed.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    name.map(str::to_owned).ok_or_else(|| not_a_certificate(path, &"its subject has no common name"))
}
