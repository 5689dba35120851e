//! The workshop: a Debian tree that mkosi makes once per configuration, in the cache. The image takes single files from
//! it; it is never shipped, booted or changed.

use crate::error::{Error, file};
use crate::flavour::Flavour;
use crate::progress::Progress;
use crate::run::run;
use pillar_model::PackageRef;
use pillar_tools::lock::Lock;
use pillar_tools::{Inputs, Network, Repository, Tools};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Raised when trees made by older code must not be used any more.
const GENERATION: &str = "workshop 2";

/// A Debian tree that is there.
#[derive(Debug, Clone)]
pub struct Workshop {
    root: PathBuf,
    /// `uname -r` of its kernel.
    pub kernel: String,
}

impl Workshop {
    /// The tree for this configuration and lock, made from the locked packages when it is missing or wanted anew.
    pub fn prepare(
        project: &Path,
        flavour: &Flavour,
        packages: &Lock,
        tools: &Tools,
        network: Network,
        anew: bool,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let folder = project.join("image/mkosi");
        let configuration = folder.join("mkosi.conf");
        let text = fs::read(&configuration).map_err(file("read", &configuration))?;
        let key = crate::digest::short(&[GENERATION.as_bytes(), &text, packages.render().as_bytes()]);
        let cache = pillar_tools::cache_dir();
        fs::create_dir_all(&cache).map_err(file("create", &cache))?;
        let root = cache.join(format!("workshop-{}-{key}", flavour.name));

        let lock_path = cache.join(format!("workshop-{}.lock", flavour.name));
        let lock = File::create(&lock_path).map_err(file("create", &lock_path))?;
        if lock.try_lock().is_err() {
            progress.note("another build is preparing the Debian tree; waiting for it");
            lock.lock().map_err(file("lock", &lock_path))?;
        }
        if anew || !root.join("usr/bin").is_dir() {
            progress.step("Debian tree from the locked packages (once per lock)");
            Making { configuration: &folder, packages, flavour, tools, network, progress }.make(&root)?;
        }
        let kernel = only_kernel(&root)?;
        Ok(Self { root, kernel })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file of the tree under its name on the host. Links are followed inside the tree, never out of it.
    pub fn file(&self, path: &str) -> Result<PathBuf, Error> {
        self.find(path).filter(|p| p.is_file()).ok_or_else(|| Error::WorkshopFile(path.to_owned()))
    }

    /// As [`Self::file`], for what may be absent or a directory.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<PathBuf> {
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut here: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => here.push(part),
            }
            let at = self.root.join(here.join("/"));
            let kind = fs::symlink_metadata(&at).ok()?.file_type();
            if kind.is_symlink() {
                links += 1;
                if links > 40 {
                    return None;
                }
                let target = fs::read_link(&at).ok()?.to_str()?.to_owned();
                if target.starts_with('/') {
                    here.clear();
                } else {
                    here.pop();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        Some(self.root.join(here.join("/")))
    }

    /// The bytes of a file.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let path = self.file(path)?;
        fs::read(&path).map_err(file("read", &path))
    }

    /// A text file.
    pub fn read_text(&self, path: &str) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.read(path)?).into_owned())
    }

    /// A path of the host as the tree's own absolute path.
    #[must_use]
    pub fn inside(&self, host: &Path) -> Option<String> {
        Some(format!("/{}", host.strip_prefix(&self.root).ok()?.to_str()?))
    }

    /// The packages that own the given paths of the tree, each with its paths. A path that no package owns is an error.
    pub fn owners(&self, paths: &BTreeSet<String>) -> Result<BTreeMap<PackageRef, BTreeSet<String>>, Error> {
        let status = self.read_text("/var/lib/dpkg/status")?;
        let installed = parse_status(&status);
        let mut owner: BTreeMap<String, String> = BTreeMap::new();
        for (name, package) in &installed {
            let list = [format!("{name}:{}", package.architecture), name.clone()]
                .iter()
                .find_map(|n| self.find(&format!("/var/lib/dpkg/info/{n}.list")));
            let Some(list) = list else { continue };
            let text = fs::read_to_string(&list).map_err(file("read", &list))?;
            for line in text.lines() {
                owner.insert(merged(line), name.clone());
            }
        }
        let mut owners: BTreeMap<PackageRef, BTreeSet<String>> = BTreeMap::new();
        for path in paths {
            let name = owner.get(&merged(path)).map(String::as_str).or_else(|| generated_by(path));
            let package = name
                .and_then(|name| installed.get(name))
                .ok_or_else(|| Error::WorkshopFile(format!("package that owns {path}")))?;
            owners.entry(package.clone()).or_default().insert(path.clone());
        }
        Ok(owners)
    }

    /// The licences that a package's copyright file names, in its own short names; sorted, empty when it has none in
    /// the machine-readable form.
    #[must_use]
    pub fn licences(&self, package: &str) -> Vec<String> {
        let Ok(text) = self.read_text(&format!("/usr/share/doc/{package}/copyright")) else {
            return Vec::new();
        };
        if !text.starts_with("Format:") {
            return Vec::new();
        }
        let names: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("License:"))
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        names.into_iter().collect()
    }
}

