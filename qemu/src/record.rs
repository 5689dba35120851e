//! `machine.json` in a run folder: what other programs need to know of a machine, written when it starts.

use crate::console::Console;
use crate::error::{Error, Result, file_error};
use crate::plan::{CONTROL_QMP_SOCKET, SERIAL_LOG, TPM_DIR};
use crate::process::ProcessId;
use crate::qmp::Qmp;
use crate::swtpm::power_down;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The file's name.
pub const FILE: &str = "machine.json";

/// A killed process is gone in milliseconds, unless the kernel waits for a disk.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// The TPM writes its state and ends.
const TPM_DEADLINE: Duration = Duration::from_secs(5);

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It did not run.
    WasNotRunning,
    /// The guest powered itself off.
    PoweredOff,
    /// QEMU wrote its disks out and was ended.
    Ended,
    /// QEMU did not answer and was killed.
    Killed,
    /// QEMU is still there: the host is in trouble.
    Stuck,
}

/// One machine, as it was last started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Where its agent is reached.
    pub agent: SocketAddr,
    /// Guest port to port of 127.0.0.1, the agent's not among them.
    pub workload: BTreeMap<u16, u16>,
    /// The processes.
    pub processes: Processes,
    /// "kvm" or "tcg".
    pub accel: String,
    /// Why this accelerator.
    pub accel_reason: String,
    /// The disk image it was made from.
    pub image: Option<Image>,
    /// `release.json` beside the image, when there is one.
    pub release: Option<PathBuf>,
    /// PEM of the authorities that certified its endorsement keys, when it has a TPM.
    pub ek_ca: Option<PathBuf>,
    /// Its place in a network with other machines, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<LabFacts>,
}

/// A machine's place in a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabFacts {
    /// The lab's name.
    pub name: String,
    /// The lab's folder, in which its switch listens.
    pub dir: PathBuf,
    /// The machine's number, from 1.
    pub number: u8,
    /// Where other machines of the lab reach its agent; this host does not.
    pub peer: SocketAddr,
}

/// QEMU and the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// QEMU.
    pub qemu: ProcessId,
    /// swtpm, when the machine has a TPM.
    pub swtpm: Option<ProcessId>,
}

/// A disk image as it was when the machine was made; another one of the same name is told by size or time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Where.
    pub path: PathBuf,
    /// Bytes.
    pub size_bytes: u64,
    /// Last change, nanoseconds since 1970.
    pub modified_ns: u64,
}

impl Image {
    /// The image as it is now.
    pub fn of(path: &Path) -> Result<Self> {
        let path = path.canonicalize().map_err(|_| Error::ImageMissing(path.to_owned()))?;
        let metadata = fs::metadata(&path).map_err(file_error("read", &path))?;
        let modified = metadata.modified().map_err(file_error("read", &path))?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let modified_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { path, size_bytes: metadata.len(), modified_ns })
    }
}

impl Record {
    /// The record in that run folder; none when no machine was ever started there.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("read", &path)(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Malformed {
            path,
            what: "a machine's record",
            reason: e.to_string(),
        })
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let work = dir.join("machine.json.tmp");
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| file_error("write", &path)(e.into()))?;
        fs::write(&work, bytes).map_err(file_error("write", &work))?;
        fs::rename(&work, &path).map_err(file_error("rename", &work))
    }

    /// The machine's console: its whole log, and what comes.
    pub fn console(dir: &Path, record: &Self) -> Result<Console> {
        Console::attach(&dir.join(SERIAL_LOG), &record.processes.qemu)
    }

    /// A QMP connection beside the one of the process that started the machine.
    pub fn qmp(dir: &Path) -> Result<Qmp> {
        Qmp::connect(dir, CONTROL_QMP_SOCKET, &dir.join("qmp.log"))
    }

    /// Stops it: asks the guest to power off when there is a `grace`, then has the disks written out and ends QEMU,
    /// then the TPM.
    pub fn stop(&self, dir: &Path, grace: Duration) -> Stopped {
        let qemu = &self.processes.qemu;
        let mut how = Stopped::WasNotRunning;
        if qemu.is_alive() {
            how = Stopped::Killed;
            if let Ok(qmp) = Self::qmp(dir) {
                if !grace.is_zero() && qmp.system_powerdown().is_ok() && qemu.wait_gone(grace) {
                    how = Stopped::PoweredOff;
                } else if qmp.pause().is_ok() {
                    how = Stopped::Ended;
                }
            }
            if !qemu.kill(KILL_DEADLINE) {
                return Stopped::Stuck;
            }
        }
        self.end_tpm(dir);
        how
    }

    /// The TPM ends with a guest that powers itself off; else it is told to; else it is killed.
    fn end_tpm(&self, dir: &Path) {
        let Some(tpm) = self.processes.swtpm.filter(ProcessId::is_alive) else { return };
        let asked = power_down(&dir.join(TPM_DIR));
        if !asked || !tpm.wait_gone(TPM_DEADLINE) {
            // Its end is all that can be done about it.
            let _ = tpm.kill(KILL_DEADLINE);
        }
    }

    /// Whether its QEMU still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.processes.qemu.is_alive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_written_and_nonsense_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Record::read(dir.path()).expect("nothing there"), None);
        let id = ProcessId { pid: 1, started_ticks: 2 };
        let record = Record {
            name: "p1".to_owned(),
            agent: "127.0.0.1:7443".parse().expect("an address"),
            workload: BTreeMap::from([(8080, 40_000)]),
            processes: Processes { qemu: id, swtpm: Some(id) },
            accel: "tcg".to_owned(),
            accel_reason: "no /dev/kvm".to_owned(),
            image: None,
            release: None,
            ek_ca: None,
            lab: None,
        };
        record.write(dir.path()).expect("written");
        assert_eq!(Record::read(dir.path()).expect("read"), Some(record.clone()));
        let text = fs::read_to_string(dir.path().join(FILE)).expect("written above");
        assert!(!text.contains("lab"), "as it was before there were labs: {text}");
        let lab = LabFacts {
            name: "lab".to_owned(),
            dir: "/run/_lab".into(),
            number: 1,
            peer: "10.77.0.1:7444".parse().expect("an address"),
        };
        let record = Record { lab: Some(lab), ..record };
        record.write(dir.path()).expect("written");
        assert_eq!(Record::read(dir.path()).expect("read"), Some(record));
        fs::write(dir.path().join(FILE), "{").expect("written");
        let error = Record::read(dir.path()).expect_err("half a record");
        assert!(error.hint().expect("a hint").contains("machine.json"));
    }
}
