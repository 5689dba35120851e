//! The bare kernel: the kernel of our own UKI with an init of a few instructions that powers off, as a UKI on a disk
//! of its own. What it takes is what no user space can save.

use crate::program;
use anyhow::{Context, Result, ensure};
use pillar_e2e::damage::pe_sections;
use pillar_keys::SecureBootKey;
use pillar_tools::Tools;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the init writes to the kernel's log.
pub const MARKER: &str = "pillar-bench: bare init runs";
/// As the reference's, without what is the reference's own: everything of our command line that makes the kernel start
/// sooner, nothing that hardens it.
const COMMAND_LINE: &str = "console=tty0 console=ttyS0 loglevel=6 audit=0 cryptomgr.notests panic=-1";
const INIT: &str = include_str!("../bare.S");
/// The firmware mounts no FAT32 with fewer than 65525 clusters: of that size it has more, at mkfs.vfat's choice.
const ESP_MIB: u32 = 512;

/// Builds the disk image in `folder`.
pub fn build(tools: &Tools, uki: &Path, db: &SecureBootKey, folder: &Path) -> Result<PathBuf> {
    let bytes = fs::read(uki).with_context(|| format!("cannot read {}", uki.display()))?;
    let linux = folder.join("linux");
    write(&linux, section(&bytes, ".linux").with_context(|| format!("{} holds no kernel", uki.display()))?)?;
    let initrd = folder.join("initrd");
    write(&initrd, &cpio(&assemble(folder)?))?;
    let efi = folder.join("bare.efi");
    let mut ukify = tools.command("ukify");
    ukify.arg("build").arg("--linux").arg(&linux).arg("--initrd").arg(&initrd);
    ukify.args(["--cmdline", COMMAND_LINE, "--os-release", "ID=pillar-bench"]);
    ukify.arg("--secureboot-private-key").arg(&db.key);
    ukify.arg("--secureboot-certificate").arg(&db.certificate);
    // The kernel inside is covered by the UKI's signature.
    ukify.args(["--signtool", "systemd-sbsign", "--no-sign-kernel"]).arg("--output").arg(&efi);
    program::run(&mut ukify, "ukify", &folder.join("ukify.log"))?;
    disk(tools, &efi, folder)
}

fn disk(tools: &Tools, efi: &Path, folder: &Path) -> Result<PathBuf> {
    let definitions = folder.join("repart.d");
    fs::create_dir_all(&definitions).with_context(|| format!("cannot create {}", definitions.display()))?;
    let esp = format!(
        "[Partition]\nType=esp\nFormat=vfat\nSizeMinBytes={ESP_MIB}M\nCopyFiles={}:/EFI/BOOT/BOOTX64.EFI\n",
        efi.display()
    );
    write(&definitions.join("00-esp.conf"), esp.as_bytes())?;
    let image = folder.join("bare.raw");
    let mut repart = tools.command("systemd-repart");
    repart.args(["--empty=create", "--size=auto", "--offline=yes"]);
    repart.arg(format!("--definitions={}", definitions.display())).arg(&image);
    program::run(&mut repart, "systemd-repart", &folder.join("repart.log"))?;
    Ok(image)
}

/// The content of a UKI's section.
fn section<'a>(uki: &'a [u8], name: &str) -> Result<&'a [u8]> {
    let (_, offset, length) = pe_sections(uki)?
        .into_iter()
        .find(|(n, ..)| n == name)
        .with_context(|| format!("no section {name}"))?;
    let begin = usize::try_from(offset)?;
    uki.get(begin..begin + usize::try_from(length)?)
        .with_context(|| format!("{name} ends behind the file's end"))
}

/// The init as a static ELF.
fn assemble(folder: &Path) -> Result<Vec<u8>> {
    let init = folder.join("init");
    let mut cc = Command::new("cc")
        .args(["-nostdlib", "-static", "-s", "-Wl,--build-id=none", "-x", "assembler", "-o"])
        .arg(&init)
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start cc, which links the bare init")?;
    cc.stdin.take().context("cc has no input")?.write_all(INIT.as_bytes()).context("cannot write to cc")?;
    let status = cc.wait().context("cannot wait for cc")?;
    ensure!(status.success(), "cc does not assemble the bare init ({status})");
    fs::read(&init).with_context(|| format!("cannot read {}", init.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// An initrd with the init and the two devices that it and the kernel open, in the format "newc" (kernel:
/// Documentation/driver-api/early-userspace/buffer-format.rst).
fn cpio(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut entry = |name: &str, mode: u32, device: [usize; 2], data: &[u8]| {
        let fields =
            [0, mode as usize, 0, 0, 1, 0, data.len(), 0, 0, device[0], device[1], name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        for field in fields {
            archive.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    entry("dev", 0o040_755, [0, 0], &[]);
    entry("dev/console", 0o020_600, [5, 1], &[]);
    entry("dev/kmsg", 0o020_600, [1, 11], &[]);
    entry("init", 0o100_755, [0, 0], init);
    entry("TRAILER!!!", 0, [0, 0], &[]);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_what_the_init_writes() {
        assert!(INIT.contains(&format!("<5>{MARKER}\\n")));
    }

    #[test]
    fn the_archive_is_aligned_and_ends_with_its_trailer() {
        for length in 0..9 {
            let archive = cpio(&vec![7; length]);
            assert_eq!(archive.len() % 4, 0);
            assert!(archive.starts_with(b"070701"));
            let text = String::from_utf8_lossy(&archive);
            assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"), "{text:?}");
            // Every header starts on a multiple of four.
            for (at, _) in text.match_indices("070701") {
                assert_eq!(at % 4, 0);
            }
        }
    }
}
