//! Entries that are handed over long after they were made: to a machine that joins, or lost its disk.
//!
//! New entries are held to the constitution's expiry by today's clock. By it the history of a cluster would be void
//! from the day on which its first constitution expired, and no machine could be given it any more. So entries that were
//! made in time and are fully signed wait here, under names of their own on the disk, until those after them end in a
//! constitution that is in force today; then all of them are kept. A chain that ends in a void constitution comes into
//! force nowhere, and is forgotten when the agent ends.

use super::{Chain, Error, Known, Room, Submitted, read, store};
use cap_std::fs::Dir;
use pillar_quorum::{Cluster, ConstitutionError, Envelope, Refusal};
use std::io;
use tracing::warn;

/// What their names begin with.
const PREFIX: &str = "late-";

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// The state after them.
    cluster: Option<Cluster>,
    entries: Vec<Known>,
    /// Number of the first of them.
    first: u64,
}

impl Chain {
    /// Takes an entry that `refusal` says is not one of today, when it was made in time or follows such a one.
    pub(super) fn hold_back(
        &self,
        place: &Dir,
        envelope: &Envelope,
        now_unix_s: u64,
        refusal: Refusal,
    ) -> Result<Submitted, Error> {
        let late = std::mem::take(&mut self.kept().late);
        let (late, submitted) = self.held_back(place, late, envelope, now_unix_s, refusal);
        self.kept().late = late;
        submitted
    }

    /// The same with what waits then.
    fn held_back(
        &self,
        place: &Dir,
        mut late: Late,
        envelope: &Envelope,
        now_unix_s: u64,
        refusal: Refusal,
    ) -> (Late, Result<Submitted, Error>) {
        let digest = envelope.digest();
        if late.entries.iter().any(|known| known.digest == digest) {
            let waits = late.cluster.as_ref().map(waiting);
            return (late, waits.ok_or_else(|| refusal.into()));
        }
        let here = self.cluster();
        // What follows ours is late itself, and the beginning of another chain when it does not follow what waits.
        let of_ours = || if is_expiry(&refusal) { self.after(here.as_deref(), envelope).ok() } else { None };
        let follows = late.cluster.as_ref().and_then(|cluster| self.after(Some(cluster), envelope).ok());
        let follows_late = follows.is_some();
        let Some(next) = follows.or_else(of_ours) else { return (late, Err(refusal.into())) };
        if !follows_late {
            std::mem::take(&mut late).remove(place);
        }
        let before = late.cluster.as_ref().or(here.as_deref());
        let counting = self.counting(before, envelope);
        let room = self.kept().room().with(&late);
        let serial = next.serial();
        match store(place, &name(serial), serial, &counting, room) {
            Ok(known) => late.entries.push(known),
            Err(error) => return (late, Err(error)),
        }
        if late.entries.len() == 1 {
            late.first = serial;
        }
        let submitted = waiting(&next);
        let in_force = now_unix_s < next.constitution().expires_unix_s;
        late.cluster = Some(next);
        if !in_force {
            return (late, Ok(submitted));
        }
        let kept = self.keep_all(place, &late);
        // What could not be kept is given again, on top of what could.
        late.remove(place);
        (Late::default(), kept.map(|()| Submitted { applied: true, ..submitted }))
    }

    /// They are in force, one after the other.
    fn keep_all(&self, place: &Dir, late: &Late) -> Result<(), Error> {
        for serial in late.serials() {
            let text = read(place, &name(serial)).and_then(|text| text.ok_or(io::ErrorKind::NotFound.into()));
            let text = text.map_err(|source| Error::File { operation: "read", serial, source })?;
            let envelope = Envelope::parse(&text)?;
            let next = self.after(self.cluster().as_deref(), &envelope)?;
            self.keep(place, next, &envelope)?;
            // One at a time is there twice: `Room` counts on it.
            remove(place, &name(serial));
        }
        Ok(())
    }

    /// The cluster after an entry that was accepted before, by a clock that is not ours.
    fn after(&self, cluster: Option<&Cluster>, envelope: &Envelope) -> Result<Cluster, Refusal> {
        let one = std::slice::from_ref(envelope);
        let next = match cluster {
            None => pillar_quorum::replay(one, &self.operators),
            Some(cluster) => cluster.extend(one),
        };
        next.map_err(|(_, refusal)| refusal)
    }
}

impl Late {
    fn serials(&self) -> impl Iterator<Item = u64> + use<> {
        self.first..self.first + self.entries.len() as u64
    }

    /// Their files are not needed any more.
    pub(super) fn remove(self, place: &Dir) {
        for serial in self.serials() {
            remove(place, &name(serial));
        }
    }
}

impl Room {
    /// What they take as well. For a moment each that comes into force is there twice.
    fn with(self, late: &Late) -> Room {
        let bytes: u64 = late.entries.iter().map(|known| known.bytes).sum();
        Room { entries: self.entries + late.entries.len(), bytes: self.bytes + bytes }
    }
}

/// Those of an agent that ended before they came into force.
pub(super) fn remove_all(place: &Dir) {
    let Ok(files) = place.entries() else { return };
    for file in files.flatten() {
        let name = file.file_name();
        if let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) {
            remove(place, name);
        }
    }
}

/// Where there is none, nothing is to do.
pub(super) fn remove(place: &Dir, name: &str) {
    match place.remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!("cannot remove {name}: {error}"),
        _ => {}
    }
}

fn name(serial: u64) -> String {
    format!("{PREFIX}{}", super::file_name(serial))
}

/// Properly signed, and not in force: the constitution that it ends in expired.
fn waiting(cluster: &Cluster) -> Submitted {
    let needed = cluster.constitution().threshold;
    Submitted { serial: cluster.serial(), have: needed, needed, applied: false }
}

fn is_expiry(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Expired { .. } | Refusal::Constitution(ConstitutionError::Expired { .. }))
}
