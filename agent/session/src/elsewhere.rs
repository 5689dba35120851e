//! Polls a future on threads that may block. A TLS handshake waits for the network and, in the middle of a poll, for
//! the TPM's signature; the agent's only thread must not wait with it.
//!
//! A thread and a permit are taken for the time of one poll, never while the future waits: who is silent holds none.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

struct Alarm(Notify);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// The outcome of `future`, each of whose polls takes a permit of `turns`. An error is the loss of a poll: a panic, or
/// the runtime's end.
pub(crate) async fn elsewhere<F>(turns: &Arc<Semaphore>, future: F) -> io::Result<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let alarm = Arc::new(Alarm(Notify::new()));
    let waker = Waker::from(Arc::clone(&alarm));
    let mut future = Box::pin(future);
    loop {
        let turn = Arc::clone(turns).acquire_owned().await.map_err(io::Error::other)?;
        let waker = waker.clone();
        let poll = spawn_blocking(move || {
            let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
            drop(turn);
            (future, poll)
        });
        let (pending, poll) = poll.await.map_err(io::Error::other)?;
        match poll {
            Poll::Ready(output) => return Ok(output),
            Poll::Pending => future = pending,
        }
        alarm.0.notified().await;
    }
}
