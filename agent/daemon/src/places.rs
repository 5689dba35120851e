//! The folders and files that the agent works with, opened at start, while the capability to do so is still there; only the
//! folder of the entries, which is its own, is opened behind that. Paths are relative to an open folder and cannot lead
//! out of it.

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use pillar_layout::{NODE_SETTINGS_MAX_BYTES, root, run};
use pillar_model::{Boot, NodeSettings, StateReport};
use pillar_wire::limit;
use rustix::fs::{AtFlags, statat};
use std::fs::File;
use std::io::{self, Read, Seek, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The firmware's event log as the kernel shows it.
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// The kernel log.
const KMSG: &str = "/dev/kmsg";
/// `boot.json` is about 2 KiB; init writes nothing near this.
const BOOT_MAX_BYTES: usize = 64 * 1024;
/// Certificates of a few dozen operators.
const OPERATORS_MAX_BYTES: usize = 256 * 1024;
/// How many readers of the kernel log there can be at once: each needs a file of its own, opened before the capability
/// for it is dropped.
pub const LOG_READERS: usize = 4;

/// The folder of the cluster's entries, in the agent's folder on the state volume.
const ENTRIES: &str = "entries";

/// What went wrong with a file, and which.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened or read.
    #[error("cannot {operation} {path}")]
    File {
        /// "open" or "read".
        operation: &'static str,
        /// The path inside the pillar.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than it can be.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The path inside the pillar.
        path: &'static str,
        /// The limit.
        limit: usize,
    },
    /// It is not what init writes.
    #[error("{path} does not hold what init writes")]
    Boot {
        /// The path inside the pillar.
        path: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The kernel showed no event log when the agent started.
    #[error(
        "no firmware event log at {EVENT_LOG}; start the machine by UEFI with a TPM 2.0 switched on in the firmware's settings"
    )]
    NoEventLog,
    /// Init logged nothing, so no phase was extended.
    #[error(
        "no measurements of our own in {}; init found no TPM that it could extend, its records in the log say why",
        run::CEL
    )]
    NoCel,
}

/// When a file was last written, as its file system says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedAt {
    unix_s: i64,
    ns: u64,
}

/// Open folders and files.
#[derive(Debug)]
pub struct Places {
    run: Dir,
    system: Dir,
    /// Kept open: the file is readable by root alone. Reading it again from the start shows it anew.
    event_log: Option<Mutex<File>>,
    kmsg: Mutex<Vec<File>>,
    init_socket: PathBuf,
    state: PathBuf,
}

impl Places {
    /// Opens them below `root`. What a machine without a TPM lacks may be missing.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        let folder = |path: &str| {
            let path = below(path);
            Dir::open_ambient_dir(&path, ambient_authority()).map_err(|source| Error::File {
                operation: "open",
                path,
                source,
            })
        };
        let kmsg = below(KMSG);
        // A machine whose log cannot be read serves everything else.
        let readers = (0..LOG_READERS).map_while(|_| open_kmsg(&kmsg).ok()).collect();
        Ok(Self {
            run: folder(run::DIR)?,
            system: folder(parent(root::OPERATORS))?,
            event_log: File::open(below(EVENT_LOG)).ok().map(Mutex::new),
            kmsg: Mutex::new(readers),
            init_socket: below(run::INIT_SOCKET),
            state: below(root::AGENT_STATE),
        })
    }

    /// The folder of the cluster's entries on the state volume. `NotFound` when the volume is not open.
    pub fn entries(&self) -> io::Result<Dir> {
        let state = Dir::open_ambient_dir(&self.state, ambient_authority())?;
        match state.create_dir(ENTRIES) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => state.open_dir(ENTRIES),
        }
    }

    /// The node settings as init measured them, when there are any that can be read.
    pub fn node_settings(&self) -> NodeSettings {
        let text = read(&self.run, run::NODE, NODE_SETTINGS_MAX_BYTES).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// What init knows about this boot, as of now.
    pub fn boot(&self) -> Result<Boot, Error> {
        let bytes = read(&self.run, run::BOOT, BOOT_MAX_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Boot { path: run::BOOT, source })
    }

    /// When init last wrote that.
    pub fn boot_changed_at(&self) -> io::Result<ChangedAt> {
        let name = run::BOOT.rsplit_once('/').map_or(run::BOOT, |(_, name)| name);
        // One call of the kernel: the folder's own look-up, safe for paths, takes four, and this is asked with each heartbeat.
        let found = statat(&self.run, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(ChangedAt { unix_s: found.st_mtime, ns: found.st_mtime_nsec })
    }

    /// PEM of the operators' certificates.
    pub fn operators(&self) -> Result<Vec<u8>, Error> {
        read(&self.system, root::OPERATORS, OPERATORS_MAX_BYTES)
    }

    /// What became of the state volume.
    pub fn state(&self) -> Result<StateReport, Error> {
        let bytes = read(&self.run, run::STATE, limit::STATE_REPORT_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Boot { path: run::STATE, source })
    }

    /// Leaves the recovery key for init's one-shot, readable by nobody else.
    pub fn leave_recovery_key(&self, key: &[u8]) -> Result<(), Error> {
        let wrong = failed("write", run::RECOVERY_KEY);
        let name = run::RECOVERY_KEY.trim_start_matches(run::DIR).trim_start_matches('/');
        let written = || -> io::Result<()> {
            match self.run.remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            self.run.open_with(name, &options)?.write_all(key)
        };
        written().map_err(wrong)
    }

    /// Our own event log, as of now.
    pub fn cel(&self) -> Result<Vec<u8>, Error> {
        match read(&self.run, run::CEL, limit::CEL_BYTES) {
            Ok(bytes) if bytes.is_empty() => Err(Error::NoCel),
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Err(Error::NoCel),
            other => other,
        }
    }

    /// The firmware's event log, as of now.
    pub fn event_log(&self) -> Result<Vec<u8>, Error> {
        let mut file =
            self.event_log.as_ref().ok_or(Error::NoEventLog)?.lock().unwrap_or_else(|e| e.into_inner());
        file.rewind().map_err(failed("read", EVENT_LOG))?;
        match limited(&mut *file, EVENT_LOG, limit::EVENT_LOG_BYTES) {
            Ok(bytes) if bytes.is_empty() => Err(Error::NoEventLog),
            other => other,
        }
    }

    /// A reader of the kernel log, when one is free; dropping it gives it back.
    pub fn kmsg(&self) -> Option<File> {
        self.kmsg.lock().unwrap_or_else(|e| e.into_inner()).pop()
    }

    /// Gives a reader back.
    pub fn return_kmsg(&self, reader: File) {
        self.kmsg.lock().unwrap_or_else(|e| e.into_inner()).push(reader);
    }

    /// Where init takes requests.
    pub fn init_socket(&self) -> &Path {
        &self.init_socket
    }
}

/// Non-blocking: the reader is told when there is nothing more, and waits on the event loop.
fn open_kmsg(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a single low bit");
    File::options().read(true).custom_flags(flags).open(path)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(folder, _)| folder)
}

fn read(dir: &Dir, path: &'static str, limit: usize) -> Result<Vec<u8>, Error> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let file = dir.open_with(name, OpenOptions::new().read(true)).map_err(failed("open", path))?;
    limited(file, path, limit)
}

fn limited(file: impl Read, path: &'static str, limit: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).expect("limits are small") + 1;
    file.take(most).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() > limit { Err(Error::TooLarge { path, limit }) } else { Ok(bytes) }
}

fn failed(operation: &'static str, path: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { operation, path: path.into(), source }
}
