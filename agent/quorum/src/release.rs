//! What pillars may run: a committed release, and one on trial.

use crate::limits::{
    BOOT_APPLICATIONS_MAX, CMDLINE_MAX_BYTES, FILES_MAX, NAME_MAX_BYTES, PACKAGES_MAX, PHASES_MAX,
};
use crate::text::{TextError, present, printable};
use pillar_model::{Bank, Digest, ReleasePredicate};

/// Why releases are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The security epoch goes down.
    #[error("the {which} release {version} has security epoch {found}, and {reached} is reached")]
    EpochDown {
        /// "committed" or "trial".
        which: &'static str,
        /// Which release.
        version: String,
        /// Its epoch.
        found: u64,
        /// The epoch that nothing may go below.
        reached: u64,
    },
    /// Nothing would be tried.
    #[error("the trial release is the committed one, {0}")]
    TrialIsCommitted(String),
    /// Too many entries of a list.
    #[error("release {version} has {found} {what}, more than {max}")]
    TooMany {
        /// Which release.
        version: String,
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// Their limit.
        max: usize,
    },
    /// A digest of another length than its algorithm's.
    #[error("release {version}: {what} has {bytes} bytes")]
    Digest {
        /// Which release.
        version: String,
        /// Which digest.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// Without a prediction nothing could be compared.
    #[error("release {0} predicts nothing in the SHA-256 or SHA-384 bank")]
    NoPrediction(String),
    /// A text that cannot be shown.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl ReleaseError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::EpochDown { .. } => {
                "an older version can be run again only when its security epoch is the same"
            }
            Self::TrialIsCommitted(_) => "leave the trial out, or name the other release",
            _ => "give the release's file as the build wrote it",
        }
    }
}

/// Checks both releases; `reached` is the epoch of the release that is committed now.
pub(crate) fn check(
    reached: u64,
    committed: &ReleasePredicate,
    trial: Option<&ReleasePredicate>,
) -> Result<(), ReleaseError> {
    check_shape(committed)?;
    check_epoch("committed", reached, committed)?;
    let Some(trial) = trial else { return Ok(()) };
    check_shape(trial)?;
    check_epoch("trial", committed.epoch, trial)?;
    if trial.version == committed.version && trial.root_hash == committed.root_hash {
        return Err(ReleaseError::TrialIsCommitted(trial.version.clone()));
    }
    Ok(())
}

fn check_epoch(which: &'static str, reached: u64, release: &ReleasePredicate) -> Result<(), ReleaseError> {
    if release.epoch < reached {
        let version = release.version.clone();
        return Err(ReleaseError::EpochDown { which, version, found: release.epoch, reached });
    }
    Ok(())
}

fn check_shape(release: &ReleasePredicate) -> Result<(), ReleaseError> {
    present("a release's version", &release.version, NAME_MAX_BYTES)?;
    present("a release's flavour", &release.flavour, NAME_MAX_BYTES)?;
    present("a release's kernel", &release.kernel, NAME_MAX_BYTES)?;
    printable("a release's command line", &release.cmdline, CMDLINE_MAX_BYTES)?;
    let names = release.sizes_bytes.keys().chain(release.boot_applications.iter().map(|a| &a.name));
    for name in names {
        present("the name of a release's file", name, NAME_MAX_BYTES)?;
    }
    for package in &release.packages {
        for text in [&package.name, &package.version, &package.architecture] {
            printable("a release's package", text, NAME_MAX_BYTES)?;
        }
    }
    check_counts(release)?;
    check_digests(release)
}

fn check_counts(release: &ReleasePredicate) -> Result<(), ReleaseError> {
    let phases = release.pcrs.values().map(|p| p.uki_after_phase.len()).max().unwrap_or_default();
    for (what, found, max) in [
        ("files", release.sizes_bytes.len(), FILES_MAX),
        ("boot applications", release.boot_applications.len(), BOOT_APPLICATIONS_MAX),
        ("packages", release.packages.len(), PACKAGES_MAX),
        ("phases", phases, PHASES_MAX),
    ] {
        if found > max {
            return Err(ReleaseError::TooMany { version: release.version.clone(), what, found, max });
        }
    }
    let predicts = |bank| release.pcrs.get(&bank).is_some_and(|p| !p.uki_after_phase.is_empty());
    if !predicts(Bank::Sha256) && !predicts(Bank::Sha384) {
        return Err(ReleaseError::NoPrediction(release.version.clone()));
    }
    Ok(())
}

fn check_digests(release: &ReleasePredicate) -> Result<(), ReleaseError> {
    let keys = &release.secure_boot;
    for key in [&keys.pk, &keys.kek, &keys.db] {
        check_digest(release, "the digest of a Secure Boot certificate", key, 32)?;
    }
    for (bank, prediction) in &release.pcrs {
        for value in prediction.fixed.values().chain(prediction.uki_after_phase.values()) {
            check_digest(release, "a predicted PCR", value, bank.digest_bytes())?;
        }
    }
    for (bank, digest) in release.boot_applications.iter().flat_map(|a| &a.authenticode) {
        check_digest(release, "an Authenticode digest", digest, bank.digest_bytes())?;
    }
    Ok(())
}

fn check_digest(
    release: &ReleasePredicate,
    what: &'static str,
    digest: &Digest,
    bytes: usize,
) -> Result<(), ReleaseError> {
    if digest.0.len() == bytes {
        return Ok(());
    }
    Err(ReleaseError::Digest { version: release.version.clone(), what, bytes: digest.0.len() })
}
