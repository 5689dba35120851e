//! Who signed, and whether that is enough. Keys are counted.

use crate::envelope::{Envelope, key_id, verifies};
use crate::{Approved, Refusal};
use pillar_model::{Constitution, OperatorEntry, OperatorKey};
use std::collections::{BTreeMap, BTreeSet};

/// The signatures under one constitution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Which: its version; 0 are the operators of the sealed image.
    pub constitution: u64,
    /// Operators who signed, by name, in the constitution's order.
    pub signed_by: Vec<String>,
    /// Those who did not.
    pub missing: Vec<String>,
    /// How many must.
    pub needed: usize,
}

impl Count {
    /// How many signed.
    #[must_use]
    pub fn have(&self) -> usize {
        self.signed_by.len()
    }

    /// Whether they are enough.
    #[must_use]
    pub fn enough(&self) -> bool {
        // Zero needed would be a constitution without a threshold: never enough.
        self.needed > 0 && self.have() >= self.needed
    }
}

/// The signatures of one proposal: under the constitution in force, and under the one that it brings, if it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Under the constitution in force (of a founding: by the operators of the sealed image).
    pub current: Count,
    /// Under the constitution that the proposal brings.
    pub next: Option<Count>,
    /// Signatures that do not count: of unknown keys, wrong, or a second one by the same key.
    pub uncounted: usize,
}

impl Tally {
    /// Whether all thresholds are met.
    #[must_use]
    pub fn enough(&self) -> bool {
        self.counts().all(Count::enough)
    }

    /// Everybody who signed, once.
    #[must_use]
    pub fn signed_by(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.counts().flat_map(|count| &count.signed_by) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// The one or two counts.
    pub fn counts(&self) -> impl Iterator<Item = &Count> {
        std::iter::once(&self.current).chain(&self.next)
    }

    /// The value as approved, when all thresholds are met: the only way to [`Approved`].
    pub(crate) fn approve<T>(&self, value: T, serial: u64) -> Result<Approved<T>, Refusal> {
        match self.counts().find(|count| !count.enough()) {
            Some(count) => Err(Refusal::TooFewSignatures { count: count.clone(), uncounted: self.uncounted }),
            None => Ok(Approved::new(value, serial, self.signed_by())),
        }
    }
}

/// Those who vote: the operators of a constitution, or of the sealed image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Electorate<'a> {
    pub constitution: u64,
    pub operators: &'a [OperatorEntry],
    pub needed: usize,
}

impl<'a> Electorate<'a> {
    pub fn of(constitution: &'a Constitution) -> Self {
        Self {
            constitution: constitution.version,
            operators: &constitution.operators,
            needed: usize::try_from(constitution.threshold).unwrap_or(usize::MAX),
        }
    }

    fn count(&self, signers: &BTreeMap<OperatorKey, usize>) -> Count {
        let (signed, missing): (Vec<_>, Vec<_>) =
            self.operators.iter().partition(|operator| signers.contains_key(&operator.key));
        let names = |of: Vec<&OperatorEntry>| of.into_iter().map(|o| o.name.clone()).collect();
        Count {
            constitution: self.constitution,
            signed_by: names(signed),
            missing: names(missing),
            needed: self.needed,
        }
    }
}

pub(crate) fn tally(envelope: &Envelope, current: Electorate<'_>, next: Option<Electorate<'_>>) -> Tally {
    let electorates = std::iter::once(&current).chain(&next);
    let keys = electorates.flat_map(|e| e.operators).map(|operator| operator.key);
    let signers = signers(envelope, &keys.collect());
    Tally {
        current: current.count(&signers),
        next: next.map(|next| next.count(&signers)),
        uncounted: envelope.signatures().len() - signers.len(),
    }
}

/// Signatures whose `keyid` leads to none of the keys that are tried with each of them all the same: it is a hint. Whoever
/// signs with our tools names the key; without a limit, junk would cost a verification of the whole payload for each pair.
const UNNAMED_MAX: usize = 8;

/// Which of the keys signed, each with the place of its signature. A key is in the answer once, however often it
/// signed; no signature is in it twice, because none verifies under two keys that `check_operator_key` let pass. A
/// `keyid` decides nothing but which key is tried first.
pub(crate) fn signers(envelope: &Envelope, keys: &BTreeSet<OperatorKey>) -> BTreeMap<OperatorKey, usize> {
    let message = envelope.pae();
    let signatures = envelope.signatures();
    let by_id: BTreeMap<String, OperatorKey> = keys.iter().map(|key| (key_id(key), *key)).collect();
    let good = |key: &OperatorKey, at: usize| verifies(key, &message, &signatures[at].bytes);
    let mut found = BTreeMap::new();
    let mut unnamed = Vec::new();
    for (at, signature) in signatures.iter().enumerate() {
        match by_id.get(&signature.key_id) {
            Some(key) if !found.contains_key(key) && good(key, at) => {
                found.insert(*key, at);
            }
            _ => unnamed.push(at),
        }
    }
    for at in unnamed.into_iter().take(UNNAMED_MAX) {
        if let Some(key) = keys.iter().find(|key| !found.contains_key(*key) && good(key, at)) {
            found.insert(*key, at);
        }
    }
    found
}
