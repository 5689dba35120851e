//! Four pillars in one network, as the issue of mutual attestation has it: they prove themselves to each other, bad
//! networks and reboots make nobody untrusted, and whoever is tampered with is cut off by all.

use anyhow::{Result, ensure};
use pillar_e2e::cluster::{Cluster, Said, View};
use pillar_qemu::Firmware;
use pillar_qemu::switch::{Change, Pair, Share};
use serde_json::Value;
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
    let asked = cluster.done(&["attest", "p2", "--from", "p1"])?;
    ensure!(asked.contains("verified by p1: p2 runs pillar"), "{asked}");
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

// attack: A17 B2 B3 C2 D1 P20
#[test]
fn who_joins_needs_two_operators_and_who_is_tampered_with_is_cut_off_by_all() -> Result<()> {
    story("cluster-members", &ALL, |cluster| {
        cluster.done(&["found", "p1", "p2", "p3", "--cluster", "lab"])?;
        all_up(cluster, &["p1", "p2", "p3"])?;
        joins(cluster)?;
        other_keys(cluster)?;
        weaker_firmware_and_other_words(cluster)?;
        other_images(cluster)?;
        three_decide(cluster)?;
        revoked(cluster)
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
    let waits = cluster.done(&["pending", "--via", "p1"])?;
    ensure!(waits.contains("p4") && waits.contains("next: pillar admit p4"), "{waits}");
    // The same operator twice is one signature.
    let again = signs(cluster, 1, &["admit", "p4"])?;
    ensure!(again.code == 8, "{again:#?}");
    ensure!(cluster.view("p1")?.state("p4") == "absent", "one operator admitted p4");
    let admitted = signs(cluster, 2, &["admit", "p4"])?;
    ensure!(admitted.code == 0 && admitted.text.contains("in force as entry"), "{admitted:#?}");
    let joined = |view: &View| view.state("p4") == "up" && view.all_up();
    let took = cluster.until("p4 up for everybody", &ALL, SOON, untrusted, joined)?;
    println!("admitted: up for everybody after {:.1} s", took.as_secs_f64());
    let waits = cluster.done(&["pending", "--via", "p1"])?;
    ensure!(waits.contains("nothing waits for signatures"), "{waits}");
    Ok(())
}

/// One member after the other who is not what it was.
#[derive(Clone, Copy)]
struct Tampered {
    name: &'static str,
    /// "untrusted" when its evidence was seen, "down" when its key was not even a member's, or it knows nobody itself.
    state: &'static str,
    check: &'static str,
    pcr: Option<u64>,
    words: &'static str,
}

impl Tampered {
    const fn down(name: &'static str, words: &'static str) -> Tampered {
        Tampered { name, state: "down", check: "", pcr: None, words }
    }

    const fn refused(name: &'static str, pcr: u64, words: &'static str) -> Tampered {
        Tampered { name, state: "untrusted", check: "release", pcr: Some(pcr), words }
    }

    fn is_told(&self, view: &View) -> bool {
        view.of(self.name, |peer| {
            // Of who is only gone, the last verdict lives on until it is too old.
            (peer.state == "down" || !peer.verified)
                && peer.state == self.state
                && peer.check == self.check
                && peer.pcr == self.pcr
                && peer.reason.contains(self.words)
        })
    }

    fn is_up(&self, view: &View) -> bool {
        view.peers.get(self.name).is_some_and(|peer| !peer.is_self && peer.state == "up")
    }
}

/// Each of these is out for each of those who look, for its reason, and stays so when it has called and been called again;
/// never is one of them up for anybody.
fn out(cluster: &Cluster, what: &str, tampered: &[Tampered], eyes: &[&str]) -> Result<()> {
    let told = |view: &View| tampered.iter().all(|one| one.is_told(view));
    let up = |view: &View| tampered.iter().any(|one| one.is_up(view));
    cluster.until(what, eyes, SOON, up, told)?;
    println!("{what}: for {} after {:.1} s", eyes.join(" "), cluster.since_healthy().as_secs_f64());
    cluster.stays(what, eyes, REFUSED_AGAIN, told)
}

/// p3 has another TPM by now, and its disk; p2's name and address are another machine's, with the genuine image and all.
fn other_keys(cluster: &mut Cluster) -> Result<()> {
    cluster.power_off(&["p2", "p3"])?;
    cluster.put_away("p2")?;
    cluster.another_tpm("p3")?;
    let builder = cluster.builder("p3")?;
    cluster.power_on("p3", builder)?;
    cluster.start(&["p2"])?;
    cluster.answers("p3")?;
    let strangers = ["p2", "p3"].map(|name| Tampered::down(name, "is no member's"));
    out(cluster, "keys of nobody", &strangers, &["p1", "p4"])?;
    let again = signs(cluster, 1, &["enroll", "p2"])?;
    ensure!(again.code == 2 && again.errors.contains("with another endorsement key"), "{again:#?}");
    Ok(())
}

/// One more word for the kernel, of the kind that somebody would want there.
const WEAKER: &str = "mitigations=off";

/// p2's own machine boots with firmware that checks no signatures; p4's hypervisor has a word for its kernel. Meanwhile p3's
/// operators give it its data back.
fn weaker_firmware_and_other_words(cluster: &mut Cluster) -> Result<()> {
    cluster.cut("p2")?;
    cluster.bring_back("p2")?;
    cluster.power_off(&["p4"])?;
    recover(cluster)?;
    // The two builds of the firmware do not leave each other's variables as they were.
    let variables = cluster.dir().join("p2/vars.fd");
    let kept = fs::read(&variables)?;
    let builder = cluster.builder("p2")?.firmware(Firmware::NoSecureBoot);
    cluster.power_on("p2", builder)?;
    let words = format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={WEAKER}");
    let builder = cluster.builder("p4")?.qemu_argument("-smbios").qemu_argument(words);
    cluster.power_on("p4", builder)?;
    for name in ["p3", "p4"] {
        cluster.healthy(name)?;
    }
    cluster.answers("p2")?;
    readmitted(cluster)?;

    told_of_p3(cluster, "p4")?;
    let words = Tampered::refused("p4", 9, "has another command line");
    // Its data stays closed to it, so that it knows nobody.
    let weaker = Tampered::down("p2", "it refuses this pillar: membership");
    out(cluster, "a word for the kernel; no Secure Boot", &[words, weaker], &["p1", "p3", "p4"])?;
    let asked = cluster.pillar(&["attest", "p4", "--from", "p3"])?;
    ensure!(asked.code == 2 && asked.text.contains("has another command line"), "{asked:#?}");
    cluster.cut("p2")?;
    Ok(fs::write(&variables, kept)?)
}

/// Two operators give their shares of p3's data to its new TPM; it reboots then.
fn recover(cluster: &mut Cluster) -> Result<()> {
    let share = |cluster: &Cluster, operator: u32| {
        let key = Cluster::key(operator);
        cluster.done(&["state", "recover", "p3", &key[0], &key[1]])
    };
    let first = share(cluster, 1)?;
    ensure!(first.contains("has 1 of 2 shares"), "{first}");
    cluster.keep_log("p3")?;
    cluster.expect_another_boot("p3")?;
    let second = share(cluster, 3)?;
    ensure!(second.contains("has 2 of 2 shares"), "{second}");
    Ok(())
}

/// p3 has its entries again, and they do not know its new TPM, until two operators vouch for it.
fn readmitted(cluster: &Cluster) -> Result<()> {
    let stranger = Tampered::down("p3", "is no member's");
    let up = |view: &View| stranger.is_up(view);
    cluster.until("p3 a stranger", &["p1"], SOON, up, |view| stranger.is_told(view))?;
    let proposed = signs(cluster, 1, &["readmit", "p3"])?;
    ensure!(proposed.code == 8 && proposed.text.contains("next: pillar admit p3"), "{proposed:#?}");
    ensure!(cluster.view("p1")?.state("p3") == "down", "one operator readmitted p3");
    let admitted = signs(cluster, 2, &["admit", "p3"])?;
    ensure!(admitted.code == 0, "{admitted:#?}");
    let back = |view: &View| {
        ["p1", "p3"].iter().all(|name| view.of(name, |peer| peer.state == "up" && peer.verified))
    };
    let took = cluster.until("p3 back", &["p1", "p3"], SOON, |_| false, back)?;
    println!("readmitted: up after {:.1} s", took.as_secs_f64());
    Ok(())
}

/// Who was away when p3 was readmitted hears of it from an operator: of the others, nobody lets it in who could tell.
fn told_of_p3(cluster: &Cluster, name: &str) -> Result<()> {
    let told = signs(cluster, 1, &["admit", name])?;
    ensure!(told.text.contains("is a member already, and has the cluster's entries"), "{told:#?}");
    Ok(())
}

/// p2 boots the approved image with one more word on its command line, p3 another image; the vendor's keys signed both, so
/// that they boot and get their data. p4 boots what it should again.
fn other_images(cluster: &mut Cluster) -> Result<()> {
    let built = Instant::now();
    let edited = cluster.bench().uki_with(WEAKER)?;
    println!("another command line took {:.1} s to sign", built.elapsed().as_secs_f64());
    let another = cluster.bench().other_uki("epoch-2", &["epoch=2"])?;
    println!("both images took {:.1} s to build", built.elapsed().as_secs_f64());
    cluster.power_off(&["p3", "p4"])?;
    cluster.boots("p2", &edited)?;
    cluster.boots("p3", &another)?;
    cluster.start(&["p2", "p3", "p4"])?;
    told_of_p3(cluster, "p2")?;
    let both = ["p2", "p3"].map(|name| Tampered::refused(name, 4, "starts another uki"));
    out(cluster, "other images", &both, &ALL)?;
    let up = |view: &View| view.of("p4", |peer| peer.state == "up" && peer.verified);
    cluster.until("p4 back", &["p1"], SOON, |_| false, up)?;
    for name in ["p2", "p3"] {
        let why = cluster.done(&["explain", name, "--from", "p4"])?;
        for words in [
            &format!("{name} is untrusted"),
            "check      release",
            "PCR        4: loader and UKI",
            "starts another uki",
        ] {
            ensure!(why.contains(words), "no {words:?} in {why}");
        }
    }
    Ok(())
}

/// From now on all three operators must sign: decided by two of them, and by three, as the new rule has it.
fn three_decide(cluster: &Cluster) -> Result<()> {
    let text = cluster.done(&["constitution", "show", "--via", "p1", "-o", "json"])?;
    let mut next: Value = serde_json::from_str(&text)?;
    ensure!(next["version"] == 1 && next["threshold"] == 2, "{text}");
    next["version"] = 2.into();
    next["threshold"] = 3.into();
    let file = cluster.dir().join("constitution.json");
    fs::write(&file, next.to_string())?;
    let file = file.display().to_string();
    let proposed = signs(cluster, 1, &["constitution", "propose", &file])?;
    ensure!(proposed.code == 8 && proposed.text.contains("pillar constitution sign"), "{proposed:#?}");
    // Enough for the present one, and not for the next.
    let second = signs(cluster, 2, &["constitution", "sign", "--yes"])?;
    ensure!(second.code == 8, "{second:#?}");
    let waits = cluster.done(&["pending", "--via", "p1"])?;
    ensure!(waits.contains("next: pillar constitution sign"), "{waits}");
    let third = signs(cluster, 3, &["constitution", "sign", "--yes"])?;
    ensure!(third.code == 0 && third.text.contains("in force as entry"), "{third:#?}");
    let shown = cluster.done(&["constitution", "show", "--via", "p1"])?;
    ensure!(shown.contains("constitution 2") && shown.contains("any 3 of 3 operators"), "{shown}");
    Ok(())
}

/// p4 leaves for good, and is told so.
fn revoked(cluster: &Cluster) -> Result<()> {
    for (operator, words) in [(1, &["revoke", "p4", "--reason", "stolen"][..]), (2, &["revoke", "p4"])] {
        let proposed = signs(cluster, operator, words)?;
        ensure!(proposed.code == 8, "{proposed:#?}");
        ensure!(cluster.view("p1")?.state("p4") == "up", "{operator} operators revoked p4");
    }
    let decided = signs(cluster, 3, &["revoke", "p4"])?;
    ensure!(decided.code == 0, "{decided:#?}");
    let gone = |view: &View| view.state("p4") == "absent";
    let took = cluster.until("p4 gone", &["p1"], SOON, |_| false, gone)?;
    println!("revoked: gone after {:.1} s", took.as_secs_f64());
    // Its peers give it nothing any more, so the operator did: it knows by itself and calls nobody.
    let given = decided.text.lines().find(|line| line.ends_with(" it too"));
    ensure!(given.is_some_and(|line| line.contains("p4")), "{decided:#?}");
    let serial = cluster.view("p1")?.serial;
    let cut = |view: &View| {
        let out = |name: &str| view.state(name) == "down" && !view.of(name, |peer| peer.verified);
        view.serial == serial && ["p1", "p2", "p3"].into_iter().all(out)
    };
    let took = cluster.until("p4 cut off", &["p4"], SOON, |_| false, cut)?;
    println!("revoked: sees nobody up any more after {:.1} s more", took.as_secs_f64());
    let again = signs(cluster, 1, &["enroll", "p4"])?;
    ensure!(again.code != 0 && again.errors.contains("was revoked by entry"), "{again:#?}");
    Ok(())
}
