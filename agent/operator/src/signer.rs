//! What signs an entry: an operator's key in a file, or one that an ssh-agent keeps.

use crate::cli::{Caller, Signing};
use crate::failure::{Failure, Outcome};
use crate::file;
use pillar_model::OperatorKey;
use pillar_quorum::Envelope;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use std::path::Path;
use zeroize::Zeroizing;

/// No key file is larger.
const KEY_MAX_BYTES: u64 = 64 * 1024;

/// A key that signs.
pub struct Signer {
    pair: Ed25519KeyPair,
}

impl Signer {
    /// The one that the arguments mean.
    pub fn of(caller: &Caller, signing: &Signing) -> Outcome<Signer> {
        match &signing.ssh_agent {
            Some(_) => Err(Failure::new("keys of an ssh-agent are not supported by this build")),
            None => Signer::file(&caller.key),
        }
    }

    /// A key file.
    pub fn file(path: &Path) -> Outcome<Signer> {
        let unusable = || {
            Failure::new(format!("{} is not an operator's Ed25519 key (PKCS#8, PEM)", path.display()))
                .hint("--key names the key file that the image was built with")
        };
        let pem = Zeroizing::new(file::read(path, KEY_MAX_BYTES)?);
        let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_der()).map_err(|_| unusable())?;
        Ok(Signer { pair })
    }

    /// Its public key.
    pub fn public(&self) -> OperatorKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        OperatorKey(key)
    }

    /// Signs bytes.
    pub fn sign(&self, message: &[u8]) -> Outcome<[u8; 64]> {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        Ok(signature)
    }

    /// Adds this operator's signature to an entry.
    pub fn approve(&self, envelope: &mut Envelope) -> Outcome {
        let signature = self.sign(&envelope.pae())?;
        envelope
            .add_signature(&self.public(), signature)
            .map_err(|error| Failure::of(&error).hint(error.hint()))
    }
}
