//! The attested channel between pillars.
#![forbid(unsafe_code)]
