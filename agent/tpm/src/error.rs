//! What can go wrong with a TPM, in words that say what to do.

use pillar_model::{Bank, PcrIndex};
use tss_esapi::Error as TssError;
use tss_esapi::constants::Tss2ResponseCodeKind as Kind;

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
}

impl Error {
    /// Whether another request could have succeeded: the TPM itself is fine.
    #[must_use]
    pub fn is_about_the_request(&self) -> bool {
        matches!(self, Self::Credential { .. } | Self::Bank { .. } | Self::Pcr { .. })
    }

    pub(crate) fn command(operation: &'static str, source: TssError) -> Self {
        match crate::kind(source) {
            Some(Kind::Lockout) => Self::Lockout { operation },
            Some(Kind::Retry | Kind::Yielded | Kind::Testing) => Self::Busy { operation },
            Some(Kind::Failure | Kind::NeedsTest) => Self::Failure { operation },
            Some(Kind::Hierarchy | Kind::BadAuth | Kind::AuthFail) => Self::Endorsement { operation, source },
            _ => Self::Command { operation, source },
        }
    }
}

/// Answers that mean "send it again".
pub(crate) fn is_busy(error: TssError) -> bool {
    matches!(crate::kind(error), Some(Kind::Retry | Kind::Yielded | Kind::Testing))
}

/// Answers of `TPM2_ActivateCredential` that are about what the caller sent.
pub(crate) fn blames_credential(error: TssError) -> bool {
    matches!(
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
