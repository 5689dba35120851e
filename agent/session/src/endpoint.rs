//! One pillar's end of all its connections: makes them, and judges and answers on them later.

use crate::attested::{Attested, Client, Cut, PeerChannel, Server, Transport};
use crate::elsewhere::elsewhere;
use crate::entrance::Entrance;
use crate::error::{BoxError, Error, Refusal, Step};
use crate::exchange::Handshaken;
use crate::tls::{self, Door};
use crate::{Attester, Gatekeeper, PeerConnection, TlsSigner, limit};
use pillar_model::{Binding, Evidence, Nonce, PillarId, Role};
use pillar_wire::proto;
use pillar_wire::proto::peers_client::PeersClient;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, sink};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::Status;

/// One pillar's end. Clones are the same end.
pub struct Endpoint<A, G>(Arc<Inner<A, G>>);

impl<A, G> Clone for Endpoint<A, G> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A, G> fmt::Debug for Endpoint<A, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("signer", &self.0.signer).finish_non_exhaustive()
    }
}

struct Inner<A, G> {
    signer: Arc<dyn TlsSigner>,
    attester: Arc<A>,
    gatekeeper: Arc<G>,
    random: SystemRandom,
    /// Threads for handshakes of either direction. Apart, so that strangers who connect, for whom the TPM must sign
    /// before they prove anything, leave one for dialling.
    dialling: Arc<Semaphore>,
    accepting: Arc<Semaphore>,
    judging: Arc<Semaphore>,
    /// Connections that came in and are not attested yet.
    entrance: Entrance,
    /// Members who connected.
    callers: Mutex<HashMap<PillarId, Caller>>,
}

/// A member who connected. It has one connection that is attested and one in the making, whatever it tries, and keeps
/// the TPM busy for a part of the time only.
#[derive(Default)]
struct Caller {
    /// Its newest connection in the making; who finds its sender gone gives up.
    making: Option<oneshot::Sender<()>>,
    /// Its newest attested connection.
    attested: Option<Cut>,
    /// When evidence was last made for it.
    shown: Option<Instant>,
}

impl<A: Attester, G: Gatekeeper> Endpoint<A, G> {
    /// An end with this key, this evidence and these rules.
    pub fn new(signer: Arc<dyn TlsSigner>, attester: Arc<A>, gatekeeper: Arc<G>) -> Self {
        Self(Arc::new(Inner {
            signer,
            attester,
            gatekeeper,
            random: SystemRandom::new(),
            dialling: Arc::new(Semaphore::new(limit::SIGNING)),
            accepting: Arc::new(Semaphore::new(limit::SIGNING)),
            judging: Arc::new(Semaphore::new(limit::JUDGING)),
            entrance: Entrance::new(limit::UNATTESTED, limit::UNATTESTED_PER_SOURCE),
            callers: Mutex::default(),
        }))
    }

    /// Attests with `expected`, who is called over `transport`, and is attested by it.
    pub async fn dial(
        &self,
        transport: impl Transport,
        expected: &PillarId,
    ) -> Result<Attested<Client, G::Proof>, Error> {
        let made = async {
            let door = self.door(Some(expected));
            let tls = timed(Step::Tls, limit::HANDSHAKE, self.connect(&door, transport)).await?;
            self.handshaken(tls.into(), &door, Role::Client)?.attest(self).await
        };
        timed(Step::Evidence, limit::OVERALL, made).await
    }

    /// Attests with whoever connected over `transport`, and is attested by it. The connection that this member made
    /// before is cut: it would not call anew if it had it still. While many connect, each address has its share.
    pub async fn accept(
        &self,
        transport: impl Transport,
        from: IpAddr,
    ) -> Result<Attested<Server, G::Proof>, Error> {
        let busy = Error::Busy { limit: limit::UNATTESTED };
        let Ok((mut guest, displaced)) = self.0.entrance.enter(from) else { return Err(busy) };
        let made = async {
            let door = self.door(None);
            let tls = timed(Step::Tls, limit::HANDSHAKE, self.answer_connect(&door, transport));
            let tls = tokio::select! {
                biased;
                _ = displaced => return Err(busy),
                tls = tls => tls?,
            };
            let handshaken = self.handshaken(tls.into(), &door, Role::Server)?;
            guest.is_known();
            let peer = handshaken.peer().clone();
            let newest = self.newest_of(&peer);
            tokio::select! {
                biased;
                _ = newest => Err(Error::Displaced { peer }),
                attested = handshaken.attest(self) => attested,
            }
        };
        let attested = timed(Step::Evidence, limit::OVERALL, made).await?;
        let before =
            self.caller(attested.peer(), |caller| caller.attested.replace(attested.channel().cut.clone()));
        if let Some(before) = before {
            before.cut("it connected anew");
        }
        Ok(attested)
    }

