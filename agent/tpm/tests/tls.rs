//! The TLS key: what the verifier makes of its certification, and what signs with it.

mod bench;

use bench::{Bench, TestResult};
use pillar_tpm::Tpm;
use pillar_verify::{TLS_CERTIFY_DATA, TlsKeyError, tls_key};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

const MESSAGE: &[u8] = b"the transcript of a handshake";

// attack: B3
#[test]
fn the_ak_certifies_it_and_it_signs() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    assert_eq!(digest(&SHA256, b"pillar-tls-key-v1").as_ref(), TLS_CERTIFY_DATA);
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    let spki =
        tls_key(&identity.ak_public, &identity.tls_public, &identity.tls_attest, &identity.tls_signature)?;
    let point = spki.get(spki.len() - 65..).expect("an SPKI ends with its point");
    let message: [u8; 32] = digest(&SHA256, MESSAGE).as_ref().try_into()?;
    // Numbers with and without leading zeros and sign bits.
    for _ in 0..40 {
        let signature = tpm.sign_tls(&message)?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
        assert!(key.verify(MESSAGE, &signature).is_ok(), "{signature:02x?}");
        assert!(key.verify(b"another", &signature).is_err());
    }

    // Another TPM's AK says nothing about this key.
    let Some(other) = Bench::new()? else { return Ok(()) };
    let theirs = Tpm::open(&other.swtpm.tcti())?.identity()?;
    assert_ne!(theirs.tls_public, identity.tls_public);
    let error =
        tls_key(&theirs.ak_public, &identity.tls_public, &identity.tls_attest, &identity.tls_signature);
    assert!(matches!(error, Err(TlsKeyError::Ak(_))), "{error:?}");
    let error = tls_key(&theirs.ak_public, &identity.tls_public, &theirs.tls_attest, &theirs.tls_signature);
    assert!(matches!(error, Err(TlsKeyError::OtherKey)), "{error:?}");
    Ok(())
}
