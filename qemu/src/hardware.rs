//! Which devices a machine has: what a sealed image meets on real machines, as far as QEMU emulates it. Pure.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Bytes of the sectors that every bus can do.
pub const SECTOR_USUAL: u32 = 512;
/// Bytes of the sectors of a "4K native" disk.
pub const SECTOR_4K: u32 = 4096;

/// Declares an enumeration whose variants have one word each, on the command line and in messages.
macro_rules! words {
    ($(#[$about:meta])* $name:ident, $what:literal: $($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|one| one.word() == text).ok_or_else(|| {
                    let known: Vec<&str> = Self::ALL.iter().map(|one| one.word()).collect();
                    format!("{text:?} is no {}; known are {}", $what, known.join(", "))
                })
            }
        }
    };
}

words! {
    /// What the disk hangs on.
    DiskBus, "disk bus":
    /// virtio-blk on PCI.
    VirtioBlk = "virtio-blk",
    /// A SCSI disk on virtio-scsi.
    VirtioScsi = "virtio-scsi",
    /// NVMe.
    Nvme = "nvme",
    /// SATA, on the chipset's own AHCI controller.
    Ahci = "ahci",
    /// A USB stick (bulk-only transport) on xHCI.
    Usb = "usb",
    /// An SD card in an SDHCI slot.
    Sd = "sd",
}

words! {
    /// The network card.
    Nic, "network card":
    /// virtio-net on PCI.
    Virtio = "virtio",
    /// Intel 82574 (driver e1000e).
    E1000e = "e1000e",
    /// Intel 82576 (driver igb).
    Igb = "igb",
    /// VMware's.
    Vmxnet3 = "vmxnet3",
}

words! {
    /// How the processor talks to the TPM.
    TpmInterface, "TPM interface":
    /// Command Response Buffer, as firmware TPMs have it.
    Crb = "crb",
    /// TPM Interface Specification, as discrete ones have it.
    Tis = "tis",
}

/// The devices of a machine that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware {
    /// What the disk hangs on.
    pub disk_bus: DiskBus,
    /// Bytes of the disk's logical sectors: [`SECTOR_USUAL`] or [`SECTOR_4K`].
    pub sector_bytes: u32,
    /// The network card.
    pub nic: Nic,
    /// The TPM's interface, when there is a TPM.
    pub tpm: TpmInterface,
    /// A graphics card: the firmware's framebuffer becomes a console.
    pub display: bool,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            disk_bus: DiskBus::VirtioBlk,
            sector_bytes: SECTOR_USUAL,
            nic: Nic::Virtio,
            tpm: TpmInterface::Crb,
            display: false,
        }
    }
}

impl Hardware {
    /// Refuses what QEMU cannot emulate, before it says so in its own words.
    pub fn check(&self) -> Result<()> {
        let sectors: &[u32] = match self.disk_bus {
            DiskBus::Ahci | DiskBus::Sd => &[SECTOR_USUAL],
            _ => &[SECTOR_USUAL, SECTOR_4K],
        };
        if sectors.contains(&self.sector_bytes) {
            return Ok(());
        }
        Err(Error::SectorSize { bus: self.disk_bus, bytes: self.sector_bytes })
    }

    /// A disk of this many bytes as the bus takes it: an SD card's size is a power of two.
    #[must_use]
    pub fn disk_bytes(&self, image_bytes: u64) -> u64 {
        match self.disk_bus {
            DiskBus::Sd => image_bytes.next_power_of_two(),
            _ => image_bytes,
        }
    }

    /// Values of `-device` for the drive of that id, controller first. The lowest boot index is started from.
    pub(crate) fn disk_devices(&self, drive: &str, address: &str, boot_index: u8) -> Vec<String> {
        let mut disk = match self.disk_bus {
            DiskBus::VirtioBlk => format!("virtio-blk-pci,drive={drive},addr={address}"),
            DiskBus::Nvme => format!("nvme,drive={drive},addr={address}"),
            DiskBus::VirtioScsi => format!("scsi-hd,drive={drive},bus=scsi.0"),
            DiskBus::Ahci => format!("ide-hd,drive={drive},bus=ide.0"),
            DiskBus::Usb => format!("usb-storage,drive={drive},bus=usb.0"),
            // It has neither a serial number of our choice nor a place in the boot order.
            DiskBus::Sd => {
                return vec![format!("sdhci-pci,addr={address}"), format!("sd-card,drive={drive}")];
            }
        };
        disk.push_str(&format!(",serial=pillar,bootindex={boot_index}"));
        if self.sector_bytes != SECTOR_USUAL {
            let bytes = self.sector_bytes;
            disk.push_str(&format!(",logical_block_size={bytes},physical_block_size={bytes}"));
        }
        let controller = match self.disk_bus {
            DiskBus::VirtioScsi => Some(format!("virtio-scsi-pci,id=scsi,addr={address}")),
            DiskBus::Usb => Some(format!("qemu-xhci,id=usb,addr={address}")),
            _ => None,
        };
        controller.into_iter().chain([disk]).collect()
    }

