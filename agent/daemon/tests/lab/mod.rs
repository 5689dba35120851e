//! A cluster of agents as processes, each with a TPM of its own that has measured a real boot, over loopback.
#![allow(dead_code, reason = "each test program uses a part")]

#[path = "../../../tpm/tests/bench/mod.rs"]
pub mod bench;
#[path = "../../../verify/tests/boot/mod.rs"]
#[allow(clippy::unwrap_used, reason = "a fixture")]
pub mod boot;

use bench::{Bench, Listens, Tap, run};
use pillar_layout::{phase, root, run as paths};
use pillar_measure::cel::CelLog;
use pillar_measure::tcg::EventLog;
use pillar_model::{
    Action, Bank, Constitution, Digest, FirmwareReference, Member, OperatorEntry, OperatorKey, PillarId,
    TpmMaker,
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
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// What tests return.
pub type TestResult<T = ()> = Result<T, Box<dyn StdError>>;

/// Every wait of these tests ends after this time, failed.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// How often a state is asked for that is waited for.
pub const LOOK: Duration = Duration::from_millis(100);

pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One who signs and calls.
pub struct Operator {
    pub name: String,
    pub certificate: String,
    pub key: String,
    pub signer: Ed25519KeyPair,
}

impl Operator {
    pub fn new(number: usize) -> TestResult<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = CertificateParams::default().self_signed(&key)?.pem();
        let signer = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key.serialize_der())
            .map_err(|error| error.to_string())?;
        Ok(Self { name: format!("operator-{number}"), certificate, key: key.serialize_pem(), signer })
    }

    pub fn public(&self) -> OperatorKey {
        OperatorKey(self.signer.public_key().as_ref().try_into().expect("32 bytes"))
    }

    pub fn sign(&self, envelope: &mut Envelope) -> TestResult {
        let signature = self.signer.sign(&envelope.pae()).as_ref().try_into()?;
        Ok(envelope.add_signature(&self.public(), signature)?)
    }
}

/// One pillar: a TPM that measured the boot, and the agent.
pub struct Pillar {
    pub name: PillarId,
    pub bench: Bench,
    pub tap: Tap,
    pub root: tempfile::TempDir,
    pub agent: Child,
    pub operators_port: u16,
    pub peers_port: u16,
}

impl Drop for Pillar {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

pub fn free_port() -> TestResult<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Pillar {
    pub fn new(name: &str, operators: &[Operator]) -> TestResult<Option<Self>> {
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

    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("agent.log")).unwrap_or_default()
    }

    pub fn kill(&mut self) -> TestResult {
        self.agent.kill()?;
        self.agent.wait()?;
        Ok(())
    }

    pub fn start_again(&mut self) -> TestResult {
        self.agent = start(self.root.path(), &self.tap.tcti, self.operators_port, self.peers_port)?;
        Ok(())
    }

    pub async fn connect(&self, operator: &Operator) -> TestResult<Connected> {
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

pub fn start(root: &Path, tcti: &str, operators_port: u16, peers_port: u16) -> TestResult<Child> {
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

pub fn own_log() -> String {
    boot::own_log(&phase::ALL, &[])
}

/// Extends what firmware, loader, kernel and init did.
pub fn measure_a_boot(bench: &Bench) -> TestResult {
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
pub struct Lab {
    pub operators: Vec<Operator>,
    pub pillars: Vec<Pillar>,
    pub cluster: Cluster,
    pub chain: Vec<Envelope>,
}

impl Lab {
    /// Founds a cluster of so many pillars; `None`, with words, where there is no software TPM.
    pub async fn new(count: usize) -> TestResult<Option<Self>> {
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
            denied_tpm_firmware: Vec::new(),
            dbx_required: Vec::new(),
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
    pub fn decide(&mut self, action: Action) -> TestResult {
        let mut envelope = self.cluster.propose(action, now_unix_s())?;
        for operator in &self.operators[..2] {
            operator.sign(&mut envelope)?;
        }
        self.cluster = self.cluster.apply(&envelope, now_unix_s())?;
        self.chain.push(envelope);
        Ok(())
    }

    /// What admits a pillar.
    pub async fn row(&self, index: usize) -> TestResult<Member> {
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
            // Each has its own, so that firmware can be denied of one.
            tpm_maker: Some(maker(index)),
            ak_public: Digest(identity.ak_public),
            tls_spki: Digest(tls_spki),
            firmware: BTreeMap::from([(Bank::Sha256, firmware)]),
            state_volume: boot::STATE_VOLUME.to_owned(),
            addresses: vec![format!("127.0.0.1:{}", pillar.peers_port)],
        })
    }

    /// Gives a pillar the whole chain.
    pub async fn hand_over(&self, index: usize) -> TestResult {
        let mut client = self.pillars[index].connect(&self.operators[0]).await?.client;
        for envelope in &self.chain {
            let reply = client.submit(proto::SubmitRequest { envelope: envelope.to_json().into() }).await?;
            assert!(reply.into_inner().applied);
        }
        Ok(())
    }

    pub async fn view(&self, index: usize) -> TestResult<proto::ClusterReply> {
        let mut client = self.pillars[index].connect(&self.operators[0]).await?.client;
        Ok(client.cluster(proto::ClusterRequest {}).await?.into_inner())
    }

    /// Waits until pillar `index` sees `other` like this.
    pub async fn sees(
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

    pub fn logs(&self) -> String {
        let text = |pillar: &Pillar| format!("== {}\n{}", pillar.name, pillar.log());
        self.pillars.iter().map(text).collect()
    }

    /// Waits until every pair holds live verdicts about each other and hears heartbeats.
    pub async fn all_up(&self) -> TestResult<Duration> {
        let begun = Instant::now();
        for index in 0..self.pillars.len() {
            for other in self.pillars.iter().filter(|other| other.name != self.pillars[index].name) {
                self.sees(index, other.name.as_str(), |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
            }
        }
        Ok(begun.elapsed())
    }
}

/// Whose TPM a pillar's row says that it has.
pub fn maker(index: usize) -> TpmMaker {
    TpmMaker([0, 0, 0x10, index as u8 + 1])
}

pub fn is(peer: &proto::Peer, state: &str) -> bool {
    peer.state == state && peer.verified == (state != "untrusted" && state != "down")
}
