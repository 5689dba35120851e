//! What a verification says: each check in order with its verdict, and the reason of a refusal.

use pillar_model::PcrIndex;
use serde::Serialize;
use std::fmt;

macro_rules! checks {
    ($($(#[$doc:meta])* $name:ident: $text:literal, $hint:literal;)*) => {
        /// The checks, in the order in which they run; the first that fails ends the verification.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Check {
            $($(#[$doc])* $name,)*
        }

        impl Check {
            /// All of them, in order.
            pub const ALL: &[Check] = &[$(Check::$name,)*];

            /// A short name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Check::$name => $text,)*
                }
            }

            /// What to do when it fails.
            #[must_use]
            pub fn hint(self) -> &'static str {
                match self {
                    $(Check::$name => $hint,)*
                }
            }
        }
    };
}

checks! {
    /// Nothing is missing or larger than its limit; the policy itself is complete.
    Sizes: "sizes", "the agent sent too much or too little: compare its version with this tool's";
    /// Every TPM structure parses whole.
    Structures: "structures", "the evidence is damaged or made by something else than a TPM: take it again";
    /// The attestation key is of the fixed template.
    AttestationKey: "attestation key", "the pillar's agent must use the AK template of this version";
    /// The EK certificate leads to a trusted root and is for the EK.
    EkCertificate: "EK certificate", "give the TPM manufacturer's root (and intermediates), or look at what TPM this is";
    /// EK and AK are in one TPM.
    SameTpm: "AK in this TPM", "the AK is not in the TPM of the EK, or this is another pillar than the pinned one";
    /// The AK signed.
    Signature: "signature", "the quote was changed or signed by another key: take the evidence again";
    /// The quote answers this challenge, on this connection, with these logs.
    Challenge: "challenge", "an old quote, one for another connection, or a changed log: take the evidence again";
    /// Exactly the PCRs that the policy wants, in one bank.
    Selection: "PCR selection", "the agent must quote the PCRs and the bank of the policy";
    /// Clock, counters and firmware version did not go back.
    Counters: "counters", "the TPM was reset, cleared or exchanged, or this quote is older than the last one";
    /// The TPM's firmware is not one that is known to be broken.
    TpmFirmware: "TPM firmware", "update the TPM's firmware by its maker's tool; what is denied stands in the constitution";
    /// Both event logs parse.
    Logs: "event logs", "the log is damaged, or written by firmware that is not understood";
    /// The logs lead to exactly the quoted values.
    Replay: "replay", "something was measured that no event tells, or an event was changed";
    /// Events stand where firmware and init put them.
    Events: "event rules", "the boot was not that of a pillar: look at the event";
    /// Loader, UKI, kernel, initrd, command line and phases are a release's.
    Release: "release", "the pillar runs something else than the release, or give its right release.json";
    /// Nothing was added to the boot.
    Additions: "nothing added", "remove add-ons, credentials and extension images from the ESP";
    /// The state volume is open, and the one that it was.
    State: "state volume", "`pillar state status` tells why; if the volume was erased or exchanged by you, learn the machine anew";
    /// Secure Boot is on with the release's keys alone.
    SecureBoot: "secure boot", "turn Secure Boot on and enrol the release's PK, KEK and db alone";
    /// The firmware and its settings are the pinned ones.
    Firmware: "firmware", "if the change is wanted (update, settings, hardware), pin the new values after a look at the events";
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not; verification ended here.
    Failed,
    /// A check before it failed.
    NotReached,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::NotReached => "not reached",
        })
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// The check.
    pub check: Check,
    /// Its short name.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found, in words; empty when not reached.
    pub words: String,
}

/// All checks with their verdicts. For people to read: trust comes from [`crate::Verified`] alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In order, every check once.
    pub checks: Vec<CheckResult>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let line = |check: &Check| CheckResult {
            check: *check,
            name: check.name(),
            verdict: Verdict::NotReached,
            words: String::new(),
        };
        Self { checks: Check::ALL.iter().map(line).collect() }
    }

    pub(crate) fn set(&mut self, check: Check, verdict: Verdict, words: String) {
        if let Some(line) = self.checks.iter_mut().find(|line| line.check == check) {
            line.verdict = verdict;
            line.words = words;
        }
    }
}

/// Why evidence is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{check}: {reason}")]
pub struct Rejection {
    /// The check that failed.
    pub check: Check,
    /// The PCR, where it is about one.
    pub pcr: Option<PcrIndex>,
    /// Number of the event in the firmware's log, where it is about one.
    pub event: Option<usize>,
    /// Why, in words.
    pub reason: String,
    /// The change of the firmware's measurements in words, where it is about one that can be named.
    pub changed: Option<String>,
    /// What to do.
    pub hint: &'static str,
}

/// What a check found, and the words for it.
pub(crate) type Found<T> = Result<(T, String), Fault>;

/// What a single check says when it fails.
pub(crate) struct Fault {
    pub(crate) pcr: Option<PcrIndex>,
    pub(crate) event: Option<usize>,
    pub(crate) reason: String,
    pub(crate) changed: Option<String>,
}

impl Fault {
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        Self { pcr: None, event: None, reason: reason.to_string(), changed: None }
    }

    pub(crate) fn pcr(index: PcrIndex, reason: impl fmt::Display) -> Self {
        Self { pcr: Some(index), event: None, reason: format!("PCR {index}: {reason}"), changed: None }
    }

    pub(crate) fn at(mut self, event: usize) -> Self {
        self.event = Some(event);
        self
    }
}

impl<E: std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
