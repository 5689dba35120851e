//! The keys of a pillar's makers and operators as files: where each is, how the development ones are made, and what
//! identifies them.
//!
//! What it is not: a key store. Real keys stay where they are (a file elsewhere, a PKCS#11 token) and are named by a
//! [`KeySource`].
//!
//! Invariant: a private key exists with mode 0600 inside a folder with mode 0700 from its first byte on, and a folder
//! of keys appears whole or not at all.
#![forbid(unsafe_code)]

mod folder;
mod make;
mod operator;
mod source;

pub use folder::{Keys, Operator, PcrKey, SecureBootKey, Variable, certificate_digest, common_name};
pub use make::{DEFAULT_OPERATORS, MAX_OPERATORS, Made, make};
pub use operator::{certificate, new_operator, write_certificate};
pub use source::KeySource;

use pillar_model::NameError;
use std::io;
use std::path::{Path, PathBuf};

/// Where the development keys are, from the root of the repository.
pub const DEFAULT_DIR: &str = "keys/dev";

/// No key, certificate or signature list of ours comes near this; a larger file is not one.
pub const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Why keys cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such folder.
    #[error("there are no keys in {}", .0.display())]
    NoFolder(PathBuf),
    /// Files of the folder are missing.
    #[error("{} is incomplete: it lacks {}", .dir.display(), .missing.join(", "))]
    Incomplete {
        /// The folder.
        dir: PathBuf,
        /// Names of the missing files.
        missing: Vec<String>,
    },
    /// Others than the owner may read or write a private key.
    #[error("{} is open to other users (mode {mode:04o}, expected 0600)", .path.display())]
    Open {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is there and is not what it should be.
    #[error("{} is not {expected}: {problem}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A number of operators that nobody means.
    #[error("{0} operators are not possible: 1 to {MAX_OPERATORS} are")]
    Operators(usize),
    /// A program of the tools tree failed.
    #[error("`{program}` failed ({status}): {output}")]
    Program {
        /// Its name and first arguments.
        program: String,
        /// How it ended.
        status: String,
        /// The last of what it printed.
        output: String,
    },
    /// An operator's key or certificate could not be made.
    #[error("cannot make the certificate of {name}")]
    Certificate {
        /// Whose.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// A name that no constitution takes.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An operator's key cannot be used or made.
    #[error(transparent)]
    Signer(#[from] pillar_signer::Error),
    /// The tools tree is needed and not there.
    #[error(transparent)]
    Tools(#[from] pillar_tools::Error),
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoFolder(_) => Some("`./just keys` makes development keys".to_owned()),
            Error::Incomplete { dir, .. } => Some(format!(
                "put the files back, or move {} away and run `./just keys` for new keys (images and machines made with the old ones keep wanting the old ones)",
                dir.display()
            )),
            Error::Open { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Error::Signer(error) => error.hint(),
            _ => None,
        }
    }
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}
