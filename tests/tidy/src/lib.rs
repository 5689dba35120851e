//! The project's rules as tests
#![forbid(unsafe_code)]
