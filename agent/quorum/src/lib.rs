//! Who may approve what, and have enough of them: a pure function from the operators' entries to the state of a
//! cluster.
//!
//! ```text
//!   file or wire           Envelope::parse             Cluster::apply
//!  ┌────────────┐ limits, ┌───────────────┐ a judgement in this order    ┌─────────────────┐
//!  │ DSSE, JSON │ base64  │ payload bytes │ 1 payload type, size, JSON   │ constitution    │
//!  │            ├────────►│ as received,  ├─────────────────────────────►│ members         │
//!  │            │         │ signatures    │ 2 serial, digest before      │ releases        │
//!  └────────────┘         └───────┬───────┘ 3 clock, expiry              │ revoked         │
//!                                 │         4 what the action may do     │ serial, head    │
//!                                 ▼         5 distinct keys ≥ threshold  └────────▲────────┘
//!                             Tally: who                 │                        │
//!                             is still missing           └──► Approved<Entry> ────┘
//!
//!   entry 0: Found ──► 1 ──► 2 ──► 3 …       each names the SHA-256 of the payload before it
//!   who must sign:     Found: more than half of the image's operators, and the threshold of its own constitution
//!                      Amend: the thresholds of the constitution before and of the one after
//!                      Admit, Revoke, Run: the threshold of the constitution in force
//! ```
//!
//! Keys are counted, not signatures and not names: `keyid` is a hint for where to look first and decides nothing. What
//! is verified are the payload's bytes as they were received; nothing is encoded again.
//!
//! What it is not: it knows no files, no clock, no network and draws no randomness; what is "now" is an argument. It
//! does not judge evidence or EK certificates; operators (and the machines that ask them) did that before they signed.
//!
//! **Invariants:** a [`Cluster`] exists only as the result of properly signed entries, [`Approved`] is made here alone,
//! and neither is ever read back from anywhere: it is earned again by replay. The same chain gives the same state on
//! every machine, whatever its clock says.
#![forbid(unsafe_code)]

mod approved;
mod cluster;
mod constitution;
mod entry;
mod envelope;
mod fork;
mod image;
mod member;
mod refusal;
mod release;
mod tally;
mod text;

pub use approved::Approved;
pub use cluster::{Cluster, Releases, Revoked, founding, propose_founding, replay};
pub use constitution::{ConstitutionError, check_operator_key};
pub use entry::ENTRY_TYPE;
pub use envelope::{Envelope, EnvelopeError, Signature, key_id, pae};
pub use fork::{fork, signed_both};
pub use image::ImageOperators;
pub use member::MemberError;
pub use refusal::Refusal;
pub use release::ReleaseError;
pub use tally::{Count, Tally};
pub use text::TextError;

use pillar_model::Digest;

/// What is too large, too many or too long. Each protects the memory and the disks of all pillars from one signed
/// mistake, or their parsers from one that is not signed.
pub mod limits {
    /// One envelope as JSON.
    pub const ENVELOPE_MAX_BYTES: usize = 512 << 10;
    /// Its payload: with [`SIGNATURES_MAX`] signatures beside it, it still fits into an envelope.
    pub const PAYLOAD_MAX_BYTES: usize = 360 << 10;
    /// Signatures in one envelope: one for each operator.
    pub const SIGNATURES_MAX: usize = 64;
    /// Operators of a constitution.
    pub const OPERATORS_MAX: usize = 64;
    /// Trusted roots of TPM manufacturers.
    pub const EK_ROOTS_MAX: usize = 64;
    /// Certificates between these and the EKs'.
    pub const EK_INTERMEDIATES_MAX: usize = 128;
    /// One certificate.
    pub const CERTIFICATE_MAX_BYTES: usize = 4096;
    /// Endorsement keys that alone are trusted.
    pub const EK_ALLOWED_MAX: usize = 2048;
    /// Ranges of TPM firmware that are not believed.
    pub const DENIED_TPM_FIRMWARE_MAX: usize = 64;
    /// What each machine's dbx must hold.
    pub const DBX_REQUIRED_MAX: usize = 512;
    /// Members of a cluster.
    pub const MEMBERS_MAX: usize = 64;
    /// `TPMT_PUBLIC` or SubjectPublicKeyInfo (an RSA-4096 key has about 550 bytes).
    pub const PUBLIC_KEY_MAX_BYTES: usize = 1024;
    /// Addresses of a member.
    pub const ADDRESSES_MAX: usize = 8;
    /// One address: a host name of 253 characters, a colon, a port.
    pub const ADDRESS_MAX_BYTES: usize = 259;
    /// Firmware events of one bank. Real machines have fewer than 150.
    pub const FIRMWARE_EVENTS_MAX: usize = 512;
    /// Name of an event's type.
    pub const EVENT_KIND_MAX_BYTES: usize = 64;
    /// An event in words, a reason, a state volume.
    pub const TEXT_MAX_BYTES: usize = 512;
    /// A release's version, flavour, kernel, names of its files.
    pub const NAME_MAX_BYTES: usize = 128;
    /// A kernel's command line (x86: 2048).
    pub const CMDLINE_MAX_BYTES: usize = 4096;
    /// Files of a release.
    pub const FILES_MAX: usize = 64;
    /// Programs that a release's firmware starts.
    pub const BOOT_APPLICATIONS_MAX: usize = 8;
    /// Phases with a predicted PCR.
    pub const PHASES_MAX: usize = 32;
    /// Packages of a release.
    pub const PACKAGES_MAX: usize = 1024;
    /// How far an author's clock may be ahead of ours.
    pub const CLOCK_AHEAD_MAX_S: u64 = 600;
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec())
}
