//! System calls: the only crate with unsafe code
#![forbid(unsafe_code)]
