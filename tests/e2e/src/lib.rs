//! What the machine tests share: the release under test, our programs, and ways to damage a disk. The tests are in
//! `tests/`; the demo of the README is `bin/demo.rs`.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod damage;
pub mod guest;
pub mod machine;
pub mod programs;
pub mod release;
pub mod saved;
pub mod uki;
