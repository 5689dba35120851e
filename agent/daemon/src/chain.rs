//! The chain of approved entries on this pillar: kept on the state volume, given to whoever asks, extended by what the
//! operators approved. What an entry may do, and whether enough operators signed it, `pillar_quorum` decides; here are
//! the files and the locks.
//!
//! **Invariants:** an entry is on the disk, whole and synced, before anything acts on it. It is kept with the signatures
//! that count and no others, so that nobody can make it larger than it is read back. In memory are their digests alone,
//! however long the chain is. Whoever asks for the state waits neither for signatures nor for the disk. No entry is taken
//! off the disk because it cannot be read or believed: an approved one in its place moves it aside.

use crate::places::Places;
use cap_std::fs::{Dir, OpenOptions};
use pillar_model::Digest;
use pillar_quorum::limits::ENVELOPE_MAX_BYTES;
use pillar_quorum::{Cluster, Envelope, EnvelopeError, ImageOperators, Refusal, Tally};
use pillar_wire::limit::REPLY_BYTES;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tracing::warn;

mod late;
mod load;
#[cfg(test)]
mod tests;

use late::Late;
use load::{Loaded, Unbelieved, load};

/// Entries that one chain may have: a decision a day for 40 years.
const ENTRIES_MAX: usize = 16 * 1024;
/// All of them together on the disk, those that are held back included. A decision has some 30 KiB: a row with its firmware's
/// events, a release with its packages.
const CHAIN_MAX_BYTES: u64 = 512 << 20;
/// Proposals that wait for signatures; together no more than 8 MiB.
const PENDING_MAX: usize = 16;
/// Entries in one answer, in bytes; a caller asks again for the rest. One of the largest fits. Whoever asks takes no larger
/// answer: empty entries would grow to the twelvefold in memory.
pub const ANSWER_BYTES: usize = ENVELOPE_MAX_BYTES;
/// What an answer has beside its entries: a few bytes for each.
pub const ANSWER_MARGIN_BYTES: usize = 16 * 1024;
/// Proposals beside them: what is left of an answer, and a little less.
const PENDING_ANSWER_BYTES: usize = REPLY_BYTES - ANSWER_BYTES - ANSWER_MARGIN_BYTES;
/// An entry before it has its name.
const UNFINISHED: &str = "new";

/// Why an entry is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not approved, or not fitting.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// There is no place to keep it.
    #[error("this pillar keeps no entries: {0}")]
    NoPlace(String),
    /// It cannot be written.
    #[error("cannot {operation} entry {serial}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The entry.
        serial: u64,
        /// Why.
        source: io::Error,
    },
    /// Too many, or too large together.
    #[error("the chain has {entries} entries of {bytes} bytes, no more fit")]
    Full {
        /// How many there are.
        entries: usize,
        /// What they have together, in bytes.
        bytes: u64,
    },
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its number in the chain.
    pub serial: u64,
    /// Distinct operators who have signed.
    pub have: u32,
    /// How many must.
    pub needed: u32,
    /// It is part of the chain.
    pub applied: bool,
}

/// The chain.
#[derive(Debug)]
pub struct Chain {
    operators: ImageOperators,
    place: Result<Dir, String>,
    /// Held by the one who judges and writes.
    writing: Mutex<()>,
    /// Held for moments.
    kept: Mutex<Kept>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    cluster: Option<Arc<Cluster>>,
    entries: Vec<Known>,
    /// In the order in which they came.
    pending: BTreeMap<u64, Pending>,
    proposals: u64,
    late: Late,
    /// What is on the disk behind them.
    unbelieved: Option<Unbelieved>,
}

/// An entry on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    /// SHA-256 of its payload, which says what it is. Who signed it does not.
    digest: Digest,
    /// Its file.
    bytes: u64,
}

impl Known {
    fn of(envelope: &Envelope, text: &[u8]) -> Self {
        Self { digest: envelope.digest(), bytes: text.len() as u64 }
    }
}

/// A proposal that waits for signatures.
#[derive(Debug, Clone)]
struct Pending {
    envelope: Envelope,
    signed_by: Vec<String>,
}

