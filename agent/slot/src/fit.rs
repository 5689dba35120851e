//! Fits a pillar's partition table to the disk that it lies on: backup copy at the true end, state partition grown to
//! the last whole MiB. Flashing uses it, and init at first boot when the disk is larger than the image was.
//!
//! What it is not: a partition editor. No partition moves, none but `state` grows, nothing shrinks.
//!
//! **Invariant:** when the writes are carried out in order, each on stable storage before the next, at every moment at
//! least one copy of the table is whole, the one it was read from or the new one. Fitting a fitted disk writes nothing.

use crate::gpt::{CopyError, Disk, GptError, HEADER_BYTES, REVISION, SIGNATURE, WholeCopy};
use pillar_layout::gpt as labels;
use std::io;

/// The state partition ends at a multiple of this, in bytes: erase blocks and stripes are powers of two up to it.
pub const ALIGNMENT: u64 = 1 << 20;

/// Block of the primary copy's header.
const PRIMARY_LBA: u64 = 1;
/// Block of the primary copy's entries, when only the backup is there to tell.
const PRIMARY_ENTRIES_LBA: u64 = 2;
/// Offset of the four partition records in the protective MBR (UEFI 2.10 section 5.2.3), bytes of one, and the type
/// that says "protective".
const MBR_RECORDS: usize = 446;
const MBR_RECORD_BYTES: usize = 16;
const MBR_BYTES: usize = 512;
const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const MBR_PROTECTIVE: u8 = 0xee;

/// Bytes for a place on the disk. Offset and length are whole blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskWrite {
    /// Offset in bytes from the disk's begin.
    pub offset: u64,
    /// What goes there.
    pub bytes: Vec<u8>,
}

/// How a disk is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// To be carried out in this order, **with a flush after each**. The last one makes the primary header whole (or,
    /// when the table was read from the backup, the backup's).
    pub writes: Vec<DiskWrite>,
    /// The state partition's number.
    pub state_number: u32,
    /// Its first byte on the disk; it stays.
    pub state_offset: u64,
    /// Its size before, in bytes.
    pub state_bytes_before: u64,
    /// Its size after, in bytes; the same when only the table's copies were out of place.
    pub state_bytes: u64,
}

/// Why a table is not fitted to a disk.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// No table to fit.
    #[error(transparent)]
    Table(#[from] GptError),
    /// The last partition is not the one that may grow.
    #[error("the last partition is {label:?}, not {state:?}: this is no pillar's partition table", state = labels::LABEL_STATE)]
    NotState {
        /// Its label; empty when there is no partition at all.
        label: String,
    },
    /// The table's partitions do not fit on the disk.
    #[error("the disk has {has} bytes, its partitions need at least {needed}")]
    Small {
        /// Bytes of the disk.
        has: u64,
        /// Bytes that it would need.
        needed: u64,
    },
    /// The first usable block leaves no room for the primary copy's entries.
    #[error("the first partition may begin at block {first_usable}, where the table's entries still are")]
    Crowded {
        /// As the header says.
        first_usable: u64,
    },
}

