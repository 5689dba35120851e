//! What is to be written where: pure. The disk is divided into chunks; the first one and what lies behind the image's
//! last partition belong to the partition table, which [`pillar_slot::lay`] makes.

use serde::{Deserialize, Serialize};

/// How finely holes are told from data, in bytes; partitions are aligned to it too.
pub const CHUNK: u64 = 1 << 20;

/// Most bytes of one request: what keeps a disk busy.
pub const REQUEST: u64 = 4 * CHUNK;

/// The table's copies lie within this many bytes from the disk's begin and from its end. They are wiped first.
pub const TABLE_ROOM: u64 = CHUNK;

/// Bytes of the disk, from the image at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Offset in bytes, in the image as on the disk.
    pub offset: u64,
    /// Length in bytes, at most [`REQUEST`].
    pub len: usize,
    /// The image has a hole there: all of it reads as zero.
    pub hole: bool,
}

/// Bytes of the disk that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Offset in bytes.
    #[serde(rename = "offset_bytes")]
    pub offset: u64,
    /// Length in bytes.
    #[serde(rename = "size_bytes")]
    pub len: u64,
}

/// Divides the image's bytes from `begin` to `end` into requests. `data` are the ranges that its file system keeps,
/// ascending.
#[must_use]
pub fn chunks(begin: u64, end: u64, data: &[Range]) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut left = data.iter().peekable();
    let mut offset = begin;
    while offset < end {
        let len = CHUNK.min(end - offset);
        while left.next_if(|range| range.offset + range.len <= offset).is_some() {}
        let hole = left.peek().is_none_or(|range| range.offset >= offset + len);
        match chunks.last_mut() {
            Some(last) if last.hole == hole && (last.len as u64) + len <= REQUEST => last.len += len as usize,
            _ => chunks.push(Chunk { offset, len: len as usize, hole }),
        }
        offset += len;
    }
    chunks
}

/// Neighbouring holes as one range.
#[must_use]
pub fn holes(chunks: &[Chunk]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for chunk in chunks.iter().filter(|chunk| chunk.hole) {
        match ranges.last_mut() {
            Some(last) if last.offset + last.len == chunk.offset => last.len += chunk.len as u64,
            _ => ranges.push(Range { offset: chunk.offset, len: chunk.len as u64 }),
        }
    }
    ranges
}

/// Where tables of the past may be, on a disk of `bytes` bytes.
#[must_use]
pub fn tables(bytes: u64) -> [Range; 2] {
    let len = TABLE_ROOM.min(bytes);
    [Range { offset: 0, len }, Range { offset: bytes - len, len }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, len: u64) -> Range {
        Range { offset, len }
    }

    #[test]
    fn a_chunk_with_any_data_is_no_hole() {
        let data = [range(0, 10), range(3 * CHUNK - 1, 2), range(5 * CHUNK, CHUNK)];
        let found: Vec<(u64, bool)> =
            chunks(0, 7 * CHUNK, &data).iter().map(|c| (c.offset, c.hole)).collect();
        let at = |offset: u64, hole| (offset * CHUNK, hole);
        let wanted = [at(0, false), at(1, true), at(2, false), at(4, true), at(5, false), at(6, true)];
        assert_eq!(found, wanted);
    }

    #[test]
    fn chunks_cover_exactly_what_was_asked_for() {
        for (begin, end) in
            [(CHUNK, 4 * CHUNK), (CHUNK, 2 * CHUNK + 4096), (0, 512), (0, 11 * CHUNK), (CHUNK, CHUNK)]
        {
            let all = chunks(begin, end, &[range(0, 1 << 40)]);
            let mut at = begin;
            for chunk in &all {
                assert_eq!(chunk.offset, at);
                assert!(chunk.len > 0 && chunk.len as u64 <= REQUEST && !chunk.hole);
                at += chunk.len as u64;
            }
            assert_eq!(at, end);
        }
    }

    #[test]
    fn neighbouring_holes_are_one() {
        let all = chunks(CHUNK, 9 * CHUNK, &[range(4 * CHUNK, CHUNK)]);
        assert_eq!(holes(&all), [range(CHUNK, 3 * CHUNK), range(5 * CHUNK, 4 * CHUNK)]);
        assert_eq!(holes(&chunks(0, CHUNK, &[range(0, 1)])), []);
    }

    #[test]
    fn both_ends_hold_tables() {
        assert_eq!(tables(10 * CHUNK + 512), [range(0, CHUNK), range(9 * CHUNK + 512, CHUNK)]);
        assert_eq!(tables(4096), [range(0, 4096), range(0, 4096)]);
    }
}
