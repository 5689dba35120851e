//! Protobuf, limits, conversions
#![forbid(unsafe_code)]
