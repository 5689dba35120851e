//! The order of things. It is what makes an interruption harmless:
//!
//! ```text
//! wipe both tables ─ flush ─▶ clear holes, write data ─ flush ─▶ read back, compare ─▶ backup table ─ flush ─▶ primary ─ flush
//!   boots the old image           does not boot                    does not boot           the new image, whole
//!   or nothing
//! ```

use crate::error::Error;
use crate::image::Image;
use crate::plan::{self, CHUNK, Chunk, Range};
use crate::pool::{self, Buffers};
use crate::target::{Buffer, Target};
use pillar_slot::{DiskWrite, Fit};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Holes are cleared in pieces of at most this many bytes, so that progress shows and a wish to stop is heard.
const CLEAR_AT_ONCE: u64 = 64 * CHUNK;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Taking away the old partition tables.
    Wipe,
    /// Making empty parts read as zero.
    Clear,
    /// Writing what is not empty.
    Write,
    /// Reading everything back.
    Verify,
    /// Writing the partition tables.
    Table,
}

impl Phase {
    /// What a person is told.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Phase::Wipe => "taking away the old partition table",
            Phase::Clear => "clearing what stays empty",
            Phase::Write => "writing",
            Phase::Verify => "reading back and comparing",
            Phase::Table => "writing the partition table",
        }
    }
}

/// Who looks on, and may stop it.
pub trait Watch: Sync {
    /// A phase begins that will go over this many bytes.
    fn phase(&self, phase: Phase, bytes: u64);
    /// So many more are done.
    fn advance(&self, bytes: u64);
    /// True when it is to stop.
    fn cancelled(&self) -> bool;
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flashed {
    /// Bytes sent to the disk.
    pub written_bytes: u64,
    /// Bytes of the image that are empty and were not sent.
    pub skipped_bytes: u64,
    /// Bytes read back and compared.
    pub verified_bytes: u64,
    /// Size of the state partition, which reaches to the disk's end.
    pub state_bytes: u64,
    /// The page cache was passed by.
    pub direct: bool,
    /// The kernel shows the new partitions already.
    pub partitions_shown: bool,
    /// Until everything was on stable storage.
    #[serde(rename = "write_seconds", serialize_with = "seconds")]
    pub write: Duration,
    /// Reading back.
    #[serde(rename = "verify_seconds", serialize_with = "seconds")]
    pub verify: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Writes the image, reads it back and makes it bootable. After an error or an interruption the disk does not boot,
/// unless the error is [`Error::Refused`]: then nothing was written.
pub fn flash(image: &Image, target: &Target, watch: &dyn Watch) -> Result<Flashed, Error> {
    let job = Job { image, target, watch, sent: AtomicU64::new(0) };
    job.run().map_err(|error| match error {
        Error::Disk { path, source, .. } if target.is_gone() => Error::Gone { path, source },
        other => other,
    })
}

struct Job<'a> {
    image: &'a Image,
    target: &'a Target,
    watch: &'a dyn Watch,
    /// Bytes sent to the disk.
    sent: AtomicU64,
}

impl Job<'_> {
    fn run(&self) -> Result<Flashed, Error> {
        let refused =
            |error: pillar_slot::FitError| Error::Refused { path: self.path(), source: error.into() };
        let table = self.image.lay(self.target.bytes()).map_err(refused)?;
        let chunks = self.image.chunks()?;
        let begin = Instant::now();
        self.wipe()?;
        let offload = self.clear(&chunks)?;
        let data: Vec<Chunk> = chunks.iter().filter(|chunk| !(chunk.hole && offload)).copied().collect();
        self.each(Phase::Write, &data, |chunk, buffers| self.write(chunk, offload, buffers))?;
        self.sync()?;
        let write = begin.elapsed();

        let begin = Instant::now();
        self.each(Phase::Verify, &chunks, |chunk, buffers| self.compare(chunk, buffers))?;
        let verify = begin.elapsed();
        let begin = Instant::now();
        self.make_bootable(&table)?;
        let total: u64 = chunks.iter().map(|chunk| chunk.len as u64).sum();
        let sent = self.sent.load(Ordering::Relaxed);
        Ok(Flashed {
            written_bytes: sent,
            skipped_bytes: total.saturating_sub(sent),
            verified_bytes: total,
            state_bytes: table.state_bytes,
            direct: self.target.is_direct(),
            partitions_shown: self.target.show_partitions(),
            write: write + begin.elapsed(),
            verify,
        })
    }

    fn path(&self) -> std::path::PathBuf {
        self.target.path().to_owned()
    }

    fn failed(&self, operation: &'static str, offset: u64) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::disk(operation, self.target.path(), offset, source)
    }

    fn sync(&self) -> Result<(), Error> {
        self.target.sync().map_err(self.failed("flush", 0))
    }

