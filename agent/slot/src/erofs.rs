//! How large an erofs is, from its superblock (kernel: fs/erofs/erofs_fs.h). The verity superblock, which says how much
//! data there is, is not covered by the root hash; this one is, once it is read through dm-verity.

/// Where the superblock lies, and how much of it is needed.
const OFFSET: usize = 1024;
const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();
/// Blocks of 512 bytes to 64 KiB.
const BLOCK_BITS: std::ops::RangeInclusive<u8> = 9..=16;

/// Bytes to read from the start of the device.
pub const EROFS_HEAD_BYTES: usize = 4096;

/// Bytes of the file system whose beginning this is; `None` when it is no erofs.
#[must_use]
pub fn erofs_bytes(head: &[u8]) -> Option<u64> {
    let superblock = head.get(OFFSET..)?;
    if superblock.get(..4)? != MAGIC {
        return None;
    }
    let bits = superblock.get(12).filter(|bits| BLOCK_BITS.contains(*bits))?;
    let blocks: [u8; 4] = superblock.get(36..40)?.try_into().ok()?;
    Some(u64::from(u32::from_le_bytes(blocks)) << bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size() {
        let mut head = [0; EROFS_HEAD_BYTES];
        head[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        head[1036] = 12;
        head[1060] = 10;
        assert_eq!(erofs_bytes(&head), Some(40960));
        assert_eq!(erofs_bytes(&head[..1061]), None);
        head[1036] = 40;
        assert_eq!(erofs_bytes(&head), None);
        assert_eq!(erofs_bytes(&[0; EROFS_HEAD_BYTES]), None);
        assert_eq!(erofs_bytes(&[]), None);
    }
}