    /// Has the peer prove itself anew on its attested connection.
    pub async fn reattest(
        &self,
        client: &mut PeersClient<PeerConnection>,
        channel: &PeerChannel,
    ) -> Result<G::Proof, Error> {
        let nonce = self.nonce()?;
        let request = proto::ReattestRequest { nonce: nonce.0.to_vec() };
        let reply = timed(Step::Reattestation, limit::EVIDENCE, async {
            client.reattest(request).await.map_err(|status| reattest_failure(channel, &status))
        });
        let evidence = reply.await?.into_inner().try_into().map_err(|error: pillar_wire::FieldError| {
            let peer = Some(channel.peer.clone());
            Error::Protocol { peer, step: Step::Reattestation, reason: error.to_string() }
        })?;
        let refused = |refusal| Error::Refused { peer: Some(channel.peer.clone()), refusal };
        let (proof, heartbeat_key) =
            self.judge(&channel.peer, evidence, channel.peer_binding(nonce)).await?.map_err(refused)?;
        if heartbeat_key != channel.heartbeat_key {
            return Err(refused(Refusal::HeartbeatKey));
        }
        Ok(proof)
    }

    /// Answers `Peers.Reattest` on `channel`.
    pub async fn answer(
        &self,
        channel: &PeerChannel,
        request: proto::ReattestRequest,
    ) -> Result<proto::PeerEvidence, Status> {
        let _one = channel
            .answering
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("evidence for this connection is being made"))?;
        let nonce = <[u8; 32]>::try_from(request.nonce.as_slice())
            .map_err(|_| Status::invalid_argument("nonce must have 32 bytes"))?;
        self.pace(&channel.peer).await;
        let evidence = self.prove(channel.own_binding(Nonce(nonce))).await;
        evidence.map(Into::into).map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Random bytes of the machine's generator.
    pub(crate) fn nonce(&self) -> Result<Nonce, Error> {
        let mut nonce = Nonce([0; 32]);
        self.0.random.fill(&mut nonce.0).map_err(|_| own("draw a nonce", "the random generator failed"))?;
        Ok(nonce)
    }

    /// This pillar's evidence.
    pub(crate) async fn prove(&self, binding: Binding) -> Result<Evidence, Error> {
        let made = timed(Step::Evidence, limit::EVIDENCE, async {
            self.0.attester.evidence(binding).await.map_err(|source| own("make its evidence", source))
        });
        made.await
    }

    /// The gatekeeper's judgement with the evidence's heartbeat key, made on a thread that may take its time.
    pub(crate) async fn judge(
        &self,
        peer: &PillarId,
        evidence: Evidence,
        binding: Binding,
    ) -> Result<Result<(G::Proof, Vec<u8>), Refusal>, Error> {
        let (gatekeeper, peer) = (Arc::clone(&self.0.gatekeeper), peer.clone());
        let turn = Arc::clone(&self.0.judging).acquire_owned().await.map_err(|e| own("judge evidence", e))?;
        let judged = spawn_blocking(move || {
            let _turn = turn;
            let heartbeat_key = evidence.heartbeat_key.clone();
            gatekeeper.judge(&peer, evidence, &binding).map(|proof| (proof, heartbeat_key))
        });
        judged.await.map_err(|error| own("judge evidence", error))
    }

    fn door(&self, expected: Option<&PillarId>) -> Arc<Door<G>> {
        Door::new(&self.0.gatekeeper, self.0.signer.spki(), expected)
    }

