//! Four pillars in one network, as the issue of mutual attestation has it: they prove themselves to each other, bad
//! networks and reboots make nobody untrusted, and whoever is tampered with is cut off by all.

use anyhow::{Result, ensure};
use pillar_e2e::cluster::{Cluster, View};
use pillar_qemu::switch::{Change, Pair, Share};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const ALL: [&str; 4] = ["p1", "p2", "p3", "p4"];
/// For whatever should take seconds, on a host that is busy. It bounds a hang, it times nothing.
const SOON: Duration = Duration::from_secs(60);
/// How long each fault of the network lasts: ten heartbeats.
const WHILE: Duration = Duration::from_secs(20);

/// Four machines are as much as a small host runs: one test after the other.
static TURN: Mutex<()> = Mutex::new(());

/// A test with these machines, healthy; when it fails, their logs are kept and named.
fn story(test: &str, names: &[&str], tell: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cluster = Cluster::prepare(test, names)?;
    let told = cluster.start(names).and_then(|()| tell(&mut cluster));
    cluster.explain(told)?;
    cluster.passed();
    Ok(())
}

fn untrusted(view: &View) -> bool {
    view.peers.values().any(|peer| peer.state == "untrusted")
}

/// Waits until everybody sees everybody up, and nobody sees anybody untrusted.
fn all_up(cluster: &Cluster, eyes: &[&str]) -> Result<Duration> {
    cluster.until("everybody up", eyes, SOON, untrusted, View::all_up)
}

/// Nobody is worse than suspect.
fn trusted_and_there(view: &View) -> bool {
    view.peers.values().all(|peer| peer.state == "up" || peer.state == "suspect")
}

#[test]
fn four_pillars_trust_each_other_through_bad_networks_and_reboots() -> Result<()> {
    story("cluster-life", &ALL, |cluster| {
        let founded = cluster.done(&["found", "--cluster", "lab"])?;
        ensure!(founded.starts_with("founded lab: 4 pillars"), "{founded}");
        all_up(cluster, &ALL)?;
        println!(
            "founded and mutually attested {:.1} s after the last workload",
            cluster.since_healthy().as_secs_f64()
        );

        bad_networks(cluster)?;
        partition(cluster)?;
        reboots(cluster)?;

        let said = cluster.lines_with("untrusted")?;
        ensure!(said.is_empty(), "somebody was untrusted:\n{}", said.join("\n"));
        Ok(())
    })
}

fn bad_networks(cluster: &Cluster) -> Result<()> {
    let faults = [
        ("20 % loss", Change::loss(Share::percent(20))),
        ("200 ms delay", Change::delay(Duration::from_millis(200), Duration::from_millis(50))),
        ("20 % duplicates", Change::duplicate(Share::percent(20))),
    ];
    for (what, change) in faults {
        cluster.network()?.fault([Pair::ALL], change)?;
        cluster.stays(&format!("trusted with {what}"), &ALL, WHILE, trusted_and_there)?;
        cluster.network()?.reset()?;
        println!("{what}: all up again after {:.1} s", all_up(cluster, &ALL)?.as_secs_f64());
    }
    Ok(())
}

fn partition(cluster: &Cluster) -> Result<()> {
    let (left, right) = (["p1", "p2"], ["p3", "p4"]);
    cluster.network()?.partition(&[&left, &right])?;
    for (own, others) in [(left, right), (right, left)] {
        cluster.until("the other side down", &own, SOON, untrusted, |view| {
            own.iter().all(|name| view.state(name) == "up")
                && others.iter().all(|name| view.state(name) == "down")
        })?;
    }
    cluster.network()?.heal()?;
    println!("healed: all up after {:.1} s", all_up(cluster, &ALL)?.as_secs_f64());
    Ok(())
}

fn reboots(cluster: &mut Cluster) -> Result<()> {
    cluster.reboot("p2")?;
    all_up(cluster, &ALL)?;
    println!("rebooted: all up {:.1} s after its workload", cluster.since_healthy().as_secs_f64());
    cluster.power_cut("p3")?;
    cluster.until("p3 gone", &["p1", "p2", "p4"], SOON, untrusted, |view| view.state("p3") != "up")?;
    cluster.start(&["p3"])?;
    all_up(cluster, &ALL)?;
    println!("power cut: all up {:.1} s after its workload", cluster.since_healthy().as_secs_f64());
    cluster.reset("p4")?;
    all_up(cluster, &ALL)?;
    println!("reset: all up {:.1} s after its workload", cluster.since_healthy().as_secs_f64());
    Ok(())
}
