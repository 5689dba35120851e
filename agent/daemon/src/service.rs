//! The calls of `pillar.v1.Pillar`: message in, typed work, message or status out.

use crate::attest::{self, Attester};
use crate::chain::{self, Submitted};
use crate::channel::Channel;
use crate::logs::{self, Records};
use crate::metrics::{self, Metrics};
use crate::peers::Shared;
use crate::peers::beat::wall_unix_ms;
use crate::places::{self, Places};
use crate::recovery::{Progress, Recovery};
use pillar_layout::{request, root};
use pillar_model::PillarId;
use pillar_wire::{Challenge, Identity, Status as PillarStatus, proto};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error as StdError;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};
use tracing::{info, warn};

/// What the calls work with.
pub struct Pillar {
    /// Files.
    pub places: Arc<Places>,
    /// The TPM.
    pub attester: Attester,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Shares of the recovery key.
    pub recovery: Recovery,
    /// The other pillars.
    pub peers: Arc<Shared>,
}

impl Pillar {
    /// The metrics page.
    pub fn metrics(&self) -> String {
        let boot = self.places.boot().ok();
        self.metrics.text(boot.as_ref(), uptime(), metrics::resident_bytes())
    }
}

/// Time since the kernel started, suspended time included.
fn uptime() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

fn channel<T>(request: &Request<T>) -> Result<Arc<Channel>, Status> {
    request
        .extensions()
        .get::<Arc<Channel>>()
        .cloned()
        .ok_or_else(|| Status::internal("a request outside of a connection"))
}

#[tonic::async_trait]
impl proto::pillar_server::Pillar for Pillar {
    type LogsStream = Records;

    async fn status(
        &self,
        _request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusReply>, Status> {
        let boot = self.places.boot().map_err(|error| no_log(&error))?;
        Ok(Response::new(PillarStatus { boot, uptime: uptime() }.into()))
    }

    async fn identity(
        &self,
        request: Request<proto::IdentityRequest>,
    ) -> Result<Response<proto::IdentityReply>, Status> {
        let channel = channel(&request)?;
        let identity =
            self.attester.identity().await.map_err(|error| refused(&channel, "identity", &error))?;
        let pillar_tpm::Identity {
            ek_public,
            ek_certificate,
            ak_public,
            tls_public,
            tls_attest,
            tls_signature,
            ..
        } = identity;
        let identity =
            Identity { ek_public, ek_certificate, ak_public, tls_public, tls_attest, tls_signature };
        Ok(Response::new(identity.into()))
    }

    async fn evidence(
        &self,
        request: Request<proto::EvidenceRequest>,
    ) -> Result<Response<proto::EvidenceReply>, Status> {
        let channel = channel(&request)?;
        let challenge = Challenge::try_from(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let binding = channel.binding(challenge.nonce);
        let evidence = self
            .attester
            .evidence(challenge, binding)
            .await
            .map_err(|error| refused(&channel, "evidence", &error))?;
        info!("evidence made for {channel}");
        Ok(Response::new(evidence.into()))
    }

    async fn logs(&self, request: Request<proto::LogsRequest>) -> Result<Response<Records>, Status> {
        let channel = channel(&request)?;
        let proto::LogsRequest { tail, follow } = request.into_inner();
        logs::stream(&self.places, tail, follow, channel).map(Response::new)
    }

    async fn reboot(
        &self,
        request: Request<proto::RebootRequest>,
    ) -> Result<Response<proto::RebootReply>, Status> {
        let channel = channel(&request)?;
        let word = if request.into_inner().power_off { request::POWER_OFF } else { request::REBOOT };
        warn!("{word} asked for by {channel}");
        ask_init(&self.places, word).map_err(|error| {
            Status::unavailable(format!(
                "init does not take the request: {error}; see its records in the log"
            ))
        })?;
        Ok(Response::new(proto::RebootReply {}))
    }

    async fn state(
        &self,
        _request: Request<proto::StateRequest>,
    ) -> Result<Response<proto::StateReply>, Status> {
        let report = self.places.state().map_err(|error| no_log(&error))?;
        let (total_bytes, free_bytes) = match rustix::fs::statvfs(root::STATE_MOUNT) {
            Ok(stat) if report.is_open() => {
                (stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize))
            }
            _ => (0, 0),
        };
        let report = serde_json::to_string(&report).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(proto::StateReply { report, total_bytes, free_bytes }))
    }

    async fn offer_share(
        &self,
        request: Request<proto::OfferShareRequest>,
    ) -> Result<Response<proto::OfferShareReply>, Status> {
        let channel = channel(&request)?;
        let proto::OfferShareRequest { index, value } = request.into_inner();
        let value = zeroize::Zeroizing::new(value);
        let report = self.places.state().map_err(|error| no_log(&error))?;
        let progress = self.recovery.offer(&report, index, &value, Instant::now());
        let progress = progress.map_err(|error| {
            warn!("share of {channel} refused: {}", words(&error));
            Status::failed_precondition(words(&error))
        })?;
        let (have, needed) = match progress {
            Progress::Waiting { have, needed } => (have, needed),
            Progress::Complete { needed, key } => {
                self.places.leave_recovery_key(key.as_slice()).map_err(|error| no_log(&error))?;
                ask_init(&self.places, request::RECOVER).map_err(|error| {
                    Status::unavailable(format!("init does not take the request: {error}"))
                })?;
                (needed, needed)
            }
        };
        warn!("share {index} of the recovery key given by {channel}, {have} of {needed}");
        Ok(Response::new(proto::OfferShareReply { have: have.into(), needed: needed.into() }))
    }

