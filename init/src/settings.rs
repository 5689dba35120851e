//! Node settings: hints from outside the sealed image. They are measured before use, read strictly field by field, and
//! a bad one is a warning, never a reason not to boot.

use crate::{files, log};
use pillar_layout::{FW_CFG_NODE, NODE_SETTINGS_MAX_BYTES};
use pillar_model::NodeSettings;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg";

/// Settings as far as they are valid.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A host name label.
    pub name: Option<String>,
    /// Address and prefix length of the first interface.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Default gateway, in the network of `address`.
    pub gateway: Option<Ipv4Addr>,
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
        let mut warnings = Vec::new();
        let mut keep = |field: &str, value: Option<String>, valid: bool| {
            if let Some(value) = value.filter(|_| !valid) {
                warnings.push(format!("{field} {value:?} is not valid"));
            }
        };
        let name = raw.name.clone().filter(|name| is_label(name));
        keep("name", raw.name, name.is_some());
        let address = raw.address.as_deref().and_then(parse_cidr);
        keep("address", raw.address, address.is_some());
        let gateway = raw.gateway.as_deref().and_then(|text| text.parse().ok());
        let gateway = gateway.filter(|gateway| address.is_some_and(|address| in_network(*gateway, address)));
        keep("gateway", raw.gateway, gateway.is_some());
        (Settings { name, address, gateway }, warnings)
    }
}

fn is_label(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn parse_cidr(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let digits = (1..=2).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix: u8 = prefix.parse().ok().filter(|prefix| digits && (8..=32).contains(prefix))?;
    let unusable = address.is_loopback()
        || address.is_multicast()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.octets()[0] == 0;
    (!unusable).then_some((address, prefix))
}

fn in_network(gateway: Ipv4Addr, (address, prefix): (Ipv4Addr, u8)) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    gateway != address && (gateway.to_bits() ^ address.to_bits()) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_settings() {
        let (settings, warnings) =
            Settings::parse(r#"{"name":"pillar-1","address":"10.0.2.15/24","gateway":"10.0.2.2"}"#);
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(
            settings,
            Settings {
                name: Some("pillar-1".to_owned()),
                address: Some((Ipv4Addr::new(10, 0, 2, 15), 24)),
                gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            }
        );
    }

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
            (r#"{"name":"a","address":"10.0.2.15/24","gateway":"10.0.3.2"}"#, "gateway", true),
            (r#"{"name":"a","address":"10.0.2.15/24","gateway":"10.0.2.15"}"#, "gateway", true),
            (r#"{"name":"a","gateway":"10.0.2.2"}"#, "gateway", true),
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
}
