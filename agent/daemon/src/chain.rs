//! The chain of approved entries on this pillar: kept on the state volume, given to whoever asks, extended by what the
//! operators approved. What an entry may do, and whether enough operators signed it, `pillar_quorum` decides; here are
//! the files and the lock.
//!
//! **Invariant:** an entry is on the disk, whole and synced, before anything acts on it.

use crate::places::Places;
use cap_std::fs::{Dir, OpenOptions};
use pillar_model::OperatorKey;
use pillar_quorum::limits::ENVELOPE_MAX_BYTES;
use pillar_quorum::{Cluster, Envelope, EnvelopeError, Refusal, Tally};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Entries that one chain may have: a decision a day for 40 years.
const ENTRIES_MAX: usize = 16 * 1024;
/// Proposals that wait for signatures; the oldest goes first.
const PENDING_MAX: usize = 16;
/// Entries in one answer, in bytes; a caller asks again for the rest.
pub const ANSWER_BYTES: usize = 768 * 1024;
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
    /// Too many.
    #[error("the chain has {ENTRIES_MAX} entries, no more fit")]
    Full,
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
    operators: Vec<OperatorKey>,
    place: Result<Dir, String>,
    kept: Mutex<Kept>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    cluster: Option<Arc<Cluster>>,
    envelopes: Vec<Envelope>,
    /// In the order in which they came.
    pending: BTreeMap<u64, Envelope>,
    proposals: u64,
    trouble: Option<String>,
}

