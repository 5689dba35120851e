//! The program `pillar-qemu` from outside: what it prints, how it ends, what it leaves.

use pillar_qemu::accel::Accel;
use pillar_qemu::{DiskMode, Firmware, Machine, Record, TpmKind};
use pillar_tools::Tools;
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

fn pillar_qemu(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pillar-qemu"))
        .args(words)
        .current_dir(dir)
        .env("PILLAR_RUN_DIR", dir.join("run"))
        .env("PILLAR_ACCEL", "tcg")
        .output()
        .expect("the program starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_an_image_up_says_what_makes_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = pillar_qemu(dir.path(), &["up"]);
    assert_eq!(output.status.code(), Some(1));
    let text = errors(&output);
    assert!(
        text.contains("error: there is no disk image") && text.contains("hint: `./just image`"),
        "{text}"
    );
    assert!(!dir.path().join("run/p1/machine.json").exists());
}

#[test]
fn wrong_words_are_refused_before_anything_happens() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (words, code) in [
        (&["up", "--memory", "1"][..], 2),
        (&["up", "../p1"], 1),
        (&["up", "a", "a"], 1),
        (&["console", "p9"], 1),
        (&["down", "p9"], 1),
        (&["reset"], 1),
        (&["nonsense"], 2),
    ] {
        let output = pillar_qemu(dir.path(), words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", errors(&output));
        assert!(errors(&output).contains("error: "), "{words:?}");
    }
    assert!(!dir.path().join("run").exists());
    let output = pillar_qemu(dir.path(), &["down"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"no machine runs\n"[..]));
}

#[test]
fn a_disk_that_does_not_boot_is_told_and_nothing_is_left_running() {
    if Tools::open().is_err() {
        eprintln!("skipped: no tools tree; `./just tools` builds it");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    File::create(dir.path().join("empty.raw"))
        .and_then(|f| f.set_len(1024 * 1024))
        .expect("the folder is ours");
    let output =
        pillar_qemu(dir.path(), &["up", "p7", "--image", "empty.raw", "--no-tpm", "--memory", "256"]);
    assert_eq!(output.status.code(), Some(1));
    let text = errors(&output);
    assert!(text.contains("error: p7 did not come up") && text.contains("found nothing to boot"), "{text}");
    let record = Record::read(&dir.path().join("run/p7")).expect("readable").expect("it was started");
    assert!(!record.is_running());
    let listed = pillar_qemu(dir.path(), &["list", "-o", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&"p7".into(), &"stopped".into()));
    let console = pillar_qemu(dir.path(), &["console", "--no-follow"]);
    assert!(String::from_utf8_lossy(&console.stdout).contains("BdsDxe"));
}

#[test]
fn a_running_machine_is_found_again_reset_and_stopped() {
    if Tools::open().is_err() {
        eprintln!("skipped: no tools tree; `./just tools` builds it");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let image = dir.path().join("empty.raw");
    File::create(&image).and_then(|f| f.set_len(1024 * 1024)).expect("the folder is ours");
    // As `up` leaves it; the guest itself is of no interest here.
    let record = Machine::builder("p1")
        .dir(dir.path().join("run/p1"))
        .disk(&image, DiskMode::Copy)
        .firmware(Firmware::Bios)
        .tpm(TpmKind::swtpm())
        .memory_mib(64)
        .accel(Accel::Tcg)
        .detached()
        .start()
        .expect("it starts")
        .release();
    assert!(record.is_running());
    let again = pillar_qemu(dir.path(), &["up", "--image", "empty.raw"]);
    assert_eq!(again.status.code(), Some(0), "{}", errors(&again));
    assert!(errors(&again).contains("p1: runs already"));
    assert!(String::from_utf8_lossy(&again.stdout).contains(&record.agent.to_string()));
    let reset = pillar_qemu(dir.path(), &["reset"]);
    assert_eq!(String::from_utf8_lossy(&reset.stdout), "p1: reset\n", "{}", errors(&reset));
    let down = pillar_qemu(dir.path(), &["down", "p1", "-o", "json"]);
    let down: Value = serde_json::from_slice(&down.stdout).expect("JSON");
    assert_eq!(down, serde_json::json!({ "p1": "stopped" }));
    assert!(!record.is_running());
    assert!(!record.processes.swtpm.expect("it had a TPM").is_alive());
    let down = pillar_qemu(dir.path(), &["down", "p1"]);
    assert_eq!(String::from_utf8_lossy(&down.stdout), "p1: did not run\n");
}
