//! Which disks this machine has and what they are used for, read from sysfs and procfs.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Kernel names of block devices that are no disks to write an image to.
const NO_DISKS: [&str; 6] = ["ram", "zram", "dm-", "md", "sr", "fd"];
/// The kernel counts sizes in these, whatever the device's sectors are.
const SIZE_UNIT: u64 = 512;
/// How far up the device tree a serial number is looked for: disk, target, host, interface, USB device.
const PARENTS: usize = 6;
/// How many devices may lie on top of each other (LVM on LUKS on RAID …).
const LAYERS: usize = 8;

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The kernel's name, without `/dev/`.
    pub name: String,
    /// Its node.
    pub path: PathBuf,
    /// Size in bytes; 0 when there is no medium.
    #[serde(rename = "size_bytes")]
    pub bytes: u64,
    /// Bytes of a logical sector.
    #[serde(rename = "sector_bytes")]
    pub sector: u32,
    /// What the maker calls it.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// How it is attached: `usb`, `nvme`, `ata`, `mmc`, `virtio`, `loop` …
    pub transport: Option<String>,
    /// The kernel says that its medium can be removed.
    pub removable: bool,
    /// Cannot be written.
    pub read_only: bool,
    /// What it is used for; empty when it is free.
    pub uses: Vec<Use>,
}

impl Device {
    /// Whether it comes and goes: a removable medium, or attached by USB.
    #[must_use]
    pub fn is_portable(&self) -> bool {
        self.removable || self.transport.as_deref() == Some("usb")
    }
}

/// One use of a disk or of what lies on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "use", rename_all = "lowercase")]
pub enum Use {
    /// Mounted.
    Mounted {
        /// The disk, a partition, or what lies on it.
        what: String,
        /// The mount point.
        at: String,
    },
    /// Swapped to.
    Swap {
        /// The disk, a partition, or what lies on it.
        what: String,
    },
    /// Part of another device that nothing uses.
    Held {
        /// The disk or partition.
        what: String,
        /// The device above.
        holder: String,
    },
    /// Behind a loop device.
    Loop {
        /// The disk or partition.
        what: String,
        /// The loop device.
        device: String,
    },
}

/// Where the kernel tells about itself.
#[derive(Debug, Clone)]
pub struct Host {
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into() }
    }
}

/// A device number as sysfs writes it: `8:1`.
type Number = String;

impl Host {
    /// Every disk, by name. Loop devices are there when something is behind them.
    pub fn disks(&self) -> io::Result<Vec<Device>> {
        let mut names: Vec<String> = fs::read_dir(self.sys.join("block"))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !NO_DISKS.iter().any(|other| name.starts_with(other)))
            .collect();
        names.sort();
        let mut disks = Vec::new();
        for name in names {
            let disk = match self.disk(&name) {
                Ok(disk) => disk,
                // Pulled out a moment ago, or one path of several to a disk that has a name of its own.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !(name.starts_with("loop") && disk.bytes == 0) {
                disks.push(disk);
            }
        }
        Ok(disks)
    }

    /// The disk of that kernel name.
    pub fn disk(&self, name: &str) -> io::Result<Device> {
        let folder = self.sys.join("block").join(name);
        let size: u64 = number(&folder.join("size"))?;
        Ok(Device {
            path: self.dev.join(name.replace('!', "/")),
            bytes: size.saturating_mul(SIZE_UNIT),
            sector: number(&folder.join("queue/logical_block_size"))?,
            model: model(&folder),
            serial: serial(&folder),
            transport: transport(&folder),
            removable: text(&folder.join("removable")).as_deref() == Some("1"),
            read_only: text(&folder.join("ro")).as_deref() == Some("1"),
            uses: self.uses(name)?,
            name: name.to_owned(),
        })
    }

    /// The kernel name of a block device, and the disk's when it is a partition.
    pub fn name_of(&self, device: u64) -> io::Result<(String, Option<String>)> {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let folder = fs::canonicalize(self.sys.join(format!("dev/block/{major}:{minor}")))?;
        let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
        let whole = folder.join("partition").exists().then(|| folder.parent().and_then(name)).flatten();
        name(&folder).map(|own| (own, whole)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The loop device that a file or device is behind.
    #[must_use]
    pub fn loop_of(&self, path: &Path) -> Option<String> {
        let mut names: Vec<_> = fs::read_dir(self.sys.join("block")).ok()?.flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        names.into_iter().find_map(|entry| {
            let backing = text(&entry.path().join("loop/backing_file"))?;
            (Path::new(&backing) == path).then(|| entry.file_name().to_string_lossy().into_owned())
        })
    }

    fn uses(&self, disk: &str) -> io::Result<Vec<Use>> {
        let folder = self.sys.join("block").join(disk);
        let mut family = BTreeMap::new();
        let mut uses = Vec::new();
        let mut parts = vec![folder.clone()];
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.path().join("partition").exists() {
                parts.push(entry.path());
            }
        }
        parts.sort();
        for part in &parts {
            self.climb(part, &mut family, &mut uses, LAYERS);
            let name = part.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if let Some(device) = self.loop_of(&self.dev.join(&name)) {
                uses.push(Use::Loop { what: name, device });
            }
        }
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo"))?;
        uses.extend(mounted(&mounts, &family, node_number));
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        uses.extend(swapped(&swaps, &family, node_number));
        Ok(uses)
    }

    /// Takes in a device and all that lies on top of it.
    fn climb(&self, folder: &Path, family: &mut BTreeMap<Number, String>, uses: &mut Vec<Use>, left: usize) {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(number) = text(&folder.join("dev")) {
            family.insert(number, name.clone());
        }
        if left == 0 {
            return;
        }
        for entry in fs::read_dir(folder.join("holders")).into_iter().flatten().flatten() {
            let holder = entry.file_name().to_string_lossy().into_owned();
            uses.push(Use::Held { what: name.clone(), holder: holder.clone() });
            self.climb(&self.sys.join("block").join(holder), family, uses, left - 1);
        }
    }
}

