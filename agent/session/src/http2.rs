//! HTTP/2 on an attested connection: tonic's client at the end that dialled, tonic's services at the other.

use crate::attested::{Attested, Client, PeerChannel, Server};
use crate::error::{Error, Step};
use crate::limit;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder as ClientBuilder, SendRequest};
use hyper::server::conn::http2::Builder as ServerBuilder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pillar_wire::proto::peers_client::PeersClient;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

type Response = http::Response<Body>;
type Answer<E> = Pin<Box<dyn Future<Output = Result<Response, E>> + Send>>;

impl<P> Attested<Client, P> {
    /// Starts HTTP/2. The connection ends with the last clone of the client, or when it is cut.
    pub async fn peers_client(self) -> Result<PeersClient<PeerConnection>, Error> {
        let channel = Arc::clone(self.channel());
        let started = ClientBuilder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(limit::WINDOW_BYTES)
            .initial_connection_window_size(limit::WINDOW_BYTES)
            .max_header_list_size(limit::HEADER_BYTES)
            .max_send_buf_size(limit::SEND_BYTES)
            .keep_alive_interval(limit::KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(limit::KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(self.into_io()))
            .await;
        let (sender, driver) = started.map_err(|error| ended(&channel, error))?;
        // It ends with the last sender; an error reaches the callers through their requests.
        tokio::spawn(async move {
            let _ = driver.await;
        });
        let connection = PeerConnection { sender, channel };
        Ok(PeersClient::with_origin(connection, http::Uri::from_static("https://pillar"))
            .max_decoding_message_size(pillar_wire::limit::REPLY_BYTES)
            .max_encoding_message_size(pillar_wire::limit::REQUEST_BYTES))
    }
}

/// The one HTTP/2 connection, as the transport of the generated client. Never replaced behind the caller's back: the
/// evidence was for this one.
#[derive(Debug, Clone)]
pub struct PeerConnection {
    sender: SendRequest<Body>,
    channel: Arc<PeerChannel>,
}

impl PeerConnection {
    /// What is known of the connection.
    #[must_use]
    pub fn channel(&self) -> &Arc<PeerChannel> {
        &self.channel
    }
}

impl Service<http::Request<Body>> for PeerConnection {
    type Response = Response;
    type Error = Status;
    type Future = Answer<Status>;

    /// Always ready: whether the connection lives, the call says, in its own words.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.sender.send_request(request);
        let channel = Arc::clone(&self.channel);
        Box::pin(async move {
            let response = answer.await.map_err(|error| status(&channel, &error))?;
            Ok(response.map(|body| Body::new(body.map_err(move |error| status(&channel, &error)))))
        })
    }
}

/// What a caller is told: that the connection was cut, where it was.
fn status(channel: &PeerChannel, error: &hyper::Error) -> Status {
    let words = match channel.cut_error() {
        Some(cut) => cut.to_string(),
        None => match error.source() {
            Some(cause) => format!("connection with {}: {error}: {cause}", channel.peer),
            None => format!("connection with {}: {error}", channel.peer),
        },
    };
    Status::unavailable(words)
}

fn ended(channel: &PeerChannel, error: hyper::Error) -> Error {
    channel
        .cut_error()
        .unwrap_or_else(|| Error::Broken { step: Step::Http2, source: io::Error::other(error) })
}

impl<P> Attested<Server, P> {
    /// Serves `service` until the peer leaves, the connection is cut, or `stop` ends, which lets requests in progress
    /// finish. Each request carries an `Arc<PeerChannel>` among its extensions.
    pub async fn serve<S>(self, service: S, stop: impl Future<Output = ()>) -> Result<(), Error>
    where
        S: Service<http::Request<Incoming>, Response = Response, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        let channel = Arc::clone(self.channel());
        let asked = Arc::new(AtomicBool::new(false));
        let routes = Routes { service, channel: Arc::clone(&channel), asked: Arc::clone(&asked) };
        let mut connection = pin!(
            ServerBuilder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(limit::STREAMS)
                .max_header_list_size(limit::HEADER_BYTES)
                .initial_stream_window_size(limit::WINDOW_BYTES)
                .initial_connection_window_size(limit::WINDOW_BYTES)
                .max_send_buf_size(limit::SEND_BYTES)
                .keep_alive_interval(limit::KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(limit::KEEP_ALIVE_TIMEOUT)
                .serve_connection(TokioIo::new(self.into_io()), routes)
        );
        let first_request = async {
            sleep(limit::FIRST_REQUEST).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = connection.as_mut() => return result.map_err(|error| ended(&channel, error)),
            () = first_request => {
                return Err(Error::Silent { step: Step::Http2, limit: limit::FIRST_REQUEST });
            }
            () = stop => connection.as_mut().graceful_shutdown(),
        }
        // Who closes first, and whether the last bytes still find the other end, is no matter any more.
        let _ = timeout(limit::DRAIN, connection).await;
        channel.cut_error().map_or(Ok(()), Err)
    }
}

/// The service, with what is known of the connection in each request.
struct Routes<S> {
    service: S,
    channel: Arc<PeerChannel>,
    asked: Arc<AtomicBool>,
}

impl<S> hyper::service::Service<http::Request<Incoming>> for Routes<S>
where
    S: Service<http::Request<Incoming>, Response = Response, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer<Infallible>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(Arc::clone(&self.channel));
        let call = self.service.clone().call(request);
        Box::pin(async move {
            let late = || Status::deadline_exceeded("the call took too long").into_http();
            timeout(limit::CALL, call).await.unwrap_or_else(|_| Ok(late()))
        })
    }
}
