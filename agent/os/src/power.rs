//! The end of the machine.

use rustix::system::RebootCommand;
use std::io;

/// Resets the machine at once: nothing is written first. Returns only when the kernel refuses.
pub fn reboot() -> io::Error {
    end(RebootCommand::Restart)
}

/// Cuts the power at once: nothing is written first. Returns only when the kernel refuses.
pub fn power_off() -> io::Error {
    end(RebootCommand::PowerOff)
}

fn end(command: RebootCommand) -> io::Error {
    match rustix::system::reboot(command) {
        Ok(()) => io::Error::other("the kernel went on after a reboot call"),
        Err(errno) => errno.into(),
    }
}

/// Makes Ctrl-Alt-Del a SIGINT to PID 1 instead of an immediate reset.
pub fn take_ctrl_alt_del() -> io::Result<()> {
    Ok(rustix::system::reboot(RebootCommand::CadOff)?)
}
