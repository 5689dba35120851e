//! `pillar eventlog` as a script sees it: values on standard output, or a reason and nothing else.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn own_log() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../measure/tests/data/ovmf-sdboot.eventlog")
}

fn eventlog(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pillar"))
        .arg("eventlog")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("it ends")
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_log_is_replayed_from_a_file_and_from_standard_input() {
    let path = own_log();
    let bytes = std::fs::read(&path).expect("the log is here");
    let shown = json(&eventlog(&[path.to_str().expect("UTF-8"), "-o", "json"], &[]));
    assert_eq!(shown, json(&eventlog(&["-", "--output", "json"], &bytes)));
    let values = std::fs::read_to_string(path.with_extension("pcrs")).expect("its values are here");
    let mut compared = 0;
    for line in values.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // PCR 10 is that of the kernel's own log.
        if let Some(found) = shown["pcrs"][words[0]].get(words[1]).filter(|_| words[1] != "10") {
            assert_eq!(found, words[2], "{line}");
            compared += 1;
        }
    }
    assert_eq!(compared, 20);
    assert_eq!(shown["secure_boot"]["enabled"], true);
    assert_eq!(shown["events"][0]["type"], "EV_S_CRTM_VERSION");
    assert_eq!((&shown["events"][0]["number"], &shown["events"][0]["pcr"]), (&1.into(), &0.into()));
    let text = eventlog(&[path.to_str().expect("UTF-8")], &[]);
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(text.contains("secure boot  on") && text.contains("\nsha256\n"), "{text}");
}

// attack: A13
#[test]
fn what_is_no_log_is_refused_with_a_reason_and_nothing_else() {
    let good = std::fs::read(own_log()).expect("the log is here");
    for (bytes, reason) in [
        (Vec::new(), "event log is empty"),
        (good[..5000].to_vec(), "event 16 at offset 4947: the log ends inside it"),
        ([good.clone(), vec![1, 2, 3]].concat(), "the log ends inside it"),
        ([good.clone(), vec![0xFF; 4096]].concat(), "4096 bytes of 0xff from here to the end: padding"),
        (vec![0x20; 2 << 20], "over the limit"),
    ] {
        for form in ["text", "json"] {
            let output = eventlog(&["-", "-o", form], &bytes);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{errors}");
            assert!(
                output.stdout.is_empty() && errors.starts_with("error: ") && errors.contains(reason),
                "{errors}"
            );
        }
    }
    let missing = eventlog(&["no-such-file"], &[]);
    assert_eq!(missing.status.code(), Some(1));
}

/// The vectors are data beside the repository; without them this says so and passes.
#[test]
fn the_logs_of_many_machines_lead_to_the_values_of_the_list() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = std::env::var_os("PILLAR_VECTORS").map_or(workspace.join("../shared/vectors"), PathBuf::from);
    let folder = root.join("eventlogs");
    let Ok(list) = std::fs::read(folder.join("expected-pcrs.json")) else {
        eprintln!("skipped: no vectors at {} (set PILLAR_VECTORS)", folder.display());
        return;
    };
    let list: Vec<Value> = serde_json::from_slice(&list).expect("a list");
    for entry in &list {
        let file = folder.join(entry["file"].as_str().expect("a name"));
        let output = eventlog(&[file.to_str().expect("UTF-8"), "-o", "json"], &[]);
        if entry["banks"].is_null() {
            assert_eq!(output.status.code(), Some(2), "{}", file.display());
        } else {
            assert_eq!(json(&output)["pcrs"], entry["independent_replay"], "{}", file.display());
        }
    }
}
