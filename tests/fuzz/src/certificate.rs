//! The endorsement key's certificate, under authorities whose private keys were thrown away.

use crate::input::longer;
use pillar_verify::check_ek;
use pillar_verify::tpm::{Curve, PublicKey};

const ROOT: &[u8] = include_bytes!("../corpus/certificate/seed-root");
const INTERMEDIATE: &[u8] = include_bytes!("../corpus/certificate/seed-intermediate");
const GOOD: &[u8] = include_bytes!("../corpus/certificate/seed-ek");
/// What the key in a P-256 certificate begins with: an uncompressed point in a bit string.
const POINT: [u8; 4] = [0x03, 0x42, 0x00, 0x04];
/// Seconds since 1970 at which all three are valid.
const NOW: u64 = 1_800_000_000;

pub(crate) fn certificate(bytes: &[u8]) -> bool {
    let (root, intermediate) = ([ROOT.to_vec()], [INTERMEDIATE.to_vec()]);
    let key = key_of(GOOD);
    let check = |leaf: &[u8]| check_ek(leaf, &key, &root, &intermediate, NOW);
    assert!(check(GOOD).is_ok(), "the good certificate is refused: {:?}", check(GOOD));
    // As the EK's certificate. What is accepted is the one that was issued, perhaps with an NV index's padding.
    let accepted = check(bytes).is_ok();
    if accepted {
        let (certificate, padding) = bytes.split_at(GOOD.len().min(bytes.len()));
        assert_eq!(certificate, GOOD, "a certificate that nobody issued was accepted");
        let even = padding.iter().all(|b| *b == 0) || padding.iter().all(|b| *b == 0xFF);
        assert!(even, "what stands behind the certificate is no padding");
    }
    // With the key that it names itself, so that mutations reach what comes behind that comparison.
    let own = key_of(bytes);
    if check_ek(bytes, &own, &root, &intermediate, NOW).is_ok() {
        assert!(bytes.starts_with(GOOD) || bytes.starts_with(INTERMEDIATE), "nobody issued this");
    }
    // As an authority's. Whoever chose the root decides; what is between is only believed when it was issued.
    let _ = check_ek(GOOD, &key, &[bytes.to_vec()], &intermediate, NOW);
    if check_ek(GOOD, &key, &root, &[bytes.to_vec()], NOW).is_ok() {
        assert_eq!(bytes, INTERMEDIATE, "an intermediate that nobody issued was accepted");
    }
    assert!(check_ek(GOOD, &key, &[longer(ROOT)], &intermediate, NOW).is_err(), "a byte behind a root");
    accepted
}

/// The first P-256 point in a certificate; for want of one, zeros.
fn key_of(certificate: &[u8]) -> PublicKey {
    let at = certificate.windows(POINT.len()).position(|window| window == POINT);
    let point = at.and_then(|at| certificate.get(at + POINT.len()..at + POINT.len() + 64));
    let (x, y) = point.unwrap_or(&[0; 64]).split_at(32);
    PublicKey::Ecc { curve: Curve::P256, x: x.to_vec(), y: y.to_vec() }
}
