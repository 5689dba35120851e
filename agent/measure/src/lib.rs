//! What a machine measures: from built files to PCR values ([`predict`]), and from event logs back to PCR values
//! and their meaning ([`tcg`], [`content`], [`review`], [`secure_boot`], [`cel`]) or to something to look at ([`view`], [`words`]).
//!
//! Bytes in, values out: no files, no sockets, no clock, no TPM. What is not understood is an error, never a guess.
#![forbid(unsafe_code)]

mod bytes;
pub mod cel;
pub mod content;
pub mod hash;
pub mod policy;
pub mod predict;
pub mod review;
pub mod secure_boot;
pub mod tcg;
pub mod view;
pub mod words;

pub use bytes::{Reader, Short};
