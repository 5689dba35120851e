//! What can go wrong with a TPM, in words that say what to do.

use pillar_model::{Bank, PcrIndex};
use std::io;
use tss_esapi::Error as TssError;
use tss_esapi::constants::Tss2ResponseCodeKind as Kind;
use tss_esapi::constants::response_code::Tss2ResponseCode;

/// Where the number of the layer is in a code (tss2_common.h).
const LAYER_SHIFT: u32 = 16;
/// The driver that carries commands to the TPM.
const TCTI_LAYER: u32 = 10;
/// A resource manager that answers like a TPM.
const RESOURCE_MANAGER_LAYER: u32 = 11;
/// `TSS2_ESYS_RC_RSP_AUTH_FAILED`: the HMAC of an answer is wrong.
const RSP_AUTH_FAILED: u32 = 0x7001b;

/// The bit of a code that says that it is about a parameter (TPM 2.0 part 2, section 6.6.2).
const PARAMETER: u32 = 0x40;

/// A failed operation on the TPM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No TPM answers there.
    #[error(
        "cannot open the TPM at {tcti}; switch it on in the firmware's settings, without one this machine cannot be attested"
    )]
    Open {
        /// Where.
        tcti: String,
        /// Why.
        source: TssError,
    },
    /// Dictionary attack protection is active.
    #[error(
        "TPM in lockout, cannot {operation}; wait for its recovery time or clear it in the firmware's settings"
    )]
    Lockout {
        /// What was asked for.
        operation: &'static str,
    },
    /// The TPM kept answering "later".
    #[error("TPM stayed busy, cannot {operation}; try again")]
    Busy {
        /// What was asked for.
        operation: &'static str,
    },
    /// The TPM is in failure mode.
    #[error("TPM failed its self-test, cannot {operation}; power the machine off and on")]
    Failure {
        /// What was asked for.
        operation: &'static str,
    },
    /// Nobody started it.
    #[error("the TPM was not started since it was reset, cannot {operation}; power the machine off and on")]
    NotStarted {
        /// What was asked for.
        operation: &'static str,
    },
    /// It went away.
    #[error("the TPM does not answer any more, cannot {operation}; power the machine off and on")]
    Gone {
        /// What was asked for.
        operation: &'static str,
        /// Why.
        source: TssError,
    },
    /// No answer on the connection of the clock.
    #[error("the TPM does not answer, cannot {operation}")]
    Exchange {
        /// What was asked for.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It was reset, again and again.
    #[error("the TPM forgot its keys, cannot {operation}: it was reset under the running system")]
    Forgotten {
        /// What was asked for.
        operation: &'static str,
        /// The TPM's answer.
        source: TssError,
    },
    /// All slots for keys or sessions are taken.
    #[error(
        "the TPM has no room, cannot {operation}: another program fills it; use the resource manager /dev/tpmrm0"
    )]
    Room {
        /// What was asked for.
        operation: &'static str,
        /// The TPM's answer.
        source: TssError,
    },
    /// An answer that the TPM did not give.
    #[error("the TPM's answer was changed on its way, cannot {operation}; somebody is on its wire")]
    Wire {
        /// What was asked for.
        operation: &'static str,
        /// The library's answer.
        source: TssError,
    },
    /// The endorsement hierarchy cannot be used.
    #[error(
        "cannot {operation}: the endorsement hierarchy is disabled or has a password; clear the TPM in the firmware's settings"
    )]
    Endorsement {
        /// What was asked for.
        operation: &'static str,
        /// The TPM's answer.
        source: TssError,
    },
    /// Another refusal.
    #[error("cannot {operation}")]
    Command {
        /// What was asked for.
        operation: &'static str,
        /// The TPM's answer.
        source: TssError,
    },
    /// The TPM answered something else than asked for.
    #[error("cannot {operation}: the TPM's answer makes no sense")]
    Answer {
        /// What was asked for.
        operation: &'static str,
    },
    /// The credential was not made for this EK and AK; the caller's fault.
    #[error("the credential was not made for this EK and AK")]
    Credential {
        /// The TPM's answer.
        source: TssError,
    },
    /// A bank that is switched off.
    #[error("the TPM has no {bank} bank; switch it on in the firmware's TPM settings")]
    Bank {
        /// The bank.
        bank: Bank,
    },
    /// A bank without that PCR.
    #[error("the TPM's {bank} bank has no PCR {pcr}")]
    Pcr {
        /// The bank.
        bank: Bank,
        /// The PCR.
        pcr: PcrIndex,
    },
    /// No EK certificate at all.
    #[error(
        "the TPM holds no EK certificate (looked in {looked}); its maker or `swtpm_setup --create-ek-cert` provides one"
    )]
    NoCertificate {
        /// NV indices, in words.
        looked: String,
    },
    /// An EK certificate that cannot be read.
    #[error("the EK certificate in NV index {index:#010x} is malformed: {reason}")]
    Certificate {
        /// NV index.
        index: u32,
        /// Why.
        reason: String,
    },
    /// An EK certificate for another key.
    #[error("the EK certificate in NV index {index:#010x} is not for the key of the {template} template")]
    ForeignCertificate {
        /// NV index.
        index: u32,
        /// The template.
        template: &'static str,
    },
    /// A template in NV that is none of an EK.
    #[error(
        "the EK template in NV index {index:#010x} is not one of an endorsement key that can be used here"
    )]
    Template {
        /// NV index.
        index: u32,
    },
    /// The EK is not the one that was pinned.
    #[error(
        "the TPM's EK is not the one that was enrolled: another TPM, or it was cleared by its maker's means"
    )]
    OtherEk,
}

