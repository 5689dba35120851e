//! The TPM's own thread: TPM commands block for up to seconds, and there is one TPM. Requests come through a bounded
//! queue, one is worked on at a time, and a caller waits no longer than a time-out, even if the TPM never answers. The
//! clock and counters of heartbeats do not wait in this queue: `peers/beat.rs` reads them on a connection of its own.

use crate::metrics::Metrics;
use crate::places::{self, Places};
use pillar_layout::pcr;
use pillar_model::{Bank, Binding, Evidence, PcrIndex};
use pillar_tpm::{Identity, Tpm};
use pillar_verify::qualifying_data;
use pillar_wire::Challenge;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Requests that may wait: some operators', and two for each peer that comes at the same moment.
const QUEUE: usize = 64;
/// How long a caller waits. Making an RSA EK takes a slow TPM half a minute, once.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a quote is made again because init measured something meanwhile. It does so at boot alone.
const TRIES: usize = 3;
/// The TSS libraries keep a few of their structures, 4 to 8 KiB each, on the stack.
const STACK_BYTES: usize = 512 * 1024;

/// Why there is no identity or evidence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The queue is full.
    #[error("the TPM is busy for {QUEUE} other callers; try again in some seconds")]
    Busy,
    /// The TPM did not answer in time.
    #[error("the TPM did not answer within {} s; try again, and if it stays so power the machine off and on", PATIENCE.as_secs())]
    TimedOut,
    /// The thread is gone: the agent is going down.
    #[error("the agent is stopping")]
    Stopping,
    /// Something was measured during each try.
    #[error("measurements were added during each of {TRIES} quotes; try again when the machine has booted")]
    Unstable,
    /// A log is missing.
    #[error(transparent)]
    Log(#[from] places::Error),
    /// The TPM refused.
    #[error(transparent)]
    Tpm(#[from] pillar_tpm::Error),
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Request {
    Identity(Reply<Identity>),
    Evidence(Box<Challenge>, Box<Binding>, Reply<Evidence>),
    PeerEvidence(Box<Binding>, Vec<u8>, Reply<Evidence>),
    Sign([u8; 32], Reply<Vec<u8>>),
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub struct Attester {
    requests: mpsc::Sender<Request>,
    tcti: Arc<str>,
}

impl Attester {
    /// Starts the thread. The TPM is opened with the first request.
    pub fn start(tcti: String, places: Arc<Places>, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let attester = Self { requests, tcti: tcti.as_str().into() };
        let worker = Worker { tcti, places, metrics, tpm: None };
        thread::Builder::new()
            .name("tpm".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.run(queue))?;
        Ok(attester)
    }

    /// EK with its certificate, AK, and the TLS key that the AK certified.
    pub async fn identity(&self) -> Result<Identity, Error> {
        self.ask(Request::Identity).await
    }

    /// Evidence for one challenge, tied to `binding`.
    pub async fn evidence(&self, challenge: Challenge, binding: Binding) -> Result<Evidence, Error> {
        self.ask(|reply| Request::Evidence(Box::new(challenge), Box::new(binding), reply)).await
    }

    /// Evidence for another pillar, who has the AK enrolled: no credential is activated.
    pub async fn peer_evidence(&self, binding: Binding, heartbeat_key: Vec<u8>) -> Result<Evidence, Error> {
        self.ask(|reply| Request::PeerEvidence(Box::new(binding), heartbeat_key, reply)).await
    }

    /// Where the TPM is, as tpm2-tss names it.
    pub fn tcti(&self) -> &str {
        &self.tcti
    }

    /// A signature by the TLS key over this SHA-256, as DER. Blocks: not for the event loop's thread.
    pub fn sign_blocking(&self, digest: [u8; 32]) -> Result<Vec<u8>, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Sign(digest, reply))?;
        // The thread answers each request or ends. Who waits here for a TPM that hangs is one of few threads, and the
        // handshake that it belongs to is given up in time.
        answer.blocking_recv().map_err(|_| Error::Stopping)?
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply))?;
        match timeout(PATIENCE, answer).await {
            Err(_) => Err(Error::TimedOut),
            Ok(Err(_)) => Err(Error::Stopping),
            Ok(Ok(result)) => result,
        }
    }

    fn send(&self, request: Request) -> Result<(), Error> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => Error::Stopping,
        })
    }
}

