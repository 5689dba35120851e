//! A key in a file: PKCS#8 (RFC 5958) as PEM, plain or encrypted with PBES2 (RFC 8018), as `openssl pkcs8` reads and
//! writes it.

use crate::{Error, Passphrase, PassphraseFrom, file_error};
use pillar_model::OperatorKey;
use pkcs8::der::pem::{self, LineEnding};
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// No key comes near this; a larger file is not one.
const FILE_MAX_BYTES: u64 = 64 << 10;
/// Rounds of PBKDF2 with HMAC-SHA-256: what OWASP asks for (2023), about half a second.
const ROUNDS: u32 = 600_000;
const PLAIN: &str = "PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// PKCS#8 version 1 of an Ed25519 key, without its 32 bytes (RFC 8410, section 7): the form that every reader takes.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Whether a key file needs a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// The file is all it takes.
    Plain,
    /// A passphrase as well.
    Passphrase,
}

/// A key that was read from its file.
pub struct KeyFile {
    path: PathBuf,
    protection: Protection,
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({}, {})", self.path.display(), self.public())
    }
}

impl KeyFile {
    /// Reads a key. The passphrase is asked only when the file is encrypted.
    pub fn open(path: &Path, passphrase: &PassphraseFrom) -> Result<Self, Error> {
        let not_a_key = |problem: String| Error::NotAKey { path: path.to_owned(), problem };
        let text = read_private(path)?;
        // The label first: OpenSSH's own format breaks its lines elsewhere.
        let label = pem::decode_label(&text).map_err(|error| not_a_key(error.to_string()))?;
        if ![PLAIN, ENCRYPTED].contains(&label) {
            return Err(not_a_key(format!("it holds {label}")));
        }
        let (_, der) = pem::decode_vec(&text).map_err(|error| not_a_key(error.to_string()))?;
        let der = Zeroizing::new(der);
        if label == PLAIN {
            return Self::of_der(path, Protection::Plain, der).map_err(not_a_key);
        }
        let info = EncryptedPrivateKeyInfoRef::try_from(der.as_slice())
            .map_err(|error| not_a_key(error.to_string()))?;
        let passphrase = passphrase.ask(&format!("Passphrase of {}: ", path.display()))?;
        let wrong = || Error::WrongPassphrase(path.to_owned());
        let opened = info.decrypt(passphrase.as_bytes()).map_err(|_| wrong())?;
        let der = Zeroizing::new(opened.as_bytes().to_vec());
        // Padding can be right by chance, and then what it holds is noise.
        PrivateKeyInfoRef::try_from(der.as_slice()).map_err(|_| wrong())?;
        Self::of_der(path, Protection::Passphrase, der).map_err(not_a_key)
    }

    /// Makes a key and its file, which must not be there yet; encrypted when there is a passphrase.
    pub fn create(path: &Path, passphrase: Option<&Passphrase>) -> Result<Self, Error> {
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + 32));
        pkcs8.extend_from_slice(&PKCS8_PREFIX);
        pkcs8.extend_from_slice(&*random::<32>()?);
        let text = encode(&pkcs8, passphrase)?;
        let mut file = private_file(path).map_err(file_error("create", path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(file_error("write", path))?;
        let protection = if passphrase.is_some() { Protection::Passphrase } else { Protection::Plain };
        Self::of_der(path, protection, pkcs8)
            .map_err(|problem| Error::NotAKey { path: path.to_owned(), problem })
    }

    fn of_der(path: &Path, protection: Protection, pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(|error| error.to_string())?;
        Ok(Self { path: path.to_owned(), protection, pkcs8, pair })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> OperatorKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        OperatorKey(key)
    }

    /// Whether the file was encrypted.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// The key itself, PKCS#8 DER, for a TLS client.
    #[must_use]
    pub fn pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    /// The same as unencrypted PEM.
    pub fn plain_pem(&self) -> Result<Zeroizing<String>, Error> {
        encode(&self.pkcs8, None)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

/// Encrypts a key's file with another passphrase, or takes the encryption away. A power cut leaves the file as it was
/// or as it shall be.
pub fn change_passphrase(key: &KeyFile, new: Option<&Passphrase>) -> Result<(), Error> {
    let path = &key.path;
    let text = encode(&key.pkcs8, new)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let written = private_file(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let written = written.map_err(file_error("write", &beside)).and_then(|()| {
        fs::rename(&beside, path).map_err(file_error("replace", path))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(file_error("sync", folder))
    });
    if matches!(&written, Err(Error::File { source, .. }) if source.kind() != io::ErrorKind::AlreadyExists) {
        // It may not be there; what is to be told is the first error.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn encode(pkcs8: &Zeroizing<Vec<u8>>, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, Error> {
    let Some(passphrase) = passphrase else {
        let text = pem::encode_string(PLAIN, LineEnding::LF, pkcs8);
        return text.map(Zeroizing::new).map_err(|error| Error::Encrypt(pkcs8::Error::Asn1(error.into())));
    };
    let (salt, iv) = (random::<16>()?, random::<16>()?);
    let scheme = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ROUNDS, &*salt, *iv);
    let scheme = scheme.map_err(|error| Error::Encrypt(error.into()))?;
    let info = PrivateKeyInfoRef::try_from(pkcs8.as_slice()).map_err(Error::Encrypt)?;
    let sealed = info.encrypt_with_params(scheme, passphrase.as_bytes()).map_err(Error::Encrypt)?;
    sealed.to_pem(ENCRYPTED, LineEnding::LF).map_err(|error| Error::Encrypt(pkcs8::Error::Asn1(error)))
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// A new file that only its owner may read, from its first byte on.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// All of a file that nobody but its owner may read or write. The mode is that of the file that was opened.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let file = File::open(path).map_err(file_error("open", path))?;
    let metadata = file.metadata().map_err(file_error("look at", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Open { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut text).map_err(file_error("read", path))?;
    if text.len() as u64 > FILE_MAX_BYTES {
        let problem = format!("it is larger than {FILE_MAX_BYTES} bytes");
        return Err(Error::NotAKey { path: path.to_owned(), problem });
    }
    Ok(text)
}
