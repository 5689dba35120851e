//! The host's own Debian mirror, pointed at trixie. No mirror is named in this project: it comes from the host's apt
//! configuration, or from `PILLAR_DEBIAN_MIRROR`.

use crate::lock::{Lock, Locked, from_index};
use crate::{Error, cache_dir, file_error, run};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that images and tools are made of.
pub(crate) const SUITE: &str = "trixie";

/// The archive's parts that packages may come from: the free one, and firmware for devices that do not work without.
/// What nobody names is not taken from either.
const COMPONENTS: &str = "main non-free-firmware";

/// Debian's archive keys; the host's package `debian-archive-keyring` has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A tree for mkosi's `SandboxTrees=` with the host's mirror (and proxies) for trixie. Written anew each time.
pub fn apt_sandbox_tree() -> Result<PathBuf, Error> {
    let tree = cache_dir().join("apt");
    let sources = tree.join("etc/apt/sources.list.d");
    let conf = tree.join("etc/apt/apt.conf.d");
    for folder in [&sources, &conf] {
        fs::create_dir_all(folder).map_err(file_error("create", folder))?;
    }
    let targets = output("apt-get", &["indextargets", "--format", "$(LABEL)\t$(REPO_URI)"])?;
    let text =
        sources_text(&targets, env::var("PILLAR_DEBIAN_MIRROR").ok().as_deref()).ok_or(Error::NoMirror)?;
    write(&sources.join("mkosi.sources"), &text)?;
    write(&conf.join("60proxy.conf"), &proxies(&output("apt-config", &["dump"])?))?;
    Ok(tree)
}

/// apt's own downloader: it knows the host's proxies, and fetches several files at once.
const DOWNLOADER: &str = "/usr/lib/apt/apt-helper";

/// How many files one run of the downloader is asked for: their addresses must fit on a command line.
const FILES_AT_ONCE: usize = 200;

/// The roots of the archives that may have a locked package, each with a slash at its end.
pub(crate) fn archives() -> Result<Vec<String>, Error> {
    let targets = output("apt-get", &["indextargets", "--format", "$(LABEL)\t$(REPO_URI)"])?;
    let named = env::var("PILLAR_DEBIAN_MIRROR").ok();
    let found = archive_roots(&targets, named.as_deref());
    if found.is_empty() { Err(Error::NoMirror) } else { Ok(found) }
}

