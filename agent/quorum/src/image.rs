//! Who may found: the operators of the sealed image.

use crate::tally::Electorate;
use crate::{Refusal, check_operator_key};
use pillar_model::{Constitution, OperatorEntry, OperatorKey};
use std::collections::BTreeSet;

/// The operators in a machine's sealed image, each once. More than half of all of them must sign a founding, or a single
/// one could found a cluster alone on every machine that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOperators {
    signers: Vec<OperatorKey>,
    others: usize,
}

impl ImageOperators {
    /// Those who can sign, and how many more there are whose keys are of another kind. These only raise the number of
    /// signatures that a founding needs.
    pub fn new(signers: impl IntoIterator<Item = OperatorKey>, others: usize) -> Self {
        let mut seen = BTreeSet::new();
        let signers = signers.into_iter().filter(|key| seen.insert(*key)).collect();
        Self { signers, others }
    }

    /// Those who can sign.
    #[must_use]
    pub fn signers(&self) -> &[OperatorKey] {
        &self.signers
    }

    /// How many must sign a founding: more than half of all.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.signers.len().saturating_add(self.others) / 2 + 1
    }

    /// Whether the founders are all known, and can be enough.
    pub(crate) fn check(&self, constitution: &Constitution) -> Result<(), Refusal> {
        let stranger = constitution.operators.iter().find(|operator| !self.signers.contains(&operator.key));
        if let Some(stranger) = stranger {
            return Err(Refusal::Stranger { name: stranger.name.clone() });
        }
        let signers = self.signers.iter().filter(|key| check_operator_key(key)).count();
        if signers < self.needed() {
            let operators = self.signers.len().saturating_add(self.others);
            return Err(Refusal::TooFewSigners { operators, signers, needed: self.needed() });
        }
        Ok(())
    }

    /// Those who can sign, by the names that the first constitution gives them.
    pub(crate) fn named(&self, constitution: &Constitution) -> Vec<OperatorEntry> {
        let named = |key: &OperatorKey| {
            let known = constitution.operators.iter().find(|operator| operator.key == *key);
            let name = known.map_or_else(|| format!("key {}…", hex::encode(&key.0[..4])), |o| o.name.clone());
            OperatorEntry { name, key: *key }
        };
        self.signers.iter().map(named).collect()
    }

    /// As an electorate, with these names.
    pub(crate) fn electorate<'a>(&self, operators: &'a [OperatorEntry]) -> Electorate<'a> {
        Electorate { constitution: 0, operators, needed: self.needed() }
    }
}

/// All of them can sign.
impl From<&[OperatorKey]> for ImageOperators {
    fn from(signers: &[OperatorKey]) -> Self {
        Self::new(signers.iter().copied(), 0)
    }
}
impl From<&Vec<OperatorKey>> for ImageOperators {
    fn from(signers: &Vec<OperatorKey>) -> Self {
        signers.as_slice().into()
    }
}
impl<const N: usize> From<&[OperatorKey; N]> for ImageOperators {
    fn from(signers: &[OperatorKey; N]) -> Self {
        signers.as_slice().into()
    }
}
impl From<&ImageOperators> for ImageOperators {
    fn from(image: &ImageOperators) -> Self {
        image.clone()
    }
}
