//! A watchdog device (`Documentation/watchdog/watchdog-api.rst`). Opening it arms it. It is never disarmed: the magic
//! close character is not written, so that the machine resets when its holder is gone.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::ffi::c_int;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);

/// An armed watchdog.
#[derive(Debug)]
pub struct Watchdog(OwnedFd);

impl Watchdog {
    /// Opens the device, which arms it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Watchdog(open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Sets the time after which the machine resets without a ping, in whole seconds; returns what the device took.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<Duration> {
        let mut seconds = c_int::try_from(timeout.as_secs()).unwrap_or(c_int::MAX);
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one int behind the pointer and does not keep it.
        unsafe { ioctl(&self.0, Updater::<SET_TIMEOUT, c_int>::new(&mut seconds)) }?;
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// Starts the time anew. (Any write does, but for the magic character `V`.)
    pub fn ping(&self) -> io::Result<()> {
        write(&self.0, b"\0")?;
        Ok(())
    }
}
