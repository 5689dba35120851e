//! What init tells the agent about this boot, and what stage 1 hands to stage 2.

use crate::{clock, files, log};
use pillar_layout::{run, user};
use pillar_model::{Boot, Phase, Tpm};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const HANDOVER: &str = "/run/pillar/handover.json";
const HANDOVER_MAX_BYTES: usize = 64 * 1024;

/// What stage 2 cannot find out by itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    /// The record so far.
    pub boot: Boot,
    /// The disk with the root, for example "vda".
    pub disk: String,
    /// Number of its EFI system partition.
    pub esp: Option<u32>,
    /// Records in our event log.
    pub records: u64,
    /// Descriptor of the armed watchdog.
    pub watchdog: Option<i32>,
}

impl Handover {
    /// Writes it, for init alone.
    pub fn write(&self) -> io::Result<()> {
        files::replace(Path::new(HANDOVER), 0, &serde_json::to_vec(self)?)
    }

    /// Takes it.
    pub fn take() -> io::Result<Handover> {
        let text = files::read_text(Path::new(HANDOVER), HANDOVER_MAX_BYTES)?;
        let _ = std::fs::remove_file(HANDOVER);
        Ok(serde_json::from_str(&text)?)
    }
}

/// The boot record; written whenever it changes.
#[derive(Debug)]
pub struct BootRecord(Boot);

impl BootRecord {
    /// Goes on from stage 1's record.
    pub fn new(boot: Boot) -> BootRecord {
        BootRecord(boot)
    }

    /// As it stands.
    pub fn get(&self) -> &Boot {
        &self.0
    }

    /// Changes it and writes it. A record that cannot be written is no reason to stop the machine.
    pub fn change(&mut self, change: impl FnOnce(&mut Boot)) {
        let before = self.0.clone();
        change(&mut self.0);
        if before == self.0 {
            return;
        }
        let written = serde_json::to_vec(&self.0)
            .map_err(io::Error::from)
            .and_then(|json| files::replace(Path::new(run::BOOT), user::AGENT, &json));
        if let Err(error) = written {
            log::warn(&format!("cannot write {}: {error}", run::BOOT));
        }
    }

    /// Notes that a phase was reached, and what became of the TPM in it.
    pub fn reached(&mut self, phase: &str, tpm: &Tpm) {
        let phase = phase_now(phase);
        self.change(|boot| {
            boot.phases.push(phase);
            boot.tpm = tpm.clone();
        });
    }
}

/// A phase with the time that it is.
pub fn phase_now(name: &str) -> Phase {
    Phase { name: name.to_owned(), at_us: u64::try_from(clock::now().as_micros()).unwrap_or(u64::MAX) }
}
