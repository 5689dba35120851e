//! What operators and pillars say to each other: the generated protobuf code, the limits that both ends enforce, and
//! the conversions between messages and the types of `pillar_model`. Feature `client` adds the operator's end of a
//! connection ([`client::connect`]), feature `server` the generated service trait, feature `tls` what all ends of TLS
//! have in common.
//!
//! **Invariant:** nothing that arrives becomes one of our types with a field of the wrong length, and the error names
//! the field.
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
mod convert;
pub mod limit;
#[cfg(feature = "tls")]
pub mod tls;

pub use convert::{Challenge, FieldError, Identity, Status};

/// The generated messages, client and server.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("pillar.v1");
}

/// The one protocol that both ends offer in ALPN: gRPC is HTTP/2.
pub const ALPN: &[u8] = b"h2";
