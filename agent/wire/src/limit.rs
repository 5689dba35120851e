//! Limits on messages and their fields. Both ends enforce them: the agent against a careless or stolen operator key,
//! the operator against a compromised pillar.

/// One request. The largest is an evidence request with a credential for an RSA-2048 EK, well under 1 KiB.
pub const REQUEST_BYTES: usize = 8 * 1024;
/// A request to an agent by an operator: the largest is an entry of the cluster's chain, whose envelope has at most
/// 512 KiB.
pub const OPERATOR_REQUEST_BYTES: usize = 520 * 1024;
/// One reply. The largest is evidence: the two logs, and room for everything else.
pub const REPLY_BYTES: usize = EVENT_LOG_BYTES + CEL_BYTES + 64 * 1024;

/// The firmware's event log. A PC's is 20 to 100 KiB; the kernel allocates what the firmware handed over.
pub const EVENT_LOG_BYTES: usize = 1024 * 1024;
/// Our own event log: a handful of records of some hundred bytes.
pub const CEL_BYTES: usize = 256 * 1024;
/// An EK certificate. RSA-4096 signed ones with long extensions stay under 3 KiB.
pub const CERTIFICATE_BYTES: usize = 8 * 1024;
/// A TPM structure: public area, attestation, signature, credential, encrypted secret. The largest (RSA-4096) is
/// under 1 KiB.
pub const TPM_STRUCTURE_BYTES: usize = 2 * 1024;
/// The activated secret: at most one digest.
pub const SECRET_BYTES: usize = 64;
/// An Ed25519 public key.
pub const HEARTBEAT_KEY_BYTES: usize = 32;
/// A name, version, state or reason in a status.
pub const TEXT_BYTES: usize = 1024;
/// The report about a state volume, JSON; its recovery token has some 300 bytes for each of up to 16 operators.
pub const STATE_REPORT_BYTES: usize = 64 * 1024;
/// Phases in a status.
pub const PHASES: usize = 64;
/// One kernel log record: what `/dev/kmsg` gives at most.
pub const LOG_RECORD_BYTES: usize = 8 * 1024;
/// Records from the past in one log stream.
pub const LOG_TAIL: usize = 16 * 1024;
