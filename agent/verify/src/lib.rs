//! Evidence to verdict: one pure function, [`verify`], from what a pillar sent, what the verifier knows of its own
//! connection, and a policy, to a proof type that nothing else can make, or a reason.
//!
//! No files, no sockets, no clock, no randomness of its own, no TPM, no panic, and no default that accepts: what is
//! not understood is a [`Rejection`]. The checks and their order are [`Check::ALL`].
#![forbid(unsafe_code)]

mod certify;
mod checks;
mod content;
mod credential;
pub mod ear;
mod ek;
mod firmware;
mod policy;
mod quote;
mod read;
mod report;
pub mod tpm;
mod verdict;

pub use certify::{TLS_CERTIFY_DATA, TlsKeyError, certified_key, tls_key};
pub use checks::{DeniedFirmware, denied_tpm_firmware};
pub use credential::{Credential, CredentialError, SECRET_MAX_BYTES, make_credential};
pub use ek::{EkError, check_ek, tpm_maker};
pub use pillar_measure::review::ExitBootServices;
pub use policy::{EkTrust, Firmware, Policy, SameTpm, StateVolume};
pub use quote::{QuoteError, attestation_key, check_nonce, check_quote, check_selection, check_signature};
pub use read::Malformed;
pub use report::{Check, CheckResult, Rejection, Report, Verdict};
pub use tpm::{Counters, evidence_selection};
pub use verdict::{Verified, judge, verify};

use pillar_model::{Binding, Role};
use tpm::{Public, attribute};

/// Label of the TLS exporter (RFC 8446 section 7.5) that ties evidence to one connection: 32 bytes, no context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-pillar-attest-v1";
/// Bytes of that exporter.
pub const EXPORTER_BYTES: usize = 32;

/// What qualifying data begins with, so that a quote for anything else never fits.
const QUALIFYING_LABEL: &[u8] = b"pillar-attest-v1";

/// The largest `TPMS_ATTEST`; a quote of one bank has 145 bytes with SHA-256.
pub const ATTEST_MAX_BYTES: usize = 1024;
/// The largest `TPMT_SIGNATURE`; RSA-4096 has 518 bytes.
pub const SIGNATURE_MAX_BYTES: usize = 1024;
/// The largest `TPMT_PUBLIC`.
pub const PUBLIC_MAX_BYTES: usize = 1024;
/// The largest SubjectPublicKeyInfo of a TLS certificate.
pub const SPKI_MAX_BYTES: usize = 1024;
/// Bytes of the Ed25519 key that signs heartbeats, where there is one.
pub const HEARTBEAT_KEY_BYTES: usize = 32;

/// Attributes of a pillar's AK, exactly (`agent/tpm` makes it).
pub const AK_ATTRIBUTES: u32 = attribute::FIXED_TPM
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::USER_WITH_AUTH
    | attribute::NO_DA
    | attribute::RESTRICTED
    | attribute::SIGN;

/// PCRs of the firmware and its settings: learnt, then pinned per machine.
pub const FIRMWARE_PCRS: [u8; 5] = [0, 1, 2, 3, 5];

/// What a quote must have signed: the challenge, this connection with both ends' keys, both logs, and the key of the
/// heartbeats (empty, or [`HEARTBEAT_KEY_BYTES`]).
#[must_use]
pub fn qualifying_data(binding: &Binding, event_log: &[u8], cel: &[u8], heartbeat_key: &[u8]) -> [u8; 32] {
    let sha256 = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let role = match binding.role {
        Role::Server => 0,
        Role::Client => 1,
    };
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(QUALIFYING_LABEL);
    context.update(&[0, role]);
    context.update(&binding.nonce.0);
    // Lengths over 4 GiB do not exist in memory that a handshake filled; `verify` demands 32 bytes.
    context.update(&u32::try_from(binding.exporter.len()).unwrap_or(u32::MAX).to_be_bytes());
    context.update(&binding.exporter);
    for bytes in [&binding.attester_spki, &binding.verifier_spki, event_log, cel, heartbeat_key] {
        context.update(sha256(bytes).as_ref());
    }
    let mut data = [0; 32];
    data.copy_from_slice(context.finish().as_ref());
    data
}

/// Name of a key (TPM 2.0 part 1, section 16) from its `TPMT_PUBLIC`: SHA-256's or SHA-384's number, then that hash.
pub fn ak_name(ak_public: &[u8]) -> Result<Vec<u8>, Malformed> {
    Public::parse(ak_public).map(|key| key.name().to_vec())
}
