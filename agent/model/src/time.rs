//! Time servers and the keys that prove who they are, as node settings name them.

use crate::{Host, HostError, HostPort};
use std::fmt;
use std::str::FromStr;

/// Where key exchange for NTS is offered (RFC 8915 section 6).
pub const NTS_PORT: u16 = 4460;

const NTS: &str = "nts://";
const PIN: &str = "sha256:";

/// Keys of one server: one that is used, one that will be, and a few to spare.
const KEYS_MAX: usize = 4;

/// Why a text names no time server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeServerError {
    /// No machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A server that would have to prove itself by nothing.
    #[error("an NTS server needs a key, as in nts://HOST#sha256:HEX")]
    NoKey,
    /// Too many.
    #[error("an NTS server has at most {KEYS_MAX} keys")]
    Keys,
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyPinError),
}

/// A time server: `HOST` is asked by NTP, `nts://HOST[:PORT]#KEY[,KEY]` by NTS. PORT is that of the key exchange, KEY a
/// [`KeyPin`].
///
/// Each server has its own keys, so that none can speak for another where the majority counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimeServer {
    /// Nobody proves its answers.
    Ntp(Host),
    /// It proves its answers (Network Time Security, RFC 8915).
    Nts(NtsServer),
}

/// A time server that proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NtsServer {
    /// Where it exchanges keys.
    pub place: HostPort,
    /// Its own key, or that of an authority that vouches for its name; at least one.
    pub keys: Vec<KeyPin>,
}

impl FromStr for TimeServer {
    type Err = TimeServerError;

    fn from_str(text: &str) -> Result<Self, TimeServerError> {
        match text.strip_prefix(NTS) {
            Some(rest) => rest.parse().map(Self::Nts),
            None => Ok(Self::Ntp(text.parse()?)),
        }
    }
}

impl FromStr for NtsServer {
    type Err = TimeServerError;

    /// Without `nts://`.
    fn from_str(text: &str) -> Result<Self, TimeServerError> {
        let (place, keys) = text.split_once('#').ok_or(TimeServerError::NoKey)?;
        // An IPv6 address has brackets here, with a port or without.
        let place = place.parse().or_else(|_| format!("{place}:{NTS_PORT}").parse())?;
        if keys.split(',').count() > KEYS_MAX {
            return Err(TimeServerError::Keys);
        }
        Ok(Self { place, keys: keys.split(',').map(str::parse).collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for TimeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ntp(host) => host.fmt(f),
            Self::Nts(server) => server.fmt(f),
        }
    }
}

impl fmt::Display for NtsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "{NTS}{}#{}", self.place, keys.join(","))
    }
}

/// A text that is no [`KeyPin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key is named \"sha256:\" and 64 hexadecimal digits")]
pub struct KeyPinError;

/// A public key by its SHA-256, over the SubjectPublicKeyInfo (DER): `sha256:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPin(pub [u8; 32]);

impl FromStr for KeyPin {
    type Err = KeyPinError;

    fn from_str(text: &str) -> Result<Self, KeyPinError> {
        let mut digest = [0; 32];
        let digits = text.strip_prefix(PIN).ok_or(KeyPinError)?;
        hex::decode_to_slice(digits, &mut digest).map_err(|_| KeyPinError)?;
        Ok(Self(digest))
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PIN}{}", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: &str) -> String {
        format!("sha256:{}", byte.repeat(32))
    }

    #[test]
    fn time_servers() {
        let (a, b) = (key("0a"), key("0b"));
        // (text, as it is told again)
        let table = [
            ("ntp.lan".to_owned(), "ntp.lan".to_owned()),
            ("fd00::1".to_owned(), "fd00::1".to_owned()),
            (format!("nts://time.lan#{a}"), format!("nts://time.lan:4460#{a}")),
            (format!("nts://time.lan:4461#{a},{b}"), format!("nts://time.lan:4461#{a},{b}")),
            (format!("nts://10.0.0.1#{a}"), format!("nts://10.0.0.1:4460#{a}")),
            (format!("nts://[fd00::1]#{a}"), format!("nts://[fd00::1]:4460#{a}")),
            (format!("nts://[fd00::1]:1#{a}"), format!("nts://[fd00::1]:1#{a}")),
        ];
        for (text, told) in table {
            let server: TimeServer = text.parse().expect(&text);
            assert_eq!(server.to_string(), told);
            assert_eq!(told.parse(), Ok(server));
        }
    }

    // attack: P19
    #[test]
    fn what_names_no_time_server_is_told_why() {
        let a = key("0a");
        for (text, why) in [
            (String::new(), "neither a host name"),
            ("ntp.lan:123".to_owned(), "neither a host name"),
            ("nts:time.lan".to_owned(), "neither a host name"),
            (format!("NTS://time.lan#{a}"), "neither a host name"),
            (format!("nts://#{a}"), "neither a host name"),
            (format!("nts://fd00::1#{a}"), "neither a host name"),
            (format!("nts://time.lan:0#{a}"), "neither a host name"),
            (format!("nts://time.lan:1:2#{a}"), "neither a host name"),
            (format!("nts://time.lan/#{a}"), "neither a host name"),
            ("nts://time.lan".to_owned(), "needs a key"),
            ("nts://time.lan#".to_owned(), "64 hexadecimal digits"),
            (format!("nts://time.lan#{a},"), "64 hexadecimal digits"),
            (format!("nts://time.lan#{a}#{a}"), "64 hexadecimal digits"),
            (format!("nts://time.lan#{}", [a.as_str(); 5].join(",")), "at most 4 keys"),
        ] {
            let error = text.parse::<TimeServer>().expect_err(&text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn pins() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<KeyPin>().map(|pin| pin.to_string()), Ok(good.clone()));
        for bad in ["", "sha256:", &good[7..], &good[..70], &format!("{good}0"), &good.replace("0a", "0g")] {
            assert_eq!(bad.parse::<KeyPin>(), Err(KeyPinError), "{bad}");
        }
    }
}
