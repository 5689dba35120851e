//! The GUID partition table (UEFI 2.10 section 5.3): both copies, their checksums, names. Hand-written because PID 1
//! wants it on bytes, bounded, and wants to know *which* copy is damaged and why.

use std::fmt;
use std::io;
use std::str::FromStr;

/// What the parser takes at most. Real tables have 128 entries of 128 bytes.
pub mod limits {
    /// Entries in a table.
    pub const ENTRIES: u32 = 1024;
    /// Bytes of one entry; the specification allows 128 × 2ⁿ.
    pub const ENTRY_BYTES: u32 = 512;
    /// Block sizes that disks have.
    pub const BLOCK_SIZES: [u32; 2] = [512, 4096];
}

pub(crate) const SIGNATURE: &[u8; 8] = b"EFI PART";
pub(crate) const REVISION: u32 = 0x0001_0000;
pub(crate) const HEADER_BYTES: u32 = 92;
const ENTRY_MIN_BYTES: u32 = 128;
/// UTF-16 code units of a partition's name.
const NAME_UNITS: usize = 36;

/// A GUID as it lies on the disk (first three fields little endian); prints in the usual form, lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

/// Text that is no GUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a GUID (8-4-4-4-12 hexadecimal digits)")]
pub struct GuidError(pub String);

/// Where the text form's bytes lie on the disk.
const TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, index) in TEXT_ORDER.into_iter().enumerate() {
            if [4, 6, 8, 10].contains(&position) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[index])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let wrong = || GuidError(text.chars().take(40).collect());
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|g| g.len()).ne([8, 4, 4, 4, 12]) {
            return Err(wrong());
        }
        let digits = groups.concat();
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (position, index) in TEXT_ORDER.into_iter().enumerate() {
            let pair = digits.get(2 * position..2 * position + 2).ok_or_else(wrong)?;
            bytes[index] = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Guid(bytes))
    }
}

/// One used entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1; the kernel names the device by it.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Its own GUID.
    pub guid: Guid,
    /// First block.
    pub first_lba: u64,
    /// Last block, part of it.
    pub last_lba: u64,
    /// Name; what is no UTF-16 shows as U+FFFD.
    pub label: String,
}

/// What is wrong with one copy of the table.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The block or the entries could not be read.
    #[error("cannot read {bytes} bytes at offset {offset}")]
    Read {
        /// Offset in the disk.
        offset: u64,
        /// Bytes asked for.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// Shorter than a header.
    #[error("the block ends before the header does")]
    Short,
    /// No `EFI PART`.
    #[error("no GPT signature")]
    Signature,
    /// A revision other than 1.0.
    #[error("revision {0:#010x} is not 1.0")]
    Revision(u32),
    /// A header size that the revision does not have.
    #[error("header size of {0} bytes is not 92")]
    HeaderSize(u32),
    /// Header checksum.
    #[error("header checksum is {found:08x}, the header says {told:08x}")]
    HeaderCrc {
        /// As calculated.
        found: u32,
        /// As written.
        told: u32,
    },
    /// The header lies elsewhere than it says.
    #[error("header at block {at} says that it is at block {told}")]
    Misplaced {
        /// Where it was read.
        at: u64,
        /// What it says.
        told: u64,
    },
    /// Entry size not 128 × 2ⁿ, or over the limit.
    #[error("entry size of {0} bytes is not 128, 256 or 512")]
    EntrySize(u32),
    /// Too many entries.
    #[error("{0} entries are more than the {max} that are read", max = limits::ENTRIES)]
    Entries(u32),
    /// Entries that lie outside of the disk.
    #[error("entries at block {0} lie outside of the disk")]
    EntriesPlace(u64),
    /// Entry checksum.
    #[error("entry checksum is {found:08x}, the header says {told:08x}")]
    EntriesCrc {
        /// As calculated.
        found: u32,
        /// As written.
        told: u32,
    },
    /// A partition that ends before it begins, or outside of the usable blocks.
    #[error("partition {0} lies outside of the usable blocks")]
    Range(u32),
    /// Two partitions with the same GUID.
    #[error("partitions {0} and {1} have the same GUID")]
    Duplicate(u32, u32),
}

