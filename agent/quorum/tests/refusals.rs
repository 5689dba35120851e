//! Every refusal, for its reason.

mod support;

use pillar_model::{
    Action, Bank, Constitution, DbxEntry, DeniedTpmFirmware, Digest, Entry, FirmwareEvent, Member,
    OperatorEntry, OperatorKey, PackageRef, ReleasePredicate,
};
use pillar_quorum::limits::*;
use pillar_quorum::{
    Cluster, ConstitutionError, Count, ENTRY_TYPE, Envelope, ImageOperators, MemberError, Refusal,
    ReleaseError, TextError, check_operator_key, fork, founding, propose_founding, replay, signed_both,
};
use support::*;

fn names(numbers: &[u8]) -> Vec<String> {
    numbers.iter().map(|n| operator(*n).name).collect()
}

fn too_few(constitution: u64, signed_by: &[u8], missing: &[u8], needed: usize, uncounted: usize) -> Refusal {
    let count = Count { constitution, signed_by: names(signed_by), missing: names(missing), needed };
    Refusal::TooFewSignatures { count, uncounted }
}

/// What comes of an entry that two of three operators signed.
#[track_caller]
fn refused(cluster: &Cluster, action: Action, why: &Refusal) {
    let envelope = raw(&next(cluster, action), &[1, 2]);
    let refusal = cluster.apply(&envelope, NOW).expect_err("it must be refused");
    assert_eq!(&refusal, why, "{refusal}");
    assert_eq!(&cluster.needed(&envelope, NOW).expect_err("no signature makes it good"), why);
    assert!(!refusal.hint().is_empty() && !refusal.to_string().is_empty());
}

#[track_caller]
fn not_admitted(cluster: &Cluster, member: Member, replaces: Option<Digest>, source: MemberError) {
    assert!(!source.hint().is_empty());
    let why = Refusal::Admit { name: member.name.clone(), source };
    refused(cluster, Action::Admit { member: Box::new(member), replaces }, &why);
}

/// Member `p9` with one thing changed.
fn odd(change: impl FnOnce(&mut Member)) -> Member {
    let mut member = member("p9", 9);
    change(&mut member);
    member
}

fn odd_release(change: impl FnOnce(&mut ReleasePredicate)) -> ReleasePredicate {
    let mut release = release("9", 5);
    change(&mut release);
    release
}

fn odd_constitution(change: impl FnOnce(&mut Constitution)) -> Constitution {
    let mut constitution = constitution(2, &[1, 2, 3], 2);
    change(&mut constitution);
    constitution
}

fn denied(text: &str) -> DeniedTpmFirmware {
    text.parse().expect("a range")
}

fn ranges(before: &str, after: &str) -> ConstitutionError {
    ConstitutionError::Ranges { before: Box::new(denied(before)), after: Box::new(denied(after)) }
}

fn overlapping() -> Constitution {
    let two = ["IFX:1.0.0.0-2.0.0.0", "IFX:2.0.0.0"].map(denied);
    odd_constitution(|c| c.denied_tpm_firmware = two.to_vec())
}

// attack: B8
#[test]
fn documents_of_before_are_read_and_one_that_denies_firmware_wants_the_maker_in_each_new_row() {
    // As it was written before there were such fields, and as it is written when they are empty.
    let old = serde_json::to_value(constitution(2, &[1, 2, 3], 2)).expect("JSON");
    assert!(old.get("denied_tpm_firmware").is_none() && old.get("dbx_required").is_none(), "{old}");
    assert_eq!(
        serde_json::from_value::<Constitution>(old).expect("read"),
        odd_constitution(|_| {}),
        "as if it denied nothing"
    );
    let row = serde_json::to_value(member("p1", 1)).expect("JSON");
    assert!(row.get("tpm_maker").is_none(), "{row}");

    let cluster = after(&lab(), admit(member("p1", 1)));
    let next = odd_constitution(|c| {
        c.denied_tpm_firmware = ["IFX:4.0.0.0-4.33.0.0", "IFX:6.0.0.0", "STM:1.0.0.0"].map(denied).to_vec();
        c.dbx_required = vec![DbxEntry::Certificate([2; 32]), DbxEntry::Image([1; 32])];
    });
    // Who is a member already stays one; what his evidence is worth, the verifier says.
    let cluster = after(&cluster, amend(next));
    assert_eq!(cluster.constitution().denied_tpm_firmware[1].to_string(), "IFX (id:49465800) 6.0.0.0");
    not_admitted(&cluster, member("p2", 2), None, MemberError::NoMaker);
    let named = Member { tpm_maker: Some("STM".parse().expect("a maker")), ..member("p2", 2) };
    assert_eq!(after(&cluster, admit(named)).members().len(), 2);
}

