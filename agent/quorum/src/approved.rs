//! The proof that enough operators signed something.

use std::ops::Deref;

/// Something that enough operators signed. Made by this crate alone, never serialised, never read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved<T> {
    value: T,
    serial: u64,
    by: Vec<String>,
}

impl<T> Approved<T> {
    /// Only where a tally was full: see `Tally::approve`.
    pub(crate) fn new(value: T, serial: u64, by: Vec<String>) -> Self {
        Self { value, serial, by }
    }

    /// A part of it is approved as well.
    pub(crate) fn part<P>(&self, value: P) -> Approved<P> {
        Approved { value, serial: self.serial, by: self.by.clone() }
    }

    /// What was approved.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The entry by which.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Names of the operators who signed, as the constitution in force then had them.
    #[must_use]
    pub fn by(&self) -> &[String] {
        &self.by
    }
}

impl<T> Deref for Approved<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
