//! A local apt archive with exactly the packages of a lock, so that mkosi's apt has nothing else to choose from and
//! needs no network.

use crate::inputs::{Inputs, Network};
use crate::lock::{Lock, Locked};
use crate::{Error, file_error};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An archive in a folder that lives as long as the tree is being made.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// Lays the archive out in a new folder. Every input is there and checked when this returns.
    pub fn new(
        lock: &Lock,
        inputs: &Inputs,
        network: Network,
        folder: PathBuf,
        note: &dyn Fn(&str),
    ) -> Result<Self, Error> {
        let packages: Vec<&Locked> = lock.packages.values().collect();
        let files = inputs.ensure(&packages, network, note)?;
        let pool = folder.join("pool");
        fs::create_dir_all(&pool).map_err(file_error("create", &pool))?;
        let mut index = String::new();
        for (package, file) in packages.iter().zip(&files) {
            let place = pool.join(package.file_name());
            // A link costs nothing; a cache that spans file systems gets copies.
            if fs::hard_link(file, &place).is_err() {
                fs::copy(file, &place).map_err(file_error("copy", file))?;
            }
            index.push_str(&stanza(&control(file)?, package));
        }
        write(&folder.join("Packages"), &index)?;
        let cache = folder.join("cache");
        fs::create_dir_all(&cache).map_err(file_error("create", &cache))?;
        let sources = folder.join("sandbox/etc/apt/sources.list.d");
        fs::create_dir_all(&sources).map_err(file_error("create", &sources))?;
        write(&sources.join("mkosi.sources"), &source(&folder))?;
        Ok(Self { folder })
    }

    /// What tells mkosi to use this archive and nothing else.
    #[must_use]
    pub fn mkosi_arguments(&self) -> Vec<OsString> {
        let mut mirror = OsString::from("file://");
        mirror.push(&self.folder);
        let cache = self.folder.join("cache");
        vec![
            "--sandbox-tree".into(),
            self.folder.join("sandbox").into(),
            "--local-mirror".into(),
            mirror,
            "--package-cache-directory".into(),
            cache.into(),
        ]
    }
}

/// Refuses a tree that has other packages than its lock, by its dpkg status file.
pub fn same_packages(lock: &Lock, status: &str) -> Result<(), Error> {
    let installed: std::collections::BTreeSet<String> = status
        .split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| stanza.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
            Some(format!("{} {}", field("Package")?, field("Version")?))
        })
        .collect();
    let locked: std::collections::BTreeSet<String> =
        lock.packages.values().map(|p| format!("{} {}", p.name, p.version)).collect();
    let different: Vec<String> = installed.symmetric_difference(&locked).cloned().collect();
    if different.is_empty() { Ok(()) } else { Err(Error::OtherPackages(different)) }
}

/// The control file of a package: what an index says about it, dependencies among it.
fn control(file: &Path) -> Result<String, Error> {
    let output = Command::new("dpkg-deb")
        .arg("--field")
        .arg(file)
        .output()
        .map_err(|source| Error::Start { program: "dpkg-deb".to_owned(), source })?;
    if !output.status.success() {
        return Err(Error::NoPackage {
            path: file.to_owned(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn stanza(control: &str, package: &Locked) -> String {
    format!(
        "{}\nFilename: ./pool/{}\nSize: {}\nSHA256: {}\n\n",
        control.trim_end(),
        package.file_name(),
        package.size,
        package.sha256
    )
}

/// The archive as an apt source. It is trusted because we compared every byte of it with the lock ourselves.
fn source(folder: &Path) -> String {
    let uri: String = folder
        .to_string_lossy()
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => char::from(b).to_string(),
            _ => format!("%{b:02x}"),
        })
        .collect();
    format!("Types: deb\nURIs: file://{uri}\nSuites: ./\nTrusted: yes\n")
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(file_error("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::tests::{lock, package};

    #[test]
    fn a_stanza_says_where_the_package_is_and_what_it_must_be() {
        let package = package("a", "1", b"a");
        assert_eq!(
            stanza("Package: a\nDepends: b\nDescription: x\n y\n", &package),
            format!(
                "Package: a\nDepends: b\nDescription: x\n y\nFilename: ./pool/a_1_amd64.deb\nSize: 1\nSHA256: {}\n\n",
                package.sha256
            )
        );
    }

    #[test]
    fn a_folder_with_spaces_is_one_source() {
        assert!(source(Path::new("/a b/c")).contains("URIs: file:///a%20b/c\n"));
    }

    #[test]
    fn a_tree_with_other_packages_is_refused_by_name() {
        let lock = lock(&[package("a", "1", b"a"), package("b", "2", b"b")]);
        let good = "Package: a\nVersion: 1\n\nPackage: b\nStatus: x\nVersion: 2\n";
        assert!(same_packages(&lock, good).is_ok());
        let error =
            same_packages(&lock, "Package: a\nVersion: 1\n\nPackage: c\nVersion: 2\n").expect_err("other");
        assert!(error.to_string().ends_with("b 2, c 2"), "{error}");
    }
}
