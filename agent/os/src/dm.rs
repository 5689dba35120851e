//! Device-mapper by ioctl (`linux/dm-ioctl.h`, interface version 4): make a device, load one target, resume it.

use rustix::fs::{Mode, OFlags, major, minor, open};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::io;
use std::os::fd::OwnedFd;

const CONTROL: &str = "/dev/mapper/control";
const GROUP: u8 = 0xfd;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;
const READ_ONLY: u32 = 1;
/// Room for one target and its parameters; a verity table line has about 250 bytes.
const PAYLOAD_BYTES: usize = 1024;
const SPEC_BYTES: usize = 40;

/// `struct dm_ioctl`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// What goes to the kernel in one call: the header, then the targets.
#[repr(C)]
struct Call {
    header: Header,
    payload: [u8; PAYLOAD_BYTES],
}

const _: () = assert!(size_of::<Header>() == 312 && size_of::<Call>() == 312 + PAYLOAD_BYTES);

/// Why a mapped device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DmError {
    /// No control device: the module dm-mod is not loaded.
    #[error("cannot open {CONTROL}")]
    Open(#[source] io::Error),
    /// A name or a table that does not fit.
    #[error("device-mapper name or table is too long or has a NUL in it")]
    Argument,
    /// An ioctl failed.
    #[error("device-mapper cannot {what} {name:?}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// The device's name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number; the node is `/dev/dm-MINOR`.
    pub minor: u32,
}

/// The device-mapper's control device.
#[derive(Debug)]
pub struct Mapper(OwnedFd);

impl Mapper {
    /// Opens the control device.
    pub fn open() -> Result<Self, DmError> {
        let fd = open(CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        fd.map(Mapper).map_err(|errno| DmError::Open(errno.into()))
    }

    /// Makes a read-only device `name` of `sectors` sectors with one target, and starts it. Nothing stays behind when
    /// a step fails.
    pub fn create_read_only(
        &self,
        name: &str,
        sectors: u64,
        target: &str,
        parameters: &str,
    ) -> Result<Device, DmError> {
        let mut table = Call::new(name)?;
        table.set_target(sectors, target, parameters)?;
        self.call::<{ code(DEV_CREATE) }>(name, "create", &mut Call::new(name)?)?;
        let started = self
            .call::<{ code(TABLE_LOAD) }>(name, "load the table of", &mut table)
            .and_then(|()| self.start(name));
        if started.is_err() {
            // The first error is the one to report.
            let _ = self.call::<{ code(DEV_REMOVE) }>(name, "remove", &mut Call::new(name)?);
        }
        started
    }

    fn start(&self, name: &str) -> Result<Device, DmError> {
        let mut call = Call::new(name)?;
        self.call::<{ code(DEV_SUSPEND) }>(name, "start", &mut call)?;
        let dev = call.header.dev;
        Ok(Device { major: major(dev), minor: minor(dev) })
    }

    fn call<const CODE: Opcode>(
        &self,
        name: &str,
        what: &'static str,
        call: &mut Call,
    ) -> Result<(), DmError> {
        // SAFETY: every CODE of this file takes a `struct dm_ioctl` at the start of `data_size` bytes, which it reads
        // and writes and does not keep. `Call` is that layout (`repr(C)`, size asserted above, all fields plain
        // integers), and `Call::new` set `data_size` to the size of the whole of it.
        let done = unsafe { ioctl(&self.0, Updater::<CODE, Call>::new(call)) };
        done.map_err(|errno| DmError::Call { what, name: name.to_owned(), source: errno.into() })
    }
}

const fn code(number: u8) -> Opcode {
    opcode::read_write::<Header>(GROUP, number)
}

impl Call {
    fn new(name: &str) -> Result<Self, DmError> {
        let mut header = Header {
            version: [4, 0, 0],
            data_size: size_of::<Call>() as u32,
            data_start: size_of::<Header>() as u32,
            target_count: 0,
            open_count: 0,
            flags: READ_ONLY,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        };
        put(&mut header.name, name)?;
        Ok(Call { header, payload: [0; PAYLOAD_BYTES] })
    }

    /// Writes a `struct dm_target_spec` and its parameters.
    fn set_target(&mut self, sectors: u64, target: &str, parameters: &str) -> Result<(), DmError> {
        let (spec, text) = self.payload.split_at_mut(SPEC_BYTES);
        spec[8..16].copy_from_slice(&sectors.to_ne_bytes());
        put(&mut spec[24..], target)?;
        put(text, parameters)?;
        self.header.target_count = 1;
        Ok(())
    }
}

/// Copies text into a zeroed field, leaving at least one NUL behind it.
fn put(field: &mut [u8], text: &str) -> Result<(), DmError> {
    if text.is_empty() || text.len() >= field.len() || text.contains('\0') {
        return Err(DmError::Argument);
    }
    field[..text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_lies_where_the_kernel_looks() {
        let mut call = Call::new("root").expect("a short name");
        call.set_target(8000, "verity", "1 a b").expect("it fits");
        assert_eq!(&call.header.name[..5], b"root\0");
        assert_eq!(call.payload[8..16], 8000_u64.to_ne_bytes());
        assert_eq!(&call.payload[24..31], b"verity\0");
        assert_eq!(&call.payload[40..46], b"1 a b\0");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Call::new("").is_err());
        assert!(Call::new(&"x".repeat(128)).is_err());
        let mut call = Call::new("root").expect("a short name");
        assert!(call.set_target(1, "a target of that name", "x").is_err());
        assert!(call.set_target(1, "verity", &"x".repeat(PAYLOAD_BYTES)).is_err());
        assert!(call.set_target(1, "verity", "x\0y").is_err());
    }
}
