//! The operator's end of a connection: one TLS 1.3 connection with a client certificate, gRPC on it, and what a
//! verifier needs to tie evidence to exactly this connection.
//!
//! The pillar's certificate is self-signed and new at every start, so nothing about it is judged here except that the
//! pillar holds its key. Who the pillar is, the evidence says: it signs [`Connected::exporter`] and both keys. A lost
//! connection is never replaced behind the caller's back, because evidence from another one would not match.

use crate::proto::pillar_client::PillarClient;
use crate::tls::{Judge, Shown, Verifier, restrict_client, spki};
use crate::{ALPN, limit};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, SignatureScheme};
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the TLS handshake and the pillar's first byte behind it may take. Emulated machines are slow.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// A silent connection is asked for a sign of life this often...
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// ...and given up when none comes within this time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// RFC 5705/8446 exporter label; `pillar_verify::EXPORTER_LABEL` says the same.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-pillar-attest-v1";
/// Bytes of the exporter.
pub const EXPORTER_BYTES: usize = 32;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client certificate or key cannot be used.
    #[error("cannot use the operator's {what}: {reason}")]
    Credential {
        /// "certificate" or "key".
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// No TCP connection.
    #[error("cannot connect to {addr}")]
    Tcp {
        /// Where to.
        addr: String,
        /// Why.
        source: io::Error,
    },
    /// The other end did not do its part in time.
    #[error("{addr} did not {what} within {} s", .limit.as_secs())]
    TimedOut {
        /// Where to.
        addr: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The pillar ended the handshake; it does not serve this key.
    #[error("{addr} refused the operator's certificate ({alert})")]
    Refused {
        /// Where to.
        addr: String,
        /// Name of the TLS alert.
        alert: String,
    },
    /// The TLS handshake failed otherwise.
    #[error("TLS handshake with {addr} failed")]
    Tls {
        /// Where to.
        addr: String,
        /// Why.
        source: io::Error,
    },
    /// HTTP/2 could not be set up.
    #[error("HTTP/2 set-up with {addr} failed")]
    Http2 {
        /// Where to.
        addr: String,
        /// Why.
        source: hyper::Error,
    },
    /// `GET /metrics` failed.
    #[error("cannot read the metrics: {0}")]
    Metrics(String),
}

/// An open connection and what ties evidence to it.
#[derive(Debug, Clone)]
pub struct Connected {
    /// Generated client with the message limits set; clones share the one connection.
    pub client: PillarClient<Connection>,
    /// TLS exporter of this connection under `pillar_verify::EXPORTER_LABEL`, no context.
    pub exporter: [u8; EXPORTER_BYTES],
    /// SubjectPublicKeyInfo (DER) of the pillar's certificate.
    pub server_spki: Vec<u8>,
    /// SubjectPublicKeyInfo (DER) of the client certificate.
    pub client_spki: Vec<u8>,
    connection: Connection,
}

impl Connected {
    /// The agent's Prometheus metrics.
    pub async fn metrics(&self) -> Result<String, Error> {
        let fail = |error: &dyn StdError| Error::Metrics(error.to_string());
        let request =
            http::Request::get("https://pillar/metrics").body(Body::empty()).map_err(|e| fail(&e))?;
        let response = self.connection.clone().sender.send_request(request).await.map_err(|e| fail(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(Error::Metrics(format!("HTTP status {}", response.status())));
        }
        let limited = http_body_util::Limited::new(response.into_body(), limit::REPLY_BYTES);
        let bytes = limited.collect().await.map_err(|e| Error::Metrics(e.to_string()))?.to_bytes();
        String::from_utf8(bytes.into()).map_err(|e| fail(&e))
    }
}

/// The one HTTP/2 connection, as the transport of the generated client.
#[derive(Debug, Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// Connects to `addr` ("host:port") with an operator's certificate and PKCS#8 key, both PEM. Returns once the pillar
/// has accepted the certificate.
pub async fn connect(addr: &str, cert_pem: &[u8], key_pem: &[u8]) -> Result<Connected, Error> {
    let (config, client_spki) = tls_config(cert_pem, key_pem)?;
    let tcp = timed(addr, "accept a connection", CONNECT_TIMEOUT, TcpStream::connect(addr))
        .await?
        .map_err(|source| Error::Tcp { addr: addr.to_owned(), source })?;
    // Requests are small and waited for; a failure costs latency only.
    let _ = tcp.set_nodelay(true);
    let name = ServerName::try_from("pillar").expect("a host name");
    let handshake = async {
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        // In TLS 1.3 the client is done before the server judged its certificate. The verdict is the first thing to
        // come: HTTP/2 settings, or an alert.
        let mut stream = BufReader::new(stream);
        if stream.fill_buf().await?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(stream)
    };
    let stream = timed(addr, "finish the TLS handshake", HANDSHAKE_TIMEOUT, handshake)
        .await?
        .map_err(|source| refused_or_failed(addr, source))?;
    let (exporter, server_spki) = channel_facts(stream.get_ref().get_ref().1)
        .map_err(|source| Error::Tls { addr: addr.to_owned(), source: io::Error::other(source) })?;
    let connection = http2_connection(addr, stream).await?;
    let client = PillarClient::with_origin(connection.clone(), http::Uri::from_static("https://pillar"))
        .max_decoding_message_size(limit::REPLY_BYTES)
        .max_encoding_message_size(limit::OPERATOR_REQUEST_BYTES);
    Ok(Connected { client, exporter, server_spki, client_spki, connection })
}

async fn timed<F: Future>(
    addr: &str,
    what: &'static str,
    limit: Duration,
    future: F,
) -> Result<F::Output, Error> {
    timeout(limit, future).await.map_err(|_| Error::TimedOut { addr: addr.to_owned(), what, limit })
}

/// An alert about our certificate is a refusal; everything else is a failure.
fn refused_or_failed(addr: &str, source: io::Error) -> Error {
    let addr = addr.to_owned();
    match source.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(
            alert @ (AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError),
        )) => Error::Refused { addr, alert: format!("{alert:?}") },
        _ => Error::Tls { addr, source },
    }
}

