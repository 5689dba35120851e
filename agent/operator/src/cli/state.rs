//! `pillar state …` as types.

use super::options::{Form, Judge, Target};
use clap::Subcommand;

/// What to do about a state volume.
#[derive(Debug, Subcommand)]
pub enum StateAction {
    /// Show what became of the state volume in this boot
    ///
    /// Open or not and why, UUID, size, integrity, the least security epoch that opens it, and which operators can recover
    /// it.
    Status {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        form: Form,
    },
    /// Give your share of the recovery key to a pillar whose TPM does not open its volume
    ///
    /// The pillar is attested first: a share goes only to one that runs the release, whatever its volume. When enough
    /// operators have given theirs (within ten minutes), the pillar seals the volume to its TPM anew and reboots.
    Recover {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        judge: Judge,
    },
    /// Destroy the keys of the state volume and everything on it, then make a new one
    ///
    /// Not to be undone. The workload's data is gone; the pillar reboots with an empty volume, which has to be learnt anew
    /// (`pillar attest --forget`).
    Erase {
        #[command(flatten)]
        target: Target,
        /// Do not ask for the pillar's name first
        #[arg(long)]
        yes: bool,
    },
}