impl Chain {
    /// Reads what is kept: up to the first entry that cannot be read or believed. The rest comes again from peers or
    /// operators, as if this pillar had been off since then; [`Chain::trouble`] says so.
    pub fn open(places: &Places, operators: ImageOperators) -> Self {
        let place = places.entries().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                "the state volume is not open".to_owned()
            } else {
                format!("its folder on the state volume cannot be used: {error}")
            }
        });
        let mut kept = Kept::default();
        if let Ok(dir) = &place {
            late::remove_all(dir);
            let Loaded { cluster, entries, unbelieved } = load(dir, &operators);
            kept = Kept { cluster: cluster.map(Arc::new), entries, unbelieved, ..kept };
        }
        let (writing, kept) = (Mutex::default(), Mutex::new(kept));
        Self { operators, place, writing, kept, changed: watch::channel(0).0 }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster, when this pillar knows one.
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.kept().cluster.clone()
    }

    /// Why this pillar has no part in a cluster, or not in all that the cluster decided, when something is wrong.
    pub fn trouble(&self) -> Option<String> {
        if let Err(reason) = &self.place {
            return Some(reason.clone());
        }
        let kept = self.kept();
        kept.unbelieved.as_ref()?.trouble(kept.cluster.as_deref())
    }

    /// Ticks whenever the chain has grown.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Entries from this serial on, as many as fit in [`ANSWER_BYTES`]. Reads the disk.
    pub fn entries(&self, from: u64) -> Vec<Vec<u8>> {
        let Ok(place) = &self.place else { return Vec::new() };
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        let sizes: Vec<u64> = {
            let kept = self.kept();
            // More than these would not fit, were each as small as its signatures.
            kept.entries.iter().skip(start).take(ANSWER_BYTES / 256).map(|known| known.bytes).collect()
        };
        let mut left = ANSWER_BYTES as u64;
        let mut texts = Vec::new();
        for (after, bytes) in (0..).zip(sizes) {
            let serial = from.saturating_add(after);
            let Some(rest) = left.checked_sub(bytes) else { break };
            left = rest;
            match read(place, &file_name(serial)) {
                Ok(Some(text)) if text.len() as u64 == bytes => texts.push(text),
                other => {
                    let why = other.err().map_or_else(|| "it is another one".to_owned(), |e| e.to_string());
                    warn!("cannot read entry {serial} again: {why}");
                    break;
                }
            }
        }
        texts
    }

    /// What waits for signatures, as much as fits into an answer. Of each group of operators who signed the same, the
    /// newest proposal comes first, so that one operator alone cannot crowd out the others'.
    pub fn pending(&self) -> Vec<Vec<u8>> {
        let kept = self.kept();
        let mut ranked: Vec<(usize, &Envelope)> = kept
            .pending
            .iter()
            .map(|(id, one)| {
                let newer =
                    kept.pending.range(id + 1..).filter(|(_, other)| other.signed_by == one.signed_by);
                (newer.count(), &one.envelope)
            })
            .collect();
        ranked.sort_by_key(|(newer, _)| *newer);
        fitting(ranked.into_iter().map(|(_, envelope)| envelope), PENDING_ANSWER_BYTES)
    }

    /// Takes an entry, or signatures for one: part of the chain when there are enough of them, else it waits.
    pub fn submit(&self, text: &[u8], now_unix_s: u64) -> Result<Submitted, Error> {
        let envelope = Envelope::parse(text)?;
        let _writing = self.writing();
        let place = self.place()?;
        // Handing over what is known already is no mistake: operators give the whole chain to each machine.
        if let Some(serial) = self.kept().serial_of(&envelope) {
            return Ok(Submitted { serial, have: 0, needed: 0, applied: true });
        }
        match self.submit_new(place, &envelope, now_unix_s) {
            Err(Error::Refused(refusal)) => self.hold_back(place, &envelope, now_unix_s, refusal),
            other => other,
        }
    }

    fn submit_new(&self, place: &Dir, envelope: &Envelope, now_unix_s: u64) -> Result<Submitted, Error> {
        let cluster = self.cluster();
        // Before it is merged, or strangers' signatures would fill it.
        let mut envelope = self.counting(cluster.as_deref(), envelope);
        let waiting = self.kept().waiting(&envelope);
        if let Some((_, one)) = &waiting {
            envelope = self.counting(cluster.as_deref(), &one.merge(&envelope)?);
        }
        let tally = match &cluster {
            None => pillar_quorum::founding(&envelope, &self.operators, now_unix_s)?,
            Some(cluster) => cluster.needed(&envelope, now_unix_s)?,
        };
        let (have, needed) = lacking(&tally);
        if tally.enough() {
            let next = match &cluster {
                None => Cluster::found(&envelope, &self.operators, now_unix_s)?,
                Some(cluster) => cluster.apply(&envelope, now_unix_s)?,
            };
            let serial = next.serial();
            self.keep(place, next, &envelope)?;
            return Ok(Submitted { serial, have, needed, applied: true });
        }
        let serial = cluster.map_or(0, |cluster| cluster.serial() + 1);
        let pending = Pending { envelope, signed_by: tally.signed_by() };
        self.kept().propose(waiting.map(|(id, _)| id), pending);
        Ok(Submitted { serial, have, needed, applied: false })
    }

    /// Takes entries that follow ours, from a peer, which proves nothing by having them. How many were new. No clock is
    /// asked: whoever moves ours could keep decisions from us.
    pub fn take(&self, texts: &[Vec<u8>]) -> Result<usize, Error> {
        let mut new = 0;
        let _writing = self.writing();
        let place = self.place()?;
        for text in texts {
            let envelope = Envelope::parse(text)?;
            let Some(cluster) = self.cluster() else { break };
            if self.kept().serial_of(&envelope).is_some() {
                continue;
            }
            let next = cluster.extend(std::slice::from_ref(&envelope)).map_err(|(_, refusal)| refusal)?;
            self.keep(place, next, &cluster.only_counting(&envelope))?;
            new += 1;
        }
        Ok(new)
    }

    /// The envelope with the signatures that count in it.
    fn counting(&self, cluster: Option<&Cluster>, envelope: &Envelope) -> Envelope {
        match cluster {
            None => envelope.only_by(self.operators.signers().iter().copied()),
            Some(cluster) => cluster.only_counting(envelope),
        }
    }

    fn place(&self) -> Result<&Dir, Error> {
        self.place.as_ref().map_err(|reason| Error::NoPlace(reason.clone()))
    }

    /// To the disk, then into memory.
    fn keep(&self, place: &Dir, cluster: Cluster, envelope: &Envelope) -> Result<(), Error> {
        let serial = cluster.serial();
        let room = self.kept().room();
        self.make_way(place, serial, envelope);
        let known = store(place, &file_name(serial), serial, envelope, room)?;
        let mut kept = self.kept();
        kept.cluster = Some(Arc::new(cluster));
        kept.entries.push(known);
        // What was proposed as the entry that this one now is cannot follow it.
        kept.pending.clear();
        let late = std::mem::take(&mut kept.late);
        drop(kept);
        late.remove(place);
        self.changed.send_replace(serial + 1);
        Ok(())
    }
}

