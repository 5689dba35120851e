//! Who may approve what, and have enough.
#![forbid(unsafe_code)]
