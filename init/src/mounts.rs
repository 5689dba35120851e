//! Carries out the tables of `plan`, and the switch to the sealed root.

use crate::plan::{MOVED, Mount};
use crate::{files, log};
use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount, mount_move, unmount};
use rustix::process::{chdir, chroot};
use std::fs;
use std::io;
use std::path::Path;

/// Why a place could not be mounted or left.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A mount.
    #[error("cannot mount {kind} at {at}")]
    Mount {
        /// File system type.
        kind: String,
        /// Where.
        at: String,
        /// Why.
        source: io::Error,
    },
    /// A step of switching root.
    #[error("cannot switch root: {step}")]
    Switch {
        /// The step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Mounts a table, top down. What need not be there is a warning.
pub fn mount_all(table: &[Mount]) -> Result<(), MountError> {
    for line in table {
        match mount_one(line) {
            Err(error) if !line.must => log::warn(&log::chain(&error)),
            done => done?,
        }
    }
    Ok(())
}

fn mount_one(line: &Mount) -> Result<(), MountError> {
    let wrong = |errno: Errno| MountError::Mount {
        kind: line.kind.to_owned(),
        at: line.at.to_owned(),
        source: errno.into(),
    };
    make_directory(line.at).map_err(wrong)?;
    match mount(line.kind, line.at, line.kind, line.flags, line.options) {
        // Mounted before us, by a kernel that mounts /dev itself.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(wrong(errno)),
    }
}

/// Makes a directory unless it is there; on the sealed root it must be.
pub fn make_directory(at: impl AsRef<Path>) -> rustix::io::Result<()> {
    match mkdir(at.as_ref(), Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::ROFS) if at.as_ref().is_dir() => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Writes a table of sysctls. None of them is worth a machine that does not boot.
pub fn set_sysctls(table: &[(&str, &str)]) {
    for (name, value) in table {
        match files::set(&Path::new("/proc/sys").join(name), value) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Set on the kernel command line, which forbids to set it again.
            Err(_) if has_value(name, value) => {}
            Err(error) => log::warn(&format!("cannot set sysctl {name}: {error}")),
        }
    }
}

fn has_value(name: &str, value: &str) -> bool {
    let current = files::read_text(&Path::new("/proc/sys").join(name), 256);
    current.is_ok_and(|current| current.trim() == value.trim())
}

/// Moves what is mounted to the new root, frees what the initrd held, and makes `new` the root.
pub fn switch_root(new: &str) -> Result<(), MountError> {
    let step = |step| move |errno: Errno| MountError::Switch { step, source: errno.into() };
    for at in MOVED {
        mount_move(at, format!("{new}{at}")).map_err(step("move the mounts"))?;
    }
    // The initrd lies in memory. Nothing of it is needed any more, and what cannot be removed does no harm.
    for entry in fs::read_dir("/").into_iter().flatten().flatten() {
        let path = entry.path();
        if path != Path::new(new) {
            let _ = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
        }
    }
    chdir(new).map_err(step("enter the new root"))?;
    mount_move(new, "/").map_err(step("move the new root"))?;
    chroot(".").map_err(step("change root"))?;
    chdir("/").map_err(step("enter /"))
}

/// Takes a mount away, at once if possible, else when nothing uses it any more.
pub fn unmount_lazily(at: &str) {
    if unmount(at, UnmountFlags::empty()).is_err()
        && let Err(errno) = unmount(at, UnmountFlags::DETACH)
    {
        log::warn(&format!("cannot unmount {at}: {errno}"));
    }
}
