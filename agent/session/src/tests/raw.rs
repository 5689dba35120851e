//! An end that has a member's TLS key and does with the frames whatever a test wants.

use super::doubles::{Members, Pillar};
use crate::TlsSigner;
use crate::attested::{Cut, PeerChannel, Transport};
use crate::exchange::PROTOCOL;
use crate::frame;
use crate::tls::{self, Door};
use pillar_model::{Nonce, PillarId, Role};
use pillar_wire::proto::{PeerEvidence, PeerHello, PeerVerdict};
use prost::Message;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// A step of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Hello,
    Evidence,
    Verdict,
}

/// What the raw end does instead of its part of a step.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// Says nothing and stays.
    Silence,
    /// Closes.
    Close,
    /// Announces half of a frame more than it sends, and closes.
    Truncated,
    /// These bytes, and stays.
    Bytes(Vec<u8>),
}

/// A frame as it goes over the wire.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message].concat()
}

/// A message, framed.
pub(super) fn frame_of(message: &impl Message) -> Vec<u8> {
    framed(&message.encode_to_vec())
}

/// The end of `own` over TLS, whoever answers. Does not return while the other end is silent.
pub(super) struct Raw<S> {
    pub(super) tls: TlsStream<S>,
    channel: PeerChannel,
}

fn door(own: &Pillar, peer: &Pillar) -> Arc<Door<Members>> {
    Door::new(&own.members, own.key.spki(), Some(&peer.name))
}

fn signer(own: &Pillar) -> Arc<dyn TlsSigner> {
    Arc::clone(&own.key) as Arc<dyn TlsSigner>
}

/// The client's configuration of `own`, to be spoiled.
pub(super) fn client_config(own: &Pillar, peer: &Pillar) -> ClientConfig {
    tls::client_config(&signer(own), &door(own, peer)).expect("a configuration")
}

/// The server's configuration of `own`, to be spoiled.
pub(super) fn server_config(own: &Pillar, peer: &Pillar) -> ServerConfig {
    tls::server_config(&signer(own), &door(own, peer)).expect("a configuration")
}

/// Connects with TLS.
pub(super) async fn tls_connect<S: Transport>(
    config: &Arc<ClientConfig>,
    io: S,
) -> std::io::Result<tokio_rustls::client::TlsStream<S>> {
    TlsConnector::from(Arc::clone(config)).connect(tls::nobody(), io).await
}

impl<S: Transport> Raw<S> {
    /// TLS with `peer`, in either role.
    pub(super) async fn new(own: &Pillar, peer: &Pillar, role: Role, io: S) -> Self {
        let stream = match role {
            Role::Client => {
                tls_connect(&Arc::new(client_config(own, peer)), io).await.expect("a handshake").into()
            }
            Role::Server => TlsStream::from(
                TlsAcceptor::from(Arc::new(server_config(own, peer))).accept(io).await.expect("a handshake"),
            ),
        };
        let channel = PeerChannel {
            peer: PillarId::clone(&peer.name),
            role,
            exporter: tls::exporter(&stream).expect("after the handshake"),
            own_spki: own.key.spki().to_vec(),
            peer_spki: peer.key.spki().to_vec(),
            heartbeat_key: Vec::new(),
            cut: Cut::new(),
            answering: Semaphore::new(1),
        };
        Self { tls: stream, channel }
    }

    async fn write(&mut self, bytes: &[u8]) {
        // The other end may have left already; its own error tells.
        let _ = self.tls.write_all(bytes).await;
        let _ = self.tls.flush().await;
    }

    /// The deed, if its step has come. True when that was the last thing to do.
    async fn deed(&mut self, now: At, deed: &Option<(At, Deed)>, proper: Vec<u8>) -> bool {
        match deed {
            Some((at, deed)) if *at == now => match deed {
                Deed::Silence => {}
                Deed::Close => {
                    let _ = self.tls.shutdown().await;
                }
                Deed::Truncated => {
                    self.write(&proper[..proper.len().div_ceil(2)]).await;
                    let _ = self.tls.shutdown().await;
                }
                Deed::Bytes(bytes) => self.write(bytes).await,
            },
            _ => {
                self.write(&proper).await;
                return false;
            }
        }
        // Whatever comes, until the other end has had enough.
        let _ = self.tls.read_to_end(&mut Vec::new()).await;
        true
    }

    /// Waits until the other end knows who this is: in TLS 1.3 who dials is done a moment earlier.
    pub(super) async fn is_heard(&mut self) {
        let _: PeerHello = frame::read(&mut self.tls, usize::MAX).await.expect("its nonce");
    }

    /// Does its part of the exchange as `own`, up to the deed. The peer's last frame is returned when all went well.
    pub(super) async fn exchange(&mut self, own: &Pillar, deed: Option<(At, Deed)>) -> Option<PeerVerdict> {
        let hello = PeerHello { nonce: vec![9; 32], protocol: PROTOCOL };
        if self.deed(At::Hello, &deed, frame_of(&hello)).await {
            return None;
        }
        let theirs: PeerHello = frame::read(&mut self.tls, usize::MAX).await.ok()?;
        let nonce = Nonce(theirs.nonce.try_into().expect("32 bytes"));
        let evidence = own.prover.evidence_for(&self.channel.own_binding(nonce), [7; 32]);
        if self.deed(At::Evidence, &deed, frame_of(&PeerEvidence::from(evidence))).await {
            return None;
        }
        let _: PeerEvidence = frame::read(&mut self.tls, usize::MAX).await.ok()?;
        let accepted = PeerVerdict { accepted: true, ..PeerVerdict::default() };
        if self.deed(At::Verdict, &deed, frame_of(&accepted)).await {
            return None;
        }
        frame::read(&mut self.tls, usize::MAX).await.ok()
    }
}
