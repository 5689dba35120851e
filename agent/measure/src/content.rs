//! What events say: the typed data of the event types whose data is itself what was measured.
//!
//! Data of the other types (device paths of programs, addresses of firmware blobs) is a remark that anyone can change
//! without changing a digest; nothing here gives it a meaning.

use crate::bytes::{Reader, Short};
use crate::hash::is_hash;
use crate::tcg::{Event, EventType};
use pillar_model::Bank;
use std::borrow::Cow;

/// Longest name of a variable, in UTF-16 units; real ones have up to some 20.
pub const NAME_MAX: usize = 256;

/// Data that does not have the form of its event type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The data ends too early.
    #[error("data ends early: {0}")]
    Short(#[from] Short),
    /// A length in the data is not that of what follows.
    #[error("length field says {told}, {found} bytes follow")]
    Length {
        /// What the field says.
        told: u64,
        /// What there is.
        found: usize,
    },
    /// A string that is not text.
    #[error("name is not UTF-16")]
    Name,
    /// A string that is not ASCII.
    #[error("string is not ASCII")]
    Text,
}

/// A measured UEFI variable (`UEFI_VARIABLE_DATA`, PFP section 10.2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Vendor GUID as it stands in memory (first three fields little endian).
    pub guid: [u8; 16],
    /// Name.
    pub name: Cow<'a, str>,
    /// Value.
    pub data: &'a [u8],
}

/// The data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// `EV_EFI_VARIABLE_DRIVER_CONFIG`, `EV_EFI_VARIABLE_BOOT`, `EV_EFI_VARIABLE_BOOT2`, `EV_EFI_VARIABLE_AUTHORITY`.
    Variable(Variable<'a>),
    /// `EV_SEPARATOR` of a normal boot: four zero bytes.
    Separator,
    /// `EV_SEPARATOR` with anything else: the firmware met an error.
    ErrorSeparator,
    /// `EV_EVENT_TAG` (`TCG_PCClientTaggedEvent`, PFP section 10.4.2.1). What is hashed may be other data: the kernel
    /// and systemd-boot only name it here.
    Tagged {
        /// Tag number.
        tag: u32,
        /// Tag data.
        data: &'a [u8],
    },
    /// `EV_ACTION`, `EV_EFI_ACTION`: ASCII text.
    Action(Cow<'a, str>),
    /// `EV_IPL`: text as UTF-16 (systemd-stub: the name of the section) or ASCII (GRUB), without its NUL. A remark.
    Loader(String),
    /// `EV_EFI_GPT_EVENT`: number of partitions.
    PartitionTable {
        /// Partitions in the table.
        partitions: u64,
    },
    /// A type whose data has no meaning here.
    Opaque,
}

/// Whether the event's data is what was measured, so that it may be believed as far as its PCR is proved.
#[must_use]
pub fn is_measured(event: &Event<'_>, bank: Bank) -> bool {
    event.digest_bytes(bank).is_some_and(|digest| is_hash(bank, event.data, digest))
}

/// [`is_measured`], or one byte more than was measured: shim before 15.8 counts a byte too many into the data of
/// authority events. Returns the data that was measured.
#[must_use]
pub fn measured_authority<'a>(event: &Event<'a>, bank: Bank) -> Option<&'a [u8]> {
    if is_measured(event, bank) {
        return Some(event.data);
    }
    let (_, shorter) = event.data.split_last()?;
    event.digest_bytes(bank).filter(|digest| is_hash(bank, shorter, digest)).map(|_| shorter)
}

