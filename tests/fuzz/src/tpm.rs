//! The TPM's structures, and what is made of them: a quote's check, a credential for an endorsement key.

use crate::input::{Input, longer, shorter, somewhere};
use pillar_verify::tpm::{MAGIC, Public, PublicKey, Quote, ST_QUOTE, Signature};
use pillar_verify::{attestation_key, check_quote, check_signature, evidence_selection, make_credential};
use ring::rand::SystemRandom;

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("limits are far below");
    [&len.to_be_bytes(), bytes].concat()
}

/// Input: attestation, signature, key, nonce, each with its length in front.
pub(crate) fn quote(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let (attest, signature, key, nonce) = (input.sized(), input.sized(), input.sized(), input.sized());
    // Also without a signature in front of the rest: the head is what most mutations should reach.
    for bytes in [bytes, attest] {
        let Ok(quote) = Quote::parse(bytes) else { continue };
        assert!(Quote::parse(&longer(bytes)).is_err(), "a byte behind the quote was accepted");
        assert!(Quote::parse(shorter(bytes)).is_err(), "a quote that lacks its last byte was accepted");
        assert_eq!(written(&quote), bytes, "the same quote can be written in two ways");
    }
    let Ok(parsed) = Quote::parse(attest) else { return false };
    let check = |attest: &[u8], signature: &[u8], nonce: &[u8]| {
        check_quote(attest, signature, key, nonce, &parsed.selection)
    };
    let _ = check_quote(attest, signature, key, nonce, &evidence_selection(pillar_model::Bank::Sha256));
    let Ok(values) = check(attest, signature, nonce) else { return false };
    assert_eq!(values, parsed.pcr_digest);
    assert_eq!(parsed.extra_data, nonce, "another nonce than the one asked for");
    assert!(check(attest, signature, &longer(nonce)).is_err(), "a nonce was padded");
    assert!(
        check(attest, signature, shorter(nonce)).is_err() || nonce.is_empty(),
        "a nonce's prefix was taken"
    );
    assert!(check(attest, &longer(signature), nonce).is_err(), "a byte behind the signature was accepted");
    let mut changed = attest.to_vec();
    changed[somewhere(bytes, attest.len()).unwrap_or(0)] ^= 1;
    assert!(check(&changed, signature, nonce).is_err(), "a changed quote was accepted");
    attestation_key(key).expect("a quote counts under an attestation key alone");
    true
}

/// A quote's bytes from its parts.
fn written(quote: &Quote) -> Vec<u8> {
    let counters = &quote.counters;
    [
        MAGIC.to_be_bytes().as_slice(),
        &ST_QUOTE.to_be_bytes(),
        &sized(&quote.qualified_signer),
        &sized(&quote.extra_data),
        &counters.clock_ms.to_be_bytes(),
        &counters.reset_count.to_be_bytes(),
        &counters.restart_count.to_be_bytes(),
        &[u8::from(counters.safe)],
        &counters.firmware_version.to_be_bytes(),
        &quote.selection,
        &sized(&quote.pcr_digest.0),
    ]
    .concat()
}

pub(crate) fn key(bytes: &[u8]) -> bool {
    let Ok(key) = Public::parse(bytes) else { return false };
    assert!(Public::parse(&longer(bytes)).is_err(), "a byte behind the key was accepted");
    assert!(Public::parse(shorter(bytes)).is_err(), "a key that lacks its last byte was accepted");
    let name = pillar_measure::hash::hash(key.name_alg, &[bytes]);
    assert_eq!(
        key.name(),
        [&key.name_alg.alg_id().to_be_bytes()[..], &name.0].concat(),
        "the name of other bytes"
    );
    match &key.key {
        PublicKey::Rsa { modulus } => {
            assert!(modulus.first().is_some_and(|top| *top >= 0x80), "a padded modulus");
        }
        PublicKey::Ecc { curve, x, y } => {
            assert_eq!((x.len(), y.len()), (curve.bytes(), curve.bytes()), "a coordinate of another length");
        }
    }
    if let Ok(key) = attestation_key(bytes) {
        use pillar_verify::tpm::attribute;
        assert!(
            key.has(attribute::RESTRICTED | attribute::FIXED_TPM | attribute::SIGN),
            "signs what it is given"
        );
        assert!(!key.has(attribute::DECRYPT), "decrypts and attests");
    }
    let ak_name = [&[0, 0x0B][..], &[7; 32]].concat();
    if let Ok(credential) = make_credential(bytes, &ak_name, &[9; 32], &SystemRandom::new()) {
        assert!(!credential.blob.windows(32).any(|w| w == [9; 32]), "the secret stands there in clear");
        let whole = match &key.key {
            PublicKey::Rsa { modulus } => modulus.len(),
            PublicKey::Ecc { curve, .. } => 2 * (2 + curve.bytes()),
        };
        assert_eq!(credential.encrypted_secret.len(), whole, "a seed of another length");
    }
    true
}

