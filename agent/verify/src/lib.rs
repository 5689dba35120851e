//! Evidence to verdict
#![forbid(unsafe_code)]
