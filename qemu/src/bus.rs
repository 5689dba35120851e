//! Somebody on the bus between a machine and its TPM emulator: passes everything on, and can reset the TPM while the
//! machine runs, which on a real board takes a wire.
//!
//! QEMU speaks to swtpm over a control connection, one request and one answer at a time, and hands it one end of a socket
//! pair for the TPM's commands (swtpm_ioctls(3), `CMD_SET_DATAFD`). Here both are taken apart and passed on by hand.

use crate::error::{Result, file_error};
use crate::switch::control::{Short, listen};
use crate::swtpm::{CMD_SET_DATAFD, CONTROL_SOCKET, TPM2_STARTUP_CLEAR, send_with_descriptor};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The socket to which QEMU connects instead of swtpm's own, relative to the TPM's folder.
pub(crate) const BUS_SOCKET: &str = "bus.sock";
/// swtpm's control channel: power on, that is `_TPM_Init`. Its flags follow.
const CMD_INIT: u32 = 0x02;
/// A request of QEMU's or its answer: the longest has some hundred bytes, as long as nobody migrates.
const CONTROL_MAX_BYTES: usize = 8192;
/// A command or an answer: libtpms takes 4096.
const MESSAGE_MAX_BYTES: usize = 8192;
/// The slowest command makes an RSA key.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// swtpm's ends. Whoever holds the lock is the only one who speaks.
#[derive(Debug)]
struct Tpm {
    control: UnixStream,
    data: Option<UnixStream>,
}

/// The bus of one machine. It ends with QEMU's connection.
#[derive(Debug)]
pub(crate) struct Bus {
    dir: PathBuf,
    tpm: Arc<Mutex<Option<Tpm>>>,
}

impl Bus {
    /// Listens for QEMU in the folder of a TPM that runs.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let listener = listen(dir, BUS_SOCKET)?;
        listener.set_nonblocking(false).map_err(file_error("listen on", &dir.join(BUS_SOCKET)))?;
        let bus = Self { dir: dir.to_owned(), tpm: Arc::default() };
        let (dir, tpm) = (bus.dir.clone(), Arc::clone(&bus.tpm));
        std::thread::spawn(move || {
            // QEMU sees its TPM's end, and says so in its log.
            let _ = serve(&listener, &dir, &tpm);
            *lock(&tpm) = None;
        });
        Ok(bus)
    }

    /// Resets the TPM and starts it up again, between two commands of the machine, which is not told.
    pub(crate) fn reset_tpm(&self) -> Result<()> {
        let mut tpm = lock(&self.tpm);
        let done = tpm.as_mut().ok_or_else(|| io::Error::other("the machine has no TPM yet")).and_then(reset);
        done.map_err(file_error("reset the TPM in", &self.dir))
    }
}

fn lock(tpm: &Mutex<Option<Tpm>>) -> MutexGuard<'_, Option<Tpm>> {
    tpm.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reset(tpm: &mut Tpm) -> io::Result<()> {
    let answer = ask_control(tpm, &[CMD_INIT.to_be_bytes(), [0; 4]].concat())?;
    let answer = match (answer.as_slice(), &mut tpm.data) {
        ([0, 0, 0, 0], Some(data)) => exchange(data, &TPM2_STARTUP_CLEAR)?,
        other => return Err(io::Error::other(format!("CMD_INIT: {other:?}"))),
    };
    match answer.get(6..10) {
        Some([0, 0, 0, 0]) => Ok(()),
        _ => Err(io::Error::other(format!("TPM2_Startup: {answer:?}"))),
    }
}

/// The one connection of QEMU's, to its end.
fn serve(listener: &UnixListener, dir: &Path, tpm: &Arc<Mutex<Option<Tpm>>>) -> io::Result<()> {
    let (mut qemu, _) = listener.accept()?;
    let folder = Short::of(dir).map_err(io::Error::other)?;
    let control = UnixStream::connect(folder.path(CONTROL_SOCKET))?;
    control.set_read_timeout(Some(ANSWER_DEADLINE))?;
    *lock(tpm) = Some(Tpm { control, data: None });
    loop {
        let (request, descriptor) = receive(&qemu)?;
        if request.is_empty() {
            return Ok(());
        }
        let mut held = lock(tpm);
        let ends = held.as_mut().ok_or_else(|| io::Error::other("the TPM is gone"))?;
        let answer = match descriptor {
            Some(commands) => {
                let answer = take_over(ends)?;
                let tpm = Arc::clone(tpm);
                // Ends with QEMU, or with the TPM.
                std::thread::spawn(move || relay(UnixStream::from(commands), &tpm));
                answer
            }
            None => ask_control(ends, &request)?,
        };
        drop(held);
        qemu.write_all(&answer)?;
    }
}

