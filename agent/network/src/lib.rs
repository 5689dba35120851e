//! The network program: asks DHCP servers for addresses and time servers for the time, when the node settings want it.
//! Decisions are pure (`client`, `dhcp`, `ntp`, `nts::{records, fields, trust}`, `frame`); hands are thin (`cards`, `time`,
//! `nts`, `names`).
//!
//! It runs as a user of its own with what it needs to set addresses and the clock, and nothing else. Nobody proves what
//! it hears: it decides how the machine is reached and what its logs are dated, never whom it trusts.
#![forbid(unsafe_code)]

pub mod cards;
pub mod client;
pub mod dhcp;
pub mod frame;
pub mod names;
pub mod ntp;
pub mod nts;
pub mod options;
pub mod say;
pub mod time;

use client::Now;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::error::Error;
use std::time::Duration;

/// The boot-time clock, which goes on in suspend and which nobody can set, and fresh random bits.
#[must_use]
pub fn now() -> Now {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    let at = Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0));
    Now { at, random: random() }
}

/// Random bits.
#[must_use]
pub fn random() -> u64 {
    u64::from_ne_bytes(random_bytes())
}

/// Random bytes, at most 256. The kernel waits for them once, at boot, and that is over when this program starts.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(got) if got == N => bytes,
        // Fewer than 256 bytes come whole, and none at all is a kernel that we do not run on.
        other => panic!("the kernel gives no random numbers: {other:?}"),
    }
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
