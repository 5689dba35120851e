//! Splitting, sealing and putting together, right and wrong.

use crate::*;
use zeroize::Zeroizing;

const VOLUME: VolumeId = VolumeId([0xab; 16]);

/// Bytes that differ with the seed; as good as random for what is tested here.
fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let block = |count: usize| {
        let input = [&[seed][..], &count.to_le_bytes()].concat();
        ring::digest::digest(&ring::digest::SHA256, &input).as_ref().to_vec()
    };
    (0..bytes.div_ceil(32)).flat_map(block).take(bytes).collect()
}

fn key(seed: u8) -> [u8; KEY_BYTES] {
    noise(seed, KEY_BYTES).try_into().expect("the length")
}

fn shares(k: u8, n: u8) -> (Vec<Share>, Vec<Commitment>) {
    let shares = split(&key(1), k, n, VOLUME, &noise(2, random_bytes_to_split(k))).expect("split");
    let commitments = shares.iter().map(Share::commitment).collect();
    (shares, commitments)
}

#[test]
fn every_k_of_n_up_to_seven_gives_the_key_and_fewer_do_not() {
    for n in 1..=7_u8 {
        for k in 1..=n {
            let (all, commitments) = shares(k, n);
            for chosen in 0..1_u32 << n {
                let some: Vec<Share> = (0..n)
                    .filter(|at| chosen >> at & 1 == 1)
                    .map(|at| all[usize::from(at)].clone())
                    .collect();
                let result = combine(&some, k, VOLUME, &commitments);
                if some.len() >= usize::from(k) {
                    assert_eq!(*result.expect("enough"), key(1), "{k} of {n}: {chosen:b}");
                } else {
                    let too_few = CombineError::TooFew { found: some.len(), needed: k };
                    assert_eq!(result.expect_err("too few"), too_few);
                }
            }
        }
    }
}

/// For every value that a secret byte could have there is exactly one coefficient that explains the share seen.
#[test]
fn one_share_of_two_fits_every_secret() {
    for index in 1..=16 {
        let mut seen = [0; 256];
        for coefficient in 0..=255_u8 {
            let mut random = [0; KEY_BYTES];
            random[0] = coefficient;
            let shares = split(&key(1), 2, 16, VOLUME, &random).expect("split");
            seen[usize::from(shares[index - 1].value()[0])] += 1;
        }
        assert!(seen.iter().all(|count| *count == 1), "share {index}");
    }
}

// attack: P5
#[test]
fn wrong_shares_are_named() {
    let (all, commitments) = shares(2, 3);
    let changed = |at: usize| {
        let mut value = Zeroizing::new(*all[at].value());
        value[31] ^= 1;
        Share::new(VOLUME, all[at].index(), value).expect("an index")
    };
    let renamed = |at: usize, index: u8, volume: VolumeId| {
        Share::new(volume, index, Zeroizing::new(*all[at].value())).expect("an index")
    };
    for (given, expected) in [
        (vec![all[0].clone(), all[0].clone()], CombineError::Twice(1)),
        (vec![all[0].clone(), changed(1)], CombineError::Wrong(2)),
        (vec![all[0].clone(), all[1].clone(), changed(2)], CombineError::Wrong(3)),
        (vec![all[0].clone(), renamed(1, 3, VOLUME)], CombineError::Wrong(3)),
        (vec![all[0].clone(), renamed(1, 2, VolumeId([1; 16]))], CombineError::OtherVolume(2)),
        (vec![all[0].clone(), renamed(1, 4, VOLUME)], CombineError::NoSuch { index: 4, made: 3 }),
        (vec![all[2].clone()], CombineError::TooFew { found: 1, needed: 2 }),
        (vec![], CombineError::TooFew { found: 0, needed: 2 }),
    ] {
        assert_eq!(combine(&given, 2, VOLUME, &commitments).expect_err("refused"), expected);
    }
    assert!(Share::new(VOLUME, 0, Zeroizing::new([0; 32])).is_none(), "at 0 is the key itself");
}

