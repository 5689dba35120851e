//! The tools tree: mkosi, and a Debian tree with every program that the build and the virtual machines run (ukify,
//! veritysetup, QEMU, swtpm, firmware …) at one version on every host. It lives in the user's cache, is built once
//! by [`Tools::ensure`], and is entered program by program through [`Tools::command`].
//!
//! It is not a security boundary: programs inside see the host's files under the host's names.
#![forbid(unsafe_code)]

mod apt;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use apt::apt_sandbox_tree;

/// What mkosi is told to put into the tree.
const CONFIGURATION: &str = include_str!("../mkosi.conf");

/// The oldest mkosi that knows the settings we use.
const MKOSI_OLDEST_MAJOR: u32 = 25;

/// Debian's own interpreter: mkosi's package is written for it, whatever `python3` the PATH has.
const PYTHON: &str = "/usr/bin/python3";

/// Why the tools tree cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was never built.
    #[error("there is no tools tree at {}\n  hint: `./just tools` builds it (about a minute, 370 MB)", .0.display())]
    Missing(PathBuf),
    /// A file or folder could not be used.
    #[error("cannot {operation} {}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program that must exist on the host could not be started.
    #[error("cannot start `{program}`\n  hint: `./just` installs what the host lacks")]
    Start {
        /// Its name.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{program}` failed ({status})\n{tail}\n  log: {}\n  hint: {hint}", .log.display())]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines it printed.
        tail: String,
        /// Everything it printed.
        log: PathBuf,
        /// What to try.
        hint: &'static str,
    },
    /// The host's apt knows no Debian mirror.
    #[error(
        "the host's apt knows no Debian mirror\n  hint: name one in PILLAR_DEBIAN_MIRROR (a Debian archive that has trixie)"
    )]
    NoMirror,
}

pub(crate) fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

/// Where everything is kept that should outlive a clone: `$XDG_CACHE_HOME/pillar`, else `~/.cache/pillar`.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    base.unwrap_or_else(|| {
        PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache")
    })
    .join("pillar")
}

/// Where mkosi keeps the packages it downloads.
#[must_use]
pub fn package_cache_dir() -> PathBuf {
    cache_dir().join("packages")
}

/// A tools tree that is there.
#[derive(Debug, Clone)]
pub struct Tools {
    tree: PathBuf,
    mkosi: PathBuf,
}

impl Tools {
    /// The tree in the cache; [`Error::Missing`] when it was never built for this configuration.
    pub fn open() -> Result<Self, Error> {
        let tree = tree_path();
        if !tree.join("usr/bin").is_dir() {
            return Err(Error::Missing(tree));
        }
        let mkosi = mkosi_path().ok_or_else(|| Error::Missing(mkosi_cache()))?;
        Ok(Self { tree, mkosi })
    }

    /// The tree, built first when it is missing. Says on standard error what it is about to do and why.
    pub fn ensure() -> Result<Self, Error> {
        let cache = cache_dir();
        fs::create_dir_all(&cache).map_err(file_error("create", &cache))?;
        let lock_path = cache.join("tools.lock");
        let lock = File::create(&lock_path).map_err(file_error("create", &lock_path))?;
        lock.lock().map_err(file_error("lock", &lock_path))?;
        let mkosi = match mkosi_path() {
            Some(path) => path,
            None => {
                eprintln!("fetching mkosi {MKOSI_OLDEST_MAJOR} or newer (the host has none that new)");
                fetch_mkosi()?
            }
        };
        let tree = tree_path();
        if !tree.join("usr/bin").is_dir() {
            eprintln!("building the tools tree, once: about a minute and 370 MB in {}", tree.display());
            build_tree(&mkosi, &tree)?;
        }
        Ok(Self { tree, mkosi })
    }

    /// A file of the tree (`relative` without a leading slash) under its name on the host.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.tree.join(relative)
    }

    /// A program of the tree, ready for arguments. Host paths keep their names; `/usr` and `/etc` are the tree's.
    /// The wrapper replaces itself by the program, so the process id and the signals are the program's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(PYTHON);
        command.arg("-I").arg(self.mkosi.join("mkosi/sandbox.py"));
        command.arg("--ro-bind").arg(self.tree.join("usr")).arg("/usr");
        command.arg("--ro-bind").arg(self.tree.join("etc")).arg("/etc");
        for (target, link) in
            [("usr/bin", "/bin"), ("usr/sbin", "/sbin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")]
        {
            command.arg("--symlink").arg(target).arg(link);
        }
        for folder in host_folders() {
            command.arg("--bind").arg(&folder).arg(&folder);
        }
        command.args(["--proc", "/proc", "--same-dir"]);
        command.args(["--setenv", "PATH", "/usr/bin:/usr/sbin"]);
        command.args(["--setenv", "LC_ALL", "C.UTF-8"]);
        command.arg("--").arg(program);
        command
    }

    /// mkosi itself, for trees other than this one. Runs on the host.
    #[must_use]
    pub fn mkosi(&self) -> Command {
        mkosi_command(&self.mkosi)
    }
}

