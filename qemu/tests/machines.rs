//! Real machines, tiny guests: the harness itself, without an image.

use pillar_model::Bank;
use pillar_qemu::accel::Accel;
use pillar_qemu::{Builder, DiskMode, EkCa, Error, Firmware, Machine, ProcessId, Record, Swtpm, TpmKind};
use pillar_tools::Tools;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bounds a hang; it times nothing.
const DEADLINE: Duration = Duration::from_secs(120);
const GREETING: &str = "the tiny guest is here";

/// A boot sector that writes its greeting to the first serial port and halts.
fn boot_sector() -> Vec<u8> {
    #[rustfmt::skip]
    let mut sector = vec![
        0xFA,             // cli
        0x31, 0xC0,       // xor ax, ax
        0x8E, 0xD8,       // mov ds, ax
        0xFC,             // cld
        0xBE, 0x17, 0x7C, // mov si, 0x7C17 (the text below)
        0xAC,             // lodsb
        0x84, 0xC0,       // test al, al
        0x74, 0x06,       // jz to hlt
        0xBA, 0xF8, 0x03, // mov dx, 0x3F8
        0xEE,             // out dx, al
        0xEB, 0xF5,       // jmp to lodsb
        0xF4,             // hlt
        0xEB, 0xFD,       // jmp to hlt
    ];
    sector.extend(GREETING.as_bytes());
    sector.extend(b"\r\n\0");
    sector.resize(510, 0);
    sector.extend([0x55, 0xAA]);
    sector.resize(1024 * 1024, 0);
    sector
}

fn tiny_disk(dir: &Path) -> PathBuf {
    let path = dir.join("tiny.raw");
    fs::write(&path, boot_sector()).expect("the folder is ours");
    path
}

fn tiny(name: &str, dir: &Path) -> Builder {
    Machine::builder(name)
        .dir(dir.join(name))
        .disk(tiny_disk(dir), DiskMode::Snapshot)
        .firmware(Firmware::Bios)
        .tpm(TpmKind::None)
        .memory_mib(64)
        .accel(Accel::Tcg)
}

/// Machines need the tools tree; without it there is nothing to test, and the log says so.
fn ready() -> bool {
    let there = Tools::open().is_ok();
    if !there {
        eprintln!("skipped: no tools tree; `./just tools` builds it");
    }
    there
}

#[test]
fn a_machine_greets_resets_and_ends() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut machine = tiny("t1", dir.path()).forward(8080).start().expect("it starts");
    let first = machine.wait_console(GREETING, DEADLINE).expect("the guest greets");
    assert_eq!(first.line, GREETING);
    assert_eq!(machine.qmp().status().expect("QMP answers"), "running");
    assert_ne!(machine.agent_addr().port(), machine.workload_addr(8080).expect("forwarded").port());
    assert!(matches!(machine.workload_addr(9), Err(Error::NotForwarded(9))));

    let events = machine.qmp().events_so_far();
    machine.qmp().system_reset().expect("QMP answers");
    machine.qmp().wait_event(&["RESET"], events, DEADLINE).expect("the reset is told");
    let second = machine.wait_console_after(first.end, GREETING, DEADLINE).expect("it greets again");
    assert!(second.at >= first.at);

    machine.qmp().quit().expect("QMP answers");
    assert!(machine.wait_exit(DEADLINE).expect("QEMU ends").success());
    let error = machine.wait_console_after(second.end, "more", DEADLINE).expect_err("there is no more");
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    let stamped = fs::read_to_string(machine.dir().join("console.log")).expect("the console's log");
    assert_eq!(stamped.matches(GREETING).count(), 2, "{stamped}");
}

#[test]
fn a_deadline_shows_the_console() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let machine = tiny("t1", dir.path()).start().expect("it starts");
    machine.wait_console(GREETING, DEADLINE).expect("the guest greets");
    let error = machine.wait_console("never said", Duration::from_millis(100)).expect_err("nobody says that");
    let text = error.to_string();
    assert!(text.contains("never said") && text.contains(GREETING), "{text}");
}

#[test]
fn two_machines_run_at_once_and_one_only_once() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let one = tiny("t1", dir.path()).start().expect("it starts");
    let two = tiny("t2", dir.path()).start().expect("it starts");
    assert_ne!(one.agent_addr(), two.agent_addr());
    one.wait_console(GREETING, DEADLINE).expect("the first greets");
    two.wait_console(GREETING, DEADLINE).expect("the second greets");
    let error = tiny("t1", dir.path()).start().expect_err("it runs already");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    let port = one.agent_addr().port();
    let error = tiny("t3", dir.path()).forward_from(port, 8080).start().expect_err("the port is taken");
    assert!(error.to_string().contains(&format!("port {port} of 127.0.0.1 is in use by")), "{error}");
}

