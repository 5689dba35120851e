//! Our own event log: every measurement that init makes, in the TCG Canonical Event Log's JSON form (CEL 1.0, section
//! 5.3) as a JSON text sequence (RFC 7464), as systemd does it.
//!
//! One record: RS (0x1e), one JSON object, LF. What was measured are the UTF-8 bytes of `content.string`, so that each
//! digest can be checked against the text. Record numbers count from 0 without a gap.

use crate::hash::{extend, hash, zero};
use pillar_layout::pcr;
use pillar_model::{Bank, Digest, PcrIndex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A log larger than this is refused; a boot writes some 2 KB.
pub const LOG_MAX_BYTES: usize = 64 << 10;
/// More records than this are refused.
pub const RECORDS_MAX: usize = 64;
/// A measured text longer than this is refused; node settings have up to 900 bytes.
pub const STRING_MAX_BYTES: usize = 4096;
/// `content_type` of our records.
pub const CONTENT_TYPE: &str = "pillar";

const RECORD_SEPARATOR: u8 = 0x1e;

/// Why a log is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`LOG_MAX_BYTES`].
    #[error("log of {0} bytes is over the limit of {LOG_MAX_BYTES}")]
    TooLarge(usize),
    /// A record is wrong.
    #[error("record {number}: {fault}")]
    Record {
        /// Its number, from 0.
        number: usize,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not RS, text, LF.
    #[error("is not framed as RS, JSON object, LF")]
    Framing,
    /// Over [`RECORDS_MAX`].
    #[error("over the limit of {RECORDS_MAX} records")]
    TooMany,
    /// Not the JSON that we write.
    #[error("cannot be read: {0}")]
    Json(String),
    /// A gap or a repetition in the numbers.
    #[error("says that it is number {0}")]
    Number(u64),
    /// Another content type.
    #[error("content type {0:?} is not known")]
    ContentType(String),
    /// The event may not be in that PCR.
    #[error("an event of this kind may not be in PCR {0}")]
    Pcr(PcrIndex),
    /// The text is over [`STRING_MAX_BYTES`].
    #[error("text of {0} bytes is over the limit of {STRING_MAX_BYTES}")]
    TooLong(usize),
    /// No digest, or an algorithm twice.
    #[error("digest algorithms are missing or there twice")]
    Algorithms,
    /// A digest is not the hash of the text.
    #[error("{0} digest is not the hash of the text")]
    Digest(Bank),
}

/// What kind of thing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A phase of the boot, in PCR 11; the text is its name.
    Phase,
    /// The node settings, in PCR 13; the text is their JSON.
    NodeSettings,
    /// What became of the state volume, in PCR 15; the text is its UUID and the HMAC of its key, or "none".
    StateVolume,
}

impl Kind {
    /// The PCR of such events.
    #[must_use]
    pub fn pcr(self) -> u8 {
        match self {
            Kind::Phase => pcr::UKI,
            Kind::NodeSettings => pcr::NODE,
            Kind::StateVolume => pcr::IDENTITY,
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Number, from 0.
    pub recnum: u64,
    /// The PCR.
    pub pcr: PcrIndex,
    /// What was extended, in every bank of the TPM.
    pub digests: Vec<BankDigest>,
    /// [`CONTENT_TYPE`].
    pub content_type: String,
    /// What was measured.
    pub content: Measured,
}

/// A digest with its algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BankDigest {
    /// Algorithm.
    #[serde(rename = "hashAlg")]
    pub hash_alg: Bank,
    /// Digest.
    pub digest: Digest,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Kind.
    pub event: Kind,
    /// The text whose UTF-8 bytes were hashed.
    pub string: String,
}

/// A log that passed every check of [`CelLog::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CelLog {
    records: Vec<Record>,
}

impl CelLog {
    /// Parses a log, whole; an empty one has no records.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > LOG_MAX_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let mut records = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let number = records.len();
            let fail = |fault| Error::Record { number, fault };
            if number >= RECORDS_MAX {
                return Err(fail(Fault::TooMany));
            }
            let (text, behind) = frame(rest).ok_or_else(|| fail(Fault::Framing))?;
            records.push(record(text, number).map_err(fail)?);
            rest = behind;
        }
        Ok(Self { records })
    }

    /// The records, in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Extends PCR values by the records; `false` when a record has no digest in the bank, in which case the values
    /// are of no use.
    #[must_use]
    pub fn replay_onto(&self, bank: Bank, pcrs: &mut BTreeMap<PcrIndex, Digest>) -> bool {
        self.records.iter().all(|record| {
            let digest = record.digests.iter().find(|d| d.hash_alg == bank);
            let value = pcrs.entry(record.pcr).or_insert_with(|| zero(bank));
            digest.map(|d| extend(bank, value, &d.digest)).is_some()
        })
    }
}

/// Cuts off the first record: its JSON text and what follows.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(&[RECORD_SEPARATOR])?;
    let end = rest.iter().position(|b| *b == b'\n')?;
    let (text, behind) = rest.split_at(end);
    (text.first() == Some(&b'{') && text.last() == Some(&b'}')).then_some((text, &behind[1..]))
}

fn record(text: &[u8], number: usize) -> Result<Record, Fault> {
    let record: Record = serde_json::from_slice(text).map_err(|e| Fault::Json(e.to_string()))?;
    if record.recnum != number as u64 {
        return Err(Fault::Number(record.recnum));
    }
    if record.content_type != CONTENT_TYPE {
        return Err(Fault::ContentType(record.content_type));
    }
    if record.pcr.get() != record.content.event.pcr() {
        return Err(Fault::Pcr(record.pcr));
    }
    let string = record.content.string.as_bytes();
    if string.len() > STRING_MAX_BYTES {
        return Err(Fault::TooLong(string.len()));
    }
    let mut banks: Vec<Bank> = record.digests.iter().map(|d| d.hash_alg).collect();
    banks.sort_unstable();
    if banks.is_empty() || banks.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Fault::Algorithms);
    }
    match record.digests.iter().find(|d| d.digest != hash(d.hash_alg, &[string])) {
        Some(wrong) => Err(Fault::Digest(wrong.hash_alg)),
        None => Ok(record),
    }
}