/// Mounts of these devices in a mountinfo file (proc_pid_mountinfo(5)). Some file systems (btrfs) show a number of their
/// own; their source tells the device.
fn mounted(
    mountinfo: &str,
    family: &BTreeMap<Number, String>,
    number_of: impl Fn(&Path) -> Option<Number>,
) -> Vec<Use> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(number), Some(at)) = (fields.get(2), fields.get(4)) else { continue };
        let source = fields.iter().position(|f| *f == "-").and_then(|dash| fields.get(dash + 2));
        let by_source = || {
            let path = unescape(source.filter(|s| s.starts_with('/'))?);
            family.get(&number_of(Path::new(&path))?)
        };
        if let Some(what) = family.get(*number).or_else(by_source) {
            found.push(Use::Mounted { what: what.clone(), at: unescape(at) });
        }
    }
    found
}

/// Swap space on these devices in a swaps file (proc_swaps(5)).
fn swapped(
    swaps: &str,
    family: &BTreeMap<Number, String>,
    number_of: impl Fn(&Path) -> Option<Number>,
) -> Vec<Use> {
    let sources = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    sources
        .filter_map(|source| family.get(&number_of(Path::new(&unescape(source)))?))
        .map(|what| Use::Swap { what: what.clone() })
        .collect()
}

/// Device number of a node, when it is one of a block device.
fn node_number(path: &Path) -> Option<Number> {
    use std::os::unix::fs::FileTypeExt;
    let metadata = fs::metadata(path).ok().filter(|m| m.file_type().is_block_device())?;
    let device = metadata.st_rdev();
    Some(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
}

/// The kernel writes spaces, tabs, newlines and backslashes in these files as three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn model(folder: &Path) -> Option<String> {
    let device = folder.join("device");
    // SCSI and USB disks have a vendor too; "ATA" says nothing.
    let vendor = text(&device.join("vendor")).filter(|v| !v.starts_with("0x") && v != "ATA");
    let model = text(&device.join("model")).or_else(|| text(&device.join("name")));
    let words: Vec<String> = vendor.into_iter().chain(model).collect();
    if !words.is_empty() {
        return Some(words.join(" "));
    }
    text(&folder.join("loop/backing_file")).map(|file| format!("loop over {file}"))
}

fn serial(folder: &Path) -> Option<String> {
    let device = folder.join("device");
    let direct = text(&folder.join("serial")).or_else(|| text(&device.join("serial")));
    // SCSI vital product data, page 80h: four bytes, then the number in ASCII.
    let scsi = || {
        let page = fs::read(device.join("vpd_pg80")).ok()?;
        word(&String::from_utf8_lossy(page.get(4..)?))
    };
    let from_parents = || {
        let real = fs::canonicalize(&device).ok()?;
        real.ancestors().skip(1).take(PARENTS).find_map(|parent| text(&parent.join("serial")))
    };
    direct.or_else(scsi).or_else(from_parents)
}

fn transport(folder: &Path) -> Option<String> {
    let real = fs::canonicalize(folder).ok()?;
    let path = real.to_string_lossy();
    let known = [
        ("/usb", "usb"),
        ("/nvme", "nvme"),
        ("/mmc", "mmc"),
        ("/ata", "ata"),
        ("/virtio", "virtio"),
        ("/virtual/block/loop", "loop"),
        ("/host", "scsi"),
    ];
    known.into_iter().find(|(part, _)| path.contains(part)).map(|(_, name)| name.to_owned())
}

/// A file of one short line; nothing when it is empty or not there.
fn text(path: &Path) -> Option<String> {
    word(&fs::read_to_string(path).ok()?)
}

fn word(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn number<T: std::str::FromStr>(path: &Path) -> io::Result<T> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
