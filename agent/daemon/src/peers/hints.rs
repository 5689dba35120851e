//! Where peers may be found, as this machine's node settings say. Hints: who answers there proves who it is.

use pillar_layout::PEER_PORT;
use pillar_model::{NodeSettings, PillarId};

/// As many as a cluster has members.
const HINTS_MAX: usize = 64;
/// A host name has at most 253 bytes.
const ADDRESS_MAX_BYTES: usize = 260;

/// Addresses by name, and such whose owner is not known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hints {
    entries: Vec<(Option<PillarId>, String)>,
}

impl Hints {
    /// Those of the settings that can be understood.
    pub fn of(settings: &NodeSettings) -> Self {
        let entries = settings.peers.iter().take(HINTS_MAX).filter_map(|text| parse(text)).collect();
        Self { entries }
    }

    /// Where to look for this pillar: what is said of it by name, what its row says, then places without a name.
    pub fn addresses(&self, name: &PillarId, row: &[String]) -> Vec<String> {
        let named = self.entries.iter().filter(|(of, _)| of.as_ref() == Some(name)).map(|(_, at)| at.clone());
        let unnamed = self.entries.iter().filter(|(of, _)| of.is_none()).map(|(_, at)| at.clone());
        let row = row.iter().filter_map(|text| address(text));
        let mut all: Vec<String> = Vec::new();
        for one in named.chain(row).chain(unnamed) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }
}

/// `NAME=HOST:PORT` or `HOST:PORT`; without a port the usual one.
fn parse(text: &str) -> Option<(Option<PillarId>, String)> {
    match text.split_once('=') {
        Some((name, at)) => Some((Some(name.parse().ok()?), address(at)?)),
        None => Some((None, address(text)?)),
    }
}

fn address(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > ADDRESS_MAX_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let after_host = text.rfind(']').map_or(text, |end| &text[end..]);
    match after_host.rsplit_once(':') {
        Some((_, port)) => port.parse::<u16>().ok().filter(|port| *port != 0).map(|_| text.to_owned()),
        None => Some(format!("{text}:{PEER_PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_by_name_come_first_and_nonsense_is_left_out() {
        let peers =
            ["p2=10.77.0.2:7444", "10.0.0.9", "p2=[fd77::2]:1", "P2=x:1", "p3=a:0", "", "p4=host", "a b:1"];
        let peers = peers.map(str::to_owned).to_vec();
        let hints = Hints::of(&NodeSettings { peers, ..NodeSettings::default() });
        let addresses = |name: &str, row: &[&str]| {
            let row: Vec<String> = row.iter().map(|text| (*text).to_owned()).collect();
            hints.addresses(&name.parse().expect("a name"), &row)
        };
        let p2 = ["10.77.0.2:7444", "[fd77::2]:1", "10.77.0.9:7444", "10.0.0.9:7444"];
        assert_eq!(addresses("p2", &["10.77.0.9:7444", "10.77.0.2:7444"]), p2);
        assert_eq!(addresses("p3", &[]), ["10.0.0.9:7444"]);
        assert_eq!(addresses("p4", &["[fd77::4]"]), ["host:7444", "[fd77::4]:7444", "10.0.0.9:7444"]);
    }
}
