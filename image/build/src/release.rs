//! `release.json`: what the image is and what it measures to, as an in-toto Statement.

use crate::digest;
use crate::error::{Error, file};
use pillar_layout::RELEASE_PREDICATE;
use pillar_model::{Bank, Digest, PackageRef, Release, ReleasePredicate, RootHash, SecureBootKeys, Subject};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The file's name in `out/`.
pub const FILE: &str = "release.json";

/// Banks that verifiers may ask for; SHA-1 is none of them.
const BANKS: [Bank; 2] = [Bank::Sha256, Bank::Sha384];

pub(crate) const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// What a statement is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Image version.
    pub version: &'a str,
    /// Flavour.
    pub flavour: &'a str,
    /// Security epoch.
    pub epoch: u64,
    /// Root of the verity tree.
    pub root_hash: RootHash,
    /// `uname -r`.
    pub kernel: &'a str,
    /// The command line in the UKI.
    pub cmdline: &'a str,
    /// The signed boot loader's bytes.
    pub loader: &'a [u8],
    /// The signed UKI's bytes.
    pub uki: &'a [u8],
    /// Names and places of the release's files.
    pub files: &'a [(String, PathBuf)],
    /// Certificates that Secure Boot holds.
    pub secure_boot: SecureBootKeys,
    /// Debian packages in the image.
    pub packages: Vec<PackageRef>,
}

/// Makes the statement: digests of the files, predictions from the very bytes that will boot.
pub fn statement(facts: Facts<'_>) -> Result<Release, Error> {
    let mut subject = Vec::new();
    let mut sizes_bytes = BTreeMap::new();
    for (name, path) in facts.files {
        let digest = Digest(digest::file(path).map_err(file("read", path))?.to_vec());
        subject.push(Subject { name: name.clone(), digest: [("sha256".to_owned(), digest)].into() });
        sizes_bytes.insert(name.clone(), fs::metadata(path).map_err(file("read", path))?.len());
    }
    let mut pcrs = BTreeMap::new();
    for bank in BANKS {
        pcrs.insert(bank, pillar_measure::predict::predict(facts.loader, facts.uki, bank)?);
    }
    Ok(Release {
        statement_type: STATEMENT_TYPE.to_owned(),
        subject,
        predicate_type: RELEASE_PREDICATE.to_owned(),
        predicate: ReleasePredicate {
            version: facts.version.to_owned(),
            flavour: facts.flavour.to_owned(),
            epoch: facts.epoch,
            root_hash: facts.root_hash,
            kernel: facts.kernel.to_owned(),
            cmdline: facts.cmdline.to_owned(),
            sizes_bytes,
            boot_applications: pillar_measure::predict::boot_applications(facts.loader, facts.uki, &BANKS)?,
            pcrs,
            secure_boot: facts.secure_boot,
            packages: facts.packages,
        },
    })
}

/// Writes a document for people to read and programs to parse.
pub fn write_json(path: &Path, what: &'static str, document: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(document).map_err(|source| Error::Json { what, source })?;
    text.push(b'\n');
    fs::write(path, text).map_err(file("write", path))
}
