//! Setting the wall clock (`man 2 adjtimex`).

use nix::libc;
use std::io;

const NANOS: i64 = 1_000_000_000;
/// `ADJ_OFFSET_SINGLESHOT`: as adjtime(3) does it, 0.5 ms a second.
const SLEW: u32 = 0x8001;
/// `ADJ_SETOFFSET | ADJ_NANO`: at once, in nanoseconds.
const STEP: u32 = 0x0100 | 0x2000;

/// Moves the wall clock by so many nanoseconds, at once.
pub fn step_clock(nanos: i64) -> io::Result<()> {
    let mut change = nothing();
    change.modes = STEP;
    // The fraction counts forward from the second below, so it is never negative.
    change.time.tv_sec = nanos.div_euclid(NANOS);
    change.time.tv_usec = nanos.rem_euclid(NANOS);
    adjust(&mut change)
}

/// Has the wall clock run a little faster or slower until it moved by so many nanoseconds.
pub fn slew_clock(nanos: i64) -> io::Result<()> {
    let mut change = nothing();
    change.modes = SLEW;
    change.offset = nanos / 1000;
    adjust(&mut change)
}

fn nothing() -> libc::timex {
    // SAFETY: a struct of integers, for which all zeros are a value.
    unsafe { std::mem::zeroed() }
}

fn adjust(change: &mut libc::timex) -> io::Result<()> {
    // SAFETY: adjtimex reads and writes one whole timex; `change` is one, and nobody else holds it.
    match unsafe { libc::adjtimex(change) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