/// Neither copy can be used.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// Block size that no disk has.
    #[error("block size of {0} bytes is neither 512 nor 4096")]
    BlockSize(u32),
    /// The disk is too small for a table.
    #[error("a disk of {0} blocks is too small for a partition table")]
    Small(u64),
    /// Both copies are damaged, or there is no table.
    #[error("no partition table: primary copy: {primary}; backup copy: {backup}")]
    Both {
        /// What is wrong with the primary.
        primary: CopyError,
        /// What is wrong with the backup.
        backup: CopyError,
    },
}

/// A table of which at least one copy is whole.
#[derive(Debug)]
pub struct Gpt {
    /// Bytes of a block.
    pub block_size: u32,
    /// The disk's GUID.
    pub disk: Guid,
    /// Used entries, by number.
    pub partitions: Vec<Partition>,
    /// What is wrong with the primary copy, when the backup was taken instead.
    pub primary_damage: Option<CopyError>,
    /// What is wrong with the backup copy.
    pub backup_damage: Option<CopyError>,
    /// Both copies are whole by themselves and say different things; the primary was taken.
    pub copies_differ: bool,
}

impl Gpt {
    /// Reads both copies of the table of a disk of `blocks` blocks. `read(offset, bytes)` returns exactly `bytes`
    /// bytes; it is asked for at most a block and [`limits::ENTRIES`] × [`limits::ENTRY_BYTES`] at a time.
    pub fn read(
        block_size: u32,
        blocks: u64,
        mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
    ) -> Result<Gpt, GptError> {
        let disk = Disk::new(block_size, blocks)?;
        let mut table = |lba| disk.copy(lba, &mut read).map(|copy| copy.table);
        match (table(1), table(blocks - 1)) {
            (Ok(primary), backup) => {
                let copies_differ = backup.as_ref().is_ok_and(|b| *b != primary);
                Ok(primary.into_gpt(block_size, None, backup.err(), copies_differ))
            }
            (Err(damage), Ok(backup)) => Ok(backup.into_gpt(block_size, Some(damage), None, false)),
            (Err(primary), Err(backup)) => Err(GptError::Both { primary, backup }),
        }
    }

    /// What a person should hear about damage that the other copy made good, if there is any.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match (&self.primary_damage, &self.backup_damage) {
            (Some(why), _) => Some(format!("primary copy is damaged ({why}), the backup was used")),
            (_, Some(why)) => Some(format!("backup copy is damaged ({why}), the primary was used")),
            _ if self.copies_differ => {
                Some("the copies say different things, the primary was used".to_owned())
            }
            _ => None,
        }
    }
}

/// A disk's shape; one that a table fits on.
#[derive(Clone, Copy)]
pub(crate) struct Disk {
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
}

/// One whole copy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    disk: Guid,
    pub(crate) partitions: Vec<Partition>,
}

/// One whole copy with the bytes of its entries.
pub(crate) struct WholeCopy {
    pub(crate) header: Header,
    pub(crate) entries: Vec<u8>,
    pub(crate) table: Table,
}

impl Table {
    fn into_gpt(
        self,
        block_size: u32,
        primary_damage: Option<CopyError>,
        backup_damage: Option<CopyError>,
        copies_differ: bool,
    ) -> Gpt {
        let Table { disk, partitions } = self;
        Gpt { block_size, disk, partitions, primary_damage, backup_damage, copies_differ }
    }
}

pub(crate) struct Header {
    pub(crate) first_usable: u64,
    last_usable: u64,
    pub(crate) disk: Guid,
    pub(crate) entries_lba: u64,
    pub(crate) entries: u32,
    pub(crate) entry_bytes: u32,
    entries_crc: u32,
}

impl Disk {
    pub(crate) fn new(block_size: u32, blocks: u64) -> Result<Disk, GptError> {
        if !limits::BLOCK_SIZES.contains(&block_size) {
            return Err(GptError::BlockSize(block_size));
        }
        if blocks < 6 || blocks.checked_mul(u64::from(block_size)).is_none() {
            return Err(GptError::Small(blocks));
        }
        Ok(Disk { block_size, blocks })
    }

