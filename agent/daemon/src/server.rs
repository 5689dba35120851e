//! Accepts connections, makes sure of who is there, and serves gRPC and `/metrics` on each, within limits.
//!
//! A connection goes: TCP → TLS handshake (the operator's certificate) → HTTP/2 requests → closed by the client, by
//! silence, by newer ones of the same operator, by an entry that makes its operator none any more, or by the agent's
//! shutdown, which lets requests in progress finish for a short time.

use crate::access::{Access, Denied};
use crate::channel::Channel;
use crate::metrics::Metrics;
use crate::service::Pillar;
use crate::throttle::Throttle;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pillar_layout::AGENT_PORT;
use pillar_session::{Displaced, Entrance, Guest};
use pillar_wire::limit;
use pillar_wire::proto::pillar_server::PillarServer;
use pillar_wire::tls::spki;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, interval_at, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tower_service::Service as _;
use tracing::{debug, info, warn};

/// Open connections, handshakes included. Each takes up to 200 KiB.
const CONNECTIONS: usize = 32;
/// Of them those of one operator, or he could keep all others out, also those who would remove him. His newest pushes out his
/// own oldest.
const CONNECTIONS_PER_OPERATOR: usize = 8;
/// Handshakes of one address.
const HANDSHAKES_PER_SOURCE: usize = 16;
/// From the first byte to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection without a request for one to two of these is closed.
const IDLE: Duration = Duration::from_secs(300);
/// A unary call, and the beginning of a stream, take at most this long; the slowest is the TPM's, see `attest`.
const CALL: Duration = Duration::from_secs(90);
/// A silent peer is asked for a sign of life this often...
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// ...and given up when none comes within this time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls at once on one connection.
const STREAMS: u32 = 16;
/// All headers of a request together.
const HEADER_BYTES: u32 = 8 * 1024;
/// What a client may send ahead, per request and per connection. Requests are under 8 KiB.
const WINDOW_BYTES: u32 = 64 * 1024;
/// What waits to be sent, per stream.
const SEND_BYTES: usize = 64 * 1024;
/// How long requests in progress may take once the agent is told to stop. Init waits longer before it kills.
const DRAIN: Duration = Duration::from_secs(3);
/// How long a connection stays open whose operator is none any more: for the answer to the very entry that says so.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Pause after a failed accept: out of files or memory, trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Who has the channel of a connection on which nothing happens: its loop and its routes.
const IDLE_HOLDERS: usize = 2;

/// Nowhere to listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}; another program may have the port")]
pub struct ListenError {
    addr: SocketAddr,
    source: io::Error,
}

/// Binds `addr`, or every address of the machine: both families, IPv4 alone where the kernel has no IPv6.
pub fn listen(addr: Option<SocketAddr>) -> Result<StdTcpListener, ListenError> {
    let bind = |addr| StdTcpListener::bind(addr).map_err(|source| ListenError { addr, source });
    match addr {
        Some(addr) => bind(addr),
        None => bind((Ipv6Addr::UNSPECIFIED, AGENT_PORT).into())
            .or_else(|_| bind((Ipv4Addr::UNSPECIFIED, AGENT_PORT).into())),
    }
}

/// What all connections share.
struct Shared {
    tls: TlsAcceptor,
    own_spki: Vec<u8>,
    access: Arc<Access>,
    pillar: Arc<Pillar>,
    grpc: PillarServer<Pillar>,
    metrics: Arc<Metrics>,
    throttle: Mutex<Throttle>,
    entrance: Entrance,
}

/// The server.
pub struct Server {
    listener: StdTcpListener,
    shared: Arc<Shared>,
}

