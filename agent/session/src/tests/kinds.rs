//! What errors mean, and whose doing they are: what most tests ask of them.

use crate::Error;
use pillar_model::PillarId;

/// What a failed connection means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody answers, or the network is bad: says nothing about the peer.
    Unreachable,
    /// This pillar refuses the peer: untrusted.
    Refused,
    /// The peer refuses this pillar: says nothing about the peer.
    RefusedByPeer,
    /// The peer does not follow the protocol: untrusted where [`Error::peer`] names it.
    Protocol,
    /// This pillar failed or gave up by itself: says nothing about the peer.
    Own,
}

impl Error {
    /// What it means.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Broken { .. } | Self::Silent { .. } => Kind::Unreachable,
            Self::Refused { .. } => Kind::Refused,
            Self::RefusedByPeer { .. } => Kind::RefusedByPeer,
            Self::Protocol { .. } => Kind::Protocol,
            Self::Own { .. } | Self::Busy { .. } | Self::Displaced { .. } | Self::Cut { .. } => Kind::Own,
        }
    }

    /// The member that proved to be at the other end, where the error is its doing.
    pub(super) fn peer(&self) -> Option<&PillarId> {
        match self {
            Self::Refused { peer, .. } | Self::RefusedByPeer { peer, .. } | Self::Protocol { peer, .. } => {
                peer.as_ref()
            }
            _ => None,
        }
    }
}