fn channel_facts(tls: &rustls::ClientConnection) -> Result<([u8; EXPORTER_BYTES], Vec<u8>), rustls::Error> {
    let exporter = tls.export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, None)?;
    let certificate =
        tls.peer_certificates().and_then(<[_]>::first).ok_or(rustls::Error::NoCertificatesPresented)?;
    Ok((exporter, spki(certificate)?))
}

async fn http2_connection<S>(addr: &str, stream: S) -> Result<Connection, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| Error::Http2 { addr: addr.to_owned(), source })?;
    // It ends with the last sender; an error reaches the callers through their requests.
    tokio::spawn(async move {
        let _ = driver.await;
    });
    Ok(Connection { sender })
}

fn tls_config(cert_pem: &[u8], key_pem: &[u8]) -> Result<(ClientConfig, Vec<u8>), Error> {
    let certificate = CertificateDer::from_pem_slice(cert_pem)
        .map_err(|e| Error::Credential { what: "certificate", reason: e.to_string() })?;
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|e| Error::Credential { what: "key", reason: e.to_string() })?;
    let client_spki =
        spki(&certificate).map_err(|e| Error::Credential { what: "certificate", reason: e.to_string() })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(Arc::new(HoldsItsKey), &provider);
    let mut config = tls13_only(provider)
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(|e| Error::Credential { what: "key", reason: e.to_string() })?;
    restrict_client(&mut config, ALPN);
    Ok((config, client_spki))
}

fn tls13_only(provider: Arc<CryptoProvider>) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the ring provider has TLS 1.3 cipher suites")
}

/// Anybody whose certificate can be read and who signs the handshake with its key; see the head of this file for why
/// that is enough.
struct HoldsItsKey;

impl Judge for HoldsItsKey {
    const SHOWN: Shown = Shown::Certificate;
    const SCHEMES: &'static [SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

    fn judge(&self, shown: &CertificateDer<'_>, _more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        spki(shown).map(drop)
    }
}
