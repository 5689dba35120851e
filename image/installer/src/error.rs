//! Why nothing was installed.

use pillar_flash::install::PickError;
use std::io;
use std::path::{Path, PathBuf};

/// Any refusal or failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the sealed root or of the kernel's.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The installer's own settings.
    #[error("{} is damaged", .path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The image is not the released one.
    #[error("{} is not the image that its release names", .0.display())]
    Payload(PathBuf),
    /// The rule.
    #[error(transparent)]
    Pick(#[from] PickError),
    /// The disk holds something and may not be overwritten.
    #[error("{disk} holds {holds}")]
    NotEmpty {
        /// The disk.
        disk: String,
        /// What is on it.
        holds: String,
    },
    /// Nobody can be asked.
    #[error("no console can be read: {0}")]
    NoConsole(String),
    /// Writing.
    #[error(transparent)]
    Flash(#[from] pillar_flash::Error),
}

impl Error {
    /// For `map_err`: the file around an I/O error.
    pub fn read(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::Read { .. } | Error::NoConsole(_) => return None,
            Error::Settings { .. } | Error::Payload(_) => "build the installer again with `./just installer`",
            Error::Pick(_) => "build the installer with another rule, or without one: then it asks",
            Error::NotEmpty { .. } => {
                "build the installer with overwrite=yes, or without a rule: then it asks"
            }
            Error::Flash(error) => return error.hint(),
        })
    }
}