#[test]
fn impossible_numbers_are_refused() {
    for (k, n) in [(0, 1), (0, 0), (2, 1), (1, 17), (255, 255)] {
        let error = split(&key(1), k, n, VOLUME, &[]).expect_err("refused");
        assert_eq!(error, SplitError::Numbers { k, n });
    }
    let error = split(&key(1), 2, 3, VOLUME, &[0; 31]).expect_err("refused");
    assert_eq!(error, SplitError::Random { needed: 32, found: 31 });
}

fn operators(count: u8) -> Vec<([u8; 32], Operator)> {
    (0..count)
        .map(|number| {
            let seed = key(100 + number);
            (seed, Operator::of_seed(&seed).expect("a key"))
        })
        .collect()
}

fn token(k: u8, n: u8) -> (Token, Vec<([u8; 32], Operator)>) {
    let people = operators(n);
    let keys: Vec<Operator> = people.iter().map(|(_, operator)| operator.clone()).collect();
    let random = noise(3, random_bytes_to_make(k, keys.len()));
    (Token::make(&key(1), k, &keys, VOLUME, 1, &random).expect("a token"), people)
}

#[test]
fn two_of_three_operators_recover_from_the_token() {
    let (made, people) = token(2, 3);
    let json = serde_json::to_string(&made).expect("JSON");
    let read: Token = serde_json::from_str(&json).expect("the same");
    assert_eq!(read, made);
    read.judge().expect("as made");
    let open = |at: usize| read.open(&people[at].0, VOLUME).expect("their share");
    assert_eq!(*read.combine(&[open(2), open(0)], VOLUME).expect("enough"), key(1));
    let error = read.combine(&[open(1)], VOLUME).expect_err("too few");
    assert_eq!(
        error.to_string(),
        "too few shares: 1 given, 2 needed\n  hint: another operator opens their share with their own key"
    );
    assert!(!json.contains(&hex::encode(key(1))));
}

// attack: P5
#[test]
fn who_is_no_operator_opens_nothing() {
    let (token, people) = token(1, 2);
    let stranger = key(200);
    let error = token.open(&stranger, VOLUME).expect_err("a stranger");
    assert!(matches!(&error, SealError::NotAmong { among, .. } if among.len() == 2), "{error}");
    let sealed = hex::decode(&token.shares[0].sealed).expect("hex");
    assert_eq!(open_share(&sealed, &people[1].0).expect_err("another's"), SealError::Damaged);
    let other = VolumeId([9; 16]);
    assert_eq!(token.open(&people[0].0, other).expect_err("another volume"), SealError::OtherVolume);
}

// attack: P5
#[test]
fn every_changed_byte_of_a_sealed_share_is_refused() {
    let (token, people) = token(1, 1);
    let sealed = hex::decode(&token.shares[0].sealed).expect("hex");
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 0x40;
        assert_eq!(open_share(&changed, &people[0].0).expect_err("changed"), SealError::Damaged, "byte {at}");
    }
    for end in 0..sealed.len() {
        assert_eq!(open_share(&sealed[..end], &people[0].0).expect_err("cut"), SealError::Damaged);
    }
}

// attack: P5
#[test]
fn changed_tokens_are_refused() {
    let change = |what: fn(&mut Token)| {
        let (mut token, people) = token(2, 3);
        what(&mut token);
        let open = |at: usize| token.open(&people[at].0, VOLUME);
        (open(0).and_then(|one| Ok((one, open(1)?))), token.judge())
    };
    assert_eq!(change(|_| {}).1, Ok(()));
    let (opened, _) = change(|t| t.shares[0].commitment = t.shares[1].commitment.clone());
    assert_eq!(opened.expect_err("refused"), SealError::NotAsCommitted { index: 1 });
    let (opened, _) = change(|t| t.shares[1].sealed = t.shares[0].sealed.clone());
    assert_eq!(opened.expect_err("refused"), SealError::Damaged);
    for (what, expected) in [
        ((|t| t.k = 0) as fn(&mut Token), TokenError::Numbers { k: 0, n: 3, shares: 3 }),
        (|t| t.k = 4, TokenError::Numbers { k: 4, n: 3, shares: 3 }),
        (|t| t.n = 2, TokenError::Numbers { k: 2, n: 2, shares: 3 }),
        (|t| t.shares.swap(0, 1), TokenError::Index { found: 2, expected: 1 }),
        (|t| t.shares[1] = t.shares[0].clone(), TokenError::Index { found: 1, expected: 2 }),
        (|t| t.shares[2].commitment.truncate(2), TokenError::Hex { index: 3 }),
        (|t| t.kind = "pillar-tpm".to_owned(), TokenError::Kind("pillar-tpm".to_owned())),
    ] {
        assert_eq!(change(what).1, Err(expected));
    }
    let unknown = r#"{"type":"pillar-recovery","keyslots":[],"k":1,"n":0,"shares":[],"more":1}"#;
    assert!(serde_json::from_str::<Token>(unknown).is_err());
}

