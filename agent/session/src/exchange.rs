//! From a TLS handshake to an attested connection: three frames each way.
//!
//! ```text
//! Handshaken ── hello ──► evidence ──► verdict ──► Attested
//!      └─────────────┴──────────┴───────────┴────► Error
//! ```
//!
//! Both ends do the same at the same time: writing and reading of one frame go on together, so that two large frames
//! never wait for each other.
//!
//! **Invariant:** an `Attested` is made in one place, after the own gatekeeper's proof and the peer's acceptance.

use crate::attested::{Attested, Cut, PeerChannel, Transport};
use crate::endpoint::{Endpoint, linger, timed};
use crate::error::{CHECK_BYTES, Error, REASON_BYTES, Refusal, Step, harmless};
use crate::frame::{self, FrameError};
use crate::tls;
use crate::{Attester, Gatekeeper, limit};
use pillar_model::{Evidence, Nonce, PillarId, Role};
use pillar_wire::proto::{PeerEvidence, PeerHello, PeerVerdict};
use prost::Message;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::sync::Semaphore;
use tokio_rustls::TlsStream;

/// The version of the exchange; both ends must say the same.
pub(crate) const PROTOCOL: u32 = 1;

/// A member proved its key. Nothing is known yet of what runs there.
pub(crate) struct Handshaken<S> {
    pub(crate) tls: TlsStream<S>,
    pub(crate) peer: PillarId,
    pub(crate) role: Role,
    pub(crate) exporter: [u8; pillar_verify::EXPORTER_BYTES],
    pub(crate) own_spki: Vec<u8>,
    pub(crate) peer_spki: Vec<u8>,
}

impl<S: Transport> Handshaken<S> {
    pub(crate) fn peer(&self) -> &PillarId {
        &self.peer
    }

    /// Runs the exchange.
    pub(crate) async fn attest<R, A: Attester, G: Gatekeeper>(
        self,
        endpoint: &Endpoint<A, G>,
    ) -> Result<Attested<R, G::Proof>, Error> {
        let Self { tls, peer, role, exporter, own_spki, peer_spki } = self;
        let (mut reader, mut writer) = split(tls);
        let cut = Cut::new();
        let answering = Semaphore::new(1);
        let mut channel = PeerChannel {
            peer,
            role,
            exporter,
            own_spki,
            peer_spki,
            heartbeat_key: Vec::new(),
            cut,
            answering,
        };

        let nonce = endpoint.nonce()?;
        let hello = PeerHello { nonce: nonce.0.to_vec(), protocol: PROTOCOL };
        let sent = send(&channel, Step::Hello, &mut writer, &hello);
        let received = receive(&channel, Step::Hello, &mut reader);
        let ((), theirs) = tokio::try_join!(sent, received)?;
        let theirs = check_hello(&channel, &theirs)?;

        let sent = async {
            // Who dials chose the time itself.
            if channel.role == Role::Server {
                endpoint.pace(&channel.peer).await;
            }
            let evidence = PeerEvidence::from(endpoint.prove(channel.own_binding(theirs)).await?);
            send(&channel, Step::Evidence, &mut writer, &evidence).await
        };
        let judged = async {
            let message: PeerEvidence = receive(&channel, Step::Evidence, &mut reader).await?;
            let evidence = Evidence::try_from(message)
                .map_err(|error| protocol(&channel.peer, Step::Evidence, &error.to_string()))?;
            endpoint.judge(&channel.peer, evidence, channel.peer_binding(nonce)).await
        };
        let ((), judged) = tokio::try_join!(sent, judged)?;

        let own = verdict(judged.as_ref().err());
        let sent = send(&channel, Step::Verdict, &mut writer, &own);
        let (proof, heartbeat_key) = match judged {
            Ok(proved) => {
                let received = receive(&channel, Step::Verdict, &mut reader);
                let ((), theirs) = tokio::try_join!(sent, received)?;
                check_verdict(&channel, &theirs)?;
                proved
            }
            Err(refusal) => {
                // Refused already; whether it learns why is courtesy.
                let _ = sent.await;
                linger(&mut reader.unsplit(writer)).await;
                return Err(Error::Refused { peer: Some(channel.peer), refusal });
            }
        };
        channel.heartbeat_key = heartbeat_key;
        Ok(Attested::new(Arc::new(channel), proof, Box::new(reader.unsplit(writer))))
    }
}

/// The limits of the frame that is due in a step: time and bytes.
fn limits(step: Step) -> (std::time::Duration, usize) {
    match step {
        Step::Evidence => (limit::EVIDENCE, limit::EVIDENCE_FRAME_BYTES),
        Step::Verdict => (limit::VERDICT, limit::VERDICT_FRAME_BYTES),
        _ => (limit::HELLO, limit::HELLO_FRAME_BYTES),
    }
}

async fn send(
    channel: &PeerChannel,
    step: Step,
    writer: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> Result<(), Error> {
    timed(step, limits(step).0, async {
        frame::write(writer, message).await.map_err(|e| tls::failure(Some(&channel.peer), step, e))
    })
    .await
}

async fn receive<M: Message + Default>(
    channel: &PeerChannel,
    step: Step,
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<M, Error> {
    let (time, bytes) = limits(step);
    timed(step, time, async {
        frame::read(reader, bytes).await.map_err(|error| match error {
            FrameError::Io(source) => tls::failure(Some(&channel.peer), step, source),
            other => protocol(&channel.peer, step, &other.to_string()),
        })
    })
    .await
}

fn check_hello(channel: &PeerChannel, hello: &PeerHello) -> Result<Nonce, Error> {
    let wrong = |reason: String| protocol(&channel.peer, Step::Hello, &reason);
    if hello.protocol != PROTOCOL {
        return Err(wrong(format!("it speaks version {}, not {PROTOCOL}", hello.protocol)));
    }
    let nonce = hello.nonce.as_slice().try_into();
    nonce.map(Nonce).map_err(|_| wrong(format!("its nonce has {} bytes, not 32", hello.nonce.len())))
}

fn check_verdict(channel: &PeerChannel, verdict: &PeerVerdict) -> Result<(), Error> {
    if verdict.accepted {
        return Ok(());
    }
    Err(Error::RefusedByPeer {
        peer: Some(channel.peer.clone()),
        check: harmless(&verdict.check, CHECK_BYTES),
        reason: harmless(&verdict.reason, REASON_BYTES),
    })
}

fn verdict(refusal: Option<&Refusal>) -> PeerVerdict {
    match refusal {
        None => PeerVerdict { accepted: true, ..PeerVerdict::default() },
        Some(refusal) => PeerVerdict {
            accepted: false,
            check: harmless(refusal.check(), CHECK_BYTES),
            reason: harmless(&refusal.reason(), REASON_BYTES),
        },
    }
}

fn protocol(peer: &PillarId, step: Step, reason: &str) -> Error {
    Error::Protocol { peer: Some(peer.clone()), step, reason: reason.to_owned() }
}
