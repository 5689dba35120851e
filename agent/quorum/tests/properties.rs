//! What holds for every subset, order and change.

mod support;

use pillar_model::Action;
use pillar_quorum::{Cluster, Envelope, Refusal, replay};
use proptest::prelude::*;
use std::sync::LazyLock;
use support::*;

fn with_signatures(envelope: &Envelope, order: &[usize]) -> Envelope {
    let mut json: serde_json::Value = serde_json::from_str(&envelope.to_json()).expect("JSON");
    let all = json["signatures"].as_array().expect("a list").clone();
    json["signatures"] = order.iter().map(|at| all[*at].clone()).collect();
    Envelope::parse(json.to_string().as_bytes()).expect("an envelope")
}

/// n operators of whom k must sign.
fn electorates() -> impl Strategy<Value = (u8, u8)> {
    (1_u8..=7).prop_flat_map(|n| (Just(n), n / 2 + 1..=n))
}

fn founded(n: u8, k: u8) -> Cluster {
    let everybody: Vec<u8> = (1..=n).collect();
    let keys: Vec<_> = everybody.iter().copied().map(key).collect();
    let founding = pillar_quorum::propose_founding(constitution(1, &everybody, k.into()), &keys, NOW);
    Cluster::found(&signed(founding.expect("good"), &everybody), &keys, NOW).expect("everybody signed")
}

/// Made once: signing is slow without optimisation.
static HISTORY: LazyLock<(Vec<Envelope>, Vec<Cluster>)> = LazyLock::new(history);

/// A chain with every kind of action, and the state after each entry.
fn history() -> (Vec<Envelope>, Vec<Cluster>) {
    let mut envelopes = vec![founding_envelope()];
    let mut states = vec![lab()];
    let amended = amend(constitution(2, &[1, 2, 3, 4], 3));
    for action in [
        admit(member("p1", 1)),
        run(release("1", 1), Some(release("2", 2))),
        admit(member("p2", 2)),
        revoke(&member("p1", 1)),
        amended,
        replace(member("p2", 3), ek(&member("p2", 2))),
        run(release("2", 2), None),
    ] {
        let cluster = states.last().expect("one is there");
        let envelope = signed(cluster.propose(action, NOW).expect("good"), &[1, 2, 3]);
        states.push(cluster.apply(&envelope, NOW).expect("good"));
        envelopes.push(envelope);
    }
    (envelopes, states)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    // attack: D1
    #[test]
    fn fewer_than_k_keys_are_never_enough(
        (n, k) in electorates(),
        picks in prop::collection::vec(0_u8..12, 0..24),
    ) {
        // Whoever signs how often and in whatever order, strangers (above n) included: distinct operators decide.
        let cluster = founded(n, k);
        let mut envelope = cluster.propose(admit(member("p1", 1)), NOW).expect("good");
        let signers: Vec<u8> = picks.iter().map(|pick| pick + 1).collect();
        sign(&mut envelope, &signers);
        let known: std::collections::BTreeSet<u8> = signers.into_iter().filter(|s| *s <= n).collect();
        let outcome = cluster.apply(&envelope, NOW);
        if known.len() >= usize::from(k) {
            prop_assert!(outcome.is_ok());
        } else {
            let Err(Refusal::TooFewSignatures { count, .. }) = outcome else { panic!("{outcome:?}") };
            prop_assert_eq!((count.have(), count.needed), (known.len(), usize::from(k)));
        }
    }

    #[test]
    fn order_and_repetition_change_nothing(
        order in prop::collection::vec(0_usize..5, 0..20),
    ) {
        // 1, 2, 3 are operators, 8 and 9 are not.
        let cluster = lab();
        let all = signed(cluster.propose(admit(member("p1", 1)), NOW).expect("good"), &[1, 2, 3, 8, 9]);
        let shown = with_signatures(&all, &order);
        let mut sorted = order;
        sorted.sort_unstable();
        sorted.dedup();
        let plain = with_signatures(&all, &sorted);
        let tally = |envelope: &Envelope| {
            let tally = cluster.needed(envelope, NOW).expect("it could become good");
            (tally.current.clone(), tally.enough())
        };
        prop_assert_eq!(tally(&shown), tally(&plain));
        prop_assert_eq!(cluster.apply(&shown, NOW).ok(), cluster.apply(&plain, NOW).ok());
    }

    // attack: D1
    #[test]
    fn both_constitutions_must_agree(old in 0_u8..8, new in 0_u8..8) {
        // Bits say who signs: 1, 2, 3 of the old one, 3, 4, 5 of the new one; two of three each.
        let cluster = lab();
        let signers: Vec<u8> = (0..3).filter(|bit| old >> bit & 1 == 1).map(|bit| bit + 1)
            .chain((0..3).filter(|bit| new >> bit & 1 == 1).map(|bit| bit + 3)).collect();
        let envelope = cluster.propose(amend(constitution(2, &[3, 4, 5], 2)), NOW).expect("good");
        let outcome = cluster.apply(&signed(envelope, &signers), NOW);
        let count = |of: [u8; 3]| of.iter().filter(|who| signers.contains(who)).count();
        prop_assert_eq!(outcome.is_ok(), count([1, 2, 3]) >= 2 && count([3, 4, 5]) >= 2);
    }

    // attack: P10
    #[test]
    fn anything_at_all_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(envelope) = Envelope::parse(&bytes) {
            prop_assert!(lab().apply(&envelope, NOW).is_err());
        }
        let envelope = Envelope::new(pillar_quorum::ENTRY_TYPE, bytes).expect("small");
        prop_assert!(lab().apply(&envelope, NOW).is_err());
    }

    // attack: P12
    #[test]
    fn a_cut_or_reordered_chain_is_not_another_chain(cut in 0_usize..8, swap in (0_usize..8, 0_usize..8)) {
        let (envelopes, states) = LazyLock::force(&HISTORY).clone();
        prop_assert_eq!(replay(&envelopes[..=cut], &image()), Ok(states[cut].clone()));
        let mut swapped = envelopes.clone();
        swapped.swap(swap.0, swap.1);
        match replay(&swapped, &image()) {
            Ok(state) => prop_assert!(swap.0 == swap.1 && state == states[7]),
            Err((at, _)) => prop_assert!(swap.0 != swap.1 && at == swap.0.min(swap.1)),
        }
        let mut gap = envelopes;
        gap.remove(cut);
        match replay(&gap, &image()) {
            Ok(state) => prop_assert!(cut == 7 && state == states[6]),
            Err((at, _)) => prop_assert!(cut != 7 && at == cut),
        }
    }
}

