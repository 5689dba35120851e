//! Agents of one cluster as processes, each with a TPM of its own that has measured a real boot, over loopback.

#[path = "../../tpm/tests/bench/mod.rs"]
mod bench;
#[path = "../../verify/tests/boot/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "a fixture, of which each test program uses a part")]
mod boot;

use bench::{Bench, Listens, Tap, run};
use pillar_layout::{phase, root, run as paths};
use pillar_measure::cel::CelLog;
use pillar_measure::tcg::EventLog;
use pillar_model::{
    Action, Bank, Constitution, Digest, FirmwareReference, Member, OperatorEntry, OperatorKey, PillarId,
};
use pillar_quorum::{Cluster, Envelope};
use pillar_verify::FIRMWARE_PCRS;
use pillar_wire::client::{Connected, connect};
use pillar_wire::proto;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

type TestResult<T = ()> = Result<T, Box<dyn StdError>>;

/// Every wait of these tests ends after this time, failed.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often a state is asked for that is waited for.
const LOOK: Duration = Duration::from_millis(100);
/// Two heartbeats, the promise; and what a busy machine needs to tell of it.
const CUT_OFF: Duration = Duration::from_secs(4);
const TELLING: Duration = Duration::from_secs(2);

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One who signs and calls.
struct Operator {
    name: String,
    certificate: String,
    key: String,
    signer: Ed25519KeyPair,
}

impl Operator {
    fn new(number: usize) -> TestResult<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = CertificateParams::default().self_signed(&key)?.pem();
        let signer = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key.serialize_der())
            .map_err(|error| error.to_string())?;
        Ok(Self { name: format!("operator-{number}"), certificate, key: key.serialize_pem(), signer })
    }

    fn public(&self) -> OperatorKey {
        OperatorKey(self.signer.public_key().as_ref().try_into().expect("32 bytes"))
    }

    fn sign(&self, envelope: &mut Envelope) -> TestResult {
        let signature = self.signer.sign(&envelope.pae()).as_ref().try_into()?;
        Ok(envelope.add_signature(&self.public(), signature)?)
    }
}

/// One pillar: a TPM that measured the boot, and the agent.
struct Pillar {
    name: PillarId,
    bench: Bench,
    tap: Tap,
    root: tempfile::TempDir,
    agent: Child,
    operators_port: u16,
    peers_port: u16,
}

