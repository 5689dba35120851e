//! Extends PCRs and logs each extend. The log has an entry exactly for what the TPM took.

use crate::cel;
use crate::log;
use crate::tpm::{Tpm, TpmError};
use pillar_layout::{pcr, run, user};
use pillar_model::Tpm as State;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};

/// The TPM and how far the log is.
#[derive(Debug)]
pub struct Measurer {
    tpm: Option<Tpm>,
    state: State,
    records: u64,
}

impl Measurer {
    /// Opens the TPM, when there is one; `records` are in the log already. A TPM that failed once stays failed.
    pub fn open(records: u64, before: Option<State>) -> Measurer {
        let first = before.is_none();
        let (tpm, state) = match (before, Tpm::open()) {
            (Some(failed @ State::Failed(_)), _) => (None, failed),
            (_, Ok(Some(tpm))) => (Some(tpm), State::Present),
            (_, Ok(None)) => (None, State::Absent),
            (_, Err(error)) => (None, State::Failed(log::chain(&error))),
        };
        if first && state != State::Present {
            log::warn(&match &state {
                State::Failed(why) => format!("TPM failed, no verifier will accept this machine: {why}"),
                _ => "no TPM: the machine runs, no verifier will accept it".to_owned(),
            });
        }
        Measurer { tpm, state, records }
    }

    /// What became of the TPM.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Records in the log.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Extends a phase into PCR 11.
    pub fn phase(&mut self, name: &str) {
        self.extend(pcr::UKI, "phase", name);
    }

    /// Extends the node settings into PCR 13; false when they must not be used because a TPM that is there did not
    /// take them.
    pub fn node_settings(&mut self, text: &str) -> bool {
        self.extend(pcr::NODE, "node-settings", text);
        !matches!(self.state, State::Failed(_))
    }

    /// Extends what became of the state volume into PCR 15; false when the volume must not be used because a TPM that is
    /// there did not take it.
    pub fn state_volume(&mut self, text: &str) -> bool {
        self.extend(pcr::IDENTITY, "state-volume", text);
        !matches!(self.state, State::Failed(_))
    }

    fn extend(&mut self, pcr: u8, event: &str, string: &str) {
        let Some(tpm) = &mut self.tpm else { return };
        let done = tpm.event(pcr, string.as_bytes());
        if let Err(error) = done.map_err(Failure::from).and_then(|digests| {
            append(&cel::record(self.records, pcr, event, string, &digests).map_err(io::Error::from)?)?;
            self.records += 1;
            Ok(())
        }) {
            let why = log::chain(&error);
            log::warn(&format!("cannot measure {event}, no verifier will accept this machine: {why}"));
            self.state = State::Failed(why);
            self.tpm = None;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Tpm(#[from] TpmError),
    #[error("cannot write the event log")]
    Log(#[from] io::Error),
}

fn append(record: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(run::CEL)?;
    fchown(&file, None, Some(user::AGENT))?;
    file.write_all(record)
}
