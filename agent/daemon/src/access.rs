//! Which operators are let in. A pillar that belongs to no cluster, or cannot read its state volume, serves those of its
//! sealed image: they found, admit and recover. In a cluster the constitution in force says who the operators are, and
//! nothing else does: one who was removed is out, whatever the image says, and one who came later is in, with any
//! certificate that holds his key.
//!
//! **Invariant:** nobody is let in for longer than this pillar lacks the entry that took the right away: each request asks
//! anew. An entry can be lacking that it once had: where the disk gives one back damaged, or not at all, those from it
//! on are not in force (before the first one, the image's operators are back) until peers or operators give them again.
//! An operator whom they removed is let in so long. The pillar says so with its status ([`Chain::trouble`]); nobody but
//! operators could repair it, so that it does not shut its door.

use crate::chain::Chain;
use crate::tls::{Operators, operator_key};
use pillar_wire::tls::{Judge, Shown, spki};
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, SignatureScheme};
use std::sync::Arc;
use tokio::sync::watch;

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody knows the key.
    #[error("its certificate's key is no operator's")]
    Stranger,
    /// The image knows it, and that does not count any more.
    #[error(
        "its key is in the sealed image, but constitution {version} of {cluster} does not name it as an operator's"
    )]
    Removed {
        /// The cluster.
        cluster: String,
        /// The constitution in force.
        version: u64,
    },
}

/// Lets operators in.
pub struct Access {
    image: Operators,
    chain: Arc<Chain>,
}

impl Access {
    /// By the image's operators and the chain.
    pub fn new(image: Operators, chain: Arc<Chain>) -> Self {
        Self { image, chain }
    }

    /// Whether the holder of this key (SubjectPublicKeyInfo) is an operator now.
    pub fn judge_key(&self, spki: &[u8]) -> Result<(), Denied> {
        // Public values on both sides: nothing to hide in how long the comparisons take.
        let in_image = self.image.contains(spki);
        let Some(cluster) = self.chain.cluster() else {
            return if in_image { Ok(()) } else { Err(Denied::Stranger) };
        };
        let constitution = cluster.constitution();
        let key = operator_key(spki);
        if key.is_some_and(|key| constitution.operators.iter().any(|operator| operator.key == key)) {
            return Ok(());
        }
        match in_image {
            true => {
                Err(Denied::Removed { cluster: constitution.cluster.clone(), version: constitution.version })
            }
            false => Err(Denied::Stranger),
        }
    }

    /// Ticks when the answer may have become another one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.chain.changes()
    }
}

/// At the handshake. The alerts tell the two refusals apart.
impl Judge for Access {
    const SHOWN: Shown = Shown::Certificate;
    const SCHEMES: &'static [SignatureScheme] =
        &[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];

    fn judge(&self, shown: &CertificateDer<'_>, _more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        self.judge_key(&spki(shown)?).map_err(|denied| match denied {
            Denied::Stranger => CertificateError::ApplicationVerificationFailure.into(),
            Denied::Removed { .. } => CertificateError::Revoked.into(),
        })
    }
}
