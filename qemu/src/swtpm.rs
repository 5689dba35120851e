//! TPM 2.0 emulators (swtpm): a certification authority of our own for their endorsement keys, their manufacture,
//! and their processes.
//!
//! Manufacture makes two endorsement keys with certificates in NV: RSA-2048 (0x01c00002) and ECC P-384
//! (0x01c00016), and takes about a second, so that every machine gets a TPM of its own.
//!
//! Nothing is read from or written to the host's `/etc`, `/var/lib/swtpm-localca` or `~/.config`.

use crate::error::{Error, Result, file_error, tail};
use crate::ports;
use crate::process::{Lifetime, Process, ProcessId};
use pillar_model::Bank;
use pillar_tools::Tools;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// swtpm is ready in half a second; a loaded host may take longer.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Manufacture takes a second.
const MANUFACTURE_SECONDS: &str = "120";
/// How often another pair of TCP ports is tried when somebody else was faster.
const PORT_TRIES: usize = 5;
/// The file of a manufactured TPM's permanent state.
const STATE_FILE: &str = "tpm2-00.permall";
/// swtpm's control channel (swtpm_ioctls(3)): "the other end of this is where TPM commands come from".
pub(crate) const CMD_SET_DATAFD: u32 = 0x10;
/// swtpm's control channel: write the state and end.
const CMD_SHUTDOWN: u32 = 0x03;
/// `TPM2_Shutdown(TPM_SU_CLEAR)` (TPM 2.0 Library, part 3, section 9.4).
const TPM2_SHUTDOWN_CLEAR: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0];
/// `TPM2_Startup(TPM_SU_CLEAR)` (section 9.3).
pub(crate) const TPM2_STARTUP_CLEAR: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0];
/// swtpm answers these in milliseconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The control socket, relative to the TPM's folder.
pub(crate) const CONTROL_SOCKET: &str = "swtpm.sock";

/// A certification authority for endorsement keys, made of a root and an issuer, kept in one folder.
#[derive(Debug, Clone)]
pub struct EkCa {
    dir: PathBuf,
}

impl EkCa {
    /// The authority in `dir`; its keys are made with the first TPM. Two of them in different folders know nothing
    /// of each other.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(file_error("create", dir))?;
        let dir = dir.canonicalize().map_err(file_error("find", dir))?;
        restrict(&dir)?;
        let ca = Self { dir };
        let at = |name: &str| ca.dir.join(name).display().to_string();
        write(
            &ca.dir.join("setup.conf"),
            &format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
                at("localca.conf"),
                at("localca.options")
            ),
        )?;
        write(
            &ca.dir.join("localca.conf"),
            &format!(
                "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
                ca.dir.display(),
                at("signkey.pem"),
                at("issuercert.pem"),
                at("certserial")
            ),
        )?;
        write(
            &ca.dir.join("localca.options"),
            "--platform-manufacturer Pillar\n--platform-version 1.0\n--platform-model Emulated\n",
        )?;
        Ok(ca)
    }

    /// The authority of this user's cache, shared by all machines that ask for no other.
    pub fn cached() -> Result<Self> {
        Self::open(&pillar_tools::cache_dir().join("qemu/ek-ca"))
    }

    /// PEM of the root and of the issuer, in this order: what a verifier is told to trust.
    pub fn chain_pem(&self) -> Result<String> {
        let mut chain = String::new();
        for name in ["swtpm-localca-rootca-cert.pem", "issuercert.pem"] {
            let path = self.dir.join(name);
            chain.push_str(&fs::read_to_string(&path).map_err(file_error("read", &path))?);
        }
        Ok(chain)
    }
}

/// Makes a new TPM in `dir`: seeds, endorsement keys, their certificates by `ca`, and the active PCR banks. A TPM
/// that is there already is kept as it is.
pub fn manufacture(tools: &Tools, ca: &EkCa, dir: &Path, banks: &[Bank]) -> Result<()> {
    fs::create_dir_all(dir).map_err(file_error("create", dir))?;
    let dir = dir.canonicalize().map_err(file_error("find", dir))?;
    if dir.join(STATE_FILE).is_file() {
        return Ok(());
    }
    restrict(&dir)?;
    let log = dir.join("manufacture.log");
    let output = File::create(&log).map_err(file_error("create", &log))?;
    let errors = output.try_clone().map_err(file_error("open", &log))?;
    let names: Vec<String> = banks.iter().map(Bank::to_string).collect();
    // swtpm_localca makes the authority's keys at first use, under no lock that covers all of it.
    let lock_path = ca.dir.join("lock");
    let lock = File::create(&lock_path).map_err(file_error("create", &lock_path))?;
    lock.lock().map_err(file_error("lock", &lock_path))?;
    let status = tools
        .command("timeout")
        .args(["--signal", "KILL", MANUFACTURE_SECONDS, "swtpm_setup"])
        .args(["--tpm2", "--createek", "--create-ek-cert", "--lock-nvram", "--pcr-banks", &names.join(",")])
        .arg("--tpmstate")
        .arg(&dir)
        .arg("--config")
        .arg(ca.dir.join("setup.conf"))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .map_err(|source| Error::Spawn { program: "swtpm_setup".to_owned(), source })?;
    if status.success() && dir.join(STATE_FILE).is_file() {
        return Ok(());
    }
    // Half a TPM must not be taken for a whole one by the next start.
    let _ = fs::remove_file(dir.join(STATE_FILE));
    Err(Error::Program {
        program: "swtpm_setup".to_owned(),
        status: status.to_string(),
        tail: tail(&log),
        log,
    })
}

