//! ATTACKS C1, C2, B7: what was changed does not run, or is refused by `attest` with the reason.

use anyhow::{Context, Result, ensure};
use pillar_e2e::damage::{Disk, pe_sections};
use pillar_e2e::machine::Bench;
use pillar_qemu::{Firmware, TpmKind};
use pillar_tools::Tools;
use std::fs;
use std::process::Stdio;

/// What the loader or the firmware say when a signature does not hold.
const SECURE_BOOT_REFUSALS: &[&str] =
    &["Access Denied", "Security Violation", "Access denied", "Security violation"];

/// What the kernel says when dm-verity finds a block that does not hash to the root.
const VERITY_REFUSALS: &[&str] =
    &["is corrupted", "dm-verity device has I/O error", "dm-verity device corrupted"];

/// Flips one bit somewhere, boots, and expects one of the reasons.
fn refused(test: &str, damage: impl FnOnce(&Disk) -> Result<()>, reasons: &[&str]) -> Result<()> {
    let bench = Bench::new(test)?;
    let disk = bench.disk()?;
    damage(&disk)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.refuses_to_boot(reasons).with_context(|| format!("logs in {}", bench.dir().display()))?;
    bench.passed();
    Ok(())
}

// attack: C1
#[test]
fn a_flipped_bit_in_root_data_is_not_run() -> Result<()> {
    // Block 0 has the file system's superblock: nothing can be read without it.
    refused("root-data", |disk| disk.flip_in("root-a", 1024 + 100), VERITY_REFUSALS)
}

// attack: C1
#[test]
fn a_flipped_bit_in_the_blocks_of_init_is_not_run() -> Result<()> {
    let refusal = |disk: &Disk| {
        let image = Bench::new("agent-bits-map")?.files().file("root");
        let output = Tools::open()?
            .command("dump.erofs")
            .args(["-e", "--path=/usr/bin/pillar-init"])
            .arg(&image)
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Lines `ext: logical..logical | length : physical..physical | length`.
        let physical = text
            .lines()
            .filter_map(|l| l.split("..").nth(1)?.rsplit(':').next()?.trim().parse::<u64>().ok())
            .next()
            .with_context(|| format!("dump.erofs names no extent: {text}"))?;
        disk.flip_in("root-a", physical + 64)
    };
    refused("init-data", refusal, VERITY_REFUSALS)
}

// attack: C1
#[test]
fn a_flipped_bit_in_the_verity_tree_is_not_run() -> Result<()> {
    // The hash block behind the superblock is the root of the tree.
    refused("verity-tree", |disk| disk.flip_in("root-a-verity", 4096 + 10), VERITY_REFUSALS)
}

// attack: C1
#[test]
fn a_flipped_bit_in_the_verity_superblock_is_not_run() -> Result<()> {
    // The salt: every hash comes out differently. Or a field that init checks.
    let reasons = [VERITY_REFUSALS, &["pillar-init: fatal"]].concat();
    refused("verity-superblock", |disk| disk.flip_in("root-a-verity", 88 + 3), &reasons)
}

// attack: C1
#[test]
fn a_flipped_bit_in_the_loader_is_not_run() -> Result<()> {
    let damage = |disk: &Disk| {
        let path = "EFI/BOOT/BOOTX64.EFI";
        let mut loader = disk.esp_read(path)?;
        let (_, offset, bytes) =
            pe_sections(&loader)?.into_iter().find(|(name, _, _)| name == ".text").context("no .text")?;
        loader[usize::try_from(offset + bytes / 2)?] ^= 1;
        disk.esp_write(path, &loader)
    };
    refused("loader", damage, SECURE_BOOT_REFUSALS)
}

