//! DSSE: what is read, what is signed, what is refused.

mod support;

use data_encoding::{BASE64, BASE64URL};
use pillar_model::OperatorKey;
use pillar_quorum::limits::{ENVELOPE_MAX_BYTES, PAYLOAD_MAX_BYTES, SIGNATURES_MAX};
use pillar_quorum::{Cluster, ENTRY_TYPE, Envelope, EnvelopeError, key_id, pae};
use ring::signature::{ED25519, UnparsedPublicKey};
use support::*;

/// RFC 8032, section 7.1, TEST 1 and TEST 2.
fn rfc8032_keys() -> [OperatorKey; 2] {
    [
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    ]
    .map(|hex| hex.to_owned().try_into().expect("a key"))
}

#[test]
fn the_encoding_that_is_signed_is_that_of_the_specification() {
    // protocol.md, "Test Vectors".
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
    // Lengths are of bytes.
    assert_eq!(pae("ä", &[0xff, b' ']), b"DSSEv1 2 \xc3\xa4 2 \xff ");
}

#[test]
fn signatures_of_the_published_vectors_verify() {
    // Of the specification's testvectors/vectors.json; Ed25519 is deterministic, OpenSSL 3.0 gives the same ones.
    let [a, b] = rfc8032_keys();
    let statement = "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==";
    for (payload, key, signature) in [
        (
            statement,
            a,
            "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA==",
        ),
        (
            statement,
            b,
            "c1+67/aT0yqEpwx8PsVY3MLHsj9D0CZ014/Fv/QlG59P+9CobUZ7xECJ/V3USG0Ob9CiE5LjReEZUzNF2l7eBw==",
        ),
        (
            "-_-_Pj8=",
            a,
            "P-_KHICeR7tI6S_YyejJTRtrXhcQyQ2LYPaL8h90KjC9qN8HU_svOQ6TuDOT1HIrsGW886DbWNWcCmX5twLrAw==",
        ),
        ("", a, "gSggCAaTLTYyRH6FIDBem6meyIynsYy8RTHVzwx9tnTb7Bg/1jMWnuVgI/gffqmbsC2VX5/jHfkkDqsj7CDbDg=="),
    ] {
        let json = format!(
            r#"{{"payload":"{payload}","payloadType":"application/vnd.in-toto+json","signatures":[{{"sig":"{signature}","keyid":"A"}}]}}"#
        );
        let envelope = Envelope::parse(json.as_bytes()).expect("an envelope");
        let [signature] = envelope.signatures() else { panic!("one signature") };
        UnparsedPublicKey::new(&ED25519, &key.0)
            .verify(&envelope.pae(), &signature.bytes)
            .expect("it verifies");
        assert_eq!(signature.key_id, "A");
    }
}

#[test]
fn an_envelope_made_by_others_founds_a_cluster() {
    let json = include_bytes!("data/founding-openssl.json");
    let envelope = Envelope::parse(json).expect("an envelope");
    assert_eq!(
        envelope.digest().to_string(),
        "60c1ff6de39da40d74b779f5538d2e4e7765bc83cab5e26e0ceecc5bef4b5bfb"
    );
    let keys = rfc8032_keys();
    let cluster = Cluster::found(&envelope, &keys, NOW).expect("both signed");
    assert_eq!(cluster.head(), &envelope.digest());
    // Written again by us it has another form, and the same payload, byte for byte.
    let again = Envelope::parse(envelope.to_json().as_bytes()).expect("an envelope");
    assert_eq!(again, envelope);
    assert_eq!(Cluster::found(&again, &keys, NOW), Ok(cluster));
}

