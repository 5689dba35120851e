//! The sealed state volume on whole machines: it is kept, it opens only for the image that is entitled to it, on its
//! machine, and k operators bring it back (ATTACKS C3, C4, C5).

use anyhow::{Context, Result, ensure};
use pillar_e2e::damage::Disk;
use pillar_e2e::machine::{BOOT, Bench, Pillar, SHUTDOWN};
use pillar_e2e::programs::{program, workspace};
use pillar_qemu::{Builder, DiskMode, Firmware, Machine, TpmKind};
use pillar_tools::Tools;
use std::path::PathBuf;
use std::process::{Command, Output};

/// What init says when there is no state volume.
const NO_VOLUME: &str = "pillar-init: no state volume: ";

fn told(mut command: Command) -> Result<Output> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// `pillar state …` against this machine.
fn state(pillar: &Pillar, words: &[&str]) -> Result<Command> {
    let mut command = program("pillar")?;
    command.arg("state").args(words).args(["--addr", &pillar.machine.agent_addr().to_string()]);
    Ok(command)
}

/// Powers a machine off in order.
fn off(pillar: Pillar) -> Result<()> {
    let addr = pillar.machine.agent_addr().to_string();
    let mut command = program("pillar")?;
    command.args(["reboot", "--power-off", "--addr", &addr]);
    told(command)?;
    let Pillar { mut machine, .. } = pillar;
    machine.wait_exit(SHUTDOWN).context("the pillar did not power off in order")?;
    Ok(())
}

