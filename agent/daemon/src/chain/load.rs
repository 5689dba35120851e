//! What is on the disk when the agent starts, judged again.
//!
//! Whatever cannot be read or believed ends the chain there, and stays as it is on the disk: a disk that fails once is read
//! at the next start, and what one image refuses another one may take. It goes out of the way only when an approved
//! entry comes in its place.

use super::{Chain, ENTRIES_MAX, Known, file_name, read};
use cap_std::fs::Dir;
use pillar_model::{Action, Entry, OperatorKey};
use pillar_quorum::{Cluster, Envelope, ImageOperators, Refusal};
use std::io;
use tracing::warn;

/// What is on the disk.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub cluster: Option<Cluster>,
    pub entries: Vec<Known>,
    pub unbelieved: Option<Unbelieved>,
}

/// Entries that are on the disk and not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unbelieved {
    /// The first of them.
    pub serial: u64,
    /// The last one that has a file.
    pub last: u64,
    /// What is wrong with the first.
    reason: String,
}

impl Unbelieved {
    /// What operators must know, unless this cluster has all of them again.
    pub fn trouble(&self, cluster: Option<&Cluster>) -> Option<String> {
        if cluster.is_some_and(|cluster| cluster.serial() >= self.last) {
            return None;
        }
        let Self { serial, last, reason } = self;
        Some(format!(
            "entry {serial} on its disk is not believed: {reason}; entries {serial} to {last} have to come again, and \
             until then an operator whom they removed is let in"
        ))
    }
}

/// Everything that is kept, judged again.
pub(super) fn load(place: &Dir, image: &ImageOperators) -> Loaded {
    let (mut loaded, mut wrong) = (Loaded::default(), None);
    // Why the founding is not one of this image, until its operators are seen to stand by the chain.
    let mut doubt = None;
    while loaded.entries.len() < ENTRIES_MAX {
        let (envelope, known) = match stored(place, loaded.entries.len() as u64) {
            Ok(None) => break,
            Ok(Some(entry)) => entry,
            Err(reason) => {
                wrong = Some(reason);
                break;
            }
        };
        let next = match &loaded.cluster {
            None => found(&envelope, image).map(|(cluster, refused)| {
                doubt = refused;
                cluster
            }),
            Some(cluster) => cluster.extend(std::slice::from_ref(&envelope)).map_err(|(_, refusal)| refusal),
        };
        match next {
            Ok(cluster) => loaded.cluster = Some(cluster),
            Err(refusal) => {
                wrong = Some(refusal.to_string());
                break;
            }
        }
        loaded.entries.push(known);
        if doubt.is_some() && vouch(&envelope, image) {
            doubt = None;
        }
    }
    if let Some(refusal) = doubt {
        let why = "and not more than half of this image's operators signed any entry of its chain";
        (loaded, wrong) = (Loaded::default(), Some(format!("{refusal}, {why}")));
    }
    loaded.unbelieved = unbelieved(place, loaded.entries.len() as u64, wrong);
    loaded
}

fn unbelieved(place: &Dir, serial: u64, wrong: Option<String>) -> Option<Unbelieved> {
    let last = last_file(place).unwrap_or_else(|error| {
        warn!("cannot list the stored entries: {error}");
        None
    });
    let last = last.filter(|last| *last >= serial);
    // A file behind a gap had one before it.
    let reason = wrong.or_else(|| last.map(|_| "it is missing".to_owned()))?;
    let last = last.unwrap_or(serial);
    warn!("the stored entry {serial} is not believed, nor what follows it up to {last}: {reason}");
    Some(Unbelieved { serial, last, reason })
}

fn stored(place: &Dir, serial: u64) -> Result<Option<(Envelope, Known)>, String> {
    let text = read(place, &file_name(serial)).map_err(|error| format!("it cannot be read: {error}"))?;
    let Some(text) = text else { return Ok(None) };
    let envelope = Envelope::parse(&text).map_err(|error| error.to_string())?;
    let known = Known::of(&envelope, &text);
    Ok(Some((envelope, known)))
}

/// The cluster that a stored founding makes, and why this image would not have it founded now.
///
/// The image that took it had other operators, perhaps: one who left the cluster leaves the next image as well, and no
/// pillar may lose its cluster by that. Nor may the file be believed because it is on our volume: sealing keeps the
/// volume secret and does not say who made it, so that whoever has the machine in his hands can put one there with a
/// cluster of his own on it. So such a founding is read by its own operators, and counts only in a chain of which
/// [more than half of this image's operators](vouch) signed an entry: each names the one before it.
fn found(envelope: &Envelope, image: &ImageOperators) -> Result<(Cluster, Option<Refusal>), Refusal> {
    let one = std::slice::from_ref(envelope);
    match pillar_quorum::replay(one, image) {
        Ok(cluster) => Ok((cluster, None)),
        Err((_, refusal)) => match pillar_quorum::replay(one, &founders(envelope)) {
            Ok(cluster) => Ok((cluster, Some(refusal))),
            Err(_) => Err(refusal),
        },
    }
}

fn founders(envelope: &Envelope) -> Vec<OperatorKey> {
    match serde_json::from_slice(envelope.payload()) {
        Ok(Entry { action: Action::Found(constitution), .. }) => {
            constitution.operators.iter().map(|operator| operator.key).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether more than half of the image's operators signed it.
fn vouch(envelope: &Envelope, image: &ImageOperators) -> bool {
    envelope.only_by(image.signers().iter().copied()).signatures().len() >= image.needed()
}

/// The highest number that has a file.
fn last_file(place: &Dir) -> io::Result<Option<u64>> {
    let mut last = None;
    for file in place.entries()? {
        let name = file?.file_name();
        let serial = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
        last = last.max(serial.filter(|serial| name.to_str() == Some(&file_name(*serial))));
    }
    Ok(last)
}

impl Chain {
    /// Lets an approved entry come in the place of what is not believed, which stays under another name for whoever
    /// wants to know what happened.
    pub(super) fn make_way(&self, place: &Dir, serial: u64, envelope: &Envelope) {
        let Some(Unbelieved { serial: first, last, .. }) = self.kept().unbelieved.clone() else { return };
        if !(first..=last).contains(&serial) {
            return;
        }
        let there = match stored(place, serial) {
            Ok(None) => return,
            Ok(Some((there, _))) if there == *envelope => return,
            Ok(Some((there, _))) => Some(there),
            Err(_) => None,
        };
        put_aside(place, &file_name(serial));
        // Another cluster begins here: nothing of the old one follows.
        if serial == 0 && there.is_some_and(|there| there.digest() != envelope.digest()) {
            for name in (1..=last).map(file_name) {
                put_aside(place, &name);
                super::late::remove(place, &name);
            }
            self.kept().unbelieved = None;
        }
    }
}

/// A second name for it: its own is taken over in one step, and no moment has neither.
fn put_aside(place: &Dir, name: &str) {
    let aside = format!("damaged-{name}");
    super::late::remove(place, &aside);
    match place.hard_link(name, place, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!("cannot put {name} aside: {error}"),
        _ => {}
    }
}
