//! Virtual machines with a TPM, as values: QEMU, swtpm and UEFI firmware of the tools tree, described by a
//! [`Builder`], awaited by their console and by QMP, and gone when the [`Machine`] is dropped or its process killed.
//!
//! What they share with the host is 127.0.0.1: guests reach nothing, the host reaches the ports that are forwarded.
//! Machines of one [`Lab`] reach each other as well, through a [`Switch`] that can delay, lose, copy, reorder and cut.
//!
//! Not here: anything about what runs inside; the harness knows of the guest only its console lines
//! (`pillar_layout::console`) and the agent's port.
#![forbid(unsafe_code)]

pub mod accel;
mod bus;
mod console;
mod disk;
mod error;
mod firmware;
mod hardware;
mod lab;
mod machine;
mod plan;
mod ports;
mod process;
mod qmp;
pub mod record;
pub mod switch;
mod swtpm;
mod wait;

pub use console::{Cleaner, Console, Mark, Match, printable};
pub use error::{Error, Result};
pub use firmware::{Firmware, SecureBootCertificates, enrolled_template};
pub use hardware::{DiskBus, Hardware, Nic, SECTOR_4K, SECTOR_USUAL, TpmInterface};
pub use lab::{Lab, Seat};
pub use machine::{Builder, DiskMode, Machine, TpmKind, check_name};
pub use process::{Lifetime, ProcessId};
pub use qmp::{Event, Qmp};
pub use record::{LabFacts, Record, Stopped};
pub use switch::Switch;
pub use swtpm::{EkCa, Swtpm, manufacture};
pub use wait::speaks_tls;
