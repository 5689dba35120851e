//! `./just lock`: resolves the packages of the tools tree and of each flavour anew, against the mirror of today, and
//! writes what is different into the lock files.

use crate::error::{Error, file};
use crate::flavour::{self, Flavour};
use crate::progress::Progress;
use pillar_tools::lock::{Changes, Lock};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The lock of the tools tree is called as no flavour may be.
pub const TOOLS: &str = "tools";

/// What became of one lock.
#[derive(Debug, Clone, Serialize)]
pub struct Renewed {
    /// "tools" or the flavour.
    pub lock: String,
    /// The file.
    pub path: PathBuf,
    /// How many packages it has now.
    pub packages: usize,
    /// Whether the file was not there, or damaged, so that nothing could be compared.
    pub new: bool,
    /// What is different.
    #[serde(flatten)]
    pub changes: Changes,
}

/// Where a lock lies.
#[must_use]
pub fn path(project: &Path, name: &str) -> PathBuf {
    project.join("image/lock").join(format!("{name}.lock"))
}

/// The packages that a flavour's Debian tree is made from.
pub fn wanted(project: &Path, flavour: &Flavour) -> Result<BTreeSet<String>, Error> {
    let configuration = project.join("image/mkosi/mkosi.conf");
    let text = fs::read_to_string(&configuration).map_err(file("read", &configuration))?;
    let mut packages = pillar_tools::lock::packages_of(&text);
    packages.extend(flavour.packages.iter().cloned());
    Ok(packages)
}

/// The lock of a flavour, for exactly the packages that it wants.
pub fn read(project: &Path, flavour: &Flavour) -> Result<Lock, Error> {
    Ok(pillar_tools::read_lock(&path(project, &flavour.name), &wanted(project, flavour)?)?)
}

/// Renews the named locks; all when none is named. Nothing is written before everything is resolved.
pub fn renew(project: &Path, names: &[String], progress: &Progress) -> Result<Vec<Renewed>, Error> {
    let names = match names {
        [] => [vec![TOOLS.to_owned()], flavour::known(&project.join("image/flavours"))?].concat(),
        some => some.to_vec(),
    };
    let mut trees = Vec::new();
    for name in names {
        let packages = match name.as_str() {
            TOOLS => pillar_tools::wanted(),
            _ => (wanted(project, &flavour::read(project, &name)?)?, BTreeSet::new()),
        };
        trees.push((name, packages));
    }
    progress.step("the mirror's indexes of today");
    let index = pillar_tools::Index::fetch()?;
    let mut locks = Vec::new();
    for (name, (wanted, host)) in trees {
        progress.step(&format!("packages of {name}"));
        locks.push((name, index.resolve(&wanted, &host)?));
    }
    crate::host::record(project, &crate::host::observe(project))?;
    let renewed = locks.into_iter().map(|(name, lock)| write(project, &name, &lock)).collect();
    progress.finish();
    renewed
}

fn write(project: &Path, name: &str, lock: &Lock) -> Result<Renewed, Error> {
    let path = path(project, name);
    let folder = project.join("image/lock");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let before = Lock::parse(&old).ok();
    let text = lock.render();
    if text != old {
        fs::create_dir_all(&folder).map_err(file("create", &folder))?;
        let partial = folder.join(format!(".{name}.lock.partial"));
        fs::write(&partial, &text).map_err(file("write", &partial))?;
        fs::rename(&partial, &path).map_err(file("rename", &partial))?;
    }
    Ok(Renewed {
        lock: name.to_owned(),
        packages: lock.all().count(),
        new: before.is_none(),
        changes: before.map(|before| before.changes(lock)).unwrap_or_default(),
        path,
    })
}

/// For people: a line per lock, a line per change.
#[must_use]
pub fn summary(renewed: &[Renewed]) -> String {
    let mut text = String::new();
    for Renewed { lock, packages, new, changes, .. } in renewed {
        let what = match (new, changes.is_empty()) {
            (true, _) => "made".to_owned(),
            (false, true) => "nothing changed".to_owned(),
            (false, false) => format!(
                "{} added, {} removed, {} at another version",
                changes.added.len(),
                changes.removed.len(),
                changes.updated.len() + changes.other_bytes.len()
            ),
        };
        text.push_str(&format!("{lock}: {packages} packages, {what}\n{changes}"));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_flavour_has_a_lock_for_its_packages_written_as_we_write_it() {
        for name in flavour::known(&project().join("image/flavours")).expect("folder") {
            assert_ne!(name, TOOLS, "the lock of the tools tree has this name");
            let flavour = flavour::read(&project(), &name).expect("a good flavour");
            let lock = read(&project(), &flavour).expect("`./just lock` makes it");
            let text = fs::read_to_string(path(&project(), &name)).expect("just read");
            assert_eq!(lock.render(), text, "{name}");
        }
    }

    #[test]
    fn a_renewed_lock_says_what_changed_and_replaces_a_damaged_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let lock = pillar_tools::locked().expect("the tools' own");
        let made = write(dir.path(), "x", &lock).expect("written");
        assert!(made.new && summary(&[made]).contains("packages, made"));
        let same = write(dir.path(), "x", &lock).expect("written");
        assert_eq!(summary(&[same]), format!("x: {} packages, nothing changed", lock.all().count()));

        let mut newer = lock.clone();
        let package = newer.packages.get_mut("bash").expect("a shell");
        let from = std::mem::replace(&mut package.version, "99-1".to_owned());
        let changed = write(dir.path(), "x", &newer).expect("written");
        let said = summary(std::slice::from_ref(&changed));
        assert!(
            said.ends_with(&format!("0 added, 0 removed, 1 at another version\n  ~ bash {from} → 99-1")),
            "{said}"
        );
        let json = serde_json::to_value(&changed).expect("plain data");
        assert_eq!(json["updated"][0]["to"], "99-1");

        fs::write(path(dir.path(), "x"), "format = ").expect("damaged");
        assert!(write(dir.path(), "x", &newer).expect("written").new);
        let left = fs::read_dir(dir.path().join("image/lock")).expect("folder").count();
        assert_eq!(left, 1, "nothing half-made stays");
    }
}
