//! Hostile bytes for everything that reads bytes from outside: what each parser must do with whatever comes, as
//! functions over bytes ([`TARGETS`]), and the bounds that hold for all of them ([`run`]).
//!
//! A target panics when a property does not hold. Properties are more than "no panic": what is accepted was read to
//! its last byte, is written again to the same bytes or the same value, and does not hang on bytes that no digest
//! covers. Two engines feed them: `tests/corpus.rs` (every file of `corpus/`, then mutations from a fixed seed; part of
//! `cargo test`) and the guided engine (`./just fuzz`), which looks for inputs that reach code not reached before.
#![forbid(unsafe_code)]

mod certificate;
mod disk;
mod document;
mod evidence;
mod frame;
mod heartbeat;
mod input;
mod log;
pub mod mutate;
mod quorum;
mod time;
mod tpm;
mod wire;

use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Counts what is allocated, so that a bound on it can be checked.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What one input may make a parser allocate at the same time.
pub const HEAP_MAX_BYTES: usize = 16 << 20;
/// Processor time that one input may take. Generous: these builds are instrumented or not optimised, where the release
/// build has a tenth of it.
pub const TIME_MAX: Duration = Duration::from_millis(250);
/// Inputs are not made longer than this; every format's own limit has a unit test.
pub const INPUT_MAX_BYTES: usize = 64 << 10;

/// Something that reads bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// What it reads, for people.
    pub what: &'static str,
    /// Reads the bytes; panics when a property does not hold. Says whether they were accepted.
    pub check: fn(&[u8]) -> bool,
}

const fn target(name: &'static str, what: &'static str, check: fn(&[u8]) -> bool) -> Target {
    Target { name, what, check }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("event-log", "the firmware's event log: parse, replay, review, Secure Boot", log::event_log),
    target("cel", "our own event log", log::own_log),
    target("quote", "TPMS_ATTEST with TPMT_SIGNATURE and TPMT_PUBLIC: a quote", tpm::quote),
    target("key", "TPMT_PUBLIC: endorsement keys, attestation keys, credentials for them", tpm::key),
    target("signature", "TPMT_SIGNATURE under keys of each kind", tpm::signature),
    target("tls-key", "TPM2_Certify of the key that speaks TLS", tpm::tls_key),
    target("certificate", "the endorsement key's certificate and its issuers'", certificate::certificate),
    target("evidence", "the whole verification of a hostile machine with a genuine TPM", evidence::evidence),
    target("wire", "protobuf messages to types and back", wire::message),
    target("frame", "frames before HTTP/2, in any pieces, and the three messages in them", frame::frame),
    target(
        "heartbeat",
        "a member's signed heartbeats, and what the table makes of them",
        heartbeat::heartbeats,
    ),
    target("luks", "the state volume's LUKS2 header, with right checksums and without", disk::luks),
    target("gpt", "the partition table, with right checksums and without; fitting it to a disk", disk::gpt),
    target("superblock", "verity and erofs superblocks", disk::superblock),
    target("recovery", "the recovery token in the LUKS2 header", document::recovery),
    target("settings", "node settings", document::settings),
    target("release", "release.json", document::release),
    target(
        "envelope",
        "operators' envelopes (DSSE): signatures of nobody found no cluster",
        quorum::envelope,
    ),
    target("entries", "chains of entries that operators signed, whatever is in them", quorum::entries),
    target("boot", "boot entries' names and kernel command lines", document::boot),
    target("time", "time servers: key exchange for NTS, packets of NTP and their fields", time::time),
];

/// The target of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Where a target's inputs are kept.
#[must_use]
pub fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// Gives one input to a target and checks what it cost; says whether the input was accepted. Bounds are over the whole process: one input at a time.
///
/// # Panics
/// When a property or a bound does not hold.
pub fn run(target: &Target, bytes: &[u8]) -> bool {
    HEAP.reset_peak_usage();
    let (heap, time) = (HEAP.current_usage(), processor_time());
    let accepted = (target.check)(bytes);
    let (heap, time) = (HEAP.peak_usage().saturating_sub(heap), processor_time().saturating_sub(time));
    assert!(heap <= HEAP_MAX_BYTES, "{}: {heap} bytes allocated for {}", target.name, bytes.len());
    assert!(time <= TIME_MAX, "{}: {time:?} of processor time for {} bytes", target.name, bytes.len());
    accepted
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
