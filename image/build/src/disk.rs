//! The disk images, one for each sector size: GPT with ESP, both slots and the state partition's place. The plan is pure; the table is written by
//! sfdisk, the ESP by mkfs.vfat and mtools.

use crate::digest;
use crate::error::{Error, file};
use crate::flavour::{Disk, SectorSize};
use crate::run::run;
use crate::seal::Sealer;
use pillar_layout::gpt;
use pillar_model::RootHash;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// A FAT with fewer clusters than this is FAT16, whatever its header says (Microsoft's FAT specification, section 3.5).
const FAT32_MIN_CLUSTERS: u64 = 65_525;

/// Every partition starts at a multiple of this, and the table's copies lie in the first and the last of them.
const ALIGNMENT: u64 = MIB;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Label in the table.
    pub label: &'static str,
    /// Type GUID.
    pub kind: &'static str,
    /// The partition's own GUID.
    pub guid: String,
    /// Offset in bytes.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
}

/// The whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// GUID of the disk.
    pub guid: String,
    /// Size in bytes.
    pub size: u64,
    /// Partitions in order.
    pub partitions: Vec<Partition>,
}

/// Lays a disk out. Slot A carries the root hash in its GUIDs, slot B the GUIDs for "empty".
#[must_use]
pub fn plan(sizes: &Disk, root_hash: &RootHash, seed: &str) -> Plan {
    let (root_guid, verity_guid) = root_hash.partition_guids();
    let rows = [
        (gpt::LABEL_ESP, gpt::TYPE_ESP, digest::guid(seed, "esp"), sizes.esp_mib),
        (gpt::LABEL_ROOT_A, gpt::TYPE_ROOT, root_guid, sizes.root_mib),
        (gpt::LABEL_VERITY_A, gpt::TYPE_ROOT_VERITY, verity_guid, sizes.verity_mib),
        (gpt::LABEL_ROOT_B, gpt::TYPE_ROOT, gpt::EMPTY_ROOT.to_owned(), sizes.root_mib),
        (gpt::LABEL_VERITY_B, gpt::TYPE_ROOT_VERITY, gpt::EMPTY_VERITY.to_owned(), sizes.verity_mib),
        (gpt::LABEL_STATE, gpt::TYPE_STATE, digest::guid(seed, "state"), sizes.state_mib),
    ];
    lay_out(rows, seed)
}

/// An installer's disk: no second slot, and a state partition of which nothing is used; it is there because a table's
/// last partition takes what the stick has more than the image.
#[must_use]
pub fn installer_plan(
    esp_mib: u64,
    root_bytes: u64,
    verity_bytes: u64,
    root_hash: &RootHash,
    seed: &str,
) -> Plan {
    let (root_guid, verity_guid) = root_hash.partition_guids();
    lay_out(
        [
            (gpt::LABEL_ESP, gpt::TYPE_ESP, digest::guid(seed, "esp"), esp_mib),
            (gpt::LABEL_ROOT_A, gpt::TYPE_ROOT, root_guid, root_bytes.div_ceil(MIB)),
            (gpt::LABEL_VERITY_A, gpt::TYPE_ROOT_VERITY, verity_guid, verity_bytes.div_ceil(MIB)),
            (gpt::LABEL_STATE, gpt::TYPE_STATE, digest::guid(seed, "state"), 1),
        ],
        seed,
    )
}

/// Label, type, GUID and MiB of each partition, one behind the other.
fn lay_out<const N: usize>(rows: [(&'static str, &'static str, String, u64); N], seed: &str) -> Plan {
    let mut start = ALIGNMENT;
    let mut partitions = Vec::new();
    for (label, kind, guid, mib) in rows {
        partitions.push(Partition { label, kind, guid, start, size: mib * MIB });
        start += mib * MIB;
    }
    Plan { guid: digest::guid(seed, "disk"), size: start + ALIGNMENT, partitions }
}

