//! A stream of kernel log records for one caller: from the past, then, if asked for, as they come.

use crate::channel::Channel;
use crate::kmsg;
use crate::places::{LOG_READERS, Places};
use pillar_wire::limit;
use pillar_wire::proto::LogRecord;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tonic::Status;

/// Records between reader and connection; the reader waits for a slow connection, and the kernel keeps the rest.
const QUEUE: usize = 64;

/// Records for one caller.
pub struct Records {
    records: mpsc::Receiver<Result<LogRecord, Status>>,
}

impl tokio_stream::Stream for Records {
    type Item = Result<LogRecord, Status>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.records.poll_recv(cx)
    }
}

/// Starts a stream: at most `tail` records from the past (0: all that are kept), then new ones if `follow`.
pub fn stream(
    places: &Arc<Places>,
    tail: u32,
    follow: bool,
    channel: Arc<Channel>,
) -> Result<Records, Status> {
    let file = places.kmsg().ok_or_else(|| {
        Status::resource_exhausted(format!(
            "the kernel log cannot be read, or {LOG_READERS} others are reading it; end one of them"
        ))
    })?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for types that may lose their descriptor; a File keeps its own"
    )]
    let file = AsyncFd::with_interest(file, Interest::READABLE)
        .map_err(|error| Status::internal(format!("cannot wait for the kernel log: {error}")))?;
    let reader =
        Reader { file: Some(file), places: Arc::clone(places), buffer: vec![0; limit::LOG_RECORD_BYTES] };
    let (sender, records) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        // Holds on to the channel, so that a connection that follows the log does not count as idle. The caller hears of
        // an error if it is still there.
        if let Err(error) = pump(reader, tail, follow, &channel, &sender).await {
            let _ = sender.send(Err(Status::internal(format!("cannot read the kernel log: {error}")))).await;
        }
    });
    Ok(Records { records })
}

async fn pump(
    mut reader: Reader,
    tail: u32,
    follow: bool,
    channel: &Channel,
    sender: &mpsc::Sender<Result<LogRecord, Status>>,
) -> io::Result<()> {
    let first = reader.first_of_last(tail)?;
    reader.rewind()?;
    loop {
        let record = match reader.next() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && follow => {
                tokio::select! {
                    ready = reader.readable() => ready?,
                    () = sender.closed() => return Ok(()),
                    () = channel.stopped() => {
                        let _ = sender.send(Err(Status::unavailable("the agent is stopping"))).await;
                        return Ok(());
                    }
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        if record.sequence >= first && sender.send(Ok(record)).await.is_err() {
            return Ok(());
        }
    }
}

/// One open kernel log; goes back to the others when dropped.
struct Reader {
    file: Option<AsyncFd<File>>,
    places: Arc<Places>,
    buffer: Vec<u8>,
}

impl Reader {
    fn file(&self) -> &AsyncFd<File> {
        self.file.as_ref().expect("taken by drop alone")
    }

    fn rewind(&self) -> io::Result<()> {
        self.file().get_ref().rewind()
    }

    /// The next record that is one; `WouldBlock` when there is none yet.
    fn next(&mut self) -> io::Result<LogRecord> {
        loop {
            let read = self.file.as_ref().expect("taken by drop alone").get_ref().read(&mut self.buffer);
            match read {
                Ok(0) => return Err(ErrorKind::WouldBlock.into()),
                Ok(length) => {
                    if let Some(record) = kmsg::parse(&self.buffer[..length]) {
                        return Ok(record);
                    }
                }
                // The kernel needed the room of the record that was next; it goes on with the oldest it has.
                Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn readable(&self) -> io::Result<()> {
        self.file().readable().await?.clear_ready();
        Ok(())
    }

    /// The sequence number from which on there are at most `tail` records. Counts by reading all of them once, so that
    /// none has to be kept.
    fn first_of_last(&mut self, tail: u32) -> io::Result<u64> {
        if tail == 0 {
            return Ok(0);
        }
        self.rewind()?;
        let mut newest = 0;
        loop {
            match self.next() {
                Ok(record) => newest = record.sequence,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok((newest + 1).saturating_sub(tail.into()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.places.return_kmsg(file.into_inner());
        }
    }
}
