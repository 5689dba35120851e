//! One child that runs or will run again: its process, its output, its control group.

use crate::log;
use crate::relay::Relay;
use crate::{cgroup, clock};
use pillar_os::{Child, SpawnError};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{PipeReader, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// Bytes taken from a child's output at once.
const READ_BYTES: usize = 4096;

/// A child and what is known about it.
#[derive(Debug)]
pub struct Service {
    /// Prefix of its records, for example "agent: ".
    prefix: &'static str,
    child: Child,
    pid: Option<u32>,
    output: Option<PipeReader>,
    relay: Relay,
    /// When it was started last, on the boot-time clock.
    pub started: Duration,
    /// When to start it, if it does not run and shall.
    pub start_at: Option<Duration>,
}

impl Service {
    /// A child that is to be started at this time.
    pub fn new(prefix: &'static str, child: Child, start_at: Option<Duration>) -> Service {
        Service {
            prefix,
            child,
            pid: None,
            output: None,
            relay: Relay::new(),
            started: Duration::ZERO,
            start_at,
        }
    }

    /// Starts it; what a former one left is killed first.
    pub fn start(&mut self) -> Result<(), SpawnError> {
        self.kill();
        self.start_at = None;
        self.started = clock::now();
        let (pid, output) = self.child.spawn()?;
        (self.pid, self.output) = (Some(pid), Some(output));
        Ok(())
    }

    /// Its process, while it was not seen to end.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// True when it is this process.
    pub fn is(&self, pid: u32) -> bool {
        self.pid == Some(pid)
    }

    /// True while its process lives.
    pub fn runs(&self) -> bool {
        self.pid.is_some()
    }

    /// Its process ended; what it left behind is killed. Returns how long it ran.
    pub fn ended(&mut self) -> Duration {
        self.pid = None;
        self.kill();
        self.read();
        if let Some((level, line)) = self.relay.end() {
            log::record(level, self.prefix, &line);
        }
        self.output = None;
        clock::now().saturating_sub(self.started)
    }

    /// Its output, to poll.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(|output| output.as_fd())
    }

    /// Reads what is there and records it; returns the lines.
    pub fn read(&mut self) -> Vec<String> {
        let lines = self.take_lines();
        for (level, line) in &lines {
            log::record(*level, self.prefix, line);
        }
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// Reads what is there without recording it: reports of the prober.
    pub fn take_lines(&mut self) -> Vec<(log::Level, String)> {
        let Some(output) = &mut self.output else { return Vec::new() };
        let mut buffer = [0; READ_BYTES];
        match output.read(&mut buffer) {
            Ok(0) => {
                self.output = None;
                Vec::new()
            }
            Ok(bytes) => self.relay.feed(&buffer[..bytes], clock::now()),
            Err(_) => Vec::new(),
        }
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills everything in its group.
    pub fn kill(&self) {
        if let Err(error) = cgroup::kill(self.group()) {
            log::warn(&format!("cannot kill {}: {error}", self.group().display()));
        }
    }

    fn group(&self) -> &Path {
        &self.child.cgroup
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        match pid.map(|pid| kill_process(pid, signal)) {
            None | Some(Ok(()) | Err(Errno::SRCH)) => {}
            Some(Err(errno)) => log::warn(&format!("cannot signal {}{errno}", self.prefix)),
        }
    }
}
