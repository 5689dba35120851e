//! The kernel command line, as far as init obeys it. It is part of the signed UKI and measured, yet read strictly: two
//! root hashes would leave open which of them was meant.

use pillar_layout::cmdline::ROOT_HASH;
use pillar_model::{HexError, RootHash};

/// Why the command line tells no root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// The key is missing.
    #[error("the kernel command line has no {0}=")]
    Missing(&'static str),
    /// The key is there twice.
    #[error("the kernel command line has {0}= more than once")]
    Twice(&'static str),
    /// Its value is no root hash.
    #[error("{0}= on the kernel command line is no root hash")]
    Value(&'static str, #[source] HexError),
}

/// The value of `key=` when it is there exactly once.
pub fn value<'a>(cmdline: &'a str, key: &'static str) -> Result<&'a str, CmdlineError> {
    let mut values = cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('=').filter(|(name, _)| *name == key).map(|(_, value)| value));
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(CmdlineError::Missing(key)),
        (Some(_), Some(_)) => Err(CmdlineError::Twice(key)),
    }
}

/// The root hash.
pub fn root_hash(cmdline: &str) -> Result<RootHash, CmdlineError> {
    value(cmdline, ROOT_HASH)?.parse().map_err(|source| CmdlineError::Value(ROOT_HASH, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_hash_is_taken_once_and_whole() {
        let hash = "ab".repeat(32);
        let line = |text: &str| root_hash(&text.replace("HASH", &hash)).map(|h| h.to_string());
        assert_eq!(line("quiet roothash=HASH panic=-1\n"), Ok(hash.clone()));
        assert_eq!(line("quiet"), Err(CmdlineError::Missing("roothash")));
        assert_eq!(line("xroothash=HASH"), Err(CmdlineError::Missing("roothash")));
        assert_eq!(line("roothash=HASH roothash=HASH"), Err(CmdlineError::Twice("roothash")));
        assert!(matches!(line("roothash=HASH0"), Err(CmdlineError::Value(..))));
        assert!(matches!(line("roothash="), Err(CmdlineError::Value(..))));
    }
}
