//! Node settings: hints from outside the sealed image. They are measured before use, read strictly field by field, and
//! a bad one is a warning, never a reason not to boot.

use crate::{files, log};
use pillar_layout::{FW_CFG_NODE, NODE_SETTINGS_MAX_BYTES};
use pillar_model::{Host, NetworkSettings, NodeSettings, PeerHint, PillarId, TimeServer};
use pillar_os::CardName;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg";
/// Cards that settings may name, and addresses of one card.
const CARDS: usize = 16;
const ADDRESSES: usize = 8;
/// Peers to call.
const PEERS: usize = 32;
/// glibc asks no more name servers.
const NAME_SERVERS: usize = 3;
/// More of them agree no better.
const TIME_SERVERS: usize = 4;

/// Settings as far as they are valid.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the pillar and of the host.
    pub name: Option<PillarId>,
    /// What is said about cards.
    pub cards: Vec<CardSettings>,
    /// Other pillars.
    pub peers: Vec<PeerHint>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Time servers. When one that was to prove its answers is not valid, only those that do prove them: a mistyped NTS
    /// server must not end in the time of those beside it.
    pub time: Vec<TimeServer>,
    /// Time servers were named and none is used. Then nobody is asked: nor must it end in the time of whomever DHCP names.
    pub no_time: bool,
}

/// What is said about one card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardSettings {
    /// Which.
    pub card: CardName,
    /// Its static addresses.
    pub addresses: Vec<Cidr>,
    /// Whether it asks a DHCP server.
    pub dhcp: bool,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// The prefix length.
    pub prefix: u8,
}

/// Where settings may come from on this machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// A virtual machine: this is what it was given, perhaps nothing.
    FwCfg(Option<String>),
    /// No fw_cfg: settings may be on the EFI system partition.
    Esp,
}

/// Reads what the virtual machine was given.
pub fn from_fw_cfg() -> Source {
    if !Path::new(FW_CFG).is_dir() {
        return Source::Esp;
    }
    let file = Path::new(FW_CFG).join("by_name").join(FW_CFG_NODE).join("raw");
    Source::FwCfg(read(&file))
}

/// Reads settings from a file; none when it is not there or not to be used.
pub fn read(file: &Path) -> Option<String> {
    match files::read_text(file, NODE_SETTINGS_MAX_BYTES) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::warn(&format!("node settings ignored: {}: {error}", file.display()));
            None
        }
    }
}

impl Settings {
    /// Takes the valid fields; the rest becomes warnings.
    pub fn parse(text: &str) -> (Settings, Vec<String>) {
        let raw: NodeSettings = match serde_json::from_str(text) {
            Ok(raw) => raw,
            Err(error) => return (Settings::default(), vec![format!("they are not as expected: {error}")]),
        };
        let mut check = Check::default();
        let name = check.one("name", raw.name.as_deref());
        let mut cards = Vec::new();
        let address = check.one("address", raw.address.as_deref());
        let addresses: Vec<Cidr> = address.into_iter().collect();
        let gateway = check.gateway("gateway", raw.gateway.as_deref(), &addresses);
        if !addresses.is_empty() {
            cards.push(CardSettings { card: CardName::Number(1), addresses, dhcp: false, gateway });
        }
        for (index, network) in check.at_most("networks", &raw.networks, CARDS).iter().enumerate() {
            cards.extend(check.card(&format!("networks[{index}]"), network));
        }
        let peers = check.many("peers", &raw.peers, PEERS);
        let dns = check.many("dns", &raw.dns, NAME_SERVERS);
        let dns = dns.into_iter().map(|NameServer(address)| address).collect();
        let time = check.time_servers("time", &raw.time);
        let no_time = time.is_empty() && !raw.time.is_empty();
        (Settings { name, cards, peers, dns, time, no_time }, check.warnings)
    }

    /// The same for others to read: only what is valid.
    pub fn to_node(&self) -> NodeSettings {
        NodeSettings {
            name: self.name.as_ref().map(ToString::to_string),
            address: None,
            gateway: None,
            networks: self.cards.iter().map(CardSettings::to_network).collect(),
            peers: texts(&self.peers),
            dns: texts(&self.dns),
            time: texts(&self.time),
        }
    }
}

