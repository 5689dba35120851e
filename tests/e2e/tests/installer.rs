//! The installer in a machine of its own: it writes the release to the one empty disk and that disk then boots and proves
//! itself; where two disks could be meant, it writes to neither.

use anyhow::{Context, Result, ensure};
use pillar_e2e::damage::{Disk, pe_sections};
use pillar_e2e::machine::{BOOT, Bench, SHUTDOWN, enrolled};
use pillar_e2e::programs::{program, workspace};
use pillar_layout::console;
use pillar_qemu::{Builder, DiskMode, Firmware, Machine, Mark, TpmKind};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Larger than the image, and no whole number of mebibytes.
const DISK_BYTES: u64 = (700 << 20) + 512 * 1234;

/// The installer for the release in `out/`, with the rule `only`; built once for all tests.
fn installer(bench: &Bench) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let run = || -> Result<()> {
            let mut command = program("pillar-image")?;
            command.args(["installer", "rule=only", "offline=yes"]).current_dir(workspace());
            let output = command.output().context("cannot start pillar-image")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        run().map_err(|error| format!("{error:#}"))
    });
    if let Err(error) = built {
        anyhow::bail!("the installer was not built: {error}");
    }
    let predicate = &bench.files().release.predicate;
    Ok(bench.files().out.join(format!("pillar-installer_{}_{}.raw", predicate.version, predicate.flavour)))
}

fn empty_disk(path: &Path) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(DISK_BYTES)).context("cannot make an empty disk")
}

/// A machine that boots from the installer and has these disks beside it.
fn machine(bench: &Bench, disks: &[PathBuf]) -> Result<Builder> {
    let mut builder = Machine::builder("installer")
        .dir(bench.dir().join("installer"))
        .disk(installer(bench)?, DiskMode::Snapshot)
        .firmware(Firmware::enrolled(enrolled()?))
        .tpm(TpmKind::swtpm())
        .memory_mib(512);
    for (index, disk) in disks.iter().enumerate() {
        let mut drive = OsString::from(format!("if=none,id=other{index},format=raw,cache=unsafe,file="));
        drive.push(disk);
        let device =
            format!("virtio-blk-pci,drive=other{index},serial=other{index},addr={:#x}", 0x10 + index);
        builder = builder.qemu_argument("-drive").qemu_argument(drive);
        builder = builder.qemu_argument("-device").qemu_argument(device);
    }
    Ok(builder)
}

#[test]
fn an_installed_disk_boots_and_proves_itself() -> Result<()> {
    let bench = Bench::new("installer")?;
    let path = bench.dir().join("disk.raw");
    empty_disk(&path)?;
    let mut machine = machine(&bench, std::slice::from_ref(&path))?.start()?;
    let patterns = [console::INSTALLED, console::NOT_INSTALLED, "pillar-init: fatal", "Kernel panic"];
    let found = machine.console().wait_any(&patterns, Mark::default(), BOOT)?;
    ensure!(found.pattern == 0, "nothing was installed: {}", found.line);
    machine.wait_exit(SHUTDOWN).context("the installer did not power off")?;
    drop(machine);

    let disk = Disk::open(&path)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    pillar.is_verified()?;
    bench.passed();
    Ok(())
}

/// What is sealed to the release's signed policies stays closed to an installer that the same keys signed.
// attack: P7
#[test]
fn the_installers_uki_carries_no_policy_signature() -> Result<()> {
    let bench = Bench::new("installer-uki")?;
    let stick = Disk::open(&installer(&bench)?)?;
    let version = &bench.files().release.predicate.version;
    let uki = stick.esp_read(&format!("EFI/Linux/pillar-installer_{version}.efi"))?;
    let sections: Vec<String> = pe_sections(&uki)?.into_iter().map(|(name, ..)| name).collect();
    ensure!(sections.iter().any(|name| name == ".cmdline"), "this is no UKI: {sections:?}");
    ensure!(!sections.iter().any(|name| name.starts_with(".pcr")), "it carries policies: {sections:?}");
    bench.passed();
    Ok(())
}

// attack: P7
#[test]
fn two_disks_that_could_be_meant_are_both_left_alone() -> Result<()> {
    let bench = Bench::new("installer-two-disks")?;
    let disks = ["one.raw", "two.raw"].map(|name| bench.dir().join(name));
    for disk in &disks {
        empty_disk(disk)?;
    }
    let machine = machine(&bench, &disks)?.start()?;
    let found = machine.console().wait_any(
        &[console::NOT_INSTALLED, console::INSTALLED, "pillar-init: fatal", "Kernel panic"],
        Mark::default(),
        BOOT,
    )?;
    ensure!(found.pattern == 0, "not refused: {}", found.line);
    ensure!(found.line.contains("more than one disk fits the rule only: "), "another reason: {}", found.line);
    drop(machine);
    for disk in &disks {
        let mut file = File::open(disk)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let bytes = file.read(&mut buffer)?;
            if bytes == 0 {
                break;
            }
            ensure!(buffer[..bytes].iter().all(|byte| *byte == 0), "{} was written to", disk.display());
        }
        fs::remove_file(disk)?;
    }
    bench.passed();
    Ok(())
}
