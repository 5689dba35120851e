//! IPv4 packets on one interface, without addresses or routes (`man 7 packet`): what DHCP needs before there are any.

use crate::Interface;
use nix::libc;
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `ETH_P_IP`, in network order.
const IPV4: u16 = 0x0800_u16.to_be();
const EVERYBODY: [u8; 6] = [0xff; 6];

/// A socket for IPv4 packets on one interface; not blocking.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    interface: Interface,
}

impl PacketSocket {
    /// Opens it. It sees every IPv4 packet that arrives, so it is not for keeping open.
    pub fn open(interface: Interface) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol nothing arrives, until bind names protocol and interface together.
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        bind(&socket, &LinkAddress::new(interface, None))?;
        Ok(Self { socket, interface })
    }

    /// Sends an IPv4 packet to everybody on the link.
    pub fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        let to = LinkAddress::new(self.interface, Some(EVERYBODY));
        sendto(&self.socket, packet, SendFlags::empty(), &to)?;
        Ok(())
    }

    /// The next packet, cut to the buffer; none when there is none now.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((bytes, _)) => Ok(buffer.get(..bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `struct sockaddr_ll`.
struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    fn new(interface: Interface, to: Option<[u8; 6]>) -> Self {
        let mut address = [0; 8];
        if let Some(to) = to {
            address[..6].copy_from_slice(&to);
        }
        Self(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: IPV4,
            sll_ifindex: interface.0.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: if to.is_some() { 6 } else { 0 },
            sll_addr: address,
        })
    }
}

// SAFETY: the trait demands a pointer that can be read for the passed length and holds a valid socket address. It points
// to a whole sockaddr_ll that lives until the closure is over; its family says what it is.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f((&raw const self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}
