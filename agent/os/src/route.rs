//! Interfaces, addresses and default routes by rtnetlink (`man 7 rtnetlink`), one request and its acknowledgement at a
//! time.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const ERROR: u16 = 2;
const REQUEST_ACK: u16 = 1 | 4;
const CREATE_REPLACE: u16 = 0x400 | 0x100;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
/// `IFA_F_NODAD`: an IPv6 address is used at once, without asking the link for a second whether somebody has it. IPv4
/// asks nobody either, and who gave the machine its address knows whom he gave it to.
const NO_DUPLICATE_DETECTION: u8 = 2;
/// `RTNH_F_ONLINK`: the gateway is on this link even though no address says so.
const ON_LINK: u32 = 4;
/// `RTMGRP_LINK`: links that come, go and change.
const LINK_GROUP: u32 = 1;
/// Header of a message: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// An acknowledgement carries our request back: far below this.
const ANSWER_MAX_BYTES: usize = 1024;
/// News of links that are thrown away in one go.
const NEWS_AT_ONCE: usize = 256;

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

/// A default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Where packets go.
    pub address: IpAddr,
    /// Through which interface.
    pub interface: Interface,
    /// Of several, the one with the lowest is used.
    pub metric: u32,
    /// The gateway is in no network of the interface's addresses, and on its link all the same.
    pub on_link: bool,
}

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

    /// Gives an interface an address, for good or for this long; again, to prolong it.
    pub fn add_address(
        &mut self,
        to: Interface,
        address: IpAddr,
        prefix: u8,
        lifetime: Option<Duration>,
    ) -> Result<(), RouteError> {
        let body = address_body(to, address, prefix, lifetime);
        self.request("set the address", NEW_ADDRESS, CREATE_REPLACE, &body)
    }

    /// Takes an address away.
    pub fn remove_address(&mut self, from: Interface, address: IpAddr, prefix: u8) -> Result<(), RouteError> {
        let body = address_body(from, address, prefix, None);
        self.request("remove the address", DELETE_ADDRESS, 0, &body)
    }

    /// Sets a default route.
    pub fn set_gateway(&mut self, gateway: &Gateway) -> Result<(), RouteError> {
        self.request("set the default route", NEW_ROUTE, CREATE_REPLACE, &route_body(gateway))
    }

    /// Takes a default route away.
    pub fn remove_gateway(&mut self, gateway: &Gateway) -> Result<(), RouteError> {
        self.request("remove the default route", DELETE_ROUTE, 0, &route_body(gateway))
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

/// `struct ifaddrmsg` with IFA_LOCAL, IFA_ADDRESS and, when it does not last, IFA_CACHEINFO.
fn address_body(to: Interface, address: IpAddr, prefix: u8, lifetime: Option<Duration>) -> Vec<u8> {
    let flags = if address.is_ipv6() { NO_DUPLICATE_DETECTION } else { 0 };
    let mut body = vec![family(address), prefix, flags, 0];
    body.extend(to.0.to_ne_bytes());
    for attribute in [2, 1] {
        push_address(&mut body, attribute, address);
    }
    if let Some(lifetime) = lifetime {
        // All bits set means for ever.
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_ne_bytes();
        push(&mut body, 6, &[seconds, seconds, [0; 4], [0; 4]].concat());
    }
    body
}

/// `struct rtmsg` for everything in the main table, static, unicast, with RTA_GATEWAY, RTA_OIF and RTA_PRIORITY.
fn route_body(gateway: &Gateway) -> Vec<u8> {
    let mut body = vec![family(gateway.address), 0, 0, 0, 254, 4, 0, 1];
    body.extend(if gateway.on_link { ON_LINK } else { 0 }.to_ne_bytes());
    push_address(&mut body, 5, gateway.address);
    push(&mut body, 4, &gateway.interface.0.to_ne_bytes());
    push(&mut body, 6, &gateway.metric.to_ne_bytes());
    body
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv6() { AF_INET6 } else { AF_INET }
}

fn push_address(body: &mut Vec<u8>, attribute: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push(body, attribute, &address.octets()),
        IpAddr::V6(address) => push(body, attribute, &address.octets()),
    }
}

/// An attribute; the length of every value of ours is a multiple of four, so that none needs padding.
fn push(body: &mut Vec<u8>, attribute: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(attribute.to_ne_bytes());
    body.extend(value);
}

/// News of links. They say only that something changed: look then.
#[derive(Debug)]
pub struct LinkNews(OwnedFd);

impl LinkNews {
    /// Opens a socket for them; not blocking.
    pub fn open() -> Result<Self, RouteError> {
        let open = || -> rustix::io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
            Ok(socket)
        };
        open().map(Self).map_err(|errno| RouteError::Open(errno.into()))
    }

    /// Throws away what came.
    pub fn clear(&self) {
        let mut buffer = [0; ANSWER_MAX_BYTES];
        for _ in 0..NEWS_AT_ONCE {
            // Lost news are news too: ENOBUFS is told once, then reading goes on.
            if recv(&self.0, &mut buffer, RecvFlags::empty()) == Err(rustix::io::Errno::AGAIN) {
                return;
            }
        }
    }
}

impl AsFd for LinkNews {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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
        let address: IpAddr = [10, 0, 2, 15].into();
        let body = address_body(Interface(2), address, 24, None);
        assert_eq!(body, [2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 10, 0, 2, 15, 8, 0, 1, 0, 10, 0, 2, 15]);
        let message = message(NEW_LINK, REQUEST_ACK, 7, &body);
        assert_eq!(message[..12], [40, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0]);

        let leased = address_body(Interface(2), address, 24, Some(Duration::from_secs(258)));
        assert_eq!(leased[24..], [20, 0, 6, 0, 2, 1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

        let route = Gateway { address, interface: Interface(3), metric: 101, on_link: true };
        let body = route_body(&route);
        assert_eq!(body[..12], [2, 0, 0, 0, 254, 4, 0, 1, 4, 0, 0, 0]);
        assert_eq!(body[20..], [8, 0, 4, 0, 3, 0, 0, 0, 8, 0, 6, 0, 101, 0, 0, 0]);
    }

    #[test]
    fn bodies_of_ipv6() {
        let address: IpAddr = "fd00::1".parse().expect("an address");
        let body = address_body(Interface(2), address, 64, None);
        assert_eq!(body[..8], [10, 64, 2, 0, 2, 0, 0, 0]);
        assert_eq!((body.len(), &body[8..12]), (48, &[20, 0, 2, 0][..]));
        let route = Gateway { address, interface: Interface(3), metric: 1, on_link: false };
        assert_eq!(route_body(&route)[..16], [10, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, 20, 0, 5, 0]);
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
