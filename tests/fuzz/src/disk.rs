//! What is read from a disk before anything on it is proved: partition table, LUKS2 header, superblocks.
//!
//! Inputs are short forms of the real thing. Where a checksum covers bytes, it is mended, as somebody with the disk in
//! his hands would do it.

use crate::input::Input;
use pillar_luks::{COPY_BYTES, HEADER_BYTES, Header, Shape, check};
use pillar_slot::{Gpt, Superblock, erofs_bytes, fit, lay};
use ring::digest::{SHA256, digest};
use std::io;

const DEVICE_BYTES: u64 = 1 << 30;
/// The binary fields of a copy that are not padding.
const FIELDS_BYTES: usize = 512;
const BINARY_BYTES: usize = 4096;
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// Input: a byte of flags, the binary fields of both copies, their JSON with a NUL between them.
pub(crate) fn luks(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let fields = [input.take(FIELDS_BYTES), input.take(FIELDS_BYTES)];
    let mut texts = input.rest().splitn(2, |byte| *byte == 0);
    let first = texts.next().unwrap_or_default();
    let texts = [first, texts.next().filter(|text| !text.is_empty()).unwrap_or(first)];
    let mut head = vec![0; HEADER_BYTES];
    for ((copy, fields), text) in head.chunks_exact_mut(COPY_BYTES).zip(fields).zip(texts) {
        copy[..fields.len()].copy_from_slice(fields);
        let text = &text[..text.len().min(COPY_BYTES - BINARY_BYTES)];
        copy[BINARY_BYTES..BINARY_BYTES + text.len()].copy_from_slice(text);
    }
    for (number, copy) in head.chunks_exact_mut(COPY_BYTES).enumerate() {
        if flags & (1 << number) == 0 {
            seal(copy);
        }
    }
    let shapes = [Shape::state(false), Shape::state(true)];
    let headers = shapes.each_ref().map(|shape| check(&head, shape, DEVICE_BYTES));
    for (header, shape) in headers.iter().zip(&shapes) {
        if let Ok(header) = header {
            accepted(&head, header, shape);
        }
    }
    assert!(!headers.iter().all(Result::is_ok), "one header of two shapes");
    headers.iter().any(Result::is_ok)
}

