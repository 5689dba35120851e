//! What init and the agent learn.

use anyhow::Context as _;
use pillar_layout::{run, user};
use pillar_luks::Header;
use pillar_model::{StateOutcome, StateReport, StateSettings};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::fchown;
use std::path::Path;

/// A report of a volume that is not open.
pub fn closed(outcome: StateOutcome, reason: String, hint: &str) -> StateReport {
    StateReport {
        outcome,
        reason,
        hint: hint.to_owned(),
        uuid: String::new(),
        tag: String::new(),
        device: String::new(),
        partition: String::new(),
        integrity: false,
        partition_bytes: 0,
        minimum_epoch: None,
        epoch: None,
        recovery: String::new(),
    }
}

/// What of it the partition tells.
pub fn about(report: StateReport, partition: &Path, bytes: u64, settings: StateSettings) -> StateReport {
    StateReport {
        partition: partition.display().to_string(),
        partition_bytes: bytes,
        integrity: settings.integrity,
        ..report
    }
}

/// What of it a good header tells.
pub fn with_header(report: StateReport, header: &Header) -> StateReport {
    let recovery = header.tokens.get(1).map(ToString::to_string).unwrap_or_default();
    StateReport { uuid: header.uuid.clone(), recovery, ..report }
}

/// Writes it whole, for init and the agent.
pub fn write(report: &StateReport) -> anyhow::Result<()> {
    let partial = format!("{}.new", run::STATE);
    let written = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        fchown(&file, None, Some(user::AGENT))?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
        file.write_all(&serde_json::to_vec(report)?)?;
        fs::rename(&partial, run::STATE)
    };
    written().with_context(|| format!("cannot write {}", run::STATE))
}
