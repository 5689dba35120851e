//! The dm-verity superblock (cryptsetup's on-disk format, version 1) and the device-mapper table line made from it.
//! The superblock is not covered by the root hash, so it is taken only in the one shape that our images have; a lie
//! within that shape leads to a tree that does not lead to the root hash.

use pillar_model::RootHash;
use std::fmt::Write as _;

/// What a superblock may say.
pub mod limits {
    /// Bytes of a data block and of a hash block: a page.
    pub const BLOCK_BYTES: u32 = 4096;
    /// Bytes of salt.
    pub const SALT_BYTES: usize = 64;
    /// Data blocks: 16 GiB, many times the size of a sealed root.
    pub const DATA_BLOCKS: u64 = 1 << 22;
}

/// Bytes of the superblock; the hash tree begins at the next hash block.
const BYTES: usize = 512;
const SECTORS_PER_BLOCK: u64 = limits::BLOCK_BYTES as u64 / 512;
/// Digests that one hash block holds.
const FANOUT: u64 = limits::BLOCK_BYTES as u64 / 32;

/// A superblock of the one shape that is accepted: version 1, normal hash type, SHA-256, blocks of 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Blocks of data.
    pub data_blocks: u64,
    /// Salt.
    pub salt: Vec<u8>,
}

/// Why a superblock was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Fewer than 512 bytes.
    #[error("verity superblock is cut off")]
    Short,
    /// No `verity` signature.
    #[error("no verity superblock at the start of the hash partition")]
    Signature,
    /// A version other than 1.
    #[error("verity superblock version {0} is not 1")]
    Version(u32),
    /// A hash type other than 1.
    #[error("verity hash type {0} is not 1 (normal)")]
    HashType(u32),
    /// Another hash.
    #[error("verity hash algorithm {0:?} is not sha256")]
    Algorithm(String),
    /// Other block sizes.
    #[error("verity block sizes {data}/{hash} are not 4096/4096")]
    BlockSize {
        /// Bytes of a data block.
        data: u32,
        /// Bytes of a hash block.
        hash: u32,
    },
    /// Salt too long.
    #[error("verity salt of {0} bytes is longer than {max}", max = limits::SALT_BYTES)]
    Salt(u16),
    /// No data, or too much.
    #[error("{0} verity data blocks are not between 1 and {max}", max = limits::DATA_BLOCKS)]
    DataBlocks(u64),
    /// Bytes that should be zero are not.
    #[error("verity superblock has bytes set where there should be none")]
    Padding,
}

/// Why the partitions do not hold what the superblock says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Data partition.
    #[error("data partition has {have} bytes, the verity superblock needs {need}")]
    Data {
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Hash partition.
    #[error("hash partition has {have} bytes, the verity tree needs {need}")]
    Hash {
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
}

impl Superblock {
    /// Bytes to read from the start of the hash partition.
    pub const BYTES: usize = BYTES;

    /// Takes the superblock at the start of the hash partition.
    pub fn parse(bytes: &[u8]) -> Result<Superblock, SuperblockError> {
        use SuperblockError as E;
        let b: &[u8; BYTES] = bytes.first_chunk().ok_or(E::Short)?;
        if &b[..8] != b"verity\0\0" {
            return Err(E::Signature);
        }
        match (u32_at(b, 8), u32_at(b, 12)) {
            (1, 1) => {}
            (1, other) => return Err(E::HashType(other)),
            (other, _) => return Err(E::Version(other)),
        }
        // 16..32 is the UUID of the tree, which nothing uses.
        let name = &b[32..64];
        if !name.starts_with(b"sha256\0") {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            return Err(E::Algorithm(String::from_utf8_lossy(&name[..end]).into_owned()));
        }
        let (data, hash) = (u32_at(b, 64), u32_at(b, 68));
        if (data, hash) != (limits::BLOCK_BYTES, limits::BLOCK_BYTES) {
            return Err(E::BlockSize { data, hash });
        }
        let data_blocks = u64::from(u32_at(b, 72)) | u64::from(u32_at(b, 76)) << 32;
        if !(1..=limits::DATA_BLOCKS).contains(&data_blocks) {
            return Err(E::DataBlocks(data_blocks));
        }
        let salt_bytes = u16::from_le_bytes([b[80], b[81]]);
        let salt =
            b[88..88 + limits::SALT_BYTES].get(..usize::from(salt_bytes)).ok_or(E::Salt(salt_bytes))?;
        if name[7..].iter().chain(&b[82..88]).chain(&b[88 + salt.len()..]).any(|byte| *byte != 0) {
            return Err(E::Padding);
        }
        Ok(Superblock { data_blocks, salt: salt.to_vec() })
    }

    /// Sectors (512 bytes) of the device that the table makes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.data_blocks * SECTORS_PER_BLOCK
    }

    /// The parameters of the device-mapper `verity` target (kernel: admin-guide/device-mapper/verity), with
    /// corruption as panic. `data` and `hash` are the devices, as paths or `MAJOR:MINOR`.
    #[must_use]
    pub fn table(&self, data: &str, hash: &str, root: &RootHash) -> String {
        let block = limits::BLOCK_BYTES;
        let mut salt = String::new();
        for byte in &self.salt {
            // Writing to a String cannot fail.
            let _ = write!(salt, "{byte:02x}");
        }
        if salt.is_empty() {
            salt.push('-');
        }
        let blocks = self.data_blocks;
        format!("1 {data} {hash} {block} {block} {blocks} 1 sha256 {root} {salt} 1 panic_on_corruption")
    }

    /// Refuses partitions that are too small before the kernel does so less clearly.
    pub fn check_room(&self, data_bytes: u64, hash_bytes: u64) -> Result<(), TableError> {
        let block = u64::from(limits::BLOCK_BYTES);
        let need = self.data_blocks * block;
        if data_bytes < need {
            return Err(TableError::Data { have: data_bytes, need });
        }
        let need = (1 + self.tree_blocks()) * block;
        if hash_bytes < need {
            return Err(TableError::Hash { have: hash_bytes, need });
        }
        Ok(())
    }

    fn tree_blocks(&self) -> u64 {
        let (mut level, mut total) = (self.data_blocks, 0);
        while level > 1 {
            level = level.div_ceil(FANOUT);
            total += level;
        }
        total
    }
}

