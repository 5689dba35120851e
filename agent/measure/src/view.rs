//! A log as people and programs want to see it: values, events and the state of Secure Boot, as the log tells them.
//! Nothing here is proof: without a quote a log is a claim.

use crate::content::{is_measured, measured_authority};
use crate::secure_boot::{Authority, Signature, Told, told};
use crate::tcg::{Event, EventLog, EventType};
use crate::words::words;
use pillar_model::{Bank, Digest, PcrIndex};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

const BANKS: [Bank; 4] = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];

/// A log, to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// The values that the log leads to: of each bank that its header names, every PCR that an event extends. A bank that
    /// the header names and no event has is empty.
    pub pcrs: BTreeMap<Bank, BTreeMap<PcrIndex, Digest>>,
    /// The events behind the header.
    pub events: Vec<EventView>,
    /// What PCR 7's events tell.
    pub secure_boot: SecureBootView,
    /// False for a log of SHA-1 alone, from before digests had algorithms.
    pub crypto_agile: bool,
    /// The locality from which the TPM was started, when the log tells it.
    pub startup_locality: Option<u8>,
    /// Algorithms of the header that are not known here, by their TPM number; their banks are not replayed.
    pub unknown_algorithms: Vec<u16>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// Its number; the header is 0, a log without a header begins with event 0.
    pub number: usize,
    /// Where it begins in the log, in bytes.
    pub offset: usize,
    /// The PCR; none when it names none.
    pub pcr: Option<PcrIndex>,
    /// The type's name, or "unknown type" with its number.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Digests, by bank.
    pub digests: BTreeMap<Bank, Digest>,
    /// Bytes of its data.
    pub size_bytes: usize,
    /// Whether the digest is over the data, so that what the data says was measured. Many types measure something else.
    pub data_is_measured: bool,
    /// What it is.
    pub words: String,
}

/// Secure Boot, as far as PCR 7's events tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecureBootView {
    /// None when no event tells.
    pub enabled: Option<bool>,
    /// Platform key; none when it was not measured.
    pub pk: Option<Vec<Entry>>,
    /// Key exchange keys.
    pub kek: Option<Vec<Entry>>,
    /// What may start.
    pub db: Option<Vec<Entry>>,
    /// What may not.
    pub dbx: Option<Vec<Entry>>,
    /// What allowed programs to start, in order.
    pub authorities: Vec<Entry>,
    /// What the firmware said beside it.
    pub remarks: Vec<String>,
    /// Why the events do not tell a whole state; none when they do.
    pub problem: Option<String>,
}

/// One key or digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// SHA-256 over the DER of a certificate.
    Certificate(Digest),
    /// Authenticode SHA-256 of an image.
    ImageSha256(Digest),
    /// Something else: the GUID of its kind, or the name of a variable.
    Other(String),
}

impl View {
    /// Of a log.
    #[must_use]
    pub fn new(log: &EventLog<'_>) -> Self {
        let named = |bank: &Bank| log.algorithms.iter().any(|(id, _)| *id == bank.alg_id());
        let strongest = strongest(log);
        let known = |(id, _): &(u16, usize)| Bank::from_alg_id(*id).is_none().then_some(*id);
        Self {
            pcrs: BANKS
                .into_iter()
                .filter(named)
                .map(|bank| (bank, log.replay(bank).unwrap_or_default()))
                .collect(),
            events: log.events.iter().map(|event| EventView::new(event, strongest)).collect(),
            secure_boot: SecureBootView::new(told(log, strongest)),
            crypto_agile: log.crypto_agile,
            startup_locality: log.startup_locality,
            unknown_algorithms: log.algorithms.iter().filter_map(known).collect(),
        }
    }
}

/// The bank by which data is compared with digests: SHA-256 where there is one.
fn strongest(log: &EventLog<'_>) -> Bank {
    let order = [Bank::Sha256, Bank::Sha384, Bank::Sha512];
    order.into_iter().find(|bank| log.has_bank(*bank)).unwrap_or(Bank::Sha1)
}

