//! The network of one pillar: found by itself, set by settings, and no settings so bad that it does not come up.

use anyhow::{Result, ensure};
use pillar_e2e::machine::{BOOT, Bench, Pillar};
use pillar_layout::console;
use pillar_model::{NetworkSettings, NodeSettings};

/// What the network program says of a lease in QEMU's user network.
const LEASED: &str = "10.0.2.15/24 from 10.0.2.2";

fn said(pillar: &Pillar, words: &str) -> bool {
    pillar.machine.console().so_far().contains(words)
}

#[test]
fn without_settings_a_pillar_asks_dhcp_and_proves_itself() -> Result<()> {
    let bench = Bench::new("network-dhcp")?;
    let disk = bench.disk()?;
    let pillar = bench.start(bench.machine(&disk)?.node(None))?;
    pillar.machine.wait_console(LEASED, BOOT)?;
    pillar.healthy()?;
    pillar.is_verified()?;
    bench.passed();
    Ok(())
}

// attack: P19
#[test]
fn two_cards_one_static_one_by_dhcp_and_bad_settings_are_told_and_left_out() -> Result<()> {
    let bench = Bench::new("network-settings")?;
    let disk = bench.disk()?;
    let card = |card: &str, addresses: &[&str], dhcp| NetworkSettings {
        card: card.to_owned(),
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        dhcp,
        gateway: None,
    };
    let node = NodeSettings {
        name: Some("p1".to_owned()),
        networks: vec![
            card("52:54:00:70:69:01", &["10.0.2.15/24", "fd00:70::1/64", "10.0.2.15"], false),
            card("52:54:00:70:69:02", &[], true),
            card("eth7", &["10.9.9.9/24"], false),
        ],
        peers: vec!["p2=10.0.2.16:7444".to_owned(), "nobody".to_owned()],
        dns: vec!["dns.example".to_owned()],
        time: vec!["10.0.2.2".to_owned()],
        ..NodeSettings::default()
    };
    let builder = bench
        .machine(&disk)?
        .node(Some(node))
        .qemu_argument("-netdev")
        .qemu_argument("user,id=second,restrict=on,ipv6=off,net=10.0.3.0/24")
        .qemu_argument("-device")
        .qemu_argument("virtio-net-pci,netdev=second,mac=52:54:00:70:69:02,romfile=,addr=0x8");
    let pillar = bench.start(builder)?;
    pillar.machine.wait_console("10.0.3.15/24 from 10.0.3.2", BOOT)?;
    pillar.healthy()?;
    for field in ["networks[0].addresses[2]", "networks[2].card", "peers[1]", "dns[0]"] {
        let warning = format!("{}node settings: {field}", console::INIT_PREFIX);
        ensure!(said(&pillar, &warning), "no warning about {field}");
    }
    // Not worth a line on the console.
    let logs = pillar.pillar(&["logs", "-n", "0"])?.json.to_string();
    ensure!(logs.contains("10.0.2.15/24, fd00:70::1/64"), "static addresses are in the log: {logs}");
    ensure!(!said(&pillar, LEASED), "the card with addresses asks no DHCP server");
    // Nobody is there: told, and no harm.
    pillar.machine.wait_console("no time from the time servers: 10.0.2.2", BOOT)?;
    pillar.is_verified()?;
    bench.passed();
    Ok(())
}
