//! What Secure Boot forbids.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text that names nothing that a dbx could hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no entry of a dbx: \"image:\" or \"certificate:\" and 64 of 0-9 and a-f, a SHA-256")]
pub struct DbxTextError(String);

/// An entry of dbx. Its kind belongs to it: the hash of a certificate in a list of images forbids nothing that the
/// certificate signed. Written as `certificate:` or `image:` with 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DbxEntry {
    /// Whatever this certificate signed: SHA-256 of its DER.
    Certificate([u8; 32]),
    /// One image: its Authenticode SHA-256.
    Image([u8; 32]),
}

impl fmt::Display for DbxEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, digest) = match self {
            Self::Certificate(digest) => ("certificate", digest),
            Self::Image(digest) => ("image", digest),
        };
        write!(f, "{kind}:{}", hex::encode(digest))
    }
}

/// Digits in whatever case: people copy them from other tools.
impl FromStr for DbxEntry {
    type Err = DbxTextError;
    fn from_str(text: &str) -> Result<Self, DbxTextError> {
        let wrong = || DbxTextError(text.chars().take(80).collect());
        let (kind, digits) = text.split_once(':').ok_or_else(wrong)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(digits, &mut digest).map_err(|_| wrong())?;
        match kind {
            "certificate" => Ok(Self::Certificate(digest)),
            "image" => Ok(Self::Image(digest)),
            _ => Err(wrong()),
        }
    }
}

/// Documents have one form.
impl TryFrom<String> for DbxEntry {
    type Error = DbxTextError;
    fn try_from(text: String) -> Result<Self, DbxTextError> {
        text.parse::<Self>()
            .ok()
            .filter(|entry| entry.to_string() == text)
            .ok_or_else(|| DbxTextError(text.chars().take(80).collect()))
    }
}
impl From<DbxEntry> for String {
    fn from(entry: DbxEntry) -> String {
        entry.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_their_kind_and_have_one_form_in_documents() {
        let digits = "5a".repeat(32);
        for (entry, kind) in
            [(DbxEntry::Certificate([0x5a; 32]), "certificate"), (DbxEntry::Image([0x5a; 32]), "image")]
        {
            let text = format!("{kind}:{digits}");
            assert_eq!((entry.to_string(), text.parse()), (text.clone(), Ok(entry)));
            assert_eq!(DbxEntry::try_from(text), Ok(entry));
            let large = format!("{kind}:{}", digits.to_uppercase());
            assert_eq!(large.parse(), Ok(entry));
            assert_eq!(DbxEntry::try_from(large.clone()), Err(DbxTextError(large)));
        }
        assert_ne!(DbxEntry::Certificate([0x5a; 32]), DbxEntry::Image([0x5a; 32]));
        let odd = format!("sha1:{digits}");
        for bad in [digits.as_str(), &odd, "image:", "image:5a", "certificate:zz", ""] {
            assert_eq!(bad.parse::<DbxEntry>(), Err(DbxTextError(bad.to_owned())));
        }
    }
}