/// A header that counts: of a partition that has room for it, the same after what a power cut left was mended.
fn accepted(head: &[u8], header: &Header, shape: &Shape) {
    assert!(check(&head[..HEADER_BYTES - 1], shape, DEVICE_BYTES).is_err(), "half a copy is enough");
    assert!(check(head, shape, shape.data_offset).is_err(), "no room for data");
    assert_eq!(header.tokens.len(), shape.tokens.len());
    let mut mended = head.to_vec();
    if let Some(write) = &header.repair {
        let at = usize::try_from(write.offset).expect("within the header");
        mended[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    let again = check(&mended, shape, DEVICE_BYTES).expect("a mended header is good");
    assert_eq!(again.repair, None, "mended, and not whole");
    assert_eq!(
        (&again.uuid, again.sequence, &again.tokens),
        (&header.uuid, header.sequence, &header.tokens),
        "mended, and another header"
    );
}

fn seal(copy: &mut [u8]) {
    copy[CHECKSUM].fill(0);
    let sum = digest(&SHA256, copy);
    copy[CHECKSUM.start..CHECKSUM.start + 32].copy_from_slice(sum.as_ref());
}

const GPT_HEADER_BYTES: usize = 92;

/// A small disk in memory.
struct Disk {
    block: usize,
    blocks: usize,
    bytes: Vec<u8>,
}

impl Disk {
    /// Input: flags, number of blocks, primary header, backup header, entries (of both).
    fn new(bytes: &[u8]) -> Self {
        let mut input = Input::new(bytes);
        let (flags, blocks) = (input.byte(), usize::from(input.byte()) + 6);
        let block = if flags & 1 == 0 { 512 } else { 4096 };
        let mut disk = Self { block, blocks, bytes: vec![0; block * blocks] };
        let headers = [input.take(GPT_HEADER_BYTES), input.take(GPT_HEADER_BYTES)];
        let entries = input.rest();
        for (lba, header) in [1, blocks - 1].into_iter().zip(headers) {
            let mut header = header.to_vec();
            header.resize(GPT_HEADER_BYTES, 0);
            let at = number(&header[72..80]).saturating_mul(block);
            let room = disk.bytes.len().saturating_sub(at).min(entries.len());
            if at < disk.bytes.len() {
                disk.bytes[at..at + room].copy_from_slice(&entries[..room]);
            }
            if flags & 2 == 0 {
                let len = number(&header[80..84]).saturating_mul(number(&header[84..88]));
                let covered = at.checked_add(len).and_then(|end| disk.bytes.get(at..end)).unwrap_or_default();
                let sum = crc32fast::hash(covered);
                header[88..92].copy_from_slice(&sum.to_le_bytes());
                header[16..20].fill(0);
                let sum = crc32fast::hash(&header);
                header[16..20].copy_from_slice(&sum.to_le_bytes());
            }
            disk.bytes[lba * block..lba * block + GPT_HEADER_BYTES].copy_from_slice(&header);
        }
        disk
    }

    /// As the disk answers; who asks for more than a table has at most is found out.
    fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        assert!(bytes <= 1024 * 512, "{bytes} bytes asked for at once");
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let end = at.checked_add(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        self.bytes.get(at..end).map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn table(&self) -> Option<Gpt> {
        Gpt::read(self.block as u32, self.blocks as u64, |offset, bytes| self.read(offset, bytes)).ok()
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

pub(crate) fn gpt(bytes: &[u8]) -> bool {
    let mut disk = Disk::new(bytes);
    let table = disk.table();
    if let Some(table) = &table {
        for (at, partition) in table.partitions.iter().enumerate() {
            assert!(partition.first_lba <= partition.last_lba, "a partition that ends before it begins");
            assert!(partition.last_lba < disk.blocks as u64, "a partition beyond the disk's end");
            let same = |other: &pillar_slot::Partition| {
                other.guid == partition.guid || other.number == partition.number
            };
            assert!(!table.partitions[..at].iter().any(same), "one partition twice");
        }
        let damaged = table.primary_damage.is_some() || table.backup_damage.is_some() || table.copies_differ;
        assert_eq!(table.warning().is_some(), damaged, "damage that nobody hears of");
    }
    let (block, blocks) = (disk.block as u32, disk.blocks as u64);
    let _ = lay(block, 2 * blocks, |offset, bytes| disk.read(offset, bytes));
    let Ok(Some(plan)) = fit(block, blocks, |offset, bytes| disk.read(offset, bytes)) else {
        return table.is_some();
    };
    for write in plan.writes {
        let at = usize::try_from(write.offset).expect("within the disk");
        assert!(at % disk.block == 0 && write.bytes.len() % disk.block == 0, "half a block is written");
        let place = disk.bytes.get_mut(at..at + write.bytes.len()).expect("a write beyond the disk's end");
        place.copy_from_slice(&write.bytes);
        assert!(disk.table().is_some(), "a power cut here leaves no table");
    }
    let table = disk.table().expect("a fitted disk has a table");
    assert_eq!(table.warning(), None, "a fitted table is damaged");
    let state = table.partitions.iter().find(|p| p.number == plan.state_number).expect("the state partition");
    assert_eq!(state.first_lba * u64::from(block), plan.state_offset, "the state partition moved");
    assert!(plan.state_bytes >= plan.state_bytes_before, "the state partition shrank");
    let again = fit(block, blocks, |offset, bytes| disk.read(offset, bytes)).expect("a fitted disk");
    assert_eq!(again, None, "fitted twice it is another table");
    true
}

/// Input: the verity superblock; the erofs one is the same bytes at its place.
pub(crate) fn superblock(bytes: &[u8]) -> bool {
    let superblock = Superblock::parse(bytes);
    if let Ok(superblock) = &superblock {
        assert!(bytes.len() >= Superblock::BYTES);
        assert_eq!(superblock.sectors(), superblock.data_blocks * 8, "sectors that no data block has");
        let room = superblock.data_blocks.saturating_mul(4096);
        assert!(
            superblock.check_room(room.saturating_sub(4096), u64::MAX).is_err(),
            "data beyond the partition"
        );
        assert!(superblock.check_room(room, 4096).is_err() || superblock.data_blocks < 2, "a tree beyond it");
    }
    let mut head = vec![0; 1024];
    head.extend(bytes);
    let _ = erofs_bytes(bytes);
    erofs_bytes(&head).is_some() || superblock.is_ok()
}
