//! Two chains side by side. A pillar keeps the chain it has, however long another one is: that both are properly signed
//! means that operators signed two decisions for one place, and people must settle it.

use crate::Envelope;
use crate::tally::{Electorate, tally};
use pillar_model::Constitution;

/// Where two chains part: the place of the first entries that differ. None when one is the beginning of the other. Payloads
/// are compared: the same entry with more signatures is the same entry.
#[must_use]
pub fn fork(one: &[Envelope], other: &[Envelope]) -> Option<usize> {
    one.iter().zip(other).position(|(one, other)| one.payload() != other.payload())
}

/// Operators who signed both of two entries that have one number: with thresholds of more than half there is at least
/// one when both are properly signed. `constitution` is the one in force before them.
#[must_use]
pub fn signed_both(one: &Envelope, other: &Envelope, constitution: &Constitution) -> Vec<String> {
    let signed = |envelope| tally(envelope, Electorate::of(constitution), None).current.signed_by;
    let others = signed(other);
    signed(one).into_iter().filter(|name| others.contains(name)).collect()
}