impl Error {
    /// Whether another request could have succeeded: the TPM itself is fine.
    #[must_use]
    pub fn is_about_the_request(&self) -> bool {
        matches!(self, Self::Credential { .. } | Self::Bank { .. } | Self::Pcr { .. })
    }

    /// Whether another EK of the same TPM could do.
    pub(crate) fn is_about_an_ek(&self) -> bool {
        matches!(self, Self::Certificate { .. } | Self::ForeignCertificate { .. } | Self::Template { .. })
    }

    fn command(operation: &'static str, source: TssError) -> Self {
        match crate::kind(source) {
            Some(Kind::Lockout) => Self::Lockout { operation },
            Some(Kind::Retry | Kind::Yielded | Kind::Testing | Kind::NvRate) => Self::Busy { operation },
            Some(Kind::Failure | Kind::NeedsTest) => Self::Failure { operation },
            Some(Kind::Initialize | Kind::Reboot) => Self::NotStarted { operation },
            Some(Kind::Hierarchy | Kind::BadAuth | Kind::AuthFail) => Self::Endorsement { operation, source },
            Some(kind) if is_room(kind) => Self::Room { operation, source },
            None if code(source) == Some(RSP_AUTH_FAILED) => Self::Wire { operation, source },
            None if layer(source) == Some(TCTI_LAYER) => Self::Gone { operation, source },
            _ => Self::Command { operation, source },
        }
    }
}

/// What came between, before it has words.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The TPM does not know a key or session that it gave out before: it was reset.
    Stale(TssError),
    /// Another answer of the TPM.
    Command(TssError),
    /// Not the TPM's.
    Named(Error),
}

impl Fault {
    /// The TPM's answer to a saved key.
    pub(crate) fn load(error: TssError) -> Self {
        match crate::kind(error) {
            Some(
                Kind::Integrity
                | Kind::Handle
                | Kind::Hierarchy
                | Kind::Size
                | Kind::Value
                | Kind::Insufficient
                | Kind::BadContext,
            ) => Self::Stale(error),
            _ => Self::from(error),
        }
    }

    /// The TPM's answer to a credential.
    pub(crate) fn credential(error: TssError) -> Self {
        match blames_credential(error) {
            true => Self::Named(Error::Credential { source: error }),
            false => Self::from(error),
        }
    }

    /// Whether it means "send it again".
    pub(crate) fn is_busy(&self) -> bool {
        let Self::Command(error) = self else { return false };
        matches!(crate::kind(*error), Some(Kind::Retry | Kind::Yielded | Kind::Testing | Kind::NvRate))
    }

    /// In words.
    pub(crate) fn named(self, operation: &'static str) -> Error {
        match self {
            Self::Stale(source) => Error::Forgotten { operation, source },
            Self::Command(source) => Error::command(operation, source),
            Self::Named(error) => error,
        }
    }
}

impl From<TssError> for Fault {
    fn from(error: TssError) -> Self {
        match crate::kind(error) {
            Some(
                Kind::ReferenceH0
                | Kind::ReferenceH1
                | Kind::ReferenceS0
                | Kind::ReferenceS1
                | Kind::ReferenceS2
                | Kind::AuthFail,
            ) => Self::Stale(error),
            _ => Self::Command(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Named(error)
    }
}

/// No place for a key or session in the TPM.
fn is_room(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ObjectMemory
            | Kind::SessionMemory
            | Kind::Memory
            | Kind::SessionHandles
            | Kind::ObjectHandles
            | Kind::ContextGap
            | Kind::TooManyContexts
    )
}

/// The number of an answer of the TPM or of a library in between. tss-esapi gives it out in words alone.
fn code(error: TssError) -> Option<u32> {
    let text = match error {
        TssError::Tss2Error(Tss2ResponseCode::FormatZero(code)) => code.to_string(),
        TssError::Tss2Error(Tss2ResponseCode::FormatOne(code)) => code.to_string(),
        TssError::Tss2Error(Tss2ResponseCode::Success) | TssError::WrapperError(_) => return None,
    };
    u32::from_str_radix(text.rsplit_once("0x")?.1, 16).ok()
}

/// Who gave an answer (`TSS2_RC_LAYER`): 0 is the TPM.
pub(crate) fn layer(error: TssError) -> Option<u32> {
    let layer = code(error)? >> LAYER_SHIFT & 0xff;
    // The kernel's resource manager answers some commands in the TPM's place, with the TPM's codes.
    Some(if layer == RESOURCE_MANAGER_LAYER { 0 } else { layer })
}

/// Answers of `TPM2_ActivateCredential` that are about what the caller sent: its parameters, not the keys' handles.
fn blames_credential(error: TssError) -> bool {
    let is_about_a_parameter = code(error).is_some_and(|code| code & PARAMETER != 0);
    is_about_a_parameter
        && matches!(
            crate::kind(error),
            Some(
                Kind::Integrity
                    | Kind::Value
                    | Kind::Size
                    | Kind::Insufficient
                    | Kind::Type
                    | Kind::EccPoint
                    | Kind::Signature
            )
        )
}
