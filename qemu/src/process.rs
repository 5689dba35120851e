//! Child processes that cannot be left behind, and processes of another run that cannot be confused with a
//! stranger that got the same number.
//!
//! A child of a test dies with it, even by SIGKILL: the kernel sends SIGKILL when the *thread* that started it ends
//! (prctl(2), `PR_SET_PDEATHSIG`), so all of them are started by one thread that never ends. A machine that is to
//! outlive its starter has a process group of its own instead, and its process ids are written down.

use crate::error::{Error, Result, file_error, tail};
use pillar_tools::Tools;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// Dies at once unless its parent is still the one that meant to start it: closes the gap between fork and prctl.
const STILL_OURS: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// Whether a process ends with the one that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It is killed when the starter ends, however that ends.
    Bound,
    /// It goes on; who stops it later finds it by its [`ProcessId`].
    Detached,
}

/// A process of any parent: its number and when it started, because numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process number.
    pub pid: u32,
    /// Clock ticks between the host's boot and its start (proc_pid_stat(5), field 22).
    pub started_ticks: u64,
}

impl ProcessId {
    /// The process that has this number now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started_ticks) = parse_stat(&stat)?;
        // A zombie has ended; only its parent has not asked yet.
        (state != 'Z' && state != 'X').then_some(Self { pid, started_ticks })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// A descriptor that stands for exactly this process, or none when it has ended.
    pub(crate) fn descriptor(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Asked after opening: from here on the number cannot change its meaning.
        self.is_alive().then_some(descriptor)
    }

    /// Kills it and waits until it is gone, at most for `deadline`. True when it is gone.
    #[must_use]
    pub fn kill(&self, deadline: Duration) -> bool {
        let Some(descriptor) = self.descriptor() else { return true };
        // Fails only when it ended meanwhile.
        let _ = pidfd_send_signal(&descriptor, Signal::KILL);
        wait_readable(&[descriptor.as_fd()], Some(Instant::now() + deadline)) == Wake::Ready(0)
    }

    /// Waits until it is gone, at most for `deadline`. True when it is gone.
    #[must_use]
    pub fn wait_gone(&self, deadline: Duration) -> bool {
        let Some(descriptor) = self.descriptor() else { return true };
        wait_readable(&[descriptor.as_fd()], Some(Instant::now() + deadline)) == Wake::Ready(0)
    }
}

