//! Four pillars in one network, as the issue of mutual attestation has it: they prove themselves to each other, bad
//! networks and reboots make nobody untrusted, and whoever is tampered with is cut off by all.

use anyhow::{Result, ensure};
use pillar_e2e::cluster::{Cluster, Said, View};
use pillar_e2e::damage::Disk;
use pillar_qemu::Firmware;
use pillar_qemu::switch::{Change, Pair, Share};
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const ALL: [&str; 4] = ["p1", "p2", "p3", "p4"];
/// Somebody sits on the bus to its TPM.
const TAPPED: &str = "p4";
/// For whatever should take seconds, on a host that is busy. It bounds a hang, it times nothing.
const SOON: Duration = Duration::from_secs(60);
/// Longer than a pillar pauses after a refusal before it calls again.
const REFUSED_AGAIN: Duration = Duration::from_secs(12);
/// How long each fault of the network lasts: ten heartbeats.
const WHILE: Duration = Duration::from_secs(20);

/// Four machines are as much as a small host runs: one test after the other.
static TURN: Mutex<()> = Mutex::new(());

/// A test with these machines, healthy; when it fails, their logs are kept and named.
fn story(test: &str, names: &[&str], tell: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cluster = Cluster::prepare(test, names)?;
    cluster.tap(TAPPED);
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

// attack: B5 P21
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

        judged_offline(cluster)?;
        bad_networks(cluster)?;
        partition(cluster)?;
        reboots(cluster)?;

        let said = cluster.lines_with("untrusted")?;
        ensure!(said.is_empty(), "somebody was untrusted:\n{}", said.join("\n"));
        tpm_reset(cluster)
    })
}

/// Saved evidence and a policy are enough for a verdict, and one changed byte is enough against it.
fn judged_offline(cluster: &Cluster) -> Result<()> {
    let at = |name: &str| cluster.dir().join(name).display().to_string();
    let (evidence, policy) = (at("p2.cbor"), at("p2.policy.json"));
    // What ties the attestation key to its TPM is known from the entry that admitted it.
    cluster.done(&["evidence", "p2", "-o", &evidence])?;
    cluster.done(&["policy", "p2", "-o", &policy])?;
    let said = cluster.done(&["verify", &evidence, "--policy", &policy])?;
    ensure!(said.contains("verified"), "{said}");
    let mut bytes = fs::read(&evidence)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&evidence, bytes)?;
    let refused = cluster.pillar(&["verify", &evidence, "--policy", &policy])?;
    ensure!(refused.code == 2, "{refused:#?}");
    Ok(())
}

