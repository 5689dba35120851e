//! Why a machine could not be made, started, talked to or stopped.

use crate::hardware::DiskBus;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many lines of a log an error carries.
const TAIL_LINES: usize = 12;
/// How much of the end of a log is read for that; a guest may write without limit.
const TAIL_BYTES: u64 = 16 * 1024;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Named for the operation that failed; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tools tree is missing or broken.
    #[error("the tools tree cannot be used")]
    Tools(#[from] pillar_tools::Error),
    /// A file or folder.
    #[error("cannot {operation} {}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nobody sits on the machine's TPM bus.
    #[error("{0} was started without anybody on its TPM's bus")]
    NoBus(String),
    /// A host program did not start.
    #[error("cannot start {program}")]
    Spawn {
        /// Its name.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ended when it should not have, or with a failure.
    #[error("{program} failed ({status}); the end of {}:\n{tail}", .log.display())]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// A firmware file that the tools tree should bring.
    #[error("there is no firmware at {}", .0.display())]
    FirmwareMissing(PathBuf),
    /// The disk image.
    #[error("there is no disk image at {}", .0.display())]
    ImageMissing(PathBuf),
    /// A disk that QEMU does not emulate.
    #[error("a disk on {bus} cannot have sectors of {bytes} bytes in QEMU")]
    SectorSize {
        /// What it hangs on.
        bus: DiskBus,
        /// Bytes of a sector.
        bytes: u32,
    },
    /// A disk image that the bus does not take as it is.
    #[error("{} has {bytes} bytes, which no SD card has: a power of two", .path.display())]
    SdSize {
        /// The image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The image has no partition to start from.
    #[error("{} has no EFI system partition to start from: {reason}", .path.display())]
    NoEsp {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The copy of the disk does not fit.
    #[error("the disk is full: {} needs {need_mib} MiB and has {free_mib} MiB left", .path.display())]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// Wanted.
        need_mib: u64,
        /// There.
        free_mib: u64,
    },
    /// A port of the host that was asked for by number.
    #[error("port {port} of 127.0.0.1 is in use{}", .owner.as_deref().map(|o| format!(" by {o}")).unwrap_or_default())]
    PortInUse {
        /// The port.
        port: u16,
        /// The process that listens there, when that could be found.
        owner: Option<String>,
    },
    /// No free port could be had in a row of tries.
    #[error("no free TCP port on 127.0.0.1")]
    NoPort,
    /// Another process starts, runs or stops the same machine.
    #[error("machine {name} is in use by another process ({} is locked)", .lock.display())]
    Busy {
        /// The machine.
        name: String,
        /// Its lock file.
        lock: PathBuf,
    },
    /// The machine of that folder runs already.
    #[error("machine {name} is already running (process {pid})")]
    AlreadyRunning {
        /// The machine.
        name: String,
        /// QEMU's.
        pid: u32,
    },
    /// A name that is no host name label.
    #[error("{0:?} is not a machine name: 1 to 63 of a-z, 0-9 and -, no - at either end")]
    BadName(String),
    /// Node settings that the guest would refuse.
    #[error("the node settings are {0} bytes long, {max} are allowed", max = pillar_layout::NODE_SETTINGS_MAX_BYTES)]
    NodeSettings(usize),
    /// A port was asked for that is not forwarded.
    #[error("guest port {0} is not forwarded")]
    NotForwarded(u16),
    /// What was waited for did not come in time.
    #[error("{what} did not come within {}; the end of {}:\n{tail}", seconds(.deadline), .log.display())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        deadline: Duration,
        /// The end of the log.
        tail: String,
        /// Where to look.
        log: PathBuf,
    },
    /// The machine ended while something was waited for.
    #[error("the machine ended while waiting for {what}; the end of {}:\n{tail}", .log.display())]
    Ended {
        /// What was waited for.
        what: String,
        /// The end of the log.
        tail: String,
        /// Where to look.
        log: PathBuf,
    },
    /// The console wrote more than is kept.
    #[error("the console wrote more than {limit} bytes ({})", .log.display())]
    ConsoleFlood {
        /// The limit.
        limit: usize,
        /// The whole log.
        log: PathBuf,
    },
    /// QEMU refused a command, or speaks nonsense.
    #[error("QMP {command}: {reason}")]
    Qmp {
        /// The command.
        command: String,
        /// Its answer.
        reason: String,
    },
    /// No switch runs in that folder.
    #[error("there is no lab: no switch runs in {}", .0.display())]
    NoSwitch(PathBuf),
    /// The switch refused an order, or did not answer.
    #[error("the lab's switch: {0}")]
    Switch(String),
    /// A lab has no number left.
    #[error("the lab is full: it has {0} machines")]
    LabFull(usize),
    /// A machine without a place in the lab.
    #[error("{0} is not in the lab")]
    NotInLab(String),
    /// A file that we wrote earlier is not what we wrote.
    #[error("{} is not readable as {what}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::FirmwareMissing(_) => "`./just tools` makes the tools tree".to_owned(),
            Error::ImageMissing(_) => {
                "`./just image` builds it (flavour=NAME for another flavour)".to_owned()
            }
            Error::SectorSize { .. } => {
                "ahci and sd have 512-byte sectors alone; nvme, usb, virtio-blk and virtio-scsi have 4096 too"
                    .to_owned()
            }
            Error::SdSize { .. } => {
                "give the machine a copy (DiskMode::Copy), which is made larger".to_owned()
            }
            Error::DiskFull { .. } => {
                "make room, or remove old machines under out/run (`./just down` first)".to_owned()
            }
            Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "the disk is full: make room and run the command again".to_owned()
            }
            Error::PortInUse { .. } => {
                "stop what listens there, or leave the port out to have one picked".to_owned()
            }
            Error::Busy { .. } => "wait for the other command to end, then run this one again".to_owned(),
            Error::AlreadyRunning { name, .. } => format!("`./just down {name}` stops it"),
            Error::NoSwitch(_) => {
                "`./just up 4` starts four machines in one network; `down` ends it with the last of them"
                    .to_owned()
            }
            Error::Malformed { path, .. } => format!("remove {} and run the command again", path.display()),
            Error::Deadline { log, .. } | Error::Ended { log, .. } | Error::Program { log, .. } => {
                format!("every log of this run is in {}", log.parent().unwrap_or(log).display())
            }
            _ => return None,
        };
        Some(text)
    }
}

fn seconds(duration: &Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Turns an I/O error into one that names operation and path.
pub(crate) fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

/// The last lines of a log for an error message; a log that is not there has none.
pub(crate) fn tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(crate::console::printable(&bytes))
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.is_empty() {
        return "  | (empty)".to_owned();
    }
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|l| format!("  | {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}