fn json(payload: &str, signature: &str) -> String {
    format!(r#"{{"payload":"{payload}","payloadType":"t","signatures":[{{"sig":"{signature}"}}]}}"#)
}

// attack: P10
#[test]
fn both_alphabets_are_read_and_nothing_else_is() {
    let bytes = [0xfb, 0xff, 0xbf, 0x3e];
    for text in [BASE64.encode(&bytes), BASE64URL.encode(&bytes)] {
        let envelope = Envelope::parse(json(&text, &text).as_bytes()).expect("base64");
        assert_eq!(envelope.payload(), bytes);
        assert_eq!(envelope.signatures()[0].bytes, bytes);
    }
    // Padding missing, too much, inside; unused bits set; both alphabets in one; white space; another alphabet.
    for bad in ["-_-_Pg", "-_-_Pg=", "-_-_Pg===", "-_=_Pg==", "-_-_Ph==", "-_+/Pg==", "+/+/ Pg==", "!!!!"] {
        assert_eq!(
            Envelope::parse(json(bad, "").as_bytes()),
            Err(EnvelopeError::Base64("the payload")),
            "{bad:?}"
        );
        assert_eq!(
            Envelope::parse(json("", bad).as_bytes()),
            Err(EnvelopeError::Base64("a signature")),
            "{bad:?}"
        );
    }
}

// attack: P10
#[test]
fn json_is_tolerant_where_the_specification_is_and_only_there() {
    for good in [
        r#"{"payload":"","payloadType":"","signatures":[]}"#,
        r#" {"more":{"payload":1},"signatures":[{"sig":"","keyid":"","x":null}],"payloadType":"","payload":""} "#,
        r#"{"payload":"","payloadType":"","signatures":[{"sig":"","keyid":null}]}"#,
    ] {
        Envelope::parse(good.as_bytes()).expect(good);
    }
    for bad in [
        "",
        "null",
        "{}",
        r#"["","",[]]"#,
        r#"{"payload":"","payloadType":""}"#,
        r#"{"payload":"","signatures":[]}"#,
        r#"{"payload":"","payloadType":"","signatures":null}"#,
        r#"{"payload":"","payloadType":"","signatures":[{}]}"#,
        r#"{"payload":"","payloadType":"","signatures":[["",""]]}"#,
        r#"{"payload":"","payloadType":"","signatures":[{"sig":"","sig":""}]}"#,
        r#"{"payload":"","payload":"","payloadType":"","signatures":[]}"#,
        r#"{"payload":1,"payloadType":"","signatures":[]}"#,
        r#"{"payload":"","payloadType":"","signatures":[]}{}"#,
    ] {
        let refused = Envelope::parse(bad.as_bytes());
        assert!(matches!(refused, Err(EnvelopeError::Json(_))), "{bad}: {refused:?}");
    }
    assert!(matches!(
        Envelope::parse(b"{\"payload\":\"\",\"payloadType\":\"\xff\",\"signatures\":[]}"),
        Err(EnvelopeError::Json(_))
    ));
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(matches!(Envelope::parse(deep.as_bytes()), Err(EnvelopeError::Json(_))));
}

// attack: P10
#[test]
fn limits_are_kept() {
    let large = vec![b' '; ENVELOPE_MAX_BYTES + 1];
    assert_eq!(Envelope::parse(&large), Err(EnvelopeError::TooLarge(ENVELOPE_MAX_BYTES + 1)));
    let payload = BASE64.encode(&vec![0; PAYLOAD_MAX_BYTES + 1]);
    assert_eq!(
        Envelope::parse(json(&payload, "").as_bytes()),
        Err(EnvelopeError::PayloadTooLarge(PAYLOAD_MAX_BYTES + 1))
    );
    let signatures = |count: usize| {
        let all: Vec<String> =
            (0..count).map(|n| format!(r#"{{"sig":"{}"}}"#, BASE64.encode(&[n as u8]))).collect();
        format!(r#"{{"payload":"","payloadType":"","signatures":[{}]}}"#, all.join(","))
    };
    let full = Envelope::parse(signatures(SIGNATURES_MAX).as_bytes()).expect("just as many");
    assert_eq!(
        Envelope::parse(signatures(SIGNATURES_MAX + 1).as_bytes()),
        Err(EnvelopeError::TooManySignatures(SIGNATURES_MAX + 1))
    );
    // A full envelope takes those that it has, and no other.
    assert_eq!(full.merge(&full), Ok(full.clone()));
    let mut other = Envelope::new("", Vec::new()).expect("small");
    sign(&mut other, &[1]);
    assert_eq!(full.merge(&other), Err(EnvelopeError::TooManySignatures(SIGNATURES_MAX + 1)));
}

#[test]
fn the_largest_payload_with_all_signatures_fits_into_an_envelope() {
    let mut envelope = Envelope::new(ENTRY_TYPE, vec![0xff; PAYLOAD_MAX_BYTES]).expect("just fits");
    sign(&mut envelope, &(1..=SIGNATURES_MAX as u8).collect::<Vec<_>>());
    assert_eq!(envelope.signatures().len(), SIGNATURES_MAX);
    let json = envelope.to_json();
    assert_eq!(Envelope::parse(json.as_bytes()), Ok(envelope), "{} bytes", json.len());
}

#[test]
fn signatures_are_merged_once_each_over_one_payload_alone() {
    let proposal = lab().propose(admit(member("p1", 1)), NOW).expect("good");
    let (one, two) = (signed(proposal.clone(), &[1, 2]), signed(proposal.clone(), &[2, 3]));
    let both = one.merge(&two).expect("the same payload");
    assert_eq!(both, signed(proposal, &[1, 2, 3]));
    assert_eq!(two.merge(&one).expect("the same payload").signatures().len(), 3);
    let other = lab().propose(admit(member("p2", 2)), NOW).expect("good");
    assert_eq!(one.merge(&other), Err(EnvelopeError::OtherPayload));
    let relabelled = Envelope::new("text/plain", one.payload().to_vec()).expect("small");
    assert_eq!(one.merge(&relabelled), Err(EnvelopeError::OtherPayload));
}

#[test]
fn a_wrong_signature_is_not_added() {
    let mut envelope = lab().propose(admit(member("p1", 1)), NOW).expect("good");
    let mut signature: [u8; 64] = pair(1).sign(&envelope.pae()).as_ref().try_into().expect("64 bytes");
    assert_eq!(envelope.add_signature(&key(2), signature), Err(EnvelopeError::BadSignature(key(2))));
    signature[3] ^= 1;
    assert_eq!(envelope.add_signature(&key(1), signature), Err(EnvelopeError::BadSignature(key(1))));
    assert_eq!(envelope.signatures(), []);
    assert_eq!(key_id(&key(1)), sha256(&key(1).0).to_string());
}
