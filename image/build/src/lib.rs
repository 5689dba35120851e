//! Builds the sealed image: a Debian tree as workshop (mkosi), our programs (cargo), and from both, file by file, the
//! sealed root, the initrd, the UKI, the disk and the release that says what they measure to.
//!
//! What it is not: a distribution builder. It takes single files with a reason each; it never ships a package.
//!
//! Invariant: the bytes depend on the source, the packages, the keys and the version alone, not on the machine, the
//! folder, the user or the time of the build. The lists of what goes in ([`tree`], [`elf`], [`modules`], [`sealed`]) are
//! computed before anything is written.
#![forbid(unsafe_code)]

pub mod archive;
pub mod assembly;
pub mod compare;
pub mod compile;
pub mod digest;
pub mod disk;
pub mod elf;
pub mod error;
pub mod flash;
pub mod flavour;
pub mod host;
pub mod installer;
pub mod list;
pub mod lock;
pub mod modules;
pub mod options;
pub mod policy;
pub mod progress;
pub mod provenance;
pub mod release;
pub mod repro;
pub mod run;
pub mod sbom;
pub mod seal;
pub mod sealed;
pub mod tree;
pub mod workload;
pub mod workshop;
