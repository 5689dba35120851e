//! Calls one member for as long as it is one: attests it, sends it heartbeats, attests it again, fetches entries.

use super::serve::{ANSWER_EVERY, OwnEndpoint, condemn, tuned};
use super::table::{PERIOD, REATTEST};
use super::{Caller, Shared, locked};
use crate::chain::{self, ANSWER_BYTES, ANSWER_MARGIN_BYTES};
use crate::service::words;
use pillar_model::PillarId;
use pillar_session::{Error, PeerChannel, PeerConnection};
use pillar_wire::proto;
use pillar_wire::proto::peers_client::PeersClient;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant as TokioInstant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, info, warn};

/// One address: emulated machines answer within this, and a machine that is off does not at all.
const CONNECT: Duration = Duration::from_secs(4);
/// Names that are looked up at the same time.
pub(super) const LOOK_UPS: usize = 4;
/// Looking up a name.
const LOOK_UP: Duration = Duration::from_secs(5);
/// First pause after a failure...
const PAUSE_FIRST: Duration = Duration::from_millis(400);
/// ...and the longest: also the time after which a network that is whole again is noticed.
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// After refusals: one of the machines must be mended first.
const PAUSE_REFUSED: Duration = Duration::from_secs(10);
/// A peer that answers no heartbeat for so long is called anew. One in sixteen is answered.
const SILENT: Duration = Duration::from_secs(48);
const _: () =
    assert!(ANSWER_EVERY * PERIOD.as_secs() < SILENT.as_secs(), "an answer comes before it is missed");
/// The beginning of the stream of heartbeats.
const BEGIN: Duration = Duration::from_secs(14);
/// Heartbeats whose answers are waited for.
const UNANSWERED: usize = 32;
/// Try again after an attestation that broke off.
const REATTEST_SOON: Duration = Duration::from_secs(5);
/// Heartbeats that wait to be sent. One more means that the peer takes none.
const UNSENT: usize = 3;
/// Between two tries to get entries from one who says that it has more, and gave none that are any good.
const FETCH_AGAIN: Duration = Duration::from_secs(10);
/// Fetching entries.
const FETCH: Duration = Duration::from_secs(30);
/// Addresses that a name may have.
const ADDRESSES_MAX: usize = 8;

/// Calls `name` until it is no member any more.
pub async fn run(shared: Arc<Shared>, endpoint: Arc<OwnEndpoint>, name: PillarId, caller: Arc<Caller>) {
    let call =
        Call { shared, endpoint, name, caller, failures: AtomicUsize::new(0), last_sent: AtomicU64::new(0) };
    let mut pause = PAUSE_FIRST;
    loop {
        let next = match call.once().await {
            Ok(Ended::Unreached(why)) => {
                call.shared.unreachable(&call.name, why);
                (pause * 2).min(PAUSE_LONGEST)
            }
            Ok(Ended::Left(why)) => {
                debug!("connection with {} ended: {why}", call.name);
                call.shared.unreachable(&call.name, why);
                PAUSE_FIRST
            }
            Err(error) => call.failed(&error, pause),
        };
        pause = next;
        tokio::select! {
            () = sleep(jittered(pause)) => {}
            () = call.caller.attest.notified() => {}
            () = call.caller.wake.notified() => {}
        }
    }
}

/// Between three quarters and all of it, so that pillars that lost each other together do not come back in step.
fn jittered(time: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, and nothing else is lost.
    let _ = SystemRandom::new().fill(&mut byte);
    time * (768 + u32::from(byte[0])) / 1024
}

struct Call {
    shared: Arc<Shared>,
    endpoint: Arc<OwnEndpoint>,
    name: PillarId,
    caller: Arc<Caller>,
    /// Calls in a row at whose place somebody answered who was not let in: the next one begins with the next place.
    failures: AtomicUsize,
    /// Number of the last heartbeat that was sent to it.
    last_sent: AtomicU64,
}

/// How a call ended that nobody refused.
enum Ended {
    /// Nobody took it.
    Unreached(String),
    /// It was attested, and is over.
    Left(String),
}

/// Why no entries came.
enum NotFetched {
    /// The connection.
    Broken(String),
    /// They do not fit, or cannot be kept.
    Refused(chain::Error),
}

/// What goes on beside the heartbeats.
enum Done {
    Attested(Result<(), Error>),
    Fetched(Result<usize, NotFetched>),
}

impl Call {
    /// One connection from its beginning to its end; why it ended.
    async fn once(&self) -> Result<Ended, Error> {
        let tcp = match self.connect().await {
            Ok(tcp) => tcp,
            Err(why) => return Ok(Ended::Unreached(why)),
        };
        let dialled = self.endpoint.dial(tcp, &self.name).await;
        let attested = dialled.inspect_err(|_| {
            self.failures.fetch_add(1, Ordering::Relaxed);
        })?;
        self.failures.store(0, Ordering::Relaxed);
        info!("{} is attested, it runs {}", self.name, attested.proof().version());
        self.shared.table().peer(&self.name).believes_us();
        let channel = Arc::clone(attested.channel());
        let _kept = self.shared.connected(&channel);
        let (_, attested) = attested.split();
        let client = attested.peers_client().await?;
        Ok(Ended::Left(self.keep(client, &channel).await))
    }

