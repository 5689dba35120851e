//! Entries that are handed over long after they were made: to a machine that joins, or lost its disk.
//!
//! New entries are held to the constitution's expiry by today's clock. By it the history of a cluster would be void
//! from the day on which its first constitution expired, and no machine could be given it any more. So entries that were
//! made in time wait here, in memory, until those after them end in a constitution that is in force today; then all of
//! them are kept. A chain that ends in a void constitution comes into force nowhere.

use super::{Chain, Error, Submitted};
use cap_std::fs::Dir;
use pillar_quorum::{Cluster, ConstitutionError, Envelope, Refusal};

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// The state after them.
    cluster: Option<Cluster>,
    envelopes: Vec<Envelope>,
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
        let mut late = std::mem::take(&mut self.kept().late);
        let here = self.cluster();
        let before = late.cluster.as_ref().or(here.as_deref());
        let known = late.envelopes.iter().any(|known| known.payload() == envelope.payload());
        let next = if known || !(late.cluster.is_some() || is_expiry(&refusal)) {
            None
        } else {
            self.after(before, envelope).ok()
        };
        let Some(next) = next else {
            let waits = late.cluster.as_ref().filter(|_| known).map(waiting);
            self.kept().late = late;
            return waits.ok_or_else(|| refusal.into());
        };
        let counting = self.counting(before, envelope);
        late.envelopes.push(counting);
        let submitted = waiting(&next);
        let in_force = now_unix_s < next.constitution().expires_unix_s;
        late.cluster = Some(next);
        if !in_force {
            self.kept().late = late;
            return Ok(submitted);
        }
        for envelope in late.envelopes {
            let next = self.after(self.cluster().as_deref(), &envelope)?;
            self.keep(place, next, envelope)?;
        }
        Ok(Submitted { applied: true, ..submitted })
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

/// Properly signed, and not in force.
fn waiting(cluster: &Cluster) -> Submitted {
    let needed = cluster.constitution().threshold;
    Submitted { serial: cluster.serial(), have: needed, needed, applied: false }
}

fn is_expiry(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Expired { .. } | Refusal::Constitution(ConstitutionError::Expired { .. }))
}
