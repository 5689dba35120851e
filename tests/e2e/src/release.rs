//! The release under test: what `./just image` left in `out/`.

use crate::programs::workspace;
use anyhow::{Context, Result};
use pillar_model::Release;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of the release under test.
#[derive(Debug, Clone)]
pub struct Files {
    /// The folder they are in.
    pub out: PathBuf,
    /// `release.json`, parsed.
    pub release: Release,
}

impl Files {
    /// The release in `out/`.
    pub fn find() -> Result<Files> {
        Self::in_folder(workspace().join("out"), "./just image")
    }

    /// The release of another flavour than the default.
    pub fn of_flavour(flavour: &str) -> Result<Files> {
        Self::in_folder(workspace().join("out").join(flavour), &format!("./just image flavour={flavour}"))
    }

    pub(crate) fn in_folder(out: PathBuf, command: &str) -> Result<Files> {
        let path = out.join("release.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no release at {}: `{command}` builds it", path.display()))?;
        let release =
            serde_json::from_str(&text).with_context(|| format!("{} does not parse", path.display()))?;
        Ok(Files { out, release })
    }

    /// One of its files by suffix: "raw", "efi", "root", "verity".
    #[must_use]
    pub fn file(&self, suffix: &str) -> PathBuf {
        let predicate = &self.release.predicate;
        self.out.join(format!("pillar_{}_{}.{suffix}", predicate.version, predicate.flavour))
    }

    /// A sparse copy of the disk image for a test to damage.
    pub fn disk_copy(&self, folder: &Path) -> Result<PathBuf> {
        let copy = folder.join("disk.raw");
        let status = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(self.file("raw"))
            .arg(&copy)
            .status()
            .context("cannot start cp")?;
        anyhow::ensure!(status.success(), "cannot copy {}", self.file("raw").display());
        Ok(copy)
    }
}