    /// After this neither firmware nor kernel finds partitions.
    fn wipe(&self) -> Result<(), Error> {
        let ranges = plan::tables(self.target.bytes());
        self.watch.phase(Phase::Wipe, ranges.iter().map(|range| range.len).sum());
        let mut zeros = Buffer::new(usize::try_from(plan::TABLE_ROOM).unwrap_or(usize::MAX));
        for range in ranges {
            let len = usize::try_from(range.len).unwrap_or(usize::MAX);
            self.target.write(range.offset, zeros.first(len)).map_err(self.failed("write", range.offset))?;
            self.watch.advance(range.len);
        }
        self.sync()
    }

    /// Makes the image's holes read as zero; false when the disk cannot do that by itself, and they are to be looked at one by
    /// one.
    fn clear(&self, chunks: &[Chunk]) -> Result<bool, Error> {
        let holes = plan::holes(chunks);
        self.watch.phase(Phase::Clear, holes.iter().map(|range| range.len).sum());
        for hole in holes {
            let mut done = 0;
            while done < hole.len {
                if self.watch.cancelled() {
                    return Err(Error::Interrupted { path: self.path() });
                }
                let piece = Range { offset: hole.offset + done, len: CLEAR_AT_ONCE.min(hole.len - done) };
                if !self.target.clear(piece).map_err(self.failed("clear", piece.offset))? {
                    return Ok(false);
                }
                self.watch.advance(piece.len);
                done += piece.len;
            }
        }
        Ok(true)
    }

    fn each(
        &self,
        phase: Phase,
        chunks: &[Chunk],
        work: impl Fn(&Chunk, &mut Buffers) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        self.watch.phase(phase, chunks.iter().map(|chunk| chunk.len as u64).sum());
        match pool::each(chunks, self.watch, work)? {
            true => Ok(()),
            false => Err(Error::Interrupted { path: self.path() }),
        }
    }

    fn write(&self, chunk: &Chunk, offload: bool, buffers: &mut Buffers) -> Result<(), Error> {
        let bytes = buffers.image.first(chunk.len);
        self.image.read(chunk, bytes)?;
        if is_zero(bytes) {
            let range = Range { offset: chunk.offset, len: chunk.len as u64 };
            if offload && self.target.clear(range).map_err(self.failed("clear", chunk.offset))? {
                return Ok(());
            }
            // Reading is cheaper than writing, and disks are often empty already.
            let found = buffers.disk.first(chunk.len);
            self.target.read(chunk.offset, found).map_err(self.failed("read", chunk.offset))?;
            if is_zero(found) {
                return Ok(());
            }
        }
        self.target.write(chunk.offset, bytes).map_err(self.failed("write", chunk.offset))?;
        self.sent.fetch_add(chunk.len as u64, Ordering::Relaxed);
        Ok(())
    }

    fn compare(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<(), Error> {
        let found = buffers.disk.first(chunk.len);
        self.target.read(chunk.offset, found).map_err(self.failed("read back", chunk.offset))?;
        let same = if chunk.hole {
            is_zero(found)
        } else {
            let wanted = buffers.image.first(chunk.len);
            self.image.read(chunk, wanted)?;
            found == wanted
        };
        if same { Ok(()) } else { Err(Error::Differs { path: self.path(), offset: chunk.offset }) }
    }

    /// The very last: the tables, each write on stable storage before the next. From the first whole copy on the disk
    /// boots, and what it boots was compared; so nothing stops this any more.
    fn make_bootable(&self, table: &Fit) -> Result<(), Error> {
        self.watch.phase(Phase::Table, table.writes.iter().map(|write| write.bytes.len() as u64).sum());
        for write in &table.writes {
            let mut buffer = Buffer::new(write.bytes.len());
            let bytes = buffer.first(write.bytes.len());
            bytes.copy_from_slice(&write.bytes);
            self.target.write(write.offset, bytes).map_err(self.failed("write", write.offset))?;
            self.sync()?;
            self.watch.advance(write.bytes.len() as u64);
        }
        let wrong = table.writes.iter().find_map(|write| self.table_damage(write));
        if let Some(error) = wrong {
            // Best effort: the error is the one to tell.
            let _ = self.wipe();
            return Err(error);
        }
        Ok(())
    }

    fn table_damage(&self, write: &DiskWrite) -> Option<Error> {
        let mut buffer = Buffer::new(write.bytes.len());
        let found = buffer.first(write.bytes.len());
        match self.target.read(write.offset, found) {
            Err(source) => Some(self.failed("read back", write.offset)(source)),
            Ok(()) if found != write.bytes => {
                Some(Error::Differs { path: self.path(), offset: write.offset })
            }
            Ok(()) => None,
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // A slice comparison is the C library's, as fast as memory, in every build.
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| piece == &ZEROS[..piece.len()])
}