struct Worker {
    tcti: String,
    places: Arc<Places>,
    metrics: Arc<Metrics>,
    tpm: Option<Tpm>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        // Nobody waits any more for what `is_closed`: its caller gave up or went away.
        while let Some(request) = queue.blocking_recv() {
            match request {
                Request::Identity(reply) if !reply.is_closed() => {
                    let _ = reply.send(self.with_tpm(|tpm, _| Ok(tpm.identity()?)));
                }
                Request::Evidence(challenge, binding, reply) if !reply.is_closed() => {
                    let result = self.with_tpm(|tpm, places| evidence(tpm, places, &challenge, &binding));
                    self.metrics.count_quote(result.is_ok());
                    let _ = reply.send(result);
                }
                Request::PeerEvidence(binding, heartbeat_key, reply) if !reply.is_closed() => {
                    let result =
                        self.with_tpm(|tpm, places| peer_evidence(tpm, places, &binding, heartbeat_key));
                    self.metrics.count_quote(result.is_ok());
                    let _ = reply.send(result);
                }
                Request::Sign(digest, reply) if !reply.is_closed() => {
                    let _ = reply.send(self.with_tpm(|tpm, _| Ok(tpm.sign_tls(&digest)?)));
                }
                Request::Identity(_)
                | Request::Evidence(..)
                | Request::PeerEvidence(..)
                | Request::Sign(..) => {}
            }
        }
    }

    /// Runs with the TPM open; after an error of the TPM itself it is opened anew the next time.
    fn with_tpm<T>(&mut self, work: impl FnOnce(&mut Tpm, &Places) -> Result<T, Error>) -> Result<T, Error> {
        let tpm = match self.tpm.take() {
            Some(tpm) => tpm,
            None => Tpm::open(&self.tcti)?,
        };
        let tpm = self.tpm.insert(tpm);
        let result = work(tpm, &self.places);
        if let Err(Error::Tpm(error)) = &result
            && !error.is_about_the_request()
        {
            self.tpm = None;
        }
        result
    }
}

fn evidence(
    tpm: &mut Tpm,
    places: &Places,
    challenge: &Challenge,
    binding: &Binding,
) -> Result<Evidence, Error> {
    let activated = tpm.activate(&challenge.credential_blob, &challenge.encrypted_secret)?;
    let Identity { ak_public, ek_public, ek_certificate, .. } = tpm.identity()?;
    let quoted = quoted(tpm, places, challenge.bank, &challenge.pcrs, binding, Vec::new())?;
    Ok(Evidence { activated, ak_public, ek_public, ek_certificate, ..quoted })
}

/// What another pillar is shown: it knows the keys from the entry that admitted this machine.
fn peer_evidence(
    tpm: &mut Tpm,
    places: &Places,
    binding: &Binding,
    heartbeat_key: Vec<u8>,
) -> Result<Evidence, Error> {
    let pcrs = pcr::QUOTED.map(|pcr| PcrIndex::new(pcr).expect("the plan names PCRs that exist"));
    let Identity { ak_public, ek_public, .. } = tpm.identity()?;
    let quoted = quoted(tpm, places, Bank::Sha256, &pcrs, binding, heartbeat_key)?;
    Ok(Evidence { ak_public, ek_public, ..quoted })
}

/// The logs and a quote that covers them.
fn quoted(
    tpm: &mut Tpm,
    places: &Places,
    bank: Bank,
    pcrs: &[PcrIndex],
    binding: &Binding,
    heartbeat_key: Vec<u8>,
) -> Result<Evidence, Error> {
    for _ in 0..TRIES {
        let event_log = places.event_log()?;
        let cel = places.cel()?;
        let qualifying = qualifying_data(binding, &event_log, &cel, &heartbeat_key);
        let quote = tpm.quote(bank, pcrs, &qualifying)?;
        // Log and quote must tell the same: a measurement that came between them has moved the log. Init makes all of
        // its own before it starts the agent, so a second try is rare.
        if places.cel()? == cel {
            let pillar_tpm::Quote { attest, signature } = quote;
            return Ok(Evidence { attest, signature, event_log, cel, heartbeat_key, ..Evidence::default() });
        }
    }
    Err(Error::Unstable)
}