impl Plan {
    /// The partition of that label.
    #[must_use]
    pub fn partition(&self, label: &str) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.label == label)
    }

    /// What sfdisk reads.
    #[must_use]
    pub fn sfdisk_script(&self, sector: SectorSize) -> String {
        let sector = sector.bytes();
        let mut script = format!(
            "label: gpt\nlabel-id: {}\nunit: sectors\nfirst-lba: {}\nsector-size: {sector}\n\n",
            self.guid,
            ALIGNMENT / sector
        );
        for p in &self.partitions {
            // Writing to a String cannot fail.
            let _ = writeln!(
                script,
                "start={}, size={}, type={}, uuid={}, name=\"{}\"",
                p.start / sector,
                p.size / sector,
                p.kind,
                p.guid,
                p.label
            );
        }
        script
    }
}

/// A file on the ESP.
#[derive(Debug, Clone)]
pub struct EspFile {
    /// Path on the ESP, with `/`.
    pub path: String,
    /// Its bytes on the build machine.
    pub source: PathBuf,
}

/// The file system of an ESP of that size: bits of its table's entries, sectors of a cluster. Linux does not mount a
/// FAT whose sectors are smaller than the disk's; firmware mounts both kinds.
fn fat(size: u64, sector: SectorSize) -> (u32, u64) {
    let cluster_sectors = match sector {
        // One would do; but OVMF did not mount a FAT32 with clusters of one sector of 512 bytes.
        SectorSize::B512 => 2,
        SectorSize::B4096 => 1,
    };
    // The tables and the reserved sectors take less than a hundredth.
    let clusters = size / (sector.bytes() * cluster_sectors) / 100 * 99;
    (if clusters >= FAT32_MIN_CLUSTERS { 32 } else { 16 }, cluster_sectors)
}

/// Makes an ESP with these files, in this order.
pub fn esp(
    sealer: &Sealer<'_>,
    partition: &Partition,
    sector: SectorSize,
    files: &[EspFile],
    output: &Path,
) -> Result<(), Error> {
    File::create(output).and_then(|f| f.set_len(partition.size)).map_err(file("create", output))?;
    let serial = hex::encode(&digest::of(&[b"esp serial", sealer.seed.as_bytes()])[..4]);
    let mut format = sealer.command("mkfs.vfat");
    format.args(["--invariant", "-n", "PILLAR-ESP", "-i", &serial]);
    let (bits, cluster_sectors) = fat(partition.size, sector);
    format.args(["-F", &bits.to_string(), "-s", &cluster_sectors.to_string()]);
    format.args(["-S", &sector.bytes().to_string()]);
    // Partitions start at a multiple of 1 MiB; the boot sector says so.
    format.arg("-h").arg((partition.start / sector.bytes()).to_string());
    run("mkfs.vfat", format.arg(output))?;
    let mut made: Vec<String> = Vec::new();
    for esp_file in files {
        for (at, _) in esp_file.path.match_indices('/') {
            let folder = format!("::/{}", &esp_file.path[..at]);
            if !made.contains(&folder) {
                made.push(folder);
            }
        }
    }
    run("mmd", sealer.command("mmd").arg("-i").arg(output).args(&made))?;
    for esp_file in files {
        let mut copy = sealer.command("mcopy");
        copy.arg("-i").arg(output).arg(&esp_file.source).arg(format!("::/{}", esp_file.path));
        run("mcopy", &mut copy)?;
    }
    Ok(())
}

/// Writes the disk: the table, then each partition's content.
pub fn write(
    sealer: &Sealer<'_>,
    plan: &Plan,
    sector: SectorSize,
    contents: &[(&str, &Path)],
    output: &Path,
) -> Result<(), Error> {
    File::create(output).and_then(|f| f.set_len(plan.size)).map_err(file("create", output))?;
    let script = output.with_extension("sfdisk");
    fs::write(&script, plan.sfdisk_script(sector)).map_err(file("write", &script))?;
    let mut command = sealer.command("sfdisk");
    command.args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never"]);
    command.arg("--sector-size").arg(sector.bytes().to_string()).arg(output);
    crate::run::run_with_input("sfdisk", &mut command, &script)?;
    fs::remove_file(&script).map_err(file("remove", &script))?;
    let mut disk = File::options().write(true).open(output).map_err(file("open", output))?;
    for (label, source) in contents {
        let Some(partition) = plan.partition(label) else { continue };
        let size = fs::metadata(source).map_err(file("read", source))?.len();
        if size > partition.size {
            return Err(Error::TooLarge {
                what: "a partition's content",
                bytes: size,
                limit_mib: partition.size / MIB,
            });
        }
        copy_sparse(source, &mut disk, partition.start).map_err(file("write", output))?;
    }
    disk.sync_all().map_err(file("write", output))
}

