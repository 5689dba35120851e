//! The life of one pillar, as its operator sees it: keys enrolled, attested, looked at, rebooted, attested again.

use anyhow::{Context, Result, ensure};
use pillar_e2e::machine::{BOOT, Bench, Pillar, SHUTDOWN};
use pillar_e2e::programs::program;
use pillar_layout::console;
use pillar_qemu::{DiskMode, Firmware, Machine, TpmKind};
use pillar_tools::Tools;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

// attack: P9
#[test]
fn a_pillar_enrols_our_keys_proves_itself_and_comes_back_after_a_reboot() -> Result<()> {
    let bench = Bench::new("life")?;
    let disk = bench.disk()?;
    ensure!(disk.esp_entry()?.contains("+3."), "a new image's boot entry has three tries");
    // From the factory: firmware in setup mode, no keys. The loader enrols ours and resets.
    let builder = Machine::builder("p1")
        .dir(bench.dir().join("p1"))
        .disk(disk.path(), DiskMode::InPlace)
        .firmware(Firmware::setup_mode())
        .tpm(TpmKind::swtpm())
        .memory_mib(512)
        .forward(8080);
    let pillar = bench.start(builder)?;
    pillar.healthy()?;

    let release = &bench.files().release.predicate;
    let status = pillar.pillar(&["status"])?;
    ensure!(status.code == 0, "{status:#?}");
    let text = status.json.to_string();
    ensure!(text.contains(&release.root_hash.to_string()), "status names the root hash: {text}");
    ensure!(status.json["slot"] == "a", "the first boot is from slot a: {text}");
    ensure!(status.json["version"] == release.version.as_str(), "status names the version: {text}");

    pillar.is_verified()?;

    let page = get(pillar.machine.workload_addr(8080)?, "/")?;
    ensure!(page.starts_with("HTTP/1.1 200") && page.contains("<html"), "the workload serves a page: {page}");

    // Nobody but the operators is answered: another key is refused in the handshake.
    let stranger =
        program("pillar-keys")?.args(["make", "--dir"]).arg(bench.dir().join("stranger")).output()?;
    ensure!(stranger.status.success(), "{}", String::from_utf8_lossy(&stranger.stderr));
    let (key, certificate) =
        (bench.dir().join("stranger/operator-1.key"), bench.dir().join("stranger/operator-1.crt"));
    let words = ["status", "--key", &key.display().to_string(), "--cert", &certificate.display().to_string()];
    let refused = pillar.pillar(&words)?;
    ensure!(refused.code == 4 && refused.errors.contains("refused"), "a stranger is served: {refused:#?}");

    resident_memory_is_small(&pillar)?;

    let logs = pillar.pillar(&["logs", "-n", "0"])?;
    let records = logs.json.as_array().context("logs are one record a line")?;
    ensure!(
        records.iter().any(|r| r["text"] == "pillar-init: workload healthy"),
        "the log has init's records"
    );

    // Blessed once healthy for a while: the boot entry loses its counter.
    pillar.machine.wait_console("pillar-init: boot entry", BOOT)?;
    ensure!(pillar.pillar(&["status"])?.json["trial"] == false, "a blessed boot is no trial");

    third_party_replay_agrees(&bench, &pillar.machine)?;

    let before = pillar.machine.console().mark();
    let answer =
        program("pillar")?.args(["reboot", "--addr", &pillar.machine.agent_addr().to_string()]).output()?;
    ensure!(answer.status.success(), "reboot: {}", String::from_utf8_lossy(&answer.stderr));
    pillar.healthy_after(before)?;
    pillar.is_verified()?;

    let off = program("pillar")?
        .args(["reboot", "--power-off", "--addr", &pillar.machine.agent_addr().to_string()])
        .output()?;
    ensure!(off.status.success(), "power-off: {}", String::from_utf8_lossy(&off.stderr));
    let Pillar { mut machine, .. } = pillar;
    machine.wait_exit(SHUTDOWN).context("the pillar did not power off in order")?;
    ensure!(!disk.esp_entry()?.contains('+'), "the boot entry kept its counter: {}", disk.esp_entry()?);
    bench.passed();
    Ok(())
}

