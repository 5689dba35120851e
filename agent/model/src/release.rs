//! A release: one image version as an in-toto Statement v1 with our predicate.

use crate::{Bank, Digest, PcrIndex, RootHash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// in-toto Statement v1 (<https://in-toto.io/Statement/v1>), unsigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Always `https://in-toto.io/Statement/v1`.
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// The files of the release with their digests.
    pub subject: Vec<Subject>,
    /// Always `layout::RELEASE_PREDICATE`.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What the files are.
    pub predicate: ReleasePredicate,
}

/// One file of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// File name without a directory.
    pub name: String,
    /// Algorithm name ("sha256") to hexadecimal digest.
    pub digest: BTreeMap<String, Digest>,
}

/// What an image is and what it measures to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePredicate {
    /// Image version.
    pub version: String,
    /// For example "virt".
    pub flavour: String,
    /// Security epoch: never goes down on a pillar.
    pub epoch: u64,
    /// Root of the verity tree.
    pub root_hash: RootHash,
    /// `uname -r` of the kernel.
    pub kernel: String,
    /// The command line in the UKI.
    pub cmdline: String,
    /// Bytes of each file of the release, by name.
    pub sizes_bytes: BTreeMap<String, u64>,
    /// What the firmware starts and measures, in order: loader, UKI. (The stub starts the kernel itself.)
    pub boot_applications: Vec<BootApplication>,
    /// Predicted PCR values per bank.
    pub pcrs: BTreeMap<Bank, PcrPrediction>,
    /// Certificates that Secure Boot must hold, and nothing else.
    pub secure_boot: SecureBootKeys,
    /// Debian packages whose files are in the sealed root or the UKI.
    pub packages: Vec<PackageRef>,
}

/// One program that the firmware starts and measures into PCR 4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootApplication {
    /// "loader" or "uki".
    pub name: String,
    /// Authenticode digest per bank.
    pub authenticode: BTreeMap<Bank, Digest>,
}

/// Predicted values in one bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcrPrediction {
    /// Values that do not change after the kernel started: PCR 4 (and 9 where predicted).
    pub fixed: BTreeMap<PcrIndex, Digest>,
    /// PCR 11 after each phase of `layout::phase::ALL`, by the phase's name.
    pub uki_after_phase: BTreeMap<String, Digest>,
}

/// SHA-256 over the DER of the certificates in PK, KEK and db.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecureBootKeys {
    /// Platform key.
    pub pk: Digest,
    /// Key exchange key.
    pub kek: Digest,
    /// Signature database: signers of what may boot.
    pub db: Digest,
}

/// A package by name and version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackageRef {
    /// Debian binary package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// Architecture.
    pub architecture: String,
}
