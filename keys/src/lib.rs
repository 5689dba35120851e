//! Development keys and their files
#![forbid(unsafe_code)]
