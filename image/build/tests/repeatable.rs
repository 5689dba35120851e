//! Building twice gives the same bytes: in this folder, and in a copy of it elsewhere with another umask, time zone and
//! language. Only Secure Boot signatures differ: they carry the time of signing. What they sign does not differ, and so
//! neither does what the image measures to.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings are broken")]

use pillar_image::digest;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Builds in a folder under a umask and with other surroundings; the digests of what came out.
fn build(
    folder: &Path,
    out: &Path,
    keys: &Path,
    umask: &str,
    surroundings: &[(&str, &str)],
) -> Vec<(String, [u8; 32])> {
    let script = format!("umask {umask} && exec \"$@\"");
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &script,
        "sh",
        env!("CARGO_BIN_EXE_pillar-image"),
        "build",
        "offline=yes",
        "unsigned=yes",
    ]);
    command.arg(format!("keys={}", keys.display())).arg(format!("out={}", out.display()));
    command.current_dir(folder).env("SOURCE_DATE_EPOCH", "1750000000").env_remove("CARGO_TARGET_DIR");
    command.envs(surroundings.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found: Vec<(String, [u8; 32])> = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), digest::file(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// Every file that git knows or would take, at another place.
fn copy(to: &Path) {
    let listed = Command::new("git")
        .arg("-C")
        .arg(project())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .unwrap();
    for name in String::from_utf8(listed.stdout).unwrap().split('\0').filter(|n| !n.is_empty()) {
        let (from, to) = (project().join(name), to.join(name));
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, &to).unwrap();
        }
    }
}

#[test]
fn here_and_in_a_copy_elsewhere_the_same_bytes() {
    let keys = std::env::var_os("PILLAR_KEYS")
        .map_or_else(|| project().join(pillar_keys::DEFAULT_DIR), PathBuf::from);
    if !project().join("out/release.json").is_file() || !keys.is_dir() {
        eprintln!("skipped: `./just image` first, so that tools, packages and keys are there");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("a copy/elsewhere");
    copy(&elsewhere);
    let target =
        std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{}/target", project().display()));
    let here = build(
        &project(),
        &dir.path().join("one"),
        &keys,
        "022",
        &[("CARGO_TARGET_DIR", &target), ("TZ", "UTC")],
    );
    // Compiled anew, into a folder of its own that the next run finds again.
    let other_target = format!("{target}/elsewhere");
    let there = build(
        &elsewhere,
        &dir.path().join("two"),
        &keys,
        "077",
        &[
            ("CARGO_TARGET_DIR", &other_target),
            ("TZ", "Pacific/Kiritimati"),
            ("LC_ALL", "tr_TR.UTF-8"),
            ("CFLAGS", "-g"),
            ("RUSTFLAGS", "-Cdebuginfo=1"),
        ],
    );
    let names: Vec<&String> = here.iter().map(|(name, _)| name).collect();
    for wanted in [".raw", ".efi", ".root", ".verity", ".unsigned.efi", "release.json", "sbom.json"] {
        assert!(names.iter().any(|name| name.ends_with(wanted)), "{wanted} is missing in {names:?}");
    }
    // The signed UKI, and what holds it or names its digest.
    let signed = |name: &str| {
        name == "release.json"
            || name.ends_with(".raw")
            || name.ends_with(".efi") && !name.ends_with(".unsigned.efi")
    };
    let different: Vec<&String> = here
        .iter()
        .zip(&there)
        .filter(|(a, b)| a != b)
        .map(|((name, _), _)| name)
        .filter(|name| !signed(name))
        .collect();
    assert_eq!(different, Vec::<&String>::new());
    let predicate = |out: &str| {
        let text = fs::read_to_string(dir.path().join(out).join("release.json")).unwrap();
        serde_json::from_str::<pillar_model::Release>(&text).unwrap().predicate
    };
    assert_eq!(predicate("one"), predicate("two"), "sizes, root hash, Authenticode digests, predicted PCRs");
}
