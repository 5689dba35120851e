//! The state volume: what an image wants of it, and what became of it in this boot.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a state volume is made with. A volume that was made otherwise is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSettings {
    /// Every sector carries an authentication code.
    pub integrity: bool,
}

/// What became of the state volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateOutcome {
    /// Opened by the TPM.
    Open,
    /// Made in this boot, and open.
    Made,
    /// There, and not opened: the workload does not run.
    Sealed,
    /// There is none and none can be made.
    Absent,
}

impl fmt::Display for StateOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Made => "made",
            Self::Sealed => "sealed",
            Self::Absent => "absent",
        })
    }
}

/// `layout::run::STATE`: written by `pillar-state`, read by init and the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// What became of it.
    pub outcome: StateOutcome,
    /// Why, when it is not open.
    pub reason: String,
    /// What to do then.
    pub hint: String,
    /// UUID of the volume; empty when there is none.
    pub uuid: String,
    /// HMAC of the volume's key, hexadecimal: what tells this volume from a look-alike. Empty when it is not open.
    pub tag: String,
    /// The opened block device below `/dev`; empty when it is not open.
    pub device: String,
    /// The partition below `/dev`.
    pub partition: String,
    /// Every sector carries an authentication code.
    pub integrity: bool,
    /// Bytes of the partition.
    pub partition_bytes: u64,
    /// The least security epoch that the TPM lets open it, when it could be read.
    pub minimum_epoch: Option<u64>,
    /// Security epoch of the image.
    pub epoch: Option<u64>,
    /// The recovery token of the volume's header, JSON: shares sealed to the operators. Empty when there is none.
    pub recovery: String,
}

impl StateReport {
    /// True when the volume can be mounted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.outcome, StateOutcome::Open | StateOutcome::Made)
    }

    /// What init measures into PCR 15: the volume by the HMAC of its key, or that there is none.
    #[must_use]
    pub fn measured(&self) -> String {
        if self.is_open() { format!("{} {}", self.uuid, self.tag) } else { Self::NONE.to_owned() }
    }

    /// What is measured when no volume is open: PCR 15 is never left as it was.
    pub const NONE: &str = "none";
}