    /// The pause before the next try.
    fn failed(&self, error: &Error, pause: Duration) -> Duration {
        debug!("{}: {}", self.name, words(error));
        condemn(&self.shared, error);
        match error {
            // What it means for the peer has been noted where it was judged.
            Error::Refused { peer: Some(_), .. } => (pause * 2).min(PAUSE_REFUSED),
            // Without a name it is an alert, which anybody on the network may have sent.
            Error::RefusedByPeer { peer: Some(_), check, reason } => {
                // The reason often begins with the check's name.
                let check = check.as_str();
                let reason =
                    if reason.starts_with(check) { reason.clone() } else { format!("{check}: {reason}") };
                self.shared.table().peer(&self.name).refuses_us(reason);
                self.shared.judged(&self.name);
                (pause * 2).min(PAUSE_REFUSED)
            }
            other => {
                self.shared.unreachable(&self.name, words(other));
                (pause * 2).min(PAUSE_LONGEST)
            }
        }
    }

    /// A connection to the first address that takes one.
    async fn connect(&self) -> Result<TcpStream, String> {
        let row =
            self.shared.chain.cluster().and_then(|c| c.member(&self.name).map(|row| row.addresses.clone()));
        let mut places = self.shared.hints.addresses(&self.name, &row.unwrap_or_default());
        if places.is_empty() {
            return Err(
                "no address is known: neither its entry nor this machine's settings name one".to_owned()
            );
        }
        let first = self.failures.load(Ordering::Relaxed) % places.len();
        places.rotate_left(first);
        let mut why = String::new();
        for place in places {
            match dial(&self.shared.look_ups, &place).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => why = format!("{place}: {error}"),
            }
        }
        Err(why)
    }

    /// Heartbeats, attestations and entries until the connection ends; why it did.
    async fn keep(&self, mut client: PeersClient<PeerConnection>, channel: &Arc<PeerChannel>) -> String {
        let (beats, unsent) = mpsc::channel(UNSENT);
        let mut answers = match timeout(BEGIN, client.beat(ReceiverStream::new(unsent))).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "it takes no heartbeats".to_owned(),
        };
        let mut pulse = self.shared.pulse.subscribe();
        // The present heartbeat goes at once, unless it went over the connection before this one.
        if pulse
            .borrow()
            .as_ref()
            .is_some_and(|(sequence, _)| *sequence > self.last_sent.load(Ordering::Relaxed))
        {
            pulse.mark_changed();
        }
        // Numbers of heartbeats and when they were sent.
        let mut sent: VecDeque<(u64, Instant)> = VecDeque::new();
        let mut jobs = JoinSet::new();
        let (mut attesting, mut fetching) = (false, false);
        let mut attest_at = TokioInstant::now() + jittered(REATTEST);
        let mut answered = TokioInstant::now();
        let mut fetch_from = TokioInstant::now();
        loop {
            tokio::select! {
                _ = pulse.changed() => {
                    let Some((sequence, beat)) = pulse.borrow_and_update().clone() else { continue };
                    self.last_sent.store(sequence, Ordering::Relaxed);
                    sent.push_back((sequence, Instant::now()));
                    if sent.len() > UNANSWERED {
                        sent.pop_front();
                    }
                    if beats.try_send(beat).is_err() {
                        return "it takes no heartbeats".to_owned();
                    }
                }
                answer = next(&mut answers) => match answer {
                    Ok(sequence) => {
                        answered = TokioInstant::now();
                        if let Some((_, at)) = sent.iter().find(|(number, _)| *number == sequence) {
                            self.shared.table().peer(&self.name).answered(at.elapsed(), Instant::now());
                        }
                    }
                    Err(why) => return channel.cut().reason().map_or(why, |reason| format!("cut: {reason}")),
                },
                () = sleep_until(answered + SILENT + PERIOD) => return "it answers no heartbeats".to_owned(),
                () = sleep_until(attest_at), if !attesting => {
                    attesting = true;
                    jobs.spawn(reattest(Arc::clone(&self.endpoint), client.clone(), Arc::clone(channel)));
                }
                () = self.caller.attest.notified(), if !attesting => {
                    attesting = true;
                    jobs.spawn(reattest(Arc::clone(&self.endpoint), client.clone(), Arc::clone(channel)));
                }
                () = self.caller.fetch.notified(), if !fetching && TokioInstant::now() >= fetch_from => {
                    fetching = true;
                    jobs.spawn(fetch(Arc::clone(&self.shared), client.clone()));
                }
                Some(job) = jobs.join_next() => match job {
                    Ok(Done::Attested(result)) => {
                        attesting = false;
                        let pause = match &result {
                            Ok(()) => REATTEST,
                            Err(error) => self.attested_not(error),
                        };
                        attest_at = TokioInstant::now() + jittered(pause);
                    }
                    Ok(Done::Fetched(result)) => {
                        fetching = false;
                        if !self.fetched(result) {
                            fetch_from = TokioInstant::now() + FETCH_AGAIN;
                        }
                    }
                    Err(failed) => return format!("a task failed: {failed}"),
                },
            }
        }
    }

    fn attested_not(&self, error: &Error) -> Duration {
        warn!("{} was not attested again: {}", self.name, words(error));
        condemn(&self.shared, error);
        REATTEST_SOON
    }

    /// Whether the next thing that is missing may be fetched at once.
    fn fetched(&self, result: Result<usize, NotFetched>) -> bool {
        match &result {
            Ok(0) => {}
            Ok(new) => info!("{new} entries taken from {}", self.name),
            Err(NotFetched::Broken(why)) => debug!("no entries from {}: {why}", self.name),
            Err(NotFetched::Refused(error)) => {
                debug!("entries of {} are not taken: {}", self.name, words(error));
                if matches!(error, chain::Error::Refused(_)) {
                    self.shared.note_fork(&self.name, true);
                }
            }
        }
        // Nothing new is no lie when others were faster.
        let table = self.shared.table();
        let claimed = table.get(&self.name).and_then(|peer| peer.heartbeat()).map_or(0, |said| said.serial);
        let have = self.shared.chain.cluster().map_or(0, |cluster| cluster.serial());
        result.is_ok_and(|new| new > 0 || claimed <= have)
    }
}

