//! The sealed root: dm-verity over the pair, mounted read-only. A block that does not lead to the root hash is a panic
//! of the kernel, and `panic=-1` on the command line makes that a reboot.

use crate::disk::{Found, Part};
use crate::mounts;
use pillar_model::RootHash;
use pillar_os::{DmError, Mapper};
use pillar_slot::{EROFS_HEAD_BYTES, Superblock, SuperblockError, TableError, erofs_bytes};
use rustix::mount::{MountFlags, mount};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

const NAME: &str = "root";
const FILE_SYSTEM: &str = "erofs";

/// Why the root could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// Reading the superblock.
    #[error("cannot read the verity superblock from {0}")]
    Read(PathBuf, #[source] io::Error),
    /// Its shape.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The partitions' sizes.
    #[error(transparent)]
    Room(#[from] TableError),
    /// Device-mapper.
    #[error(transparent)]
    Map(#[from] DmError),
    /// The mapped device could not be read.
    #[error("cannot read the verified root")]
    Verified(#[source] io::Error),
    /// What is mapped is not what was built: the verity superblock, which the root hash does not cover, lies.
    #[error("the verified root is {mapped} bytes of {have}: the verity superblock does not fit the image")]
    Size {
        /// Bytes mapped.
        mapped: u64,
        /// What the file system says, or that there is none.
        have: String,
    },
    /// The mount.
    #[error("cannot mount the verified root as {FILE_SYSTEM} at {at}")]
    Mount {
        /// Where.
        at: String,
        /// Why.
        source: io::Error,
    },
}

/// Mounts the root that the hash names.
pub fn mount_root(found: &Found, hash: &RootHash, at: &str) -> Result<(), VerityError> {
    let superblock = read_superblock(&found.hash)?;
    superblock.check_room(found.data.bytes, found.hash.bytes)?;
    let table =
        superblock.table(&found.data.node.to_string_lossy(), &found.hash.node.to_string_lossy(), hash);
    let device = Mapper::open()?.create_read_only(NAME, superblock.sectors(), "verity", &table)?;
    let node = format!("/dev/dm-{}", device.minor);
    check_size(&node, superblock.sectors() * 512)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mounts::make_directory(at)
        .and_then(|()| mount(node.as_str(), at, FILE_SYSTEM, flags, c""))
        .map_err(|errno| VerityError::Mount { at: at.to_owned(), source: errno.into() })
}

/// The file system, whose beginning is verified now, must be mapped whole.
fn check_size(node: &str, mapped: u64) -> Result<(), VerityError> {
    let mut head = [0; EROFS_HEAD_BYTES];
    File::open(node).and_then(|file| file.read_exact_at(&mut head, 0)).map_err(VerityError::Verified)?;
    match erofs_bytes(&head) {
        Some(bytes) if bytes <= mapped => Ok(()),
        other => {
            let have = other.map_or("no erofs".to_owned(), |bytes| bytes.to_string());
            Err(VerityError::Size { mapped, have })
        }
    }
}

fn read_superblock(part: &Part) -> Result<Superblock, VerityError> {
    let mut bytes = [0; Superblock::BYTES];
    File::open(&part.node)
        .and_then(|file| file.read_exact_at(&mut bytes, 0))
        .map_err(|error| VerityError::Read(part.node.clone(), error))?;
    Ok(Superblock::parse(&bytes)?)
}
