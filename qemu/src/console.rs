//! The machine's serial console. QEMU writes it to `serial.log` itself, so that nothing is lost when nobody
//! listens; here that file is followed, awaited, and written again line by line with the host's time.

use crate::error::{Error, Result, file_error, tail};
use crate::process::{ProcessId, drain, wait_readable, watch};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::WatchFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is kept of one console; a guest that writes more is broken, and would fill our memory.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How long the rest of a line may take once its beginning has matched.
const REST_OF_LINE: Duration = Duration::from_millis(200);

/// A position on the console: what came before it is not looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

/// A line that was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Which of the patterns, counted from 0.
    pub pattern: usize,
    /// The whole line.
    pub line: String,
    /// When it came, from the machine's start.
    pub at: Duration,
    /// Behind the match: where to go on waiting.
    pub end: Mark,
}

#[derive(Debug, Default)]
struct Seen {
    text: String,
    /// Where the text ended, and when, after each piece that arrived.
    arrivals: Vec<(usize, Duration)>,
    ended: bool,
    flooded: bool,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A panic elsewhere leaves text that is still good to read.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console of one machine, followed by a thread.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    log: PathBuf,
    stop: OwnedFd,
    follower: Option<JoinHandle<()>>,
}

impl Console {
    /// Follows `log` (which exists) until `process` (a descriptor that becomes readable at its end) has ended.
    /// `stamped` gets every line with the time since `start`.
    pub(crate) fn follow(
        log: &Path,
        stamped: Option<&Path>,
        process: BorrowedFd<'_>,
        start: Instant,
    ) -> Result<Self> {
        let file = File::open(log).map_err(file_error("open", log))?;
        let stamped = match stamped {
            Some(path) => Some(File::create(path).map_err(file_error("create", path))?),
            None => None,
        };
        let watch = watch(log, WatchFlags::MODIFY)?;
        let process =
            process.try_clone_to_owned().map_err(file_error("watch the process that writes", log))?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| file_error("watch", log)(e.into()))?;
        let stop = eventfd.try_clone().map_err(file_error("watch", log))?;
        let shared = Arc::new(Shared::default());
        let mut follower = Follower {
            file,
            stamped,
            start,
            cleaner: Cleaner::default(),
            line: String::new(),
            shared: shared.clone(),
        };
        let thread = std::thread::spawn(move || {
            while follower.read_on() {
                match wait_readable(&[process.as_fd(), eventfd.as_fd(), watch.as_fd()], None) {
                    crate::process::Wake::Ready(2) => drain(&watch),
                    _ => break,
                }
            }
            follower.read_on();
            follower.finish();
        });
        Ok(Self { shared, log: log.to_owned(), stop, follower: Some(thread) })
    }

    /// Everything so far, without terminal control sequences.
    #[must_use]
    pub fn so_far(&self) -> String {
        self.shared.lock().text.clone()
    }

    /// The end of what came so far.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.shared.lock().text.len())
    }

    /// Waits until one of the patterns (plain text within a line) is on the console behind `from`.
    pub fn wait_any(&self, patterns: &[&str], from: Mark, deadline: Duration) -> Result<Match> {
        let until = Instant::now() + deadline;
        let what = || match patterns {
            [first, second, _, ..] => {
                format!("one of {} lines on the console ({first:?}, {second:?} …)", patterns.len())
            }
            few => format!("{few:?} on the console"),
        };
        let mut seen = self.shared.lock();
        loop {
            if let Some((pattern, at)) = find_first(&seen.text, from.0, patterns) {
                let complete = seen.text[at..].contains('\n') || seen.ended;
                if complete {
                    return Ok(matched(&seen, pattern, at, patterns[pattern]));
                }
                let length = seen.text.len();
                seen = self.wait(seen, Instant::now() + REST_OF_LINE);
                if seen.text.len() == length {
                    return Ok(matched(&seen, pattern, at, patterns[pattern]));
                }
                continue;
            }
            if seen.flooded {
                return Err(Error::ConsoleFlood { limit: MAX_BYTES, log: self.log.clone() });
            }
            if seen.ended {
                return Err(Error::Ended { what: what(), tail: tail(&self.log), log: self.log.clone() });
            }
            if Instant::now() >= until {
                return Err(Error::Deadline {
                    what: what(),
                    deadline,
                    tail: tail(&self.log),
                    log: self.log.clone(),
                });
            }
            seen = self.wait(seen, until);
        }
    }

    /// The console of a machine that another process started; ends with it.
    pub fn attach(log: &Path, writer: &ProcessId) -> Result<Self> {
        // One that has ended leaves its log: then that is read to its end.
        let process = match writer.descriptor() {
            Some(descriptor) => descriptor,
            None => eventfd(1, EventfdFlags::CLOEXEC).map_err(|e| file_error("watch", log)(e.into()))?,
        };
        Self::follow(log, None, process.as_fd(), Instant::now())
    }

    /// Waits for text behind `from`; none when the machine has ended and all was read.
    #[must_use]
    pub fn more(&self, from: Mark) -> Option<(String, Mark)> {
        let mut seen = self.shared.lock();
        loop {
            if seen.text.len() > from.0 {
                return Some((seen.text[from.0..].to_owned(), Mark(seen.text.len())));
            }
            if seen.ended || seen.flooded {
                return None;
            }
            seen = self.shared.changed.wait(seen).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait<'a>(&self, seen: MutexGuard<'a, Seen>, until: Instant) -> MutexGuard<'a, Seen> {
        let left = until.saturating_duration_since(Instant::now());
        self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Wakes the follower; it fails only when the counter is full, which also wakes it.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.follower.take() {
            // It panics never; if it did, its last words are on stderr already.
            let _ = thread.join();
        }
    }
}

