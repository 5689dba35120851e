//! The TLS key: ECC P-256, signing with ECDSA and SHA-256, a primary of the endorsement hierarchy. It is not restricted:
//! TLS signs digests that the TPM did not make. The AK certifies it, so that it is known to be in the same TPM.

use tss_esapi::Error;
use tss_esapi::WrapperErrorKind;
use tss_esapi::constants::StructureTag;
use tss_esapi::constants::tss::TPM2_RH_NULL;
use tss_esapi::structures::{HashcheckTicket, Public, Signature};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

/// Goes into the derivation of the key, see the AK's.
const UNIQUE: &[u8; 32] = b"pillar TLS key, v1\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// `qualifyingData` of the certification by the AK: SHA-256 of `pillar-tls-key-v1`. Verifiers expect exactly this.
pub(crate) const CERTIFY_DATA: [u8; 32] = [
    0x4e, 0x46, 0xcc, 0xdb, 0xe9, 0x50, 0x25, 0xcc, 0xbb, 0xd7, 0x47, 0xa6, 0xbf, 0x68, 0x0b, 0xdb, 0x17,
    0x93, 0xbb, 0x11, 0x12, 0x38, 0x94, 0x12, 0x25, 0xa2, 0x56, 0x01, 0x42, 0xd6, 0xac, 0x19,
];

/// Bytes of a number of P-256.
const NUMBER_BYTES: usize = 32;

/// The template; with one endorsement seed it always gives the same key.
pub(crate) fn template() -> Result<Public, Error> {
    crate::ak::signing_key(UNIQUE, false)
}

/// "The TPM did not make this digest": what `TPM2_Sign` takes for a key that is not restricted.
pub(crate) fn no_ticket() -> Result<HashcheckTicket, Error> {
    TPMT_TK_HASHCHECK {
        tag: StructureTag::Hashcheck.into(),
        hierarchy: TPM2_RH_NULL,
        digest: Default::default(),
    }
    .try_into()
}

/// `ECDSA-Sig-Value` (RFC 3279, section 2.2.3) of the TPM's signature.
pub(crate) fn der(signature: &Signature) -> Result<Vec<u8>, Error> {
    let Signature::EcDsa(signature) = signature else {
        return Err(Error::WrapperError(WrapperErrorKind::WrongValueFromTpm));
    };
    let r = integer(signature.signature_r().value())?;
    let s = integer(signature.signature_s().value())?;
    // Two numbers of 33 bytes at most: every length here is one byte.
    Ok([&[0x30, (r.len() + s.len()) as u8][..], &r, &s].concat())
}

/// A DER integer of big-endian bytes: no leading zeros but the one that keeps it positive.
fn integer(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let first = bytes.iter().position(|&byte| byte != 0);
    let bytes = first.map(|first| &bytes[first..]).filter(|bytes| bytes.len() <= NUMBER_BYTES);
    let bytes = bytes.ok_or(Error::WrapperError(WrapperErrorKind::WrongValueFromTpm))?;
    let sign: &[u8] = if bytes[0] & 0x80 == 0 { &[] } else { &[0] };
    Ok([&[0x02, (sign.len() + bytes.len()) as u8], sign, bytes].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tss_esapi::interface_types::algorithm::HashingAlgorithm;
    use tss_esapi::structures::{EccParameter, EccSignature};

    fn signature(r: &[u8], s: &[u8]) -> Signature {
        let number = |bytes: &[u8]| EccParameter::try_from(bytes.to_vec()).expect("short enough");
        let made = EccSignature::create(HashingAlgorithm::Sha256, number(r), number(s));
        Signature::EcDsa(made.expect("a signature"))
    }

    #[test]
    fn numbers_become_der_integers() {
        let check = |number: &[u8], expected: &[u8]| assert_eq!(integer(number).as_deref(), Ok(expected));
        check(&[1], &[2, 1, 1]);
        check(&[0, 0, 0x7f], &[2, 1, 0x7f]);
        check(&[0x80], &[2, 2, 0, 0x80]);
        check(&[0, 0xff, 0], &[2, 3, 0, 0xff, 0]);
        check(&[0xff; 32], &[&[2, 33, 0][..], &[0xff; 32]].concat());
        for bad in [&[][..], &[0], &[1; 33]] {
            assert!(integer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_signature_is_the_sequence_of_its_numbers() {
        assert_eq!(der(&signature(&[0, 1], &[0x80])), Ok(vec![0x30, 7, 2, 1, 1, 2, 2, 0, 0x80]));
        let longest = der(&signature(&[0xff; 32], &[0xff; 32])).expect("a signature");
        assert_eq!((longest.len(), longest[1]), (72, 70));
        assert!(der(&signature(&[1], &[0; 32])).is_err());
    }
}
