//! The tools tree: mkosi and everything that runs inside it
#![forbid(unsafe_code)]
