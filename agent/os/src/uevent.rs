//! The kernel's device events (`NETLINK_KOBJECT_UEVENT`).

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The kernel's own multicast group (udev's is another).
const KERNEL_GROUP: u32 = 1;
/// The kernel's limit of one event (`UEVENT_BUFFER_SIZE`) and room for its header.
const EVENT_MAX_BYTES: usize = 4096;

/// A device came, went or changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uevent {
    /// "add", "remove", "change", …
    pub action: String,
    /// Place under `/sys`, beginning with a slash.
    pub device: String,
    /// For example "block".
    pub subsystem: String,
    /// What to look up in modules.alias.
    pub modalias: Option<String>,
}

impl Uevent {
    /// Takes an event apart; `None` when it is none of the kernel's.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Uevent> {
        let mut words = bytes.split(|byte| *byte == 0);
        let head = std::str::from_utf8(words.next()?).ok()?;
        head.split_once('@').filter(|(_, device)| device.starts_with('/'))?;
        let mut event = Uevent::default();
        for word in words {
            let Some((key, value)) = std::str::from_utf8(word).ok().and_then(|word| word.split_once('='))
            else {
                continue;
            };
            match key {
                "ACTION" => value.clone_into(&mut event.action),
                "DEVPATH" => value.clone_into(&mut event.device),
                "SUBSYSTEM" => value.clone_into(&mut event.subsystem),
                "MODALIAS" => event.modalias = Some(value.to_owned()),
                _ => {}
            }
        }
        (!event.action.is_empty()).then_some(event)
    }
}

/// A socket on which the events arrive; not blocking.
#[derive(Debug)]
pub struct UeventSocket(OwnedFd);

impl UeventSocket {
    /// Opens it. Events from now on are kept until read.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&fd, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(UeventSocket(fd))
    }

    /// The next event, `None` when there is none now. Events were lost when the error is `ENOBUFS`: look at everything
    /// again then.
    pub fn next(&self) -> io::Result<Option<Uevent>> {
        let mut buffer = [0; EVENT_MAX_BYTES];
        loop {
            let (bytes, _, sender) = match recvfrom(&self.0, &mut buffer, RecvFlags::empty()) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let from_kernel = sender
                .and_then(|address| SocketAddrNetlink::try_from(address).ok())
                .is_some_and(|address| address.pid() == 0);
            let event = buffer.get(..bytes).filter(|_| from_kernel).and_then(Uevent::parse);
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let event = Uevent::parse(
            b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=virtio\0MODALIAS=virtio:d2v1\0SEQNUM=9\0",
        );
        assert_eq!(
            event,
            Some(Uevent {
                action: "add".to_owned(),
                device: "/devices/x".to_owned(),
                subsystem: "virtio".to_owned(),
                modalias: Some("virtio:d2v1".to_owned()),
            })
        );
        for foreign in
            [&b""[..], b"libudev\0\xfe\xed\xca\xfe", b"\xff@/x\0ACTION=add\0", b"add@/x\0", b"\0\0\0"]
        {
            assert_eq!(Uevent::parse(foreign), None);
        }
    }
}