/// Every section of the UKI, one bit each; in two tests, so that two machines work at it.
fn uki_sections(test: &str, half: usize) -> Result<()> {
    let bench = Bench::new(test)?;
    let original = fs::read(bench.files().file("efi"))?;
    let sections = pe_sections(&original)?;
    for wanted in [".linux", ".initrd", ".cmdline", ".osrel", ".uname", ".sbat", ".pcrsig", ".pcrpkey"] {
        ensure!(sections.iter().any(|(name, _, _)| name == wanted), "the UKI has no {wanted}: {sections:?}");
    }
    for (name, offset, bytes) in sections.into_iter().skip(half).step_by(2) {
        let damage = |disk: &Disk| {
            let mut uki = original.clone();
            uki[usize::try_from(offset + bytes / 2)?] ^= 1;
            disk.esp_write(&disk.esp_entry()?, &uki)
        };
        refused(&format!("{test}{name}"), damage, SECURE_BOOT_REFUSALS)
            .with_context(|| format!("section {name}"))?;
    }
    bench.passed();
    Ok(())
}

// attack: C1
#[test]
fn a_flipped_bit_in_any_section_of_the_uki_is_not_run_even() -> Result<()> {
    uki_sections("uki-even", 0)
}

// attack: C1
#[test]
fn a_flipped_bit_in_any_section_of_the_uki_is_not_run_odd() -> Result<()> {
    uki_sections("uki-odd", 1)
}

// attack: C2
#[test]
fn a_uki_with_a_foreign_signature_or_none_is_not_run() -> Result<()> {
    let tools = Tools::open()?;
    let strip = |disk: &Disk| -> Result<std::path::PathBuf> {
        let folder = disk.path().parent().context("the disk is in a folder")?;
        let uki = folder.join("uki.efi");
        fs::write(&uki, disk.esp_read(&disk.esp_entry()?)?)?;
        let status = tools.command("sbattach").arg("--remove").arg(&uki).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "sbattach cannot remove the signature");
        Ok(uki)
    };
    refused(
        "unsigned",
        |disk| disk.esp_write(&disk.esp_entry()?, &fs::read(strip(disk)?)?),
        SECURE_BOOT_REFUSALS,
    )?;
    let foreign = |disk: &Disk| {
        let uki = strip(disk)?;
        let (key, certificate) = (uki.with_extension("foreign.key"), uki.with_extension("foreign.crt"));
        let made = tools
            .command("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                "/CN=somebody else",
                "-days",
                "2",
            ])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stdin(Stdio::null())
            .output()?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let signed = uki.with_extension("signed");
        let output = tools
            .command("sbsign")
            .arg("--key")
            .arg(&key)
            .arg("--cert")
            .arg(&certificate)
            .arg("--output")
            .arg(&signed)
            .arg(&uki)
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "sbsign: {}", String::from_utf8_lossy(&output.stderr));
        fs::remove_file(&key)?;
        disk.esp_write(&disk.esp_entry()?, &fs::read(signed)?)
    };
    refused("foreign", foreign, SECURE_BOOT_REFUSALS)
}

// attack: C1
#[test]
fn both_copies_of_the_partition_table_damaged_do_not_boot() -> Result<()> {
    let damage = |disk: &Disk| {
        disk.flip(512 + 24)?;
        disk.flip(disk.bytes()? - 512 + 24)
    };
    refused(
        "gpt-both",
        damage,
        &["failed to load", "failed to start", "No bootable", "UEFI Interactive Shell"],
    )
}

/// The firmware repairs one damaged copy from the other before anything reads it. What runs is what was sealed: the
/// test checks that the table is whole again, byte for byte, and that the pillar proves the same measurements.
fn one_copy(test: &str, offset: impl FnOnce(&Disk) -> Result<u64>) -> Result<()> {
    let bench = Bench::new(test)?;
    let disk = bench.disk()?;
    let (start, end) = (disk.read(0, 34 * 512)?, disk.read(disk.bytes()? - 33 * 512, 33 * 512)?);
    disk.flip(offset(&disk)?)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    pillar.is_verified()?;
    drop(pillar);
    ensure!(disk.read(0, 34 * 512)? == start, "the primary copy is not what was sealed");
    ensure!(disk.read(disk.bytes()? - 33 * 512, 33 * 512)? == end, "the backup copy is not what was sealed");
    bench.passed();
    Ok(())
}

