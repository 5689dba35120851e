//! A member with its true keys that shows evidence which its TPM did not make for this challenge: an old quote, one by
//! another key of the same TPM, one of another TPM. Whoever is shown it refuses it, and cuts off who was believed before.

mod lab;
#[path = "lab/liar.rs"]
mod liar;

use lab::bench::{Bench, run};
use lab::{DEADLINE, LOOK, Lab, TestResult, is, measure_a_boot};
use liar::{End, Liar, Quotes, Shows, connect};
use pillar_model::{Bank, PillarId};
use pillar_session::{Error, PeerChannel};
use pillar_tpm::{Quote, Tpm};
use pillar_wire::proto;
use pillar_wire::proto::peers_server::{Peers, PeersServer};
use std::fs;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Two heartbeats, the promise.
const CUT_OFF: Duration = Duration::from_secs(4);
/// How long nobody may believe it: some tries.
const WHILE: Duration = Duration::from_secs(2);
/// Between two heartbeats of the one who lies.
const BEAT: Duration = Duration::from_secs(1);

/// The honest ones.
const HONEST: [usize; 2] = [0, 1];

/// One who shows this is refused by that check, for a reason with these words.
struct Lie {
    what: &'static str,
    shows: Shows,
    check: &'static str,
    words: &'static str,
}

/// The attestation key's template with another unique value, as any program may make it in the pillar's own TPM.
fn another_key(bench: &Bench) -> TestResult<Arc<Quotes>> {
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    let algorithm = "ecc256:ecdsa-sha256:null";
    let key = ["-Q", "-C", "e", "-G", algorithm, "-g", "sha256", "-a", attributes, "-c", "another.ctx"];
    run(bench.tool("tpm2_createprimary").args(key))?;
    // The tools leave what they loaded.
    run(bench.tool("tpm2_flushcontext").arg("-t"))?;
    let (tools, tcti, dir) = (bench.tools.clone(), bench.swtpm.tcti(), bench.dir.path().to_owned());
    Ok(Arc::new(move |pcrs, qualifying| {
        let pcrs: Vec<String> = pcrs.iter().map(|pcr| pcr.get().to_string()).collect();
        let tool = |name: &str| {
            let mut command = tools.command(name);
            command.current_dir(&dir).env("TPM2TOOLS_TCTI", &tcti);
            command
        };
        let over = ["-l", &format!("sha256:{}", pcrs.join(",")), "-q", &hex::encode(qualifying)];
        let into = ["-m", "attest", "-s", "signature", "-f", "tss"];
        run(tool("tpm2_quote").args(["-Q", "-c", "another.ctx"]).args(over).args(into))?;
        run(tool("tpm2_flushcontext").arg("-t"))?;
        Ok(Quote { attest: fs::read(dir.join("attest"))?, signature: fs::read(dir.join("signature"))? })
    }))
}

/// A TPM that its owner can do with as he likes, and that measured the same boot.
fn another_tpm(bench: &Bench) -> TestResult<Arc<Quotes>> {
    measure_a_boot(bench)?;
    let tpm = Mutex::new(Tpm::open(&bench.swtpm.tcti())?);
    Ok(Arc::new(move |pcrs, qualifying| {
        Ok(tpm.lock().expect("not poisoned").quote(Bank::Sha256, pcrs, qualifying)?)
    }))
}

/// What a member answers, with evidence of the liar's choice.
struct Answers(End);

#[tonic::async_trait]
impl Peers for Answers {
    type BeatStream = ReceiverStream<Result<proto::BeatReply, Status>>;

    async fn beat(
        &self,
        request: Request<Streaming<proto::Heartbeat>>,
    ) -> Result<Response<Self::BeatStream>, Status> {
        let mut beats = request.into_inner();
        let (answers, unsent) = mpsc::channel(1);
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
        self.0.answer(&channel, request.into_inner()).await.map(Response::new)
    }

