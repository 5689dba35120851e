//! DHCPv4 messages (RFC 2131, 2132): the three that we send, the three that we take.
//!
//! A parser of our own: the crates for it bring a DNS library along, and of the protocol's hundred options we read eight.
//! What a server says is a stranger's word, so everything that goes on to the kernel is checked here.

use std::net::Ipv4Addr;
use std::time::Duration;

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Name servers that are used, as glibc asks no more.
pub const NAME_SERVERS: usize = 3;
/// Time servers that are used.
pub const TIME_SERVERS: usize = 4;

/// Before the options: the fixed fields and the magic cookie.
const HEADER_BYTES: usize = 240;
/// BOOTP relays drop shorter messages.
const MESSAGE_MIN_BYTES: usize = 300;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
/// Please broadcast the answer, since we have no address yet.
const BROADCAST: [u8; 2] = [0x80, 0];
/// Words from a server that are shown.
const MESSAGE_MAX_CHARS: usize = 80;

/// Shorter leases are refused: they would keep us busy with nothing but asking.
const LEASE_MIN: Duration = Duration::from_secs(10);

mod option {
    pub const PAD: u8 = 0;
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const NTP: u8 = 42;
    pub const ADDRESS: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const RENEW: u8 = 58;
    pub const REBIND: u8 = 59;
    pub const END: u8 = 255;
}

mod kind {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
}

/// What we say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Who has an address for me?
    Discover,
    /// I take this one from this server.
    Select {
        /// The address.
        address: Ipv4Addr,
        /// The server.
        server: Ipv4Addr,
    },
    /// I have this one and want to keep it.
    Renew {
        /// The address.
        address: Ipv4Addr,
    },
}

/// What goes into each message of an exchange.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The card's hardware address. Nothing else about the machine is told but its name.
    pub mac: [u8; 6],
    /// The pillar's name, when it has one.
    pub name: Option<&'a str>,
    /// The exchange's number.
    pub exchange: u32,
    /// Seconds since it began.
    pub seconds: u16,
}

impl Request {
    /// As bytes.
    #[must_use]
    pub fn write(&self, asker: &Asker<'_>) -> Vec<u8> {
        let own = match self {
            Request::Renew { address } => *address,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        // Hardware type Ethernet with addresses of six bytes, no relays yet.
        let mut message = vec![BOOT_REQUEST, 1, 6, 0];
        message.extend(asker.exchange.to_be_bytes());
        message.extend(asker.seconds.to_be_bytes());
        message.extend(if own.is_unspecified() { BROADCAST } else { [0, 0] });
        message.extend(own.octets());
        // The server fills in the rest; then our hardware address, and room for two names.
        message.extend([0; 12]);
        message.extend(asker.mac);
        message.extend([0; 10 + 64 + 128]);
        message.extend(COOKIE);
        let kind = if *self == Request::Discover { kind::DISCOVER } else { kind::REQUEST };
        push(&mut message, option::TYPE, &[kind]);
        if let Request::Select { address, server } = self {
            push(&mut message, option::ADDRESS, &address.octets());
            push(&mut message, option::SERVER, &server.octets());
        }
        if let Some(name) = asker.name {
            push(&mut message, option::HOST_NAME, name.as_bytes());
        }
        let wanted = [
            option::MASK,
            option::ROUTER,
            option::DNS,
            option::NTP,
            option::LEASE,
            option::RENEW,
            option::REBIND,
        ];
        push(&mut message, option::PARAMETERS, &wanted);
        message.push(option::END);
        message.resize(message.len().max(MESSAGE_MIN_BYTES), option::PAD);
        message
    }
}

/// An option; ours are all far below 256 bytes.
fn push(message: &mut Vec<u8>, option: u8, value: &[u8]) {
    message.extend([option, value.len() as u8]);
    message.extend(value);
}

/// What a server grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub time: Vec<Ipv4Addr>,
    /// Who grants it.
    pub server: Ipv4Addr,
    /// After this time (T1) that server is asked to prolong it.
    pub renew: Duration,
    /// After this time (T2) any server is.
    pub rebind: Duration,
    /// After this time it is over.
    pub lease: Duration,
}

impl Terms {
    /// True when the gateway is outside of the address's network, as with networks of one address.
    #[must_use]
    pub fn gateway_is_elsewhere(&self) -> bool {
        let mask = mask_of(self.prefix);
        self.gateway.is_some_and(|gateway| (gateway.to_bits() ^ self.address.to_bits()) & mask != 0)
    }
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// This could be had.
    Offer(Terms),
    /// It is yours.
    Ack(Terms),
    /// It is not.
    Nak {
        /// Who says so.
        server: Ipv4Addr,
        /// Why, if it says.
        why: String,
    },
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Another machine's, another exchange's, or no DHCP at all: silence.
    #[error("not for this exchange")]
    NotOurs,
    /// Ours, and not as it must be.
    #[error("the DHCP server's answer has {0}")]
    Malformed(&'static str),
}

impl Reply {
    /// Reads an answer to this exchange of this card.
    pub fn read(message: &[u8], mac: [u8; 6], exchange: u32) -> Result<Self, Ignored> {
        let head = message.get(..HEADER_BYTES).ok_or(Ignored::NotOurs)?;
        let ours = head[..3] == [BOOT_REPLY, 1, 6]
            && head[4..8] == exchange.to_be_bytes()
            && head[28..34] == mac
            && head[236..] == COOKIE;
        if !ours {
            return Err(Ignored::NotOurs);
        }
        let options = Options::read(message)?;
        let server = options.address(option::SERVER)?.ok_or(Ignored::Malformed("no server's address"))?;
        if !is_usable(server) {
            return Err(Ignored::Malformed("an impossible server's address"));
        }
        match options.get(option::TYPE).as_deref() {
            Some([kind::NAK]) => Ok(Reply::Nak { server, why: options.words() }),
            Some([kind @ (kind::OFFER | kind::ACK)]) => {
                let address = Ipv4Addr::new(head[16], head[17], head[18], head[19]);
                let terms = options.terms(address, server)?;
                Ok(if *kind == kind::OFFER { Reply::Offer(terms) } else { Reply::Ack(terms) })
            }
            _ => Err(Ignored::Malformed("no type that a server says")),
        }
    }
}

/// Options in the order in which they came.
struct Options<'a>(Vec<(u8, &'a [u8])>);

