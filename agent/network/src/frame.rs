//! IPv4 and UDP headers around a message, for the time when the machine has no address and the kernel would send nothing.

use std::net::{Ipv4Addr, SocketAddrV4};

const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const UDP: u8 = 17;
const HOPS: u8 = 64;
/// Flags and offset of a fragment: "more follow", or any place but the first.
const FRAGMENT: u16 = 0x3fff;

/// A packet with a message of at most 1 KiB.
#[must_use]
pub fn write(from: SocketAddrV4, to: SocketAddrV4, message: &[u8]) -> Vec<u8> {
    let udp_bytes = (UDP_BYTES + message.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((IP_BYTES as u16 + udp_bytes).to_be_bytes());
    packet.extend([0, 0, 0, 0, HOPS, UDP, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_bytes.to_be_bytes());
    // No UDP checksum: for IPv4 it is optional (RFC 768), and a wrong one is what old servers stumble over.
    packet.extend([0, 0]);
    packet.extend(message);
    packet
}

/// The message of an unfragmented UDP packet between these ports, and who sent it. Checksums are not looked at: between
/// virtual machines they are often left to the card that is not there, and against malice they are no help.
#[must_use]
pub fn read(packet: &[u8], from_port: u16, to_port: u16) -> Option<(Ipv4Addr, &[u8])> {
    let half = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let total = usize::from(half(2)?);
    let plain = first >> 4 == 4 && header >= IP_BYTES && *packet.get(9)? == UDP && half(6)? & FRAGMENT == 0;
    if !plain || half(header)? != from_port || half(header + 2)? != to_port {
        return None;
    }
    let udp_bytes = usize::from(half(header + 4)?);
    if udp_bytes < UDP_BYTES || header + udp_bytes > total {
        return None;
    }
    let sender: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    Some((sender.into(), packet.get(header + UDP_BYTES..header + udp_bytes)?))
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let halves = bytes.chunks_exact(2).map(|half| u32::from(u16::from_be_bytes([half[0], half[1]])));
    let sum: u32 = halves.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let from = SocketAddrV4::new([10, 0, 2, 2].into(), 67);
        write(from, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68), b"hello")
    }

    #[test]
    fn what_was_written_is_read() {
        let packet = sample();
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(read(&packet, 67, 68), Some(([10, 0, 2, 2].into(), &b"hello"[..])));
        // A link with short frames pads them.
        let padded = [packet.as_slice(), &[0; 20]].concat();
        assert_eq!(read(&padded, 67, 68), Some(([10, 0, 2, 2].into(), &b"hello"[..])));
    }

    #[test]
    fn what_is_none_of_ours_is_nothing() {
        let packet = sample();
        assert_eq!(read(&packet, 67, 69), None);
        for length in 0..packet.len() {
            assert_eq!(read(&packet[..length], 67, 68), None, "{length}");
        }
        // (place, byte): version, header length, total length, fragment, protocol, UDP length
        for (at, byte) in [(0, 0x65), (0, 0x44), (3, 32), (6, 0x20), (7, 1), (9, 6), (25, 7), (25, 14)] {
            let mut packet = packet.clone();
            packet[at] = byte;
            assert_eq!(read(&packet, 67, 68), None, "byte {at}");
        }
    }
}
