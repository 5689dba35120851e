//! A disk image for sectors of 4096 bytes, looked at by programs that we did not write.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings are broken")]

use pillar_image::disk::{self, EspFile};
use pillar_image::flavour::{Disk, SectorSize};
use pillar_image::seal::Sealer;
use pillar_layout::gpt;
use pillar_model::RootHash;
use pillar_tools::Tools;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: SectorSize = SectorSize::B4096;

fn agrees(tools: &Tools, program: &str, arguments: &[&str]) -> String {
    let output = tools.command(program).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {text}");
    text
}

#[test]
fn table_and_esp_of_a_disk_with_large_sectors_are_accepted() {
    let tools = Tools::open().unwrap();
    let sealer = Sealer { tools: &tools, epoch: 1_735_689_600, seed: "large sectors" };
    let dir = tempfile::tempdir().unwrap();
    let hash: RootHash = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef".parse().unwrap();
    // One ESP of each kind of FAT.
    for (esp_mib, kind) in [(64, "FAT16"), (288, "FAT32")] {
        let sizes = Disk { sector_sizes: vec![SECTOR], esp_mib, root_mib: 4, verity_mib: 1, state_mib: 8 };
        let plan = disk::plan(&sizes, &hash, "seed");
        let content = dir.path().join("content");
        std::fs::write(&content, vec![0x5a; 3_000_001]).unwrap();
        let (esp, raw) = (dir.path().join("esp"), dir.path().join("disk.4k.raw"));
        let files = [EspFile { path: "EFI/BOOT/BOOTX64.EFI".to_owned(), source: content.clone() }];
        let partition = plan.partition(gpt::LABEL_ESP).unwrap();
        disk::esp(&sealer, partition, SECTOR, &files, &esp).unwrap();
        let contents = [(gpt::LABEL_ESP, esp.as_path()), (gpt::LABEL_ROOT_A, content.as_path())];
        disk::write(&sealer, &plan, SECTOR, &contents, &raw).unwrap();

        let raw_text = raw.to_str().unwrap();
        agrees(&tools, "sfdisk", &["--verify", "--sector-size", "4096", raw_text]);
        let file = File::open(&raw).unwrap();
        let read = |offset: u64, bytes: usize| {
            let mut buffer = vec![0; bytes];
            file.read_exact_at(&mut buffer, offset).map(|()| buffer)
        };
        let blocks = file.metadata().unwrap().len() / SECTOR.bytes();
        assert_eq!(pillar_slot::fit(4096, blocks, read).unwrap(), None, "sfdisk and we agree");

        let boot_sector = read(partition.start, 512).unwrap();
        assert_eq!(boot_sector[11..13], 4096_u16.to_le_bytes(), "bytes per sector");
        let copy = dir.path().join("copy");
        let mut from = File::open(&raw).unwrap();
        from.seek(SeekFrom::Start(partition.start)).unwrap();
        std::io::copy(&mut from.take(partition.size), &mut File::create(&copy).unwrap()).unwrap();
        let copy = copy.to_str().unwrap();
        let said = agrees(&tools, "fsck.vfat", &["-n", "-v", copy]);
        assert!(said.contains("4096 bytes per logical sector"), "{said}");
        let bits = if kind == "FAT32" { "FATs, 32 bit entries" } else { "FATs, 16 bit entries" };
        assert!(said.contains(bits), "{kind}: {said}");
        let listed = agrees(&tools, "mdir", &["-/", "-b", "-i", copy, "::"]);
        assert!(listed.contains("::/EFI/BOOT/BOOTX64.EFI"), "{listed}");
        accepted_as_a_device(&tools, &raw);
    }
}

/// sgdisk takes a file's sectors for 512 bytes; only a device tells it otherwise.
fn accepted_as_a_device(tools: &Tools, raw: &Path) {
    let mut attach = std::process::Command::new("losetup");
    let attached =
        attach.args(["--find", "--show", "--read-only", "--sector-size", "4096"]).arg(raw).output();
    let device = match attached {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        _ => return eprintln!("skipped: sgdisk on a loop device needs root and loop devices"),
    };
    let output = tools.command("sgdisk").args(["-v", &device]).output();
    let detached = std::process::Command::new("losetup").args(["--detach", &device]).status().unwrap();
    assert!(detached.success());
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(said.contains("No problems found"), "{said}");
}
