//! What a connection may cost: time, bytes and turns.
//!
//! The agent has 32 MB with three peers, six connections. An attested one takes some 40 KiB when nothing is under way
//! (measured over 200), and at most about 300 KiB: 64 KiB window and 64 KiB to be sent in HTTP/2, 64 KiB to be sent and
//! two records of 16 KiB in TLS, and the rest. While it is being made, evidence of up to 1.3 MiB comes on top, once for
//! a member that connects and once where it is dialled: 8 MiB when all three are hostile, 300 KiB when they are not.
//! Judging the worst evidence takes up to 16 MB, one at a time.

use pillar_wire::limit;
use std::time::Duration;

/// A TLS handshake. The TPM signs once for each end, and emulated machines are slow.
pub const HANDSHAKE: Duration = Duration::from_secs(15);
/// The first frame each way.
pub const HELLO: Duration = Duration::from_secs(10);
/// The second frame each way: both TPMs quote, each perhaps for several peers one after the other.
pub const EVIDENCE: Duration = Duration::from_secs(30);
/// The third frame each way, behind the peer's own evidence and judgement.
pub const VERDICT: Duration = Duration::from_secs(30);
/// From the first byte to an attested connection.
pub const OVERALL: Duration = Duration::from_secs(60);
/// How long an end that refuses stays for its reason to arrive...
pub const LINGER: Duration = Duration::from_secs(2);
/// ...and how much it reads meanwhile.
pub const LINGER_BYTES: u64 = 2 * EVIDENCE_FRAME_BYTES as u64;

/// A nonce and a number.
pub const HELLO_FRAME_BYTES: usize = 64;
/// The two logs, and room for quote, signature and key.
pub const EVIDENCE_FRAME_BYTES: usize = limit::EVENT_LOG_BYTES + limit::CEL_BYTES + 16 * 1024;
/// The name of a check and a reason.
pub const VERDICT_FRAME_BYTES: usize = 1024;

/// Handshakes that may use a thread at the same time, in either direction. The TPM signs one after the other anyway.
pub const SIGNING: usize = 2;
/// Pieces of evidence that are judged at the same time.
pub const JUDGING: usize = 1;
/// Evidence for a member that asks for it is made this long after the last one: a TPM takes a tenth of that for a quote,
/// and has others to serve.
pub const EVIDENCE_PAUSE: Duration = Duration::from_secs(1);
/// Connections that came in and are not attested yet. Before TLS ends each takes some 50 KiB, and anybody may make one:
/// when there are more, one of those that have proved nothing goes.
pub const UNATTESTED: usize = 32;
/// Those of them that have proved nothing and come from one address. Pillars behind one address need some at once when
/// all start together; and the TPM signs for each before it proves anything, so that whoever comes from elsewhere waits
/// for so many signatures.
pub const UNATTESTED_PER_SOURCE: usize = 16;

/// An accepted connection must bring its first request within this time.
pub const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// A unary call, and the beginning of a stream. Evidence is the slowest.
pub const CALL: Duration = Duration::from_secs(45);
/// A silent connection is asked for a sign of life this often...
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(45);
/// ...and given up when none comes within this time.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at once on one connection: heartbeats, re-attestation, entries, and as many to spare.
pub const STREAMS: u32 = 8;
/// All headers of a request or an answer together.
pub const HEADER_BYTES: u32 = 8 * 1024;
/// What the other end may send ahead, per stream and per connection.
pub const WINDOW_BYTES: u32 = 64 * 1024;
/// What waits to be sent, per stream.
pub const SEND_BYTES: usize = 64 * 1024;
/// How long requests in progress may take once the agent is told to stop.
pub const DRAIN: Duration = Duration::from_secs(3);