/// State and start time out of `/proc/<pid>/stat`; the name in it may hold blanks and brackets.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 3 was the state; field 22 is 18 further on.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// A process that we started.
#[derive(Debug)]
pub(crate) struct Process {
    program: &'static str,
    log: PathBuf,
    id: ProcessId,
    descriptor: OwnedFd,
    /// None once it was let go: a detached process is nobody's child to wait for.
    child: Option<Child>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a program of the tools tree in `directory`, its output going to `log`.
    pub(crate) fn start(
        tools: &Tools,
        program: &'static str,
        arguments: &[OsString],
        directory: &Path,
        log: &Path,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log).map_err(file_error("open", log))?;
        let errors = output.try_clone().map_err(file_error("open", log))?;
        let mut command = match lifetime {
            Lifetime::Detached => {
                let mut command = tools.command(program);
                command.process_group(0);
                command
            }
            Lifetime::Bound => {
                let mut command = tools.command("setpriv");
                command.args(["--pdeathsig", "KILL", "--", "/bin/sh", "-c", STILL_OURS]);
                command.arg(std::process::id().to_string()).arg(program);
                command
            }
        };
        command.args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let spawn_error = |source| Error::Spawn { program: program.to_owned(), source };
        let child = spawn_from_lasting_thread(command).map_err(spawn_error)?;
        let pid = child.id();
        let descriptor = Pid::from_raw(pid.cast_signed())
            .ok_or(io::Error::from(io::ErrorKind::InvalidData))
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?))
            .map_err(spawn_error)?;
        let started_ticks = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| parse_stat(&stat))
            .map_or(0, |(_, started)| started);
        let id = ProcessId { pid, started_ticks };
        Ok(Self { program, log: log.to_owned(), id, descriptor, child: Some(child), status: None })
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// Readable once the process has ended.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// How it ended, when it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
        }
        self.status
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Option<ExitStatus> {
        wait_readable(&[self.descriptor.as_fd()], Some(deadline));
        self.ended()
    }

    /// An error that shows the end of its log.
    pub(crate) fn failure(&mut self) -> Error {
        let status = self.ended().map_or_else(|| "still running".to_owned(), |s| s.to_string());
        Error::Program {
            program: self.program.to_owned(),
            status,
            tail: tail(&self.log),
            log: self.log.clone(),
        }
    }

    /// Lets it go on without us: from here on it is neither killed nor waited for.
    pub(crate) fn release(&mut self) {
        self.child = None;
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only when it has ended and was waited for.
            let _ = child.kill();
            self.status = child.wait().ok().or(self.status);
        }
    }

    /// Waits until `path` exists (a socket, a pid file), or the process has ended, which is an error.
    pub(crate) fn wait_for_file(&mut self, path: &Path, deadline: Instant) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let watch = watch(folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
        loop {
            if path.exists() {
                return Ok(());
            }
            match wait_readable(&[self.descriptor.as_fd(), watch.as_fd()], Some(deadline)) {
                Wake::Ready(0) => {
                    self.wait(deadline);
                    return Err(self.failure());
                }
                Wake::Ready(_) => drain(&watch),
                Wake::Timeout => return Err(self.failure()),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An inotify descriptor that watches one file or folder.
pub(crate) fn watch(path: &Path, flags: inotify::WatchFlags) -> Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
        .map_err(|e| file_error("watch", path)(e.into()))?;
    inotify::add_watch(&watch, path, flags).map_err(|e| file_error("watch", path)(e.into()))?;
    Ok(watch)
}

/// Forgets what an inotify descriptor has to say: we look at the file itself.
pub(crate) fn drain(watch: &OwnedFd) {
    let mut buffer = [0_u8; 4096];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|n| n > 0) {}
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// This one of the descriptors; the first when there are several.
    Ready(usize),
    Timeout,
}

/// Waits until one of the descriptors is readable.
pub(crate) fn wait_readable(descriptors: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Wake {
    loop {
        let mut polled: Vec<PollFd<'_>> =
            descriptors.iter().map(|d| PollFd::from_borrowed_fd(*d, PollFlags::IN)).collect();
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) => return Wake::Timeout,
            Ok(_) => {
                if let Some(index) = polled.iter().position(|p| !p.revents().is_empty()) {
                    return Wake::Ready(index);
                }
            }
            // A signal; the deadline is worked out again.
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Wake::Timeout,
        }
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a command from the one thread that lives as long as the process does (see the file's header).
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The one who asked waits for the reply; if it is gone, dropping the child is all we can do.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    starter.send((command, reply)).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?
}

/// Who listens on a TCP port of 127.0.0.1, as far as /proc tells us: for error messages only.
pub(crate) fn listener(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|table| listening_inode(&table, port))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        if open.flatten().any(|f| fs::read_link(f.path()).is_ok_and(|l| l.as_os_str() == wanted.as_str())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

/// The inode of the socket in state LISTEN on that port (`/proc/net/tcp`: local address, state 0A, inode).
fn listening_inode(table: &str, port: u16) -> Option<String> {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A")
            .then(|| fields.get(9).map(ToString::to_string))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse_the_start_time() {
        let line = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 5";
        assert_eq!(parse_stat(line), Some(('S', 777)));
        assert_eq!(parse_stat("no brackets"), None);
    }

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let me = ProcessId::of(std::process::id()).expect("this process runs");
        assert!(me.is_alive());
        let stranger = ProcessId { started_ticks: me.started_ticks + 1, ..me };
        assert!(!stranger.is_alive());
        assert!(stranger.kill(Duration::from_secs(1)), "a stranger is not killed but reported gone");
    }

    #[test]
    fn the_listener_of_a_port_is_found() {
        let listener_socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener_socket.local_addr().expect("bound").port();
        let owner = listener(port).expect("we listen there");
        assert!(owner.contains(&std::process::id().to_string()), "{owner}");
    }
}
