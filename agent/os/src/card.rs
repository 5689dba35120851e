//! Network cards, as sysfs shows them.

use crate::Interface;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

const INTERFACES: &str = "/sys/class/net";
/// More than any of the attributes that are read.
const ATTRIBUTE_MAX_BYTES: u64 = 64;
/// `ARPHRD_ETHER`.
const ETHERNET: &str = "1";

/// A card: an Ethernet interface of a device. Bridges, tunnels and loopback are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The kernel's name, for example "eth0".
    pub name: String,
    /// Its index.
    pub interface: Interface,
    /// Its hardware address.
    pub mac: [u8; 6],
}

impl Card {
    /// All cards that are there, in the order of their indexes.
    #[must_use]
    pub fn all() -> Vec<Card> {
        let mut cards: Vec<Card> = fs::read_dir(INTERFACES)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join("device").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| Card::named(&name))
            .collect();
        cards.sort_by_key(|card| card.interface.0);
        cards
    }

    /// The Ethernet interface of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Card> {
        if attribute(name, "type")? != ETHERNET {
            return None;
        }
        let mac = mac(&attribute(name, "address")?)?;
        Some(Card { name: name.to_owned(), interface: Interface::named(name)?, mac })
    }

    /// True when it is up and something is at the other end of its cable.
    #[must_use]
    pub fn has_carrier(&self) -> bool {
        attribute(&self.name, "carrier").as_deref() == Some("1")
    }
}

impl Interface {
    /// The interface of that name, of whatever kind.
    #[must_use]
    pub fn named(name: &str) -> Option<Interface> {
        attribute(name, "ifindex")?.parse().ok().map(Interface)
    }
}

fn attribute(interface: &str, name: &str) -> Option<String> {
    let mut text = String::new();
    let file = fs::File::open(Path::new(INTERFACES).join(interface).join(name)).ok()?;
    file.take(ATTRIBUTE_MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

/// Which card is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CardName {
    /// The one with this hardware address.
    Mac([u8; 6]),
    /// The one at this place, from 1, in the order of the kernel's interface numbers.
    Number(u8),
}

/// Why a text is no [`CardName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a card is named by its MAC address or its number from 1")]
pub struct CardNameError;

impl CardName {
    /// True when this card at this place (from 0) is meant.
    #[must_use]
    pub fn means(&self, place: usize, card: &Card) -> bool {
        match self {
            CardName::Mac(mac) => *mac == card.mac,
            CardName::Number(number) => usize::from(*number) == place + 1,
        }
    }
}

impl FromStr for CardName {
    type Err = CardNameError;

    fn from_str(text: &str) -> Result<Self, CardNameError> {
        if let Some(mac) = mac(text) {
            return Ok(CardName::Mac(mac));
        }
        let digits = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        let number = text.parse().ok().filter(|_| digits);
        number.map(CardName::Number).ok_or(CardNameError)
    }
}

impl fmt::Display for CardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CardName::Number(number) => write!(f, "{number}"),
            CardName::Mac([a, b, c, d, e, g]) => write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"),
        }
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text.split(':').map(|byte| {
        let digits = byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
    });
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cards() {
        let mac = CardName::Mac([0x52, 0x54, 0, 0x70, 0x69, 0x0a]);
        assert_eq!("52:54:00:70:69:0A".parse(), Ok(mac));
        assert_eq!(mac.to_string(), "52:54:00:70:69:0a");
        assert_eq!("12".parse(), Ok(CardName::Number(12)));
        for bad in [
            "",
            "0",
            "01",
            "+1",
            "256",
            "eth0",
            "52:54:00:70:69",
            "52:54:00:70:69:01:02",
            "52-54-00-70-69-01",
            "5:4:0:0:9:1",
            "52:54:00:70:69:+1",
        ] {
            assert_eq!(bad.parse::<CardName>(), Err(CardNameError), "{bad}");
        }
    }

    #[test]
    fn a_card_is_meant_by_address_or_place() {
        let card = Card { name: "eth1".to_owned(), interface: Interface(3), mac: [2, 0, 0, 0, 0, 1] };
        assert!(CardName::Mac([2, 0, 0, 0, 0, 1]).means(0, &card));
        assert!(!CardName::Mac([2, 0, 0, 0, 0, 2]).means(0, &card));
        assert!(CardName::Number(1).means(0, &card) && !CardName::Number(1).means(1, &card));
    }

    #[test]
    fn loopback_is_no_card() {
        assert_eq!(Card::named("lo"), None);
        assert!(Interface::named("lo").is_some());
    }
}