/// A running TPM for programs on the host, without a machine. Ends when dropped.
#[derive(Debug)]
pub struct Swtpm {
    process: Process,
    port: u16,
}

impl Swtpm {
    /// Manufactures a TPM in `dir` by the cached authority (kept when one is there) and starts it, powered on.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(&Tools::open()?, &EkCa::cached()?, dir, &[Bank::Sha256, Bank::Sha384])
    }

    /// The same with everything chosen.
    pub fn start_with(tools: &Tools, ca: &EkCa, dir: &Path, banks: &[Bank]) -> Result<Self> {
        manufacture(tools, ca, dir, banks)?;
        let dir = dir.canonicalize().map_err(file_error("find", dir))?;
        let mut failure = Error::NoPort;
        for _ in 0..PORT_TRIES {
            let port = ports::free_pair()?;
            match Self::listen(tools, &dir, port) {
                Ok(running) => return Ok(running),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn listen(tools: &Tools, dir: &Path, port: u16) -> Result<Self> {
        let pid_file = dir.join("swtpm.pid");
        remove_if_there(&pid_file)?;
        let mut arguments = common_arguments(dir);
        arguments.extend(
            [
                "--server",
                &format!("type=tcp,port={port},bindaddr=127.0.0.1"),
                "--ctrl",
                &format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1),
                "--flags",
                "not-need-init,startup-clear",
                "--pid",
                "file=swtpm.pid",
            ]
            .map(OsString::from),
        );
        let log = dir.join("swtpm.log");
        let mut process = Process::start(tools, "swtpm", &arguments, dir, &log, Lifetime::Bound)?;
        // The pid file is written after both sockets listen.
        process.wait_for_file(&pid_file, Instant::now() + START_DEADLINE)?;
        Ok(Self { process, port })
    }

    /// How tpm2-tss finds it (`TPM2TOOLS_TCTI`, `TctiNameConf`).
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.process.id()
    }
}

/// A TPM for one machine: QEMU connects to the control socket, and ends the TPM when the guest powers off. When QEMU
/// is killed the TPM stays, for [`power_down`].
pub(crate) fn start_for_machine(
    tools: &Tools,
    dir: &Path,
    log: &Path,
    lifetime: Lifetime,
) -> Result<Process> {
    let socket = dir.join(CONTROL_SOCKET);
    remove_if_there(&socket)?;
    let mut arguments = common_arguments(dir);
    // The socket is named relative to the folder: the path of a unix socket has 107 bytes at most.
    arguments.extend(["--ctrl", &format!("type=unixio,path={CONTROL_SOCKET},mode=0600")].map(OsString::from));
    let mut process = Process::start(tools, "swtpm", &arguments, dir, log, lifetime)?;
    process.wait_for_file(&socket, Instant::now() + START_DEADLINE)?;
    Ok(process)
}

/// Ends the TPM of a machine whose QEMU is gone, in order. A real TPM keeps its clock to within seconds when the power
/// goes; swtpm writes it down at `TPM2_Shutdown` alone, and without it would go back by the length of the whole run,
/// which verifiers rightly refuse. False when the TPM does not answer.
pub(crate) fn power_down(dir: &Path) -> bool {
    let speak = || -> io::Result<()> {
        let folder = File::open(dir)?;
        // A short name for the socket, see `Qmp::connect`.
        let mut control =
            UnixStream::connect(format!("/proc/self/fd/{}/{CONTROL_SOCKET}", folder.as_raw_fd()))?;
        control.set_read_timeout(Some(ANSWER_DEADLINE))?;
        let (mut data, theirs) = UnixStream::pair()?;
        data.set_read_timeout(Some(ANSWER_DEADLINE))?;
        send_with_descriptor(&control, &CMD_SET_DATAFD.to_be_bytes(), theirs.as_fd())?;
        control.read_exact(&mut [0; 4])?;
        data.write_all(&TPM2_SHUTDOWN_CLEAR)?;
        data.read_exact(&mut [0; 10])?;
        control.write_all(&CMD_SHUTDOWN.to_be_bytes())?;
        control.read_exact(&mut [0; 4])
    };
    speak().is_ok()
}

/// Sends bytes, and a descriptor with them.
pub(crate) fn send_with_descriptor(
    socket: &UnixStream,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for one descriptor"));
    }
    sendmsg(socket, &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

fn common_arguments(dir: &Path) -> Vec<OsString> {
    let mut state = OsString::from("dir=");
    state.push(dir);
    vec!["socket".into(), "--tpm2".into(), "--tpmstate".into(), state]
}

fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(file_error("write", path))
}

/// Private keys and TPM state are for this user alone.
fn restrict(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(file_error("set the mode of", dir))
}

pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}