    async fn chain(
        &self,
        _: Request<proto::EntriesRequest>,
    ) -> Result<Response<proto::EntriesReply>, Status> {
        Ok(Response::new(proto::EntriesReply::default()))
    }
}

/// The member's own door, for those who call it.
async fn listens(end: End, port: u16) -> TestResult {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    tokio::spawn(async move {
        while let Ok((tcp, from)) = listener.accept().await {
            let end = end.clone();
            tokio::spawn(async move {
                if let Ok(attested) = end.accept(tcp, from.ip()).await {
                    let _ = attested.serve(PeersServer::new(Answers(end)), pending()).await;
                }
            });
        }
    });
    Ok(())
}

/// A connection on which it was believed: ends, with the reason, when the other end cuts it.
type Line = JoinHandle<Status>;

/// Calls, shows what it shows now, and is believed: heartbeats go out from then on.
async fn believed(liar: &Arc<Liar>, end: &End, port: u16, other: &PillarId) -> TestResult<Line> {
    let tried = async {
        loop {
            match end.dial(connect(port).await, other).await {
                Ok(attested) => return attested,
                Err(_) => sleep(LOOK).await,
            }
        }
    };
    let attested = timeout(DEADLINE, tried).await?;
    let mut client = attested.peers_client().await?;
    let (beats, unsent) = mpsc::channel(1);
    let mut answers = client.beat(ReceiverStream::new(unsent)).await?.into_inner();
    let liar = Arc::clone(liar);
    Ok(tokio::spawn(async move {
        // Without it the connection would end.
        let _client = client;
        let (mut ticks, mut sequence) = (interval(BEAT), 0);
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("it ended"),
                    Err(status) => return status,
                },
                _ = ticks.tick() => {
                    // Whether it arrives, the answers tell.
                    let _ = beats.send(liar.heartbeat(sequence)).await;
                    sequence += 1;
                }
            }
        }
    }))
}

/// The one who lies, in p3's place, and those who are lied to.
struct Story {
    lab: Lab,
    liar: Arc<Liar>,
    end: End,
}

impl Story {
    fn port(&self, index: usize) -> u16 {
        self.lab.pillars[index].peers_port
    }

