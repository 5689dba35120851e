//! Opening: judge the header, unseal, open, and say how it went. A volume that does not open is a report, not a failure:
//! the machine goes on without its workload, so that somebody can ask it why.

use crate::image::{self, Image};
use crate::volume::{HeaderFile, TPM_SLOT, Volume};
use crate::{TPM, filesystem, make, report, volume};
use anyhow::Context as _;
use pillar_luks::{Header, State};
use pillar_model::{Digest, PcrIndex, StateOutcome, StateReport};
use pillar_seal::{Sealed, Tpm};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What to do when the TPM does not unseal.
const RECOVER: &str = "`pillar state recover` with enough operators' keys opens it and seals it anew; `pillar state erase` gives the data up";
const ERASE: &str =
    "nothing was written to it; `pillar state erase` gives up what is there and makes a new volume";

/// Token 0 of the header: the key of slot 0 as the TPM sealed it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmToken {
    /// Always "pillar-tpm".
    #[serde(rename = "type")]
    pub kind: String,
    /// Always the key slot 0.
    pub keyslots: Vec<String>,
    /// `TPM2B_PUBLIC`'s content.
    pub public: Digest,
    /// `TPM2B_PRIVATE`'s content.
    pub private: Digest,
    /// The firmware's PCRs when it was sealed.
    pub firmware: Vec<(PcrIndex, Digest)>,
    /// Sealed by a recovery on a TPM that has no minimum epoch yet: the next boot makes it.
    pub renew_epoch: bool,
}

impl TpmToken {
    /// Around what was sealed.
    pub fn new(sealed: Sealed, renew_epoch: bool) -> Self {
        Self {
            kind: "pillar-tpm".to_owned(),
            keyslots: vec![TPM_SLOT.to_string()],
            public: Digest(sealed.public),
            private: Digest(sealed.private),
            firmware: sealed.firmware,
            renew_epoch,
        }
    }

    fn of(header: &Header) -> anyhow::Result<Self> {
        let token = header.tokens.first().context("the header has no token of the TPM")?;
        Self::deserialize(token).context("the header's token of the TPM")
    }

    fn sealed(self) -> Sealed {
        Sealed { public: self.public.0, private: self.private.0, firmware: self.firmware }
    }
}

/// Opens the volume, or makes it; the report says what became of it.
pub fn run(partition: &Path) -> anyhow::Result<()> {
    let settings = image::settings()?;
    let outcome = match Volume::open(partition, settings) {
        Ok(volume) => {
            let (outcome, header) = attempt(&volume);
            let outcome = report::about(outcome, partition, volume.bytes, settings);
            match header {
                Some(header) => report::with_header(outcome, &header),
                None => outcome,
            }
        }
        Err(error) => report::closed(StateOutcome::Absent, words(&error), "see that the disk is the image's"),
    };
    let outcome = with_epochs(outcome);
    match outcome.is_open() {
        true => println!("<5>state volume {} {}", outcome.uuid, outcome.outcome),
        false => eprintln!("<4>state volume {}: {}; {}", outcome.outcome, outcome.reason, outcome.hint),
    }
    report::write(&outcome)
}

fn attempt(volume: &Volume) -> (StateReport, Option<Header>) {
    let state = match volume.state() {
        Ok(state) => state,
        Err(error) => return (report::closed(StateOutcome::Sealed, words(&error), ERASE), None),
    };
    match state {
        State::Blank | State::Interrupted => match make::make(volume) {
            Ok((opened, header)) => (opened, Some(header)),
            Err(error) => {
                let hint = "nothing was lost; mend what the reason names and reboot, the volume is then made";
                (report::closed(StateOutcome::Absent, words(&error), hint), None)
            }
        },
        State::Luks2 => match volume.header() {
            Ok((header, head)) => match unseal(volume, &header, &head) {
                Ok(opened) => (opened, Some(header)),
                Err(error) => (report::closed(StateOutcome::Sealed, words(&error), RECOVER), Some(header)),
            },
            Err(error) => (report::closed(StateOutcome::Sealed, words(&error), ERASE), None),
        },
        State::Foreign(what) => {
            let reason = format!("the state partition holds {what}, which is not ours");
            (report::closed(StateOutcome::Sealed, reason, ERASE), None)
        }
    }
}

fn unseal(volume: &Volume, header: &Header, head: &[u8]) -> anyhow::Result<StateReport> {
    let image = Image::read()?;
    let mut tpm = Tpm::open(TPM)?;
    let token = TpmToken::of(header)?;
    if token.renew_epoch {
        tpm.ensure_epoch(&image.sealing())?;
    }
    let key = tpm.unseal(&image.sealing(), &token.sealed())?;
    let file = HeaderFile::new(head)?;
    let mut device = volume.device(&file)?;
    device.load()?;
    let volume_key = device.volume_key(TPM_SLOT, &key)?;
    device.activate_by_volume_key(volume::NAME, &volume_key, volume::activation())?;
    filesystem::grow(&volume::mapped())?;
    Ok(opened(StateOutcome::Open, &header.uuid, &volume_key))
}

/// The report of an open volume.
pub fn opened(outcome: StateOutcome, uuid: &str, volume_key: &[u8]) -> StateReport {
    StateReport {
        uuid: uuid.to_owned(),
        tag: volume::tag(volume_key, uuid),
        device: volume::mapped().display().to_string(),
        ..report::closed(outcome, String::new(), "")
    }
}

/// The epochs, as far as they can be read.
fn with_epochs(outcome: StateReport) -> StateReport {
    let Ok(image) = Image::read() else { return outcome };
    let minimum_epoch =
        Tpm::open(TPM).ok().and_then(|mut tpm| tpm.minimum_epoch(&image.policy_key).ok().flatten());
    StateReport { minimum_epoch, epoch: Some(image.policies.epoch), ..outcome }
}

/// An error and its causes in one line.
pub fn words(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
