//! Block devices: what rustix has no call for.

use rustix::io::Errno;
use std::os::fd::AsFd;

/// `BLKRRPART` of linux/fs.h: read the partition table again.
const BLKRRPART: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);

/// Asks the kernel to read a disk's partition table again. `EBUSY` while one of its partitions is in use, `EINVAL` for a
/// device that has no partitions.
pub fn reread_partitions(disk: impl AsFd) -> Result<(), Errno> {
    // SAFETY: BLKRRPART takes no argument and touches no memory of ours; on anything but a block device it is refused.
    unsafe { rustix::ioctl::ioctl(disk, rustix::ioctl::NoArg::<BLKRRPART>::new()) }
}