// attack: C1
#[test]
fn a_damaged_primary_partition_table_is_repaired_before_it_is_used() -> Result<()> {
    one_copy("gpt-primary", |_| Ok(1024 + 40))
}

// attack: C1
#[test]
fn a_damaged_backup_partition_table_is_repaired_before_it_is_used() -> Result<()> {
    one_copy("gpt-backup", |disk| Ok(disk.bytes()? - 512 + 24))
}

// attack: C1 A17
#[test]
fn a_changed_loader_setting_on_the_esp_is_refused_by_attest() -> Result<()> {
    let bench = Bench::new("esp")?;
    let disk = bench.disk()?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    pillar.is_verified()?;
    drop(pillar);
    // One bit: `timeout 0` becomes `timeout 1`.
    let mut text = disk.esp_read("loader/loader.conf")?;
    let at = text.windows(9).position(|w| w == b"timeout 0").context("loader.conf has `timeout 0`")? + 8;
    text[at] ^= 1;
    disk.esp_write("loader/loader.conf", &text)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    pillar.is_refused("firmware", "PCR 5")?;
    bench.passed();
    Ok(())
}

// attack: C2 P3
#[test]
fn secure_boot_off_boots_and_is_refused_by_attest() -> Result<()> {
    let bench = Bench::new("secure-boot-off")?;
    let disk = bench.disk()?;
    // And a bit of the UKI flipped that nothing but the measurement sees: the boot menu's title.
    let mut uki = disk.esp_read(&disk.esp_entry()?)?;
    let (_, offset, bytes) =
        pe_sections(&uki)?.into_iter().find(|(name, _, _)| name == ".osrel").context("no .osrel")?;
    let range = usize::try_from(offset)?..usize::try_from(offset + bytes)?;
    let at = uki[range.clone()].windows(12).position(|w| w == b"PRETTY_NAME=").context("no PRETTY_NAME")?;
    uki[range.start + at + 14] ^= 1;
    disk.esp_write(&disk.esp_entry()?, &uki)?;
    let pillar = bench.start(bench.machine(&disk)?.firmware(Firmware::NoSecureBoot))?;
    // It runs, as nothing checks signatures, and gets no state volume: its measurements are nobody's.
    pillar.answers_without_workload()?;
    let state = pillar.pillar(&["state", "status"])?;
    let reason = state.json["reason"].as_str().unwrap_or_default();
    ensure!(reason.starts_with("PCR 11 is not at the phase"), "{state:#?}");
    pillar.is_refused("release", "starts another uki")?;
    drop(pillar);

    let bench = Bench::new("secure-boot-off-alone")?;
    let disk = bench.disk()?;
    let pillar = bench.start(bench.machine(&disk)?.firmware(Firmware::NoSecureBoot))?;
    pillar.healthy()?;
    // The stub has the firmware start the kernel then, which measures it: one program more than with Secure Boot. (That the
    // variable itself is judged, `secure_boot_is_judged_by_content` in agent/verify shows.)
    pillar.is_refused("release", "starts a program more than the release does")?;
    bench.passed();
    Ok(())
}

// attack: B7
#[test]
fn without_a_tpm_it_boots_and_is_refused_by_attest() -> Result<()> {
    let bench = Bench::new("no-tpm")?;
    let disk = bench.disk()?;
    let pillar = bench.start(bench.machine(&disk)?.tpm(TpmKind::None))?;
    pillar.answers_without_workload()?;
    let status = pillar.pillar(&["status"])?;
    ensure!(status.json.to_string().contains("absent"), "status says that there is no TPM: {status:#?}");
    ensure!(status.json["workload"]["state"] == "stopped", "a workload without its data: {status:#?}");
    let state = pillar.pillar(&["state", "status"])?;
    ensure!(state.json["outcome"] == "absent", "{state:#?}");
    pillar.is_refused("evidence", "cannot open the TPM")?;
    bench.passed();
    Ok(())
}
