//! Interfaces, IPv4 addresses and the default route by rtnetlink (`man 7 rtnetlink`), one request and its
//! acknowledgement at a time.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;
const REQUEST_ACK: u16 = 1 | 4;
const CREATE_REPLACE: u16 = 0x400 | 0x100;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
/// Header of a message: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// An acknowledgement carries our request back: far below this.
const ANSWER_MAX_BYTES: usize = 1024;

/// Why the network could not be set.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot {what}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// An interface by its index (`/sys/class/net/NAME/ifindex`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface(pub u32);

/// A socket to the kernel's routing tables.
#[derive(Debug)]
pub struct Router {
    socket: OwnedFd,
    sequence: u32,
}

impl Router {
    /// Opens it.
    pub fn open() -> Result<Self, RouteError> {
        // No protocol is NETLINK_ROUTE, which is 0.
        let open = || -> rustix::io::Result<OwnedFd> {
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|errno| RouteError::Open(errno.into()))?;
        Ok(Router { socket, sequence: 0 })
    }

    /// Brings an interface up.
    pub fn up(&mut self, interface: Interface) -> Result<(), RouteError> {
        // struct ifinfomsg: family, type, index, flags, mask of the flags to change.
        let mut body = vec![0; 4];
        body.extend(interface.0.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        self.request("bring the interface up", NEW_LINK, 0, &body)
    }

    /// Gives an interface an address.
    pub fn add_address(&mut self, to: Interface, address: Ipv4Addr, prefix: u8) -> Result<(), RouteError> {
        self.request("set the address", NEW_ADDRESS, CREATE_REPLACE, &address_body(to, address, prefix))
    }

    /// Sets the default route.
    pub fn set_gateway(&mut self, gateway: Ipv4Addr) -> Result<(), RouteError> {
        self.request("set the default route", NEW_ROUTE, CREATE_REPLACE, &route_body(gateway))
    }

    fn request(&mut self, what: &'static str, kind: u16, flags: u16, body: &[u8]) -> Result<(), RouteError> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(kind, flags | REQUEST_ACK, self.sequence, body);
        let exchange = || -> io::Result<()> {
            sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
            let mut answer = [0; ANSWER_MAX_BYTES];
            let (bytes, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
            acknowledged(answer.get(..bytes).unwrap_or_default(), self.sequence)
        };
        exchange().map_err(|source| RouteError::Request { what, source })
    }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// `struct ifaddrmsg` with IFA_LOCAL and IFA_ADDRESS.
fn address_body(to: Interface, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend(to.0.to_ne_bytes());
    for attribute in [2, 1] {
        push_ipv4(&mut body, attribute, address);
    }
    body
}

/// `struct rtmsg` for 0.0.0.0/0 in the main table, static, unicast, with RTA_GATEWAY.
fn route_body(gateway: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![AF_INET, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    push_ipv4(&mut body, 5, gateway);
    body
}

fn push_ipv4(body: &mut Vec<u8>, attribute: u16, address: Ipv4Addr) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(attribute.to_ne_bytes());
    body.extend(address.octets());
}

/// Reads NLMSG_ERROR, which is the acknowledgement when its number is zero.
fn acknowledged(answer: &[u8], sequence: u32) -> io::Result<()> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, word(8), word(HEADER_BYTES)) {
        (Some(ERROR), Some(to), Some(0)) if to == sequence => Ok(()),
        (Some(ERROR), Some(to), Some(code)) if to == sequence => {
            Err(io::Error::from_raw_os_error(code.cast_signed().wrapping_neg()))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer from the kernel")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let address = Ipv4Addr::new(10, 0, 2, 15);
        let body = address_body(Interface(2), address, 24);
        assert_eq!(body, [2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 10, 0, 2, 15, 8, 0, 1, 0, 10, 0, 2, 15]);
        assert_eq!(route_body(address).len(), 20);
        let message = message(NEW_LINK, REQUEST_ACK, 7, &body);
        assert_eq!(message[..12], [40, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn answers() {
        let answer = |kind, sequence, code: i32| message(kind, 0, sequence, &code.to_ne_bytes());
        assert!(acknowledged(&answer(ERROR, 3, 0), 3).is_ok());
        let refused = acknowledged(&answer(ERROR, 3, -17), 3).expect_err("refused");
        assert_eq!(refused.raw_os_error(), Some(17));
        assert!(acknowledged(&answer(ERROR, 4, 0), 3).is_err());
        assert!(acknowledged(&answer(NEW_LINK, 3, 0), 3).is_err());
        assert!(acknowledged(&[1, 2, 3], 3).is_err());
    }
}
