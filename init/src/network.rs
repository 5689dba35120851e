//! Loopback and the first network interface.

use crate::settings::Settings;
use crate::{files, log};
use pillar_os::{Interface, RouteError, Router};
use std::fs;
use std::path::Path;

const INTERFACES: &str = "/sys/class/net";
const SMALL_FILE_BYTES: usize = 64;

/// Brings the loopback interface up, which also gives it its addresses.
pub fn loopback_up() {
    let Some(interface) = index("lo") else { return log::warn("there is no loopback interface") };
    if let Err(error) = Router::open().and_then(|mut router| router.up(interface)) {
        log::warn(&format!("loopback: {}", log::chain(&error)));
    }
}

/// Sets the first interface as the node settings say; false when there is none yet. Without an address nothing is to
/// be done.
pub fn set_first(settings: &Settings) -> bool {
    let Some(address) = settings.address else { return true };
    let Some((name, interface)) = first() else { return false };
    match set(interface, address, settings) {
        Ok(()) => log::info(&format!("{name}: {}/{}", address.0, address.1)),
        Err(error) => log::warn(&format!("{name}: {}", log::chain(&error))),
    }
    true
}

fn set(
    interface: Interface,
    (address, prefix): (std::net::Ipv4Addr, u8),
    settings: &Settings,
) -> Result<(), RouteError> {
    let mut router = Router::open()?;
    router.up(interface)?;
    router.add_address(interface, address, prefix)?;
    settings.gateway.map_or(Ok(()), |gateway| router.set_gateway(gateway))
}

/// The interface with the lowest number that belongs to a device.
fn first() -> Option<(String, Interface)> {
    fs::read_dir(INTERFACES)
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| index(&name).map(|index| (name, index)))
        .min_by_key(|(_, index)| index.0)
}

fn index(name: &str) -> Option<Interface> {
    let text = files::read_text(&Path::new(INTERFACES).join(name).join("ifindex"), SMALL_FILE_BYTES).ok()?;
    text.trim().parse().ok().map(Interface)
}
