//! A member with good evidence who lies from then on, and strangers who waste everybody's time: the others go on as if
//! nothing was, and quietly.

mod lab;

use lab::{Lab, TestResult, boot, own_log};
use pillar_layout::pcr;
use pillar_model::{Bank, Binding, Evidence, PcrIndex, PillarId};
use pillar_quorum::Cluster;
use pillar_session::{BoxError, Endpoint, Gatekeeper, PeerConnection, Refusal, TlsSigner};
use pillar_tpm::{Clock, Quote, Tpm};
use pillar_wire::proto;
use pillar_wire::proto::peers_client::PeersClient;
use prost::Message as _;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

/// How long each attack goes on: some heartbeats.
const ATTACK: Duration = Duration::from_secs(5);
/// A heartbeat every two seconds, and one more that was late.
const HEARTBEAT_AGE_MS: u64 = 4500;
/// What an agent with two peers may take, attacked or not.
const MEMORY_KIB: u64 = 48 * 1024;
/// Lines that an attacked agent may write in all.
const LINES: usize = 60;

/// A pillar's TPM in the wrong hands.
struct Liar {
    tpm: Mutex<Tpm>,
    clock: Clock,
    spki: Vec<u8>,
    cluster: Cluster,
    key: Ed25519KeyPair,
}

type End = Endpoint<Proves, Believes>;

impl Liar {
    /// In place of that pillar's agent, which is dead.
    fn new(lab: &Lab, index: usize) -> TestResult<Arc<Self>> {
        let mut tpm = Tpm::open(&lab.pillars[index].tap.tcti)?;
        tpm.identity()?;
        let row = lab.cluster.member(&lab.pillars[index].name).ok_or("a row")?;
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|e| e.to_string())?;
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).map_err(|e| e.to_string())?;
        let (clock, spki, cluster) = (tpm.clock()?, row.tls_spki.0.clone(), lab.cluster.clone());
        Ok(Arc::new(Self { tpm: Mutex::new(tpm), clock, spki, cluster, key }))
    }

    fn end(self: &Arc<Self>) -> End {
        let signer = Arc::new(Signs(Arc::clone(self)));
        Endpoint::new(signer, Arc::new(Proves(Arc::clone(self))), Arc::new(Believes(Arc::clone(self))))
    }

    /// A heartbeat that says that there is more than anybody has.
    fn heartbeat(&self, sequence: u64) -> proto::Heartbeat {
        let body = proto::HeartbeatBody {
            name: "p3".to_owned(),
            sequence,
            reset_count: self.clock.reset_count,
            restart_count: self.clock.restart_count,
            serial: u64::MAX,
            head: vec![1; 32],
            slot: "a".to_owned(),
            workload: "healthy".to_owned(),
            ..proto::HeartbeatBody::default()
        };
        let body = body.encode_to_vec();
        let signature = self.key.sign(&[b"pillar-heartbeat-v1\0", body.as_slice()].concat());
        proto::Heartbeat { body, signature: signature.as_ref().to_vec() }
    }
}

struct Signs(Arc<Liar>);

impl fmt::Debug for Signs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signs")
    }
}

impl TlsSigner for Signs {
    fn spki(&self) -> &[u8] {
        &self.0.spki
    }

    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let hash = digest(&SHA256, message).as_ref().try_into().expect("32 bytes");
        self.0.tpm.lock().expect("not poisoned").sign_tls(&hash).map_err(io::Error::other)
    }
}

struct Proves(Arc<Liar>);

impl pillar_session::Attester for Proves {
    async fn evidence(&self, binding: Binding) -> Result<Evidence, BoxError> {
        let liar = Arc::clone(&self.0);
        let made = spawn_blocking(move || {
            let (event_log, cel) = (boot::EVENT_LOG.to_vec(), own_log().into_bytes());
            let heartbeat_key = liar.key.public_key().as_ref().to_vec();
            let qualifying = pillar_verify::qualifying_data(&binding, &event_log, &cel, &heartbeat_key);
            let pcrs = pcr::QUOTED.map(|number| PcrIndex::new(number).expect("below 24"));
            let quoted = liar.tpm.lock().expect("not poisoned").quote(Bank::Sha256, &pcrs, &qualifying);
            quoted.map(|Quote { attest, signature }| Evidence {
                attest,
                signature,
                event_log,
                cel,
                heartbeat_key,
                ..Evidence::default()
            })
        });
        Ok(made.await??)
    }
}