impl EventView {
    fn new(event: &Event<'_>, bank: Bank) -> Self {
        let measured = match event.event_type {
            EventType::VariableAuthority => measured_authority(event, bank).is_some(),
            _ => event.extends() && is_measured(event, bank),
        };
        Self {
            number: event.number,
            offset: event.offset,
            pcr: event.pcr,
            event_type: event.event_type.to_string(),
            digests: BANKS.into_iter().filter_map(|bank| Some((bank, event.digest(bank)?))).collect(),
            size_bytes: event.data.len(),
            data_is_measured: measured,
            words: words(event),
        }
    }
}

impl SecureBootView {
    fn new(told: Told) -> Self {
        let entries = |list: Option<Vec<Signature>>| list.map(|l| l.iter().map(Entry::from).collect());
        Self {
            enabled: told.enabled,
            pk: entries(told.pk),
            kek: entries(told.kek),
            db: entries(told.db),
            dbx: entries(told.dbx),
            authorities: told.authorities.iter().map(Entry::from).collect(),
            remarks: told.remarks,
            problem: told.problem.map(|error| error.to_string()),
        }
    }
}

impl From<&Signature> for Entry {
    fn from(signature: &Signature) -> Self {
        match signature {
            Signature::Certificate(digest) => Self::Certificate(digest.clone()),
            Signature::ImageSha256(digest) => Self::ImageSha256(digest.clone()),
            Signature::Other(guid) => Self::Other(guid_text(*guid)),
        }
    }
}

impl From<&Authority> for Entry {
    fn from(authority: &Authority) -> Self {
        match authority {
            Authority::Certificate(digest) => Self::Certificate(digest.clone()),
            Authority::Other(name) => Self::Other(name.clone()),
        }
    }
}

/// A GUID as text; the first three fields are little endian in memory.
fn guid_text(guid: [u8; 16]) -> String {
    let value = u128::from_be_bytes([
        guid[3], guid[2], guid[1], guid[0], guid[5], guid[4], guid[7], guid[6], guid[8], guid[9], guid[10],
        guid[11], guid[12], guid[13], guid[14], guid[15],
    ]);
    let digits = format!("{value:032x}");
    let (a, rest) = digits.split_at(8);
    format!("{a}-{}-{}-{}-{}", &rest[..4], &rest[4..8], &rest[8..12], &rest[12..])
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(digest) => write!(f, "certificate {digest}"),
            Self::ImageSha256(digest) => write!(f, "image {digest}"),
            Self::Other(name) => f.write_str(&printable(name)),
        }
    }
}

/// What a log says, without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '.' } else { c }).collect()
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            let pcr = event.pcr.map_or_else(|| "-".to_owned(), |pcr| pcr.to_string());
            writeln!(f, "{:>4}  PCR {pcr:<2}  {:<36} {}", event.number, event.event_type, event.words)?;
        }
        for (bank, pcrs) in &self.pcrs {
            writeln!(f, "\n{bank}")?;
            if pcrs.is_empty() {
                writeln!(f, "  no event has a digest of this bank")?;
            }
            for (pcr, value) in pcrs {
                writeln!(f, "  {:>2}  {value}", pcr.to_string())?;
            }
        }
        write!(f, "\n{}", self.secure_boot)
    }
}

/// Longer databases are counted, not listed.
const LISTED_MAX: usize = 8;

impl fmt::Display for SecureBootView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let enabled = match self.enabled {
            Some(true) => "on",
            Some(false) => "off",
            None => "not told",
        };
        writeln!(f, "secure boot  {enabled}")?;
        for (name, list) in [("PK", &self.pk), ("KEK", &self.kek), ("db", &self.db), ("dbx", &self.dbx)] {
            match list {
                None => writeln!(f, "  {name:<9}  not told")?,
                Some(list) if list.is_empty() => writeln!(f, "  {name:<9}  empty")?,
                Some(list) => {
                    for entry in list.iter().take(LISTED_MAX) {
                        writeln!(f, "  {name:<9}  {entry}")?;
                    }
                    if list.len() > LISTED_MAX {
                        writeln!(f, "  {name:<9}  … {} more", list.len() - LISTED_MAX)?;
                    }
                }
            }
        }
        for entry in &self.authorities {
            writeln!(f, "  {:<9}  {entry}", "authority")?;
        }
        for remark in &self.remarks {
            writeln!(f, "  {:<9}  {}", "remark", printable(remark))?;
        }
        match &self.problem {
            Some(problem) => writeln!(f, "  {:<9}  {}", "problem", printable(problem)),
            None => Ok(()),
        }
    }
}