/// Input: a byte that says which key, then the signature.
pub(crate) fn signature(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let which = input.byte();
    let bytes = input.rest();
    let public = fixed_key(which);
    let key = Public::parse(&public).expect("the keys here are good ones");
    let parsed = Signature::parse(bytes, &key.key).is_ok();
    if parsed {
        assert!(
            Signature::parse(&longer(bytes), &key.key).is_err(),
            "a byte behind the signature was accepted"
        );
        assert!(Signature::parse(shorter(bytes), &key.key).is_err(), "half a signature was accepted");
    }
    // Nobody has these keys, so nothing is ever signed by them.
    let forged = check_signature(&key, b"never signed", bytes).is_ok();
    assert!(!forged, "a signature of nobody was accepted");
    parsed
}

/// Keys without a private half: points and moduli that were counted, not generated.
fn fixed_key(which: u8) -> Vec<u8> {
    const ATTESTATION: [u8; 4] = 0x0005_0472_u32.to_be_bytes();
    let head = |kind: u8| [&[0, kind, 0, 0x0B], &ATTESTATION[..], &[0, 0, 0, 0x10]].concat();
    let modulus = || {
        let mut modulus = vec![0xA5; 256];
        modulus[255] = 1;
        sized(&modulus)
    };
    match which % 4 {
        // The base points of both curves.
        0 => [
            head(0x23).as_slice(),
            &[0, 0x18, 0, 0x0B, 0, 3, 0, 0x10],
            &sized(P256_BASE.split_at(32).0),
            &sized(P256_BASE.split_at(32).1),
        ]
        .concat(),
        1 => [
            head(0x23).as_slice(),
            &[0, 0x18, 0, 0x0C, 0, 4, 0, 0x10],
            &sized(P384_BASE.split_at(48).0),
            &sized(P384_BASE.split_at(48).1),
        ]
        .concat(),
        2 => [head(1).as_slice(), &[0, 0x14, 0, 0x0B, 8, 0, 0, 0, 0, 0], &modulus()].concat(),
        _ => [head(1).as_slice(), &[0, 0x16, 0, 0x0B, 8, 0, 0, 0, 0, 0], &modulus()].concat(),
    }
}

/// Base point of P-256 (SEC 2, section 2.4.2).
pub(crate) const P256_BASE: [u8; 64] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77,
    0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3,
    0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33,
    0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// Base point of P-384 (SEC 2, section 2.5.1).
const P384_BASE: [u8; 96] = [
    0xaa, 0x87, 0xca, 0x22, 0xbe, 0x8b, 0x05, 0x37, 0x8e, 0xb1, 0xc7, 0x1e, 0xf3, 0x20, 0xad, 0x74, 0x6e,
    0x1d, 0x3b, 0x62, 0x8b, 0xa7, 0x9b, 0x98, 0x59, 0xf7, 0x41, 0xe0, 0x82, 0x54, 0x2a, 0x38, 0x55, 0x02,
    0xf2, 0x5d, 0xbf, 0x55, 0x29, 0x6c, 0x3a, 0x54, 0x5e, 0x38, 0x72, 0x76, 0x0a, 0xb7, 0x36, 0x17, 0xde,
    0x4a, 0x96, 0x26, 0x2c, 0x6f, 0x5d, 0x9e, 0x98, 0xbf, 0x92, 0x92, 0xdc, 0x29, 0xf8, 0xf4, 0x1d, 0xbd,
    0x28, 0x9a, 0x14, 0x7c, 0xe9, 0xda, 0x31, 0x13, 0xb5, 0xf0, 0xb8, 0xc0, 0x0a, 0x60, 0xb1, 0xce, 0x1d,
    0x7e, 0x81, 0x9d, 0x7a, 0x43, 0x1d, 0x7c, 0x90, 0xea, 0x0e, 0x5f,
];

/// Input: attestation key, TLS key, attestation, signature, each with its length in front.
pub(crate) fn tls_key(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let (ak, key, attest, signature) = (input.sized(), input.sized(), input.sized(), input.sized());
    let Ok(spki) = pillar_verify::tls_key(ak, key, attest, signature) else { return false };
    attestation_key(ak).expect("certified by an attestation key alone");
    let public = Public::parse(key).expect("a key that was certified can be read");
    let PublicKey::Ecc { x, y, .. } = &public.key else { panic!("a TLS key that is no point") };
    assert!(spki.ends_with(&[x.as_slice(), y].concat()), "another key than the one certified");
    for (what, ak, key, attest, signature) in [
        ("key", ak, longer(key).as_slice(), attest, signature),
        ("attestation", ak, key, longer(attest).as_slice(), signature),
        ("signature", ak, key, attest, longer(signature).as_slice()),
        ("attestation key", longer(ak).as_slice(), key, attest, signature),
    ] {
        let longer = pillar_verify::tls_key(ak, key, attest, signature);
        assert!(longer.is_err(), "a byte behind the {what} was accepted");
    }
    let mut changed = attest.to_vec();
    changed[somewhere(bytes, attest.len()).unwrap_or(0)] ^= 1;
    assert!(
        pillar_verify::tls_key(ak, key, &changed, signature).is_err(),
        "a changed attestation was accepted"
    );
    true
}
