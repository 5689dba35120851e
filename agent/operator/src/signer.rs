//! An operator's key: read once, whether it signs entries or opens connections, so that a passphrase is asked once.

use crate::cli::{Caller, Signing};
use crate::failure::{Failure, Outcome};
use crate::file;
use pillar_model::OperatorKey;
use pillar_quorum::Envelope;
use pillar_signer::{Error, PassphraseFrom, Source};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// No key file is larger.
const KEY_MAX_BYTES: u64 = 64 * 1024;
/// PEM label of an encrypted PKCS#8 key (RFC 7468 section 11).
const ENCRYPTED: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";

/// Keys that were opened before in this run, by their file. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Opened(Arc<Mutex<BTreeMap<PathBuf, Arc<pillar_signer::Signer>>>>);

impl Opened {
    fn file(&self, path: &Path, passphrase: &PassphraseFrom) -> Outcome<Arc<pillar_signer::Signer>> {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = opened.get(path) {
            return Ok(Arc::clone(signer));
        }
        let source = Source::File(path.to_owned());
        let signer = Arc::new(pillar_signer::Signer::open(&source, passphrase).map_err(|e| unusable(&e))?);
        opened.insert(path.to_owned(), Arc::clone(&signer));
        Ok(signer)
    }
}

fn unusable(error: &Error) -> Failure {
    let failure = Failure::of(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A key that signs.
pub struct Signer {
    key: Arc<pillar_signer::Signer>,
}

impl Signer {
    /// The one that the arguments mean.
    pub fn of(caller: &Caller, signing: &Signing) -> Outcome<Signer> {
        let source = match &signing.ssh_agent {
            Some(which) => Source::Agent(which.clone()),
            None => Source::File(caller.key.clone()),
        };
        Signer::open(&source, caller)
    }

    /// The key at that place.
    pub fn open(source: &Source, caller: &Caller) -> Outcome<Signer> {
        let passphrase = caller.passphrase_from.clone().unwrap_or_default();
        let key = match source {
            Source::File(path) => caller.opened.file(path, &passphrase)?,
            Source::Agent(_) => {
                Arc::new(pillar_signer::Signer::open(source, &passphrase).map_err(|e| unusable(&e))?)
            }
        };
        Ok(Signer { key })
    }

    /// The key at that place, for who needs no connection.
    pub fn alone(source: &Source) -> Outcome<Signer> {
        let key =
            pillar_signer::Signer::open(source, &PassphraseFrom::default()).map_err(|e| unusable(&e))?;
        Ok(Signer { key: Arc::new(key) })
    }

    /// Its public key.
    pub fn public(&self) -> OperatorKey {
        self.key.public()
    }

    /// Signs bytes.
    pub fn sign(&self, message: &[u8]) -> Outcome<[u8; 64]> {
        self.key.sign(message).map_err(|error| unusable(&error))
    }

    /// Adds this operator's signature to an entry.
    pub fn approve(&self, envelope: &mut Envelope) -> Outcome {
        let signature = self.sign(&envelope.pae())?;
        envelope
            .add_signature(&self.public(), signature)
            .map_err(|error| Failure::of(&error).hint(error.hint()))
    }
}

/// The caller's key as PEM, for a connection: decrypted when it has to be.
pub fn pem(caller: &Caller) -> Outcome<Zeroizing<Vec<u8>>> {
    let text = Zeroizing::new(file::read(&caller.key, KEY_MAX_BYTES)?);
    if !text.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
        return Ok(text);
    }
    let passphrase = caller.passphrase_from.clone().unwrap_or_default();
    match &*caller.opened.file(&caller.key, &passphrase)? {
        pillar_signer::Signer::File(key) => {
            let pem = key.plain_pem().map_err(|error| unusable(&error))?;
            Ok(Zeroizing::new(pem.as_bytes().to_vec()))
        }
        pillar_signer::Signer::Agent(_) => Err(Failure::new("a connection needs a key file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Run;
    use pillar_signer::KeyFile;

    #[test]
    fn an_encrypted_key_signs_and_connects_by_one_passphrase() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("operator-1.key");
        let passphrase = Zeroizing::new("correct horse".to_owned());
        let made = KeyFile::create(&path, Some(&passphrase)).expect("a key");
        let from = dir.path().join("passphrase");
        file::create(&from, b"correct horse\n").expect("written");
        let caller = Caller {
            key: path.clone(),
            cert: None,
            passphrase_from: Some(PassphraseFrom::File(from.clone())),
            opened: Opened::default(),
            run: Run { dir: dir.path().to_owned() },
        };
        assert_eq!(Signer::of(&caller, &Signing::default()).expect("a signer").public(), made.public());
        // It is not asked again.
        std::fs::remove_file(&from).expect("removed");
        let plain = pem(&caller.clone()).expect("PEM");
        let again = dir.path().join("plain.key");
        file::create(&again, &plain).expect("written");
        let opened = Signer::alone(&Source::File(again)).expect("the same key");
        assert_eq!(opened.public(), made.public());
        let stranger = Caller { opened: Opened::default(), ..caller };
        assert!(Signer::of(&stranger, &Signing::default()).is_err());
    }

    // attack: P16
    #[test]
    fn a_key_that_others_may_read_signs_nothing() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("operator-1.key");
        std::fs::write(&path, "x").expect("written");
        let failure = Signer::alone(&Source::File(path)).err().expect("open to others").to_string();
        assert!(
            failure.contains("is open to other users") && failure.contains("hint: chmod 600"),
            "{failure}"
        );
    }
}
