//! A watchdog device (`Documentation/watchdog/watchdog-api.rst`). Opening it arms it. It is never disarmed: the magic
//! close character is not written, so that the machine resets when its holder is gone.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd, write};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::ffi::c_int;
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
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

    /// Lets the device stay open, and so armed and unclosed, in the program that this process executes next; returns its
    /// number there.
    pub fn stay_open(self) -> io::Result<RawFd> {
        fcntl_setfd(&self.0, FdFlags::empty())?;
        Ok(self.0.into_raw_fd())
    }

    /// Takes a device that the program before this one left open under a number. The number itself stays open too, so
    /// that taking it twice does no harm.
    pub fn left_open(number: RawFd, path: &Path) -> io::Result<Self> {
        let open = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
        if open != path {
            return Err(io::Error::other(format!("descriptor {number} is not {}", path.display())));
        }
        // SAFETY: borrow_raw wants a descriptor that is open for as long as it is borrowed, which is until the end of
        // this function. It was open just now, as the link says, and the link also says that it is the device: no value
        // of this program owns it (whoever opened the device here would have got another number, and the device opens
        // only once), so nothing closes it meanwhile.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        Ok(Watchdog(fcntl_dupfd_cloexec(borrowed, 0)?))
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
