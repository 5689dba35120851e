//! The tools tree: mkosi, and a Debian tree with every program that the build and the virtual machines run (ukify,
//! veritysetup, QEMU, swtpm, firmware …) at one version on every host. It lives in the user's cache, is built once
//! by [`Tools::ensure`], and is entered program by program through [`Tools::command`].
//!
//! It is not a security boundary: programs inside see the host's files under the host's names.
#![forbid(unsafe_code)]

mod apt;
mod inputs;
pub mod lock;
mod repository;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use apt::{Index, apt_sandbox_tree};
pub use inputs::{Inputs, Network, digest_of};
pub use repository::{Repository, same_packages};

/// What mkosi is told to put into the tree.
const CONFIGURATION: &str = include_str!("../mkosi.conf");

/// What it may be made of.
const LOCK: &str = include_str!("../../lock/tools.lock");

/// Where that is in the project, for messages.
const LOCK_PATH: &str = "image/lock/tools.lock";

/// The one package that is unpacked for the host instead of being installed into the tree; it is pure Python.
const MKOSI: &str = "mkosi";

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
    /// There is no lock file.
    #[error("there is no lock file {}", .0.display())]
    LockMissing(PathBuf),
    /// A lock file is not what `./just lock` writes.
    #[error("the lock file {} is damaged: {problem}", .path.display())]
    LockDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A lock file was made for another list of packages.
    #[error("the lock file {} was made for other packages: {difference}", .path.display())]
    LockOutdated {
        /// The file.
        path: PathBuf,
        /// What came and went.
        difference: String,
    },
    /// Locked packages that are nowhere to be had.
    #[error("inputs are missing:\n  {}\nlooked in:\n  {}", .names.join("\n  "), .looked.join("\n  "))]
    InputMissing {
        /// Packages with version and digest.
        names: Vec<String>,
        /// Folder and addresses.
        looked: Vec<String>,
    },
    /// A kept input whose bytes are not those that its name says.
    #[error("the kept input {} ({package}) is damaged and was not used: its digest is {found}", .path.display())]
    InputDamaged {
        /// The file.
        path: PathBuf,
        /// The package that it should be.
        package: String,
        /// What it is.
        found: lock::InputDigest,
    },
    /// An input with the right digest that is no Debian package.
    #[error("{} is no Debian package: {said}", .path.display())]
    NoPackage {
        /// The file.
        path: PathBuf,
        /// What dpkg-deb says.
        said: String,
    },
    /// The archive's indexes have no answer.
    #[error("the packages could not be resolved: {0}")]
    Resolve(String),
    /// A tree was made of other packages than its lock has.
    #[error("the tree does not have exactly the locked packages; different are {}", .0.join(", "))]
    OtherPackages(Vec<String>),
}

impl Error {
    /// What to do, where the message itself does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::LockMissing(_) => "`./just lock` makes it from the packages of today",
            Error::LockDamaged { .. } => "take the file from git again, or make it anew: `./just lock`",
            Error::LockOutdated { .. } | Error::OtherPackages(_) => {
                "`./just lock` renews it and shows what changes"
            }
            Error::InputMissing { .. } => {
                "mirrors drop old versions: copy the folder with the kept inputs from a machine that has them, name an \
                 archive that still has them in PILLAR_DEBIAN_MIRROR, or renew the lock: `./just lock`"
            }
            Error::InputDamaged { .. } | Error::NoPackage { .. } => {
                "remove that file; the next build fetches it again or says that it cannot"
            }
            Error::Resolve(_) => {
                "see that the packages in image/mkosi, image/tools and image/flavours are Debian's"
            }
            _ => return None,
        })
    }
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

/// Reads a lock file that must have been made for the packages in `wanted`.
pub fn read_lock(path: &Path, wanted: &BTreeSet<String>) -> Result<lock::Lock, Error> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::LockMissing(path.to_owned()));
        }
        other => other.map_err(file_error("read", path))?,
    };
    parse_lock(path, &text, wanted)
}

