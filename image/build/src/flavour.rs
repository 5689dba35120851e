//! A flavour: one kind of machine as data (`image/flavours/NAME.toml`). Nothing in the code knows a flavour by name.

use crate::error::{Error, file};
use pillar_model::StateSettings;
use serde::Deserialize;
use std::path::Path;

/// What is special about one kind of machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flavour {
    /// From the file's name.
    #[serde(skip)]
    pub name: String,
    /// Debian packages beside the common ones; exactly one kernel among them.
    pub packages: Vec<String>,
    /// Modules that stage 1 loads, in order.
    pub initrd_modules: Vec<String>,
    /// Modules that are in the initrd for machines whose devices ask for them.
    #[serde(default)]
    pub initrd_spare_modules: Vec<String>,
    /// Modules that stage 2 loads, in order.
    pub root_modules: Vec<String>,
    /// Modules that are in the sealed root without being loaded by name.
    pub spare_modules: Vec<String>,
    /// The command line behind `roothash=`.
    pub cmdline: Vec<String>,
    /// Sizes of the partitions.
    pub disk: Disk,
    /// The state volume.
    pub state: State,
    /// What must not grow unnoticed.
    pub limits: Limits,
}

/// Partition sizes in MiB. They are for good: an update cannot change them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Disks of which sector sizes get an image: table and ESP count in sectors, so each size needs its own.
    #[serde(default = "SectorSize::usual")]
    pub sector_sizes: Vec<SectorSize>,
    /// EFI system partition.
    pub esp_mib: u64,
    /// Each of the two root partitions.
    pub root_mib: u64,
    /// Each of the two verity partitions.
    pub verity_mib: u64,
    /// State partition.
    pub state_mib: u64,
}

/// Bytes of a disk's logical sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub enum SectorSize {
    /// 512 bytes: nearly every disk, if only by emulation.
    B512,
    /// 4096 bytes: "4K native".
    B4096,
}

impl SectorSize {
    /// Both.
    pub const ALL: [Self; 2] = [Self::B512, Self::B4096];

    fn usual() -> Vec<Self> {
        vec![Self::B512]
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// What a disk image's file name ends in.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::B512 => "raw",
            Self::B4096 => "4k.raw",
        }
    }
}

impl TryFrom<u64> for SectorSize {
    type Error = String;

    fn try_from(bytes: u64) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|size| size.bytes() == bytes);
        known.ok_or_else(|| format!("no disk has sectors of {bytes} bytes; known are 512 and 4096"))
    }
}

/// The state volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Modules that stage 2 loads before it is opened, in order.
    pub modules: Vec<String>,
    /// Whether every sector carries an authentication code.
    pub integrity: bool,
}

impl State {
    /// What the image says of it.
    #[must_use]
    pub fn settings(&self) -> StateSettings {
        StateSettings { integrity: self.integrity }
    }
}

/// Limits in MiB; a build that exceeds one fails.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The sealed root.
    pub root_mib: u64,
    /// The UKI.
    pub uki_mib: u64,
}

/// Reads a flavour of the project.
pub fn read(project: &Path, name: &str) -> Result<Flavour, Error> {
    let folder = project.join("image/flavours");
    let known = known(&folder)?;
    if !known.iter().any(|n| n == name) {
        return Err(Error::Flavour { name: name.to_owned(), known: known.join(", ") });
    }
    let path = folder.join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path).map_err(file("read", &path))?;
    let flavour: Flavour = toml::from_str(&text).map_err(|source| Error::FlavourFile { path, source })?;
    Ok(Flavour { name: name.to_owned(), ..flavour })
}

pub(crate) fn known(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map_err(file("read", folder))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_flavour_of_the_project_can_be_read_and_updated_to_twice_its_size() {
        for name in known(&project().join("image/flavours")).expect("folder") {
            let flavour = read(&project(), &name).expect("a good flavour");
            assert!(flavour.disk.root_mib >= 2 * flavour.limits.root_mib, "{name}: slot too small");
            // The running UKI, the new one, and room for one more that failed.
            assert!(flavour.disk.esp_mib >= 3 * 2 * flavour.limits.uki_mib / 2, "{name}: ESP too small");
            let sizes = &flavour.disk.sector_sizes;
            assert!(sizes.contains(&SectorSize::B512), "{name}: what most disks have is missing");
            assert!(!flavour.cmdline.iter().any(|w| w.starts_with("roothash")), "{name}");
        }
    }

    #[test]
    fn a_sector_size_that_no_disk_has_is_refused() {
        let disk = |sizes: &str| {
            let text =
                format!("sector_sizes = {sizes}\nesp_mib = 1\nroot_mib = 1\nverity_mib = 1\nstate_mib = 1");
            toml::from_str::<Disk>(&text).map(|disk| disk.sector_sizes).map_err(|e| e.to_string())
        };
        assert_eq!(disk("[512, 4096]"), Ok(SectorSize::ALL.to_vec()));
        let error = disk("[520]").expect_err("no such disk");
        assert!(error.contains("no disk has sectors of 520 bytes"), "{error}");
    }

    #[test]
    fn an_unknown_flavour_is_answered_with_the_known_ones() {
        for name in ["nosuch", "", "../flavours/virt", "virt.toml"] {
            let error = read(&project(), name).expect_err("unknown").to_string();
            assert!(error.contains("there is virt") || error.contains(", virt"), "{error}");
        }
    }
}
