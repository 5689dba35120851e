//! Operators' decisions: envelopes as they come, and entries that operators really signed, whatever is in them.

use crate::input::Input;
use pillar_model::OperatorKey;
use pillar_quorum::{Cluster, ENTRY_TYPE, Envelope, replay};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::sync::LazyLock;

/// An envelope of the corpus: the founding of a cluster by operators 1 and 2 of 3.
const GOOD: &[u8] = include_bytes!("../corpus/envelope/seed-founding");
/// Seconds since 1970 at which the corpus was made.
const NOW: u64 = 1_800_000_000;

/// The operators of the image. Their private keys are these seeds: what needs a forged signature is left to
/// [`envelope`], what a signed entry may do to [`entries`].
static OPERATORS: LazyLock<Vec<(Ed25519KeyPair, OperatorKey)>> = LazyLock::new(|| {
    let pair = |number: u8| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("32 bytes are a seed");
        let key = OperatorKey(pair.public_key().as_ref().try_into().expect("a key has 32 bytes"));
        (pair, key)
    };
    (1..=3).map(pair).collect()
});
static KEYS: LazyLock<Vec<OperatorKey>> = LazyLock::new(|| OPERATORS.iter().map(|(_, key)| *key).collect());

pub(crate) fn envelope(bytes: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(bytes) else { return false };
    let again = Envelope::parse(envelope.to_json().as_bytes());
    assert_eq!(again.as_ref(), Ok(&envelope), "written and read again it is another envelope");
    assert!(Envelope::parse(&[bytes, b"{}"].concat()).is_err(), "something behind the envelope was accepted");
    let merged = envelope.merge(&envelope).expect("an envelope merges with itself");
    assert!(merged.signatures().len() <= envelope.signatures().len(), "signatures from nowhere");
    let founded = Cluster::found(&envelope, &*KEYS, NOW);
    if let Ok(cluster) = &founded {
        let good = Envelope::parse(GOOD).expect("an envelope of the corpus");
        assert_eq!(envelope.payload(), good.payload(), "something that nobody signed founds a cluster");
        assert_eq!(replay(std::slice::from_ref(&envelope), &*KEYS).as_ref(), Ok(cluster));
    }
    founded.is_ok()
}

/// Input: payloads, each with its length in front, that enough operators sign.
pub(crate) fn entries(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let (mut chain, mut cluster): (Vec<Envelope>, Option<Cluster>) = (Vec::new(), None);
    for _ in 0..8 {
        let payload = input.sized();
        let Ok(mut envelope) = Envelope::new(ENTRY_TYPE, payload.to_vec()) else { break };
        for (pair, key) in &OPERATORS[..2] {
            let signature = pair.sign(&envelope.pae());
            let signature = signature.as_ref().try_into().expect("a signature has 64 bytes");
            envelope.add_signature(key, signature).expect("a good signature");
        }
        let next = match &cluster {
            None => Cluster::found(&envelope, &*KEYS, NOW),
            Some(before) => before.apply(&envelope, NOW),
        };
        let Ok(next) = next else { break };
        sound(&next, &envelope, chain.len());
        chain.push(envelope);
        cluster = Some(next);
    }
    let Some(cluster) = cluster else { return false };
    assert_eq!(replay(&chain, &*KEYS).as_ref(), Ok(&cluster), "read back it is another cluster");
    let cut = replay(&chain[1..], &*KEYS);
    assert!(cut.is_err(), "a chain without its beginning was accepted");
    true
}

/// What holds after every entry.
fn sound(cluster: &Cluster, entry: &Envelope, before: usize) {
    let constitution = cluster.constitution();
    let (threshold, operators) = (constitution.threshold as usize, constitution.operators.len());
    assert_eq!((cluster.serial(), cluster.head()), (before as u64, &entry.digest()));
    assert!(threshold <= operators && 2 * threshold > operators, "two decisions need not share an operator");
    for (name, member) in cluster.members() {
        assert_eq!(&member.name, name);
        let same = cluster.member_by_tls(&member.tls_spki.0).map(|found| &found.name);
        assert_eq!(same, Some(name), "two members with one TLS key");
        let twin = |other: &&pillar_model::Member| {
            other.ek_public == member.ek_public || other.ak_public == member.ak_public
        };
        assert_eq!(cluster.members().values().filter(twin).count(), 1, "one machine under two names");
    }
}
