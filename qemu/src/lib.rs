//! Virtual machines with a TPM, as values
#![forbid(unsafe_code)]
