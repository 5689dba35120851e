//! Two chains side by side.

use crate::Envelope;
use crate::tally::{Electorate, tally};
use pillar_model::Constitution;

/// How another pillar's chain stands to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chains {
    /// The same entries.
    Equal,
    /// Theirs goes on where ours ends: its entries from this number on can be applied.
    TheirsGoesOn {
        /// Number of the first entry that we lack.
        from: u64,
    },
    /// Ours goes on where theirs ends.
    OursGoesOn {
        /// Number of the first entry that they lack.
        from: u64,
    },
    /// Two entries have one number. A pillar keeps the chain it has, however long the other is, and reports it: both
    /// being properly signed means that at least one operator signed twice, and people must decide.
    Fork {
        /// Number of the first entries that differ.
        at: u64,
        /// Whether their chain has more entries than ours; it decides nothing.
        theirs_is_longer: bool,
    },
}

/// Compares by payload: the same entry with more signatures is the same entry.
#[must_use]
pub fn compare(ours: &[Envelope], theirs: &[Envelope]) -> Chains {
    let number = |at: usize| u64::try_from(at).unwrap_or(u64::MAX);
    let differ = ours.iter().zip(theirs).position(|(our, their)| our.payload() != their.payload());
    if let Some(at) = differ {
        return Chains::Fork { at: number(at), theirs_is_longer: theirs.len() > ours.len() };
    }
    match ours.len().cmp(&theirs.len()) {
        std::cmp::Ordering::Equal => Chains::Equal,
        std::cmp::Ordering::Less => Chains::TheirsGoesOn { from: number(ours.len()) },
        std::cmp::Ordering::Greater => Chains::OursGoesOn { from: number(theirs.len()) },
    }
}

/// Operators who signed both of two entries that have one number: with thresholds of more than half there is at least
/// one when both are properly signed. `constitution` is the one in force before them.
#[must_use]
pub fn signed_both(one: &Envelope, other: &Envelope, constitution: &Constitution) -> Vec<String> {
    let signed = |envelope| tally(envelope, Electorate::of(constitution), None).current.signed_by;
    let others = signed(other);
    signed(one).into_iter().filter(|name| others.contains(name)).collect()
}