fn bad_networks(cluster: &Cluster) -> Result<()> {
    let slow = Change::delay(Duration::from_millis(200), Duration::from_millis(50));
    let faults = [
        ("20 % loss", Change::loss(Share::percent(20))),
        (
            "200 ms delay and 20 % duplicates",
            Change { duplicate_ppm: Change::duplicate(Share::percent(20)).duplicate_ppm, ..slow },
        ),
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
    for name in ["p1", "p2"] {
        cluster.reboot(name)?;
        all_up(cluster, &ALL)?;
    }
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

/// A TPM is reset under its running machine: cut off by all, until the machine has booted anew.
fn tpm_reset(cluster: &mut Cluster) -> Result<()> {
    let others = ["p1", "p2", "p3"];
    cluster.machine(TAPPED)?.reset_tpm()?;
    let refused = |view: &View| {
        view.peers[TAPPED].state == "untrusted"
            && view.peers[TAPPED].check == "counters"
            && !view.peers[TAPPED].verified
    };
    let took = cluster.until("its TPM's reset known to everybody", &others, SOON, |_| false, refused)?;
    println!("TPM reset: cut off by everybody after {:.1} s", took.as_secs_f64());
    let why = cluster.done(&["explain", TAPPED, "--from", "p1"])?;
    ensure!(why.contains("the TPM was reset under the running system"), "{why}");
    // It is called and calls again meanwhile, and nothing that it shows is believed.
    cluster.stays("it alone untrusted", &others, REFUSED_AGAIN, |view| {
        view.state(TAPPED) == "untrusted"
            && view.peers.values().filter(|peer| peer.state != "up").count() == 1
    })?;
    cluster.reboot(TAPPED)?;
    cluster.until("everybody up", &ALL, SOON, |_| false, View::all_up)?;
    Ok(())
}

// attack: B2 C2 D1 P20
#[test]
fn who_joins_needs_two_operators_and_who_is_tampered_with_is_cut_off_by_all() -> Result<()> {
    story("cluster-members", &ALL, |cluster| {
        cluster.done(&["found", "p1", "p2", "p3", "--cluster", "lab"])?;
        all_up(cluster, &["p1", "p2", "p3"])?;
        joins(cluster)?;
        another_image(cluster)?;
        revoked(cluster)?;
        without_secure_boot(cluster)?;
        somebody_elses_machine(cluster)
    })
}

fn signs(cluster: &Cluster, operator: u32, words: &[&str]) -> Result<Said> {
    let key = Cluster::key(operator);
    cluster.pillar(&[words, &["--via", "p1", &key[0], &key[1]]].concat())
}

/// p4 is in the network and no member; then it is one.
fn joins(cluster: &Cluster) -> Result<()> {
    let stranger = cluster.pillar(&["explain", "p4", "--from", "p1"])?;
    ensure!(stranger.code == 5 && stranger.errors.contains("p4 is not a member"), "{stranger:#?}");
    let proposed = signs(cluster, 1, &["enroll", "p4"])?;
    ensure!(proposed.code == 8 && proposed.text.contains("next: pillar admit p4"), "{proposed:#?}");
    // The same operator twice is one signature.
    let again = signs(cluster, 1, &["admit", "p4"])?;
    ensure!(again.code == 8, "{again:#?}");
    ensure!(cluster.view("p1")?.state("p4") == "absent", "one operator admitted p4");
    let admitted = signs(cluster, 2, &["admit", "p4"])?;
    ensure!(admitted.code == 0 && admitted.text.contains("in force as entry"), "{admitted:#?}");
    let joined = |view: &View| view.state("p4") == "up" && view.all_up();
    let took = cluster.until("p4 up for everybody", &ALL, SOON, untrusted, joined)?;
    println!("admitted: up for everybody after {:.1} s", took.as_secs_f64());
    Ok(())
}

/// p3 boots an image that the same keys signed, and that nobody approved.
fn another_image(cluster: &mut Cluster) -> Result<()> {
    let built = Instant::now();
    let uki = cluster.bench().other_uki("epoch-2", &["epoch=2"])?;
    println!("another image took {:.1} s to build", built.elapsed().as_secs_f64());
    cluster.power_off("p3")?;
    let disk = Disk::open(&cluster.disk("p3"))?;
    disk.esp_write(&disk.esp_entry()?, &uki)?;
    cluster.start(&["p3"])?;
    let others = ["p1", "p2", "p4"];
    let refused = |view: &View| view.peers["p3"].state == "untrusted" && view.peers["p3"].check == "release";
    let up = |view: &View| view.state("p3") == "up";
    cluster.until("p3 untrusted for everybody", &others, SOON, up, refused)?;
    println!(
        "another image: untrusted for everybody {:.1} s after its workload",
        cluster.since_healthy().as_secs_f64()
    );
    cluster.stays("p3 untrusted, and nobody else", &others, REFUSED_AGAIN, |view| {
        refused(view) && view.peers.values().filter(|peer| peer.state != "up").count() == 1
    })?;
    let why = cluster.done(&["explain", "p3", "--from", "p4"])?;
    for words in
        ["p3 is untrusted", "check      release", "PCR        4: loader and UKI", "starts another uki"]
    {
        ensure!(why.contains(words), "no {words:?} in {why}");
    }
    Ok(())
}

/// p4 leaves for good, and is told so by everybody it calls.
fn revoked(cluster: &Cluster) -> Result<()> {
    let proposed = signs(cluster, 1, &["revoke", "p4", "--reason", "stolen"])?;
    ensure!(proposed.code == 8, "{proposed:#?}");
    ensure!(cluster.view("p1")?.state("p4") == "up", "one operator revoked p4");
    let decided = signs(cluster, 2, &["revoke", "p4"])?;
    ensure!(decided.code == 0, "{decided:#?}");
    let gone = |view: &View| view.state("p4") == "absent";
    let took = cluster.until("p4 gone", &["p1", "p2"], SOON, |_| false, gone)?;
    println!("revoked: gone everywhere after {:.1} s", took.as_secs_f64());
    let cut = |view: &View| {
        ["p1", "p2"].iter().all(|name| {
            view.state(name) == "down"
                && view.peers[*name].reason.starts_with("it refuses this pillar: membership")
        })
    };
    let took = cluster.until("p4 cut off", &["p4"], SOON, |_| false, cut)?;
    println!("revoked: sees nobody up any more after {:.1} s more", took.as_secs_f64());
    let again = signs(cluster, 1, &["enroll", "p4"])?;
    ensure!(again.code != 0 && again.errors.contains("was revoked by entry"), "{again:#?}");
    Ok(())
}

/// p2's own machine, with firmware that checks no signatures.
fn without_secure_boot(cluster: &mut Cluster) -> Result<()> {
    cluster.power_off("p2")?;
    let builder = cluster.builder("p2")?.firmware(Firmware::NoSecureBoot);
    cluster.power_on("p2", builder)?;
    cluster.answers("p2")?;
    never_up(cluster, "p2")?;
    cluster.power_cut("p2")
}

/// Another machine with the genuine image, under p2's name and at p2's address.
fn somebody_elses_machine(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.dir().join("p2");
    fs::remove_dir_all(folder.join("swtpm"))?;
    for file in ["disk.raw", "vars.fd"] {
        fs::remove_file(folder.join(file))?;
    }
    cluster.start(&["p2"])?;
    never_up(cluster, "p2")?;
    let again = signs(cluster, 1, &["enroll", "p2"])?;
    ensure!(again.code == 2 && again.errors.contains("with another endorsement key"), "{again:#?}");
    Ok(())
}

/// Down, or refused, and no word of it is taken, also when it has been called again.
fn never_up(cluster: &Cluster, name: &str) -> Result<()> {
    let out = |view: &View| ["down", "untrusted"].contains(&view.state(name));
    cluster.until("it out", &["p1"], SOON, |_| false, out)?;
    cluster.stays("it out", &["p1"], REFUSED_AGAIN, out)?;
    let why = cluster.done(&["explain", name, "--from", "p1"])?;
    ensure!(why.contains("refuses the pillar that says so"), "{why}");
    Ok(())
}
