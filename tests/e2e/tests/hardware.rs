//! The metal image on the hardware that QEMU emulates: each value of each column below on some machine, and every
//! machine from the factory (firmware in setup mode) to an attested pillar, or refused for a reason that names the limit.

use anyhow::{Context, Result, ensure};
use pillar_e2e::damage::pe_sections;
use pillar_e2e::machine::{Bench, Pillar};
use pillar_e2e::release::Files;
use pillar_model::Bank;
use pillar_qemu::{
    DiskBus, DiskMode, Firmware, Hardware, Machine, Nic, SECTOR_4K, SECTOR_USUAL, TpmInterface, TpmKind,
};
use std::fs;
use std::path::PathBuf;

const FLAVOUR: &str = "metal";
const BOTH: &[Bank] = &[Bank::Sha256, Bank::Sha384];
/// What init says when the TPM lacks the bank that pillars seal to.
const NO_SHA256: &str = "the TPM has no sha256 bank; switch it on in the firmware's TPM settings";

/// One machine.
struct Row {
    name: &'static str,
    hardware: Hardware,
    memory_mib: u32,
    cpus: u32,
    banks: &'static [Bank],
    /// QEMU's i6300esb; without it the chipset's own watchdog is to be found.
    watchdog: bool,
}

const fn hardware(disk_bus: DiskBus, sector_bytes: u32, nic: Nic, tpm: TpmInterface) -> Hardware {
    Hardware { disk_bus, sector_bytes, nic, tpm, display: false }
}

const NVME: Row = Row {
    name: "nvme",
    hardware: Hardware { display: true, ..hardware(DiskBus::Nvme, SECTOR_4K, Nic::Igb, TpmInterface::Tis) },
    memory_mib: 8192,
    cpus: 4,
    banks: BOTH,
    watchdog: true,
};
const AHCI: Row = Row {
    name: "ahci",
    hardware: hardware(DiskBus::Ahci, SECTOR_USUAL, Nic::E1000e, TpmInterface::Crb),
    memory_mib: 512,
    cpus: 1,
    banks: BOTH,
    watchdog: false,
};
const USB: Row = Row {
    name: "usb",
    hardware: hardware(DiskBus::Usb, SECTOR_4K, Nic::Vmxnet3, TpmInterface::Tis),
    memory_mib: 512,
    cpus: 2,
    banks: &[Bank::Sha384],
    watchdog: true,
};
const SD: Row = Row {
    name: "sd",
    hardware: hardware(DiskBus::Sd, SECTOR_USUAL, Nic::Virtio, TpmInterface::Crb),
    memory_mib: 512,
    cpus: 1,
    banks: &[Bank::Sha256],
    watchdog: true,
};
const SCSI: Row = Row {
    name: "scsi",
    hardware: hardware(DiskBus::VirtioScsi, SECTOR_4K, Nic::E1000e, TpmInterface::Crb),
    memory_mib: 8192,
    cpus: 1,
    banks: BOTH,
    watchdog: true,
};
const BLK: Row = Row {
    name: "virtio-blk",
    hardware: hardware(DiskBus::VirtioBlk, SECTOR_USUAL, Nic::Vmxnet3, TpmInterface::Tis),
    memory_mib: 512,
    cpus: 1,
    banks: BOTH,
    watchdog: true,
};
const ALL: [&Row; 6] = [&NVME, &AHCI, &USB, &SD, &SCSI, &BLK];

impl Row {
    fn start(&self, bench: &Bench) -> Result<Pillar> {
        let image = if self.hardware.sector_bytes == SECTOR_4K { "4k.raw" } else { "raw" };
        let builder = Machine::builder("p1")
            .dir(bench.dir().join("p1"))
            .disk(bench.files().file(image), DiskMode::Copy)
            .firmware(Firmware::setup_mode())
            .tpm(TpmKind::Swtpm { banks: self.banks.to_vec(), ca: None })
            .hardware(self.hardware)
            .memory_mib(self.memory_mib)
            .cpus(self.cpus)
            .watchdog(self.watchdog)
            .forward(8080);
        bench.start(builder)
    }