/// What the chain has of its limits.
#[derive(Debug, Clone, Copy)]
struct Room {
    entries: usize,
    bytes: u64,
}

impl Kept {
    /// The number of an entry that is known.
    fn serial_of(&self, envelope: &Envelope) -> Option<u64> {
        let digest = envelope.digest();
        let place = self.entries.iter().position(|known| known.digest == digest);
        place.map(|place| u64::try_from(place).unwrap_or(u64::MAX))
    }

    fn room(&self) -> Room {
        Room { entries: self.entries.len(), bytes: self.entries.iter().map(|known| known.bytes).sum() }
    }

    fn waiting(&self, envelope: &Envelope) -> Option<(u64, Envelope)> {
        let mut pending = self.pending.iter();
        let found = pending.find(|(_, one)| one.envelope.payload() == envelope.payload());
        found.map(|(id, one)| (*id, one.envelope.clone()))
    }

    /// Keeps a proposal. When there are too many, the oldest of those whom most are signed by goes: an operator who
    /// proposes without end displaces his own.
    fn propose(&mut self, known: Option<u64>, proposal: Pending) {
        let id = known.unwrap_or(self.proposals);
        self.proposals += 1;
        self.pending.insert(id, proposal);
        if self.pending.len() <= PENDING_MAX {
            return;
        }
        let mut groups: BTreeMap<&[String], (usize, u64)> = BTreeMap::new();
        for (id, one) in self.pending.iter().rev() {
            let (count, oldest) = groups.entry(&one.signed_by).or_default();
            (*count, *oldest) = (*count + 1, *id);
        }
        let goes = groups.into_values().max_by_key(|(count, oldest)| (*count, Reverse(*oldest)));
        if let Some((_, oldest)) = goes {
            self.pending.remove(&oldest);
        }
    }
}

/// As many as fit into so many bytes, in this order.
fn fitting<'a>(envelopes: impl Iterator<Item = &'a Envelope>, bytes: usize) -> Vec<Vec<u8>> {
    let mut left = bytes;
    let texts = envelopes.map(|envelope| envelope.to_json().into_bytes());
    texts
        .take_while(|text| {
            let fits = text.len() <= left;
            left = left.saturating_sub(text.len());
            fits
        })
        .collect()
}

/// Signatures that there are, and that there must be: of the constitution that lacks most.
fn lacking(tally: &Tally) -> (u32, u32) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let most = tally.counts().max_by_key(|count| count.needed.saturating_sub(count.have()));
    most.map_or((0, 0), |count| (number(count.have()), number(count.needed)))
}

fn file_name(serial: u64) -> String {
    format!("{serial:08}.json")
}

/// An entry under a name of its own, when there is room for it beside the others.
fn store(place: &Dir, name: &str, serial: u64, envelope: &Envelope, room: Room) -> Result<Known, Error> {
    let text = envelope.to_json();
    // It could not be read back.
    if text.len() > ENVELOPE_MAX_BYTES {
        return Err(EnvelopeError::TooLarge(text.len()).into());
    }
    let known = Known::of(envelope, text.as_bytes());
    let Room { entries, bytes } = room;
    if entries >= ENTRIES_MAX || bytes + known.bytes > CHAIN_MAX_BYTES {
        return Err(Error::Full { entries, bytes });
    }
    write(place, name, text.as_bytes()).map_err(|(operation, source)| Error::File {
        operation,
        serial,
        source,
    })?;
    Ok(known)
}

/// Written aside, synced, renamed, and the folder synced: after a power cut the entry is there whole, or not.
fn write(place: &Dir, name: &str, text: &[u8]) -> Result<(), (&'static str, io::Error)> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = place.open_with(UNFINISHED, &options).map_err(|e| ("create", e))?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(|e| ("write", e))?;
    place.rename(UNFINISHED, place, name).map_err(|e| ("name", e))?;
    place.open(".").and_then(|folder| folder.sync_all()).map_err(|e| ("sync the folder of", e))
}

fn read(place: &Dir, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match place.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = Vec::new();
    file.take(ENVELOPE_MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(Some(text))
}