    /// Whether the firmware can read the disk. Debian's OVMF is built without the drivers for SD cards; the machine then
    /// starts from a copy of the disk's EFI system partition on a small disk beside it, and the image finds its root.
    #[must_use]
    pub const fn firmware_reads_disk(&self) -> bool {
        !matches!(self.disk_bus, DiskBus::Sd)
    }

    /// `-device` without what all network cards have.
    pub(crate) const fn nic_device(&self) -> &'static str {
        match self.nic {
            Nic::Virtio => "virtio-net-pci",
            Nic::E1000e => "e1000e",
            Nic::Igb => "igb",
            Nic::Vmxnet3 => "vmxnet3",
        }
    }

    /// `-device` without the TPM's back end.
    pub(crate) const fn tpm_device(&self) -> &'static str {
        match self.tpm {
            TpmInterface::Crb => "tpm-crb",
            TpmInterface::Tis => "tpm-tis",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(disk_bus: DiskBus, sector_bytes: u32) -> Hardware {
        Hardware { disk_bus, sector_bytes, ..Hardware::default() }
    }

    #[test]
    fn disks() {
        const BLOCKS: &str = ",logical_block_size=4096,physical_block_size=4096";
        let table = [
            (DiskBus::VirtioBlk, "", "virtio-blk-pci,drive=disk,addr=0x2", true),
            (DiskBus::VirtioScsi, "virtio-scsi-pci,id=scsi,addr=0x2", "scsi-hd,drive=disk,bus=scsi.0", true),
            (DiskBus::Nvme, "", "nvme,drive=disk,addr=0x2", true),
            (DiskBus::Ahci, "", "ide-hd,drive=disk,bus=ide.0", false),
            (DiskBus::Usb, "qemu-xhci,id=usb,addr=0x2", "usb-storage,drive=disk,bus=usb.0", true),
        ];
        for (bus, controller, disk, has_4k) in table {
            let mut expected: Vec<String> =
                vec![controller.to_owned(), format!("{disk},serial=pillar,bootindex=0")];
            expected.retain(|device| !device.is_empty());
            assert_eq!(with(bus, SECTOR_USUAL).disk_devices("disk", "0x2", 0), expected, "{bus}");
            assert!(with(bus, SECTOR_USUAL).check().is_ok(), "{bus}");
            assert_eq!(with(bus, SECTOR_4K).check().is_ok(), has_4k, "{bus}");
            if let Some(last) = expected.last_mut().filter(|_| has_4k) {
                last.push_str(BLOCKS);
                assert_eq!(with(bus, SECTOR_4K).disk_devices("disk", "0x2", 0), expected, "{bus}");
            }
        }
        assert_eq!(
            with(DiskBus::Sd, SECTOR_USUAL).disk_devices("disk", "0x2", 0),
            ["sdhci-pci,addr=0x2", "sd-card,drive=disk"]
        );
        let refused = with(DiskBus::Sd, SECTOR_4K).check().expect_err("no such card").to_string();
        assert_eq!(refused, "a disk on sd cannot have sectors of 4096 bytes in QEMU");
        assert!(with(DiskBus::Nvme, 520).check().is_err());
    }

    #[test]
    fn an_sd_card_has_a_power_of_two_of_bytes() {
        assert_eq!(with(DiskBus::Sd, 512).disk_bytes(874 << 20), 1 << 30);
        assert_eq!(with(DiskBus::Sd, 512).disk_bytes(1 << 30), 1 << 30);
        assert_eq!(with(DiskBus::Nvme, 512).disk_bytes(874 << 20), 874 << 20);
    }

    #[test]
    fn words_mean_devices_and_others_are_answered_with_the_known_ones() {
        for bus in DiskBus::ALL {
            assert_eq!(bus.word().parse(), Ok(*bus));
        }
        for nic in Nic::ALL {
            assert_eq!(nic.word().parse(), Ok(*nic));
        }
        let error = "lpc".parse::<TpmInterface>().expect_err("no such interface");
        assert_eq!(error, "\"lpc\" is no TPM interface; known are crb, tis");
    }
}
