//! Evidence: what a pillar hands to a verifier, exactly as received. Nothing in it is trusted before `verify`.

use crate::Nonce;
use serde::{Deserialize, Serialize};

/// Which end of the connection made the evidence; part of what is signed, so that it cannot be reflected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The end that accepted the connection.
    Server,
    /// The end that opened it.
    Client,
}

/// What ties a quote to one challenge on one TLS connection. The verifier fills it from *its own* view of the
/// connection, never from what the other side sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The attester's end.
    pub role: Role,
    /// The verifier's challenge.
    pub nonce: Nonce,
    /// TLS exporter (RFC 8446 section 7.5) under the label `pillar_verify::EXPORTER_LABEL`, 32 bytes.
    pub exporter: Vec<u8>,
    /// SubjectPublicKeyInfo (DER) of the attester's TLS certificate.
    pub attester_spki: Vec<u8>,
    /// SubjectPublicKeyInfo (DER) of the verifier's TLS certificate; empty when it showed none.
    pub verifier_spki: Vec<u8>,
}

/// One answer to one challenge. Byte strings are TPM wire format (big endian) unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `TPMS_ATTEST` that was signed.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE` over `attest` by the AK.
    pub signature: Vec<u8>,
    /// `TPMT_PUBLIC` of the AK.
    pub ak_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the EK.
    pub ek_public: Vec<u8>,
    /// X.509 DER of the EK certificate from the TPM's NV, without the padding.
    pub ek_certificate: Vec<u8>,
    /// What `TPM2_ActivateCredential` gave back for the verifier's challenge: proof that EK and AK share a TPM.
    pub activated: Vec<u8>,
    /// The firmware's event log (TCG PC Client Platform Firmware Profile, crypto agile), as the kernel shows it.
    pub event_log: Vec<u8>,
    /// Our own event log (TCG CEL, JSON-SEQ).
    pub cel: Vec<u8>,
    /// Public part (Ed25519) of the key that signs the attester's heartbeats; empty towards operators. Part of what the
    /// quote signs.
    #[serde(default)]
    pub heartbeat_key: Vec<u8>,
}
