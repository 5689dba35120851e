//! Why an image was not built, and what to do about it.

use crate::{archive::ArchiveError, elf::ElfError, modules::UnknownModule, tree::TreeError};
use std::io;
use std::path::{Path, PathBuf};

/// Any refusal or failure of a build. [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not inside the project.
    #[error("{} is not inside the Pillar project (no folder above it has image/flavours)", .0.display())]
    NoProject(PathBuf),
    /// A word of the command line that nobody knows.
    #[error("{0}")]
    Usage(String),
    /// No such flavour.
    #[error("there is no flavour {name:?}; there is {known}")]
    Flavour {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A flavour's file cannot be read as such.
    #[error("{} is not a flavour", .path.display())]
    FlavourFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: toml::de::Error,
    },
    /// The workload folder cannot be used.
    #[error("workload {} cannot be used", .path.display())]
    WorkloadFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `pillar.toml` is refused.
    #[error("{} is refused", .path.display())]
    WorkloadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pillar_workload::Error,
    },
    /// Something in the workload that an image cannot hold.
    #[error("workload {}: {problem}", .path.display())]
    WorkloadContent {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A key or certificate is not there.
    #[error("the {what} is missing: {}", .path.display())]
    MissingKey {
        /// What.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The policy key is of another kind.
    #[error("the policy key {} {problem}", .path.display())]
    PolicyKey {
        /// Its public key or certificate.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The workshop lacks a file that the image needs.
    #[error("the Debian tree in the cache has no {0}")]
    WorkshopFile(String),
    /// Not enough room.
    #[error("{} has {free_mib} MiB free; the build needs {needed_mib} MiB there", .path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Free.
        free_mib: u64,
        /// Needed.
        needed_mib: u64,
    },
    /// Another build works on the same output.
    #[error("another build is writing to {}", .0.display())]
    Busy(PathBuf),
    /// A part came out larger than the flavour allows.
    #[error("{what} has {bytes} bytes; the flavour allows {limit_mib} MiB")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit_mib: u64,
    },
    /// A file or folder could not be used.
    #[error("cannot {operation} {}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// Its name.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status})\n{tail}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines it printed.
        tail: String,
    },
    /// A program printed something else than it should.
    #[error("{program} printed something unexpected: {problem}")]
    Output {
        /// Its name.
        program: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A package that is to be built is not in the workspace, or has not exactly one program.
    #[error("package {package:?} of `[[build]]` {problem}")]
    Package {
        /// Its name.
        package: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The keys.
    #[error(transparent)]
    Keys(#[from] pillar_keys::Error),
    /// The tools tree.
    #[error(transparent)]
    Tools(#[from] pillar_tools::Error),
    /// The image's content.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// An archive of it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A program's libraries.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The flavour's module list.
    #[error(transparent)]
    Module(#[from] UnknownModule),
    /// Writing a disk.
    #[error(transparent)]
    Flash(#[from] pillar_flash::Error),
    /// No image to write.
    #[error("there is no disk image (pillar_….raw) in {}", .0.display())]
    NoDiskImage(PathBuf),
    /// The image is not the one that the release beside it names.
    #[error("{} is not what {} says: its digest is another one", .path.display(), .release.display())]
    NotOfRelease {
        /// The image.
        path: PathBuf,
        /// The release.
        release: PathBuf,
    },
    /// `release.json` cannot be read as such.
    #[error("{} is no release", .path.display())]
    ReleaseFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The release is of another flavour than asked for.
    #[error("{} is of flavour {found}, not {wanted}", .path.display())]
    OtherFlavour {
        /// The release.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// Nobody said that the disk may be overwritten.
    #[error("not confirmed, nothing was written: {0}")]
    Unconfirmed(String),
    /// Predicting what the image measures to.
    #[error("cannot predict what the image measures to")]
    Predict(#[from] pillar_measure::predict::Error),
    /// The list of crates.
    #[error("cargo cannot describe the workspace")]
    Metadata(#[from] cargo_metadata::Error),
    /// JSON.
    #[error("cannot write {what} as JSON")]
    Json {
        /// What.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Error::Flash(error) = self {
            return error.hint().map(str::to_owned);
        }
        if self.is_disk_full() {
            return Some(
                "make room on that disk, then run the command again; nothing was changed".to_owned(),
            );
        }
        let hint = match self {
            Error::Keys(error) => return error.hint(),
            Error::NoDiskImage(_) => "`./just image` builds one; others: --image FILE",
            Error::OtherFlavour { .. } => "build the image of that flavour first, into the same folder",
            Error::ReleaseFile { .. } | Error::NotOfRelease { .. } => {
                "build the image again with `./just image`"
            }
            Error::Unconfirmed(_) => "type the disk's name when asked, or say --yes",
            Error::NoProject(_) => "run it through `./just image` from the clone",
            Error::Usage(_) => "`./just image --help` lists what is understood",
            Error::Flavour { .. } => "say flavour=NAME with one of these; each is a file in image/flavours",
            Error::WorkloadFolder { .. } => {
                "say workload=DIR with a readable folder that holds a pillar.toml, for example image/workloads/hello"
            }
            Error::WorkloadContent { .. } => {
                "a workload is a folder of plain files; its programs are in it or made by a [[build]] of its pillar.toml"
            }
            Error::WorkloadFile { .. } => "image/workloads/hello/pillar.toml is a complete example",
            Error::MissingKey { .. } => "`./just keys` makes development keys; others: keys=DIR",
            Error::WorkshopFile(_) => "`./just image --refresh` builds that tree anew",
            Error::Tools(error) => return error.hint().map(str::to_owned),
            Error::Busy(_) => "wait for it, or give another folder: out=DIR",
            Error::TooLarge { .. } => {
                "leave out what the image does not need, or raise [limits] in the flavour"
            }
            Error::Archive(ArchiveError::Refused(_)) => {
                "remove these files from the workload; a sealed image runs programs, not scripts"
            }
            Error::Metadata(_) => {
                "crates come from cargo's own cache: `cargo fetch --locked` fills it where there is a network"
            }
            Error::Module(_) => "correct the module lists in image/flavours",
            Error::Start { .. } => "`./just` installs what the host lacks",
            Error::Package { .. } => "name a package of this workspace that has one program",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether the reason, however deep, is a full disk.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        if matches!(self, Error::DiskFull { .. }) {
            return true;
        }
        if let Error::Failed { tail, .. } = self {
            return tail.contains("No space left on device");
        }
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(this) = error {
            if this.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::StorageFull) {
                return true;
            }
            error = this.source();
        }
        false
    }
}

/// For `map_err`: the operation and the path around an I/O error.
pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}
