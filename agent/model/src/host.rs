//! Other machines by name or address, as node settings name them.

use crate::PillarId;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest name (RFC 1035, in text).
const NAME_MAX_BYTES: usize = 253;
const LABEL_MAX_BYTES: usize = 63;

/// Why a text names no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a host name nor an address{1}")]
pub struct HostError(String, &'static str);

fn error(text: &str, behind: &'static str) -> HostError {
    HostError(text.chars().take(80).collect(), behind)
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// By name, to be looked up.
    Name(String),
    /// By address.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return if is_usable(address) { Ok(Self::Address(address)) } else { Err(error(text, "")) };
        }
        if is_name(text) { Ok(Self::Name(text.to_owned())) } else { Err(error(text, "")) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// An address that one machine can have.
fn is_usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Labels as in RFC 1123; the last is not a number, which would be a mistyped address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_MAX_BYTES).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    text.len() <= NAME_MAX_BYTES && text.split('.').all(label) && !text.rsplit('.').next().is_some_and(number)
}

/// A machine and a port: `HOST:PORT`, with an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The machine.
    pub host: Host,
    /// The port, not 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let wrong = || error(text, " with a port");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address: Ipv6Addr =
                    rest.strip_suffix(']').and_then(|t| t.parse().ok()).ok_or_else(wrong)?;
                Some(Host::Address(address.into())).filter(|_| is_usable(address.into()))
            }
            // Without brackets nobody knows where an IPv6 address ends.
            None => host.parse().ok().filter(|host| !matches!(host, Host::Address(IpAddr::V6(_)))),
        };
        Ok(Self { host: host.ok_or_else(wrong)?, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where another pillar may be: `NAME=HOST:PORT`, or `HOST:PORT` when its name is not known. A hint: who answers there
/// must prove who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerHint {
    /// Which pillar is meant.
    pub name: Option<PillarId>,
    /// Where to call it.
    pub at: HostPort,
}

impl FromStr for PeerHint {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (name, at) = match text.split_once('=') {
            Some((name, at)) => {
                let name = name.parse().map_err(|_| error(text, ": no pillar has such a name"))?;
                (Some(name), at)
            }
            None => (None, text),
        };
        Ok(Self { name, at: at.parse()? })
    }
}

impl fmt::Display for PeerHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.at),
            None => self.at.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["p2", "p2.example.org", "10.0.0.2", "fd00::2", "a-b", "P2", "1a", "3.de"] {
            assert_eq!(good.parse::<Host>().map(|host| host.to_string()), Ok(good.to_owned()));
        }
        let long = format!("{}.x", "a".repeat(64));
        let longer = ["a"; 130].join(".");
        for bad in [
            "",
            ".",
            "a..b",
            "a.",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a/b",
            "10.0.0.256",
            "10.0.0",
            "1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "[fd00::2]",
            &long,
            &longer,
            "ä",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    #[test]
    fn peers() {
        for good in ["p2=10.0.0.2:7444", "p2:7444", "p2=[fd00::2]:7444", "[fd00::2]:1", "p2=p2.lan:65535"] {
            assert_eq!(good.parse::<PeerHint>().map(|peer| peer.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "p2",
            "p2=",
            "p2=p2",
            "p2:0",
            "p2:65536",
            "p2:+1",
            "p2:",
            ":7444",
            "=p2:1",
            "P2=p2:1",
            "a=b=c:1",
            "fd00::2:7444",
            "[fd00::2]",
            "[fd00::2:7444",
            "[10.0.0.2]:7444",
            "[p2]:1",
            "p2=0.0.0.0:1",
        ] {
            assert!(bad.parse::<PeerHint>().is_err(), "{bad}");
        }
    }
}
