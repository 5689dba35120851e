//! Messages to types and back. To a message never fails; from a message checks every field and names the one at fault.

use crate::{limit, proto};
use pillar_model::{
    Bank, Boot, Evidence, Nonce, PcrIndex, Phase, RootHash, Slot, Tpm, WorkloadHealth, WorkloadState,
};
use std::time::Duration;

/// A field of a message that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A required message is not there.
    #[error("{field} is missing")]
    Missing {
        /// The field's name in the protobuf file.
        field: &'static str,
    },
    /// A byte string that must have exactly one length.
    #[error("{field} has {found} bytes, must have {expected}")]
    Length {
        /// The field's name in the protobuf file.
        field: &'static str,
        /// Bytes wanted.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// More than the limit.
    #[error("{field} has {found} bytes or entries, at most {limit} are allowed")]
    TooLong {
        /// The field's name in the protobuf file.
        field: &'static str,
        /// The limit.
        limit: usize,
        /// Bytes or entries found.
        found: usize,
    },
    /// A byte string that must not be empty.
    #[error("{field} is empty")]
    Empty {
        /// The field's name in the protobuf file.
        field: &'static str,
    },
    /// A word or number that is none of those allowed.
    #[error("{field} is {found:?}, must be {expected}")]
    Value {
        /// The field's name in the protobuf file.
        field: &'static str,
        /// What is allowed, in words.
        expected: &'static str,
        /// What was found, shortened.
        found: String,
    },
}

/// A status reply: what init wrote, and how long the machine has been up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What init knows about this boot.
    pub boot: Boot,
    /// Time on the boot-time clock.
    pub uptime: Duration,
}

/// The TPM's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `TPMT_PUBLIC` of the EK.
    pub ek_public: Vec<u8>,
    /// X.509 DER.
    pub ek_certificate: Vec<u8>,
    /// `TPMT_PUBLIC` of the AK.
    pub ak_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the TLS key; empty where the TPM could not make one.
    pub tls_public: Vec<u8>,
    /// `TPMS_ATTEST` of its certification.
    pub tls_attest: Vec<u8>,
    /// `TPMT_SIGNATURE` over that, by the AK.
    pub tls_signature: Vec<u8>,
}

/// What a verifier sends to have evidence made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Drawn at random for this challenge.
    pub nonce: Nonce,
    /// Content of `TPM2B_ID_OBJECT`.
    pub credential_blob: Vec<u8>,
    /// Content of `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
    /// The bank to quote.
    pub bank: Bank,
    /// The PCRs to quote: strictly ascending, at least one.
    pub pcrs: Vec<PcrIndex>,
}

fn bounded(field: &'static str, limit: usize, found: usize) -> Result<(), FieldError> {
    if found > limit { Err(FieldError::TooLong { field, limit, found }) } else { Ok(()) }
}

fn bytes(field: &'static str, limit: usize, value: Vec<u8>) -> Result<Vec<u8>, FieldError> {
    bounded(field, limit, value.len())?;
    if value.is_empty() { Err(FieldError::Empty { field }) } else { Ok(value) }
}

fn array<const N: usize>(field: &'static str, value: &[u8]) -> Result<[u8; N], FieldError> {
    value.try_into().map_err(|_| FieldError::Length { field, expected: N, found: value.len() })
}

fn text(field: &'static str, value: String) -> Result<String, FieldError> {
    bounded(field, limit::TEXT_BYTES, value.len())?;
    Ok(value)
}

/// A refused value as shown in an error: short, whatever came in.
fn shown(value: &str) -> String {
    value.chars().take(32).collect()
}

/// A word of a fixed list.
fn word<T: Copy>(
    field: &'static str,
    expected: &'static str,
    words: &[(&str, T)],
    value: &str,
) -> Result<T, FieldError> {
    words.iter().find(|(name, _)| *name == value).map(|(_, one)| *one).ok_or_else(|| FieldError::Value {
        field,
        expected,
        found: shown(value),
    })
}

const SLOTS: [(&str, Slot); 2] = [("a", Slot::A), ("b", Slot::B)];
/// What may be quoted. SHA-1 is not among them.
const BANKS: [(&str, Bank); 3] = [("", Bank::Sha256), ("sha256", Bank::Sha256), ("sha384", Bank::Sha384)];
const WORKLOAD_STATES: [(&str, WorkloadState); 6] = [
    ("none", WorkloadState::None),
    ("starting", WorkloadState::Starting),
    ("healthy", WorkloadState::Healthy),
    ("unhealthy", WorkloadState::Unhealthy),
    ("restarting", WorkloadState::Restarting),
    ("stopped", WorkloadState::Stopped),
];