/// The typed data of an event.
pub fn content<'a>(event: &Event<'a>) -> Result<Content<'a>, Error> {
    match event.event_type {
        EventType::VariableDriverConfig
        | EventType::VariableBoot
        | EventType::VariableBoot2
        | EventType::VariableAuthority => Ok(Content::Variable(variable(event.data)?)),
        EventType::Separator if event.data == [0; 4] => Ok(Content::Separator),
        EventType::Separator => Ok(Content::ErrorSeparator),
        EventType::EventTag => tagged(event.data),
        EventType::Action | EventType::EfiAction => Ok(Content::Action(Cow::Borrowed(ascii(event.data)?))),
        EventType::Ipl => Ok(Content::Loader(loader_text(event.data))),
        EventType::GptEvent | EventType::GptEvent2 => partition_table(event.data),
        _ => Ok(Content::Opaque),
    }
}

/// Parses `UEFI_VARIABLE_DATA`, whole.
pub fn variable(data: &[u8]) -> Result<Variable<'_>, Error> {
    let mut reader = Reader::new(data);
    let guid = reader.array()?;
    let (name_units, data_bytes) = (reader.u64()?, reader.u64()?);
    let units = usize::try_from(name_units).ok().filter(|n| *n <= NAME_MAX);
    let units = units.ok_or(Error::Length { told: name_units, found: reader.left() })?;
    let name = variable_name(reader.take(2 * units)?).ok_or(Error::Name)?;
    if data_bytes != reader.left() as u64 {
        return Err(Error::Length { told: data_bytes, found: reader.left() });
    }
    Ok(Variable { guid, name, data: reader.peek() })
}

/// The name in `UEFI_VARIABLE_DATA` of which the rest may be wrong: a remark.
pub(crate) fn name(data: &[u8]) -> Option<String> {
    let mut reader = Reader::new(data.get(16..)?);
    let (units, _) = (reader.u64().ok()?, reader.u64().ok()?);
    let units = usize::try_from(units).ok().filter(|n| *n <= NAME_MAX)?;
    utf16(reader.take(2 * units).ok()?)
}

/// UTF-16; the names that firmware always measures are not made anew.
fn variable_name(bytes: &[u8]) -> Option<Cow<'_, str>> {
    const KNOWN: [&str; 7] = ["SecureBoot", "PK", "KEK", "db", "dbx", "dbt", "dbr"];
    let is = |name: &&&str| {
        name.len() * 2 == bytes.len() && name.bytes().zip(bytes.as_chunks::<2>().0).all(|(c, u)| *u == [c, 0])
    };
    match KNOWN.iter().find(is) {
        Some(name) => Some(Cow::Borrowed(name)),
        None => utf16(bytes).map(Cow::Owned),
    }
}

fn tagged(data: &[u8]) -> Result<Content<'_>, Error> {
    let mut reader = Reader::new(data);
    let (tag, len) = (reader.u32()?, reader.u32()?);
    if len as usize != reader.left() {
        return Err(Error::Length { told: len.into(), found: reader.left() });
    }
    Ok(Content::Tagged { tag, data: reader.peek() })
}

/// `UEFI_GPT_DATA` (PFP section 10.2.7): the header's 92 bytes, a count, and 128 bytes for each partition.
fn partition_table(data: &[u8]) -> Result<Content<'_>, Error> {
    let mut reader = Reader::new(data);
    reader.take(92)?;
    let partitions = reader.u64()?;
    if partitions.checked_mul(128) != Some(reader.left() as u64) {
        return Err(Error::Length { told: partitions, found: reader.left() });
    }
    Ok(Content::PartitionTable { partitions })
}

fn ascii(data: &[u8]) -> Result<&str, Error> {
    str::from_utf8(data).ok().filter(|text| text.is_ascii()).ok_or(Error::Text)
}

/// UTF-16 little endian, whole.
pub(crate) fn utf16(bytes: &[u8]) -> Option<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    String::from_utf16(&units).ok()
}

pub(crate) fn loader_text(data: &[u8]) -> String {
    let wide = data.len() >= 2 && data[1] == 0;
    let text = if wide { utf16(data) } else { None };
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(data).into_owned());
    text.trim_end_matches('\0').to_owned()
}