impl Chain {
    /// Reads what is kept. A chain that is damaged is left alone and not used; the reason is [`Self::trouble`].
    pub fn open(places: &Places, operators: Vec<OperatorKey>) -> Self {
        let place = places.entries().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                "the state volume is not open".to_owned()
            } else {
                format!("its folder on the state volume cannot be used: {error}")
            }
        });
        let mut kept = Kept::default();
        match &place {
            Ok(dir) => match load(dir, &operators) {
                Ok((cluster, envelopes)) => (kept.cluster, kept.envelopes) = (cluster, envelopes),
                Err(reason) => kept.trouble = Some(format!("the stored entries are damaged: {reason}")),
            },
            Err(reason) => kept.trouble = Some(reason.clone()),
        }
        Self { operators, place, kept: Mutex::new(kept), changed: watch::channel(0).0 }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster, when this pillar knows one.
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.kept().cluster.clone()
    }

    /// Why this pillar has no part in a cluster, when something is wrong.
    pub fn trouble(&self) -> Option<String> {
        self.kept().trouble.clone()
    }

    /// Ticks whenever the chain has grown.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Entries from this serial on, as many as fit in [`ANSWER_BYTES`].
    pub fn entries(&self, from: u64) -> Vec<Vec<u8>> {
        let kept = self.kept();
        let mut left = ANSWER_BYTES;
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let rest = kept.envelopes.get(from..).unwrap_or_default();
        rest.iter()
            .map(|envelope| envelope.to_json().into_bytes())
            .take_while(|text| {
                left = left.saturating_sub(text.len());
                left > 0
            })
            .collect()
    }

    /// What waits for signatures.
    pub fn pending(&self) -> Vec<Vec<u8>> {
        self.kept().pending.values().map(|one| one.to_json().into_bytes()).collect()
    }

    /// Takes an entry, or signatures for one: part of the chain when there are enough of them, else it waits.
    pub fn submit(&self, text: &[u8], now_unix_s: u64) -> Result<Submitted, Error> {
        let mut envelope = Envelope::parse(text)?;
        let mut kept = self.kept();
        let place = self.place(&kept)?;
        // Handing over what is known already is no mistake: operators give the whole chain to each machine.
        if let Some(serial) = kept.envelopes.iter().position(|known| known.payload() == envelope.payload()) {
            let serial = u64::try_from(serial).unwrap_or(u64::MAX);
            return Ok(Submitted { serial, have: 0, needed: 0, applied: true });
        }
        let waiting = kept.pending.iter().find(|(_, one)| one.payload() == envelope.payload());
        let waiting = waiting.map(|(id, one)| (*id, one.clone()));
        if let Some((_, one)) = &waiting {
            envelope = one.merge(&envelope)?;
        }
        let tally = match &kept.cluster {
            None => pillar_quorum::founding(&envelope, &self.operators, now_unix_s)?,
            Some(cluster) => cluster.needed(&envelope, now_unix_s)?,
        };
        let (have, needed) = lacking(&tally);
        if tally.enough() {
            let cluster = match &kept.cluster {
                None => Cluster::found(&envelope, &self.operators, now_unix_s)?,
                Some(cluster) => cluster.apply(&envelope, now_unix_s)?,
            };
            let serial = cluster.serial();
            self.keep(place, &mut kept, cluster, envelope)?;
            return Ok(Submitted { serial, have, needed, applied: true });
        }
        let serial = kept.cluster.as_ref().map_or(0, |cluster| cluster.serial() + 1);
        if let Some(cluster) = &kept.cluster {
            // Strangers' signatures would only fill it.
            envelope = cluster.only_counting(&envelope);
        }
        let id = waiting.map_or(kept.proposals, |(id, _)| id);
        kept.proposals += 1;
        kept.pending.insert(id, envelope);
        if kept.pending.len() > PENDING_MAX {
            kept.pending.pop_first();
        }
        Ok(Submitted { serial, have, needed, applied: false })
    }

    /// Takes entries that follow ours, from a peer, which proves nothing by having them. How many were new.
    pub fn take(&self, texts: &[Vec<u8>], now_unix_s: u64) -> Result<usize, Error> {
        let mut new = 0;
        for text in texts {
            let envelope = Envelope::parse(text)?;
            let mut kept = self.kept();
            let place = self.place(&kept)?;
            let Some(cluster) = kept.cluster.clone() else { break };
            if kept.envelopes.iter().any(|known| known.payload() == envelope.payload()) {
                continue;
            }
            let next = cluster.extend(std::slice::from_ref(&envelope), now_unix_s);
            let next = next.map_err(|(_, refusal)| refusal)?;
            self.keep(place, &mut kept, next, envelope)?;
            new += 1;
        }
        Ok(new)
    }

    /// Where entries are kept. Nothing is added to a chain that could not be read.
    fn place(&self, kept: &Kept) -> Result<&Dir, Error> {
        if let Some(trouble) = &kept.trouble {
            return Err(Error::NoPlace(trouble.clone()));
        }
        self.place.as_ref().map_err(|reason| Error::NoPlace(reason.clone()))
    }

    /// To the disk, then into memory.
    fn keep(&self, place: &Dir, kept: &mut Kept, cluster: Cluster, envelope: Envelope) -> Result<(), Error> {
        if kept.envelopes.len() >= ENTRIES_MAX {
            return Err(Error::Full);
        }
        let serial = cluster.serial();
        write(place, serial, envelope.to_json().as_bytes()).map_err(|(operation, source)| Error::File {
            operation,
            serial,
            source,
        })?;
        kept.cluster = Some(Arc::new(cluster));
        kept.envelopes.push(envelope);
        // What was proposed as the entry that this one now is cannot follow it.
        kept.pending.clear();
        self.changed.send_replace(serial + 1);
        Ok(())
    }
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

/// Written aside, synced, renamed, and the folder synced: after a power cut the entry is there whole, or not.
fn write(place: &Dir, serial: u64, text: &[u8]) -> Result<(), (&'static str, io::Error)> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = place.open_with(UNFINISHED, &options).map_err(|e| ("create", e))?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(|e| ("write", e))?;
    place.rename(UNFINISHED, place, file_name(serial)).map_err(|e| ("name", e))?;
    place.open(".").and_then(|folder| folder.sync_all()).map_err(|e| ("sync the folder of", e))
}

type Loaded = (Option<Arc<Cluster>>, Vec<Envelope>);

/// Everything that is kept, judged again.
fn load(place: &Dir, operators: &[OperatorKey]) -> Result<Loaded, String> {
    let mut envelopes = Vec::new();
    for serial in 0.. {
        let Some(text) =
            read(place, &file_name(serial)).map_err(|error| format!("entry {serial}: {error}"))?
        else {
            break;
        };
        envelopes.push(Envelope::parse(&text).map_err(|error| format!("entry {serial}: {error}"))?);
        if envelopes.len() > ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} entries"));
        }
    }
    if envelopes.is_empty() {
        return Ok((None, envelopes));
    }
    let cluster = pillar_quorum::replay(&envelopes, operators)
        .map_err(|(serial, refusal)| format!("entry {serial}: {refusal}"))?;
    Ok((Some(Arc::new(cluster)), envelopes))
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