// attack: D1
#[test]
fn every_changed_byte_of_payload_or_signature_is_refused() {
    let cluster = lab();
    let good = signed(cluster.propose(admit(member("p1", 1)), NOW).expect("good"), &[1, 2]);
    cluster.apply(&good, NOW).expect("good");
    let json: serde_json::Value = serde_json::from_str(&good.to_json()).expect("JSON");
    let decode = |text: &serde_json::Value| {
        data_encoding::BASE64.decode(text.as_str().expect("text").as_bytes()).expect("base64")
    };
    let encode = |bytes: &[u8]| serde_json::Value::from(data_encoding::BASE64.encode(bytes));
    let apply = |json: &serde_json::Value| {
        cluster.apply(&Envelope::parse(json.to_string().as_bytes()).expect("an envelope"), NOW)
    };
    let payload = decode(&json["payload"]);
    for at in 0..payload.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut changed = payload.clone();
            changed[at] ^= bit;
            let mut json = json.clone();
            json["payload"] = encode(&changed);
            apply(&json).expect_err("a byte of the payload was changed");
        }
    }
    for number in 0..2 {
        let signature = decode(&json["signatures"][number]["sig"]);
        for at in 0..signature.len() {
            for bit in 0..8 {
                let mut changed = signature.clone();
                changed[at] ^= 1 << bit;
                let mut json = json.clone();
                json["signatures"][number]["sig"] = encode(&changed);
                let refusal = apply(&json).expect_err("a bit of a signature was changed");
                assert!(matches!(refusal, Refusal::TooFewSignatures { uncounted: 1, .. }), "{refusal}");
            }
        }
    }
}

// attack: P12
#[test]
fn a_replayed_chain_gives_the_same_state() {
    let (envelopes, states) = history();
    let last = states.last().expect("one is there");
    assert_eq!(replay(&envelopes, &image()).as_ref(), Ok(last));
    // From any point on, after a way over the disk, and long after everything expired.
    let stored: Vec<Envelope> =
        envelopes.iter().map(|e| Envelope::parse(e.to_json().as_bytes()).expect("an envelope")).collect();
    assert_eq!(replay(&stored, &image()).as_ref(), Ok(last));
    for (at, state) in states.iter().enumerate() {
        assert_eq!(state.extend(&stored[at + 1..]).as_ref(), Ok(last));
    }
    // No entry can be applied twice, or to another state than its own.
    for (at, state) in states.iter().enumerate() {
        for (number, envelope) in envelopes.iter().enumerate() {
            assert_eq!(state.apply(envelope, NOW).is_ok(), number == at + 1, "entry {number} after {at}");
        }
    }
    assert!(matches!(last.constitution().version, 2));
    assert!(!matches!(next(last, admit(member("p9", 9))).action, Action::Found(_)));
}
