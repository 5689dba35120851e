//! What is on the state partition, judged on bytes before libcryptsetup is let near it: nothing, a volume that was
//! being made when the power went, a LUKS2 volume of exactly our shape, or somebody's data.
//!
//! The format is "LUKS2 On-Disk Format Specification" 1.1: two copies of a header, each 4096 bytes of binary fields
//! and a JSON area, then the key slots' areas, then the data. libcryptsetup takes many headers; we take one
//! ([`Shape`]), because whoever can write the disk can write a header, with a right checksum, that says "no
//! encryption", "another key slot" or "I was being re-encrypted".
//!
//! **Invariant:** no files, no devices, no default. A field that is not listed here is refused, not skipped.
//!
//! # How a volume is made, and what a power cut leaves
//!
//! libcryptsetup never writes to the partition's head. It makes the header in a file in memory (header and data as two
//! devices), and we copy it:
//!
//! 1. [`marker`] into the first [`SECTOR_BYTES`], sync. From here on the head is [`State::Interrupted`].
//! 2. The volume is formatted (header in memory, data on the partition), its key slots and tokens are made, it is
//!    opened, its file system written and synced.
//! 3. [`commit`]: all of the header but its first sector, sync; then the first sector, sync. That one sector, in the
//!    marker's place, makes the head [`State::Luks2`]. It is the only write that can lose anybody data, and before it
//!    there was none.
//!
//! A later change (a key slot sealed anew) is made in memory too and written by [`update`], so that a cut anywhere
//! leaves one copy of the header whole, with its key slots; [`check`] then says what to write to make both whole.
#![forbid(unsafe_code)]

mod binary;
mod json;
mod shape;
mod state;
mod write;

pub use shape::{Keyslot, Shape, Token};
pub use state::{Foreign, State, marker, state_of};
pub use write::{UpdateError, Write, commit, update};

use binary::Copy;
use serde_json::Value;
use std::fmt;

/// The smallest unit that a disk writes whole.
pub const SECTOR_BYTES: usize = 512;
/// One copy of the header: binary fields and JSON area.
pub const COPY_BYTES: usize = 16 << 10;
/// The binary fields of a copy, with their padding.
pub const BINARY_BYTES: usize = 4096;
/// Both copies: what [`check`] wants to see, at least.
pub const HEADER_BYTES: usize = 2 * COPY_BYTES;
/// What [`state_of`] wants to see. Every file system and volume manager that could be on a partition has left
/// something within it (those that are known by their end alone, such as old RAID, keep data in front).
pub const HEAD_BYTES: usize = 16 << 20;
/// Limit of one token's JSON. A sealed key has about 1 KiB, a recovery key for 16 operators about 8 KiB.
pub const TOKEN_MAX_BYTES: usize = 10 << 10;

/// Why a header is not opened: a field, what it is, what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state volume's LUKS2 header: {field} is {found}, expected {expected}")]
pub struct Refusal {
    /// Which field, for example `first copy: keyslots.0.kdf.type`.
    pub field: String,
    /// What it is.
    pub found: String,
    /// What it must be.
    pub expected: String,
}

/// Longest excerpt of a header that an error shows.
const FOUND_MAX_CHARS: usize = 80;

impl Refusal {
    fn new(field: impl fmt::Display, found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        let mut found = found.to_string();
        if let Some((end, _)) = found.char_indices().nth(FOUND_MAX_CHARS) {
            found.truncate(end);
            found.push('…');
        }
        Refusal { field: field.to_string(), found, expected: expected.to_string() }
    }

    fn within(mut self, place: &str) -> Self {
        self.field = format!("{place}: {}", self.field);
        self
    }
}

/// A header of our shape. Made by [`check`] alone.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Header {
    /// The volume's UUID, in its usual text form.
    pub uuid: String,
    /// How often the header was written.
    pub sequence: u64,
    /// The tokens in the order of [`Shape::tokens`], each the whole JSON object.
    pub tokens: Vec<Value>,
    /// What a power cut left behind: one copy is older or half-written. To be written and synced before anything else
    /// reads the header; none when both copies are whole and equal.
    pub repair: Option<Write>,
    areas: Vec<std::ops::Range<u64>>,
}

/// Judges the header at the start of `head` (at least [`HEADER_BYTES`]) of a partition of `device_bytes`.
///
/// Both copies must be of our shape. They may differ in one way: a power cut while the header was written left the one
/// older by one write, or with a wrong checksum; then the other counts, and [`Header::repair`] is what to write.
/// Something that wrote one copy and *meant* it cannot hide there: the copy that counts was judged whole, and the
/// other is overwritten before libcryptsetup sees it.
pub fn check(head: &[u8], shape: &Shape, device_bytes: u64) -> Result<Header, Refusal> {
    let Some(head) = head.get(..HEADER_BYTES) else {
        return Err(Refusal::new(
            "its size",
            format!("{} bytes", head.len()),
            format!("{HEADER_BYTES} bytes"),
        ));
    };
    let (first, second) = head.split_at(COPY_BYTES);
    let first = Copy::parse(first, binary::Place::First, shape).map_err(|r| r.within("first copy"))?;
    let second = Copy::parse(second, binary::Place::Second, shape).map_err(|r| r.within("second copy"))?;
    if first.uuid != second.uuid {
        return Err(Refusal::new(
            "second copy: uuid",
            &second.uuid,
            format!("{} as in the first", first.uuid),
        ));
    }
    let judge = |copy: &Copy<'_>, place: &str| {
        json::judge(copy.json, shape, device_bytes).map_err(|refusal| refusal.within(place))
    };
    let (counts, metadata, repair) = match (first.whole(), second.whole()) {
        (Err(refusal), Err(_)) => return Err(refusal.within("first copy")),
        (Ok(()), Err(_)) => (&first, judge(&first, "first copy")?, Some(&second)),
        (Err(_), Ok(())) => (&second, judge(&second, "second copy")?, Some(&first)),
        (Ok(()), Ok(())) => {
            let (one, two) = (judge(&first, "first copy")?, judge(&second, "second copy")?);
            match first.sequence.cmp(&second.sequence) {
                std::cmp::Ordering::Equal if first.json == second.json => (&first, one, None),
                std::cmp::Ordering::Equal => {
                    return Err(Refusal::new(
                        "second copy: JSON",
                        "another one",
                        format!("the first's, as both have the sequence number {}", first.sequence),
                    ));
                }
                std::cmp::Ordering::Greater => (&first, one, Some(&second)),
                std::cmp::Ordering::Less => (&second, two, Some(&first)),
            }
        }
    };
    if let Some(other) = repair.filter(|other| other.whole().is_ok())
        && other.sequence.checked_add(1) != Some(counts.sequence)
    {
        return Err(Refusal::new(
            format!("{}: sequence number", other.place),
            other.sequence,
            format!("{} or one less, as in the other copy", counts.sequence),
        ));
    }
    Ok(Header {
        uuid: counts.uuid.clone(),
        sequence: counts.sequence,
        tokens: metadata.tokens,
        repair: repair.map(|other| counts.rewritten_at(other.place)),
        areas: metadata.areas,
    })
}

#[cfg(test)]
mod tests;