impl CardSettings {
    fn to_network(&self) -> NetworkSettings {
        NetworkSettings {
            card: self.card.to_string(),
            addresses: texts(&self.addresses),
            dhcp: self.dhcp,
            gateway: self.gateway.map(|gateway| gateway.to_string()),
        }
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// Parses fields and gathers what is wrong with them.
#[derive(Debug, Default)]
struct Check {
    warnings: Vec<String>,
}

impl Check {
    fn one<T: FromStr>(&mut self, field: &str, text: Option<&str>) -> Option<T> {
        let text = text?;
        let value = text.parse().ok();
        if value.is_none() {
            self.warnings.push(format!("{field} {text:?} is not valid"));
        }
        value
    }

    fn many<T: FromStr>(&mut self, field: &str, texts: &[String], limit: usize) -> Vec<T> {
        let texts = self.at_most(field, texts, limit);
        let name = |index| format!("{field}[{index}]");
        texts.iter().enumerate().filter_map(|(index, text)| self.one(&name(index), Some(text))).collect()
    }

    /// What is wrong with a time server is told: it may look right and lack its key.
    fn time_servers(&mut self, field: &str, texts: &[String]) -> Vec<TimeServer> {
        let mut servers = Vec::new();
        let used = self.at_most(field, texts, TIME_SERVERS);
        let mut lacks_proof = texts.iter().skip(used.len()).any(|text| wants_proof(text));
        for (index, text) in used.iter().enumerate() {
            match text.parse() {
                Ok(server) => servers.push(server),
                Err(error) => {
                    self.warnings.push(format!("{field}[{index}] {text:?} is not valid: {error}"));
                    lacks_proof |= wants_proof(text);
                }
            }
        }
        let named = servers.len();
        servers.retain(|server| !lacks_proof || matches!(server, TimeServer::Nts(_)));
        if servers.len() < named {
            self.warnings.push(format!(
                "{field}: {} servers that do not prove their answers, since one that was to prove them is not used",
                named - servers.len()
            ));
        }
        servers
    }

    fn at_most<'a, T>(&mut self, field: &str, values: &'a [T], limit: usize) -> &'a [T] {
        if values.len() > limit {
            self.warnings.push(format!("{field} has more than {limit} entries, the rest"));
        }
        values.get(..limit).unwrap_or(values)
    }

    /// A card that is not named is not set at all; anything else that is bad is left out.
    fn card(&mut self, field: &str, raw: &NetworkSettings) -> Option<CardSettings> {
        let card = self.one(&format!("{field}.card"), Some(&raw.card))?;
        let addresses = self.many(&format!("{field}.addresses"), &raw.addresses, ADDRESSES);
        let gateway = self.gateway(&format!("{field}.gateway"), raw.gateway.as_deref(), &addresses);
        Some(CardSettings { card, addresses, dhcp: raw.dhcp, gateway })
    }

    fn gateway(&mut self, field: &str, text: Option<&str>, addresses: &[Cidr]) -> Option<IpAddr> {
        let gateway =
            text.and_then(|text| text.parse().ok()).filter(|gateway| is_gateway(*gateway, addresses));
        if let Some(text) = text.filter(|_| gateway.is_none()) {
            self.warnings.push(format!("{field} {text:?} is not valid"));
        }
        gateway
    }
}

/// True when this was meant to be an NTS server, however it is mistyped. A name that is only called so is valid.
fn wants_proof(text: &str) -> bool {
    let start = text.trim_start().get(..3).unwrap_or_default();
    start.eq_ignore_ascii_case("nts") || text.contains('#')
}

/// A gateway is a neighbour: in the network of an address, or an IPv6 router by its link-local address.
fn is_gateway(gateway: IpAddr, addresses: &[Cidr]) -> bool {
    let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let v6 = addresses.iter().any(|cidr| cidr.address.is_ipv6());
    !addresses.iter().any(|cidr| cidr.address == gateway)
        && (link_local && v6 || addresses.iter().any(|cidr| cidr.has(gateway)))
}

