//! Building twice gives the same bytes: here, and in a copy elsewhere, later, as somebody else, from Debian trees made
//! again without a network. Only Secure Boot signatures differ: they carry the time of signing. What they sign does not
//! differ, and so neither does what the image measures to.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings are broken")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn pillar_image(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillar-image"));
    command.args(arguments).current_dir(project()).output().unwrap()
}

#[test]
fn two_builds_with_nothing_in_common_but_their_inputs_are_the_same() {
    let keys = std::env::var_os("PILLAR_KEYS")
        .map_or_else(|| project().join(pillar_keys::DEFAULT_DIR), PathBuf::from);
    if !project().join("out/release.json").is_file() || !keys.is_dir() {
        eprintln!("skipped: `./just image` first, so that tools, packages and keys are there");
        return;
    }
    let keys = format!("keys={}", keys.display());
    let output = pillar_image(&["repro", "offline=yes", &keys, "--output=json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(output.status.code(), Some(0), "{outcome:#}\n{said}");
    eprintln!("varied: {:#}\nnot varied here: {:#}", outcome["varied"], outcome["not_varied"]);
    assert!(outcome["varied"].as_array().unwrap().len() >= 4);
    for (extension, verdict) in [
        (".root", "same"),
        (".verity", "same"),
        (".unsigned.efi", "same"),
        ("sbom.json", "same"),
        ("virt.efi", "same-but-signatures"),
        (".raw", "same-but-signatures"),
        ("release.json", "same-but-signatures"),
    ] {
        let files = outcome["files"].as_array().unwrap();
        let file = files.iter().find(|f| f["name"].as_str().unwrap().ends_with(extension));
        assert_eq!(file.unwrap_or_else(|| panic!("no {extension}"))["verdict"], verdict, "{extension}");
    }
}

#[test]
fn a_difference_is_named_and_has_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, bytes) in [("one", "a"), ("two", "b")] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("pillar.root"), bytes).unwrap();
        fs::write(dir.path().join(folder).join("pillar.verity"), "same").unwrap();
    }
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let output = pillar_image(&["compare", &path("one"), &path("two")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("the first file that differs is pillar.root\n  first           1 bytes  sha256:ca97"),
        "{text}"
    );
    let output = pillar_image(&["compare", &path("one"), &path("one")]);
    assert_eq!(output.status.code(), Some(0));
    let output = pillar_image(&["compare", &path("one"), &path("three")]);
    assert_eq!(output.status.code(), Some(1), "a folder that is not there is no difference");
}
