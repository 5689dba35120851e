//! The system calls that PID 1 needs and that no library offers ready-made: device-mapper, the watchdog, uevents,
//! interfaces and routes, packets, the wall clock, signals as a file, children in a sandbox, growing ext4; with the
//! feature `cryptsetup` also LUKS2 volumes through libcryptsetup.
//!
//! **Invariant:** this is the only crate with `unsafe`, and what it exports is safe to call with any argument. Where
//! rustix or nix have a safe call, that is used.
#![allow(unsafe_code)]

mod block;
mod card;
mod child;
mod clock;
#[cfg(feature = "cryptsetup")]
pub mod cryptsetup;
mod dm;
mod ext4;
mod module;
mod packet;
mod power;
mod route;
mod signals;
mod uevent;
mod watchdog;

pub use block::reread_partitions;
pub use card::{Card, CardName, CardNameError};
pub use child::{Child, Identity, MountStep, Output, SpawnError};
pub use clock::{slew_clock, step_clock};
pub use dm::{Device, DmError, Mapper};
pub use ext4::{device_bytes, ext4_resize, ext4_set_uuid};
pub use module::load as load_module;
pub use packet::PacketSocket;
pub use power::{power_off, reboot, take_ctrl_alt_del};
pub use route::{Gateway, Interface, LinkNews, RouteError, Router};
pub use rustix::thread::CapabilitySet;
pub use signals::{Signal, Signals};
pub use uevent::{Uevent, UeventSocket};
pub use watchdog::Watchdog;