#[test]
fn firmware_with_secure_boot_and_a_tpm_comes_up() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ca = EkCa::open(&dir.path().join("ca")).expect("a folder for the authority");
    let machine = Machine::builder("t1")
        .dir(dir.path().join("t1"))
        .tpm(TpmKind::Swtpm { banks: vec![Bank::Sha256], ca: Some(ca) })
        .memory_mib(256)
        .accel(Accel::Tcg)
        .start()
        .expect("it starts");
    // No disk: the boot manager says that it found nothing.
    machine.wait_console("BdsDxe: ", DEADLINE).expect("the boot manager speaks");
    let chain = fs::read_to_string(machine.ek_ca().expect("a machine with a TPM")).expect("readable");
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
    let processes = machine.record().processes;
    drop(machine);
    assert!(!processes.qemu.is_alive());
    assert!(!processes.swtpm.expect("it had a TPM").is_alive());
}

#[test]
fn a_tpm_alone_answers_on_loopback() {
    if !ready() {
        return;
    }
    let tools = Tools::open().expect("asked above");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ca = EkCa::open(&dir.path().join("ca")).expect("a folder for the authority");
    let tpm = Swtpm::start_with(&tools, &ca, &dir.path().join("tpm"), &[Bank::Sha256]).expect("it starts");
    let ask = |words: &[&str]| {
        let output = tools.command("tpm2").args(words).env("TPM2TOOLS_TCTI", tpm.tcti()).output();
        let output = output.expect("tpm2-tools start");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(ask(&["pcrread", "sha256:0"]).contains("0x0000"));
    let indices = ask(&["getcap", "handles-nv-index"]);
    assert!(indices.contains("0x1C00002") && indices.contains("0x1C00016"), "{indices}");
    let process = tpm.process();
    drop(tpm);
    assert!(!process.is_alive());
}

#[test]
fn a_missing_image_names_what_makes_it() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let error = Machine::builder("t1")
        .dir(dir.path().join("t1"))
        .disk(dir.path().join("no.raw"), DiskMode::Copy)
        .start()
        .expect_err("there is no image");
    assert!(matches!(error, Error::ImageMissing(_)), "{error}");
    assert!(error.hint().expect("a hint").contains("./just image"));
    let error = Machine::builder("No Name").start().expect_err("no host name");
    assert!(matches!(error, Error::BadName(_)), "{error}");
}

/// Where the child of the next test keeps its machine; without it that child does nothing.
const HOLD: &str = "PILLAR_TEST_HOLD";

#[test]
fn nothing_is_left_when_the_harness_is_killed() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut child = Command::new(std::env::current_exe().expect("this test has a file"))
        .args(["--exact", "holds_a_machine_until_it_is_killed", "--nocapture"])
        .env(HOLD, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test starts itself");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|l| l.contains("held"))), "the child holds its machine");
    let record = Record::read(&dir.path().join("t1")).expect("readable").expect("written at the start");
    let processes = [record.processes.qemu, record.processes.swtpm.expect("it has a TPM")];
    assert!(processes.iter().all(ProcessId::is_alive));
    child.kill().expect("SIGKILL");
    child.wait().expect("waited for");
    let begin = Instant::now();
    for process in processes {
        assert!(process.wait_gone(Duration::from_secs(10)), "process {} is left behind", process.pid);
    }
    println!("gone after {:?}", begin.elapsed());
}

#[test]
fn holds_a_machine_until_it_is_killed() {
    let Some(dir) = std::env::var_os(HOLD).map(PathBuf::from) else { return };
    let ca = EkCa::open(&dir.join("ca")).expect("a folder for the authority");
    let machine = tiny("t1", &dir)
        .tpm(TpmKind::Swtpm { banks: vec![Bank::Sha256], ca: Some(ca) })
        .start()
        .expect("it starts");
    println!("held");
    machine.wait_console("never said", Duration::from_secs(600)).expect_err("it is killed before");
}

#[test]
fn the_tpm_keeps_its_clock_when_the_power_goes() {
    if !ready() {
        return;
    }
    let tools = Tools::open().expect("asked above");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ca = EkCa::open(&dir.path().join("ca")).expect("a folder for the authority");
    let tpm = TpmKind::Swtpm { banks: vec![Bank::Sha256], ca: Some(ca.clone()) };
    let machine = tiny("t1", dir.path()).tpm(tpm).start().expect("it starts");
    let begin = Instant::now();
    machine.wait_console(GREETING, DEADLINE).expect("the guest greets");
    machine.wait_console("never said", Duration::from_secs(5)).expect_err("time passes");
    let ran = begin.elapsed();
    machine.power_cut();
    let tpm = Swtpm::start_with(&tools, &ca, &dir.path().join("t1/swtpm"), &[Bank::Sha256])
        .expect("it starts again");
    let output = tools
        .command("tpm2")
        .arg("readclock")
        .env("TPM2TOOLS_TCTI", tpm.tcti())
        .output()
        .expect("tpm2 starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let clock =
        text.lines().find_map(|l| l.trim().strip_prefix("clock: ")?.parse::<u128>().ok()).expect("a clock");
    assert!(
        clock >= ran.as_millis(),
        "the clock lost time: {clock} ms after a run of {} ms",
        ran.as_millis()
    );
}
