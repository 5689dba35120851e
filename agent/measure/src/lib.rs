//! Event log to PCRs, UKI to PCRs
#![forbid(unsafe_code)]