#[test]
fn a_chain_goes_its_whole_way() {
    let cluster = lab();
    assert_eq!((cluster.serial(), cluster.members().len(), cluster.releases()), (0, 0, None));
    let cluster = after(&cluster, admit(member("p1", 1)));
    let cluster = after(&cluster, admit(member("p2", 2)));
    assert_eq!(cluster.member_by_tls(&[2, 3, 3]).map(|m| &m.name), Some(&id("p2")));
    assert_eq!(cluster.member_by_tls(&[2, 3]), None);
    let cluster = after(&cluster, run(release("1", 5), Some(release("2", 6))));
    let releases = cluster.releases().expect("there are some");
    assert_eq!(releases.iter().map(|r| r.version.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((releases.committed.by(), releases.committed.serial()), (names(&[1, 3]).as_slice(), 3));
    // The same machine with other firmware, then another machine in its place.
    let cluster = after(&cluster, replace(odd(|m| *m = member("p2", 2)), ek(&member("p2", 2))));
    let cluster = after(&cluster, replace(member("p2", 3), ek(&member("p2", 2))));
    assert_eq!(cluster.member(&id("p2")), Some(&member("p2", 3)));
    let cluster = after(&cluster, revoke(&member("p2", 3)));
    assert_eq!(cluster.members().keys().collect::<Vec<_>>(), [&id("p1")]);
    assert_eq!(cluster.revoked()[&ek(&member("p2", 3))].serial, 6);
    // Its name is free again, and the machine that was replaced before was not revoked.
    let cluster = after(&cluster, admit(member("p2", 2)));
    // A higher epoch is committed; going back within it is possible.
    let cluster = after(&cluster, run(release("2", 6), None));
    let cluster = after(&cluster, run(release("1b", 6), None));
    // Operator 3 goes, operator 4 comes; thresholds of both must sign.
    let amendment = cluster.propose(amend(constitution(2, &[1, 2, 4], 2)), NOW).expect("good");
    let cluster =
        cluster.apply(&signed(amendment, &[2, 3, 4]), NOW).expect("2, 3 of the old, 2, 4 of the new");
    assert_eq!((cluster.constitution().version, cluster.serial()), (2, 10));
}

// attack: D1
#[test]
fn keys_are_counted_and_nothing_else() {
    let cluster = lab();
    let proposal = cluster.propose(admit(member("p1", 1)), NOW).expect("good");
    let with = |signatures: &[serde_json::Value]| {
        let mut json: serde_json::Value = serde_json::from_str(&proposal.to_json()).expect("JSON");
        json["signatures"] = signatures.into();
        Envelope::parse(json.to_string().as_bytes()).expect("an envelope")
    };
    let base64 = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
    let by = |number: u8, keyid: String| serde_json::json!({"keyid": keyid, "sig": base64(pair(number).sign(&proposal.pae()).as_ref())});
    let own = |number: u8| pillar_quorum::key_id(&key(number));

    // Nobody, one, one twice, one under several names.
    assert_eq!(cluster.apply(&proposal, NOW), Err(too_few(1, &[], &[1, 2, 3], 2, 0)));
    assert_eq!(cluster.apply(&with(&[by(1, own(1))]), NOW), Err(too_few(1, &[1], &[2, 3], 2, 0)));
    assert_eq!(
        cluster.apply(&with(&[by(1, own(1)), by(1, own(1))]), NOW),
        Err(too_few(1, &[1], &[2, 3], 2, 1))
    );
    let many = [by(1, own(1)), by(1, own(2)), by(1, own(3)), by(1, String::new())];
    assert_eq!(cluster.apply(&with(&many), NOW), Err(too_few(1, &[1], &[2, 3], 2, 3)));
    // Unknown keys, even when they claim to be known ones.
    assert_eq!(
        cluster.apply(&with(&[by(1, own(1)), by(8, own(2)), by(9, own(9))]), NOW),
        Err(too_few(1, &[1], &[2, 3], 2, 2))
    );
    // A good signature counts whatever its hint says.
    for keyid in [own(2), own(3), own(9), "operator-2".to_owned(), String::new()] {
        cluster.apply(&with(&[by(1, own(1)), by(2, keyid)]), NOW).expect("two operators");
    }
    // Encodings of a good signature that others would take: S + L, R with a changed sign, cut short, longer.
    let good = pair(2).sign(&proposal.pae()).as_ref().to_vec();
    let mut s_plus_l = good.clone();
    add_group_order(&mut s_plus_l[32..]);
    let mut negated = good.clone();
    negated[31] ^= 0x80;
    for malleable in [s_plus_l, negated, good[..63].to_vec(), [good.as_slice(), &[0]].concat(), vec![0; 64]] {
        let second = serde_json::json!({"keyid": own(2), "sig": base64(&malleable)});
        assert_eq!(cluster.apply(&with(&[by(1, own(1)), second]), NOW), Err(too_few(1, &[1], &[2, 3], 2, 1)));
    }
    // A signature over the bare payload, over another type, over another envelope.
    for message in [
        proposal.payload().to_vec(),
        pillar_quorum::pae("application/json", proposal.payload()),
        founding_envelope().pae(),
    ] {
        let second = serde_json::json!({"keyid": own(2), "sig": base64(pair(2).sign(&message).as_ref())});
        assert_eq!(cluster.apply(&with(&[by(1, own(1)), second]), NOW), Err(too_few(1, &[1], &[2, 3], 2, 1)));
    }
    let refusal = too_few(1, &[1], &[2, 3], 2, 2);
    assert_eq!(
        refusal.to_string(),
        "1 of 2 signatures of the operators of constitution 1 are there (by operator-1); 2 more signatures do not count"
    );
    assert_eq!(refusal.hint(), "still to ask: operator-2, operator-3");
}

/// The order of edwards25519's base point (RFC 8032, section 5.1), little endian.
fn add_group_order(scalar: &mut [u8]) {
    let mut order = [0; 32];
    order[..16].copy_from_slice(&0x14def9dea2f79cd65812631a5cf5d3ed_u128.to_le_bytes());
    order[31] = 0x10;
    let mut carry = 0;
    for (digit, add) in scalar.iter_mut().zip(order) {
        let sum = u16::from(*digit) + u16::from(add) + carry;
        *digit = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
}

// attack: D1
#[test]
fn a_retired_constitution_approves_nothing() {
    let cluster = lab();
    let amendment = cluster.propose(amend(constitution(2, &[4, 5, 6], 2)), NOW).expect("good");
    // Both thresholds: neither alone is enough.
    assert_eq!(
        cluster.apply(&signed(amendment.clone(), &[1, 2, 3]), NOW),
        Err(too_few(2, &[], &[4, 5, 6], 2, 0))
    );
    assert_eq!(
        cluster.apply(&signed(amendment.clone(), &[1, 4, 5, 6]), NOW),
        Err(too_few(1, &[1], &[2, 3], 2, 0))
    );
    let tally = cluster.needed(&signed(amendment.clone(), &[1, 4, 5]), NOW).expect("it could become good");
    assert_eq!((tally.current.have(), tally.next.as_ref().map(Count::have)), (1, Some(2)));
    assert!(!tally.enough());
    assert_eq!(tally.signed_by(), names(&[1, 4, 5]));
    let amended = cluster.apply(&signed(amendment, &[1, 3, 4, 5]), NOW).expect("both");
    let proposal = amended.propose(admit(member("p1", 1)), NOW).expect("good");
    assert_eq!(
        amended.apply(&signed(proposal.clone(), &[1, 2, 3]), NOW),
        Err(too_few(2, &[], &[4, 5, 6], 2, 3))
    );
    assert_eq!(amended.apply(&signed(proposal, &[1, 2, 3, 4]), NOW), Err(too_few(2, &[4], &[5, 6], 2, 3)));
}

// attack: D1 P10
#[test]
fn what_is_no_entry_is_refused() {
    let cluster = lab();
    let entry = serde_json::to_string(&next(&cluster, admit(member("p1", 1)))).expect("JSON");
    let apply = |payload_type: &str, payload: &str| {
        let envelope = Envelope::new(payload_type, payload.as_bytes().to_vec()).expect("small");
        cluster.apply(&signed(envelope, &[1, 2, 3]), NOW)
    };
    apply(ENTRY_TYPE, &entry).expect("a good entry");
    for other in [
        "",
        "application/vnd.in-toto+json",
        "application/vnd.pillar.entry+json ",
        "Application/vnd.pillar.entry+json",
    ] {
        assert_eq!(apply(other, &entry), Err(Refusal::PayloadType { found: other.to_owned() }));
    }
    let twice = entry.replacen("\"pcrs\":{", &format!("\"pcrs\":{{\"0\":\"{}\",", "00".repeat(32)), 1);
    let unknown = entry.replacen('{', "{\"more\":1,", 1);
    let trailing = format!("{entry} {{}}");
    for (bad, problem) in [
        ("", "EOF"),
        ("{}", "missing field"),
        (twice.as_str(), "\"0\" is there twice"),
        (unknown.as_str(), "unknown field `more`"),
        (trailing.as_str(), "trailing"),
        (&entry.replace("\"serial\":1", "\"serial\":-1"), "invalid value"),
        (&entry.replace("\"serial\":1", "\"serial\":1.0"), "invalid type"),
        (&entry.replace("\"serial\":1", "\"serial\":1,\"serial\":1"), "\"serial\" is there twice"),
        (&entry.replace("\"p1\"", "\"P1\""), "not a pillar's name"),
        (&"[".repeat(100_000), "recursion"),
        // What is quoted is short and can be printed.
        (r#"{"\u001b[2J":1}"#, "unknown field `\u{fffd}[2J`"),
        (&format!("{{\"{}\":1}}", "x".repeat(100_000)), "unknown field `xxx"),
    ] {
        let found = apply(ENTRY_TYPE, bad);
        let Err(Refusal::Unreadable { problem: words }) = &found else { panic!("{problem}: {found:?}") };
        assert!(words.contains(problem) && words.len() <= 300, "{problem}: {words}");
    }
}

// attack: P12
#[test]
fn entries_are_taken_in_their_order_only() {
    let cluster = after(&lab(), admit(member("p1", 1)));
    let good = next(&cluster, admit(member("p2", 2)));
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = good.clone();
        change(&mut entry);
        cluster.apply(&raw(&entry, &[1, 2]), NOW)
    };
    with(&|_| ()).expect("a good entry");
    for found in [0, 1, 3, u64::MAX] {
        assert_eq!(with(&|e| e.serial = found), Err(Refusal::Serial { expected: 2, found }));
    }
    for found in [
        Digest(Vec::new()),
        lab().head().clone(),
        Digest(vec![0; 32]),
        Digest(cluster.head().0[..31].to_vec()),
    ] {
        let expected = cluster.head().clone();
        let why = Refusal::Previous { expected, found: found.clone() };
        assert_eq!(with(&|e| e.previous = found.clone()), Err(why));
    }
    let again = Action::Found(Box::new(constitution(1, &[1, 2, 3], 2)));
    refused(&cluster, again, &Refusal::FoundedAlready { cluster: "lab".to_owned() });
    assert_eq!(
        cluster.apply(&founding_envelope(), NOW),
        Err(Refusal::FoundedAlready { cluster: "lab".to_owned() })
    );
}

// attack: P14
#[test]
fn wrong_clocks_are_told_with_both_times() {
    let cluster = lab();
    let made = |made_unix_s| raw(&Entry { made_unix_s, ..next(&cluster, admit(member("p1", 1))) }, &[1, 2]);
    assert_eq!(
        cluster.apply(&made(NOW - 1), NOW),
        Err(Refusal::MadeBefore { made_unix_s: NOW - 1, previous_unix_s: NOW })
    );
    let ahead = NOW + CLOCK_AHEAD_MAX_S;
    cluster.apply(&made(ahead), NOW).expect("just in time");
    let clock = Refusal::Clock { made_unix_s: ahead + 1, now_unix_s: NOW };
    assert_eq!(cluster.apply(&made(ahead + 1), NOW), Err(clock));
    // A machine whose clock lost its battery takes nothing from operators, but all that its peers took.
    assert_eq!(cluster.apply(&made(NOW), 7), Err(Refusal::Clock { made_unix_s: NOW, now_unix_s: 7 }));
    cluster.extend(&[made(NOW)]).expect("whatever the clock says");
    assert_eq!(
        Cluster::found(&founding_envelope(), &image(), 7),
        Err(Refusal::Clock { made_unix_s: NOW, now_unix_s: 7 })
    );
}

// attack: P14
#[test]
fn an_expired_constitution_approves_nothing_but_its_amendment() {
    let second = raw(&next(&lab(), run(release("1", 5), None)), &[1, 2]);
    let cluster = lab().apply(&second, NOW).expect("good");
    let end = NOW + YEAR;
    let expired = Refusal::Expired { version: 1, expired_unix_s: end, now_unix_s: end };
    let admission = raw(&next(&cluster, admit(member("p1", 1))), &[1, 2]);
    cluster.apply(&admission, end - 1).expect("the last second");
    assert_eq!(cluster.apply(&admission, end), Err(expired.clone()));
    // What a peer accepted in time is good later on; what was made too late is not, whatever our clock says.
    cluster.extend(std::slice::from_ref(&admission)).expect("made in time");
    let late = raw(&Entry { made_unix_s: end, ..next(&cluster, admit(member("p1", 1))) }, &[1, 2]);
    assert_eq!(cluster.apply(&late, end - 1), Err(expired.clone()));
    assert_eq!(cluster.extend(std::slice::from_ref(&late)), Err((0, expired.clone())));
    let chain = [founding_envelope(), second, late];
    assert_eq!(replay(&chain, &image()), Err((2, expired)));
    assert_eq!(replay(&chain[..2], &image()).as_ref(), Ok(&cluster));

    let new = odd_constitution(|c| c.expires_unix_s = end + YEAR);
    let amendment = signed(cluster.propose(amend(new.clone()), end).expect("still possible"), &[1, 2]);
    assert_eq!(cluster.apply(&amendment, end).expect("two signed").constitution(), &new);
    let void = odd_constitution(|c| c.expires_unix_s = end);
    let why = ConstitutionError::Expired { expires_unix_s: end, now_unix_s: end };
    assert_eq!(cluster.propose(amend(void), end), Err(Refusal::Constitution(why)));
}

// attack: P15
#[test]
fn a_founding_needs_the_image_and_its_own_threshold() {
    let five: Vec<OperatorKey> = (1..=5).map(key).collect();
    let found = |constitution, numbers: &[u8]| {
        let envelope = signed(propose_founding(constitution, &five, NOW)?, numbers);
        Cluster::found(&envelope, &five, NOW)
    };
    found(constitution(1, &[1, 2, 3], 2), &[1, 2, 3]).expect("three of the image's five");
    found(constitution(1, &[1, 2, 3], 2), &[1, 2, 5])
        .expect("one of them is no operator of the constitution");
    assert_eq!(found(constitution(1, &[1, 2, 3], 3), &[1, 2, 5]), Err(too_few(1, &[1, 2], &[3], 3, 0)));
    // A single operator cannot make a cluster of his own.
    let alone = found(constitution(1, &[1], 1), &[1]).expect_err("one of five");
    let Refusal::TooFewSignatures { count, uncounted: 0 } = &alone else { panic!("{alone}") };
    assert_eq!((count.constitution, count.have(), count.needed), (0, 1, 3));
    assert!(alone.to_string().starts_with("1 of 3 signatures of the image's operators are there"));
    // Who has a key of another kind cannot sign, and is an operator of the image all the same.
    let mixed = |signers: &[u8], others| ImageOperators::new(signers.iter().map(|n| key(*n)), others);
    let propose = |image: &ImageOperators, operators: &[u8], threshold| {
        propose_founding(constitution(1, operators, threshold), image, NOW)
    };
    let (one, why) = (mixed(&[1], 2), Refusal::TooFewSigners { operators: 3, signers: 1, needed: 2 });
    assert_eq!(propose(&one, &[1], 1), Err(why.clone()));
    let by_hand = signed(propose(&mixed(&[1], 0), &[1], 1).expect("alone in the image"), &[1]);
    assert_eq!(Cluster::found(&by_hand, &one, NOW), Err(why.clone()));
    assert_eq!(replay(&[by_hand], &one), Err((0, why.clone())));
    assert!(why.to_string().starts_with("2 of the 3 operators of this machine's image must sign a founding"));
    assert!(why.hint().contains("Ed25519"), "{}", why.hint());
    let three_of_five = mixed(&[1, 2, 3], 2);
    let envelope = propose(&three_of_five, &[1, 2], 2).expect("three can sign");
    assert!(matches!(
        Cluster::found(&signed(envelope.clone(), &[1, 2]), &three_of_five, NOW),
        Err(Refusal::TooFewSignatures { count, .. }) if count.needed == 3
    ));
    Cluster::found(&signed(envelope, &[1, 2, 3]), &three_of_five, NOW).expect("three of five");
    // A key that is in the image twice is one key.
    let doubled = [key(1), key(1), key(2)];
    let envelope = signed(propose_founding(constitution(1, &[1], 1), &doubled, NOW).expect("good"), &[1]);
    assert!(matches!(Cluster::found(&envelope, &doubled, NOW), Err(Refusal::TooFewSignatures { .. })));
    assert_eq!(
        found(constitution(1, &[1, 2, 9], 2), &[1, 2, 9]),
        Err(Refusal::Stranger { name: "operator-9".to_owned() })
    );
    assert_eq!(
        founding(&founding_envelope(), &[], NOW),
        Err(Refusal::Stranger { name: "operator-1".to_owned() })
    );

    let first = Entry {
        serial: 0,
        previous: Digest(Vec::new()),
        made_unix_s: NOW,
        action: Action::Found(Box::new(constitution(1, &[1, 2, 3], 2))),
    };
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = first.clone();
        change(&mut entry);
        Cluster::found(&raw(&entry, &[1, 2]), &image(), NOW)
    };
    with(&|_| ()).expect("a good founding");
    assert_eq!(with(&|e| e.serial = 1), Err(Refusal::Serial { expected: 0, found: 1 }));
    let found = Digest(vec![0; 32]);
    let why = Refusal::Previous { expected: Digest(Vec::new()), found: found.clone() };
    assert_eq!(with(&|e| e.previous = found.clone()), Err(why));
    assert_eq!(with(&|e| e.action = admit(member("p1", 1))), Err(Refusal::NotFounded));
    assert_eq!(with(&|e| e.action = amend(constitution(1, &[1, 2, 3], 2))), Err(Refusal::NotFounded));
    let version = ConstitutionError::Version { expected: 1, found: 2 };
    assert_eq!(
        with(&|e| e.action = Action::Found(Box::new(constitution(2, &[1, 2, 3], 2)))),
        Err(Refusal::Constitution(version))
    );
    assert_eq!(replay(&[], &image()), Err((0, Refusal::NoEntries)));
}

// attack: D1
#[test]
fn constitutions_that_cannot_be_are_refused() {
    let cluster = after(&lab(), admit(member("p1", 1)));
    let operator_of = |name: &str, number| OperatorEntry { name: name.to_owned(), key: key(number) };
    let rows: Vec<(Constitution, ConstitutionError)> = vec![
        (constitution(1, &[1, 2, 3], 2), ConstitutionError::Version { expected: 2, found: 1 }),
        (constitution(3, &[1, 2, 3], 2), ConstitutionError::Version { expected: 2, found: 3 }),
        (odd_constitution(|c| c.cluster = "Lab".into()), ConstitutionError::ClusterName("Lab".into())),
        (
            odd_constitution(|c| c.cluster = "other".into()),
            ConstitutionError::OtherCluster { expected: "lab".into(), found: "other".into() },
        ),
        (constitution(2, &[], 0), ConstitutionError::Operators(0)),
        (constitution(2, &(1..=65).collect::<Vec<_>>(), 33), ConstitutionError::Operators(65)),
        (
            odd_constitution(|c| c.operators[1].name = "a\u{1b}[2J".into()),
            ConstitutionError::OperatorName("a\u{1b}[2J".into()),
        ),
        (
            odd_constitution(|c| c.operators[1] = operator_of("operator-1", 4)),
            ConstitutionError::SameName("operator-1".into()),
        ),
        (
            odd_constitution(|c| c.operators[2] = operator_of("carol", 1)),
            ConstitutionError::SameKey { first: "operator-1".into(), second: "carol".into() },
        ),
        (
            odd_constitution(|c| c.operators[2].key = OperatorKey([0; 32])),
            ConstitutionError::Key("operator-3".into()),
        ),
        (constitution(2, &[1, 2, 3], 0), ConstitutionError::Threshold { threshold: 0, operators: 3 }),
        (constitution(2, &[1, 2, 3], 1), ConstitutionError::Threshold { threshold: 1, operators: 3 }),
        (constitution(2, &[1, 2, 3, 4], 2), ConstitutionError::Threshold { threshold: 2, operators: 4 }),
        (constitution(2, &[1, 2, 3], 4), ConstitutionError::Threshold { threshold: 4, operators: 3 }),
        (
            odd_constitution(|c| c.expires_unix_s = NOW),
            ConstitutionError::Expired { expires_unix_s: NOW, now_unix_s: NOW },
        ),
        (
            odd_constitution(|c| c.ek_roots = vec![Digest(vec![1]); EK_ROOTS_MAX + 1]),
            ConstitutionError::TooMany { what: "EK roots", found: EK_ROOTS_MAX + 1, max: EK_ROOTS_MAX },
        ),
        (
            odd_constitution(|c| c.ek_intermediates = vec![Digest(vec![1]); EK_INTERMEDIATES_MAX + 1]),
            ConstitutionError::TooMany {
                what: "EK intermediates",
                found: EK_INTERMEDIATES_MAX + 1,
                max: EK_INTERMEDIATES_MAX,
            },
        ),
        (
            odd_constitution(|c| c.ek_roots.push(Digest(Vec::new()))),
            ConstitutionError::Certificate { what: "EK roots", bytes: 0 },
        ),
        (
            odd_constitution(|c| c.ek_intermediates.push(Digest(vec![0; CERTIFICATE_MAX_BYTES + 1]))),
            ConstitutionError::Certificate { what: "EK intermediates", bytes: CERTIFICATE_MAX_BYTES + 1 },
        ),
        (
            odd_constitution(|c| c.ek_allowed = vec![Digest(vec![1; 32]); EK_ALLOWED_MAX + 1]),
            ConstitutionError::TooMany {
                what: "allowed EKs",
                found: EK_ALLOWED_MAX + 1,
                max: EK_ALLOWED_MAX,
            },
        ),
        (
            odd_constitution(|c| c.ek_allowed = vec![ek(&member("p1", 1)), Digest(vec![1; 31])]),
            ConstitutionError::AllowedDigest(31),
        ),
        (
            odd_constitution(|c| c.ek_allowed = vec![Digest(vec![1; 32])]),
            ConstitutionError::LeavesOut(id("p1")),
        ),
        (
            odd_constitution(|c| c.denied_tpm_firmware = vec![denied("IFX:1.0.0.0"); 65]),
            ConstitutionError::TooMany { what: "ranges of denied TPM firmware", found: 65, max: 64 },
        ),
        (
            odd_constitution(|c| c.denied_tpm_firmware = vec![denied("IFX:1.0.0.1-1.0.0.0")]),
            ConstitutionError::EmptyRange(Box::new(denied("IFX:1.0.0.1-1.0.0.0"))),
        ),
        (overlapping(), ranges("IFX:1.0.0.0-2.0.0.0", "IFX:2.0.0.0")),
        (
            odd_constitution(|c| c.denied_tpm_firmware = vec![denied("STM:1.0.0.0"), denied("IFX:1.0.0.0")]),
            ranges("STM:1.0.0.0", "IFX:1.0.0.0"),
        ),
        (
            odd_constitution(|c| c.dbx_required = vec![DbxEntry::Image([1; 32]); 513]),
            ConstitutionError::TooMany { what: "entries that dbx must hold", found: 513, max: 512 },
        ),
        (
            odd_constitution(|c| c.dbx_required = vec![DbxEntry::Image([1; 32]); 2]),
            ConstitutionError::DbxOrder(DbxEntry::Image([1; 32])),
        ),
        (
            odd_constitution(|c| {
                c.dbx_required = vec![DbxEntry::Image([1; 32]), DbxEntry::Certificate([2; 32])];
            }),
            ConstitutionError::DbxOrder(DbxEntry::Certificate([2; 32])),
        ),
    ];
    for (constitution, why) in rows {
        assert!(!why.hint().is_empty() && !why.to_string().is_empty());
        refused(&cluster, amend(constitution), &Refusal::Constitution(why));
    }
    let largest: Vec<u8> = (1..=64).collect();
    cluster.propose(amend(constitution(2, &largest, 33)), NOW).expect("64 operators");
    cluster.propose(amend(constitution(2, &[1], 1)), NOW).expect("one operator");
}

// attack: D1
#[test]
fn keys_that_are_not_sound_are_no_operators() {
    assert!((1..=20).all(|number| check_operator_key(&key(number))));
    let hex = |text: &str| OperatorKey::try_from(text.to_owned()).expect("64 digits");
    for (what, bad) in [
        ("the neutral element: S = 0 signs everything", hex(&format!("01{}", "00".repeat(31)))),
        ("order 4", OperatorKey([0; 32])),
        ("order 2", hex(&format!("ec{}7f", "ff".repeat(30)))),
        ("order 8", hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")),
        ("the neutral element with y + p", hex(&format!("ee{}7f", "ff".repeat(30)))),
        ("the neutral element with a sign", hex(&format!("01{}80", "00".repeat(30)))),
        ("no point", hex(&format!("02{}", "00".repeat(31)))),
        ("all ones", OperatorKey([0xff; 32])),
        ("a sound key plus a point of order 2", with_torsion(&key(1))),
    ] {
        assert!(!check_operator_key(&bad), "{what}");
    }
}

// attack: D1
#[test]
fn what_can_be_written_in_two_ways_is_no_key() {
    // The field has p = 2^255 - 19 elements, so that y below 19 can be written as y + p too. None of these few points
    // is outside the small subgroups, so they are refused in either form.
    for y in 0..19 {
        for sign in [0, 0x80] {
            let (mut plain, mut again) = ([0; 32], [0xff; 32]);
            (plain[0], plain[31]) = (y, sign);
            (again[0], again[31]) = (0xed + y, 0x7f | sign);
            for bytes in [plain, again] {
                assert!(!check_operator_key(&OperatorKey(bytes)), "{y}, {bytes:02x?}");
            }
        }
    }
}

/// The same key plus the point of order 2, (x, y) to (-x, -y): one private key could sign for both.
fn with_torsion(key: &OperatorKey) -> OperatorKey {
    let mut y = key.0;
    let negative = y[31] & 0x80;
    y[31] &= 0x7f;
    // p - y, little endian; p = 2^255 - 19.
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let mut borrow = 0_i16;
    for (digit, minus) in p.iter_mut().zip(y) {
        let difference = i16::from(*digit) - i16::from(minus) - borrow;
        borrow = i16::from(difference < 0);
        *digit = difference.rem_euclid(256).to_le_bytes()[0];
    }
    p[31] |= negative ^ 0x80;
    // Of the curve, and of no small order: what gives it away is the torsion alone.
    let point = curve25519_dalek::edwards::CompressedEdwardsY(p).decompress().expect("a point");
    assert!(!point.is_small_order() && !point.is_torsion_free());
    OperatorKey(p)
}

// attack: B2
#[test]
fn one_machine_is_one_row() {
    let cluster = after(&after(&lab(), admit(member("p1", 1))), admit(member("p2", 2)));
    let p1 = member("p1", 1);
    let key_of = |what, other: &str| MemberError::InUse { what, other: id(other) };
    not_admitted(&cluster, member("p1", 3), None, MemberError::NameTaken(ek(&p1)));
    not_admitted(&cluster, member("p1", 1), None, MemberError::NameTaken(ek(&p1)));
    not_admitted(&cluster, member("p3", 3), Some(ek(&p1)), MemberError::NothingToReplace);
    let named = ek(&member("p2", 2));
    let why = MemberError::ReplacesOther { named: named.clone(), present: ek(&p1) };
    not_admitted(&cluster, member("p1", 3), Some(named), why);
    not_admitted(&cluster, member("p3", 1), None, key_of("endorsement key", "p1"));
    not_admitted(&cluster, member("p2", 1), Some(ek(&member("p2", 2))), key_of("endorsement key", "p1"));
    let borrowed = |change: &dyn Fn(&mut Member)| odd(change);
    not_admitted(
        &cluster,
        borrowed(&|m| m.ak_public = Digest(vec![2, 2, 2])),
        None,
        key_of("attestation key", "p2"),
    );
    not_admitted(&cluster, borrowed(&|m| m.tls_spki = Digest(vec![1, 3, 3])), None, key_of("TLS key", "p1"));

    let revoked = after(&cluster, revoke(&p1));
    let why = MemberError::Revoked { ek: ek(&p1), serial: 3 };
    not_admitted(&revoked, member("p1", 1), None, why.clone());
    not_admitted(&revoked, member("p7", 1), None, why.clone());
    not_admitted(
        &revoked,
        odd(|m| *m = Member { name: id("p2"), ..member("p1", 1) }),
        Some(ek(&member("p2", 2))),
        why,
    );

    let listed = odd_constitution(|c| c.ek_allowed = vec![ek(&p1), ek(&member("p2", 2))]);
    let listed = after(&cluster, amend(listed));
    not_admitted(&listed, member("p3", 3), None, MemberError::NotAllowed(ek(&member("p3", 3))));

    let mut full = lab();
    for number in 1..=MEMBERS_MAX as u8 {
        full = after(&full, admit(member(&format!("p{number}"), number)));
    }
    not_admitted(&full, member("p99", 99), None, MemberError::Full);
    after(&full, replace(member("p1", 99), ek(&p1)));
}

#[test]
fn rows_that_cannot_be_are_refused() {
    let cluster = lab();
    let bank = |m: &mut Member, change: &dyn Fn(&mut pillar_model::FirmwareReference)| {
        change(m.firmware.get_mut(&Bank::Sha256).expect("it has this bank"));
    };
    let event = |change: &dyn Fn(&mut FirmwareEvent)| odd(|m| bank(m, &|f| change(&mut f.events[0])));
    let long = "x".repeat(TEXT_MAX_BYTES + 1);
    let rows: Vec<(Member, MemberError)> = vec![
        (odd(|m| m.ek_public = Digest(Vec::new())), MemberError::Key { what: "endorsement key", bytes: 0 }),
        (
            odd(|m| m.ak_public = Digest(vec![1; 1025])),
            MemberError::Key { what: "attestation key", bytes: 1025 },
        ),
        (odd(|m| m.tls_spki = Digest(Vec::new())), MemberError::Key { what: "TLS key", bytes: 0 }),
        (odd(|m| m.ak_public = m.ek_public.clone()), MemberError::SameKeys),
        (odd(|m| m.tls_spki = m.ak_public.clone()), MemberError::SameKeys),
        (odd(|m| m.ek_certificate = Digest(vec![1; 31])), MemberError::Certificate(31)),
        (odd(|m| m.firmware.clear()), MemberError::Bank("no bank".into())),
        (
            odd(|m| drop(m.firmware.insert(Bank::Sha1, firmware(Bank::Sha1)))),
            MemberError::Bank("sha1".into()),
        ),
        (odd(|m| bank(m, &|f| drop(f.pcrs.pop_first()))), MemberError::Pcrs(Bank::Sha256)),
        (
            odd(|m| bank(m, &|f| drop(f.pcrs.insert(7.try_into().expect("below 24"), Digest(vec![1; 32]))))),
            MemberError::Pcrs(Bank::Sha256),
        ),
        (event(&|e| e.pcr = 11.try_into().expect("below 24")), MemberError::Pcrs(Bank::Sha256)),
        (
            odd(|m| bank(m, &|f| f.pcrs.values_mut().for_each(|v| v.0.truncate(20)))),
            MemberError::Digest { bank: Bank::Sha256, bytes: 20 },
        ),
        (event(&|e| e.digest = Digest(vec![1; 48])), MemberError::Digest { bank: Bank::Sha256, bytes: 48 }),
        (odd(|m| bank(m, &|f| f.events = vec![f.events[0].clone(); 513])), MemberError::Events(513)),
        (
            event(&|e| e.kind = String::new()),
            MemberError::Text(TextError::Empty("the type of a firmware event")),
        ),
        (
            event(&|e| e.words = "\u{202e}txet".into()),
            MemberError::Text(TextError::Unprintable("a firmware event")),
        ),
        (
            event(&|e| e.words = long.clone()),
            MemberError::Text(TextError::Long {
                what: "a firmware event",
                bytes: TEXT_MAX_BYTES + 1,
                max: TEXT_MAX_BYTES,
            }),
        ),
        (odd(|m| m.state_volume = String::new()), MemberError::Text(TextError::Empty("the state volume"))),
        (odd(|m| m.addresses = vec!["a:1".into(); 9]), MemberError::Addresses(9)),
    ];
    for (member, why) in rows {
        not_admitted(&cluster, member, None, why);
    }
    for bad in [
        "",
        ":1",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "a:+1",
        "a b:1",
        "fd00::1:7444",
        "[fd00::1]",
        "[x]:1",
        "a\n:1",
        "a/b:1",
    ] {
        not_admitted(
            &cluster,
            odd(|m| m.addresses = vec![bad.into()]),
            None,
            MemberError::Address(bad.into()),
        );
    }
}

#[test]
fn members_are_revoked_exactly() {
    let cluster = after(&lab(), admit(member("p1", 1)));
    refused(&cluster, revoke(&member("p2", 1)), &Refusal::NoMember(id("p2")));
    let (named, present) = (ek(&member("p1", 2)), ek(&member("p1", 1)));
    refused(&cluster, revoke(&member("p1", 2)), &Refusal::OtherEk { name: id("p1"), named, present });
    let with_reason =
        |reason: &str| Action::Revoke { name: id("p1"), ek: ek(&member("p1", 1)), reason: reason.to_owned() };
    refused(&cluster, with_reason(""), &Refusal::Reason(TextError::Empty("the reason")));
    refused(&cluster, with_reason("a\nb"), &Refusal::Reason(TextError::Unprintable("the reason")));
}

// attack: C4
#[test]
fn releases_that_cannot_be_run_are_refused() {
    let cluster = after(&lab(), run(release("8", 5), None));
    let down = |which, version: &str, found, reached| ReleaseError::EpochDown {
        which,
        version: version.to_owned(),
        found,
        reached,
    };
    let digest = |what, bytes| ReleaseError::Digest { version: "9".to_owned(), what, bytes };
    let many = |what, found, max| ReleaseError::TooMany { version: "9".to_owned(), what, found, max };
    let package = PackageRef { name: "a".into(), version: "1".into(), architecture: "all".into() };
    let rows: Vec<(Action, ReleaseError)> = vec![
        (run(release("7", 4), None), down("committed", "7", 4, 5)),
        (run(release("7", 4), Some(release("9", 6))), down("committed", "7", 4, 5)),
        (run(release("9", 6), Some(release("8", 5))), down("trial", "8", 5, 6)),
        (run(release("9", 5), Some(release("9", 5))), ReleaseError::TrialIsCommitted("9".to_owned())),
        (
            run(odd_release(|r| r.version.clear()), None),
            ReleaseError::Text(TextError::Empty("a release's version")),
        ),
        (
            run(odd_release(|r| r.cmdline = "a\u{7}".into()), None),
            ReleaseError::Text(TextError::Unprintable("a release's command line")),
        ),
        (
            run(odd_release(|r| r.sizes_bytes = (0..65).map(|n| (n.to_string(), 1)).collect()), None),
            many("files", 65, 64),
        ),
        (
            run(odd_release(|r| r.boot_applications = vec![r.boot_applications[0].clone(); 9]), None),
            many("boot applications", 9, 8),
        ),
        (run(odd_release(|r| r.packages = vec![package; 1025]), None), many("packages", 1025, 1024)),
        (
            run(
                odd_release(|r| {
                    let prediction = r.pcrs.get_mut(&Bank::Sha256).expect("it has this bank");
                    prediction.uki_after_phase =
                        (0..33).map(|n| (n.to_string(), Digest(vec![1; 32]))).collect();
                }),
                None,
            ),
            many("phases", 33, 32),
        ),
        (run(odd_release(|r| r.pcrs.clear()), None), ReleaseError::NoPrediction("9".to_owned())),
        (
            run(odd_release(|r| r.secure_boot.db = Digest(vec![1; 20])), None),
            digest("the digest of a Secure Boot certificate", 20),
        ),
        (
            run(
                odd_release(|r| {
                    let prediction = r.pcrs.get_mut(&Bank::Sha256).expect("it has this bank");
                    prediction.fixed.insert(4.try_into().expect("below 24"), Digest(vec![1; 31]));
                }),
                None,
            ),
            digest("a predicted PCR", 31),
        ),
        (
            run(
                odd_release(|r| {
                    r.boot_applications[0].authenticode.insert(Bank::Sha384, Digest(vec![1; 32]));
                }),
                None,
            ),
            digest("an Authenticode digest", 32),
        ),
        // A bad trial is no better than a bad release.
        (
            run(release("8", 5), Some(odd_release(|r| r.pcrs.clear()))),
            ReleaseError::NoPrediction("9".to_owned()),
        ),
    ];
    for (action, why) in rows {
        assert!(!why.hint().is_empty() && !why.to_string().is_empty());
        refused(&cluster, action, &Refusal::Release(why));
    }
    // The same version built anew is another release.
    let rebuilt = odd_release(|r| r.root_hash.0[0] ^= 1);
    cluster.propose(run(release("9", 5), Some(rebuilt)), NOW).expect("another root hash");
}

#[test]
fn an_entry_that_is_too_large_is_refused_before_it_is_signed() {
    let huge = odd_constitution(|c| {
        c.ek_intermediates = vec![Digest(vec![1; CERTIFICATE_MAX_BYTES]); EK_INTERMEDIATES_MAX];
    });
    assert!(matches!(lab().propose(amend(huge), NOW), Err(Refusal::TooLarge { .. })));
}

// attack: P9
#[test]
fn worthless_signatures_are_not_kept() {
    let cluster = lab();
    let proposal = cluster.propose(amend(constitution(2, &[3, 4], 2)), NOW).expect("good");
    let crowded = signed(proposal.clone(), &(1..=60).rev().collect::<Vec<_>>());
    let kept = cluster.only_counting(&crowded);
    assert_eq!(kept, signed(proposal, &[4, 3, 2, 1]));
    assert_eq!(cluster.apply(&kept, NOW), cluster.apply(&crowded, NOW));
}

// attack: P9
#[test]
fn a_long_keyid_is_not_kept() {
    let cluster = lab();
    let proposal = cluster.propose(admit(member("p1", 1)), NOW).expect("good");
    let good = signed(proposal, &[1]);
    let keyid = good.signatures()[0].key_id.clone();
    let blown = good.to_json().replace(&keyid, &"x".repeat(400 << 10));
    let blown = Envelope::parse(blown.as_bytes()).expect("within the limits");
    assert!(blown.to_json().len() > 400 << 10);
    assert_eq!(cluster.only_counting(&blown), good);
}

// attack: P12
#[test]
fn forks_are_found_and_what_one_has_is_kept() {
    let first = founding_envelope();
    let cluster = lab();
    let entry = |name, machine, by: &[u8]| {
        signed(cluster.propose(admit(member(name, machine)), NOW).expect("good"), by)
    };
    let (one, other) = (entry("p1", 1, &[1, 2]), entry("p2", 2, &[2, 3]));
    let ours = [first.clone(), one.clone()];
    // More signatures do not make another entry.
    assert_eq!(fork(&ours, &[first.clone(), entry("p1", 1, &[3, 2, 1])]), None);
    // Nor is a chain that goes on another one.
    assert_eq!(fork(&ours, &ours[..1]), None);
    assert_eq!(fork(&ours[..1], &ours), None);
    assert_eq!(fork(&[], &ours), None);
    let theirs = [first.clone(), other.clone(), one.clone()];
    assert_eq!(fork(&ours, &theirs), Some(1));
    assert_eq!(fork(&theirs, &ours), Some(1));
    assert_eq!(signed_both(&one, &other, cluster.constitution()), names(&[2]));
    // The second decision for a place does not apply on top of the first.
    let after_one = cluster.apply(&one, NOW).expect("good");
    assert_eq!(after_one.apply(&other, NOW), Err(Refusal::Serial { expected: 2, found: 1 }));
}
