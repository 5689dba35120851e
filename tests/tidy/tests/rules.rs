//! Rules over the files that git tracks (or would track).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace's root exists")
}

/// Every file that is tracked or would be: (path from the root, bytes).
fn files() -> Vec<(String, Vec<u8>)> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let files: Vec<_> = names
        .split_terminator('\0')
        .filter_map(|name| fs::read(root().join(name)).ok().map(|bytes| (name.to_owned(), bytes)))
        .collect();
    assert!(files.len() > 30, "only {} files found: is this the project's tree?", files.len());
    files
}

fn rust_files() -> Vec<(String, String)> {
    let text =
        |(name, bytes): (String, Vec<u8>)| (name, String::from_utf8(bytes).expect("Rust files are UTF-8"));
    files().into_iter().filter(|(name, _)| name.ends_with(".rs")).map(text).collect()
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Which of our crates each crate may import, from ARCHITECTURE.md's table of layers.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("pillar-layout", &[] as &[_]),
        ("pillar-model", &[]),
        ("pillar-workload", &["pillar-layout"]),
        ("pillar-measure", &["pillar-layout", "pillar-model"]),
        ("pillar-verify", &["pillar-layout", "pillar-model", "pillar-measure"]),
        ("pillar-slot", &["pillar-layout", "pillar-model"]),
        ("pillar-luks", &[]),
        ("pillar-recovery", &[]),
        ("pillar-wire", &["pillar-layout", "pillar-model"]),
        ("pillar-quorum", &["pillar-model"]),
        ("pillar-session", &["pillar-model", "pillar-wire", "pillar-verify"]),
        ("pillar-tpm", &["pillar-layout", "pillar-model", "pillar-verify"]),
        ("pillar-seal", &["pillar-layout", "pillar-model", "pillar-measure"]),
        (
            "pillar-state",
            &["pillar-layout", "pillar-model", "pillar-luks", "pillar-recovery", "pillar-os", "pillar-seal"],
        ),
        ("pillar-os", &["pillar-layout", "pillar-model"]),
        ("pillar-network", &["pillar-layout", "pillar-model", "pillar-os"]),
        ("pillar-init", &["pillar-layout", "pillar-model", "pillar-slot", "pillar-os", "pillar-workload"]),
        (
            "pillar-agent",
            &[
                "pillar-layout",
                "pillar-model",
                "pillar-measure",
                "pillar-verify",
                "pillar-quorum",
                "pillar-session",
                "pillar-wire",
                "pillar-recovery",
                "pillar-tpm",
            ],
        ),
        (
            "pillar",
            &[
                "pillar-layout",
                "pillar-model",
                "pillar-measure",
                "pillar-verify",
                "pillar-quorum",
                "pillar-wire",
                "pillar-recovery",
                "pillar-signer",
            ],
        ),
        ("pillar-tools", &[]),
        ("pillar-signer", &["pillar-model"]),
        ("pillar-keys", &["pillar-layout", "pillar-model", "pillar-signer", "pillar-tools"]),
        ("pillar-installer", &["pillar-flash", "pillar-layout"]),
        ("pillar-flash", &["pillar-slot", "pillar-os"]),
        (
            "pillar-image",
            &[
                "pillar-flash",
                "pillar-layout",
                "pillar-model",
                "pillar-measure",
                "pillar-slot",
                "pillar-workload",
                "pillar-keys",
                "pillar-tools",
            ],
        ),
        ("pillar-qemu", &["pillar-layout", "pillar-model", "pillar-slot", "pillar-tools"]),
        ("pillar-hello", &[]),
        ("pillar-guest", &["pillar-luks", "pillar-os"]),
    ])
}

fn manifests() -> BTreeMap<String, toml::Table> {
    files()
        .into_iter()
        .filter(|(name, _)| name.ends_with("/Cargo.toml"))
        .map(|(name, bytes)| {
            let text = String::from_utf8(bytes).expect("manifests are UTF-8");
            let table: toml::Table = text.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
            let package = table["package"]["name"].as_str().expect("a package has a name").to_owned();
            (package, table)
        })
        .collect()
}