#[test]
fn one_operator_does_not_get_two_shares() {
    let [(_, one), (_, two)] = &operators(2)[..] else { panic!("two") };
    let random = noise(4, random_bytes_to_make(2, 3));
    let error = Token::make(&key(1), 2, &[one.clone(), two.clone(), one.clone()], VOLUME, 1, &random);
    assert_eq!(error, Err(MakeError::SameOperator(one.fingerprint())));
}

#[test]
fn keys_that_are_none_are_refused() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    for key in [identity, [0; 32], off_curve] {
        assert_eq!(Operator::new(key), Err(SealError::NoKey));
    }
    assert_eq!(Operator::of_spki(&[0x30; 44]), Err(SealError::NoKey));
}

#[test]
fn a_private_key_file_gives_its_seed() {
    let random = ring::rand::SystemRandom::new();
    let version2 = ring::signature::Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let seed = seed_of_pkcs8(version2.as_ref()).expect("a seed");
    let version1 = [&[0x30, 0x2e, 0x02, 0x01, 0x00][..], &version2.as_ref()[5..16], &seed[..]].concat();
    assert_eq!(seed_of_pkcs8(&version1), Some(seed));
    assert_eq!(seed_of_pkcs8(&version1[1..]), None);
}

#[test]
fn volumes_by_their_uuid() {
    assert_eq!(VolumeId::parse("abababab-abab-abab-abab-abababababab"), Some(VOLUME));
    for wrong in
        ["", "abababab", "abababab-abab-abab-abab-ababababababab", "zbababab-abab-abab-abab-abababababab"]
    {
        assert_eq!(VolumeId::parse(wrong), None, "{wrong}");
    }
}

/// Sealed by libsodium 1.0.18: `crypto_box_seal` to `crypto_sign_ed25519_pk_to_curve25519` of the key of seed 0x11 × 32.
const BY_LIBSODIUM: &str = concat!(
    "b2663871638de215c9aa511595c324bafcd18ed186242bf24c080e697ffcd1734c49b50611cb66b6",
    "6b0d812cbc23fdd638e86bb5a77f5c694ed41f1e8489f037c52a8cd163e1f851e4ad905c74ff59ad",
    "f6a0fe5736b69bb32d6e00e9efb3f2c2c72f"
);

#[test]
fn what_libsodium_seals_is_opened() {
    let share = open_share(&hex::decode(BY_LIBSODIUM).expect("hex"), &[0x11; 32]).expect("opened");
    assert_eq!((share.volume(), share.index()), (VOLUME, 2));
    assert!(share.value().iter().zip(0..).all(|(byte, at)| *byte == at));
}

/// libsodium opened this very box: the same share, key and randomness always give it.
#[test]
fn what_is_sealed_is_as_libsodium_opened_it() {
    let value: [u8; 32] = std::array::from_fn(|at| at as u8);
    let share = Share::new(VOLUME, 2, Zeroizing::new(value)).expect("an index");
    let operator = Operator::of_seed(&[0x11; 32]).expect("a key");
    let sealed = seal_share(&share, &operator, &[0x22; 32]).expect("sealed");
    assert_eq!(
        hex::encode(&sealed),
        concat!(
            "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20992eb37c728705b9",
            "f571f5723c6a83824e3a190b567a1e0721f251513ff7509c8e871d626cad009726f435883b210d92",
            "c3994a4f24e34ebab2020442e415503d88df"
        )
    );
}
