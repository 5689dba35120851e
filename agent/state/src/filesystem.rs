//! The file system in the volume: begun from the image's template, grown to the volume's size. No program that makes file
//! systems is in the sealed root.

use anyhow::Context as _;
use pillar_layout::root;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Blocks of the template's file system.
const BLOCK_BYTES: u64 = 4096;
/// Written at once; a multiple of the block, so that nothing is read before it is written.
const CHUNK_BYTES: usize = 1 << 20;
/// Where it is mounted while it grows.
const PLACE: &str = "/run/pillar/state-grow";
/// ext4's superblock (Documentation/filesystems/ext4/globals): where it is, where its block count is.
const SUPERBLOCK: u64 = 1024;
const BLOCKS_LOW: usize = 0x4;
const BLOCKS_HIGH: usize = 0x150;

/// Writes the template, all of it: a volume with integrity must be written before it can be read.
pub fn make(device: &Path) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut template = File::open(root::STATE_TEMPLATE)?;
        let mut to = OpenOptions::new().write(true).open(device)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let bytes = template.read(&mut chunk)?;
            if bytes == 0 {
                return to.sync_all();
            }
            to.write_all(&chunk[..bytes])?;
        }
    };
    write().with_context(|| format!("cannot write the file system to {}", device.display()))
}

/// Grows the file system to the device's size, when it is smaller. Repeating it does nothing.
pub fn grow(device: &Path) -> anyhow::Result<()> {
    let file = File::open(device).with_context(|| format!("cannot open {}", device.display()))?;
    let wanted = pillar_os::device_bytes(&file)? / BLOCK_BYTES;
    if blocks(&file).context("cannot read the file system's superblock")? >= wanted {
        return Ok(());
    }
    drop(file);
    // The kernel reads the last block before it grows; on a volume with integrity it must have been written.
    OpenOptions::new()
        .write(true)
        .open(device)
        .and_then(|file| {
            file.write_all_at(&[0; BLOCK_BYTES as usize], (wanted - 1) * BLOCK_BYTES)?;
            file.sync_all()
        })
        .context("cannot write the last block of the state volume")?;
    fs::create_dir_all(PLACE).with_context(|| format!("cannot create {PLACE}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(device, PLACE, "ext4", flags, None).context("cannot mount the state volume to grow it")?;
    let grown = File::open(PLACE).and_then(|directory| pillar_os::ext4_resize(&directory, wanted));
    unmount(PLACE, UnmountFlags::empty()).context("cannot unmount the state volume")?;
    grown.with_context(|| format!("cannot grow the state volume's file system to {wanted} blocks"))
}

fn blocks(device: &File) -> io::Result<u64> {
    let mut superblock = [0; 1024];
    device.read_exact_at(&mut superblock, SUPERBLOCK)?;
    let number =
        |at: usize| superblock.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    Ok(u64::from(number(BLOCKS_HIGH)) << 32 | u64::from(number(BLOCKS_LOW)))
}
