//! Whether a disk may be overwritten: pure. Every answer but yes is a reason in words.

use crate::device::{Device, Use};
use pillar_slot::FitError;
use std::path::PathBuf;

/// Where the running system has what it cannot lose.
const SYSTEM_MOUNTS: [&str; 6] = ["/", "/usr", "/boot", "/boot/efi", "/efi", "/var"];

/// Why a disk is not written to. Nothing was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither a block device nor a regular file.
    #[error("it is a {0}, neither a disk nor a regular file")]
    Foreign(&'static str),
    /// A part of a disk.
    #[error("it is a partition of {0}")]
    Partition(PathBuf),
    /// What this system runs from.
    #[error("this system runs from it ({what} is mounted on {at})")]
    System {
        /// The disk, or what lies on it.
        what: String,
        /// Where.
        at: String,
    },
    /// Mounted.
    #[error("{what} is mounted on {at}")]
    Mounted {
        /// The disk, or what lies on it.
        what: String,
        /// Where.
        at: String,
    },
    /// Swapped to.
    #[error("{0} is swap space in use")]
    Swap(String),
    /// Part of something else: RAID, LVM, an open LUKS volume.
    #[error("{what} is part of {holder}")]
    Held {
        /// The disk, or what lies on it.
        what: String,
        /// The device above it.
        holder: String,
    },
    /// Behind a loop device.
    #[error("{what} is behind the loop device {device}")]
    Loop {
        /// The disk, file, or what lies on it.
        what: String,
        /// The loop device.
        device: String,
    },
    /// Somebody else has it open for himself alone.
    #[error("another program has it open for itself alone")]
    Busy,
    /// Cannot be written at all.
    #[error("it is read-only")]
    ReadOnly,
    /// A card reader without a card.
    #[error("there is no medium in it")]
    NoMedium,
    /// Not enough room.
    #[error("it has {has} bytes, the image needs {needed}")]
    Small {
        /// Bytes of the disk.
        has: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The image is made for other sectors.
    #[error("its sectors have {disk} bytes, the image is made for {image}")]
    Sector {
        /// Bytes of the disk's sectors.
        disk: u32,
        /// Bytes of the image's.
        image: u32,
    },
    /// The image would overwrite itself.
    #[error("it is the image itself")]
    Itself,
    /// The image's table.
    #[error("the image's partition table does not fit: {0}")]
    Table(FitErrorText),
}

/// A [`FitError`] in words, so that refusals can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FitErrorText(String);

impl std::fmt::Display for FitErrorText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<FitError> for FitErrorText {
    fn from(error: FitError) -> Self {
        Self(error.to_string())
    }
}

impl Refusal {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::Foreign(_) => {
                "name a disk (`./just flash --list` shows them) or an existing file of the wanted size"
            }
            Refusal::Partition(_) => "an image has a partition table of its own: name the whole disk",
            Refusal::System { .. } => "name another disk; `./just flash --list` shows them",
            Refusal::Mounted { .. } => "unmount it first, when it is the disk that you mean",
            Refusal::Swap(_) => "`swapoff` it first, when it is the disk that you mean",
            Refusal::Held { .. } => "stop or close that first, when it is the disk that you mean",
            Refusal::Loop { .. } => "`losetup --detach` that first, or name the loop device itself",
            Refusal::Busy => "end that program first (`fuser` names it)",
            Refusal::ReadOnly => "look for a write-protect switch, or name another disk",
            Refusal::NoMedium => "put one in",
            Refusal::Small { .. } => "name a larger disk, or make the file larger (`truncate --size`)",
            Refusal::Sector { .. } => {
                "the flavour's sector_sizes says for which disks images are made; add this size and build again"
            }
            Refusal::Itself => "name the disk that the image is to be written to",
            Refusal::Table(_) => "build the image again with `./just image`",
        }
    }
}

/// Judges a disk by what it is and what it is used for; its size is judged with the image at hand
/// ([`crate::Image::lay`]).
pub fn judge(device: &Device) -> Result<(), Refusal> {
    if let Some(refusal) = device.uses.iter().map(refusal_of).min_by_key(weight) {
        return Err(refusal);
    }
    if device.bytes == 0 {
        return Err(Refusal::NoMedium);
    }
    if device.read_only {
        return Err(Refusal::ReadOnly);
    }
    Ok(())
}

fn refusal_of(used: &Use) -> Refusal {
    match used.clone() {
        Use::Mounted { what, at } if SYSTEM_MOUNTS.contains(&at.as_str()) => Refusal::System { what, at },
        Use::Mounted { what, at } => Refusal::Mounted { what, at },
        Use::Swap { what } => Refusal::Swap(what),
        Use::Held { what, holder } => Refusal::Held { what, holder },
        Use::Loop { what, device } => Refusal::Loop { what, device },
    }
}

/// The gravest reason is told.
fn weight(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::System { .. } => 0,
        Refusal::Mounted { .. } => 1,
        Refusal::Swap(_) => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(uses: Vec<Use>) -> Device {
        Device { uses, bytes: 1 << 30, ..Device::default() }
    }

    #[test]
    fn every_use_is_a_reason_and_the_gravest_is_told() {
        let what = || "sdb2".to_owned();
        let mounted = |at: &str| Use::Mounted { what: what(), at: at.to_owned() };
        let held = || Use::Held { what: what(), holder: "md0".to_owned() };
        let table = [
            (vec![mounted("/media/x")], "sdb2 is mounted on /media/x"),
            (vec![held(), mounted("/x"), mounted("/")], "this system runs from it (sdb2 is mounted on /)"),
            (vec![mounted("/boot/efi")], "this system runs from it (sdb2 is mounted on /boot/efi)"),
            (vec![Use::Swap { what: what() }, held()], "sdb2 is swap space in use"),
            (vec![held()], "sdb2 is part of md0"),
            (
                vec![Use::Loop { what: what(), device: "loop3".to_owned() }],
                "sdb2 is behind the loop device loop3",
            ),
        ];
        for (uses, said) in table {
            assert_eq!(judge(&device(uses)).expect_err("used").to_string(), said);
        }
        assert_eq!(judge(&device(Vec::new())), Ok(()));
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_refused() {
        let mut disk = device(Vec::new());
        disk.read_only = true;
        assert_eq!(judge(&disk), Err(Refusal::ReadOnly));
        disk.bytes = 0;
        assert_eq!(judge(&disk), Err(Refusal::NoMedium));
    }
}