/// Copies a file to an offset, leaving holes where it has zeros.
fn copy_sparse(source: &Path, disk: &mut File, start: u64) -> std::io::Result<()> {
    let mut source = File::open(source)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut at = start;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match source.read(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        if buffer[..filled].iter().any(|b| *b != 0) {
            disk.seek(SeekFrom::Start(at))?;
            disk.write_all(&buffer[..filled])?;
        }
        at += filled as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Plan {
        let hash: RootHash =
            "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef".parse().expect("hex");
        let sector_sizes = SectorSize::ALL.to_vec();
        plan(&Disk { sector_sizes, esp_mib: 128, root_mib: 80, verity_mib: 2, state_mib: 256 }, &hash, "seed")
    }

    #[test]
    fn partitions_follow_each_other_and_both_slots_are_alike() {
        let plan = example();
        let labels: Vec<_> = plan.partitions.iter().map(|p| p.label).collect();
        assert_eq!(labels, ["esp", "root-a", "root-a-verity", "root-b", "root-b-verity", "state"]);
        for pair in plan.partitions.windows(2) {
            assert_eq!(pair[0].start + pair[0].size, pair[1].start);
        }
        assert_eq!(plan.partitions[1].size, plan.partitions[3].size);
        assert_eq!(plan.partitions[2].size, plan.partitions[4].size);
        assert_eq!(plan.size, (1 + 128 + 80 + 2 + 80 + 2 + 256 + 1) * MIB);
    }

    #[test]
    fn the_root_hash_is_in_slot_a_alone() {
        let plan = example();
        assert_eq!(plan.partitions[1].guid, "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(plan.partitions[2].guid, "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(plan.partitions[3].guid, gpt::EMPTY_ROOT);
        let mut guids: Vec<_> = plan.partitions.iter().map(|p| &p.guid).collect();
        guids.sort();
        guids.dedup();
        assert_eq!(guids.len(), 6);
    }

    #[test]
    fn the_script_says_everything_that_sfdisk_would_otherwise_draw() {
        let script = example().sfdisk_script(SectorSize::B512);
        assert_eq!(script.matches("uuid=").count(), 6);
        assert!(script.contains("label-id: "));
        assert!(script.contains("start=2048, size=262144, type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b"));
        let script = example().sfdisk_script(SectorSize::B4096);
        assert!(script.contains("sector-size: 4096") && script.contains("first-lba: 256"));
        assert!(script.contains("start=256, size=32768, type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b"));
    }

    #[test]
    fn the_kind_of_fat_follows_from_the_count_of_clusters() {
        assert_eq!(fat(128 * MIB, SectorSize::B512), (32, 2));
        assert_eq!(fat(128 * MIB, SectorSize::B4096), (16, 1));
        assert_eq!(fat(256 * MIB, SectorSize::B4096), (16, 1));
        assert_eq!(fat(288 * MIB, SectorSize::B4096), (32, 1));
    }

    #[test]
    fn zeros_become_holes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut bytes = vec![0; 200 * 1024];
        bytes[150 * 1024] = 7;
        fs::write(&from, &bytes).expect("new");
        let mut disk = File::create(&to).expect("new");
        disk.set_len(MIB).expect("set");
        copy_sparse(&from, &mut disk, 4096).expect("copies");
        let copied = fs::read(&to).expect("there");
        assert_eq!(copied[4096..4096 + bytes.len()], bytes);
    }
}
