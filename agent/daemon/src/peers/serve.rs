//! Answers the other pillars: listens, lets in who is attested, takes heartbeats, gives evidence and entries.

use super::beat::wall_unix_ms;
use super::heartbeat;
use super::table::{HeartbeatError, Refusal as Refused};
use super::{Shared, locked};
use crate::service::words;
use crate::throttle::Throttle;
use pillar_layout::PEER_PORT;
use pillar_model::{Binding, Evidence, PillarId};
use pillar_session::{BoxError, Endpoint, Error, PeerChannel, Refusal, TlsSigner};
use pillar_verify::Verified;
use pillar_wire::proto::peers_server::PeersServer;
use pillar_wire::{limit, proto};
use ring::digest::{SHA256, digest};
use rustix::net::sockopt;
use std::cmp::Ordering as Cmp;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

/// Open connections, unattested ones included: two of each member of the largest cluster.
const CONNECTIONS: usize = 128;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the other end's kernel may acknowledge nothing.
const UNACKNOWLEDGED: Duration = Duration::from_secs(14);
/// Between two heartbeats of one connection.
const BEAT_PAUSE: Duration = Duration::from_millis(250);
/// One heartbeat in so many is answered, for the round trip. That a connection still carries them, the kernel watches.
pub const ANSWER_EVERY: u64 = 16;
/// Answers to heartbeats that wait to be sent.
const ANSWERS: usize = 2;

/// This pillar's end of its connections with others.
pub type OwnEndpoint = Endpoint<Attests, Judges>;

/// Binds the peers' port on every address, or this one.
pub fn listen(addr: Option<SocketAddr>) -> io::Result<StdTcpListener> {
    match addr {
        Some(addr) => StdTcpListener::bind(addr),
        None => StdTcpListener::bind((Ipv6Addr::UNSPECIFIED, PEER_PORT))
            .or_else(|_| StdTcpListener::bind((Ipv4Addr::UNSPECIFIED, PEER_PORT))),
    }
}

/// The end with the TPM's key, the TPM's evidence and the chain's rules.
pub fn endpoint(shared: &Arc<Shared>, spki: &[u8]) -> OwnEndpoint {
    let signer = Signs { shared: Arc::clone(shared), spki: spki.to_vec() };
    let (attests, judges) = (Attests(Arc::clone(shared)), Judges(Arc::clone(shared)));
    Endpoint::new(Arc::new(signer), Arc::new(attests), Arc::new(judges))
}

struct Signs {
    shared: Arc<Shared>,
    spki: Vec<u8>,
}

impl fmt::Debug for Signs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the TPM's TLS key")
    }
}

impl TlsSigner for Signs {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, message).as_ref());
        self.shared.attester.sign_blocking(hash).map_err(io::Error::other)
    }
}

/// Makes evidence for peers.
pub struct Attests(Arc<Shared>);

impl pillar_session::Attester for Attests {
    fn evidence(&self, binding: Binding) -> impl Future<Output = Result<Evidence, BoxError>> + Send {
        let shared = Arc::clone(&self.0);
        async move { Ok(shared.attester.peer_evidence(binding, shared.key.public().to_vec()).await?) }
    }
}

/// Judges peers.
pub struct Judges(Arc<Shared>);

impl pillar_session::Gatekeeper for Judges {
    type Proof = Verified;

    fn admits(&self, tls_spki: &[u8]) -> Option<PillarId> {
        self.0.member_by_tls(tls_spki)
    }

    fn judge(&self, peer: &PillarId, evidence: Evidence, binding: &Binding) -> Result<Verified, Refusal> {
        self.0.judge_peer(peer, evidence, binding)
    }
}

/// What an error says about a member that has proved to be at the other end: that it is not believed, where it broke the
/// protocol. Evidence that did not hold was noted when it was judged.
pub fn condemn(shared: &Shared, error: &Error) {
    let (peer, check) = match error {
        Error::Protocol { peer: Some(peer), .. } => (peer, "protocol"),
        Error::Refused { peer: Some(peer), refusal: Refusal::HeartbeatKey } => (peer, "heartbeat key"),
        _ => return,
    };
    let refused = Refused {
        check: check.to_owned(),
        pcr: None,
        event: None,
        reason: words(error),
        hint: "look at that pillar's log; if it runs another version than this one, update it".to_owned(),
    };
    shared.refuse(peer, refused, None);
}

