//! A machine that proved itself, as the row that operators sign.

use crate::attest::Proved;
use crate::failure::{Failure, Kind, Outcome};
use crate::target::Place;
use pillar_layout::PEER_PORT;
use pillar_model::{Bank, Digest, Member, NodeSettings, PeerHint};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Addresses of one row; quorum takes no more.
const ADDRESSES_MAX: usize = 8;

/// The row: its keys are those that this evidence proved to be in one TPM, its firmware and state volume the measured
/// ones.
pub fn member(place: &Place, proved: &Proved, addresses: Vec<String>) -> Outcome<Member> {
    let Proved { identity, verified } = proved;
    let name = place.id()?;
    let refused = |why: String| Failure::new(format!("{name} cannot be a member: {why}")).kind(Kind::Refused);
    let tls_spki = pillar_verify::tls_key(
        &identity.ak_public,
        &identity.tls_public,
        &identity.tls_attest,
        &identity.tls_signature,
    )
    .map_err(|error| {
        refused(format!("its TLS key is not proven to be in its TPM: {error}"))
            .hint("its TPM must be able to make a P-256 key, and its agent be of this version")
    })?;
    // Nobody is admitted under a name that the machine itself does not use: others would call it by it.
    match settings(proved).name {
        Some(measured) if measured == name.as_str() => {}
        Some(measured) => {
            return Err(refused(format!("it was started as {measured}")).hint("enroll it by that name"));
        }
        None => {
            return Err(refused("its node settings give it no name".to_owned()).hint(
                "a name is set by SMBIOS, fw_cfg or the file on the ESP, and measured at the next boot",
            ));
        }
    }
    Ok(Member {
        name,
        ek_public: Digest(identity.ek_public.clone()),
        ek_certificate: sha256(&identity.ek_certificate),
        tpm_maker: verified.tpm_maker(),
        ak_public: Digest(identity.ak_public.clone()),
        tls_spki: Digest(tls_spki),
        firmware: BTreeMap::from([(Bank::Sha256, verified.firmware())]),
        state_volume: verified.state_volume().to_owned(),
        addresses,
    })
}

/// The node settings as measured; none when there are none that we understand.
pub fn settings(proved: &Proved) -> NodeSettings {
    proved.verified.node_settings().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec())
}

/// Where each machine is called by the others: what was said on the command line, else what its record says, else its
/// measured addresses and what the others' measured settings call it by. An address that several machines claim (of a
/// user-mode network, for example) reaches none of them. Hints, all of them: who answers there must prove who they are.
pub fn addresses(named: &[(String, String)], machines: &[(&Place, NodeSettings)]) -> Vec<Vec<String>> {
    let own: Vec<Vec<IpAddr>> = machines.iter().map(|(_, settings)| own_addresses(settings)).collect();
    let claims = |address: &IpAddr| own.iter().filter(|addresses| addresses.contains(address)).count();
    let of = |(index, (place, _)): (usize, &(&Place, NodeSettings))| {
        let said: Vec<String> = named
            .iter()
            .filter(|(name, _)| *name == place.name)
            .map(|(_, address)| address.clone())
            .collect();
        if !said.is_empty() {
            return said;
        }
        if let Some(peer) = &place.files.peer {
            return vec![peer.clone()];
        }
        let measured = own[index].iter().filter(|address| claims(address) == 1).map(|address| at(*address));
        let hints = machines.iter().flat_map(|(_, settings)| &settings.peers);
        let hints = hints.filter_map(|peer| peer.parse::<PeerHint>().ok());
        let called = hints
            .filter(|hint| hint.name.as_ref().is_some_and(|name| name.as_str() == place.name))
            .map(|hint| hint.at.to_string());
        let mut seen = BTreeSet::new();
        measured.chain(called).filter(|address| seen.insert(address.clone())).take(ADDRESSES_MAX).collect()
    };
    machines.iter().enumerate().map(of).collect()
}

fn at(address: IpAddr) -> String {
    std::net::SocketAddr::from((address, PEER_PORT)).to_string()
}

/// Static addresses, those of further cards first: the first card is most often the way to the operators.
fn own_addresses(settings: &NodeSettings) -> Vec<IpAddr> {
    let networks = settings.networks.iter().flat_map(|network| &network.addresses);
    networks.chain(&settings.address).filter_map(|cidr| cidr.split('/').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Files;
    use pillar_model::NetworkSettings;

    fn place(name: &str, peer: Option<&str>) -> Place {
        let files = Files { peer: peer.map(str::to_owned), ..Files::default() };
        Place { name: name.to_owned(), addr: "127.0.0.1:1".to_owned(), files }
    }

    fn settings(addresses: &[&str], peers: &[&str]) -> NodeSettings {
        let network = NetworkSettings {
            card: "2".to_owned(),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            ..NetworkSettings::default()
        };
        NodeSettings {
            address: Some("10.0.2.15/24".to_owned()),
            networks: vec![network],
            peers: peers.iter().map(|p| (*p).to_owned()).collect(),
            ..NodeSettings::default()
        }
    }

    #[test]
    fn addresses_are_those_by_which_others_reach_a_machine() {
        let (p1, p2, p3, p4) =
            (place("p1", None), place("p2", None), place("p3", Some("10.77.0.3:7444")), place("p4", None));
        let machines = [
            (&p1, settings(&["10.77.0.1/24", "fd00::1/64"], &["p2=p2.example:7444", "10.9.9.9:7444"])),
            (&p2, settings(&["10.77.0.2/24"], &[])),
            (&p3, settings(&["10.77.9.9/24"], &[])),
            (&p4, settings(&["10.77.0.4/24"], &[])),
        ];
        let named = [("p4".to_owned(), "192.0.2.4:7444".to_owned())];
        let want: [&[&str]; 4] = [
            &["10.77.0.1:7444", "[fd00::1]:7444"],
            &["10.77.0.2:7444", "p2.example:7444"],
            &["10.77.0.3:7444"],
            &["192.0.2.4:7444"],
        ];
        assert_eq!(addresses(&named, &machines), want);
    }
}
