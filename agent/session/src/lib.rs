//! The attested channel between pillars: TLS 1.3 with both ends' TPM keys, then evidence both ways, then HTTP/2.
//!
//! ```text
//! TCP ──TLS──► Handshaken ──hello, evidence, verdict──► Attested ──HTTP/2──► calls
//! ```
//!
//! The evidence is bound to this connection (TLS exporter, both keys, the end that made it) and to the other end's
//! nonce; who may connect and what evidence must show, a [`Gatekeeper`] decides. This crate knows neither TPM nor
//! cluster, and keeps no verdict: it has no clock that makes one old, only the [`Cut`] for whoever has.
//!
//! **Invariant:** no byte of HTTP/2 is read or written before this end has its own proof of the other one and the
//! other's word that it accepted this one. Every error on the way ends in an [`Error`] and a closed connection.
#![forbid(unsafe_code)]

mod attested;
mod elsewhere;
mod endpoint;
mod entrance;
mod error;
mod exchange;
pub mod frame;
mod http2;
pub mod limit;
#[cfg(test)]
mod tests;
mod tls;

pub use attested::{Attested, Client, Cut, PeerChannel, Server, Transport};
pub use endpoint::Endpoint;
pub use entrance::{Crowded, Displaced, Entrance, Guest};
pub use error::{BoxError, Error, Refusal, Step};
pub use http2::PeerConnection;

use pillar_model::{Binding, Evidence, PillarId};
use std::fmt::Debug;
use std::future::Future;
use std::io;

/// The key of this pillar's end of TLS: P-256, in the TPM.
pub trait TlsSigner: Debug + Send + Sync {
    /// Its SubjectPublicKeyInfo (DER).
    fn spki(&self) -> &[u8];

    /// Signs the SHA-256 of `message`: ECDSA, as DER `ECDSA-Sig-Value`. May block.
    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>>;
}

/// Makes this pillar's evidence.
pub trait Attester: Send + Sync + 'static {
    /// Evidence for `binding`, which holds the other end's nonce. The peer has the keys and the EK's certificate in this
    /// pillar's row, and no credential is activated: those fields are not sent.
    fn evidence(&self, binding: Binding) -> impl Future<Output = Result<Evidence, BoxError>> + Send;
}

/// Decides who may connect and whose evidence holds.
pub trait Gatekeeper: Send + Sync + 'static {
    /// What good evidence becomes: `pillar_verify::Verified`, outside of tests.
    type Proof: Send + Sync + 'static;

    /// The member whose TLS key this is (SubjectPublicKeyInfo, DER).
    fn admits(&self, tls_spki: &[u8]) -> Option<PillarId>;

    /// Judges `evidence` of `peer`, whose keys and EK certificate it lacks. Called on a thread that may be kept busy.
    fn judge(&self, peer: &PillarId, evidence: Evidence, binding: &Binding) -> Result<Self::Proof, Refusal>;
}
