//! What the agent knows about one connection; every request on it carries this.

use pillar_model::{Binding, Nonce, Role};
use ring::digest::{SHA256, digest};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// One connection with an operator.
pub struct Channel {
    /// TLS exporter under `pillar_verify::EXPORTER_LABEL`.
    pub exporter: [u8; 32],
    /// SubjectPublicKeyInfo of the agent's own certificate.
    pub own_spki: Vec<u8>,
    /// SubjectPublicKeyInfo of the operator's certificate.
    pub peer_spki: Vec<u8>,
    /// Requests so far; how the server sees that a connection is idle.
    requests: AtomicU64,
    /// Turns true when the agent is told to stop.
    stopped: watch::Receiver<bool>,
}

impl Channel {
    /// A connection that has just been opened.
    pub fn new(
        exporter: [u8; 32],
        own_spki: Vec<u8>,
        peer_spki: Vec<u8>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self { exporter, own_spki, peer_spki, requests: AtomicU64::new(0), stopped }
    }

    /// Ends when the agent is told to stop: what has no end of its own ends then.
    pub async fn stopped(&self) {
        // An error is the server being gone, which is the same.
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }

    /// What evidence for this challenge is tied to.
    pub fn binding(&self, nonce: Nonce) -> Binding {
        Binding {
            role: Role::Server,
            nonce,
            exporter: self.exporter.to_vec(),
            attester_spki: self.own_spki.clone(),
            verifier_spki: self.peer_spki.clone(),
        }
    }

    /// Counts a request.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// The operator, by the first bytes of the SHA-256 of its public key: enough to tell a dozen operators apart.
impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = digest(&SHA256, &self.peer_spki);
        f.write_str("operator ")?;
        fingerprint.as_ref().iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