    async fn connect<S: Transport>(
        &self,
        door: &Arc<Door<G>>,
        transport: S,
    ) -> Result<tokio_rustls::client::TlsStream<S>, Error> {
        let config = tls::client_config(&self.0.signer, door).map_err(|e| own("set up TLS", e))?;
        let handshake =
            TlsConnector::from(Arc::new(config)).connect(tls::nobody(), transport).into_fallible();
        let done = elsewhere(&self.0.dialling, handshake).await.map_err(|e| own("run the handshake", e))?;
        refused_or_failed(door, done).await
    }

    async fn answer_connect<S: Transport>(
        &self,
        door: &Arc<Door<G>>,
        transport: S,
    ) -> Result<tokio_rustls::server::TlsStream<S>, Error> {
        let config = tls::server_config(&self.0.signer, door).map_err(|e| own("set up TLS", e))?;
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(transport).into_fallible();
        let done = elsewhere(&self.0.accepting, handshake).await.map_err(|e| own("run the handshake", e))?;
        refused_or_failed(door, done).await
    }

    /// What the finished handshake says about the other end.
    fn handshaken<S: Transport>(
        &self,
        tls: TlsStream<S>,
        door: &Door<G>,
        role: Role,
    ) -> Result<Handshaken<S>, Error> {
        let refused = |refusal| Error::Refused { peer: None, refusal };
        let (_, session) = tls.get_ref();
        let peer_spki = tls::peer_spki(session).unwrap_or_default().to_vec();
        let peer = door.admit(&peer_spki).map_err(refused)?;
        let broken = |reason: String| Error::Protocol { peer: Some(peer.clone()), step: Step::Tls, reason };
        tls::check_agreed(session).map_err(|reason| broken(reason.to_owned()))?;
        let exporter = tls::exporter(&tls).map_err(|error| broken(error.to_string()))?;
        let own_spki = self.0.signer.spki().to_vec();
        Ok(Handshaken { tls, peer, role, exporter, own_spki, peer_spki })
    }

    /// Makes this the member's newest connection in the making, and whichever was gives up.
    fn newest_of(&self, peer: &PillarId) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.caller(peer, |caller| caller.making = Some(sender));
        receiver
    }

    /// Waits until evidence may be made for a member that asks for it.
    pub(crate) async fn pace(&self, peer: &PillarId) {
        if let Some(shown) = self.caller(peer, |caller| caller.shown) {
            sleep_until(shown + limit::EVIDENCE_PAUSE).await;
        }
        self.caller(peer, |caller| caller.shown = Some(Instant::now()));
    }

    fn caller<T>(&self, peer: &PillarId, with: impl FnOnce(&mut Caller) -> T) -> T {
        let mut callers = self.0.callers.lock().unwrap_or_else(PoisonError::into_inner);
        with(callers.entry(peer.clone()).or_default())
    }
}

/// The handshake's stream, or whose fault it was. Lets the alert arrive.
async fn refused_or_failed<G: Gatekeeper, T, S: Transport>(
    door: &Door<G>,
    done: Result<T, (io::Error, S)>,
) -> Result<T, Error> {
    let (source, mut transport) = match done {
        Ok(stream) => return Ok(stream),
        Err(failed) => failed,
    };
    linger(&mut transport).await;
    Err(match door.refusal() {
        Some(refusal) => Error::Refused { peer: None, refusal },
        None => tls::failure(None, Step::Tls, source),
    })
}

/// Ends a connection so that what was written last arrives: a socket that is closed with unread bytes is reset, and the
/// other end may lose why.
pub(crate) async fn linger(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let _ = timeout(limit::LINGER, async {
        io.shutdown().await?;
        copy(&mut io.take(limit::LINGER_BYTES), &mut sink()).await
    })
    .await;
}

/// `future` within `limit`.
pub(crate) async fn timed<T>(
    step: Step,
    limit: Duration,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, future).await.unwrap_or(Err(Error::Silent { step, limit }))
}

pub(crate) fn own(what: &'static str, source: impl Into<BoxError>) -> Error {
    Error::Own { what, source: source.into() }
}

fn reattest_failure(channel: &PeerChannel, status: &Status) -> Error {
    channel.cut_error().unwrap_or_else(|| Error::Broken {
        step: Step::Reattestation,
        source: io::Error::other(crate::error::harmless(&status.to_string(), crate::error::REASON_BYTES)),
    })
}
