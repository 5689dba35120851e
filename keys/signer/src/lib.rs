//! An operator's Ed25519 key, wherever it is: a PKCS#8 file (perhaps encrypted with a passphrase), or a key that
//! ssh-agent keeps and never gives out.
//!
//! What it is not: it does not know what it signs. Envelopes and thresholds are `agent/quorum`'s.
//!
//! **Invariants:** a private key that others than its owner may read is not used; what was read of key files and
//! passphrases is wiped from memory when it is dropped (of what ring keeps of a key we cannot say so); a passphrase
//! never comes from an argument or the environment, where other processes see it; what an agent signed is checked
//! before it is given on.
#![forbid(unsafe_code)]

mod agent;
mod file;
mod passphrase;

pub use agent::{AgentKey, Listed, Which, list};
pub use file::{KeyFile, Protection, change_passphrase};
pub use passphrase::{Passphrase, PassphraseFrom};

use pillar_model::OperatorKey;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Why a key cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// Others than the owner may read or write it.
    #[error("{} is open to other users (mode {mode:04o}, expected 0600)", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is there and holds no key of ours.
    #[error("{} is not an Ed25519 private key: {problem}", .path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The key is encrypted, and this passphrase does not open it.
    #[error("the passphrase does not open {}", .0.display())]
    WrongPassphrase(PathBuf),
    /// Nobody can be asked for the passphrase.
    #[error("there is no terminal to ask for the passphrase on")]
    NoTerminal(#[source] io::Error),
    /// Whoever was asked did not answer.
    #[error("no passphrase was given")]
    NoPassphrase,
    /// A passphrase that is empty, too long, or no text.
    #[error("the passphrase is {0}")]
    BadPassphrase(&'static str),
    /// The two entries of a new passphrase differ.
    #[error("the two passphrases are not the same")]
    Mistyped,
    /// No agent to talk to.
    #[error("there is no ssh-agent: SSH_AUTH_SOCK is not set")]
    NoAgent,
    /// The agent does not answer.
    #[error("cannot talk to the ssh-agent at {}", .socket.display())]
    Agent {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The agent answers something else than its protocol says.
    #[error("the ssh-agent gave an answer that is not understood: {0}")]
    AgentAnswer(&'static str),
    /// The agent says no.
    #[error("the ssh-agent refused to {0}")]
    AgentRefused(&'static str),
    /// The agent has no such key.
    #[error("the ssh-agent has no Ed25519 key{wanted}{}", listed(.has))]
    NoSuchKey {
        /// What was looked for, with a space before it; empty when any key would do.
        wanted: String,
        /// Comments of the Ed25519 keys that it has.
        has: Vec<String>,
    },
    /// More than one key is meant.
    #[error("the ssh-agent has several Ed25519 keys{wanted}{}", listed(.has))]
    Ambiguous {
        /// What was looked for, with a space before it; empty when any key would do.
        wanted: String,
        /// The fingerprints of those that fit.
        has: Vec<String>,
    },
    /// The system gave no randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// The key could not be encrypted.
    #[error("cannot encrypt the key: {0}")]
    Encrypt(pkcs8::Error),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" (there are: {})", names.join(", ")) }
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Open { path, .. } => format!("chmod 600 {}", path.display()),
            Error::NotAKey { problem, .. } if problem.contains("OPENSSH") => {
                "add it to ssh-agent with ssh-add, and name it as agent:COMMENT".to_owned()
            }
            Error::NotAKey { .. } => "`pillar-keys operator NAME -o FILE` makes one".to_owned(),
            Error::WrongPassphrase(_) | Error::Mistyped => "try again".to_owned(),
            Error::NoTerminal(_) => "give the passphrase in a file or through a file descriptor".to_owned(),
            Error::NoAgent => "start one with `eval $(ssh-agent)` and add the key with ssh-add".to_owned(),
            Error::AgentRefused(_) => {
                "is the agent locked (`ssh-add -X`), or was its question answered with no?".to_owned()
            }
            Error::NoSuchKey { .. } => "`ssh-add -l` lists its keys".to_owned(),
            Error::Ambiguous { .. } => "name one by its fingerprint: agent:SHA256:…".to_owned(),
            _ => return None,
        })
    }
}

/// Where a signing key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A PKCS#8 file.
    File(PathBuf),
    /// A key that ssh-agent keeps. Written `agent` or `agent:WHICH`.
    Agent(Which),
}

impl FromStr for Source {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once(':') {
            Some(("agent", which)) => {
                let Ok(which) = which.parse();
                Self::Agent(which)
            }
            None if text == "agent" => Self::Agent(Which::Only),
            _ => Self::File(text.into()),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Agent(Which::Only) => f.write_str("agent"),
            Self::Agent(which) => write!(f, "agent:{which}"),
        }
    }
}

/// A key that signs.
#[derive(Debug)]
pub enum Signer {
    /// Read from a file.
    File(KeyFile),
    /// Kept by ssh-agent.
    Agent(AgentKey),
}

impl Signer {
    /// The key at `source`. `passphrase` is asked only when it is a file that is encrypted.
    pub fn open(source: &Source, passphrase: &PassphraseFrom) -> Result<Self, Error> {
        match source {
            Source::File(path) => KeyFile::open(path, passphrase).map(Self::File),
            Source::Agent(which) => AgentKey::find(&agent_socket()?, which).map(Self::Agent),
        }
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> OperatorKey {
        match self {
            Self::File(key) => key.public(),
            Self::Agent(key) => key.public(),
        }
    }

    /// An Ed25519 signature over the message. An agent may ask its owner first, so that this can take a minute.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], Error> {
        match self {
            Self::File(key) => Ok(key.sign(message)),
            Self::Agent(key) => key.sign(message),
        }
    }
}

/// Where the agent of this session listens.
pub fn agent_socket() -> Result<PathBuf, Error> {
    std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or(Error::NoAgent)
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_agent_keys_are_told_apart() {
        let key = "ab".repeat(32);
        for (text, source) in [
            ("agent", Source::Agent(Which::Only)),
            ("agent:me@desk", Source::Agent(Which::Comment("me@desk".to_owned()))),
            ("agent:SHA256:abc", Source::Agent(Which::Fingerprint("SHA256:abc".to_owned()))),
            (&format!("agent:{key}"), Source::Agent(Which::Key(OperatorKey([0xab; 32])))),
            ("keys/me.key", Source::File("keys/me.key".into())),
            ("./agent:x", Source::File("./agent:x".into())),
            ("agents", Source::File("agents".into())),
        ] {
            assert_eq!(text.parse(), Ok(source.clone()));
            assert_eq!(source.to_string(), text);
        }
    }
}