/// Small messages go at once, and the kernel gives a connection up whose other end does not acknowledge them: it sees
/// that without waking anybody.
pub fn tuned(tcp: &TcpStream) {
    let limit = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    let kept = tcp
        .set_nodelay(true)
        .and_then(|()| Ok(sockopt::set_socket_keepalive(tcp, true)?))
        .and_then(|()| Ok(sockopt::set_tcp_keepidle(tcp, UNACKNOWLEDGED)?))
        .and_then(|()| Ok(sockopt::set_tcp_user_timeout(tcp, limit)?));
    // A connection without them is found dead later, by the verdict that lapses.
    if let Err(error) = kept {
        warn!("cannot tune a connection: {error}");
    }
}

/// Accepts until it is dropped.
pub fn run(
    shared: Arc<Shared>,
    endpoint: Arc<OwnEndpoint>,
    listener: StdTcpListener,
) -> io::Result<impl Future<Output = ()> + Send> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    Ok(async move {
        let throttle = Arc::new(Mutex::new(Throttle::new(Instant::now())));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((tcp, from)) if connections.len() < CONNECTIONS => {
                        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                        let throttle = Arc::clone(&throttle);
                        connections.spawn(connection(Arc::clone(&shared), Arc::clone(&endpoint), tcp, from, throttle));
                    }
                    // Dropped: who called tries again.
                    Ok(_) => {}
                    Err(error) => {
                        warn!("cannot accept a pillar's connection: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    })
}

async fn connection(
    shared: Arc<Shared>,
    endpoint: Arc<OwnEndpoint>,
    tcp: TcpStream,
    from: SocketAddr,
    throttle: Arc<Mutex<Throttle>>,
) {
    tuned(&tcp);
    let attested = match endpoint.accept(tcp, from.ip()).await {
        Ok(attested) => attested,
        Err(error) => {
            condemn(&shared, &error);
            if locked(&throttle).allows(Instant::now()) {
                debug!("connection from {from}: {}", words(&error));
                if matches!(error, Error::Refused { .. }) {
                    warn!("refused {from}: {}", words(&error));
                }
            }
            return;
        }
    };
    let name = attested.peer().clone();
    let _kept = shared.connected(attested.channel());
    shared.call_now(&name);
    let (_, attested) = attested.split();
    let service = PeersServer::new(Service { shared: Arc::clone(&shared), endpoint })
        .max_decoding_message_size(limit::REQUEST_BYTES)
        .max_encoding_message_size(limit::REPLY_BYTES);
    match attested.serve(service, std::future::pending()).await {
        Ok(()) => debug!("{name} left"),
        Err(error) => debug!("{name}: {}", words(&error)),
    }
}

struct Service {
    shared: Arc<Shared>,
    endpoint: Arc<OwnEndpoint>,
}

impl Service {
    /// The connection of a request, if there is a live verdict about who is at its other end.
    fn channel<T>(&self, request: &Request<T>) -> Result<Arc<PeerChannel>, Status> {
        let channel = request.extensions().get::<Arc<PeerChannel>>().cloned();
        let channel =
            channel.ok_or_else(|| Status::internal("a request outside of an attested connection"))?;
        match self.shared.is_believed(&channel) {
            true => Ok(channel),
            false => Err(Status::permission_denied("no live verdict about you")),
        }
    }
}

#[tonic::async_trait]
impl proto::peers_server::Peers for Service {
    type BeatStream = ReceiverStream<Result<proto::BeatReply, Status>>;

    async fn beat(
        &self,
        request: Request<Streaming<proto::Heartbeat>>,
    ) -> Result<Response<Self::BeatStream>, Status> {
        let channel = self.channel(&request)?;
        let mut beats = request.into_inner();
        let (answers, unsent) = mpsc::channel(ANSWERS);
        let shared = Arc::clone(&self.shared);
        // Ends with the connection: reading fails then, also when it is cut.
        tokio::spawn(async move {
            let mut last = None;
            while let Ok(Some(beat)) = beats.message().await {
                // More than a backlog needs is not read.
                if let Some(early) = last.and_then(|at: Instant| BEAT_PAUSE.checked_sub(at.elapsed())) {
                    sleep(early).await;
                }
                last = Some(Instant::now());
                let answer = match shared.take_heartbeat(&channel, &beat) {
                    // Most of them say all by coming; an answer to each would double the traffic of an idle cluster.
                    Ok(sequence) if sequence % ANSWER_EVERY != 0 => continue,
                    Ok(sequence) => Ok(proto::BeatReply { sequence }),
                    Err(status) => Err(status),
                };
                let failed = answer.is_err();
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(unsent)))
    }

    async fn reattest(
        &self,
        request: Request<proto::ReattestRequest>,
    ) -> Result<Response<proto::PeerEvidence>, Status> {
        let channel = self.channel(&request)?;
        self.endpoint.answer(&channel, request.into_inner()).await.map(Response::new)
    }

    async fn chain(
        &self,
        request: Request<proto::EntriesRequest>,
    ) -> Result<Response<proto::EntriesReply>, Status> {
        self.channel(&request)?;
        let (chain, from) = (Arc::clone(&self.shared.chain), request.into_inner().from);
        // Off the event loop: they are on the disk.
        let envelopes = spawn_blocking(move || chain.entries(from)).await;
        let envelopes = envelopes.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(proto::EntriesReply { envelopes, pending: Vec::new() }))
    }
}

impl Shared {
    /// One heartbeat of the peer at the other end of `channel`: its number.
    fn take_heartbeat(&self, channel: &PeerChannel, beat: &proto::Heartbeat) -> Result<u64, Status> {
        let name = channel.peer();
        let key = channel.heartbeat_key();
        let heartbeat = heartbeat::open(beat, key, name, wall_unix_ms()).map_err(|error| {
            warn!("heartbeat of {name}: {error}");
            // TLS says that these are its own bytes.
            channel.cut().cut(&error.to_string());
            Status::invalid_argument(error.to_string())
        })?;
        let (sequence, serial, head) = (heartbeat.sequence, heartbeat.serial, heartbeat.head.clone());
        // The lock must be gone before a refusal takes it again.
        let heard = self.table().peer(name).heard(heartbeat, key, Instant::now());
        match heard {
            Ok(()) => {}
            Err(error @ HeartbeatError::Counters { .. }) => {
                let refused = Refused {
                    check: "counters".to_owned(),
                    pcr: None,
                    event: Some("the TPM was reset under the running system".to_owned()),
                    reason: error.to_string(),
                    hint: "reboot that pillar; if nobody reset its TPM, find out who did".to_owned(),
                };
                self.refuse(name, refused, None);
                self.judged(name);
                return Err(Status::permission_denied(error.to_string()));
            }
            Err(error) => return Err(Status::failed_precondition(error.to_string())),
        }
        self.compare_chains(name, serial, &head);
        Ok(sequence)
    }

    /// Fetches what the peer has more; notes when its chain is another one.
    fn compare_chains(&self, name: &PillarId, serial: u64, head: &[u8]) {
        let Some(cluster) = self.chain.cluster() else { return };
        match serial.cmp(&cluster.serial()) {
            Cmp::Greater => self.fetch_from(name),
            Cmp::Equal => self.note_fork(name, head != cluster.head().0),
            Cmp::Less => {}
        }
    }

    /// Keeps in mind who says that it has another chain. Its word alone: operators are told, nothing else follows.
    pub(super) fn note_fork(&self, name: &PillarId, forked: bool) {
        let mut forks = locked(&self.forks);
        if !forked {
            forks.remove(name);
        } else if forks.insert(name.clone()) {
            warn!("{name} says that it has another chain of entries than this pillar");
        }
    }
}
