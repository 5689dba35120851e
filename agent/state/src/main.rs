//! `pillar-state`: the state volume's hands. Init runs it as root for a moment: in the phase `sysinit` to open the
//! volume (or make it), after that only to recover, to erase, and to raise the minimum epoch.
//!
//! What is on the partition is judged by `pillar_luks` before libcryptsetup sees it, who may open it by the TPM
//! (`pillar_seal`). libcryptsetup only ever reads a copy of the header in memory: the one that was judged.
//!
//! **Invariant:** nothing that is not blank, or a volume of ours that was being made, is ever written over, except by
//! `erase`.
//!
//! It speaks to init, line by line with a level in front (`<4>`), as systemd has it.
//!
//! Exit codes: 0 done (for `open`: the report says what became of the volume), 1 failed, 2 wrong arguments.
#![forbid(unsafe_code)]

mod filesystem;
mod image;
mod make;
mod open;
mod recover;
mod report;
mod volume;

use anyhow::Context as _;
use std::path::Path;
use std::process::ExitCode;
use volume::Volume;

/// Not through the resource manager: it would save and load each session around each command. Nothing that is ours stays in
/// the TPM, and the agent's resource manager leaves nothing in it between two commands.
const TPM: &str = "device:/dev/tpm0";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["open", partition] => open::run(Path::new(partition)),
        ["recover", partition] => recover::run(Path::new(partition)),
        ["erase", partition] => erase(Path::new(partition)),
        ["commit"] => commit(),
        _ => {
            eprintln!("error: usage: pillar-state open|recover|erase PARTITION, or pillar-state commit");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("<3>error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("<3>caused by: {cause}"));
            ExitCode::FAILURE
        }
    }
}

/// Destroys every key of the volume: header and key slots. What is left is a volume that is being made, and the next
/// boot makes it.
fn erase(partition: &Path) -> anyhow::Result<()> {
    let settings = image::settings()?;
    let mut volume = Volume::open(partition, settings)?;
    volume.destroy().context("cannot destroy the state volume's keys")?;
    println!("<5>the state volume's keys are destroyed; the next boot makes a new volume");
    Ok(())
}

/// This boot was good: no older epoch opens the state volume any more.
fn commit() -> anyhow::Result<()> {
    let image = image::Image::read()?;
    let mut tpm = pillar_seal::Tpm::open(TPM)?;
    let before = tpm.minimum_epoch(&image.policy_key)?;
    let now = tpm.raise_epoch(&image.sealing())?;
    if before != Some(now) {
        println!("<5>minimum security epoch raised to {now}");
    }
    Ok(())
}
