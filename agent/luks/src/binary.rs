//! One copy of the header: fields, checksum, and where its JSON ends (specification, section 2.1).

use crate::{BINARY_BYTES, COPY_BYTES, Refusal, Shape, Write};
use std::fmt;

const CHECKSUM: std::ops::Range<usize> = 448..512;
const SHA256_BYTES: usize = 32;

/// Which of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    First,
    Second,
}

impl Place {
    pub fn magic(self) -> &'static [u8; 6] {
        match self {
            Place::First => b"LUKS\xba\xbe",
            Place::Second => b"SKUL\xba\xbe",
        }
    }

    pub fn offset(self) -> usize {
        match self {
            Place::First => 0,
            Place::Second => COPY_BYTES,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::First => "first copy",
            Place::Second => "second copy",
        })
    }
}

/// A copy whose plain fields are right. Its checksum is another question ([`Copy::whole`]), because a power cut may
/// leave a wrong one.
#[derive(Debug)]
pub struct Copy<'a> {
    pub place: Place,
    pub uuid: String,
    pub sequence: u64,
    /// The whole JSON area.
    pub json: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Copy<'a> {
    /// `bytes` are [`COPY_BYTES`].
    pub fn parse(bytes: &'a [u8], place: Place, shape: &Shape) -> Result<Self, Refusal> {
        let field = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default();
        let magic = field(0..6);
        if magic != place.magic() {
            return Err(Refusal::new("magic", Hex(magic), Hex(place.magic())));
        }
        let version = number(field(6..8));
        if version != 2 {
            return Err(Refusal::new("version", version, 2));
        }
        let size = number(field(8..16));
        if size != COPY_BYTES as u64 {
            return Err(Refusal::new("header size", size, COPY_BYTES));
        }
        let offset = number(field(256..264));
        if offset != place.offset() as u64 {
            return Err(Refusal::new("header offset", offset, place.offset()));
        }
        for (name, range, expected) in [
            ("label", 24..72, shape.label),
            ("checksum algorithm", 72..104, "sha256"),
            ("subsystem", 208..256, shape.subsystem),
        ] {
            let found = text(name, field(range))?;
            if found != expected {
                return Err(Refusal::new(name, format!("{found:?}"), format!("{expected:?}")));
            }
        }
        let uuid = text("uuid", field(168..208))?;
        if !is_uuid(uuid) {
            return Err(Refusal::new("uuid", format!("{uuid:?}"), "a UUID in lower case"));
        }
        for range in [264..CHECKSUM.start, CHECKSUM.start + SHA256_BYTES..CHECKSUM.end, 512..BINARY_BYTES] {
            if let Some(at) = field(range.clone()).iter().position(|byte| *byte != 0) {
                return Err(Refusal::new(
                    "padding",
                    format!("not zero at byte {}", range.start + at),
                    "zeros",
                ));
            }
        }
        let json = bytes.get(BINARY_BYTES..).unwrap_or_default();
        Ok(Copy { place, uuid: uuid.to_owned(), sequence: number(field(16..24)), json, bytes })
    }

    /// The checksum is right.
    pub fn whole(&self) -> Result<(), Refusal> {
        let found = self.bytes.get(CHECKSUM.start..CHECKSUM.start + SHA256_BYTES).unwrap_or_default();
        let expected = checksum(self.bytes);
        if found == expected {
            return Ok(());
        }
        Err(Refusal::new("checksum", Hex(found), Hex(&expected)))
    }

    /// This copy as the other one: same contents under the other magic and offset, and with its own checksum.
    pub fn rewritten_at(&self, place: Place) -> Write {
        let mut bytes = self.bytes.to_vec();
        if let Some(magic) = bytes.get_mut(..6) {
            magic.copy_from_slice(place.magic());
        }
        if let Some(offset) = bytes.get_mut(256..264) {
            offset.copy_from_slice(&(place.offset() as u64).to_be_bytes());
        }
        seal(&mut bytes);
        Write { offset: place.offset() as u64, bytes }
    }
}

/// Gives a copy its right checksum.
pub fn seal(copy: &mut [u8]) {
    let checksum = checksum(copy);
    if let Some(field) = copy.get_mut(CHECKSUM) {
        field.fill(0);
        field[..SHA256_BYTES].copy_from_slice(&checksum);
    }
}

fn checksum(copy: &[u8]) -> [u8; SHA256_BYTES] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(copy.get(..CHECKSUM.start).unwrap_or_default());
    context.update(&[0; CHECKSUM.end - CHECKSUM.start]);
    context.update(copy.get(CHECKSUM.end..).unwrap_or_default());
    let mut bytes = [0; SHA256_BYTES];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// Big-endian, at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A text in a field: ends in a NUL, behind which there are only zeros.
fn text<'a>(name: &str, field: &'a [u8]) -> Result<&'a str, Refusal> {
    let end = field.iter().position(|byte| *byte == 0);
    let text = end.and_then(|end| {
        let (text, rest) = field.split_at(end);
        let printable = text.iter().all(|byte| (b' '..=b'~').contains(byte));
        std::str::from_utf8(text).ok().filter(|_| printable && rest.iter().all(|byte| *byte == 0))
    });
    text.ok_or_else(|| Refusal::new(name, Hex(field), "printable text, then zeros"))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