impl Server {
    /// A server that has not yet accepted anything.
    pub fn new(
        listener: StdTcpListener,
        tls: rustls::ServerConfig,
        own_spki: Vec<u8>,
        access: Arc<Access>,
        pillar: Pillar,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let pillar = Arc::new(pillar);
        let grpc = PillarServer::from_arc(Arc::clone(&pillar))
            .max_decoding_message_size(limit::OPERATOR_REQUEST_BYTES)
            .max_encoding_message_size(limit::REPLY_BYTES);
        let shared = Shared {
            tls: TlsAcceptor::from(Arc::new(tls)),
            own_spki,
            access,
            pillar,
            grpc,
            metrics,
            throttle: Mutex::new(Throttle::new(Instant::now())),
            entrance: Entrance::new(CONNECTIONS, HANDSHAKES_PER_SOURCE),
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// Serves until SIGTERM or SIGINT, then lets requests in progress finish.
    pub async fn run(self) -> io::Result<()> {
        let Self { listener, shared } = self;
        let listener = TcpListener::from_std(listener)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        info!("listening on {}", listener.local_addr()?);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((tcp, peer)) => match shared.entrance.enter(peer.ip()) {
                        Ok(guest) => {
                            let (peer, stopped) = (plain(peer), stopped.clone());
                            connections.spawn(connection(Arc::clone(&shared), tcp, peer, guest, stopped));
                        }
                        Err(crowded) => shared.refused(plain(peer), &crowded.to_string()),
                    },
                    Err(error) => {
                        warn!("cannot accept a connection: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            shared.metrics.set_connections(connections.len());
        }
        drop(listener);
        let open = connections.len();
        // Without a connection nobody listens.
        let _ = stop.send(true);
        let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
        match drained {
            Ok(()) => info!("stopped, {open} connections ended"),
            Err(_) => warn!("stopped, {} of {open} connections cut off", connections.len()),
        }
        Ok(())
    }
}

/// An IPv4 peer of the socket for both families, written as people do.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

impl Shared {
    fn refused(&self, peer: SocketAddr, reason: &str) {
        self.metrics.count_refused();
        if self.throttle.lock().unwrap_or_else(|e| e.into_inner()).allows(Instant::now()) {
            warn!("refused {peer}: {reason}");
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    tcp: TcpStream,
    peer: SocketAddr,
    (mut guest, displaced): (Guest, Displaced),
    stopped: watch::Receiver<bool>,
) {
    // Replies are whole messages; waiting to fill a packet only delays them.
    let _ = tcp.set_nodelay(true);
    let handshake = tokio::select! {
        biased;
        _ = displaced => return shared.refused(peer, "others came before its TLS handshake was done"),
        handshake = timeout(HANDSHAKE, shared.tls.accept(tcp)) => handshake,
    };
    let tls = match handshake {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return shared.refused(peer, &handshake_words(&error)),
        Err(_) => return shared.refused(peer, "no TLS handshake in time"),
    };
    let channel = match channel(tls.get_ref().1, &shared.own_spki, stopped) {
        Ok(channel) => Arc::new(channel),
        Err(error) => return shared.refused(peer, &error.to_string()),
    };
    let displaced = guest.is_known_by(&channel.peer_spki, CONNECTIONS_PER_OPERATOR);
    info!("{channel} connected from {peer}");
    let routes = Routes { shared: Arc::clone(&shared), channel: Arc::clone(&channel) };
    match serve(tls, routes, &shared.access, &channel, displaced).await {
        Ok(()) => debug!("{channel} left"),
        Err(error) => debug!("{channel} cut off: {error}"),
    }
}

fn handshake_words(error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            Denied::Stranger.to_string()
        }
        Some(Error::InvalidCertificate(CertificateError::Revoked)) => {
            "its key is in the sealed image, but the constitution does not name it as an operator's"
                .to_owned()
        }
        Some(Error::NoCertificatesPresented) => "it showed no certificate".to_owned(),
        _ => error.to_string(),
    }
}

fn channel(
    session: &rustls::ServerConnection,
    own_spki: &[u8],
    stopped: watch::Receiver<bool>,
) -> Result<Channel, rustls::Error> {
    let label = pillar_verify::EXPORTER_LABEL;
    let exporter = session.export_keying_material([0; 32], label, None)?;
    let peer =
        session.peer_certificates().and_then(<[_]>::first).ok_or(rustls::Error::NoCertificatesPresented)?;
    Ok(Channel::new(exporter, own_spki.to_vec(), spki(peer)?, stopped))
}

async fn serve(
    tls: tokio_rustls::server::TlsStream<TcpStream>,
    routes: Routes,
    access: &Access,
    channel: &Arc<Channel>,
    mut displaced: Displaced,
) -> hyper::Result<()> {
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(SEND_BYTES)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .serve_connection(TokioIo::new(tls), routes)
    );
    let mut ticks = interval_at(TokioInstant::now() + IDLE, IDLE);
    let mut requests = channel.requests();
    let mut stopped = pin!(channel.stopped());
    let mut stopping = false;
    let mut changes = access.changes();
    // What came between the handshake and here counts as well.
    changes.mark_changed();
    let mut last_words = pin!(sleep(Duration::ZERO));
    let mut removed = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            Ok(()) = changes.changed(), if !removed => {
                if let Err(denied) = access.judge_key(&channel.peer_spki) {
                    warn!("{channel} is let out: {denied}");
                    removed = true;
                    last_words.as_mut().reset(TokioInstant::now() + LAST_WORDS);
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = last_words.as_mut(), if removed => return Ok(()),
            _ = &mut displaced => {
                warn!("{channel} goes: its operator has {CONNECTIONS_PER_OPERATOR} newer connections");
                return Ok(());
            }
            () = stopped.as_mut(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = ticks.tick() => {
                let idle = channel.requests() == requests && Arc::strong_count(channel) == IDLE_HOLDERS;
                requests = channel.requests();
                if idle {
                    debug!("{channel} is idle");
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// `/metrics`, and gRPC for everything else.
struct Routes {
    shared: Arc<Shared>,
    channel: Arc<Channel>,
}

type Response = http::Response<Body>;

impl hyper::service::Service<http::Request<Incoming>> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        self.channel.count_request();
        if let Err(denied) = self.shared.access.judge_key(&self.channel.peer_spki) {
            return Box::pin(ready(Ok(tonic::Status::permission_denied(denied.to_string()).into_http())));
        }
        if request.uri().path() == "/metrics" {
            return Box::pin(ready(Ok(self.metrics(request.method()))));
        }
        request.extensions_mut().insert(Arc::clone(&self.channel));
        let call = self.shared.grpc.clone().call(request);
        Box::pin(async move {
            let late = || tonic::Status::deadline_exceeded("the call took too long").into_http();
            Ok(timeout(CALL, call)
                .await
                .unwrap_or_else(|_| Ok(late()))
                .unwrap_or_else(|never| match never {}))
        })
    }
}

impl Routes {
    fn metrics(&self, method: &http::Method) -> Response {
        if method != http::Method::GET {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
            return response;
        }
        let mut response = Response::new(Body::new(self.shared.pillar.metrics()));
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}