/// The number of the heartbeat that is answered next.
async fn next(answers: &mut Streaming<proto::BeatReply>) -> Result<u64, String> {
    match answers.message().await {
        Ok(Some(answer)) => Ok(answer.sequence),
        Ok(None) => Err("it ended the connection".to_owned()),
        Err(status) => Err(status.message().to_owned()),
    }
}

/// Addresses of a place. A name takes a thread until the last name server has not answered, which is longer than anybody
/// waits here; without a limit those threads would leave none for handshakes.
async fn look_up(turns: &Arc<Semaphore>, place: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = place.parse() {
        return Ok(vec![address]);
    }
    let turn = Arc::clone(turns).acquire_owned().await.map_err(io::Error::other)?;
    let place = place.to_owned();
    let found = spawn_blocking(move || {
        let _turn = turn;
        Ok(place.to_socket_addrs()?.take(ADDRESSES_MAX).collect())
    });
    found.await.map_err(io::Error::other)?
}

async fn dial(turns: &Arc<Semaphore>, place: &str) -> io::Result<TcpStream> {
    let late = |what: &str| io::Error::new(io::ErrorKind::TimedOut, what.to_owned());
    let found =
        timeout(LOOK_UP, look_up(turns, place)).await.map_err(|_| late("no name server answers"))??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in found {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                tuned(&tcp);
                return Ok(tcp);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = late("no answer"),
        }
    }
    Err(last)
}

async fn reattest(
    endpoint: Arc<OwnEndpoint>,
    mut client: PeersClient<PeerConnection>,
    channel: Arc<PeerChannel>,
) -> Done {
    Done::Attested(endpoint.reattest(&mut client, &channel).await.map(drop))
}

/// Asks for what is missing until nothing more comes.
async fn fetch(shared: Arc<Shared>, client: PeersClient<PeerConnection>) -> Done {
    let mut client = client.max_decoding_message_size(ANSWER_BYTES + ANSWER_MARGIN_BYTES);
    let all = async {
        let mut new = 0;
        loop {
            let from = shared.chain.cluster().map_or(0, |cluster| cluster.serial() + 1);
            let reply = client.chain(proto::EntriesRequest { from }).await;
            let broken = |status: tonic::Status| NotFetched::Broken(status.message().to_owned());
            let envelopes = reply.map_err(broken)?.into_inner().envelopes;
            if envelopes.is_empty() {
                return Ok(new);
            }
            let chain = Arc::clone(&shared.chain);
            let taken = spawn_blocking(move || chain.take(&envelopes));
            let taken = taken.await.map_err(|error| NotFetched::Broken(error.to_string()))?;
            match taken.map_err(NotFetched::Refused)? {
                0 => return Ok(new),
                some => new += some,
            }
        }
    };
    Done::Fetched(
        timeout(FETCH, all).await.unwrap_or_else(|_| Err(NotFetched::Broken("it took too long".to_owned()))),
    )
}

impl Shared {
    /// Has the one who calls `name` try now: it is there.
    pub(super) fn call_now(&self, name: &PillarId) {
        if let Some(caller) = locked(&self.callers).get(name) {
            caller.wake.notify_one();
        }
    }

    /// Has the one who calls `name` ask it for entries.
    pub(super) fn fetch_from(&self, name: &PillarId) {
        if let Some(caller) = locked(&self.callers).get(name) {
            caller.fetch.notify_one();
        }
    }
}
