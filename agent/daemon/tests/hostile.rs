//! A member with good evidence who lies from then on, and strangers who waste everybody's time: the others go on as if
//! nothing was, and quietly.

mod lab;
#[path = "lab/liar.rs"]
mod liar;

use lab::{Lab, TestResult};
use liar::{End, Liar, connect};
use pillar_model::PillarId;
use pillar_session::PeerConnection;
use pillar_wire::proto;
use pillar_wire::proto::peers_client::PeersClient;
use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
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
        while beats.send(liar.boast(sequence)).await.is_ok() {
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