impl Cidr {
    /// True when it is in the same network.
    fn has(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Cidr, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let digits = (1..=3).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or(())?;
        let (usable, prefixes) = match address {
            IpAddr::V4(v4) => (is_usable_v4(v4), 8..=32),
            IpAddr::V6(v6) => (is_usable_v6(v6), 16..=128),
        };
        (usable && prefixes.contains(&prefix)).then_some(Cidr { address, prefix }).ok_or(())
    }
}

fn is_usable_v4(address: Ipv4Addr) -> bool {
    !(address.is_loopback() || address.is_multicast() || address.is_broadcast() || address.octets()[0] == 0)
}

fn is_usable_v6(address: Ipv6Addr) -> bool {
    !(address.is_loopback()
        || address.is_multicast()
        || address.is_unspecified()
        || address.to_ipv4_mapped().is_some())
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An address that can be a name server's, in loopback too.
struct NameServer(IpAddr);

impl FromStr for NameServer {
    type Err = ();

    fn from_str(text: &str) -> Result<NameServer, ()> {
        match text.parse() {
            Ok(Host::Address(address)) => Ok(NameServer(address)),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_first_card_alone() {
        let (settings, warnings) =
            Settings::parse(r#"{"name":"pillar-1","address":"10.0.2.15/24","gateway":"10.0.2.2"}"#);
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(settings.name.map(String::from).as_deref(), Some("pillar-1"));
        let card = CardSettings {
            card: CardName::Number(1),
            addresses: vec![cidr("10.0.2.15/24")],
            dhcp: false,
            gateway: Some([10, 0, 2, 2].into()),
        };
        assert_eq!(settings.cards, [card]);
    }

    #[test]
    fn whole_settings() {
        let text = r#"{"name":"p1","networks":[
            {"card":"52:54:00:70:69:01","addresses":["10.0.0.1/24","fd00::1/64"],"gateway":"fe80::1"},
            {"card":"2","dhcp":true}],
            "peers":["p2=10.0.0.2:7444","[fd00::3]:7444"],"dns":["10.0.0.53"],"time":["ntp.lan",
            "nts://10.0.0.123#sha256:0000000000000000000000000000000000000000000000000000000000000000"]}"#;
        let (settings, warnings) = Settings::parse(text);
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(settings.cards.len(), 2);
        assert_eq!(settings.cards[0].addresses, [cidr("10.0.0.1/24"), cidr("fd00::1/64")]);
        assert!(settings.cards[1].dhcp);
        // What others read is the same to whoever reads it the same way.
        let again = serde_json::to_string(&settings.to_node()).expect("JSON");
        assert_eq!(Settings::parse(&again), (settings, Vec::new()));
    }

    // attack: P19
    #[test]
    fn bad_fields_are_told_and_the_rest_is_used() {
        // (text, warning has, name is kept)
        let table = [
            (r#"{"name":"Pillar"}"#, "name", false),
            (r#"{"name":"-a"}"#, "name", false),
            (r#"{"name":""}"#, "name", false),
            (r#"{"name":"a","address":"10.0.2.15"}"#, "address", true),
            (r#"{"name":"a","address":"10.0.2.15/33"}"#, "address", true),
            (r#"{"name":"a","address":"10.0.2.15/+8"}"#, "address", true),
            (r#"{"name":"a","address":"127.0.0.1/8"}"#, "address", true),
            (r#"{"name":"a","address":"224.0.0.1/8"}"#, "address", true),
            (r#"{"name":"a","address":"::1/128"}"#, "address", true),
            (r#"{"name":"a","address":"::ffff:10.0.2.15/120"}"#, "address", true),
            (r#"{"name":"a","address":"fd00::1/129"}"#, "address", true),
            (r#"{"name":"a","address":"10.0.2.15/24","gateway":"10.0.3.2"}"#, "gateway", true),
            (r#"{"name":"a","address":"10.0.2.15/24","gateway":"10.0.2.15"}"#, "gateway", true),
            (r#"{"name":"a","address":"10.0.2.15/24","gateway":"fe80::1"}"#, "gateway", true),
            (r#"{"name":"a","gateway":"10.0.2.2"}"#, "gateway", true),
            (r#"{"name":"a","networks":[{"card":"eth0","dhcp":true}]}"#, "networks[0].card", true),
            (r#"{"name":"a","networks":[{"addresses":["10.0.0.1/24"]}]}"#, "networks[0].card", true),
            (r#"{"name":"a","networks":[{"card":"1","addresses":["x"]}]}"#, "networks[0].addresses[0]", true),
            (
                r#"{"name":"a","networks":[{"card":"1","dhcp":true,"gateway":"10.0.0.1"}]}"#,
                "[0].gateway",
                true,
            ),
            (r#"{"name":"a","peers":["p2"]}"#, "peers[0]", true),
            (r#"{"name":"a","dns":["dns.lan"]}"#, "dns[0]", true),
            (r#"{"name":"a","dns":["1.1.1.1","2.2.2.2","3.3.3.3","4.4.4.4"]}"#, "more than 3", true),
            (r#"{"name":"a","time":["ntp:123"]}"#, "time[0]", true),
            (
                r#"{"name":"a","time":["nts://time.lan"]}"#,
                "time[0] \"nts://time.lan\" is not valid: an NTS server needs a key",
                true,
            ),
            (r#"{"name":"a","networks":[{"card":"1","vlan":7}]}"#, "not as expected", false),
            (r#"{"name":"a","init":"/bin/sh"}"#, "not as expected", false),
            (r#"{"name":7}"#, "not as expected", false),
            ("", "not as expected", false),
            ("[[[[", "not as expected", false),
        ];
        for (text, said, name) in table {
            let (settings, warnings) = Settings::parse(text);
            assert!(warnings.len() == 1 && warnings[0].contains(said), "{text}: {warnings:?}");
            assert_eq!(settings.name.is_some(), name, "{text}");
        }
    }

    // attack: P18 P19
    #[test]
    fn a_mistyped_server_that_was_to_prove_the_time_is_not_replaced_by_one_that_does_not() {
        let good = format!("nts://10.0.0.123:4460#sha256:{}", "0a".repeat(32));
        let short = format!("nts://time.lan#sha256:{}", "0a".repeat(31));
        let typo = good.replace("nts", "nst");
        // (texts, servers that are used, none is)
        let table: [(&[&str], &[&str], bool); 11] = [
            (&["a.b", "c.d"], &["a.b", "c.d"], false),
            (&["nts.b", "nt"], &["nts.b", "nt"], false),
            (&[&good, "a.b"], &[&good, "a.b"], false),
            (&["nts://time.lan", "a.b"], &[], true),
            (&["a.b", &short, "c.d"], &[], true),
            (&["a.b", "NTS://time.lan"], &[], true),
            (&["a.b", " nts:/time.lan"], &[], true),
            (&["a.b", &typo], &[], true),
            (&["a.b", &good, &short], &[&good], false),
            (&["a.b", "a.c", "a.d", "a.e", &good], &[], true),
            // It was to prove nothing.
            (&["a.b", "ntp:123"], &["a.b"], false),
        ];
        for (texts, used, no_time) in table {
            let text = serde_json::json!({ "time": texts }).to_string();
            let (settings, warnings) = Settings::parse(&text);
            assert_eq!(self::texts(&settings.time), used, "{texts:?}");
            assert_eq!(settings.no_time, no_time, "{texts:?}");
            let left_out = warnings.iter().any(|warning| warning.contains("do not prove their answers"));
            assert_eq!(left_out, texts.contains(&"a.b") && !used.contains(&"a.b"), "{texts:?}: {warnings:?}");
        }
    }

    #[test]
    fn gateways() {
        let own = [cidr("10.0.0.1/24"), cidr("fd00::1/64")];
        for (gateway, good) in [
            ("10.0.0.254", true),
            ("10.0.1.254", false),
            ("fd00::ffff", true),
            ("fd00:1::1", false),
            ("fe80::1", true),
            ("fd00::1", false),
        ] {
            assert_eq!(is_gateway(gateway.parse().expect("an address"), &own), good, "{gateway}");
        }
    }
}