/// Fetches files (address, where to). Whether each came is for the caller to see; that apt could be asked at all is not.
pub(crate) fn fetch(files: &[(String, PathBuf)], folder: &Path) -> Result<(), Error> {
    for some in files.chunks(FILES_AT_ONCE) {
        let mut command = Command::new(DOWNLOADER);
        command.args(["-o", "APT::Sandbox::User=root", "download-file"]).current_dir(folder);
        for (address, place) in some {
            // No digest: a file with another one is ours to name.
            command.arg(address).arg(place).arg("");
        }
        match run(&mut command, "apt-helper", &cache_dir().join("apt.log"), crate::HINT_NETWORK) {
            Err(Error::Failed { .. }) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The mirror's indexes of today, fetched into a folder of their own and checked with the archive's keys by apt.
#[derive(Debug)]
pub struct Index {
    folder: PathBuf,
    configuration: PathBuf,
}

impl Index {
    /// Fetches them.
    pub fn fetch() -> Result<Self, Error> {
        let folder = cache_dir().join(format!("index-{}", std::process::id()));
        crate::remove(&folder)?;
        for name in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(file_error("create", &path))?;
        }
        write(&folder.join("status"), "")?;
        let index = Self { configuration: apt_sandbox_tree()?.join("etc/apt"), folder };
        let log = cache_dir().join("apt.log");
        // A mirror that cannot be reached is only a warning to apt unless it is told otherwise.
        let mut update = index.command("apt-get");
        run(update.args(["--error-on=any", "update"]), "apt-get update", &log, crate::HINT_NETWORK)?;
        Ok(index)
    }

    /// Which packages a tree with `wanted` consists of, as mkosi would install it: what is essential, `wanted`, and what
    /// these depend on; no recommendations. `host` are packages for use outside the tree.
    pub fn resolve(&self, wanted: &BTreeSet<String>, host: &BTreeSet<String>) -> Result<Lock, Error> {
        let mut words: Vec<&str> = vec!["--simulate", "install", "?essential", "base-files"];
        words.extend(wanted.iter().map(String::as_str));
        let packages = self.show(&installs(&self.run("apt-get", &words)?))?;
        let host: Vec<String> = host.iter().cloned().collect();
        Ok(Lock { wanted: wanted.clone(), packages, host: self.show(&host)? })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-q", "-o", "APT::Sandbox::User=root", "-o", "pkgCacheGen::ForceEssential=,"]);
        command.args(["-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64"]);
        command.args(["-o", "APT::Install-Recommends=false"]);
        for (key, path) in [
            ("Dir::Etc", self.configuration.clone()),
            ("Dir::State::lists", self.folder.join("lists")),
            ("Dir::State::status", self.folder.join("status")),
            ("Dir::Cache", self.folder.join("cache")),
        ] {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        command.env("LC_ALL", "C.UTF-8").current_dir(&self.folder);
        command
    }

    fn run(&self, program: &str, words: &[&str]) -> Result<String, Error> {
        let output = self
            .command(program)
            .args(words)
            .output()
            .map_err(|source| Error::Start { program: program.to_owned(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Resolve(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// The packages with these names (`name` or `name=version`) as the indexes describe them.
    fn show(&self, names: &[String]) -> Result<BTreeMap<String, Locked>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut words = vec!["show", "--no-all-versions"];
        words.extend(names.iter().map(String::as_str));
        let found = from_index(&self.run("apt-cache", &words)?).map_err(Error::Resolve)?;
        if found.len() != names.len() {
            return Err(Error::Resolve(format!("{} packages asked for, {} found", names.len(), found.len())));
        }
        Ok(found.into_iter().map(|package| (package.name.clone(), package)).collect())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // What stays is only a few megabytes in the cache, and the next run of this process id removes it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `name=version` of each line `Inst name (version …)` of a simulation.
fn installs(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_once(" ("))
        .filter_map(|(name, rest)| Some(format!("{name}={}", rest.split_whitespace().next()?)))
        .collect()
}

/// Archive roots among lines `label TAB uri`: Debian's, or those that were named instead, and the security archive.
fn archive_roots(targets: &str, named: Option<&str>) -> Vec<String> {
    let listed = |wanted: &'static str| {
        targets.lines().filter_map(|l| l.split_once('\t')).filter(move |(label, _)| *label == wanted)
    };
    let mut roots: Vec<String> = Vec::new();
    let main: Vec<&str> = match named {
        Some(named) => named.split_whitespace().collect(),
        None => listed("Debian").map(|(_, uri)| uri).collect(),
    };
    for uri in main.into_iter().chain(listed("Debian-Security").map(|(_, uri)| uri)) {
        let root = format!("{}/", uri.trim_end_matches('/'));
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(file_error("write", path))
}

fn output(program: &str, words: &[&str]) -> Result<String, Error> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sources in deb822 form; `None` when no Debian mirror is known. `targets` has a line `label TAB uri` per index.
fn sources_text(targets: &str, named: Option<&str>) -> Option<String> {
    let of = |wanted: &str| {
        targets
            .lines()
            .filter_map(|l| l.split_once('\t'))
            .find(|(label, _)| *label == wanted)
            .map(|(_, uri)| uri)
    };
    let main = named.or_else(|| of("Debian"))?;
    let mut text = stanza(main, &format!("{SUITE} {SUITE}-updates"));
    if let Some(security) = of("Debian-Security") {
        text.push('\n');
        text.push_str(&stanza(security, &format!("{SUITE}-security")));
    }
    Some(text)
}

fn stanza(uri: &str, suites: &str) -> String {
    format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: {COMPONENTS}\nSigned-By: {KEYRING}\n")
}

/// The proxy settings among `apt-config dump`'s lines.
fn proxies(dump: &str) -> String {
    dump.lines()
        .filter(|l| l.starts_with("Acquire::http::Proxy") || l.starts_with("Acquire::https::Proxy"))
        .map(|l| format!("{l}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_hosts_own() {
        let targets = "Other\thttp://other.invalid/\nDebian\thttp://mirror.invalid/debian/\n\
                       Debian-Security\thttp://mirror.invalid/security/\n";
        let text = sources_text(targets, None).expect("a Debian mirror is listed");
        assert!(
            text.starts_with(
                "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: trixie trixie-updates\n"
            )
        );
        assert!(text.contains("URIs: http://mirror.invalid/security/\nSuites: trixie-security\n"));
        assert!(!text.contains("other.invalid"));
    }

    #[test]
    fn no_mirror_is_said_and_a_named_one_wins() {
        assert_eq!(sources_text("Ubuntu\thttp://mirror.invalid/\n", None), None);
        let text =
            sources_text("Debian\thttp://a.invalid/\n", Some("http://b.invalid/debian")).expect("named");
        assert!(text.contains("URIs: http://b.invalid/debian\n"));
    }

    #[test]
    fn archives_are_asked_in_order_and_once() {
        let targets = "Debian\thttp://a.invalid/debian/\nOther\thttp://o.invalid/\nDebian\thttp://a.invalid/debian\n\
                       Debian-Security\thttp://a.invalid/security/\n";
        assert_eq!(archive_roots(targets, None), ["http://a.invalid/debian/", "http://a.invalid/security/"]);
        assert_eq!(
            archive_roots(targets, Some("http://b.invalid/debian http://c.invalid")),
            ["http://b.invalid/debian/", "http://c.invalid/", "http://a.invalid/security/"]
        );
        assert!(archive_roots("", None).is_empty());
    }

    #[test]
    fn a_simulation_is_read() {
        let text = "Reading package lists...\nInst libc6 (2.41-12+deb13u4 Debian:13.7/stable [amd64]) []\n\
                    Inst a (1:2 Debian [all])\nConf libc6 (2.41 Debian)\n";
        assert_eq!(installs(text), ["libc6=2.41-12+deb13u4", "a=1:2"]);
    }

    #[test]
    fn only_proxies_are_taken_over() {
        let dump =
            "Acquire \"\";\nAcquire::http::Proxy \"http://127.0.0.1:3142\";\nAcquire::Retries \"3\";\n";
        assert_eq!(proxies(dump), "Acquire::http::Proxy \"http://127.0.0.1:3142\";\n");
    }
}
