//! The agent's TPM: the only user of tss-esapi
#![forbid(unsafe_code)]