fn u32_at(bytes: &[u8; BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> [u8; BYTES] {
        let mut b = [0; BYTES];
        b[..8].copy_from_slice(b"verity\0\0");
        b[8] = 1;
        b[12] = 1;
        b[16..32].fill(9);
        b[32..38].copy_from_slice(b"sha256");
        b[64..68].copy_from_slice(&4096_u32.to_le_bytes());
        b[68..72].copy_from_slice(&4096_u32.to_le_bytes());
        b[72..80].copy_from_slice(&1000_u64.to_le_bytes());
        b[80] = 4;
        b[88..92].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        b
    }

    #[test]
    fn table_line() {
        let superblock = Superblock::parse(&sample()).expect("the one shape");
        assert_eq!(superblock.sectors(), 8000);
        let root = "ab".repeat(32);
        assert_eq!(
            superblock.table("254:2", "254:3", &root.parse().expect("64 digits")),
            format!("1 254:2 254:3 4096 4096 1000 1 sha256 {root} deadbeef 1 panic_on_corruption")
        );
        let bare = Superblock { salt: Vec::new(), ..superblock };
        assert!(bare.table("a", "b", &root.parse().expect("64 digits")).contains(" - 1 panic_on_corruption"));
    }

    #[test]
    fn every_other_shape_is_refused() {
        use SuperblockError as E;
        type Change = fn(&mut [u8; BYTES]);
        let table: [(Change, E); 15] = [
            (|b| b[0] = 0, E::Signature),
            (|b| b[8] = 2, E::Version(2)),
            (|b| b[12] = 0, E::HashType(0)),
            (|b| b[36] = b'1', E::Algorithm("sha216".to_owned())),
            (|b| b[38] = b'x', E::Algorithm("sha256x".to_owned())),
            (|b| b[63] = 1, E::Padding),
            (|b| b[65] = 4, E::BlockSize { data: 1024, hash: 4096 }),
            (|b| b[69] = 4, E::BlockSize { data: 4096, hash: 1024 }),
            (|b| b[72..80].fill(0), E::DataBlocks(0)),
            (|b| b[72..80].fill(0xff), E::DataBlocks(u64::MAX)),
            (|b| b[80] = 65, E::Salt(65)),
            (|b| b[81] = 1, E::Salt(260)),
            (|b| b[80] = 3, E::Padding),
            (|b| b[87] = 1, E::Padding),
            (|b| b[511] = 1, E::Padding),
        ];
        for (change, why) in table {
            let mut bytes = sample();
            change(&mut bytes);
            assert_eq!(Superblock::parse(&bytes), Err(why));
        }
        assert_eq!(Superblock::parse(&sample()[..511]), Err(E::Short));
    }

    #[test]
    fn room() {
        let superblock = Superblock::parse(&sample()).expect("the one shape");
        // 1000 blocks: 8 hash blocks and one above them, behind the superblock's own.
        assert_eq!(superblock.check_room(4096 * 1000, 4096 * 10), Ok(()));
        assert!(matches!(superblock.check_room(4096 * 999, 4096 * 10), Err(TableError::Data { .. })));
        assert!(matches!(superblock.check_room(4096 * 1000, 4096 * 9), Err(TableError::Hash { .. })));
    }
}