impl<'a> Options<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Ignored> {
        let mut options = Self(Vec::new());
        options.gather(message.get(HEADER_BYTES..).unwrap_or_default())?;
        // The two fields for names may hold options instead.
        let overload = options.get(option::OVERLOAD);
        match overload.as_deref() {
            None => {}
            Some([more @ 1..=3]) => {
                if more & 1 != 0 {
                    options.gather(message.get(108..236).unwrap_or_default())?;
                }
                if more & 2 != 0 {
                    options.gather(message.get(44..108).unwrap_or_default())?;
                }
            }
            Some(_) => return Err(Ignored::Malformed("an overload that is none")),
        }
        Ok(options)
    }

    fn gather(&mut self, mut bytes: &'a [u8]) -> Result<(), Ignored> {
        while let Some((code, rest)) = bytes.split_first() {
            bytes = match *code {
                option::PAD => rest,
                option::END => return Ok(()),
                code => {
                    let (length, rest) = rest.split_first().ok_or(Ignored::Malformed("an option cut off"))?;
                    let length = usize::from(*length);
                    let value = rest.get(..length).ok_or(Ignored::Malformed("an option cut off"))?;
                    self.0.push((code, value));
                    rest.get(length..).unwrap_or_default()
                }
            };
        }
        Ok(())
    }

    /// The value; what came in pieces is joined (RFC 3396).
    fn get(&self, code: u8) -> Option<Vec<u8>> {
        let mut pieces = self.0.iter().filter(|(found, _)| *found == code).peekable();
        pieces.peek()?;
        Some(pieces.flat_map(|(_, piece)| piece.iter().copied()).collect())
    }

    fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, Ignored> {
        let Some(value) = self.get(code) else { return Ok(None) };
        let octets: [u8; 4] =
            value.try_into().map_err(|_| Ignored::Malformed("an address of a wrong length"))?;
        Ok(Some(octets.into()))
    }

    /// The usable ones of a list; that one of them is not is no reason to go without the others.
    fn addresses(&self, code: u8, limit: usize) -> Vec<Ipv4Addr> {
        let value = self.get(code).unwrap_or_default();
        let all =
            value.chunks_exact(4).map(|octets| Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]));
        all.filter(|address| is_usable(*address)).take(limit).collect()
    }

    fn seconds(&self, code: u8) -> Result<Option<Duration>, Ignored> {
        let Some(value) = self.get(code) else { return Ok(None) };
        let bytes: [u8; 4] = value.try_into().map_err(|_| Ignored::Malformed("a time of a wrong length"))?;
        Ok(Some(Duration::from_secs(u32::from_be_bytes(bytes).into())))
    }

    fn terms(&self, address: Ipv4Addr, server: Ipv4Addr) -> Result<Terms, Ignored> {
        let mask = self.address(option::MASK)?.ok_or(Ignored::Malformed("no network mask"))?.to_bits();
        let prefix = mask.leading_ones();
        if mask.checked_shl(prefix).unwrap_or(0) != 0 || !(8..=32).contains(&prefix) {
            return Err(Ignored::Malformed("an impossible network mask"));
        }
        let host = address.to_bits() & !mask;
        let of_all = prefix < 31 && (host == 0 || host == !mask);
        if !is_usable(address) || address.is_loopback() || of_all {
            return Err(Ignored::Malformed("an impossible address for us"));
        }
        let gateway = self.addresses(option::ROUTER, 1).first().copied();
        let lease = self.seconds(option::LEASE)?.ok_or(Ignored::Malformed("no lease time"))?;
        if lease < LEASE_MIN {
            return Err(Ignored::Malformed("a lease of less than ten seconds"));
        }
        let (renew, rebind) = match (self.seconds(option::RENEW)?, self.seconds(option::REBIND)?) {
            (Some(renew), Some(rebind)) if LEASE_MIN / 2 <= renew && renew < rebind && rebind < lease => {
                (renew, rebind)
            }
            // RFC 2131 section 4.4.5.
            _ => (lease / 2, lease / 8 * 7),
        };
        Ok(Terms {
            address,
            prefix: prefix as u8,
            gateway: gateway.filter(|gateway| *gateway != address && !gateway.is_loopback()),
            dns: self.addresses(option::DNS, NAME_SERVERS),
            time: self.addresses(option::NTP, TIME_SERVERS),
            server,
            renew,
            rebind,
            lease,
        })
    }

    /// The server's own words, as far as they can be shown.
    fn words(&self) -> String {
        let value = self.get(option::MESSAGE).unwrap_or_default();
        let text = String::from_utf8_lossy(&value);
        text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MESSAGE_MAX_CHARS).collect()
    }
}

fn mask_of(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// One machine's address, and not of the networks that are nobody's.
fn is_usable(address: Ipv4Addr) -> bool {
    address.octets()[0] != 0 && !address.is_multicast() && address.octets()[0] < 240
}

#[cfg(test)]
mod tests;
