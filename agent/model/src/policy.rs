//! What the policy key signs for one image, as it travels in the UKI's `.pcrsig` section beside systemd's own entries.

use crate::Digest;
use serde::{Deserialize, Serialize};

/// Key of [`SignedPolicies`] in the JSON of `.pcrsig`; systemd's own keys there are names of PCR banks.
pub const SIGNED_POLICIES_KEY: &str = "pillar";

/// A policy digest and the policy key's signature over it and its reference (RSASSA, SHA-256).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedPolicy {
    /// The approved policy, SHA-256.
    pub policy: Digest,
    /// The signature.
    pub signature: Digest,
}

/// The signed policies of one image. See `pillar_measure::policy` for what each one says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedPolicies {
    /// Security epoch of the image: what the policies compare the machine's minimum with.
    pub epoch: u64,
    /// Opens the state volume, in the phase `sysinit`.
    pub state: SignedPolicy,
    /// Writes the minimum epoch for the first time, in the phase `sysinit`.
    pub epoch_first: SignedPolicy,
    /// Raises the minimum epoch, in the phase `ready`.
    pub epoch_raise: SignedPolicy,
}