    async fn erase_state(
        &self,
        request: Request<proto::EraseStateRequest>,
    ) -> Result<Response<proto::EraseStateReply>, Status> {
        let channel = channel(&request)?;
        let meant = request.into_inner().uuid;
        let report = self.places.state().map_err(|error| no_log(&error))?;
        if meant != report.uuid {
            let here = if report.uuid.is_empty() { "a volume without a UUID" } else { &report.uuid };
            return Err(Status::failed_precondition(format!("the state volume is {here}, not {meant:?}")));
        }
        warn!("erasing the state volume asked for by {channel}");
        ask_init(&self.places, request::ERASE)
            .map_err(|error| Status::unavailable(format!("init does not take the request: {error}")))?;
        Ok(Response::new(proto::EraseStateReply {}))
    }

    async fn cluster(
        &self,
        _request: Request<proto::ClusterRequest>,
    ) -> Result<Response<proto::ClusterReply>, Status> {
        Ok(Response::new(self.peers.cluster_reply()))
    }

    async fn entries(
        &self,
        request: Request<proto::EntriesRequest>,
    ) -> Result<Response<proto::EntriesReply>, Status> {
        let chain = Arc::clone(&self.peers.chain);
        let from = request.into_inner().from;
        let reply = move || proto::EntriesReply { envelopes: chain.entries(from), pending: chain.pending() };
        // Off the event loop: they are on the disk.
        let reply = tokio::task::spawn_blocking(reply).await;
        reply.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }

    async fn submit(
        &self,
        request: Request<proto::SubmitRequest>,
    ) -> Result<Response<proto::SubmitReply>, Status> {
        let channel = channel(&request)?;
        let envelope = request.into_inner().envelope;
        let chain = Arc::clone(&self.peers.chain);
        let now = wall_unix_ms() / 1000;
        // Off the event loop: an entry is synced to the disk.
        let submitted = tokio::task::spawn_blocking(move || chain.submit(&envelope, now)).await;
        let submitted = submitted.map_err(|error| Status::internal(error.to_string()))?;
        let Submitted { serial, have, needed, applied } = submitted.map_err(|error| {
            warn!("entry given by {channel} refused: {}", words(&error));
            not_taken(&error)
        })?;
        match applied {
            true if needed > 0 => info!("entry {serial} approved, given by {channel}"),
            true => {}
            false if have >= needed => {
                info!("entry {serial} of {channel} is signed and held back until one in force follows it");
            }
            false => info!("entry {serial} proposed by {channel}, {have} of {needed} signatures"),
        }
        Ok(Response::new(proto::SubmitReply { serial, have, needed, applied }))
    }

    async fn attest_peer(
        &self,
        request: Request<proto::AttestPeerRequest>,
    ) -> Result<Response<proto::Peer>, Status> {
        let name = request.into_inner().name;
        let unknown = || Status::not_found(format!("{name:?} is no member of this pillar's cluster"));
        let name: PillarId = name.parse().map_err(|_| unknown())?;
        let cluster = self.peers.chain.cluster().ok_or_else(|| {
            Status::failed_precondition("this pillar belongs to no cluster: `pillar found` makes one")
        })?;
        if cluster.member(&name).is_none() {
            return Err(unknown());
        }
        if self.peers.own_name(&cluster).as_ref() == Some(&name) {
            return Err(Status::invalid_argument(format!("{name} is this pillar: ask another one")));
        }
        self.peers.attest_now(&name).await;
        self.peers.peer_reply(&cluster, &name).map(Response::new).ok_or_else(unknown)
    }
}

fn not_taken(error: &chain::Error) -> Status {
    match error {
        chain::Error::Refused(refusal) => {
            Status::failed_precondition(format!("{}; {}", words(error), refusal.hint()))
        }
        chain::Error::Envelope(envelope) => {
            Status::invalid_argument(format!("{}; {}", words(error), envelope.hint()))
        }
        chain::Error::NoPlace(_) => Status::failed_precondition(words(error)),
        chain::Error::Full { .. } => Status::resource_exhausted(words(error)),
        chain::Error::File { .. } => Status::unavailable(words(error)),
    }
}

fn ask_init(places: &Places, word: &str) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // Init's queue being full is an answer too: it has been asked already.
    socket.set_nonblocking(true)?;
    socket.send_to(word.as_bytes(), places.init_socket()).map(drop)
}

/// The error and its causes in one line.
pub fn words(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn no_log(error: &places::Error) -> Status {
    match error {
        places::Error::NoEventLog | places::Error::NoCel => Status::failed_precondition(words(error)),
        places::Error::File { .. } => Status::unavailable(words(error)),
        places::Error::TooLarge { .. } | places::Error::Boot { .. } => Status::internal(words(error)),
    }
}

fn refused(channel: &Channel, what: &str, error: &attest::Error) -> Status {
    warn!("no {what} for {channel}: {}", words(error));
    match error {
        attest::Error::Busy => Status::resource_exhausted(words(error)),
        attest::Error::TimedOut => Status::deadline_exceeded(words(error)),
        attest::Error::Stopping => Status::unavailable(words(error)),
        attest::Error::Unstable => Status::aborted(words(error)),
        attest::Error::Log(error) => no_log(error),
        attest::Error::Tpm(pillar_tpm::Error::Busy { .. }) => Status::unavailable(words(error)),
        attest::Error::Tpm(pillar_tpm::Error::Credential { .. } | pillar_tpm::Error::Pcr { .. }) => {
            Status::invalid_argument(words(error))
        }
        attest::Error::Tpm(_) => Status::failed_precondition(words(error)),
    }
}