/// tpm2_eventlog of tpm2-tools replays our event log to the PCRs that the TPM quoted.
fn third_party_replay_agrees(bench: &Bench, machine: &Machine) -> Result<()> {
    let saved = bench.dir().join("evidence.cbor");
    let output = program("pillar")?
        .args(["evidence", "--addr", &machine.agent_addr().to_string(), "-o"])
        .arg(&saved)
        .output()?;
    ensure!(output.status.success(), "evidence: {}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&saved)?;
    let log = pillar_e2e::saved::event_log(&bytes)?;
    let path = bench.dir().join("eventlog.bin");
    std::fs::write(&path, &log)?;
    let output = Tools::open()?.command("tpm2_eventlog").arg(&path).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "tpm2_eventlog: {}", String::from_utf8_lossy(&output.stderr));
    let predicted = &bench.files().release.predicate.pcrs[&pillar_model::Bank::Sha256];
    let pcr4 = predicted.fixed.iter().find(|(pcr, _)| pcr.get() == 4).context("PCR 4 is predicted")?.1;
    ensure!(
        text.to_lowercase().contains(&format!("0x{pcr4}")),
        "tpm2_eventlog does not replay PCR 4 to the predicted {pcr4}"
    );
    Ok(())
}

/// Init says what it occupies, the agent answers `/metrics`: together at most 24 MB.
fn resident_memory_is_small(pillar: &Pillar) -> Result<()> {
    let said = pillar.machine.wait_console(console::RESIDENT, BOOT)?.line;
    let kib = said.split_once(console::RESIDENT).context("the word")?.1;
    let init_kib: u64 = kib.trim().trim_end_matches("KiB").trim().parse().with_context(|| said.clone())?;
    let keys = pillar_e2e::programs::workspace().join("keys/dev");
    let certificate = std::fs::read(keys.join("operator-1.crt"))?;
    let key = std::fs::read(keys.join("operator-1.key"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let page = runtime.block_on(async {
        let addr = pillar.machine.agent_addr().to_string();
        pillar_wire::client::connect(&addr, &certificate, &key).await?.metrics().await
    })?;
    let agent: u64 = page
        .lines()
        .find_map(|l| l.strip_prefix("pillar_agent_resident_bytes "))
        .with_context(|| page.clone())?
        .trim()
        .parse()?;
    let sum = init_kib * 1024 + agent;
    println!("resident: init {init_kib} KiB, agent {} KiB", agent / 1024);
    ensure!(sum <= 24_000_000, "init and agent occupy {sum} bytes");
    Ok(())
}

fn get(addr: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(30))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pillar\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn without_a_disk_init_says_why_and_reboots() -> Result<()> {
    let bench = Bench::new("no-disk")?;
    let uki = std::fs::read(bench.files().file("efi"))?;
    let section = |wanted: &str| -> Result<std::path::PathBuf> {
        let sections = pillar_e2e::damage::pe_sections(&uki)?;
        let (_, offset, bytes) =
            sections.into_iter().find(|(name, _, _)| name == wanted).context("section")?;
        let path = bench.dir().join(wanted.trim_start_matches('.'));
        std::fs::write(&path, &uki[usize::try_from(offset)?..usize::try_from(offset + bytes)?])?;
        Ok(path)
    };
    let builder = Machine::builder("p1")
        .dir(bench.dir().join("p1"))
        .firmware(Firmware::Bios)
        .tpm(TpmKind::None)
        .memory_mib(512)
        .kernel(section(".linux")?, Some(section(".initrd")?), &bench.files().release.predicate.cmdline);
    let pillar = bench.start(builder)?;
    let found = pillar.machine.wait_console("pillar-init: fatal: ", BOOT)?;
    ensure!(
        found.line.contains("disk") || found.line.contains("partition"),
        "the reason is named: {}",
        found.line
    );
    let event = pillar.machine.qmp().wait_event(&["RESET", "SHUTDOWN"], 0, SHUTDOWN)?;
    ensure!(event.name == "RESET" || event.name == "SHUTDOWN", "{event:?}");
    bench.passed();
    Ok(())
}