fn workload_word(state: WorkloadState) -> &'static str {
    WORKLOAD_STATES.iter().find(|(_, one)| *one == state).map_or("none", |(name, _)| name)
}

impl From<Status> for proto::StatusReply {
    fn from(Status { boot, uptime }: Status) -> Self {
        let (tpm, tpm_reason) = match boot.tpm {
            Tpm::Present => ("present", String::new()),
            Tpm::Absent => ("absent", String::new()),
            Tpm::Failed(reason) => ("failed", reason),
        };
        Self {
            name: boot.name,
            version: boot.version,
            flavour: boot.flavour,
            slot: boot.slot.to_string(),
            root_hash: boot.root_hash.0.to_vec(),
            kernel: boot.kernel,
            trial: boot.trial,
            phases: boot
                .phases
                .into_iter()
                .map(|phase| proto::Phase { name: phase.name, at_us: phase.at_us })
                .collect(),
            tpm: tpm.to_owned(),
            tpm_reason,
            workload: Some(proto::Workload {
                name: boot.workload.name,
                state: workload_word(boot.workload.state).to_owned(),
                reason: boot.workload.reason,
                restarts: boot.workload.restarts,
            }),
            agent_starts: boot.agent_starts,
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl TryFrom<proto::StatusReply> for Status {
    type Error = FieldError;
    fn try_from(reply: proto::StatusReply) -> Result<Self, FieldError> {
        let workload = reply.workload.ok_or(FieldError::Missing { field: "workload" })?;
        bounded("phases", limit::PHASES, reply.phases.len())?;
        let phases = reply
            .phases
            .into_iter()
            .map(|phase| Ok(Phase { name: text("phases.name", phase.name)?, at_us: phase.at_us }))
            .collect::<Result<_, FieldError>>()?;
        let tpm = match reply.tpm.as_str() {
            "present" => Tpm::Present,
            "absent" => Tpm::Absent,
            "failed" => Tpm::Failed(text("tpm_reason", reply.tpm_reason)?),
            other => {
                let expected = "present, absent or failed";
                return Err(FieldError::Value { field: "tpm", expected, found: shown(other) });
            }
        };
        Ok(Status {
            boot: Boot {
                name: text("name", reply.name)?,
                version: text("version", reply.version)?,
                flavour: text("flavour", reply.flavour)?,
                slot: word("slot", "a or b", &SLOTS, &reply.slot)?,
                root_hash: RootHash(array("root_hash", &reply.root_hash)?),
                kernel: text("kernel", reply.kernel)?,
                trial: reply.trial,
                phases,
                tpm,
                workload: WorkloadHealth {
                    name: text("workload.name", workload.name)?,
                    state: word("workload.state", "a workload state", &WORKLOAD_STATES, &workload.state)?,
                    reason: text("workload.reason", workload.reason)?,
                    restarts: workload.restarts,
                },
                agent_starts: reply.agent_starts,
            },
            uptime: Duration::from_millis(reply.uptime_ms),
        })
    }
}

impl From<Identity> for proto::IdentityReply {
    fn from(identity: Identity) -> Self {
        Self {
            ek_public: identity.ek_public,
            ek_certificate: identity.ek_certificate,
            ak_public: identity.ak_public,
            tls_public: identity.tls_public,
            tls_attest: identity.tls_attest,
            tls_signature: identity.tls_signature,
        }
    }
}

impl TryFrom<proto::IdentityReply> for Identity {
    type Error = FieldError;
    fn try_from(reply: proto::IdentityReply) -> Result<Self, FieldError> {
        bounded("tls_public", limit::TPM_STRUCTURE_BYTES, reply.tls_public.len())?;
        bounded("tls_attest", limit::TPM_STRUCTURE_BYTES, reply.tls_attest.len())?;
        bounded("tls_signature", limit::TPM_STRUCTURE_BYTES, reply.tls_signature.len())?;
        Ok(Identity {
            ek_public: bytes("ek_public", limit::TPM_STRUCTURE_BYTES, reply.ek_public)?,
            ek_certificate: bytes("ek_certificate", limit::CERTIFICATE_BYTES, reply.ek_certificate)?,
            ak_public: bytes("ak_public", limit::TPM_STRUCTURE_BYTES, reply.ak_public)?,
            tls_public: reply.tls_public,
            tls_attest: reply.tls_attest,
            tls_signature: reply.tls_signature,
        })
    }
}

impl From<Challenge> for proto::EvidenceRequest {
    fn from(challenge: Challenge) -> Self {
        Self {
            nonce: challenge.nonce.0.to_vec(),
            credential_blob: challenge.credential_blob,
            encrypted_secret: challenge.encrypted_secret,
            bank: challenge.bank.to_string(),
            pcrs: challenge.pcrs.into_iter().map(|pcr| pcr.get().into()).collect(),
        }
    }
}

impl TryFrom<proto::EvidenceRequest> for Challenge {
    type Error = FieldError;
    fn try_from(request: proto::EvidenceRequest) -> Result<Self, FieldError> {
        Ok(Challenge {
            nonce: Nonce(array("nonce", &request.nonce)?),
            credential_blob: bytes("credential_blob", limit::TPM_STRUCTURE_BYTES, request.credential_blob)?,
            encrypted_secret: bytes(
                "encrypted_secret",
                limit::TPM_STRUCTURE_BYTES,
                request.encrypted_secret,
            )?,
            bank: word("bank", "sha256 or sha384", &BANKS, &request.bank)?,
            pcrs: selection(&request.pcrs)?,
        })
    }
}

/// PCR numbers as a selection: each exists, none twice, ascending, so that there is one way to write each selection.
fn selection(numbers: &[u32]) -> Result<Vec<PcrIndex>, FieldError> {
    const FIELD: &str = "pcrs";
    bounded(FIELD, PcrIndex::COUNT, numbers.len())?;
    if numbers.is_empty() {
        return Err(FieldError::Empty { field: FIELD });
    }
    let refuse =
        |number: u32, expected| FieldError::Value { field: FIELD, expected, found: number.to_string() };
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(refuse(pair[1], "strictly ascending"));
    }
    numbers
        .iter()
        .map(|&number| {
            u8::try_from(number)
                .ok()
                .and_then(|small| PcrIndex::new(small).ok())
                .ok_or_else(|| refuse(number, "0 to 23"))
        })
        .collect()
}

impl From<Evidence> for proto::EvidenceReply {
    fn from(evidence: Evidence) -> Self {
        Self {
            attest: evidence.attest,
            signature: evidence.signature,
            ak_public: evidence.ak_public,
            ek_public: evidence.ek_public,
            ek_certificate: evidence.ek_certificate,
            activated: evidence.activated,
            event_log: evidence.event_log,
            cel: evidence.cel,
        }
    }
}

impl TryFrom<proto::EvidenceReply> for Evidence {
    type Error = FieldError;
    fn try_from(reply: proto::EvidenceReply) -> Result<Self, FieldError> {
        bounded("cel", limit::CEL_BYTES, reply.cel.len())?;
        Ok(Evidence {
            attest: bytes("attest", limit::TPM_STRUCTURE_BYTES, reply.attest)?,
            signature: bytes("signature", limit::TPM_STRUCTURE_BYTES, reply.signature)?,
            ak_public: bytes("ak_public", limit::TPM_STRUCTURE_BYTES, reply.ak_public)?,
            ek_public: bytes("ek_public", limit::TPM_STRUCTURE_BYTES, reply.ek_public)?,
            ek_certificate: bytes("ek_certificate", limit::CERTIFICATE_BYTES, reply.ek_certificate)?,
            activated: bytes("activated", limit::SECRET_BYTES, reply.activated)?,
            event_log: bytes("event_log", limit::EVENT_LOG_BYTES, reply.event_log)?,
            cel: reply.cel,
            heartbeat_key: Vec::new(),
        })
    }
}

/// What a pillar shows another one. Keys and certificate stay at home: the peer has them in the member's row.
impl From<Evidence> for proto::PeerEvidence {
    fn from(evidence: Evidence) -> Self {
        Self {
            attest: evidence.attest,
            signature: evidence.signature,
            event_log: evidence.event_log,
            cel: evidence.cel,
            heartbeat_key: evidence.heartbeat_key,
        }
    }
}

impl TryFrom<proto::PeerEvidence> for Evidence {
    type Error = FieldError;
    fn try_from(message: proto::PeerEvidence) -> Result<Self, FieldError> {
        bounded("cel", limit::CEL_BYTES, message.cel.len())?;
        array::<{ limit::HEARTBEAT_KEY_BYTES }>("heartbeat_key", &message.heartbeat_key)?;
        Ok(Evidence {
            attest: bytes("attest", limit::TPM_STRUCTURE_BYTES, message.attest)?,
            signature: bytes("signature", limit::TPM_STRUCTURE_BYTES, message.signature)?,
            event_log: bytes("event_log", limit::EVENT_LOG_BYTES, message.event_log)?,
            cel: message.cel,
            heartbeat_key: message.heartbeat_key,
            ..Evidence::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            boot: Boot {
                name: "alpha".into(),
                version: "0.1.0".into(),
                flavour: "virt".into(),
                slot: Slot::A,
                root_hash: RootHash([7; 32]),
                kernel: "6.12".into(),
                trial: true,
                phases: vec![Phase { name: "ready".into(), at_us: 5 }],
                tpm: Tpm::Failed("locked out".into()),
                workload: WorkloadHealth {
                    name: "hello".into(),
                    state: WorkloadState::Unhealthy,
                    reason: "connection refused".into(),
                    restarts: 2,
                },
                agent_starts: 1,
            },
            uptime: Duration::from_millis(1234),
        }
    }

    fn request() -> proto::EvidenceRequest {
        proto::EvidenceRequest {
            nonce: vec![1; 32],
            credential_blob: vec![2; 52],
            encrypted_secret: vec![3; 70],
            bank: String::new(),
            pcrs: vec![0, 7, 23],
        }
    }

    #[test]
    fn a_status_survives_the_trip() {
        assert_eq!(Status::try_from(proto::StatusReply::from(status())), Ok(status()));
    }

    #[test]
    fn every_workload_state_has_its_word() {
        for (name, state) in WORKLOAD_STATES {
            assert_eq!(workload_word(state), name);
        }
    }

    #[test]
    fn a_status_with_a_bad_field_is_refused_by_its_name() {
        let check = |change: fn(&mut proto::StatusReply), words: &str| {
            let mut reply = status().into();
            change(&mut reply);
            let error = Status::try_from(reply).expect_err(words);
            assert_eq!(error.to_string(), words);
        };
        check(|r| r.root_hash = vec![0; 31], "root_hash has 31 bytes, must have 32");
        check(|r| r.slot = "c".into(), r#"slot is "c", must be a or b"#);
        check(|r| r.workload = None, "workload is missing");
        check(|r| r.tpm = "maybe".into(), r#"tpm is "maybe", must be present, absent or failed"#);
        check(|r| r.name = "n".repeat(1025), "name has 1025 bytes or entries, at most 1024 are allowed");
        check(
            |r| r.phases = vec![proto::Phase::default(); 65],
            "phases has 65 bytes or entries, at most 64 are allowed",
        );
    }

    #[test]
    fn a_challenge_with_a_bad_field_is_refused_by_its_name() {
        let check = |change: fn(&mut proto::EvidenceRequest), words: &str| {
            let mut message = request();
            change(&mut message);
            let error = Challenge::try_from(message).expect_err(words);
            assert_eq!(error.to_string(), words);
        };
        check(|r| r.nonce.truncate(16), "nonce has 16 bytes, must have 32");
        check(|r| r.nonce.push(0), "nonce has 33 bytes, must have 32");
        check(|r| r.bank = "sha1".into(), r#"bank is "sha1", must be sha256 or sha384"#);
        check(|r| r.pcrs.clear(), "pcrs is empty");
        check(|r| r.pcrs = vec![7, 7], r#"pcrs is "7", must be strictly ascending"#);
        check(|r| r.pcrs = vec![7, 4], r#"pcrs is "4", must be strictly ascending"#);
        check(|r| r.pcrs = vec![24], r#"pcrs is "24", must be 0 to 23"#);
        check(|r| r.pcrs = vec![0; 25], "pcrs has 25 bytes or entries, at most 24 are allowed");
        check(|r| r.credential_blob.clear(), "credential_blob is empty");
        check(
            |r| r.encrypted_secret = vec![0; 2049],
            "encrypted_secret has 2049 bytes or entries, at most 2048 are allowed",
        );
    }

    #[test]
    fn a_challenge_without_a_bank_asks_for_sha256() {
        let challenge = Challenge::try_from(request()).expect("a valid request");
        assert_eq!(challenge.bank, Bank::Sha256);
        assert_eq!(challenge.pcrs.iter().map(|pcr| pcr.get()).collect::<Vec<_>>(), [0, 7, 23]);
    }
}