/// The pattern that occurs first behind `from`; of two at the same place, the one named first.
fn find_first(text: &str, from: usize, patterns: &[&str]) -> Option<(usize, usize)> {
    let behind = text.get(from..)?;
    patterns
        .iter()
        .enumerate()
        .filter_map(|(index, pattern)| behind.find(pattern).map(|at| (index, from + at)))
        .min_by_key(|(_, at)| *at)
}

fn matched(seen: &Seen, pattern: usize, at: usize, text: &str) -> Match {
    let begin = seen.text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = seen.text[at..].find('\n').map_or(seen.text.len(), |n| at + n);
    let arrived = seen.arrivals.partition_point(|(until, _)| *until < at + text.len());
    Match {
        pattern,
        line: seen.text[begin..end].to_owned(),
        at: seen.arrivals.get(arrived).map_or(Duration::ZERO, |(_, at)| *at),
        end: Mark(at + text.len()),
    }
}

struct Follower {
    file: File,
    stamped: Option<File>,
    start: Instant,
    cleaner: Cleaner,
    line: String,
    shared: Arc<Shared>,
}

impl Follower {
    /// Reads to the file's present end. False when there is no point in going on.
    fn read_on(&mut self) -> bool {
        let mut buffer = [0_u8; 16 * 1024];
        loop {
            let length = match self.file.read(&mut buffer) {
                Ok(0) => return true,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            let at = self.start.elapsed();
            let mut piece = String::new();
            self.cleaner.push(&buffer[..length], &mut piece);
            self.stamp(&piece, at);
            let mut seen = self.shared.lock();
            if seen.text.len() + piece.len() > MAX_BYTES {
                seen.flooded = true;
                self.shared.changed.notify_all();
                return false;
            }
            seen.text.push_str(&piece);
            let end = seen.text.len();
            seen.arrivals.push((end, at));
            self.shared.changed.notify_all();
        }
    }

    fn stamp(&mut self, piece: &str, at: Duration) {
        let Some(file) = &mut self.stamped else { return };
        for part in piece.split_inclusive('\n') {
            self.line.push_str(part);
            if self.line.ends_with('\n') {
                // A full disk shows itself elsewhere; the raw log is the one that counts.
                let _ = write!(file, "{:9.3} {}", at.as_secs_f64(), self.line);
                self.line.clear();
            }
        }
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.stamp("\n", self.start.elapsed());
        }
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }
}

/// Takes terminal control sequences (ECMA-48) out of a stream, across its pieces.
#[derive(Debug, Default)]
pub struct Cleaner {
    state: Escape,
    /// Bytes of a character that is not complete yet.
    partial: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// ESC was read.
    Begun,
    /// Within a control sequence: up to a byte of 0x40 to 0x7e.
    Sequence,
}

impl Cleaner {
    /// Appends what a person would read of `bytes`.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (_, 0x1b) => Escape::Begun,
                (Escape::Begun, b'[') => Escape::Sequence,
                (Escape::Sequence, 0x20..=0x3f) => Escape::Sequence,
                (Escape::Begun | Escape::Sequence, _) => Escape::None,
                (Escape::None, byte) => {
                    self.plain(byte, text);
                    Escape::None
                }
            };
        }
    }

    fn plain(&mut self, byte: u8, text: &mut String) {
        if byte >= 0x80 {
            self.partial.push(byte);
            match std::str::from_utf8(&self.partial) {
                Ok(character) => text.push_str(character),
                // A character has four bytes at most.
                Err(error) if error.error_len().is_none() && self.partial.len() < 4 => return,
                Err(_) => text.push(char::REPLACEMENT_CHARACTER),
            }
            self.partial.clear();
            return;
        }
        if !self.partial.is_empty() {
            self.partial.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
        if byte == b'\n' || byte == b'\t' || !byte.is_ascii_control() {
            text.push(char::from(byte));
        }
    }
}

/// What a person would read of a whole log.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    Cleaner::default().push(bytes, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_go_even_when_cut_in_two() {
        assert_eq!(printable(b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading\r\n"), "BdsDxe: loading\n");
        let (mut cleaner, mut text) = (Cleaner::default(), String::new());
        for piece in [&b"a\x1b"[..], b"[0", b"mb", b"\xc3", b"\xa4\xff", b"c"] {
            cleaner.push(piece, &mut text);
        }
        assert_eq!(text, "abä\u{fffd}c");
    }

    #[test]
    fn the_first_match_counts_and_its_line_is_whole() {
        let text = "one\nkernel panic: why\nhealthy\n".to_owned();
        assert_eq!(find_first(&text, 0, &["healthy", "panic"]), Some((1, 11)));
        assert_eq!(find_first(&text, 12, &["healthy", "panic"]), Some((0, 22)));
        let seen = Seen {
            arrivals: vec![(4, Duration::from_secs(1)), (text.len(), Duration::from_secs(2))],
            text,
            ..Seen::default()
        };
        let found = matched(&seen, 1, 11, "panic");
        assert_eq!((found.line.as_str(), found.at), ("kernel panic: why", Duration::from_secs(2)));
    }
}
