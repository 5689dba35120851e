//! Tests of whole machines
#![forbid(unsafe_code)]