    /// Reads the copy whose header lies at `lba`.
    pub(crate) fn copy(
        self,
        lba: u64,
        read: &mut impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
    ) -> Result<WholeCopy, CopyError> {
        let mut fetch = |lba: u64, bytes: usize| {
            let offset = lba * u64::from(self.block_size);
            read(offset, bytes).map_err(|source| CopyError::Read { offset, bytes: bytes as u64, source })
        };
        let header = Header::parse(&fetch(lba, self.block_size as usize)?, lba)?;
        let bytes = u64::from(header.entries) * u64::from(header.entry_bytes);
        let end = header.entries_lba.checked_add(bytes.div_ceil(u64::from(self.block_size)));
        if header.entries_lba < 2 || end.is_none_or(|end| end > self.blocks) {
            return Err(CopyError::EntriesPlace(header.entries_lba));
        }
        let entries = fetch(header.entries_lba, bytes as usize)?;
        let table = header.table(&entries, self.blocks)?;
        Ok(WholeCopy { header, entries, table })
    }
}

impl Header {
    fn parse(block: &[u8], at: u64) -> Result<Header, CopyError> {
        let header = block.get(..HEADER_BYTES as usize).ok_or(CopyError::Short)?;
        if &header[..8] != SIGNATURE {
            return Err(CopyError::Signature);
        }
        match u32_at(header, 8) {
            REVISION => {}
            other => return Err(CopyError::Revision(other)),
        }
        match u32_at(header, 12) {
            HEADER_BYTES => {}
            other => return Err(CopyError::HeaderSize(other)),
        }
        let told = u32_at(header, 16);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..16]);
        crc.update(&[0; 4]);
        crc.update(&header[20..]);
        let found = crc.finalize();
        if found != told {
            return Err(CopyError::HeaderCrc { found, told });
        }
        let told = u64_at(header, 24);
        if told != at {
            return Err(CopyError::Misplaced { at, told });
        }
        let (entries, entry_bytes) = (u32_at(header, 80), u32_at(header, 84));
        if !(ENTRY_MIN_BYTES..=limits::ENTRY_BYTES).contains(&entry_bytes) || !entry_bytes.is_power_of_two() {
            return Err(CopyError::EntrySize(entry_bytes));
        }
        if entries > limits::ENTRIES {
            return Err(CopyError::Entries(entries));
        }
        Ok(Header {
            first_usable: u64_at(header, 40),
            last_usable: u64_at(header, 48),
            disk: guid_at(header, 56),
            entries_lba: u64_at(header, 72),
            entries,
            entry_bytes,
            entries_crc: u32_at(header, 88),
        })
    }

    fn table(&self, bytes: &[u8], blocks: u64) -> Result<Table, CopyError> {
        if bytes.len() != self.entries as usize * self.entry_bytes as usize {
            return Err(CopyError::Short);
        }
        let found = crc32fast::hash(bytes);
        if found != self.entries_crc {
            return Err(CopyError::EntriesCrc { found, told: self.entries_crc });
        }
        let usable = self.first_usable..=self.last_usable.min(blocks - 1);
        let mut partitions: Vec<Partition> = Vec::new();
        for (number, entry) in (1..).zip(bytes.chunks_exact(self.entry_bytes as usize)) {
            let kind = guid_at(entry, 0);
            if kind == Guid([0; 16]) {
                continue;
            }
            let partition = Partition {
                number,
                kind,
                guid: guid_at(entry, 16),
                first_lba: u64_at(entry, 32),
                last_lba: u64_at(entry, 40),
                label: name(&entry[56..56 + 2 * NAME_UNITS]),
            };
            let (first, last) = (partition.first_lba, partition.last_lba);
            if first > last || !usable.contains(&first) || !usable.contains(&last) {
                return Err(CopyError::Range(number));
            }
            if let Some(other) = partitions.iter().find(|p| p.guid == partition.guid) {
                return Err(CopyError::Duplicate(other.number, number));
            }
            partitions.push(partition);
        }
        Ok(Table { disk: self.disk, partitions })
    }
}

/// The three readers below are only called with places inside of a slice whose length was checked.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    let mut raw = [0; 16];
    raw.copy_from_slice(&bytes[at..at + 16]);
    Guid(raw)
}

fn name(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
pub(crate) mod tests;
