//! A connection on which both ends have believed each other's evidence, what ties later evidence to it, and the handle
//! that cuts it.

use crate::error::Error;
use pillar_model::{Binding, Nonce, PillarId, Role};
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, watch};

/// Anything that bytes go over: TCP, or a pipe in tests.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// This pillar dialled: it is the client of HTTP/2.
#[derive(Debug)]
pub enum Client {}

/// This pillar accepted: it is the server of HTTP/2.
#[derive(Debug)]
pub enum Server {}

/// Proof that a connection's ends believe each other, together with the connection. Made by `Endpoint::dial` and
/// `Endpoint::accept` alone, and the only thing that HTTP/2 starts on. `P` is what the gatekeeper made of the evidence.
pub struct Attested<R, P> {
    pub(crate) channel: Arc<PeerChannel>,
    proof: P,
    io: Box<dyn Transport>,
    role: PhantomData<R>,
}

impl<R, P> Attested<R, P> {
    pub(crate) fn new(channel: Arc<PeerChannel>, proof: P, io: Box<dyn Transport>) -> Self {
        Self { channel, proof, io, role: PhantomData }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &PillarId {
        &self.channel.peer
    }

    /// What its evidence proved when the connection was made.
    #[must_use]
    pub fn proof(&self) -> &P {
        &self.proof
    }

    /// What is known of the connection; every request on it carries this.
    #[must_use]
    pub fn channel(&self) -> &Arc<PeerChannel> {
        &self.channel
    }

    /// Hands the proof to whoever watches its age. The connection stays attested.
    #[must_use]
    pub fn split(self) -> (P, Attested<R, ()>) {
        let Self { channel, proof, io, role } = self;
        (proof, Attested { channel, proof: (), io, role })
    }

    /// The connection for HTTP/2.
    pub(crate) fn into_io(self) -> Io {
        Io {
            inner: self.io,
            cut: self.channel.cut.clone(),
            cutting: Some(Box::pin(self.channel.cut.happened())),
        }
    }
}

impl<R, P> fmt::Debug for Attested<R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attested").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// What is known of one attested connection.
pub struct PeerChannel {
    pub(crate) peer: PillarId,
    /// This pillar's end.
    pub(crate) role: Role,
    pub(crate) exporter: [u8; pillar_verify::EXPORTER_BYTES],
    pub(crate) own_spki: Vec<u8>,
    pub(crate) peer_spki: Vec<u8>,
    pub(crate) heartbeat_key: Vec<u8>,
    pub(crate) cut: Cut,
    /// Evidence for the peer is made one at a time: each keeps the TPM busy.
    pub(crate) answering: Semaphore,
}

impl PeerChannel {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &PillarId {
        &self.peer
    }

    /// The key that its heartbeats are signed with: Ed25519, 32 bytes, covered by its quote.
    #[must_use]
    pub fn heartbeat_key(&self) -> &[u8] {
        &self.heartbeat_key
    }

    /// The key that it proved in TLS: SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn peer_spki(&self) -> &[u8] {
        &self.peer_spki
    }

    /// What this pillar's evidence for the peer's challenge is tied to.
    pub(crate) fn own_binding(&self, nonce: Nonce) -> Binding {
        Binding {
            role: self.role,
            nonce,
            exporter: self.exporter.to_vec(),
            attester_spki: self.own_spki.clone(),
            verifier_spki: self.peer_spki.clone(),
        }
    }

    /// What the peer's evidence for this pillar's challenge must be tied to.
    pub(crate) fn peer_binding(&self, nonce: Nonce) -> Binding {
        let role = match self.role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        Binding {
            role,
            nonce,
            exporter: self.exporter.to_vec(),
            attester_spki: self.peer_spki.clone(),
            verifier_spki: self.own_spki.clone(),
        }
    }

    /// The handle that cuts the connection.
    #[must_use]
    pub fn cut(&self) -> &Cut {
        &self.cut
    }

    /// The error of a connection that was cut.
    pub(crate) fn cut_error(&self) -> Option<Error> {
        self.cut.reason().map(|reason| Error::Cut { peer: self.peer.clone(), reason: reason.to_string() })
    }
}

impl fmt::Debug for PeerChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerChannel")
            .field("peer", &self.peer)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Ends a connection at once, requests in progress included. Clones cut the same connection; the first reason stays.
#[derive(Debug, Clone)]
pub struct Cut(Arc<watch::Sender<Option<Arc<str>>>>);

impl Cut {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Cuts.
    pub fn cut(&self, reason: &str) {
        self.0.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(reason.into());
            }
            first
        });
    }

    /// Why it was cut, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<Arc<str>> {
        self.0.borrow().clone()
    }

    /// Ends when the connection is cut.
    pub(crate) fn happened(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.0.subscribe();
        // Keeps a sender, without which the wait would end uncut.
        let sender = self.clone();
        async move {
            let _ = state.wait_for(Option::is_some).await;
            drop(sender);
        }
    }
}

/// The byte stream of an attested connection. Fails at once when it is cut, also for a reader that waits.
pub(crate) struct Io {
    inner: Box<dyn Transport>,
    cut: Cut,
    /// None once it has happened.
    cutting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Io {
    /// An error when cut. Wakes the task of the last call: HTTP/2 reads and writes in one.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(cutting) = &mut self.cutting
            && cutting.as_mut().poll(cx).is_pending()
        {
            return Ok(());
        }
        self.cutting = None;
        let reason = self.cut.reason().unwrap_or_default();
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, format!("the connection was cut: {reason}")))
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").field("cut", &self.cut).finish_non_exhaustive()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
