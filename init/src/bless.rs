//! The EFI system partition, mounted only for as long as something is read or renamed on it.

use crate::disk::{self, DiskError};
use crate::modules::Modules;
use crate::{log, mounts};
use pillar_layout::root;
use pillar_slot::BootEntry;
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where boot entries are, on the partition.
const ENTRIES: &str = "EFI/Linux";
/// The file system and the code pages that the kernel's defaults name.
const MODULES: [&str; 4] = ["nls_cp437", "nls_ascii", "nls_utf8", "vfat"];
const OPTIONS: &std::ffi::CStr = c"umask=0077,errors=remount-ro";
/// Entries looked at in that directory.
const FILES_MAX: usize = 256;

/// Why the partition could not be used.
#[derive(Debug, thiserror::Error)]
pub enum EspError {
    /// No such partition on the disk with the root.
    #[error("disk {0} has no EFI system partition")]
    None(String),
    /// Its device.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The mount.
    #[error("cannot mount the EFI system partition {node}")]
    Mount {
        /// Its device.
        node: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something on it.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing with our version.
    #[error("no boot entry of version {0} on the EFI system partition")]
    NoEntry(String),
}

/// The partition: its disk and its number there.
#[derive(Debug, Clone)]
pub struct Esp {
    /// For example "vda".
    pub disk: String,
    /// From the partition table.
    pub number: Option<u32>,
}

impl Esp {
    /// Mounts the partition, runs `work`, unmounts.
    pub fn with<T>(
        &self,
        modules: &mut Modules,
        write: bool,
        work: impl FnOnce(&Path) -> Result<T, EspError>,
    ) -> Result<T, EspError> {
        let number = self.number.ok_or_else(|| EspError::None(self.disk.clone()))?;
        let node = disk::partition(&self.disk, number, None)?.node;
        MODULES.iter().for_each(|name| modules.load_or_warn(name));
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        if !write {
            flags |= MountFlags::RDONLY;
        }
        mount(&node, root::ESP, "vfat", flags, OPTIONS)
            .map_err(|errno| EspError::Mount { node, source: errno.into() })?;
        let done = work(Path::new(root::ESP));
        mounts::unmount_lazily(root::ESP);
        done
    }

    /// True when the loader still counts boots of this version.
    pub fn is_trial(&self, modules: &mut Modules, version: &str) -> Result<bool, EspError> {
        self.with(modules, false, |esp| find(esp, version).map(|(_, entry)| entry.is_trial()))
    }

    /// Takes the counter off the entry's name. A cut at any moment leaves the old or the new name.
    pub fn bless(&self, modules: &mut Modules, version: &str) -> Result<(), EspError> {
        self.with(modules, true, |esp| {
            let (path, entry) = find(esp, version)?;
            if !entry.is_trial() {
                return Ok(());
            }
            let blessed = path.with_file_name(entry.blessed_name());
            fs::rename(&path, &blessed).map_err(wrong("rename", &path))?;
            let directory = esp.join(ENTRIES);
            for path in [&blessed, &directory] {
                File::open(path).and_then(|file| file.sync_all()).map_err(wrong("write", path))?;
            }
            log::notice(&format!("boot entry {} is blessed", entry.blessed_name()));
            Ok(())
        })
    }
}

fn wrong(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EspError {
    let path = path.to_owned();
    move |source| EspError::File { what, path, source }
}

fn find(esp: &Path, version: &str) -> Result<(PathBuf, BootEntry), EspError> {
    let directory = esp.join(ENTRIES);
    let files = fs::read_dir(&directory).map_err(wrong("read", &directory))?;
    let mut found: Vec<_> = files
        .flatten()
        .take(FILES_MAX)
        .filter_map(|file| Some((file.path(), BootEntry::parse(file.file_name().to_str()?).ok()?)))
        .filter(|(_, entry)| entry.version == version)
        .collect();
    // A blessed entry beside a counted one of the same version: the loader prefers the blessed one.
    found.sort_by_key(|(_, entry)| entry.is_trial());
    found.into_iter().next().ok_or_else(|| EspError::NoEntry(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_of_our_version() {
        let esp = std::env::temp_dir().join(format!("pillar-init-esp-{}", std::process::id()));
        let directory = esp.join(ENTRIES);
        fs::create_dir_all(&directory).expect("temporary");
        for name in ["pillar_1+0-3.efi", "pillar_2+2-1.efi", "pillar_3.efi", "pillar_3+3.efi", "other.efi"] {
            fs::write(directory.join(name), "").expect("temporary");
        }
        let entry =
            |version| find(&esp, version).map(|(_, entry)| entry.to_string()).map_err(|e| e.to_string());
        assert_eq!(entry("2"), Ok("pillar_2+2-1.efi".to_owned()));
        assert_eq!(entry("3"), Ok("pillar_3.efi".to_owned()));
        assert!(entry("4").is_err_and(|why| why.contains("no boot entry of version 4")));
        fs::remove_dir_all(esp).expect("ours");
    }
}