    /// From the factory to the verdict.
    fn run(&self) -> Result<()> {
        let bench = Bench::with(&format!("hardware-{}", self.name), Files::of_flavour(FLAVOUR)?)?;
        let pillar = self.start(&bench)?;
        if self.banks.contains(&Bank::Sha256) {
            pillar.healthy()?;
            println!("{}: healthy after {:.1} s", self.name, pillar.machine.uptime().as_secs_f64());
            for bank in self.banks {
                pillar.is_verified_with(&["--bank", &bank.to_string()])?;
            }
        } else {
            // Neither evidence nor a state volume without it, and both say so.
            pillar.answers_without_workload()?;
            pillar.is_refused("evidence", NO_SHA256)?;
            let state = pillar.pillar(&["state", "status"])?;
            ensure!(state.json["outcome"] == "absent", "{state:#?}");
            let reason = state.json["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains("the TPM's SHA-256 bank is off"), "{reason}");
        }
        self.saw_its_hardware(&pillar)?;
        drop(pillar);
        bench.passed();
        Ok(())
    }

    /// The log tells which devices the image found; the row proves nothing about others.
    fn saw_its_hardware(&self, pillar: &Pillar) -> Result<()> {
        let logs = pillar.pillar(&["logs", "-n", "0"])?;
        let records = logs.json.as_array().context("logs are one record a line")?;
        let lines: Vec<&str> = records.iter().filter_map(|record| record["text"].as_str()).collect();
        let has = |what: &str| lines.iter().any(|line| line.contains(what));
        let disk = match self.hardware.disk_bus {
            DiskBus::Nvme => "nvme0n1",
            DiskBus::Ahci | DiskBus::Usb | DiskBus::VirtioScsi => "sda",
            DiskBus::Sd => "mmcblk0",
            DiskBus::VirtioBlk => "vda",
        };
        let driver = match self.hardware.nic {
            Nic::Virtio => "eth0",
            Nic::E1000e => "e1000e 0000:00:03.0",
            Nic::Igb => "igb 0000:00:03.0",
            Nic::Vmxnet3 => "vmxnet3 0000:00:03.0",
        };
        let watchdog = if self.watchdog { "watchdog armed: i6300ESB" } else { "watchdog armed: iTCO_wdt" };
        for wanted in [
            format!("is slot a of {disk}"),
            driver.to_owned(),
            format!("Brought up 1 node, {} CPU", self.cpus),
            watchdog.to_owned(),
        ] {
            ensure!(has(&wanted), "{}: no record has {wanted:?}:\n{}", self.name, lines.join("\n"));
        }
        ensure!(
            has("tpm_tis ") == (self.hardware.tpm == TpmInterface::Tis),
            "{}: the other TPM interface",
            self.name
        );
        let framebuffer = has("Console: switching to colour frame buffer device");
        ensure!(framebuffer == self.hardware.display, "{}: framebuffer console: {framebuffer}", self.name);
        let memory_kib = lines.iter().find_map(|line| memory_kib(line)).context("no record of the memory")?;
        let all_kib = u64::from(self.memory_mib) << 10;
        ensure!(
            (all_kib * 9 / 10..=all_kib).contains(&memory_kib),
            "{}: the kernel found {memory_kib} KiB of memory",
            self.name
        );
        Ok(())
    }
}

/// The second figure of `Memory: 399652K/504204K available (…`.
fn memory_kib(line: &str) -> Option<u64> {
    let (_, figures) = line.split_once("Memory: ")?;
    figures.split_once("K/")?.1.split_once("K available")?.0.parse().ok()
}

#[test]
fn the_machines_have_every_value_of_every_column() {
    let has = |what: &dyn Fn(&Row) -> bool| ALL.iter().any(|row| what(row));
    for bus in DiskBus::ALL {
        assert!(has(&|row| row.hardware.disk_bus == *bus), "{bus}");
    }
    for nic in Nic::ALL {
        assert!(has(&|row| row.hardware.nic == *nic), "{nic}");
    }
    for tpm in TpmInterface::ALL {
        assert!(has(&|row| row.hardware.tpm == *tpm), "{tpm}");
    }
    for bytes in [SECTOR_USUAL, SECTOR_4K] {
        assert!(has(&|row| row.hardware.sector_bytes == bytes), "{bytes}");
    }
    for mib in [512, 8192] {
        assert!(has(&|row| row.memory_mib == mib), "{mib} MiB");
    }
    for cpus in [1, 2, 4] {
        assert!(has(&|row| row.cpus == cpus), "{cpus} CPUs");
    }
    for banks in [BOTH, &[Bank::Sha256], &[Bank::Sha384]] {
        assert!(has(&|row| row.banks == banks), "{banks:?}");
    }
    assert!(has(&|row| row.hardware.display) && has(&|row| !row.hardware.display), "framebuffer");
    assert!(has(&|row| row.watchdog) && has(&|row| !row.watchdog), "watchdogs");
    for row in ALL {
        assert!(row.hardware.check().is_ok(), "{}", row.name);
    }
}

#[test]
fn nvme_of_4096_byte_sectors_with_igb_tis_8_gib_4_cpus_and_a_screen() -> Result<()> {
    NVME.run()
}

#[test]
fn ahci_with_e1000e_crb_and_the_chipsets_watchdog() -> Result<()> {
    AHCI.run()
}

// attack: B7
#[test]
fn usb_storage_with_vmxnet3_and_a_tpm_without_sha256_is_refused_by_default() -> Result<()> {
    USB.run()
}

#[test]
fn sd_card_with_virtio_net() -> Result<()> {
    SD.run()
}

#[test]
fn virtio_scsi_of_4096_byte_sectors_with_8_gib() -> Result<()> {
    SCSI.run()
}

#[test]
fn virtio_blk_with_vmxnet3_and_tis() -> Result<()> {
    BLK.run()
}

/// A BIOS starts the kernel: there is a TPM, and a log of it, but none that tells of our loader and UKI. (That no log at
/// all is refused, `agent/daemon` tests.)
// attack: B7
#[test]
fn started_by_a_bios_it_boots_and_is_refused_by_attest() -> Result<()> {
    let bench = Bench::with("bios", Files::of_flavour(FLAVOUR)?)?;
    let uki = fs::read(bench.files().file("efi"))?;
    let section = |wanted: &str| -> Result<PathBuf> {
        let (_, offset, bytes) = pe_sections(&uki)?
            .into_iter()
            .find(|(name, ..)| name == wanted)
            .with_context(|| format!("no {wanted}"))?;
        let range = usize::try_from(offset)?..usize::try_from(offset + bytes)?;
        let path = bench.dir().join(wanted.trim_start_matches('.'));
        fs::write(&path, uki.get(range).context("UKI ends early")?)?;
        Ok(path)
    };
    let command_line = fs::read_to_string(section(".cmdline")?)?;
    let builder = Machine::builder("p1")
        .dir(bench.dir().join("p1"))
        .disk(bench.files().file("raw"), DiskMode::Copy)
        .firmware(Firmware::Bios)
        .tpm(TpmKind::swtpm())
        .hardware(hardware(DiskBus::Nvme, SECTOR_USUAL, Nic::Virtio, TpmInterface::Crb))
        .kernel(section(".linux")?, Some(section(".initrd")?), command_line.trim_end_matches(['\0', '\n']))
        .forward(8080);
    let pillar = bench.start(builder)?;
    pillar.answers_without_workload()?;
    pillar.is_refused("event rules", "PCR 0: event 6 (EV_SEPARATOR)")?;
    drop(pillar);
    bench.passed();
    Ok(())
}
