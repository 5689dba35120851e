//! Heartbeats as bytes: signed with a key that lives as long as the agent and that its quotes cover, so that whoever has
//! accepted the evidence can hold the sender to each of them later, on any connection and in any log.

use super::table::Heartbeat;
use pillar_model::PillarId;
use pillar_wire::proto;
use prost::Message as _;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::collections::BTreeSet;

/// What is signed begins with this, so that the signature fits nothing else.
const LABEL: &[u8] = b"pillar-heartbeat-v1\0";
/// The largest body: 64 views of 80 bytes, and the rest.
const BODY_MAX_BYTES: usize = 8 * 1024;
/// As many as a cluster has members.
const VIEWS_MAX: usize = 64;
/// A slot or a workload's state.
const WORD_MAX_BYTES: usize = 32;
/// SHA-256.
const HEAD_BYTES: usize = 32;

/// Why a heartbeat is thrown away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Larger than one can be.
    #[error("heartbeat has {0} bytes, at most {BODY_MAX_BYTES} are read")]
    TooLong(usize),
    /// Signed by somebody else, or changed.
    #[error("heartbeat's signature is not by the key of the sender's evidence")]
    Signature,
    /// Not a heartbeat.
    #[error("heartbeat cannot be read: {0}")]
    Malformed(String),
    /// Somebody else's.
    #[error("heartbeat is by {found:?}, the connection is with {sender}")]
    Sender {
        /// As it says.
        found: String,
        /// As the connection says.
        sender: PillarId,
    },
}

/// The key that signs this agent's heartbeats.
pub struct HeartbeatKey {
    pair: Ed25519KeyPair,
}

/// No key could be made: the kernel gives no randomness.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the heartbeats' key: no randomness")]
pub struct NoKey;

impl HeartbeatKey {
    /// A new one.
    pub fn generate() -> Result<Self, NoKey> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| NoKey)?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| NoKey)?;
        Ok(Self { pair })
    }

    /// Its public part, 32 bytes.
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Signs one.
    pub fn sign(&self, body: &proto::HeartbeatBody) -> proto::Heartbeat {
        let body = body.encode_to_vec();
        let signature = self.pair.sign(&message(&body)).as_ref().to_vec();
        proto::Heartbeat { body, signature }
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    [LABEL, body].concat()
}

/// The heartbeat of `sender`, whose evidence named `key`. `now_unix_ms` is our wall clock.
pub fn open(
    signed: &proto::Heartbeat,
    key: &[u8],
    sender: &PillarId,
    now_unix_ms: u64,
) -> Result<Heartbeat, Error> {
    if signed.body.len() > BODY_MAX_BYTES {
        return Err(Error::TooLong(signed.body.len()));
    }
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&message(&signed.body), &signed.signature)
        .map_err(|_| Error::Signature)?;
    let malformed = |what: &str| Error::Malformed(what.to_owned());
    let body =
        proto::HeartbeatBody::decode(signed.body.as_slice()).map_err(|e| Error::Malformed(e.to_string()))?;
    if body.name != sender.as_str() {
        let found = body.name.chars().take(PillarId::MAX_BYTES).collect();
        return Err(Error::Sender { found, sender: sender.clone() });
    }
    if body.views.len() > VIEWS_MAX {
        return Err(malformed("too many views"));
    }
    if !matches!(body.head.len(), 0 | HEAD_BYTES) {
        return Err(malformed("the last entry's digest has a wrong length"));
    }
    let word = |text: &str| text.len() <= WORD_MAX_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
    if !word(&body.slot) || !word(&body.workload) {
        return Err(malformed("slot or workload is no word"));
    }
    let vouches_for: Result<BTreeSet<PillarId>, _> =
        body.views.into_iter().filter(|view| view.verified).map(|view| view.name.parse()).collect();
    let offset = i128::from(body.wall_unix_ms) - i128::from(now_unix_ms);
    Ok(Heartbeat {
        sequence: body.sequence,
        clock_offset_ms: i64::try_from(offset).unwrap_or(i64::MAX),
        reset_count: body.reset_count,
        restart_count: body.restart_count,
        serial: body.serial,
        head: body.head,
        slot: body.slot,
        workload: body.workload,
        vouches_for: vouches_for.map_err(|_| malformed("a view of somebody without a name"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> proto::HeartbeatBody {
        proto::HeartbeatBody {
            name: "p1".to_owned(),
            sequence: 3,
            uptime_ms: 1,
            wall_unix_ms: 5_000,
            reset_count: 4,
            restart_count: 5,
            serial: 6,
            head: vec![1; 32],
            slot: "a".to_owned(),
            workload: "healthy".to_owned(),
            views: vec![
                proto::View { name: "p2".to_owned(), state: "up".to_owned(), verified: true },
                proto::View { name: "p3".to_owned(), state: "down".to_owned(), verified: false },
            ],
        }
    }

    #[test]
    fn a_heartbeat_is_read_as_it_was_signed() {
        let key = HeartbeatKey::generate().expect("a key");
        let p1: PillarId = "p1".parse().expect("a name");
        let heartbeat = open(&key.sign(&body()), key.public(), &p1, 6_000).expect("opened");
        assert_eq!((heartbeat.sequence, heartbeat.clock_offset_ms), (3, -1000));
        assert_eq!(heartbeat.vouches_for, BTreeSet::from(["p2".parse().expect("a name")]));
    }

    #[test]
    fn what_is_forged_changed_or_misplaced_is_thrown_away() {
        let key = HeartbeatKey::generate().expect("a key");
        let p1: PillarId = "p1".parse().expect("a name");
        let open_with = |signed: &proto::Heartbeat| open(signed, key.public(), &p1, 0);
        let good = key.sign(&body());
        for index in 0..good.body.len() {
            let mut changed = good.clone();
            changed.body[index] ^= 1;
            assert_eq!(open_with(&changed), Err(Error::Signature));
        }
        let other = HeartbeatKey::generate().expect("a key").sign(&body());
        assert_eq!(open_with(&other), Err(Error::Signature));
        let unlabelled = key.pair.sign(&good.body).as_ref().to_vec();
        let unlabelled = proto::Heartbeat { signature: unlabelled, ..good.clone() };
        assert_eq!(open_with(&unlabelled), Err(Error::Signature));
        let p2: PillarId = "p2".parse().expect("a name");
        let sender = open(&good, key.public(), &p2, 0).expect_err("another sender");
        assert_eq!(sender.to_string(), "heartbeat is by \"p1\", the connection is with p2");
        for (change, words) in [
            (proto::HeartbeatBody { head: vec![1; 31], ..body() }, "digest"),
            (proto::HeartbeatBody { slot: "a b".to_owned(), ..body() }, "no word"),
            (proto::HeartbeatBody { workload: "x".repeat(33), ..body() }, "no word"),
            (proto::HeartbeatBody { views: vec![body().views[0].clone(); 65], ..body() }, "too many views"),
        ] {
            let error = open_with(&key.sign(&change)).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
        }
        let long = proto::Heartbeat { body: vec![0; BODY_MAX_BYTES + 1], signature: Vec::new() };
        assert_eq!(open_with(&long), Err(Error::TooLong(BODY_MAX_BYTES + 1)));
    }
}