fn parse_lock(path: &Path, text: &str, wanted: &BTreeSet<String>) -> Result<lock::Lock, Error> {
    let lock =
        lock::Lock::parse(text).map_err(|problem| Error::LockDamaged { path: path.to_owned(), problem })?;
    let words = |sign: &str, from: &BTreeSet<String>, without: &BTreeSet<String>| {
        from.difference(without).map(|name| format!("{sign}{name}")).collect::<Vec<_>>()
    };
    let different = [words("+", wanted, &lock.wanted), words("-", &lock.wanted, wanted)].concat();
    if different.is_empty() {
        return Ok(lock);
    }
    Err(Error::LockOutdated { path: path.to_owned(), difference: different.join(", ") })
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
        let mkosi = mkosi_path();
        if !mkosi.join("mkosi/sandbox.py").is_file() {
            return Err(Error::Missing(mkosi));
        }
        Ok(Self { tree, mkosi })
    }

    /// The tree, built first when it is missing, from the locked packages. Says on standard error what it is about to
    /// do and why.
    pub fn ensure(network: Network) -> Result<Self, Error> {
        let cache = cache_dir();
        fs::create_dir_all(&cache).map_err(file_error("create", &cache))?;
        let lock_path = cache.join("tools.lock");
        let lock = File::create(&lock_path).map_err(file_error("create", &lock_path))?;
        lock.lock().map_err(file_error("lock", &lock_path))?;
        let (mkosi, tree) = (mkosi_path(), tree_path());
        if !mkosi.join("mkosi/sandbox.py").is_file() {
            unpack_mkosi(&locked()?, network)?;
        }
        if !tree.join("usr/bin").is_dir() {
            eprintln!("building the tools tree, once: about a minute and 370 MB in {}", tree.display());
            build_tree(&locked()?, &mkosi, &tree, network)?;
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

/// The packages that the tools tree is made from, and those for the host: what `./just lock` resolves.
#[must_use]
pub fn wanted() -> (BTreeSet<String>, BTreeSet<String>) {
    (lock::packages_of(CONFIGURATION), [MKOSI.to_owned()].into())
}

/// The lock of the tools tree.
pub fn locked() -> Result<lock::Lock, Error> {
    let path = Path::new(LOCK_PATH);
    let lock = parse_lock(path, LOCK, &wanted().0)?;
    if lock.host.keys().ne([MKOSI]) {
        return Err(Error::LockDamaged { path: path.to_owned(), problem: format!("{MKOSI} is not in it") });
    }
    Ok(lock)
}

fn short_digest(parts: &[&str]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    hex::encode(&context.finish().as_ref()[..6])
}

fn tree_path() -> PathBuf {
    cache_dir().join(format!("tools-{}", short_digest(&[CONFIGURATION, LOCK])))
}

/// mkosi's own tree: the lock decides which it is, so a host that has another mkosi builds with the same one.
fn mkosi_home() -> PathBuf {
    cache_dir().join(format!("mkosi-{}", short_digest(&[LOCK])))
}

fn mkosi_path() -> PathBuf {
    mkosi_home().join("usr/lib/python3/dist-packages")
}

fn mkosi_command(modules: &Path) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(["-m", "mkosi"]).env("PYTHONPATH", modules).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn say(text: &str) {
    eprintln!("{text}");
}

fn unpack_mkosi(lock: &lock::Lock, network: Network) -> Result<(), Error> {
    let home = mkosi_home();
    let work = home.with_extension("tmp");
    remove(&work)?;
    let packages: Vec<&lock::Locked> = lock.host.values().collect();
    for file in Inputs::open().ensure(&packages, network, &say)? {
        run(
            Command::new("dpkg-deb").arg("-x").arg(&file).arg(&work),
            "dpkg-deb",
            &cache_dir().join("mkosi.log"),
            HINT_RETRY,
        )?;
    }
    remove(&home)?;
    fs::rename(&work, &home).map_err(file_error("rename", &work))
}

fn build_tree(lock: &lock::Lock, mkosi: &Path, tree: &Path, network: Network) -> Result<(), Error> {
    let work = tree.with_extension("tmp");
    remove(&work)?;
    fs::create_dir_all(&work).map_err(file_error("create", &work))?;
    let configuration = work.join("mkosi.conf");
    fs::write(&configuration, CONFIGURATION).map_err(file_error("write", &configuration))?;
    let repository = Repository::new(lock, &Inputs::open(), network, work.join("repository"), &say)?;
    let log = cache_dir().join("tools.log");
    let mut command = mkosi_command(mkosi);
    command.arg("--directory").arg(&work).args(repository.mkosi_arguments());
    command.arg("--output-directory").arg(&work).args(["--output", "tree", "build"]);
    run(&mut command, "mkosi", &log, HINT_RETRY)?;
    let built = work.join("tree");
    let status = built.join("var/lib/dpkg/status");
    same_packages(lock, &fs::read_to_string(&status).map_err(file_error("read", &status))?)?;
    fs::rename(&built, tree).map_err(file_error("rename", &built))?;
    remove(&work)
}

pub(crate) const HINT_NETWORK: &str = "packages come from the host's Debian mirror: see that it is reachable and that the disk has room, then run the command again";
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

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_the_tools_is_whole_and_for_these_packages() {
        let lock = locked().expect("a good lock");
        assert!(lock.packages.len() > wanted().0.len(), "dependencies are in it");
        assert_eq!(lock.render(), LOCK, "as `./just lock` writes it");
    }

    #[test]
    fn a_lock_for_other_packages_is_told_from_a_damaged_one() {
        let path = Path::new("x.lock");
        let mut other = wanted().0;
        other.insert("nosuch".to_owned());
        let error = parse_lock(path, LOCK, &other).expect_err("outdated");
        assert!(error.to_string().ends_with("x.lock was made for other packages: +nosuch"), "{error}");
        let error = parse_lock(path, &LOCK[..LOCK.len() - 40], &other).expect_err("cut");
        assert!(
            matches!(error, Error::LockDamaged { .. }) && error.to_string().contains("x.lock is damaged")
        );
        let error = read_lock(Path::new("/nonexistent/x.lock"), &other).expect_err("absent");
        assert!(matches!(error, Error::LockMissing(_)) && error.hint().is_some());
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