    /// Shows the truth to both of them, and is up.
    async fn is_up(&self) -> TestResult<Vec<Line>> {
        self.liar.shows(Shows::Truth);
        let mut lines = Vec::new();
        for index in HONEST {
            let name = &self.lab.pillars[index].name;
            lines.push(believed(&self.liar, &self.end, self.port(index), name).await?);
        }
        for index in HONEST {
            self.lab.sees(index, "p3", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
        }
        Ok(lines)
    }

    /// Calls one of them and is refused, and told why.
    async fn is_refused(&self, index: usize, lie: &Lie) -> TestResult {
        let begun = Instant::now();
        loop {
            match self.end.dial(connect(self.port(index)).await, &self.lab.pillars[index].name).await {
                Ok(_) => return Err(format!("p{} believes {}", index + 1, lie.what).into()),
                Err(Error::RefusedByPeer { peer: Some(_), check, reason }) => {
                    assert_eq!(check, lie.check, "{}: {reason}", lie.what);
                    assert!(reason.contains(lie.words), "{}: {reason}", lie.what);
                    return Ok(());
                }
                // Broken for another reason: no verdict.
                Err(other) if begun.elapsed() > DEADLINE => return Err(other.into()),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// Nobody believes it for a while, however often it calls and is called; the honest ones mind each other not at all.
    async fn never_up(&self, lie: &Lie) -> TestResult {
        let begun = Instant::now();
        while begun.elapsed() < WHILE {
            for (index, other) in HONEST.into_iter().zip(["p2", "p1"]) {
                self.is_refused(index, lie).await?;
                for peer in self.lab.view(index).await?.peers {
                    if peer.name == "p3" {
                        self.is_told(&peer, lie);
                    } else if peer.name == other {
                        assert!(is(&peer, "up"), "{peer:#?}");
                    }
                }
            }
        }
        Ok(())
    }

    fn is_told(&self, peer: &proto::Peer, lie: &Lie) {
        let told = is(peer, "untrusted") && peer.check == lie.check && peer.reason.contains(lie.words);
        assert!(told, "{}: {peer:#?}\n{}", lie.what, self.lab.logs());
    }

    /// It is up; then it lies, in the way of `how`: everybody cuts it off in time, and says why.
    async fn is_cut_off<F: Future<Output = TestResult>>(
        &self,
        lie: &Lie,
        how: impl Fn(usize) -> F,
    ) -> TestResult {
        let mut lines = self.is_up().await?;
        self.liar.shows(lie.shows.clone());
        let begun = Instant::now();
        for index in HONEST {
            how(index).await?;
        }
        for (index, line) in HONEST.into_iter().zip(&mut lines) {
            let left = CUT_OFF.saturating_sub(begun.elapsed());
            timeout(left, line).await.map_err(|_| format!("{}: p{} listens on", lie.what, index + 1))??;
            let left = CUT_OFF.saturating_sub(begun.elapsed());
            let peer = self.lab.sees(index, "p3", |peer| is(peer, "untrusted"), left).await?;
            self.is_told(&peer, lie);
        }
        eprintln!("{}: cut off by both after {:?}", lie.what, begun.elapsed());
        Ok(())
    }

    /// An operator has an honest one attest it now, over the connection that stands or a new one.
    async fn is_asked(&self, index: usize) -> TestResult {
        let mut client = self.lab.pillars[index].connect(&self.lab.operators[0]).await?.client;
        let asked =
            client.attest_peer(proto::AttestPeerRequest { name: "p3".to_owned() }).await?.into_inner();
        assert!(is(&asked, "untrusted"), "{asked:#?}");
        Ok(())
    }
}

// attack: A6 B1 B2 B3
#[tokio::test]
async fn what_a_members_tpm_did_not_quote_for_this_challenge_cuts_it_off() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    let Some(foreign) = Bench::new()? else { return Ok(()) };
    let lies = [
        Lie {
            what: "an old quote",
            shows: Shows::TheLast,
            check: "challenge",
            words: "extraData is not what this challenge demands",
        },
        Lie {
            what: "another key of the same TPM",
            shows: Shows::Another(another_key(&lab.pillars[2].bench)?),
            check: "signature",
            words: "signature does not verify with the AK",
        },
        Lie {
            what: "another TPM",
            shows: Shows::Another(another_tpm(&foreign)?),
            check: "signature",
            words: "signature does not verify with the AK",
        },
    ];
    lab.all_up().await?;
    lab.pillars[2].kill()?;
    let liar = Liar::new(&lab, 2)?;
    let (end, port) = (liar.end(), lab.pillars[2].peers_port);
    listens(end.clone(), port).await?;
    let mut story = Story { lab, liar, end };
    // It has its old quote from here.
    story.is_up().await?;

    // By agents that know nothing of it yet.
    story.liar.shows(lies[0].shows.clone());
    for index in HONEST {
        story.lab.pillars[index].kill()?;
        story.lab.pillars[index].start_again()?;
    }
    for (index, other) in HONEST.into_iter().zip(["p2", "p1"]) {
        story.is_refused(index, &lies[0]).await?;
        story.lab.sees(index, other, |peer| is(peer, "up"), DEADLINE).await?;
    }
    story.never_up(&lies[0]).await?;
    // By agents that had believed it.
    for lie in &lies {
        story.is_cut_off(lie, |index| story.is_refused(index, lie)).await?;
        story.is_cut_off(lie, |index| story.is_asked(index)).await?;
        story.never_up(lie).await?;
    }
    // It was the evidence alone.
    story.is_up().await?;
    Ok(())
}
