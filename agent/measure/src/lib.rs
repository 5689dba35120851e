//! What a machine measures: from built files to PCR values ([`predict`]), and from event logs back to PCR values
//! and their meaning ([`tcg`], [`cel`], [`secure_boot`]).
//!
//! Bytes in, values out: no files, no sockets, no clock, no TPM. What is not understood is an error, never a guess.
#![forbid(unsafe_code)]

pub mod hash;
pub mod predict;