/// Boots to where the volume does not open: the machine answers, its workload does not run, and the reason has these
/// words, on the console and over the network. `attest` refuses, too.
fn sealed(pillar: &Pillar, words: &str) -> Result<()> {
    let line = pillar.machine.wait_console(NO_VOLUME, BOOT)?.line;
    ensure!(line.contains(words), "expected {words:?}: {line}");
    pillar.answers_without_workload()?;
    let status = pillar.pillar(&["state", "status"])?;
    ensure!(status.json["outcome"] == "sealed", "{status:#?}");
    let reason = status.json["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(words), "expected {words:?}: {reason}");
    let status = pillar.pillar(&["status"])?;
    ensure!(status.json["workload"]["state"] == "stopped", "the workload runs without its data: {status:#?}");
    Ok(())
}

#[test]
fn on_a_larger_disk_the_volume_takes_what_is_there() -> Result<()> {
    const MORE: u64 = 300 << 20;
    let bench = Bench::new("state-larger-disk")?;
    let disk = bench.disk()?;
    let bytes = |disk: &Disk| -> Result<u64> {
        let partition = disk.partition("state")?;
        Ok((partition.last_lba - partition.first_lba + 1) * 512)
    };
    let before = bytes(&disk)?;
    // Not a whole number of mebibytes either.
    disk.enlarge(MORE + 512 * 3)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    let fitted = pillar.machine.wait_console("partition table fitted to the disk", BOOT)?;
    ensure!(
        fitted.line.contains(&format!("from {} to {} MiB", before >> 20, (before + MORE) >> 20)),
        "{}",
        fitted.line
    );
    // It starts again before anything else, so that what the firmware measured is what is there.
    pillar.healthy()?;
    let console = pillar.machine.console_so_far();
    ensure!(console.matches("partition table fitted").count() == 1, "it grows once");
    let state = pillar.pillar(&["state", "status"])?;
    ensure!(state.json["partition_bytes"] == before + MORE, "{state:#?}");
    let total = state.json["total_bytes"].as_u64().context("the file system's size")?;
    ensure!(total > (before + MORE) / 10 * 9, "the file system has {total} of {} bytes", before + MORE);
    ensure!(pillar.visit()? == 1);
    pillar.is_verified()?;
    off(pillar)?;
    ensure!(bytes(&disk)? == before + MORE, "the table on the disk");
    // The pins of the first answer hold: the table was measured as it stays.
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    pillar.is_verified()?;
    ensure!(pillar.visit()? == 2);
    bench.passed();
    Ok(())
}

// attack: C4
#[test]
fn the_volume_is_kept_and_no_older_epoch_opens_it() -> Result<()> {
    let bench = Bench::new("state-epoch")?;
    let disk = bench.disk()?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    ensure!(pillar.pillar(&["state", "status"])?.json["outcome"] == "made");
    ensure!([pillar.visit()?, pillar.visit()?] == [1, 2], "the first visits");
    pillar.is_verified()?;
    // Blessed, so that the entry has its final name.
    pillar.machine.wait_console("pillar-init: boot entry", BOOT)?;
    off(pillar)?;

    let entry = disk.esp_entry()?;
    let old = disk.esp_read(&entry)?;
    let new = bench.other_uki("epoch-2", &["epoch=2"])?;
    disk.esp_write(&entry, &new)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    let status = pillar.pillar(&["state", "status"])?;
    ensure!(status.json["outcome"] == "open", "the next image of the same signer opens it: {status:#?}");
    ensure!(pillar.visit()? == 3, "the number was kept");
    pillar.machine.wait_console("minimum security epoch raised to 2", BOOT)?;
    off(pillar)?;

    // The old image with its genuine signatures, put there by hand.
    disk.esp_write(&entry, &old)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    sealed(&pillar, "security epoch 1 of this image is below 2")?;
    pillar.is_refused("state volume", "no state volume is open")?;
    pillar.machine.power_cut();

    // An image that the same Secure Boot key signed, and another policy key.
    let stranger = bench.dir().join("stranger");
    let mut command = program("pillar-keys")?;
    told({
        command.args(["make", "--dir"]).arg(&stranger);
        command
    })?;
    let key = format!("pcr-key={}", stranger.join("pcr.key").display());
    let foreign = bench.other_uki("foreign", &["epoch=2", &key])?;
    disk.esp_write(&entry, &foreign)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    sealed(&pillar, "is not signed by its policy key")?;
    pillar.machine.power_cut();

    disk.esp_write(&entry, &new)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    ensure!(pillar.visit()? == 4, "nothing was lost over the refusals");
    bench.passed();
    Ok(())
}

/// A machine with a TPM of its own in this folder.
fn machine_in(bench: &Bench, folder: &str, disk: &Disk) -> Result<Builder> {
    Ok(bench.machine(disk)?.dir(bench.dir().join(folder)))
}

// attack: C5 P5
#[test]
fn on_another_machine_it_stays_closed_until_k_operators_recover_it() -> Result<()> {
    let bench = Bench::new("state-recovery")?;
    let disk = bench.disk()?;
    let pillar = bench.start(machine_in(&bench, "first", &disk)?)?;
    pillar.healthy()?;
    ensure!(pillar.visit()? == 1);
    pillar.is_verified()?;
    let made = pillar.pillar(&["state", "status"])?.json["uuid"].clone();
    off(pillar)?;

    let pillar = bench.start(machine_in(&bench, "second", &disk)?)?;
    sealed(&pillar, "the TPM has lost the minimum epoch that belongs to this state volume")?;
    let keys = workspace().join("keys/dev");
    let (release, ca) = (bench.files().out.join("release.json"), pillar.machine.ek_ca().map(PathBuf::from));
    let recover = |operator: u32| -> Result<Output> {
        let mut command = state(&pillar, &["recover"])?;
        command.arg("--key").arg(keys.join(format!("operator-{operator}.key")));
        command.arg("--cert").arg(keys.join(format!("operator-{operator}.crt")));
        command.arg("--release").arg(&release);
        if let Some(ca) = &ca {
            command.arg("--ek-ca").arg(ca);
        }
        Ok(command.output()?)
    };
    let said = |output: &Output| {
        let text = [&output.stdout[..], &output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    };
    // The same operator twice is one share.
    for _ in 0..2 {
        let first = recover(1)?;
        ensure!(first.status.success() && said(&first).contains("has 1 of 2 shares"), "{}", said(&first));
    }
    let before = pillar.machine.console().mark();
    let second = recover(3)?;
    ensure!(second.status.success() && said(&second).contains("has 2 of 2 shares"), "{}", said(&second));
    pillar.healthy_after(before)?;
    let status = pillar.pillar(&["state", "status"])?;
    ensure!(status.json["outcome"] == "open" && status.json["uuid"] == made, "{status:#?}");
    ensure!(pillar.visit()? == 2, "the number came back");
    let third = recover(2)?;
    ensure!(
        third.status.code() == Some(1) && said(&third).contains("nothing to recover"),
        "{}",
        said(&third)
    );

    // Given up: another volume, and who pinned the old one is told.
    std::fs::remove_file(bench.dir().join("pins.json")).ok();
    pillar.is_verified()?;
    let unsure = state(&pillar, &["erase"])?.output()?;
    ensure!(unsure.status.code() == Some(1) && said(&unsure).contains("--yes"), "{}", said(&unsure));
    let before = pillar.machine.console().mark();
    told(state(&pillar, &["erase", "--yes"])?)?;
    pillar.healthy_after(before)?;
    let status = pillar.pillar(&["state", "status"])?;
    ensure!(status.json["outcome"] == "made" && status.json["uuid"] != made, "{status:#?}");
    ensure!(pillar.visit()? == 1, "nothing of the old volume is left");
    pillar.is_refused("state volume", "is pinned")?;
    bench.passed();
    Ok(())
}

// attack: C3 P4
#[test]
fn look_alikes_and_other_firmware_are_named_and_nothing_is_written_over() -> Result<()> {
    let bench = Bench::new("state-look-alike")?;
    let disk = bench.disk()?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    ensure!(pillar.visit()? == 1);
    let uuid = pillar.pillar(&["state", "status"])?.json["uuid"].as_str().context("a UUID")?.to_owned();
    off(pillar)?;
    let genuine = disk.state_head()?;

    // Somebody's own volume with the same UUID and a passphrase that they know.
    let look_alike = bench.dir().join("look-alike.img");
    std::fs::File::create(&look_alike)?.set_len(64 << 20)?;
    let passphrase = bench.dir().join("passphrase");
    std::fs::write(&passphrase, "known to the attacker")?;
    let mut command = Tools::open()?.command("cryptsetup");
    command.args([
        "luksFormat",
        "-q",
        "--type",
        "luks2",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
    ]);
    command.args(["--uuid", &uuid, "--label", "pillar-state", "--subsystem", "pillar", "--key-file"]);
    told({
        command.arg(&passphrase).arg(&look_alike);
        command
    })?;
    let bytes = std::fs::read(&look_alike)?;
    disk.set_state_head(&bytes[..genuine.len()])?;
    let forged = disk.state_head()?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    sealed(&pillar, "the state volume's LUKS2 header: ")?;
    pillar.machine.power_cut();
    ensure!(disk.state_head()? == forged, "what is not ours was written over");

    // Somebody's file system where the volume was.
    let mut other = genuine.clone();
    other[..32 << 10].fill(0);
    other[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    disk.set_state_head(&other)?;
    let pillar = bench.start(bench.machine(&disk)?)?;
    sealed(&pillar, "the state partition holds ")?;
    pillar.machine.power_cut();
    ensure!(disk.state_head()? == other, "somebody's data was written over");

    // The genuine volume under firmware that does not check signatures.
    disk.set_state_head(&genuine)?;
    // The two builds of the firmware do not leave each other's variables as they were.
    let variables = bench.dir().join("p1/vars.fd");
    let kept = std::fs::read(&variables)?;
    let builder = Machine::builder("p1")
        .dir(bench.dir().join("p1"))
        .disk(disk.path(), DiskMode::InPlace)
        .firmware(Firmware::NoSecureBoot)
        .tpm(TpmKind::swtpm())
        .memory_mib(512);
    let pillar = bench.start(builder)?;
    let line = pillar.machine.wait_console(NO_VOLUME, BOOT)?.line;
    ensure!(line.contains("PCR ") && line.contains("was sealed"), "the changed PCR is named: {line}");
    pillar.machine.power_cut();
    std::fs::write(&variables, kept)?;

    let pillar = bench.start(bench.machine(&disk)?)?;
    pillar.healthy()?;
    ensure!(pillar.visit()? == 2, "the genuine volume is as it was");
    bench.passed();
    Ok(())
}