/// Gives swtpm a socket of ours for commands.
fn take_over(tpm: &mut Tpm) -> io::Result<Vec<u8>> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(ANSWER_DEADLINE))?;
    send_with_descriptor(&tpm.control, &CMD_SET_DATAFD.to_be_bytes(), theirs.as_fd())?;
    tpm.data = Some(ours);
    answer(&mut tpm.control)
}

fn ask_control(tpm: &mut Tpm, request: &[u8]) -> io::Result<Vec<u8>> {
    tpm.control.write_all(request)?;
    answer(&mut tpm.control)
}

/// swtpm writes each answer at once.
fn answer(control: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; CONTROL_MAX_BYTES];
    match control.read(&mut bytes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => {
            bytes.truncate(length);
            Ok(bytes)
        }
    }
}

/// Passes the machine's commands on, one at a time.
fn relay(mut machine: UnixStream, tpm: &Mutex<Option<Tpm>>) -> io::Result<()> {
    loop {
        let command = message(&mut machine)?;
        let answer = match lock(tpm).as_mut().and_then(|tpm| tpm.data.as_mut()) {
            Some(data) => exchange(data, &command)?,
            None => return Ok(()),
        };
        machine.write_all(&answer)?;
    }
}

fn exchange(data: &mut UnixStream, command: &[u8]) -> io::Result<Vec<u8>> {
    data.write_all(command)?;
    message(data)
}

/// A command or an answer: both have their size behind the tag (TPM 2.0 Library, part 1, section 18).
fn message(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    let [_, _, size @ ..] = head;
    let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if !(head.len()..=MESSAGE_MAX_BYTES).contains(&size) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = head.to_vec();
    bytes.resize(size, 0);
    stream.read_exact(&mut bytes[head.len()..])?;
    Ok(bytes)
}

/// A request and the descriptor that came with it; nothing at the end.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; CONTROL_MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    bytes.truncate(received.bytes);
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    Ok((bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Lifetime;
    use crate::swtpm::{EkCa, manufacture, start_for_machine};
    use pillar_model::Bank;
    use pillar_tools::Tools;

    /// `TPM2_ReadClock`, and where its answer has the reset count.
    const READ_CLOCK: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81];
    const RESET_COUNT: std::ops::Range<usize> = 26..30;

    #[test]
    fn the_tpm_is_reset_between_two_commands_and_its_machine_is_not_told() {
        let Ok(tools) = Tools::open() else { return eprintln!("skipped: no tools tree") };
        let dir = tempfile::tempdir().expect("a folder");
        let ca = EkCa::cached().expect("an authority");
        manufacture(&tools, &ca, dir.path(), &[Bank::Sha256]).expect("a TPM");
        let log = dir.path().join("swtpm.log");
        std::fs::File::create(&log).expect("a log");
        let mut swtpm = start_for_machine(&tools, dir.path(), &log, Lifetime::Bound).expect("started");
        let bus = Bus::start(dir.path()).expect("a bus");
        assert!(bus.reset_tpm().is_err(), "nobody has switched it on");
        // What QEMU does at its start.
        let folder = Short::of(dir.path()).expect("the folder");
        let mut control = UnixStream::connect(folder.path(BUS_SOCKET)).expect("connected");
        let (mut data, theirs) = UnixStream::pair().expect("a pair");
        send_with_descriptor(&control, &CMD_SET_DATAFD.to_be_bytes(), theirs.as_fd()).expect("sent");
        assert_eq!(answer(&mut control).expect("taken"), [0; 4]);
        control.write_all(&[CMD_INIT.to_be_bytes(), [0; 4]].concat()).expect("sent");
        assert_eq!(answer(&mut control).expect("on"), [0; 4]);
        let started = exchange(&mut data, &TPM2_STARTUP_CLEAR).expect("started up");
        assert_eq!(started[6..], [0; 4]);
        let mut resets = || {
            let clock = exchange(&mut data, &READ_CLOCK).expect("a clock");
            u32::from_be_bytes(clock[RESET_COUNT].try_into().expect("four bytes"))
        };
        let before = resets();
        bus.reset_tpm().expect("reset");
        assert_eq!(resets(), before + 1);
        swtpm.kill();
    }

    #[test]
    fn messages_are_read_whole_and_never_beyond_the_limit() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.write_all(&TPM2_STARTUP_CLEAR).expect("written");
        assert_eq!(message(&mut theirs).expect("read"), TPM2_STARTUP_CLEAR);
        for size in [0_u32, 5, 8193, u32::MAX] {
            ours.write_all(&[[0x80, 0x01].as_slice(), &size.to_be_bytes()].concat()).expect("written");
            assert_eq!(message(&mut theirs).expect_err("refused").kind(), io::ErrorKind::InvalidData);
        }
        drop(ours);
        assert_eq!(message(&mut theirs).expect_err("the end").kind(), io::ErrorKind::UnexpectedEof);
    }
}
