//! What a build takes from the host beside locked packages: the compiler, the C library's static parts that are linked
//! into PID 1, the start files, the libraries that the agent is linked against. We cannot lock them, so we say what they
//! were, and whether they are those that the lock was made with: when two hosts build other bytes, this is why.

use crate::error::{Error, file};
use crate::{digest, lock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The record's name in image/lock.
const NAME: &str = "host";

/// Said at the top of the record.
const HEADER: &str = "# What the host brought when `./just lock` was run. Another host may bring other things: then the build says so,\n\
                      # because PID 1 and the agent have other bytes.\n\n";

/// What the C compiler's driver links into a program by itself: asked for by name.
const LINKED: [&str; 12] = [
    "libc.a",
    "libm.a",
    "libgcc.a",
    "libgcc_eh.a",
    "crt1.o",
    "rcrt1.o",
    "Scrt1.o",
    "crti.o",
    "crtn.o",
    "crtbeginS.o",
    "crtbeginT.o",
    "crtendS.o",
];

/// Libraries of the host, by their name for pkg-config.
const LIBRARIES: [&str; 5] = ["tss2-esys", "tss2-sys", "tss2-mu", "tss2-tctildr", "libcryptsetup"];

/// One thing of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostInput {
    /// As it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of the file that is linked or run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Of the source that it was made from.
    #[serde(skip_serializing_if = "Option::is_none", rename = "git-commit")]
    pub git_commit: Option<String>,
}

/// By name.
pub type HostInputs = BTreeMap<String, HostInput>;

/// Looks at the host. What is not there is left out: the build needs it or does not.
#[must_use]
pub fn observe(project: &Path) -> HostInputs {
    let mut found = HostInputs::new();
    if let Some(text) = said(Command::new("rustc").arg("-vV").current_dir(project)) {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
        };
        let rustc = HostInput { version: field("release"), git_commit: field("commit-hash"), sha256: None };
        found.insert("rustc".to_owned(), rustc);
    }
    if let Some(text) = said(Command::new("cc").arg("--version")) {
        let program = said(Command::new("cc").arg("-print-prog-name=cc1"));
        let sha256 = program.and_then(|path| digest::file(Path::new(path.trim())).ok()).map(hex::encode);
        let version = text.lines().next().map(str::to_owned);
        found.insert("cc".to_owned(), HostInput { version, sha256, git_commit: None });
    }
    if let Some(text) = said(Command::new("ld").arg("--version")) {
        let version = text.lines().next().map(str::to_owned);
        found.insert("ld".to_owned(), HostInput { version, ..HostInput::default() });
    }
    for name in LINKED {
        let place = said(Command::new("cc").arg(format!("-print-file-name={name}")));
        let place = place.map(|path| PathBuf::from(path.trim())).filter(|path| path.is_absolute());
        if let Some(sha256) = place.and_then(|path| digest::file(&path).ok()) {
            let input = HostInput { sha256: Some(hex::encode(sha256)), ..HostInput::default() };
            found.insert(name.to_owned(), input);
        }
    }
    for name in LIBRARIES {
        if let Some(version) = said(Command::new("pkg-config").args(["--modversion", name])) {
            let input = HostInput { version: Some(version.trim().to_owned()), ..HostInput::default() };
            found.insert(name.to_owned(), input);
        }
    }
    found
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.env("LC_ALL", "C.UTF-8").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes the record.
pub fn record(project: &Path, inputs: &HostInputs) -> Result<(), Error> {
    let path = lock::path(project, NAME);
    let text = toml::to_string(inputs)
        .map_err(|e| Error::Output { program: "toml", problem: format!("{}: {e}", path.display()) })?;
    let partial = path.with_extension("partial");
    fs::write(&partial, format!("{HEADER}{text}")).map_err(file("write", &partial))?;
    fs::rename(&partial, &path).map_err(file("rename", &partial))
}

/// What is different from the record, for people; `None` where nothing is. A record that is not there or not readable
/// records nothing.
#[must_use]
pub fn difference(project: &Path, inputs: &HostInputs) -> Option<String> {
    let text = fs::read_to_string(lock::path(project, NAME)).ok()?;
    let recorded: HostInputs = toml::from_str(&text).ok()?;
    let names: Vec<&str> = recorded
        .keys()
        .chain(inputs.keys().filter(|name| !recorded.contains_key(*name)))
        .filter(|name| recorded.get(*name) != inputs.get(*name))
        .map(String::as_str)
        .collect();
    let said =
        "this host is not the one of the lock, so that the programs may have other bytes; different are";
    (!names.is_empty()).then(|| format!("{said} {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_seen_and_a_change_is_said_by_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir_all(dir.path().join("image/lock")).expect("new");
        let mut inputs = observe(Path::new(env!("CARGO_MANIFEST_DIR")));
        assert!(inputs["rustc"].git_commit.is_some() && inputs["libc.a"].sha256.is_some(), "{inputs:?}");
        assert_eq!(difference(dir.path(), &inputs), None, "nothing is recorded");
        record(dir.path(), &inputs).expect("written");
        assert_eq!(difference(dir.path(), &inputs), None);
        inputs.remove("crti.o");
        inputs.get_mut("libc.a").expect("there").sha256 = Some("0".repeat(64));
        let said = difference(dir.path(), &inputs).expect("different");
        assert!(said.ends_with("different are crti.o, libc.a"), "{said}");
    }
}
