//! An ext4 file system that is mounted: growing it, giving it a UUID of its own (`fs/ext4/ext4.h`).

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsFd;

const RESIZE: Opcode = opcode::write::<u64>(b'f', 16);
/// The structure ends in bytes that its size does not count.
const SET_UUID: Opcode = opcode::write::<[u32; 2]>(b'f', 44);

/// `struct fsuuid` with a UUID behind it.
#[repr(C)]
struct FsUuid {
    length: u32,
    flags: u32,
    uuid: [u8; 16],
}

/// Grows the file system that `within` is on to so many of its own blocks. It takes a while and may be repeated.
pub fn ext4_resize(within: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64 behind the pointer and does not keep it; on another file system the
    // number means nothing and is refused.
    unsafe { ioctl(within, Setter::<RESIZE, u64>::new(blocks)) }?;
    Ok(())
}

/// Gives the file system that `within` is on another UUID.
pub fn ext4_set_uuid(within: impl AsFd, uuid: [u8; 16]) -> io::Result<()> {
    let request = FsUuid { length: 16, flags: 0, uuid };
    // SAFETY: EXT4_IOC_SETFSUUID reads the header and then as many bytes as it says, 16, which are there; it keeps no
    // pointer.
    unsafe { ioctl(within, Setter::<SET_UUID, FsUuid>::new(request)) }?;
    Ok(())
}

/// Size of a block device or file, found at its end.
pub fn device_bytes(mut device: &std::fs::File) -> io::Result<u64> {
    let position = device.stream_position()?;
    let end = device.seek(SeekFrom::End(0))?;
    device.seek(SeekFrom::Start(position))?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn another_file_system_refuses() {
        let proc = File::open("/proc").expect("proc");
        assert!(ext4_resize(&proc, 1).is_err());
        assert!(ext4_set_uuid(&proc, [1; 16]).is_err());
    }

    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!((RESIZE, SET_UUID), (0x4008_6610, 0x4008_662c));
    }

    #[test]
    fn a_size_is_read_without_moving() {
        let path = std::env::temp_dir().join(format!("pillar-os-size-{}", std::process::id()));
        let mut file = File::create_new(&path).expect("a file");
        file.set_len(12345).expect("a size");
        file.seek(SeekFrom::Start(7)).expect("a place");
        assert_eq!(device_bytes(&file).expect("a size"), 12345);
        assert_eq!(file.stream_position().expect("a place"), 7);
        std::fs::remove_file(path).expect("ours");
    }
}
