//! Hashes, PCR numbers and nonces. All print and parse as lower-case hexadecimal without separators.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Text that is not the hexadecimal form of the value asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// Wrong number of digits.
    #[error("expected {expected} hexadecimal digits, found {found} characters")]
    Length {
        /// Digits wanted.
        expected: usize,
        /// Characters found.
        found: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("not hexadecimal")]
    Digit,
    /// A PCR number over 23.
    #[error("PCR {0} does not exist (0 to 23 do)")]
    Pcr(u8),
}

fn parse<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    if text.len() != 2 * N {
        return Err(HexError::Length { expected: 2 * N, found: text.len() });
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| HexError::Digit)?;
    Ok(bytes)
}

macro_rules! hex_array {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                parse(text).map($name)
            }
        }
        impl TryFrom<String> for $name {
            type Error = HexError;
            fn try_from(text: String) -> Result<Self, HexError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

hex_array!(
    /// Root of a dm-verity tree (SHA-256). Its two halves are the GUIDs of the data and of the hash partition.
    RootHash, 32
);
hex_array!(
    /// What a verifier drew at random for one challenge, never used again.
    Nonce, 32
);

impl RootHash {
    /// The GUIDs (text form, lower case) of the data and of the hash partition, as the Discoverable Partitions
    /// Specification derives them from the hash's first and last 128 bits.
    #[must_use]
    pub fn partition_guids(&self) -> (String, String) {
        (guid_text(&self.0[..16]), guid_text(&self.0[16..]))
    }
}

fn guid_text(bytes: &[u8]) -> String {
    let h = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// A digest whose algorithm is told beside it (by its bank or its field name); 20 to 64 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub Vec<u8>);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
impl TryFrom<String> for Digest {
    type Error = HexError;
    fn try_from(text: String) -> Result<Self, HexError> {
        hex::decode(&text).map(Digest).map_err(|_| HexError::Digit)
    }
}
impl From<Digest> for String {
    fn from(value: Digest) -> String {
        value.to_string()
    }
}

/// A PCR bank, by its hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// SHA-1: parsed, never trusted.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    /// Bytes of one digest.
    #[must_use]
    pub fn digest_bytes(self) -> usize {
        match self {
            Bank::Sha1 => 20,
            Bank::Sha256 => 32,
            Bank::Sha384 => 48,
            Bank::Sha512 => 64,
        }
    }

    /// `TPM_ALG_ID` (TCG Algorithm Registry, table 3).
    #[must_use]
    pub fn alg_id(self) -> u16 {
        match self {
            Bank::Sha1 => 0x0004,
            Bank::Sha256 => 0x000B,
            Bank::Sha384 => 0x000C,
            Bank::Sha512 => 0x000D,
        }
    }

    /// The bank of a `TPM_ALG_ID`, when it is one of ours.
    #[must_use]
    pub fn from_alg_id(id: u16) -> Option<Bank> {
        [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512].into_iter().find(|b| b.alg_id() == id)
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bank::Sha1 => "sha1",
            Bank::Sha256 => "sha256",
            Bank::Sha384 => "sha384",
            Bank::Sha512 => "sha512",
        })
    }
}

/// A PCR number, 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PcrIndex(u8);

impl PcrIndex {
    /// How many PCRs a PC Client TPM has.
    pub const COUNT: usize = 24;

    /// The PCR of that number, 0 to 23.
    pub fn new(index: u8) -> Result<Self, HexError> {
        if usize::from(index) < Self::COUNT { Ok(Self(index)) } else { Err(HexError::Pcr(index)) }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for PcrIndex {
    type Error = HexError;
    fn try_from(index: u8) -> Result<Self, HexError> {
        Self::new(index)
    }
}
impl From<PcrIndex> for u8 {
    fn from(value: PcrIndex) -> u8 {
        value.0
    }
}
impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_hash_halves_are_the_partition_guids() {
        let hash: RootHash =
            "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef".parse().expect("64 digits");
        assert_eq!(
            hash.partition_guids(),
            (
                "00112233-4455-6677-8899-aabbccddeeff".to_owned(),
                "01234567-89ab-cdef-0123-456789abcdef".to_owned()
            )
        );
    }

    #[test]
    fn wrong_length_and_digit_are_told_apart() {
        assert_eq!("00".parse::<RootHash>(), Err(HexError::Length { expected: 64, found: 2 }));
        assert_eq!("zz".repeat(32).parse::<Nonce>(), Err(HexError::Digit));
        assert_eq!(PcrIndex::new(24), Err(HexError::Pcr(24)));
    }
}
