//! Who belongs to a cluster: pillars by their TPM, operators by their key, and the documents that operators sign.
//! What these documents may do is decided by `agent/quorum`.

use crate::{Bank, DbxEntry, DeniedTpmFirmware, Digest, HexError, PcrIndex, ReleasePredicate, TpmMaker};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Why a text is no [`PillarId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pillar's name: 1 to 63 of a-z, 0-9 and -, no - at either end")]
pub struct NameError(String);

/// Name of a pillar: a host name label in lower case (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PillarId(String);

impl PillarId {
    /// Longest name.
    pub const MAX_BYTES: usize = 63;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PillarId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        let label = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let good = (1..=Self::MAX_BYTES).contains(&text.len())
            && text.bytes().all(label)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good { Ok(Self(text)) } else { Err(NameError(text.chars().take(80).collect())) }
    }
}
impl FromStr for PillarId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}
impl From<PillarId> for String {
    fn from(id: PillarId) -> String {
        id.0
    }
}
impl fmt::Display for PillarId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An operator's Ed25519 public key (RFC 8032), 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorKey(pub [u8; 32]);

impl fmt::Display for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorKey({self})")
    }
}
impl TryFrom<String> for OperatorKey {
    type Error = HexError;
    fn try_from(text: String) -> Result<Self, HexError> {
        let mut key = [0; 32];
        if text.len() != 64 {
            return Err(HexError::Length { expected: 64, found: text.len() });
        }
        hex::decode_to_slice(&text, &mut key).map_err(|_| HexError::Digit)?;
        Ok(Self(key))
    }
}
impl From<OperatorKey> for String {
    fn from(key: OperatorKey) -> String {
        key.to_string()
    }
}

/// A person who may approve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorEntry {
    /// For people; one label.
    pub name: String,
    /// What counts.
    pub key: OperatorKey,
}

/// Who decides, and whose TPMs are trusted. Version n+1 is valid when signed by the thresholds of n and of n+1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constitution {
    /// From 1, one more with each amendment.
    pub version: u64,
    /// Name of the cluster, for people.
    pub cluster: String,
    /// The operators, by name.
    pub operators: Vec<OperatorEntry>,
    /// How many of them must sign. More than half, so that two decisions always share an operator.
    pub threshold: u32,
    /// Roots of the TPM manufacturers that are trusted: DER in hexadecimal.
    pub ek_roots: Vec<Digest>,
    /// Certificates between these and the EKs'. Not trusted by themselves.
    pub ek_intermediates: Vec<Digest>,
    /// Endorsement keys that alone are trusted (SHA-256 of `TPMT_PUBLIC`); empty: every one with a good certificate.
    pub ek_allowed: Vec<Digest>,
    /// Firmware of TPMs that is not believed, in ascending order. Like what follows, documents of before lack it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied_tpm_firmware: Vec<DeniedTpmFirmware>,
    /// What each machine's Secure Boot must forbid, in ascending order. Its dbx may hold more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dbx_required: Vec<DbxEntry>,
    /// From when on it is void, seconds since 1970; it must be amended before.
    pub expires_unix_s: u64,
}

/// What one event in a firmware PCR was when the pillar was admitted, so that a change can be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareEvent {
    /// The PCR.
    pub pcr: PcrIndex,
    /// Name of the event type (TCG PC Client Platform Firmware Profile, section 10.4.1).
    pub kind: String,
    /// Its digest in the bank.
    pub digest: Digest,
    /// What it is, in words.
    pub words: String,
}

/// What a pillar's firmware measured, in one bank.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareReference {
    /// PCR 0, 1, 2, 3 and 5.
    pub pcrs: BTreeMap<PcrIndex, Digest>,
    /// The events that led there, in order. They explain; what is compared are the values.
    pub events: Vec<FirmwareEvent>,
}

/// One machine: EK, AK and TLS key are one row, admitted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in the cluster.
    pub name: PillarId,
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Digest,
    /// SHA-256 over the DER of the EK's certificate.
    pub ek_certificate: Digest,
    /// Who made the TPM, as that certificate says. Rows of before lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_maker: Option<TpmMaker>,
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Digest,
    /// SubjectPublicKeyInfo (DER) of the TLS key, which the AK certified.
    pub tls_spki: Digest,
    /// What its firmware measures, in each bank that may be quoted.
    pub firmware: BTreeMap<Bank, FirmwareReference>,
    /// Its state volume as measured into PCR 15.
    pub state_volume: String,
    /// Where it is called, HOST:PORT. Hints: they decide nothing.
    pub addresses: Vec<String>,
}

/// What an approved entry does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// The first entry: the first constitution.
    Found(Box<Constitution>),
    /// The next constitution.
    Amend(Box<Constitution>),
    /// A machine joins, or (when the name is taken) takes the place of the member with this EK.
    Admit {
        /// The new row.
        member: Box<Member>,
        /// SHA-256 of the `TPMT_PUBLIC` of the EK whose row is replaced; none for a new name.
        replaces: Option<Digest>,
    },
    /// A machine leaves for good.
    Revoke {
        /// Which.
        name: PillarId,
        /// SHA-256 of the `TPMT_PUBLIC` of its EK, so that no other one is meant.
        ek: Digest,
        /// Why.
        reason: String,
    },
    /// What pillars may run: committed, and on trial beside it.
    Run {
        /// The release that every pillar runs.
        committed: Box<ReleasePredicate>,
        /// A second one that they may run meanwhile.
        trial: Option<Box<ReleasePredicate>>,
    },
}

/// One decision. Entries form a chain: each names the SHA-256 of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Number in the chain, from 0.
    pub serial: u64,
    /// SHA-256 of the payload before, empty in entry 0.
    pub previous: Digest,
    /// When it was written, seconds since 1970, by its author's clock.
    pub made_unix_s: u64,
    /// What it does.
    pub action: Action,
}

/// Whether a peer is there, and whether it is believed. The four are never mixed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Attested, and its heartbeats come.
    Up,
    /// Attested, and its heartbeats are late.
    Suspect,
    /// Nothing comes from it and it cannot be reached.
    Down,
    /// Reached, and what it showed was refused.
    Untrusted,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Untrusted => "untrusted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_name_labels() {
        for good in ["p1", "a", "rack-3-node-7", &"x".repeat(63)] {
            assert_eq!(good.parse::<PillarId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "a-", "P1", "a.b", "ä", "a b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<PillarId>(), Err(NameError(bad.to_owned())));
        }
    }
}