/// Whoever is a member, whatever it shows.
struct Believes(Arc<Liar>);

impl Gatekeeper for Believes {
    type Proof = ();

    fn admits(&self, tls_spki: &[u8]) -> Option<PillarId> {
        self.0.cluster.member_by_tls(tls_spki).map(|row| row.name.clone())
    }

    fn judge(&self, _: &PillarId, _: Evidence, _: &Binding) -> Result<(), Refusal> {
        Ok(())
    }
}

async fn connect(port: u16) -> TcpStream {
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(tcp) => return tcp,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// 40 connections a second without a word, of which half are held.
async fn strangers(port: u16) {
    let mut held = VecDeque::new();
    loop {
        held.push_back(connect(port).await);
        if held.len() > 100 {
            held.pop_front();
        }
        sleep(Duration::from_millis(25)).await;
    }
}

/// One connection after the other, given up as soon as it stands.
async fn connects(end: &End, port: u16) {
    let p1: PillarId = "p1".parse().expect("a name");
    loop {
        let _ = end.dial(connect(port).await, &p1).await;
    }
}

async fn asks_for_evidence(mut client: PeersClient<PeerConnection>) {
    loop {
        if client.reattest(proto::ReattestRequest { nonce: vec![1; 32] }).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn asks_for_entries(mut client: PeersClient<PeerConnection>) {
    loop {
        if client.chain(proto::EntriesRequest { from: 0 }).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn beats(mut client: PeersClient<PeerConnection>, liar: &Liar) {
    let mut sequence = 0;
    loop {
        let (beats, unsent) = mpsc::channel(16);
        // Answers are never read.
        let Ok(_answers) = client.beat(ReceiverStream::new(unsent)).await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        while beats.send(liar.heartbeat(sequence)).await.is_ok() {
            sequence += 1;
        }
    }
}

fn memory_kib(lab: &Lab) -> TestResult<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.pillars[0].agent.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Looks at the others while the attack goes on.
async fn under(lab: &Lab, what: &str, attack: impl Future<Output = ()>) -> TestResult {
    let looks = async {
        let mut clients = Vec::new();
        for pillar in &lab.pillars[..2] {
            clients.push(pillar.connect(&lab.operators[0]).await?.client);
        }
        let begun = Instant::now();
        while begun.elapsed() < ATTACK {
            for (client, other) in clients.iter_mut().zip(["p2", "p1"]) {
                let view = client.cluster(proto::ClusterRequest {}).await?.into_inner();
                let peer = view.peers.into_iter().find(|peer| peer.name == other).ok_or("a peer")?;
                let fine = peer.state == "up" && peer.verified && peer.heartbeat_age_ms < HEARTBEAT_AGE_MS;
                assert!(fine, "{what}: {peer:#?}\n{}", lab.logs());
            }
            sleep(lab::LOOK).await;
        }
        let memory = memory_kib(lab)?;
        assert!(memory < MEMORY_KIB, "{what}: {memory} KiB");
        TestResult::Ok(())
    };
    tokio::select! {
        looked = looks => looked,
        () = attack => Err(format!("{what} ended").into()),
    }
}

// attack: P9 P13
#[tokio::test]
async fn a_member_who_lies_and_strangers_disturb_nobody() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;
    lab.pillars[2].kill()?;
    let liar = Liar::new(&lab, 2)?;
    let (end, port) = (liar.end(), lab.pillars[0].peers_port);
    let before = lab.pillars[0].log().lines().count();

    under(&lab, "strangers", strangers(port)).await?;
    let four = async {
        tokio::join!(connects(&end, port), connects(&end, port), connects(&end, port), connects(&end, port));
    };
    under(&lab, "a member that connects", four).await?;
    let attested = timeout(lab::DEADLINE, end.dial(connect(port).await, &"p1".parse()?)).await??;
    let client = attested.peers_client().await?;
    let floods = async {
        let entries = || asks_for_entries(client.clone());
        let evidence = asks_for_evidence(client.clone());
        tokio::join!(beats(client.clone(), &liar), evidence, entries(), entries(), entries());
    };
    under(&lab, "floods", floods).await?;

    let lines = lab.pillars[0].log().lines().skip(before).filter(|line| !line.contains("operator")).count();
    assert!(lines < LINES, "{lines} lines\n{}", lab.pillars[0].log());
    Ok(())
}
