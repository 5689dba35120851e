//! A member that answers those who ask it for entries with what costs them memory.

mod lab;
#[path = "lab/liar.rs"]
mod liar;

use lab::{DEADLINE, LOOK, Lab, TestResult, is};
use liar::Liar;
use pillar_session::PeerChannel;
use pillar_wire::proto;
use pillar_wire::proto::peers_server::{Peers, PeersServer};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How many empty entries it answers with: as many as the largest message of all holds, then as many as the largest answer
/// that is taken (`chain::ANSWER_BYTES` and its margin). 2 bytes on the wire for each, 24 in memory.
const ANSWERS: [usize; 2] = [pillar_wire::limit::REPLY_BYTES / 2 - 16, (512 + 16) * 1024 / 2 - 16];
/// What both may cost an agent.
const COST_KIB: u64 = 12 * 1024;

/// Takes heartbeats, proves itself, and has nothing but empty entries.
struct Empties {
    liar: Arc<Liar>,
    asked: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Peers for Empties {
    type BeatStream = ReceiverStream<Result<proto::BeatReply, Status>>;

    async fn beat(
        &self,
        request: Request<Streaming<proto::Heartbeat>>,
    ) -> Result<Response<Self::BeatStream>, Status> {
        let mut beats = request.into_inner();
        let (answers, unsent) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok(Some(_)) = beats.message().await {}
            drop(answers);
        });
        Ok(Response::new(ReceiverStream::new(unsent)))
    }

    async fn reattest(
        &self,
        request: Request<proto::ReattestRequest>,
    ) -> Result<Response<proto::PeerEvidence>, Status> {
        let channel = request.extensions().get::<Arc<PeerChannel>>().cloned();
        let channel = channel.ok_or_else(|| Status::internal("no connection"))?;
        self.liar.end().answer(&channel, request.into_inner()).await.map(Response::new)
    }

    async fn chain(
        &self,
        _: Request<proto::EntriesRequest>,
    ) -> Result<Response<proto::EntriesReply>, Status> {
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        let envelopes = vec![Vec::new(); ANSWERS[before.min(1)]];
        Ok(Response::new(proto::EntriesReply { envelopes, pending: Vec::new() }))
    }
}

/// The most that an agent ever had in memory.
fn peak_kib(lab: &Lab) -> TestResult<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.pillars[0].agent.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("a line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

// attack: P9
#[tokio::test]
async fn answers_that_would_fill_memory_are_not_taken() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;
    lab.pillars[2].kill()?;
    let liar = Liar::new(&lab, 2)?;
    let asked = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(("127.0.0.1", lab.pillars[2].peers_port)).await?;
    let (serves, counts) = (Arc::clone(&liar), Arc::clone(&asked));
    tokio::spawn(async move {
        while let Ok((tcp, from)) = listener.accept().await {
            let service = Empties { liar: Arc::clone(&serves), asked: Arc::clone(&counts) };
            let end = serves.end();
            tokio::spawn(async move {
                if let Ok(attested) = end.accept(tcp, from.ip()).await {
                    let service = PeersServer::new(service).max_encoding_message_size(usize::MAX);
                    let _ = attested.split().1.serve(service, std::future::pending()).await;
                }
            });
        }
    });
    let before = peak_kib(&lab)?;
    // It says that it has more than anybody, so that it is asked.
    let tcp = liar::connect(lab.pillars[0].peers_port).await;
    let mut client = liar.end().dial(tcp, &"p1".parse()?).await?.peers_client().await?;
    let (beats, unsent) = mpsc::channel(4);
    let _answers = client.beat(ReceiverStream::new(unsent)).await?;
    let begun = Instant::now();
    let mut sequence = 0;
    // It asks again only when it is done with the answer before: the question after the last one says that all were judged.
    while asked.load(Ordering::Relaxed) <= ANSWERS.len() {
        assert!(begun.elapsed() < DEADLINE, "it was asked\n{}", lab.logs());
        beats.send(liar.boast(sequence)).await?;
        sequence += 1;
        sleep(10 * LOOK).await;
    }
    let cost = peak_kib(&lab)?.saturating_sub(before);
    eprintln!("answers of {ANSWERS:?} empty entries cost {cost} KiB");
    assert!(cost < COST_KIB, "{cost} KiB");
    lab.sees(0, "p2", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
    assert_eq!(lab.view(0).await?.serial, 4);
    Ok(())
}
