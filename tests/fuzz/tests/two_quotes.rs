//! One message with two quotes: whichever of them counts, it is the one that was checked.

use pillar_model::Evidence;
use pillar_verify::tpm::Quote;
use pillar_verify::{check_quote, evidence_selection};
use pillar_wire::proto::EvidenceReply;
use prost::Message;

const SEED: &[u8] = include_bytes!("../corpus/quote/seed-sha256");

/// The parts of the quote in the corpus: attestation, signature, key, nonce.
fn parts() -> [Vec<u8>; 4] {
    let mut rest = SEED;
    [(); 4].map(|()| {
        let (len, behind) = rest.split_first_chunk::<2>().expect("a length");
        let (part, behind) = behind.split_at(usize::from(u16::from_be_bytes(*len)));
        rest = behind;
        part.to_vec()
    })
}

/// The same quote, but for its last byte: other PCR values, never signed.
fn forged(genuine: &[u8]) -> Vec<u8> {
    let mut forged = genuine.to_vec();
    *forged.last_mut().expect("a quote has bytes") ^= 1;
    assert!(Quote::parse(&forged).is_ok(), "well formed");
    forged
}

// attack: A4
#[test]
fn two_quotes_in_one_structure_are_none() {
    let [genuine, signature, key, nonce] = parts();
    let wanted = evidence_selection(pillar_model::Bank::Sha256);
    check_quote(&genuine, &signature, &key, &nonce, &wanted).expect("alone it is good");
    let forged = forged(&genuine);
    for both in [[genuine.as_slice(), &forged].concat(), [forged.as_slice(), &genuine].concat()] {
        let refused = check_quote(&both, &signature, &key, &nonce, &wanted).expect_err("two are refused");
        assert!(refused.to_string().contains("145 bytes behind its end"), "{refused}");
    }
}

// attack: A4
#[test]
fn of_two_quotes_in_one_message_the_one_that_is_believed_was_checked() {
    let [genuine, signature, key, nonce] = parts();
    let wanted = evidence_selection(pillar_model::Bank::Sha256);
    let message = |attest: &[u8]| EvidenceReply {
        attest: attest.to_vec(),
        signature: signature.clone(),
        ak_public: key.clone(),
        ek_public: vec![1],
        ek_certificate: vec![1],
        activated: vec![1],
        event_log: vec![1],
        ..EvidenceReply::default()
    };
    let forged = forged(&genuine);
    for (first, second, good) in [(&genuine, &forged, false), (&forged, &genuine, true)] {
        // A field that comes twice is the last one's (protobuf's rule), for the check and for everything behind it.
        let bytes = [message(first).encode_to_vec(), message(second).encode_to_vec()].concat();
        let reply = EvidenceReply::decode(bytes.as_slice()).expect("a message");
        let evidence = Evidence::try_from(reply).expect("evidence");
        assert_eq!(&evidence.attest, second);
        let verdict =
            check_quote(&evidence.attest, &evidence.signature, &evidence.ak_public, &nonce, &wanted);
        match verdict {
            Ok(values) => assert!(good && values == Quote::parse(&genuine).expect("a quote").pcr_digest),
            Err(refused) => {
                assert!(!good && refused.to_string().contains("does not verify"), "{refused}");
            }
        }
    }
}
