//! Finds the disk that holds the image: the one whose partition table has the two halves of the root hash.

use crate::grow::GrowError;
use crate::modules::Modules;
use crate::{clock, files};
use pillar_layout::gpt::TYPE_ESP;
use pillar_model::{RootHash, Slot};
use pillar_os::UeventSocket;
use pillar_slot::{Fit, Gpt, GptError, Guid, PairError, Partition, find_by_type, root_pair};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BLOCK_DEVICES: &str = "/sys/class/block";
/// How long the disk may take to appear.
pub const DEADLINE: Duration = Duration::from_secs(60);
const SMALL_FILE_BYTES: usize = 256;
/// Sysfs tells sizes in these, whatever the disk's own blocks are.
const SECTOR_BYTES: u64 = 512;
/// Devices that are no disks, by the beginning of their name.
const NO_DISKS: [&str; 5] = ["loop", "ram", "dm-", "zram", "sr"];

/// A partition's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Node under `/dev`.
    pub node: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// The disk with the image.
#[derive(Debug)]
pub struct Found {
    /// The disk's name, for example "vda".
    pub disk: String,
    /// Which slot the root hash names.
    pub slot: Slot,
    /// Data.
    pub data: Part,
    /// Hash tree.
    pub hash: Part,
    /// Number of the EFI system partition on the same disk.
    pub esp: Option<u32>,
    /// Something to tell about the partition table.
    pub warning: Option<String>,
}

/// Why a disk is not the one, or none is.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Time is over.
    #[error("no disk with the partitions of the root hash within {} s: {seen}", DEADLINE.as_secs())]
    Deadline {
        /// Every disk with what was wrong.
        seen: String,
    },
    /// Waiting failed.
    #[error("cannot wait for devices")]
    Wait(#[source] io::Error),
    /// A disk could not be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// Its table.
    #[error(transparent)]
    Table(#[from] GptError),
    /// The pair.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// No partition of that type, or more than one.
    #[error("no partition of type {0}")]
    NoPartition(String),
    /// The kernel does not show the partition (yet).
    #[error("the kernel shows no partition {0}")]
    Hidden(u32),
    /// The same, of a table with damage.
    #[error("the kernel shows no partition {0}; {1}")]
    Damaged(u32, String),
}

/// Waits for the disk, loading modules for devices that appear.
pub fn wait(hash: &RootHash, events: &UeventSocket, modules: &mut Modules) -> Result<Found, DiskError> {
    let deadline = clock::now() + DEADLINE;
    loop {
        let seen = match search(hash) {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        let left = deadline.saturating_sub(clock::now());
        if left.is_zero() {
            return Err(DiskError::Deadline { seen });
        }
        let mut wait = [PollFd::new(events, PollFlags::IN)];
        match poll(&mut wait, Some(&clock::timespec(left))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(DiskError::Wait(errno.into())),
        }
        take_events(events, modules);
    }
}

/// Takes all events that wait, loading modules.
pub fn take_events(events: &UeventSocket, modules: &mut Modules) {
    loop {
        match events.next() {
            Ok(Some(event)) => {
                if let Some(modalias) = event.modalias.filter(|_| event.action == "add") {
                    modules.load_for_device(&modalias);
                }
            }
            Ok(None) => return,
            // Events were lost: look at everything.
            Err(_) => return modules.load_for_all_devices(),
        }
    }
}

/// Looks at every disk; the error is what was seen.
fn search(hash: &RootHash) -> Result<Found, String> {
    let mut seen = Vec::new();
    for disk in disks() {
        match examine(&disk, hash) {
            Ok(found) => return Ok(found),
            Err(why) => seen.push(format!("{disk}: {}", crate::log::chain(&why))),
        }
    }
    Err(if seen.is_empty() { "there is no disk".to_owned() } else { seen.join("; ") })
}

fn disks() -> Vec<String> {
    let mut disks: Vec<String> = fs::read_dir(BLOCK_DEVICES)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !entry.path().join("partition").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NO_DISKS.iter().any(|other| name.starts_with(other)))
        .collect();
    disks.sort();
    disks
}

fn examine(disk: &str, hash: &RootHash) -> Result<Found, DiskError> {
    let gpt = read_table(disk)?;
    let pair = root_pair(&gpt, hash)?;
    Ok(Found {
        disk: disk.to_owned(),
        slot: pair.slot,
        data: shown(disk, &gpt, &pair.data)?,
        hash: shown(disk, &gpt, &pair.hash)?,
        esp: find_by_type(&gpt, TYPE_ESP).map(|esp| esp.number),
        warning: gpt.warning().map(|what| format!("{disk}: partition table: {what}")),
    })
}

/// The kernel's device for a partition that our own reading of the table found.
fn shown(disk: &str, gpt: &Gpt, wanted: &Partition) -> Result<Part, DiskError> {
    match (partition(disk, wanted.number, Some(wanted.guid)), gpt.warning()) {
        (Err(DiskError::Hidden(number)), Some(warning)) => Err(DiskError::Damaged(number, warning)),
        (part, _) => part,
    }
}

fn read_table(disk: &str) -> Result<Gpt, DiskError> {
    let disk = Disk::open(disk)?;
    Ok(Gpt::read(disk.block_bytes, disk.blocks, |offset, bytes| disk.read(offset, bytes))?)
}

/// How the disk's partition table is to be changed, because the disk is larger than the table says; none when it is not.
pub fn fit(disk: &str) -> Result<Option<Fit>, GrowError> {
    let disk = Disk::open(disk)?;
    let fit = pillar_slot::fit(disk.block_bytes, disk.blocks, |offset, bytes| disk.read(offset, bytes))?;
    // A copy that is damaged is not ours to mend here: what boots is told by the other.
    Ok(fit.filter(|fit| fit.state_bytes != fit.state_bytes_before))
}

/// The kernel's device for the one partition of a type on a disk.
pub fn by_type(disk: &str, kind: &str) -> Result<Part, DiskError> {
    let gpt = read_table(disk)?;
    let found = find_by_type(&gpt, kind).ok_or_else(|| DiskError::NoPartition(kind.to_owned()))?;
    shown(disk, &gpt, found)
}

/// A disk that is open for reading.
struct Disk {
    file: File,
    block_bytes: u32,
    blocks: u64,
}

impl Disk {
    fn open(name: &str) -> Result<Self, DiskError> {
        let node = Path::new("/dev").join(name);
        let wrong = |error| DiskError::Read(node.clone(), error);
        let sys = Path::new(BLOCK_DEVICES).join(name);
        let block_bytes: u32 = number(&sys.join("queue/logical_block_size")).map_err(wrong)?;
        let sectors: u64 = number(&sys.join("size")).map_err(wrong)?;
        let file = File::open(&node).map_err(wrong)?;
        let blocks = sectors.saturating_mul(SECTOR_BYTES) / u64::from(block_bytes.max(1));
        Ok(Self { file, block_bytes, blocks })
    }

    fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        self.file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    }
}