/// Files that a package's scripts make: no file list has them.
fn generated_by(path: &str) -> Option<&'static str> {
    (path == "/etc/ssl/certs/ca-certificates.crt").then_some("ca-certificates")
}

/// A path with the merged /usr spelt out, as packages of both habits list it.
fn merged(path: &str) -> String {
    for top in ["/lib64/", "/lib/", "/bin/", "/sbin/"] {
        if path.starts_with(top) {
            return format!("/usr{path}");
        }
    }
    path.to_owned()
}

fn parse_status(status: &str) -> BTreeMap<String, PackageRef> {
    let mut packages = BTreeMap::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
        };
        if let (Some(name), Some(version), Some(architecture)) =
            (field("Package"), field("Version"), field("Architecture"))
        {
            packages.insert(name.clone(), PackageRef { name, version, architecture });
        }
    }
    packages
}

fn only_kernel(root: &Path) -> Result<String, Error> {
    let folder = root.join("usr/lib/modules");
    let mut kernels: Vec<String> = fs::read_dir(&folder)
        .map_err(file("read", &folder))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    match (kernels.pop(), kernels.is_empty()) {
        (Some(kernel), true) => Ok(kernel),
        _ => Err(Error::WorkshopFile("single kernel in /usr/lib/modules".to_owned())),
    }
}

/// What making a tree takes.
struct Making<'a> {
    configuration: &'a Path,
    packages: &'a Lock,
    flavour: &'a Flavour,
    tools: &'a Tools,
    network: Network,
    progress: &'a Progress,
}

impl Making<'_> {
    fn make(&self, root: &Path) -> Result<(), Error> {
        let work = root.with_extension("tmp");
        remove(&work)?;
        fs::create_dir_all(&work).map_err(file("create", &work))?;
        let repository = Repository::new(
            self.packages,
            &Inputs::open(),
            self.network,
            work.join("repository"),
            &|text| self.progress.note(text),
        )?;
        let mut command = self.tools.mkosi();
        command.arg("--directory").arg(self.configuration).args(repository.mkosi_arguments());
        command.arg("--workspace-directory").arg(&work);
        command.arg("--output-directory").arg(&work);
        command.args(self.flavour.packages.iter().map(|package| format!("--package={package}")));
        command.arg("build");
        run("mkosi", &mut command)?;
        let built = work.join("tree");
        let status = built.join("var/lib/dpkg/status");
        let text = fs::read_to_string(&status).map_err(file("read", &status))?;
        pillar_tools::same_packages(self.packages, &text)?;
        let old = root.with_extension("old");
        remove(&old)?;
        if root.exists() {
            fs::rename(root, &old).map_err(file("rename", root))?;
        }
        fs::rename(&built, root).map_err(file("rename", &built))?;
        remove(&old)?;
        remove(&work)
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_tree_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib")).expect("new");
        fs::write(root.join("usr/lib/libx.so.1.2"), "x").expect("new");
        std::os::unix::fs::symlink("libx.so.1.2", root.join("usr/lib/libx.so.1")).expect("new");
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).expect("new");
        std::os::unix::fs::symlink("/etc/passwd", root.join("usr/lib/out")).expect("new");
        let workshop = Workshop { root: root.to_owned(), kernel: String::new() };
        assert_eq!(workshop.find("/lib/libx.so.1"), Some(root.join("usr/lib/libx.so.1.2")));
        assert_eq!(workshop.find("/usr/lib/out"), None);
        assert_eq!(workshop.find("/../../etc/passwd"), None);
        assert!(workshop.file("/usr/lib").is_err());
    }

    #[test]
    fn packages_are_read_from_the_status_file() {
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n\n\
                      Package: tzdata\nArchitecture: all\nVersion: 2025b\nDescription: x\n y\n";
        let packages = parse_status(status);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages["libc6"].version, "2.41-12");
    }
}
