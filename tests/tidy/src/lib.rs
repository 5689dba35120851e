//! The project's rules as tests: who may import whom, where unsafe code may stand, what must never be committed, and
//! that every command of the README exists. The rules are in `tests/`.
#![forbid(unsafe_code)]