/// Says how to fit the table of a disk of `blocks` blocks to it; `None` when it fits already. `read(offset, bytes)`
/// returns exactly `bytes` bytes of the disk; what it cannot read counts as damaged. The primary copy is believed when
/// it is whole, else the backup at the disk's end.
pub fn fit(
    block_size: u32,
    blocks: u64,
    mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> Result<Option<Fit>, FitError> {
    let fit = plan(block_size, blocks, &mut read, false)?;
    Ok(if fit.writes.is_empty() { None } else { Some(fit) })
}

/// The same for a disk that has no table yet: every write, the table being that of the image that `read` reads. The
/// image may be smaller than the disk, and larger by what lies behind its last partition.
pub fn lay(
    block_size: u32,
    blocks: u64,
    mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> Result<Fit, FitError> {
    plan(block_size, blocks, &mut read, true)
}

fn plan(
    block_size: u32,
    blocks: u64,
    read: &mut impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
    whatever_is_there: bool,
) -> Result<Fit, FitError> {
    let disk = Disk::new(block_size, blocks)?;
    let (source, from_primary) = match disk.copy(PRIMARY_LBA, read) {
        Ok(primary) => (primary, true),
        Err(primary) => {
            if let Some(needed) = needed_on_a_larger_disk(disk, &primary, read) {
                return Err(FitError::Small { has: blocks * u64::from(block_size), needed });
            }
            match disk.copy(blocks - 1, read) {
                Ok(backup) => (backup, false),
                Err(backup) => return Err(GptError::Both { primary, backup }.into()),
            }
        }
    };
    let shape = Shape::new(disk, &source, from_primary)?;
    let entries = shape.entries(&source);
    let mut primary = Vec::new();
    let mut backup = Vec::new();
    let mut stale = |list: &mut Vec<DiskWrite>, lba: u64, bytes: Vec<u8>| {
        let offset = lba * u64::from(block_size);
        if whatever_is_there || read(offset, bytes.len()).ok().as_deref() != Some(&bytes) {
            list.push(DiskWrite { offset, bytes });
        }
    };
    stale(&mut backup, shape.backup_entries, entries.clone());
    stale(&mut backup, blocks - 1, shape.header(&source, &entries, false));
    let mbr = shape.protective_mbr();
    stale(&mut primary, shape.primary_entries, entries.clone());
    stale(&mut primary, PRIMARY_LBA, shape.header(&source, &entries, true));
    // Firmware looks at the protective MBR before it looks at a table; it is the same size for both copies, and
    // one sector, so it goes between them.
    let mut between = Vec::new();
    if whatever_is_there || !mbr_covers(read(0, block_size as usize).ok().as_deref(), &mbr) {
        between.push(DiskWrite { offset: 0, bytes: mbr });
    }
    let writes = if from_primary { [backup, between, primary] } else { [primary, between, backup] }.concat();
    let bytes = |lba: u64| lba * u64::from(block_size);
    Ok(Fit {
        writes,
        state_number: shape.state_number,
        state_offset: bytes(shape.state_first),
        state_bytes_before: bytes(shape.state_last_before + 1 - shape.state_first),
        state_bytes: bytes(shape.state_last + 1 - shape.state_first),
    })
}

/// When the primary copy is refused only because its partitions end behind this disk: the bytes that they need.
fn needed_on_a_larger_disk(
    disk: Disk,
    refused: &CopyError,
    read: &mut impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> Option<u64> {
    let CopyError::Range(_) = refused else { return None };
    let block = u64::from(disk.block_size);
    let copy = Disk { blocks: u64::MAX / block, ..disk }.copy(PRIMARY_LBA, read).ok()?;
    let end = copy.table.partitions.iter().map(|p| p.last_lba + 1).max()?;
    end.checked_add(backup_blocks(disk, &copy))?.checked_mul(block)
}

/// Blocks of one copy's entries.
fn entry_blocks(disk: Disk, copy: &WholeCopy) -> u64 {
    (copy.entries.len() as u64).div_ceil(u64::from(disk.block_size))
}

/// Blocks of the backup copy: entries and header.
fn backup_blocks(disk: Disk, copy: &WholeCopy) -> u64 {
    entry_blocks(disk, copy) + 1
}

/// Where everything lies on the fitted disk, in blocks.
struct Shape {
    disk: Disk,
    primary_entries: u64,
    backup_entries: u64,
    last_usable: u64,
    state_number: u32,
    state_first: u64,
    state_last_before: u64,
    state_last: u64,
}

impl Shape {
    fn new(disk: Disk, source: &WholeCopy, from_primary: bool) -> Result<Shape, FitError> {
        let last = source.table.partitions.iter().max_by_key(|p| p.last_lba);
        let state = match last {
            Some(p) if p.label == labels::LABEL_STATE && p.kind.to_string() == labels::TYPE_STATE => p,
            other => {
                return Err(FitError::NotState { label: other.map(|p| p.label.clone()).unwrap_or_default() });
            }
        };
        let block = u64::from(disk.block_size);
        let entry_blocks = entry_blocks(disk, source);
        let primary_entries = if from_primary { source.header.entries_lba } else { PRIMARY_ENTRIES_LBA };
        let first_usable = source.header.first_usable;
        if primary_entries.saturating_add(entry_blocks) > first_usable {
            return Err(FitError::Crowded { first_usable });
        }
        let needed = (state.last_lba + 1 + backup_blocks(disk, source)).saturating_mul(block);
        let small = FitError::Small { has: disk.blocks * block, needed };
        // The parser made sure that the state partition ends on the disk; here, that the backup copy has room behind it.
        let Some(end) =
            disk.blocks.checked_sub(backup_blocks(disk, source)).filter(|end| *end > state.last_lba)
        else {
            return Err(small);
        };
        // An image's own state partition may end off the grid; it never shrinks.
        let aligned = end * block / ALIGNMENT * ALIGNMENT / block;
        Ok(Shape {
            disk,
            primary_entries,
            backup_entries: end,
            last_usable: end - 1,
            state_number: state.number,
            state_first: state.first_lba,
            state_last_before: state.last_lba,
            state_last: state.last_lba.max(aligned.saturating_sub(1)),
        })
    }

    /// The entries with the state partition's new end, filled up to whole blocks.
    fn entries(&self, source: &WholeCopy) -> Vec<u8> {
        let mut entries = source.entries.clone();
        let at = (self.state_number as usize - 1) * source.header.entry_bytes as usize;
        entries[at + 40..at + 48].copy_from_slice(&self.state_last.to_le_bytes());
        let block = self.disk.block_size as usize;
        entries.resize(entries.len().div_ceil(block) * block, 0);
        entries
    }

    /// One copy's header block (UEFI 2.10 section 5.3.2).
    fn header(&self, source: &WholeCopy, entries: &[u8], primary: bool) -> Vec<u8> {
        let (own, other) = (PRIMARY_LBA, self.disk.blocks - 1);
        let (own, other, entries_lba) = match primary {
            true => (own, other, self.primary_entries),
            false => (other, own, self.backup_entries),
        };
        let mut h = Vec::with_capacity(self.disk.block_size as usize);
        h.extend(SIGNATURE);
        h.extend(REVISION.to_le_bytes());
        h.extend(HEADER_BYTES.to_le_bytes());
        h.extend([0; 8]);
        for value in [own, other, source.header.first_usable, self.last_usable] {
            h.extend(value.to_le_bytes());
        }
        h.extend(source.header.disk.0);
        h.extend(entries_lba.to_le_bytes());
        h.extend(source.header.entries.to_le_bytes());
        h.extend(source.header.entry_bytes.to_le_bytes());
        h.extend(crc32fast::hash(&entries[..source.entries.len()]).to_le_bytes());
        let crc = crc32fast::hash(&h);
        h[16..20].copy_from_slice(&crc.to_le_bytes());
        h.resize(self.disk.block_size as usize, 0);
        h
    }

    /// Block 0: one record that covers the disk, or as much of it as 32 bits can say.
    fn protective_mbr(&self) -> Vec<u8> {
        let mut block = vec![0; self.disk.block_size as usize];
        let covered = u32::try_from(self.disk.blocks - 1).unwrap_or(u32::MAX);
        let record = &mut block[MBR_RECORDS..MBR_RECORDS + MBR_RECORD_BYTES];
        // Not bootable, begins at cylinder 0 head 0 sector 2, ends where cylinders end.
        record[..8].copy_from_slice(&[0, 0, 2, 0, MBR_PROTECTIVE, 0xff, 0xff, 0xff]);
        record[8..12].copy_from_slice(&1_u32.to_le_bytes());
        record[12..16].copy_from_slice(&covered.to_le_bytes());
        block[MBR_BYTES - 2..MBR_BYTES].copy_from_slice(&MBR_SIGNATURE);
        block
    }
}

/// Whether block 0 says the same as `wanted` in what matters: signature, and a first record of type, begin and size
/// as wanted. Boot code and the ending cylinder are whoever wrote the table's own business.
fn mbr_covers(found: Option<&[u8]>, wanted: &[u8]) -> bool {
    let told = |block: &[u8]| {
        let record = block.get(MBR_RECORDS..MBR_RECORDS + MBR_RECORD_BYTES)?;
        Some((record[0], record[4], record[8..16].to_vec(), block.get(MBR_BYTES - 2..MBR_BYTES)?.to_vec()))
    };
    found.and_then(told).is_some_and(|f| Some(f) == told(wanted))
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
