//! Why there is no attested connection, or why it ended; and who is to blame, where that is known.

use pillar_model::PillarId;
use pillar_verify::Rejection;
use ring::digest::{SHA256, digest};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

/// Any error of those who make evidence or signatures.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Longest name of a check in a peer's verdict.
pub(crate) const CHECK_BYTES: usize = 64;
/// Longest reason in a peer's verdict.
pub(crate) const REASON_BYTES: usize = 512;

/// Where in the life of a connection something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// TLS.
    Tls,
    /// The first frame each way: nonces.
    Hello,
    /// The second: evidence, taken, sent, received and judged.
    Evidence,
    /// The third: verdicts.
    Verdict,
    /// HTTP/2.
    Http2,
    /// Fresh evidence on the attested connection.
    Reattestation,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS handshake",
            Self::Hello => "exchange of nonces",
            Self::Evidence => "exchange of evidence",
            Self::Verdict => "exchange of verdicts",
            Self::Http2 => "HTTP/2 connection",
            Self::Reattestation => "re-attestation",
        })
    }
}

/// Why this pillar refuses the other end.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody whom this pillar knows has that key.
    #[error("its TLS key ({fingerprint}) is no member's")]
    Stranger {
        /// First bytes of the SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
        fingerprint: String,
    },
    /// This pillar's own key came back.
    #[error("it shows this pillar's own TLS key")]
    OwnKey,
    /// A member answered, and not the one that was dialled.
    #[error("{found} answers where {expected} was dialled")]
    OtherMember {
        /// Who was dialled.
        expected: PillarId,
        /// Whose key it is.
        found: PillarId,
    },
    /// Its evidence does not hold.
    #[error(transparent)]
    Evidence(Box<Rejection>),
    /// It proves itself with another heartbeat key than when the connection was made.
    #[error("its heartbeat key changed on a living connection")]
    HeartbeatKey,
    /// This pillar cannot judge it: no release, void constitution, row gone.
    #[error("{0}")]
    Policy(String),
}

impl Refusal {
    /// Name of the check that failed.
    #[must_use]
    pub fn check(&self) -> &str {
        match self {
            Self::Stranger { .. } | Self::OwnKey | Self::OtherMember { .. } => MEMBERSHIP,
            Self::Evidence(rejection) => rejection.check.name(),
            Self::HeartbeatKey => "heartbeat key",
            Self::Policy(_) => "policy",
        }
    }

    /// Why, without the check's name.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Evidence(rejection) => rejection.reason.clone(),
            other => other.to_string(),
        }
    }

    /// A key of nobody.
    pub(crate) fn stranger(spki: &[u8]) -> Self {
        let hash = digest(&SHA256, spki);
        let fingerprint = hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self::Stranger { fingerprint }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Evidence(Box::new(rejection))
    }
}

/// Name of the check on TLS keys; it is no check of the verifier.
pub(crate) const MEMBERSHIP: &str = "membership";

/// Why there is no attested connection, or why it ended. `peer` is the member that proved to be at the other end; none
/// where anybody on the network could have caused the error, so that nobody is blamed for it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transport failed, or the other end closed it.
    #[error("the connection broke during the {step}")]
    Broken {
        /// When.
        step: Step,
        /// Why.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("nothing came during the {step} for {} s", .limit.as_secs())]
    Silent {
        /// When.
        step: Step,
        /// How long was waited.
        limit: Duration,
    },
    /// This pillar does not believe the other end.
    #[error("refused {}: {refusal}", named(.peer))]
    Refused {
        /// Who it proved to be.
        peer: Option<PillarId>,
        /// Why.
        refusal: Refusal,
    },
    /// The other end does not believe this pillar. Its words are shortened and made harmless.
    #[error("{} refused this pillar: {check}: {reason}", named(.peer))]
    RefusedByPeer {
        /// Who it proved to be.
        peer: Option<PillarId>,
        /// The check that failed, as it says.
        check: String,
        /// Why, as it says.
        reason: String,
    },
    /// The other end does not follow the protocol.
    #[error("{} broke the protocol in the {step}: {reason}", named(.peer))]
    Protocol {
        /// Who it proved to be.
        peer: Option<PillarId>,
        /// When.
        step: Step,
        /// What it did.
        reason: String,
    },
    /// This pillar could not do its own part.
    #[error("this pillar cannot {what}")]
    Own {
        /// What it should have done.
        what: &'static str,
        /// Why not.
        source: BoxError,
    },
    /// Too many connections are in the making.
    #[error("{limit} connections are in the making")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The same member made a newer connection before this one was attested.
    #[error("{peer} connected anew")]
    Displaced {
        /// Which member.
        peer: PillarId,
    },
    /// The agent cut the connection.
    #[error("connection with {peer} was cut: {reason}")]
    Cut {
        /// Who was at the other end.
        peer: PillarId,
        /// Why.
        reason: String,
    },
}

fn named(peer: &Option<PillarId>) -> &str {
    peer.as_ref().map_or("the other end", PillarId::as_str)
}

/// A peer's words: printable ASCII, not longer than `max` bytes.
pub(crate) fn harmless(words: &str, max: usize) -> String {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    words.chars().take(max).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_peer_are_short_and_printable() {
        assert_eq!(harmless("PCR 7: changed", 64), "PCR 7: changed");
        assert_eq!(harmless("\u{1b}[2J\n\u{202e}ä\0", 64), "?[2J????");
        assert_eq!(harmless(&"ä".repeat(1000), 512), "?".repeat(512));
    }
}