/// Top-level folders of the host that programs inside the tree see: all but those that the tree itself brings.
fn host_folders() -> Vec<PathBuf> {
    let own = ["usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "proc"];
    let Ok(entries) = fs::read_dir("/") else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .filter(|p| !own.iter().any(|o| Path::new("/").join(o) == *p))
        .collect();
    folders.sort();
    folders
}

fn tree_path() -> PathBuf {
    let digest = ring::digest::digest(&ring::digest::SHA256, CONFIGURATION.as_bytes());
    cache_dir().join(format!("tools-{}", &hex::encode(digest)[..12]))
}

fn mkosi_cache() -> PathBuf {
    cache_dir().join("mkosi")
}

fn mkosi_command(modules: &Path) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(["-m", "mkosi"]).env("PYTHONPATH", modules).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The folder with a `mkosi` module that is new enough: the host's, else ours.
fn mkosi_path() -> Option<PathBuf> {
    let candidates = [
        PathBuf::from("/usr/lib/python3/dist-packages"),
        mkosi_cache().join("usr/lib/python3/dist-packages"),
    ];
    candidates.into_iter().find(|path| {
        path.join("mkosi/sandbox.py").is_file()
            && mkosi_command(path)
                .arg("--version")
                .stdin(Stdio::null())
                .output()
                .ok()
                .and_then(|output| major_version(&String::from_utf8_lossy(&output.stdout)))
                .is_some_and(|major| major >= MKOSI_OLDEST_MAJOR)
    })
}

/// "mkosi 25.3" → 25.
fn major_version(text: &str) -> Option<u32> {
    text.trim().strip_prefix("mkosi ")?.split(['.', '~', '-']).next()?.parse().ok()
}

/// Unpacks Debian trixie's mkosi package into the cache; it is pure Python.
fn fetch_mkosi() -> Result<PathBuf, Error> {
    let work = cache_dir().join("mkosi.tmp");
    remove(&work)?;
    fs::create_dir_all(&work).map_err(file_error("create", &work))?;
    let package = apt::download("mkosi", &work)?;
    let unpacked = work.join("unpacked");
    run(
        Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked),
        "dpkg-deb",
        &work.join("log"),
        HINT_RETRY,
    )?;
    let home = mkosi_cache();
    remove(&home)?;
    fs::rename(&unpacked, &home).map_err(file_error("rename", &unpacked))?;
    remove(&work)?;
    mkosi_path().ok_or(Error::Missing(home))
}

fn build_tree(mkosi: &Path, tree: &Path) -> Result<(), Error> {
    let work = tree.with_extension("tmp");
    remove(&work)?;
    fs::create_dir_all(&work).map_err(file_error("create", &work))?;
    let configuration = work.join("mkosi.conf");
    fs::write(&configuration, CONFIGURATION).map_err(file_error("write", &configuration))?;
    let packages = package_cache_dir();
    fs::create_dir_all(&packages).map_err(file_error("create", &packages))?;
    let log = cache_dir().join("tools.log");
    let mut command = mkosi_command(mkosi);
    command.arg("--directory").arg(&work).arg("--sandbox-tree").arg(apt_sandbox_tree()?);
    command.arg("--package-cache-directory").arg(&packages);
    command.arg("--output-directory").arg(&work).args(["--output", "tree", "build"]);
    run(&mut command, "mkosi", &log, HINT_NETWORK)?;
    let built = work.join("tree");
    fs::rename(&built, tree).map_err(file_error("rename", &built))?;
    remove(&work)
}

const HINT_NETWORK: &str = "packages come from the host's Debian mirror: see that it is reachable and that the disk has room, then run the command again";
const HINT_RETRY: &str = "run the command again";

/// Runs a program with its output in `log`; the error carries the log's last lines.
pub(crate) fn run(command: &mut Command, program: &str, log: &Path, hint: &'static str) -> Result<(), Error> {
    let output = File::create(log).map_err(file_error("create", log))?;
    let errors = output.try_clone().map_err(file_error("open", log))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(8)..].iter().map(|l| format!("  | {l}")).collect::<Vec<_>>();
    Err(Error::Failed {
        program: program.to_owned(),
        status: status.to_string(),
        tail: tail.join("\n"),
        log: log.to_owned(),
        hint,
    })
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mkosi_versions_are_told_apart() {
        assert_eq!(major_version("mkosi 25.3\n"), Some(25));
        assert_eq!(major_version("mkosi 14"), Some(14));
        assert_eq!(major_version("mkosi 26~devel"), Some(26));
        assert_eq!(major_version("Python 3"), None);
    }

    #[test]
    fn programs_run_inside_the_tree_and_keep_host_paths() {
        let Ok(tools) = Tools::open() else {
            eprintln!("skipped: no tools tree; `./just tools` builds it");
            return;
        };
        let here = env::current_dir().expect("tests have a working directory");
        let output = tools.command("pwd").output().expect("python3 starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), here.to_string_lossy());
        let output = tools.command("ukify").arg("--version").output().expect("python3 starts");
        assert!(String::from_utf8_lossy(&output.stdout).contains("ukify 25"), "{output:?}");
    }
}
