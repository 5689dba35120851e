//! Asks an NTS server for keys and cookies, over TLS 1.3: the hands of `records` and `trust`.

use crate::ntp;
use crate::nts::fields::{KEY_BYTES, Key};
use crate::nts::records::{self, Agreement, RecordError};
use crate::nts::trust::{Chain, Clock, Pinned, TrustError};
use pillar_model::{Host, HostPort, KeyPin};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, OtherError, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For all of it, once the name is known.
const EXCHANGE_TIME: Duration = Duration::from_secs(8);
/// For one address to take the connection.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 2;
/// RFC 8915 section 5.1.
const EXPORTER: &[u8] = b"EXPORTER-network-time-security";
/// NTPv4, AEAD_AES_SIV_CMAC_256, and from whom to whom.
const TO_SERVER: [u8; 5] = [0, 0, 0, 15, 0];
const TO_CLIENT: [u8; 5] = [0, 0, 0, 15, 1];

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The name means nothing.
    #[error("its name is not found")]
    Name,
    /// Nobody answers there.
    #[error("no connection for the key exchange")]
    Connect(#[source] io::Error),
    /// The connection broke, or it took too long.
    #[error("the key exchange broke off")]
    Stream(#[source] io::Error),
    /// TLS was refused, by us or by the server.
    #[error("TLS failed")]
    Tls(#[source] rustls::Error),
    /// The server is not one that the settings mean.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It is no server for this.
    #[error("it does not agree on \"ntske/1\"")]
    Protocol,
    /// Its answer is not taken.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// What a server gave for asking it the time. In memory alone: a machine that starts again asks again.
#[derive(Debug)]
pub struct Keys {
    /// Whom to ask.
    pub to: SocketAddr,
    /// Proves questions.
    pub to_server: Key,
    /// Proves answers.
    pub to_client: Key,
    /// Each is for one question.
    pub cookies: Vec<Vec<u8>>,
    /// Who proved himself.
    pub chain: Chain,
}

/// Asks for them.
pub fn exchange(server: &HostPort, keys: &[KeyPin], clock: Clock) -> Result<Keys, ExchangeError> {
    let stream = connect(server)?;
    let at = stream.peer_addr().map_err(ExchangeError::Connect)?.ip();
    let name = server_name(&server.host)?;
    let provider = Arc::new(default_provider());
    let pinned = Pinned { keys: keys.to_vec(), clock, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(ExchangeError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    config.alpn_protocols = vec![records::PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    let tls = ClientConnection::new(Arc::new(config), name.clone()).map_err(ExchangeError::Tls)?;
    let stream = Timed { stream, until: Instant::now() + EXCHANGE_TIME };
    let mut tls = StreamOwned::new(tls, stream);
    let agreement = converse(&mut tls)?;
    let chain = Chain::new(tls.conn.peer_certificates().unwrap_or_default(), &name, keys, &provider)?;
    Ok(Keys {
        to: time_server(&agreement, at)?,
        to_server: export(&tls.conn, &TO_SERVER)?,
        to_client: export(&tls.conn, &TO_CLIENT)?,
        cookies: agreement.cookies,
        chain,
    })
}

fn connect(server: &HostPort) -> Result<TcpStream, ExchangeError> {
    let addresses = resolve(&server.host, server.port);
    let mut last = ExchangeError::Name;
    for address in addresses.iter().take(ADDRESSES) {
        match TcpStream::connect_timeout(address, CONNECT_TIME) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ExchangeError::Connect(error),
        }
    }
    Err(last)
}

fn resolve(host: &Host, port: u16) -> Vec<SocketAddr> {
    match host {
        Host::Address(address) => vec![SocketAddr::new(*address, port)],
        Host::Name(name) => (name.as_str(), port).to_socket_addrs().into_iter().flatten().collect(),
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, ExchangeError> {
    match host {
        Host::Address(address) => Ok(ServerName::from(*address)),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| ExchangeError::Name),
    }
}

/// The server itself unless it named another.
fn time_server(agreement: &Agreement, at: IpAddr) -> Result<SocketAddr, ExchangeError> {
    let port = agreement.port.unwrap_or(ntp::PORT);
    match &agreement.server {
        None => Ok(SocketAddr::new(at, port)),
        Some(host) => resolve(host, port).first().copied().ok_or(ExchangeError::Name),
    }
}

fn export(tls: &ClientConnection, context: &[u8]) -> Result<Key, ExchangeError> {
    tls.export_keying_material([0; KEY_BYTES], EXPORTER, Some(context))
        .map(Key::new)
        .map_err(ExchangeError::Tls)
}

/// One request, one answer.
fn converse(tls: &mut StreamOwned<ClientConnection, Timed>) -> Result<Agreement, ExchangeError> {
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).map_err(broken)?;
    }
    // A server that knows nothing of NTS may have ignored the question for it.
    if tls.conn.alpn_protocol() != Some(records::PROTOCOL) {
        return Err(ExchangeError::Protocol);
    }
    tls.write_all(&records::request()).and_then(|()| tls.flush()).map_err(broken)?;
    let mut message = Vec::new();
    let mut part = [0; 2048];
    loop {
        let bytes = match tls.read(&mut part) {
            // It closed without saying so: as good as an end, since the answer tells its own.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read.map_err(broken)?,
        };
        message.extend_from_slice(part.get(..bytes).unwrap_or_default());
        match records::read(&message)? {
            Some(agreement) => return Ok(agreement),
            None if bytes == 0 => return Err(RecordError::Unfinished.into()),
            None => {}
        }
    }
}

/// What an error of the stream really is.
fn broken(error: io::Error) -> ExchangeError {
    let Some(tls) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
        return ExchangeError::Stream(error);
    };
    if let rustls::Error::Other(OtherError(cause)) = tls
        && let Some(trust) = cause.downcast_ref::<TrustError>()
    {
        return trust.clone().into();
    }
    match tls {
        rustls::Error::NoApplicationProtocol => ExchangeError::Protocol,
        rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) => {
            ExchangeError::Protocol
        }
        other => ExchangeError::Tls(other.clone()),
    }
}

/// A stream that ends when the time is over, however slowly its bytes come.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// How a socket says that the time is over.
fn timed(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(timed)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(timed)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