impl Drop for Pillar {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn free_port() -> TestResult<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Pillar {
    fn new(name: &str, operators: &[Operator]) -> TestResult<Option<Self>> {
        let Some(bench) = Bench::new()? else { return Ok(None) };
        measure_a_boot(&bench)?;
        let root = tempfile::tempdir()?;
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(&path[1..]);
            fs::create_dir_all(path.parent().expect("a folder"))?;
            fs::write(path, bytes)
        };
        let boot = format!(
            r#"{{"name": "{name}", "version": "1", "flavour": "virt", "slot": "a", "root_hash": "{}", "kernel": "6.12",
            "trial": false, "phases": [], "tpm": {{"state": "present"}}, "agent_starts": 1,
            "workload": {{"name": "", "state": "none", "reason": "", "restarts": 0}}}}"#,
            boot::release().root_hash
        );
        put(paths::BOOT, boot.as_bytes())?;
        put(paths::CEL, own_log().as_bytes())?;
        let certificates: String = operators.iter().map(|one| one.certificate.as_str()).collect();
        put(root::OPERATORS, certificates.as_bytes())?;
        put("/sys/kernel/security/tpm0/binary_bios_measurements", &boot::EVENT_LOG)?;
        fs::create_dir_all(root.path().join(&root::AGENT_STATE[1..]))?;
        let tap = bench.tap(Listens)?;
        let (operators_port, peers_port) = (free_port()?, free_port()?);
        let agent = start(root.path(), &tap.tcti, operators_port, peers_port)?;
        Ok(Some(Self { name: name.parse()?, bench, tap, root, agent, operators_port, peers_port }))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("agent.log")).unwrap_or_default()
    }

    fn kill(&mut self) -> TestResult {
        self.agent.kill()?;
        self.agent.wait()?;
        Ok(())
    }

    fn start_again(&mut self) -> TestResult {
        self.agent = start(self.root.path(), &self.tap.tcti, self.operators_port, self.peers_port)?;
        Ok(())
    }

    async fn connect(&self, operator: &Operator) -> TestResult<Connected> {
        let addr = format!("127.0.0.1:{}", self.operators_port);
        let end = Instant::now() + DEADLINE;
        loop {
            match connect(&addr, operator.certificate.as_bytes(), operator.key.as_bytes()).await {
                Ok(connected) => return Ok(connected),
                Err(error) if Instant::now() > end => {
                    return Err(format!("{}: {error}\n{}", self.name, self.log()).into());
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }
}

fn start(root: &Path, tcti: &str, operators_port: u16, peers_port: u16) -> TestResult<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(root.join("agent.log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillar-agent"));
    command.arg("--root").arg(root).args(["--tcti", tcti, "--log", "info"]);
    command.args(["--listen", &format!("127.0.0.1:{operators_port}")]);
    command.args(["--listen-peers", &format!("127.0.0.1:{peers_port}")]);
    Ok(command
        .env("TSS2_LOG", "all+NONE")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?)
}

fn own_log() -> String {
    boot::own_log(&phase::ALL, &[])
}

/// Extends what firmware, loader, kernel and init did.
fn measure_a_boot(bench: &Bench) -> TestResult {
    let log = EventLog::parse(&boot::EVENT_LOG)?;
    let firmware = log
        .events
        .iter()
        .filter(|event| event.extends())
        .filter_map(|event| Some(format!("{}:sha256={}", event.pcr?, event.digest(Bank::Sha256)?)));
    let own = own_log();
    let own = CelLog::parse(own.as_bytes())?;
    let own =
        own.records().iter().map(|record| format!("{}:sha256={}", record.pcr, record.digests[0].digest));
    let extends: Vec<String> = firmware.chain(own).collect();
    run(bench.tool("tpm2_pcrextend").args(extends))?;
    Ok(())
}

/// Agents, operators, and the chain that they were given.
struct Lab {
    operators: Vec<Operator>,
    pillars: Vec<Pillar>,
    cluster: Cluster,
    chain: Vec<Envelope>,
}

impl Lab {
    /// Founds a cluster of so many pillars; `None`, with words, where there is no software TPM.
    async fn new(count: usize) -> TestResult<Option<Self>> {
        let operators = (1..=3).map(Operator::new).collect::<Result<Vec<_>, _>>()?;
        let mut pillars = Vec::new();
        for number in 1..=count {
            match Pillar::new(&format!("p{number}"), &operators)? {
                Some(pillar) => pillars.push(pillar),
                None => return Ok(None),
            }
        }
        let keys: Vec<OperatorKey> = operators.iter().map(Operator::public).collect();
        let constitution = Constitution {
            version: 1,
            cluster: "lab".to_owned(),
            operators: operators
                .iter()
                .map(|one| OperatorEntry { name: one.name.clone(), key: one.public() })
                .collect(),
            threshold: 2,
            ek_roots: vec![Digest(vec![0x30; 64])],
            ek_intermediates: Vec::new(),
            ek_allowed: Vec::new(),
            expires_unix_s: now_unix_s() + 86_400,
        };
        let mut founding = pillar_quorum::propose_founding(constitution, &keys, now_unix_s())?;
        for operator in &operators[..2] {
            operator.sign(&mut founding)?;
        }
        let cluster = Cluster::found(&founding, &keys, now_unix_s())?;
        let mut lab = Self { operators, pillars, cluster, chain: vec![founding] };
        lab.decide(Action::Run { committed: Box::new(boot::release()), trial: None })?;
        for index in 0..lab.pillars.len() {
            let member = lab.row(index).await?;
            lab.decide(Action::Admit { member: Box::new(member), replaces: None })?;
        }
        for index in 0..lab.pillars.len() {
            lab.hand_over(index).await?;
        }
        Ok(Some(lab))
    }

    /// The next entry, signed by two of three.
    fn decide(&mut self, action: Action) -> TestResult {
        let mut envelope = self.cluster.propose(action, now_unix_s())?;
        for operator in &self.operators[..2] {
            operator.sign(&mut envelope)?;
        }
        self.cluster = self.cluster.apply(&envelope, now_unix_s())?;
        self.chain.push(envelope);
        Ok(())
    }

    /// What admits a pillar.
    async fn row(&self, index: usize) -> TestResult<Member> {
        let pillar = &self.pillars[index];
        let mut client = pillar.connect(&self.operators[0]).await?.client;
        let reply =
            client.identity(proto::IdentityRequest {}).await.map_err(|e| format!("{e}\n{}", pillar.log()))?;
        let identity = reply.into_inner();
        let tls_spki = pillar_verify::tls_key(
            &identity.ak_public,
            &identity.tls_public,
            &identity.tls_attest,
            &identity.tls_signature,
        )?;
        let replayed = EventLog::parse(&boot::EVENT_LOG)?.replay(Bank::Sha256).ok_or("a bank")?;
        let pcrs = FIRMWARE_PCRS.map(|number| (boot::pcr(number), replayed[&boot::pcr(number)].clone()));
        let firmware = FirmwareReference { pcrs: BTreeMap::from(pcrs), events: Vec::new() };
        let certificate = ring::digest::digest(&ring::digest::SHA256, &identity.ek_certificate);
        Ok(Member {
            name: pillar.name.clone(),
            ek_public: Digest(identity.ek_public),
            ek_certificate: Digest(certificate.as_ref().to_vec()),
            ak_public: Digest(identity.ak_public),
            tls_spki: Digest(tls_spki),
            firmware: BTreeMap::from([(Bank::Sha256, firmware)]),
            state_volume: boot::STATE_VOLUME.to_owned(),
            addresses: vec![format!("127.0.0.1:{}", pillar.peers_port)],
        })
    }

    /// Gives a pillar the whole chain.
    async fn hand_over(&self, index: usize) -> TestResult {
        let mut client = self.pillars[index].connect(&self.operators[0]).await?.client;
        for envelope in &self.chain {
            let reply = client.submit(proto::SubmitRequest { envelope: envelope.to_json().into() }).await?;
            assert!(reply.into_inner().applied);
        }
        Ok(())
    }

    async fn view(&self, index: usize) -> TestResult<proto::ClusterReply> {
        let mut client = self.pillars[index].connect(&self.operators[0]).await?.client;
        Ok(client.cluster(proto::ClusterRequest {}).await?.into_inner())
    }

    /// Waits until pillar `index` sees `other` like this.
    async fn sees(
        &self,
        index: usize,
        other: &str,
        wanted: impl Fn(&proto::Peer) -> bool,
        within: Duration,
    ) -> TestResult<proto::Peer> {
        let begun = Instant::now();
        let mut client = self.pillars[index].connect(&self.operators[0]).await?.client;
        loop {
            let reply = client.cluster(proto::ClusterRequest {}).await?.into_inner();
            let peer = reply.peers.into_iter().find(|peer| peer.name == other);
            match peer {
                Some(peer) if wanted(&peer) => return Ok(peer),
                peer if begun.elapsed() > within => {
                    return Err(format!(
                        "p{} does not see {other} as wanted after {:?}: {peer:#?}\n{}",
                        index + 1,
                        begun.elapsed(),
                        self.logs()
                    )
                    .into());
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    fn logs(&self) -> String {
        let text = |pillar: &Pillar| format!("== {}\n{}", pillar.name, pillar.log());
        self.pillars.iter().map(text).collect()
    }

    /// Waits until every pair holds live verdicts about each other and hears heartbeats.
    async fn all_up(&self) -> TestResult<Duration> {
        let begun = Instant::now();
        for index in 0..self.pillars.len() {
            for other in self.pillars.iter().filter(|other| other.name != self.pillars[index].name) {
                self.sees(index, other.name.as_str(), |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
            }
        }
        Ok(begun.elapsed())
    }
}

fn is(peer: &proto::Peer, state: &str) -> bool {
    peer.state == state && peer.verified == (state != "untrusted" && state != "down")
}

// attack: B5
#[tokio::test]
async fn pillars_attest_each_other_and_cut_off_whose_tpm_was_reset() -> TestResult {
    let Some(lab) = Lab::new(3).await? else { return Ok(()) };
    eprintln!("every pair after {:?}", lab.all_up().await?);
    for index in 0..3 {
        let view = lab.view(index).await?;
        assert_eq!((view.trouble.as_str(), view.serial), ("", 4), "{}", lab.logs());
        // Everybody is vouched for by the two others: the third's word comes with its heartbeat.
        for peer in &view.peers {
            lab.sees(index, &peer.name, |peer| peer.vouchers.len() == 2, DEADLINE).await?;
        }
    }

    lab.pillars[2].bench.reset()?;
    run(lab.pillars[2].bench.tool("tpm2_startup").arg("-c"))?;
    let reset = Instant::now();
    for index in 0..2 {
        let within = (CUT_OFF + TELLING).saturating_sub(reset.elapsed());
        let peer = lab.sees(index, "p3", |peer| is(peer, "untrusted"), within).await?;
        eprintln!("p{} cut p3 off {:?} after the reset: {}", index + 1, reset.elapsed(), peer.reason);
        assert_eq!(peer.check, "counters");
        assert_eq!(peer.event, "the TPM was reset under the running system");
    }
    // The same boot, measured into it again by somebody: the agent that quotes it has not been started since.
    measure_a_boot(&lab.pillars[2].bench)?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?.client;
    let asked = client.attest_peer(proto::AttestPeerRequest { name: "p3".to_owned() }).await?.into_inner();
    assert!(is(&asked, "untrusted") && asked.check == "counters", "{asked:#?}");
    // Neither of the honest ones minds the other.
    let peer = lab.sees(0, "p2", |peer| is(peer, "up"), DEADLINE).await?;
    assert_eq!(peer.vouchers, ["p1"], "who is cut off vouches for nobody");
    Ok(())
}

// attack: B4
#[tokio::test]
async fn what_changed_behind_a_verdict_is_found_and_a_crash_is_no_crime() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;

    // A crash is silence: suspect, then down, never untrusted; and the agent comes back with its chain.
    lab.pillars[1].kill()?;
    let peer = lab.sees(0, "p2", |peer| peer.state != "up", DEADLINE).await?;
    assert!(["suspect", "down"].contains(&peer.state.as_str()), "{peer:#?}");
    let peer = lab.sees(0, "p2", |peer| peer.state == "down", DEADLINE).await?;
    assert!(!peer.reason.is_empty() && peer.check.is_empty(), "{peer:#?}");
    lab.pillars[1].start_again()?;
    lab.all_up().await?;

    // Something was extended that no event tells.
    let bench = &lab.pillars[2].bench;
    run(bench.tool("tpm2_pcrextend").arg(format!("11:sha256={}", "11".repeat(32))))?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?.client;
    let asked = client.attest_peer(proto::AttestPeerRequest { name: "p3".to_owned() }).await?.into_inner();
    assert!(is(&asked, "untrusted") && asked.check == "replay", "{asked:#?}\n{}", lab.logs());
    assert!(asked.reason.contains("no event explains"), "{}", asked.reason);
    let failed: Vec<&str> =
        asked.checks.iter().filter(|line| line.verdict == "failed").map(|line| line.name.as_str()).collect();
    assert_eq!(failed, ["replay"]);
    // The refused one is told why, and says so.
    let peer = lab.sees(2, "p1", |peer| peer.reason.contains("refuses this pillar"), DEADLINE).await?;
    assert_eq!(peer.state, "down", "{peer:#?}");
    for status in [
        client.attest_peer(proto::AttestPeerRequest { name: "p9".to_owned() }).await.expect_err("unknown"),
        client.attest_peer(proto::AttestPeerRequest { name: "../x".to_owned() }).await.expect_err("no name"),
    ] {
        assert!(status.message().contains("is no member of this pillar's cluster"), "{status}");
    }
    Ok(())
}

// attack: B2
#[tokio::test]
async fn entries_spread_and_who_is_revoked_or_somebody_else_gets_no_word_in() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;

    // Given to p1 alone, with one signature first: proposed, not applied.
    let name: PillarId = "p3".parse()?;
    let ek = lab.cluster.member(&name).ok_or("a row")?.ek_public.0.clone();
    let ek = Digest(ring::digest::digest(&ring::digest::SHA256, &ek).as_ref().to_vec());
    let revoke = Action::Revoke { name, ek, reason: "sold".to_owned() };
    let mut envelope = lab.cluster.propose(revoke, now_unix_s())?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?.client;
    for (operator, expected) in [(0, (1, false)), (0, (1, false)), (1, (2, true))] {
        lab.operators[operator].sign(&mut envelope)?;
        let submit = proto::SubmitRequest { envelope: envelope.to_json().into() };
        let reply = client.submit(submit).await?.into_inner();
        assert_eq!((reply.have, reply.applied), expected);
        assert_eq!((reply.serial, reply.needed), (5, 2));
    }
    let spread = async {
        for index in 0..2 {
            let end = Instant::now() + DEADLINE;
            while lab.view(index).await?.serial != 5 {
                if Instant::now() > end {
                    return Err(format!("p{} has not got entry 5\n{}", index + 1, lab.logs()).into());
                }
                sleep(LOOK).await;
            }
            let view = lab.view(index).await?;
            assert_eq!(view.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["p1", "p2"]);
        }
        TestResult::Ok(())
    };
    spread.await?;
    lab.sees(0, "p2", |peer| is(peer, "up"), DEADLINE).await?;

    // Another machine with p2's address: its key is nobody's, and that is not p2's fault.
    lab.pillars[1].kill()?;
    let operators = std::mem::take(&mut lab.operators);
    let other = Pillar::new("p2", &operators)?.ok_or("a TPM")?;
    lab.operators = operators;
    let impostor = TcpListener::bind(("127.0.0.1", lab.pillars[1].peers_port))?;
    let target = other.peers_port;
    std::thread::spawn(move || forward(&impostor, target));
    let peer = lab.sees(0, "p2", |peer| peer.state == "down", DEADLINE).await?;
    assert!(peer.check.is_empty(), "{peer:#?}");
    Ok(())
}

fn forward(listener: &TcpListener, target: u16) {
    for client in listener.incoming().flatten() {
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else {
            continue;
        };
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let (mut from_server, mut to_client) = (server, client);
        std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
    }
}
