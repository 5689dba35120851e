//! Several requests in flight: a few threads that take chunks in order. Threads, because a disk's work is waiting, and
//! because nothing here is worth an event loop.

use crate::error::Error;
use crate::flash::Watch;
use crate::plan::{Chunk, REQUEST};
use crate::target::Buffer;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Requests in flight. More than two keep a disk busy; more than a few only make it seek.
const WORKERS: usize = 4;

/// What a worker works with: one buffer for the image's bytes, one for the disk's.
pub(crate) struct Buffers {
    pub(crate) image: Buffer,
    pub(crate) disk: Buffer,
}

impl Buffers {
    fn new() -> Self {
        let len = usize::try_from(REQUEST).unwrap_or(usize::MAX);
        Self { image: Buffer::new(len), disk: Buffer::new(len) }
    }
}

/// Does `work` with every chunk, several at a time; the first error ends it. Returns false when it was cancelled.
pub(crate) fn each(
    chunks: &[Chunk],
    watch: &dyn Watch,
    work: impl Fn(&Chunk, &mut Buffers) -> Result<(), Error> + Sync,
) -> Result<bool, Error> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let run = || {
        let mut buffers = Buffers::new();
        while !stop.load(Ordering::Relaxed) {
            let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if watch.cancelled() {
                stop.store(true, Ordering::Relaxed);
                return;
            }
            match work(chunk, &mut buffers) {
                Ok(()) => watch.advance(chunk.len as u64),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    if let Ok(mut failure) = failure.lock() {
                        failure.get_or_insert(error);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(chunks.len()) {
            scope.spawn(run);
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(!stop.load(Ordering::Relaxed)),
    }
}
