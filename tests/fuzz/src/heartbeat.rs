//! Heartbeats of a member whose agent lies: the signature is good, what is signed is anything.
//!
//! The agent is a program, not a library, so that the two files that read heartbeats are taken in from there.

#[allow(dead_code, unreachable_pub)]
#[path = "../../../agent/daemon/src/peers/heartbeat.rs"]
mod open;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../agent/daemon/src/peers/table.rs"]
mod table;

use crate::input::{Input, longer, somewhere};
use open::Error;
use pillar_model::{PeerState, PillarId, RootHash};
use pillar_verify::Counters;
use pillar_wire::proto;
use prost::Message as _;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use table::{HeartbeatError, Table, Verdict};

/// The key that its evidence named.
static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("any 32 bytes are a seed"));
/// Our wall clock.
const NOW_UNIX_MS: u64 = 1_800_000_000_000;
/// Heartbeats of one input.
const HEARTBEATS: usize = 16;

/// Input: heartbeats' bodies one after the other, each with its length and a byte of time in front.
pub(crate) fn heartbeats(bytes: &[u8]) -> bool {
    let (p1, key) = ("p1".parse::<PillarId>().expect("a name"), KEY.public_key().as_ref());
    let begun = Instant::now();
    let mut now = begun;
    let mut table = Table::default();
    table.peer(&p1).accepted(verdict(now), None);
    let mut input = Input::new(bytes);
    let (mut last, mut accepted) = (None, false);
    for number in 0..HEARTBEATS {
        if input.is_empty() {
            break;
        }
        now += Duration::from_millis(100 * u64::from(input.byte()));
        let body = input.sized();
        let opened = open::open(&signed(body), key, &p1, NOW_UNIX_MS);
        if number == 0 {
            forged(body, &p1, bytes);
        }
        let Ok(heartbeat) = opened else { continue };
        let read = proto::HeartbeatBody::decode(body).expect("it was opened");
        assert_eq!((read.name.as_str(), read.sequence), ("p1", heartbeat.sequence));
        assert!(heartbeat.vouches_for.len() <= read.views.iter().filter(|view| view.verified).count());
        let (sequence, counters) = (heartbeat.sequence, (heartbeat.reset_count, heartbeat.restart_count));
        match table.peer(&p1).heard(heartbeat, key, now) {
            Ok(()) => {
                assert!(last.is_none_or(|last| sequence > last), "{sequence} after {last:?}");
                assert_eq!(counters, (1, 2), "a reset was not noticed");
                (last, accepted) = (Some(sequence), true);
            }
            Err(HeartbeatError::Replayed { found, last: known }) => {
                assert_eq!((found, Some(known)), (sequence, last));
            }
            Err(HeartbeatError::Counters { found, .. }) => {
                assert_eq!(found, counters);
                assert_ne!(found, (1, 2));
            }
            Err(HeartbeatError::Unverified) => {
                assert!(now.duration_since(begun) >= table::VERDICT_LIFE, "a verdict ended early");
            }
        }
        // Neither silence nor anything that is said makes a peer untrusted here; the caller judges counters.
        let peer = table.get(&p1).expect("it was accepted");
        assert_ne!(peer.state(now).0, PeerState::Untrusted);
        assert!(peer.phi(now).is_finite());
    }
    accepted
}

fn verdict(at: Instant) -> Verdict {
    Verdict {
        at,
        counters: Counters { clock_ms: 0, reset_count: 1, restart_count: 2, safe: true, firmware_version: 1 },
        version: "1".to_owned(),
        root_hash: RootHash([7; 32]),
        heartbeat_key: KEY.public_key().as_ref().to_vec(),
        dbx_required: [0; 32],
    }
}

/// The body under the member's good signature, whatever is in it.
fn signed(body: &[u8]) -> proto::Heartbeat {
    let signature = KEY.sign(&[b"pillar-heartbeat-v1\0", body].concat());
    proto::Heartbeat { body: body.to_vec(), signature: signature.as_ref().to_vec() }
}

/// A body that somebody changed on the way, or a signature of nobody.
fn forged(body: &[u8], sender: &PillarId, seed: &[u8]) {
    let refused = |heartbeat: &proto::Heartbeat| {
        let opened = open::open(heartbeat, KEY.public_key().as_ref(), sender, NOW_UNIX_MS);
        assert!(matches!(opened, Err(Error::Signature | Error::TooLong(_))), "{opened:?} of a forgery");
    };
    let good = signed(body);
    refused(&proto::Heartbeat { body: longer(body), ..good.clone() });
    refused(&proto::Heartbeat { signature: longer(&good.signature), ..good.clone() });
    if let Some(at) = somewhere(seed, good.signature.len()) {
        let mut changed = good;
        changed.signature[at] ^= 1;
        refused(&changed);
    }
}
