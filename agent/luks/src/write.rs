//! In which order a header that was made in memory goes to the disk.

use crate::{COPY_BYTES, HEADER_BYTES, Refusal, SECTOR_BYTES, Shape, binary, check};
use std::ops::Range;

/// Bytes and where they go. What was written must be on the disk (sync) before the next one is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Offset on the partition.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Write {
    fn of(head: &[u8], range: Range<usize>) -> Write {
        Write { offset: range.start as u64, bytes: head[range].to_vec() }
    }
}

/// The writes that turn [`crate::State::Interrupted`] into a finished volume: `head` is the file that libcryptsetup made
/// the header in (up to where the data begins).
///
/// # Panics
/// When `head` is shorter than a sector.
#[must_use]
pub fn commit(head: &[u8]) -> [Write; 2] {
    assert!(head.len() >= SECTOR_BYTES, "a header file has at least its first sector");
    [Write::of(head, SECTOR_BYTES..head.len()), Write::of(head, 0..SECTOR_BYTES)]
}

/// The writes that turn one finished header into a later one of the same volume; `old` and `new` are whole heads, up to
/// where the data begins. First what the old header does not refer to, then its second copy, its first, then what only
/// the old one referred to. After each write the partition has a header that passes [`crate::check`], the old or the
/// new one, together with its key slots. (A cut before the last write leaves the old key slot's area as it was,
/// referred to by nothing: who must not be able to open it any more needs that write.)
pub fn update(old: &[u8], new: &[u8], shape: &Shape, device_bytes: u64) -> Result<Vec<Write>, UpdateError> {
    if old.len() != new.len() || old.len() as u64 != shape.data_offset {
        return Err(UpdateError::Length { old: old.len(), new: new.len(), expected: shape.data_offset });
    }
    let was = check(old, shape, device_bytes).map_err(UpdateError::Old)?;
    let becomes = check(new, shape, device_bytes).map_err(UpdateError::New)?;
    if was.uuid != becomes.uuid {
        return Err(UpdateError::OtherVolume { old: was.uuid, new: becomes.uuid });
    }
    // One more, whatever happened in memory: two copies that differ by more are not what a power cut leaves.
    let new = &at_sequence(new, was.sequence + 1);
    let changed: Vec<Range<usize>> = (HEADER_BYTES..new.len())
        .step_by(BLOCK_BYTES)
        .map(|start| start..(start + BLOCK_BYTES).min(new.len()))
        .filter(|block| old[block.clone()] != new[block.clone()])
        .collect();
    let (late, early): (Vec<_>, Vec<_>) = changed.into_iter().partition(|block| within(&was.areas, block));
    if let Some(block) = late.iter().find(|block| within(&becomes.areas, block)) {
        return Err(UpdateError::InPlace { offset: block.start });
    }
    let copies = [COPY_BYTES..HEADER_BYTES, 0..COPY_BYTES];
    Ok(joined(early)
        .into_iter()
        .chain(copies)
        .chain(joined(late))
        .map(|range| Write::of(new, range))
        .collect())
}

/// Why a later header cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Not two heads of the same volume.
    #[error("heads of {old} and {new} bytes, expected both up to the data at {expected}")]
    Length {
        /// Of the old one.
        old: usize,
        /// Of the new one.
        new: usize,
        /// Where the data begins.
        expected: u64,
    },
    /// The old one is not of our shape.
    #[error("the header that is there is not as it should be")]
    Old(#[source] Refusal),
    /// The new one is not of our shape.
    #[error("the header that was made is not as it should be")]
    New(#[source] Refusal),
    /// Another volume.
    #[error("the new header is of volume {new}, the old one of {old}")]
    OtherVolume {
        /// UUID of what is there.
        old: String,
        /// UUID of what should be written.
        new: String,
    },
    /// Both need the same place for different things: a power cut in between would lose a key slot.
    #[error("the new header keeps another key where the old one keeps its own (byte {offset})")]
    InPlace {
        /// Where.
        offset: usize,
    },
}

/// `head` with another sequence number in both copies.
fn at_sequence(head: &[u8], sequence: u64) -> Vec<u8> {
    let mut head = head.to_vec();
    for copy in head[..HEADER_BYTES].chunks_exact_mut(COPY_BYTES) {
        copy[16..24].copy_from_slice(&sequence.to_be_bytes());
        binary::seal(copy);
    }
    head
}

fn within(areas: &[Range<u64>], block: &Range<usize>) -> bool {
    areas.iter().any(|area| (block.start as u64) < area.end && area.start < block.end as u64)
}

/// Key slot areas begin and end at multiples of it.
const BLOCK_BYTES: usize = 4096;

fn joined(blocks: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for block in blocks {
        match joined.last_mut() {
            Some(last) if last.end == block.start => last.end = block.end,
            _ => joined.push(block),
        }
    }
    joined
}