/// The kernel's device for a partition of a disk. When a GUID is given it is our reading of the table that is
/// checked against the kernel's, as far as the kernel tells.
pub fn partition(disk: &str, wanted: u32, guid: Option<Guid>) -> Result<Part, DiskError> {
    let sys = Path::new(BLOCK_DEVICES).join(disk);
    for entry in fs::read_dir(&sys).map_err(|error| DiskError::Read(sys.clone(), error))?.flatten() {
        let path = entry.path();
        if number::<u32>(&path.join("partition")).ok() != Some(wanted) {
            continue;
        }
        let told = files::read_text(&path.join("uevent"), 4 * SMALL_FILE_BYTES).unwrap_or_default();
        let told = told.lines().find_map(|line| line.strip_prefix("PARTUUID="));
        if let (Some(guid), Some(told)) = (guid, told)
            && !told.eq_ignore_ascii_case(&guid.to_string())
        {
            return Err(DiskError::Hidden(wanted));
        }
        let sectors: u64 =
            number(&path.join("size")).map_err(|error| DiskError::Read(path.clone(), error))?;
        return Ok(Part {
            node: Path::new("/dev").join(entry.file_name()),
            bytes: sectors.saturating_mul(SECTOR_BYTES),
        });
    }
    Err(DiskError::Hidden(wanted))
}

fn number<T: std::str::FromStr>(path: &Path) -> io::Result<T> {
    let text = files::read_text(path, SMALL_FILE_BYTES)?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}
