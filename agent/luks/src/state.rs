//! What the head of the partition is.

use crate::binary::Place;
use crate::{COPY_BYTES, HEAD_BYTES, SECTOR_BYTES};
use std::fmt;

/// What the marker's sector begins with; zeros follow. Not a word of any other format.
const MARKER: &[u8] = b"pillar-state: being made, holds nothing yet, version 1\n";

/// The first sector of a volume that is being made (see the crate's header).
#[must_use]
pub fn marker() -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    sector[..MARKER.len()].copy_from_slice(MARKER);
    sector
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Zeros alone: a volume may be made.
    Blank,
    /// A volume was being made and never finished, so it holds nothing: it may be made anew.
    Interrupted,
    /// A LUKS2 volume, for [`crate::check`] to judge. Never to be made anew by itself.
    Luks2,
    /// Something else. Never to be written to.
    Foreign(Foreign),
}

/// What somebody else left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// A format that is known, by name.
    Known(&'static str),
    /// Not known: the first byte that is not zero.
    Unknown {
        /// Where it is.
        offset: usize,
    },
    /// There is less than [`HEAD_BYTES`] to look at.
    Short {
        /// So much.
        bytes: usize,
    },
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Foreign::Known(name) => write!(f, "{name}"),
            Foreign::Unknown { offset } => {
                write!(f, "data of an unknown kind (byte {offset} is the first that is not zero)")
            }
            Foreign::Short { bytes } => {
                write!(f, "{bytes} bytes, less than the {HEAD_BYTES} that must be seen")
            }
        }
    }
}

/// Formats whose data is worth naming: what, where, its magic.
const KNOWN: &[(&str, usize, &[u8])] = &[
    ("a LUKS1 volume", 0, b"LUKS\xba\xbe\x00\x01"),
    ("a LUKS volume of an unknown version", 0, b"LUKS\xba\xbe"),
    ("an ext2, ext3 or ext4 file system", 0x438, b"\x53\xef"),
    ("an XFS file system", 0, b"XFSB"),
    ("a btrfs file system", 0x1_0040, b"_BHRfS_M"),
    ("an erofs file system", 0x400, b"\xe2\xe1\xf5\xe0"),
    ("a squashfs file system", 0, b"hsqs"),
    ("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 0x52, b"FAT32   "),
    ("a FAT file system", 0x36, b"FAT1"),
    ("a swap area", 4086, b"SWAPSPACE2"),
    ("an LVM physical volume", 0x218, b"LVM2 001"),
    ("a Linux RAID member", 0x1000, b"\xfc\x4e\x2b\xa9"),
    ("a BitLocker volume", 3, b"-FVE-FS-"),
    ("a dm-verity hash tree", 0, b"verity\0\0"),
    ("a dm-integrity volume", 0, b"integrt\0"),
    ("a GUID partition table", 512, b"EFI PART"),
    ("a GUID partition table", 4096, b"EFI PART"),
    ("a boot sector or partition table", 510, b"\x55\xaa"),
];

/// What the first [`HEAD_BYTES`] of the partition are.
#[must_use]
pub fn state_of(head: &[u8]) -> State {
    let Some(head) = head.get(..HEAD_BYTES) else {
        return State::Foreign(Foreign::Short { bytes: head.len() });
    };
    let sector = &head[..SECTOR_BYTES];
    if sector == marker() {
        return State::Interrupted;
    }
    let Some(offset) = head.iter().position(|byte| *byte != 0) else {
        return State::Blank;
    };
    if is_torn_marker(head) {
        return State::Interrupted;
    }
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let luks2 = |place: Place| at(place.offset(), place.magic()) && at(place.offset() + 6, &[0, 2]);
    // Another version at the first place is what is there, whatever an older volume left at the second.
    if luks2(Place::First) || !at(0, Place::First.magic()) && luks2(Place::Second) {
        return State::Luks2;
    }
    match KNOWN.iter().find(|(_, offset, magic)| at(*offset, magic)) {
        Some((name, ..)) => State::Foreign(Foreign::Known(name)),
        None => State::Foreign(Foreign::Unknown { offset }),
    }
}

/// A disk that writes less than a sector whole may leave the beginning of the marker on an empty partition.
fn is_torn_marker(head: &[u8]) -> bool {
    let end = head.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    end <= MARKER.len() && head[..end] == MARKER[..end]
}

const _: () = assert!(MARKER.len() < SECTOR_BYTES && HEAD_BYTES > 2 * COPY_BYTES);
