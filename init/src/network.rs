//! Loopback, static addresses and name servers. What needs a conversation (DHCP, time servers) is the network program's
//! (`pillar-network`), which is started only when something asks for it: a machine with static addresses runs no
//! process more, and is reachable without one.

use crate::log;
use crate::settings::{Cidr, Settings};
use pillar_layout::{run, user};
use pillar_os::{Card, Gateway, Interface, RouteError, Router};
use rustix::fs::{Gid, Uid, chown};
use std::fs;
use std::io;
use std::net::IpAddr;

/// Default routes of static addresses come before those of DHCP (200 and up) and router advertisements (1024); of
/// several cards, the first.
const METRIC: u32 = 100;

/// Brings the loopback interface up, which also gives it its addresses.
pub fn loopback_up() {
    let Some(interface) = Interface::named("lo") else { return log::warn("there is no loopback interface") };
    if let Err(error) = Router::open().and_then(|mut router| router.up(interface)) {
        log::warn(&format!("loopback: {}", log::chain(&error)));
    }
}

/// What a card is set to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Setup {
    addresses: Vec<Cidr>,
    gateways: Vec<IpAddr>,
    dhcp: bool,
}

/// Cards and what they are set to.
#[derive(Debug)]
pub struct Network {
    settings: Settings,
    seen: Vec<Interface>,
    /// A card was seen that wants DHCP.
    wants_dhcp: bool,
}

impl Network {
    /// For these settings; nothing is set yet.
    pub fn new(settings: Settings) -> Network {
        Network { settings, seen: Vec::new(), wants_dhcp: false }
    }

    /// True when a card waits for an address by DHCP: the network program is urgent.
    pub fn wants_dhcp(&self) -> bool {
        self.wants_dhcp
    }

    /// True when there are time servers to ask: the network program is wanted, some time.
    pub fn wants_time(&self) -> bool {
        !self.settings.time.is_empty()
    }

    /// What was said about cards.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sets the cards that were not there before.
    pub fn set_new_cards(&mut self) {
        for (place, card) in Card::all().iter().enumerate() {
            if self.seen.contains(&card.interface) {
                continue;
            }
            self.seen.push(card.interface);
            let Some(setup) = setup(&self.settings, place, card) else {
                log::info(&format!("{}: not in the node settings, stays down", card.name));
                continue;
            };
            self.wants_dhcp |= setup.dhcp;
            let failures = set(card, place, &setup);
            for error in &failures {
                log::warn(&format!("{}: {}", card.name, log::chain(error)));
            }
            if failures.is_empty() {
                log::info(&format!("{}: {}", card.name, describe(&setup)));
            }
        }
    }
}

/// What a card is to be. Settings that name no card at all mean that every card asks a DHCP server; settings that name
/// some mean only these.
fn setup(settings: &Settings, place: usize, card: &Card) -> Option<Setup> {
    if settings.cards.is_empty() {
        return Some(Setup { dhcp: true, ..Setup::default() });
    }
    let mut named = settings.cards.iter().filter(|said| said.card.means(place, card)).peekable();
    named.peek()?;
    let mut setup = Setup::default();
    for said in named {
        setup.addresses.extend(&said.addresses);
        setup.gateways.extend(said.gateway);
        setup.dhcp |= said.dhcp;
    }
    Some(setup)
}

/// Up it goes in any case: IPv6 configures itself by what routers advertise. What the kernel refuses (an IPv6 address
/// where there is no IPv6, a gateway that it cannot reach) is no reason to go without the rest.
fn set(card: &Card, place: usize, setup: &Setup) -> Vec<RouteError> {
    let mut router = match Router::open() {
        Ok(router) => router,
        Err(error) => return vec![error],
    };
    let mut done = vec![router.up(card.interface)];
    for Cidr { address, prefix } in &setup.addresses {
        done.push(router.add_address(card.interface, *address, *prefix, None));
    }
    let metric = METRIC + u32::try_from(place).unwrap_or(0);
    for address in &setup.gateways {
        let gateway = Gateway { address: *address, interface: card.interface, metric, on_link: false };
        done.push(router.set_gateway(&gateway));
    }
    done.into_iter().filter_map(Result::err).collect()
}

fn describe(setup: &Setup) -> String {
    let addresses = setup.addresses.iter().map(ToString::to_string);
    let words: Vec<String> = addresses.chain(setup.dhcp.then(|| "DHCP".to_owned())).collect();
    if words.is_empty() { "up".to_owned() } else { words.join(", ") }
}

/// Makes the network program's folder, and in it the list of name servers that the settings name; DHCP may give others.
pub fn write_name_servers(dns: &[IpAddr]) {
    let write = || -> io::Result<()> {
        fs::create_dir(run::NETWORK)?;
        fs::write(
            run::RESOLV_CONF,
            dns.iter().map(|server| format!("nameserver {server}\n")).collect::<String>(),
        )?;
        let owner = (Some(Uid::from_raw(user::NETWORK)), Some(Gid::from_raw(user::NETWORK)));
        Ok(chown(run::NETWORK, owner.0, owner.1)?)
    };
    if let Err(error) = write() {
        log::warn(&format!("cannot write {}: {error}", run::RESOLV_CONF));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let (settings, warnings) = Settings::parse(text);
        assert_eq!(warnings, Vec::<String>::new());
        settings
    }

    #[test]
    fn who_gets_what() {
        let cards: Vec<Card> = (1..=3)
            .map(|n| Card { name: format!("eth{n}"), interface: Interface(n), mac: [2, 0, 0, 0, 0, n as u8] })
            .collect();
        // (settings, what each of three cards is said to be, "-" when it stays down)
        let table = [
            ("{}", ["DHCP", "DHCP", "DHCP"]),
            (r#"{"name":"a","dns":["10.0.0.1"]}"#, ["DHCP", "DHCP", "DHCP"]),
            (r#"{"address":"10.0.0.1/24"}"#, ["10.0.0.1/24", "-", "-"]),
            (
                r#"{"networks":[{"card":"02:00:00:00:00:02","addresses":["fd00::2/64"]}]}"#,
                ["-", "fd00::2/64", "-"],
            ),
            (
                r#"{"address":"10.0.0.1/24","networks":[{"card":"3","dhcp":true}]}"#,
                ["10.0.0.1/24", "-", "DHCP"],
            ),
            (
                r#"{"address":"10.0.0.1/24","networks":[{"card":"02:00:00:00:00:01","addresses":["fd00::1/64"]}]}"#,
                ["10.0.0.1/24, fd00::1/64", "-", "-"],
            ),
            (r#"{"networks":[{"card":"2"}]}"#, ["-", "up", "-"]),
        ];
        for (text, expected) in table {
            let settings = settings(text);
            let said: Vec<String> = cards
                .iter()
                .enumerate()
                .map(|(place, card)| setup(&settings, place, card).map_or("-".to_owned(), |s| describe(&s)))
                .collect();
            assert_eq!(said, expected, "{text}");
        }
    }
}
