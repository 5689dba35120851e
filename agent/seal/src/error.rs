//! What can go wrong between the state volume and the TPM, in words that say what to do.

use crate::bytes::Malformed;
use pillar_model::PcrIndex;
use std::io;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No TPM answers there.
    #[error("cannot open the TPM at {name}; without one there is no state volume")]
    Open {
        /// Where.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The device failed.
    #[error("cannot {operation}: talking to the TPM failed")]
    Exchange {
        /// What was asked for.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An answer that is none.
    #[error("cannot {operation}: the TPM's answer makes no sense")]
    Answer {
        /// What was asked for.
        operation: &'static str,
    },
    /// As [`Error::Answer`], inside of an answer.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The answer's authentication code is wrong.
    #[error("an answer of the TPM was changed on its way; somebody is on the wire")]
    Wire,
    /// The system's random source failed.
    #[error("no random bytes")]
    Random,
    /// The storage key is not what it has to be.
    #[error("the TPM's storage key is not ours to trust: {0}; clear the TPM in the firmware's settings")]
    StorageKey(&'static str),
    /// Dictionary attack protection is active.
    #[error(
        "TPM in lockout, cannot {operation}; wait for its recovery time or clear it in the firmware's settings"
    )]
    Lockout {
        /// What was asked for.
        operation: &'static str,
    },
    /// The owner hierarchy has a password or is switched off.
    #[error(
        "cannot {operation}: the TPM's owner hierarchy has a password or is disabled; clear the TPM in the firmware's settings"
    )]
    Owner {
        /// What was asked for.
        operation: &'static str,
    },
    /// Another refusal.
    #[error("cannot {operation}: the TPM refused with code {code:#x}")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// `TPM_RC`.
        code: u32,
    },
    /// The bank that all policies are about is switched off.
    #[error("the TPM's SHA-256 bank is off; switch it on in the firmware's TPM settings")]
    Bank,
    /// An index of another kind stands where the minimum epoch has to be.
    #[error(
        "NV index {index:#010x} of the TPM is not the minimum epoch of this policy key; clear the TPM in the firmware's settings"
    )]
    ForeignIndex {
        /// The index.
        index: u32,
    },
    /// No policy of this image fits what the TPM measured.
    #[error(
        "PCR 11 is not at the phase in which this image may {what}: it is over, or the policies are another image's"
    )]
    Phase {
        /// What the policy is for.
        what: &'static str,
    },
    /// The policy key did not sign that.
    #[error("the image's policy is not signed by its policy key")]
    Signature,
    /// The image is too old.
    #[error(
        "security epoch {epoch} of this image is below {minimum}, the least that this machine accepts; start a newer image"
    )]
    Epoch {
        /// Of the image.
        epoch: u64,
        /// Of the machine.
        minimum: u64,
    },
    /// There is no minimum epoch on a machine that has a state volume.
    #[error(
        "the TPM has lost the minimum epoch that belongs to this state volume; it was cleared, or is another TPM"
    )]
    NoEpoch,
    /// A PCR that must be zero.
    #[error("PCR {pcr} was extended already: the state volume was opened in this boot, and opens once only")]
    Used {
        /// The PCR.
        pcr: PcrIndex,
    },
    /// A PCR that has another value than when the key was sealed.
    #[error("PCR {pcr} ({meaning}) is {now}, and was {then} when the state volume was sealed")]
    Firmware {
        /// The PCR.
        pcr: PcrIndex,
        /// What it holds.
        meaning: &'static str,
        /// Its value now.
        now: String,
        /// Its value then.
        then: String,
    },
    /// The TPM does not know its own seal.
    #[error("the key was not sealed by this TPM: this is another machine's disk, or the TPM was cleared")]
    Foreign,
    /// The policy did not hold, and nothing that we can see says why.
    #[error("the TPM refused to unseal: the policy does not hold (code {code:#x})")]
    Policy {
        /// `TPM_RC`.
        code: u32,
    },
    /// The sealed object is not one of ours.
    #[error("the sealed object is damaged: {0}")]
    Sealed(&'static str),
}

/// Format-one codes carry the number of a handle, session or parameter in other bits; those are cut off.
pub(crate) fn base(code: u32) -> u32 {
    if code & 0x80 != 0 { code & 0xbf } else { code }
}

/// `TPM_RC_HANDLE`.
pub(crate) const HANDLE: u32 = 0x8b;
/// `TPM_RC_INTEGRITY`.
pub(crate) const INTEGRITY: u32 = 0x9f;
/// `TPM_RC_SIGNATURE`.
pub(crate) const SIGNATURE: u32 = 0x9b;
/// `TPM_RC_VALUE`.
pub(crate) const VALUE: u32 = 0x84;
/// `TPM_RC_POLICY_FAIL`.
pub(crate) const POLICY_FAIL: u32 = 0x9d;
/// `TPM_RC_POLICY`: the comparison of PolicyNV does not hold.
pub(crate) const POLICY: u32 = 0x126;
const LOCKOUT: u32 = 0x921;
const BAD_AUTH: u32 = 0xa2;
const AUTH_FAIL: u32 = 0x8e;
const HIERARCHY: u32 = 0x85;

impl Error {
    pub(crate) fn refused(operation: &'static str, code: u32) -> Self {
        match base(code) {
            LOCKOUT => Self::Lockout { operation },
            BAD_AUTH | AUTH_FAIL | HIERARCHY => Self::Owner { operation },
            _ => Self::Refused { operation, code },
        }
    }

    /// The TPM's code, when it refused without a better word.
    pub(crate) fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } | Self::Policy { code } => Some(*code),
            _ => None,
        }
    }
}
