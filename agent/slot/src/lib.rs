//! GPT and boot choice, on bytes
#![forbid(unsafe_code)]