fn names(table: &toml::Table, section: &str) -> BTreeSet<String> {
    table
        .get(section)
        .and_then(toml::Value::as_table)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

#[test]
fn crates_import_only_what_their_layer_may() {
    let allowed = allowed();
    let mut wrong = Vec::new();
    for (package, manifest) in manifests() {
        if ["pillar-e2e", "pillar-bench", "pillar-fuzz", "pillar-tidy"].contains(&package.as_str()) {
            continue;
        }
        let Some(may) = allowed.get(package.as_str()) else {
            wrong.push(format!("{package} is not in the table of layers"));
            continue;
        };
        for name in names(&manifest, "dependencies").iter().filter(|n| n.starts_with("pillar")) {
            if !may.contains(&name.as_str()) {
                wrong.push(format!("{package} imports {name}"));
            }
        }
    }
    none("layers broken", &wrong);
}

#[test]
fn foreign_worlds_have_one_door() {
    // Library: the only crates that may import it.
    let doors: &[(&str, &[&str])] = &[
        ("tss-esapi", &["pillar-tpm"]),
        ("crypto_box", &["pillar-recovery"]),
        (
            "anyhow",
            &[
                "pillar-qemu",
                "pillar-e2e",
                "pillar-bench",
                "pillar-fuzz",
                "pillar-image",
                "pillar",
                "pillar-keys",
                "pillar-agent",
                "pillar-init",
                "pillar-state",
                "pillar-guest",
            ],
        ),
    ];
    let banned_in_pid1 = ["tokio", "tonic", "rustls", "axum", "prost", "ring"];
    let mut wrong = Vec::new();
    for (package, manifest) in manifests() {
        let imports = names(&manifest, "dependencies");
        for (library, may) in doors {
            if imports.contains(*library) && !may.contains(&package.as_str()) {
                wrong.push(format!("{package} imports {library}"));
            }
        }
        if ["pillar-init", "pillar-os", "pillar-slot"].contains(&package.as_str()) {
            for library in banned_in_pid1.iter().filter(|l| imports.contains(**l)) {
                wrong.push(format!("{package} imports {library}: PID 1 must stay small and synchronous"));
            }
        }
    }
    none("a foreign world entered by another door", &wrong);
}

#[test]
fn unsafe_code_is_in_os_alone_and_each_use_is_argued() {
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains("unsafe {") && !code.contains("unsafe fn") && !code.contains("unsafe impl") {
                continue;
            }
            if name.starts_with("tests/tidy/") {
                continue;
            }
            if !name.starts_with("agent/os/") {
                wrong.push(format!("{name}:{}: unsafe outside agent/os", index + 1));
            }
            let before = &lines[index.saturating_sub(12)..index];
            if !before.iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety")) {
                wrong.push(format!("{name}:{}: unsafe without a SAFETY comment", index + 1));
            }
        }
    }
    none("unsafe code", &wrong);
}

#[test]
fn no_private_key_is_in_the_tree() {
    let begin = format!("-----{} ", "BEGIN");
    let mut wrong = Vec::new();
    for (name, bytes) in files() {
        let text = String::from_utf8_lossy(&bytes);
        let pem = text.split(begin.as_str()).skip(1).any(|rest| {
            let label = rest.split("-----").next().unwrap_or_default();
            label.ends_with("PRIVATE KEY")
        });
        let pkcs8 = [&[0x30, 0x82][..], &[0x30, 0x2e, 0x02, 0x01, 0x00][..]];
        let der = name.ends_with(".der") || name.ends_with(".p8") || name.ends_with(".key");
        if pem || (der && pkcs8.iter().any(|magic| bytes.starts_with(magic))) {
            wrong.push(name);
        }
    }
    none("private keys", &wrong);
}

#[test]
fn nothing_unfinished_is_in_the_code() {
    let marks = ["todo!(", "unimplemented!(", concat!("FIX", "ME"), concat!("XX", "X:"), "dbg!("];
    let mut wrong = Vec::new();
    for (name, text) in rust_files().into_iter().filter(|(name, _)| !name.starts_with("tests/tidy/")) {
        for (index, line) in text.lines().enumerate() {
            if marks.iter().any(|m| line.contains(m)) {
                wrong.push(format!("{name}:{}: {}", index + 1, line.trim()));
            }
            if line.trim() == "#[ignore]" {
                wrong.push(format!("{name}:{}: ignored without a reason", index + 1));
            }
        }
    }
    none("unfinished", &wrong);
}

#[test]
fn every_crate_forbids_or_denies_unsafe_and_has_a_header() {
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        let entry = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        if !text.starts_with("//!") && !name.contains("/tests/") && !name.ends_with("build.rs") {
            wrong.push(format!("{name}: no header comment that says what it is"));
        }
        if entry && !name.starts_with("agent/os/") && !text.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{name}: does not forbid unsafe code"));
        }
    }
    none("headers", &wrong);
}

#[test]
fn commands_of_the_readme_exist() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let justfile = fs::read_to_string(root().join("Justfile")).expect("Justfile is there");
    let recipes: BTreeSet<&str> = justfile
        .lines()
        .filter(|l| !l.starts_with([' ', '#', '\t']) && l.contains(':') && !l.contains(":="))
        .filter_map(|l| l.split([' ', ':']).next())
        .collect();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for part in readme.split("./just ").skip(1) {
        let word: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        seen += 1;
        if !recipes.contains(word.as_str()) {
            wrong.push(format!("./just {word}"));
        }
    }
    assert!(seen >= 5, "the README names only {seen} commands");
    none("README names recipes that the Justfile does not have", &wrong);
}

#[test]
fn every_folder_of_the_readme_map_exists_and_every_crate_is_on_the_architecture_map() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let workspace: toml::Table =
        fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml is there").parse().expect("TOML");
    let members = workspace["workspace"]["members"].as_array().expect("members are a list");
    let missing: Vec<String> = members
        .iter()
        .filter_map(toml::Value::as_str)
        .filter(|folder| !architecture.contains(&format!("`{folder}")))
        .map(str::to_owned)
        .collect();
    none("crates that ARCHITECTURE.md does not name", &missing);
}
