//! Two ends in one process. What the TPM does, keys in memory do; what the verifier does, a double does that really
//! compares the binding.

mod doubles;
mod good;
mod injected;
mod kinds;
mod living;
mod raw;
mod refused;
mod tls;
