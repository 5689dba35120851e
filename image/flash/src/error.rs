//! Why a disk was not written, and what state it is in.

use crate::refuse::Refusal;
use pillar_slot::FitError;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Any refusal or failure. [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk may not be overwritten, or cannot hold the image.
    #[error("{} is refused", .path.display())]
    Refused {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        source: Refusal,
    },
    /// The file is no image of ours.
    #[error("{} is no disk image of a pillar: {problem}", .path.display())]
    NoImage {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file or device could not be used.
    #[error("cannot {operation} {}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading or writing the disk failed in the middle.
    #[error("cannot {operation} {} at byte {offset}", .path.display())]
    Disk {
        /// "write", "read back" or "clear".
        operation: &'static str,
        /// The disk.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why not.
        source: io::Error,
    },
    /// The disk is not there any more.
    #[error("{} went away while it was written", .path.display())]
    Gone {
        /// The disk.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system that the target file is on has no room left.
    #[error("the file system of {} is full", .path.display())]
    Full {
        /// The target.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What was read back is not what was written.
    #[error("{} does not give back what was written: first difference in the mebibyte at byte {offset}", .path.display())]
    Differs {
        /// The disk.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// The caller's wish.
    #[error("interrupted: {} holds no bootable image now", .path.display())]
    Interrupted {
        /// The disk.
        path: PathBuf,
    },
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::Refused { source, .. } => source.hint(),
            Error::NoImage { .. } => "say --image FILE with a .raw file that `./just image` made",
            Error::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "writing to a disk needs its owner's rights: run it as root, or as a member of the group \"disk\""
            }
            Error::File { .. } => return None,
            Error::Disk { .. } | Error::Differs { .. } => {
                "the disk is probably failing (the kernel's log says more); it does not boot now. Try another one"
            }
            Error::Gone { .. } => "plug it in again and run the command again; until then it does not boot",
            Error::Full { .. } => {
                "make room there and run the command again; until then the file does not boot"
            }
            Error::Interrupted { .. } => "run the command again to write the whole image",
        })
    }

    /// An error of the disk, by what the kernel said.
    pub(crate) fn disk(operation: &'static str, path: &Path, offset: u64, source: io::Error) -> Error {
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::NODEV | Errno::NXIO | Errno::NOMEDIUM) => Error::Gone { path, source },
            Some(Errno::NOSPC | Errno::DQUOT) => Error::Full { path, source },
            _ => Error::Disk { operation, path, offset, source },
        }
    }
}

impl From<FitError> for Refusal {
    fn from(error: FitError) -> Self {
        match error {
            FitError::Small { has, needed } => Refusal::Small { has, needed },
            other => Refusal::Table(other.into()),
        }
    }
}

/// For `map_err`: the operation and the path around an I/O error.
pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}
