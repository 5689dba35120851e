//! Digests by PCR bank, and the extend operation.

use pillar_model::{Bank, Digest};
use ring::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};

fn algorithm(bank: Bank) -> &'static Algorithm {
    match bank {
        Bank::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
        Bank::Sha256 => &SHA256,
        Bank::Sha384 => &SHA384,
        Bank::Sha512 => &SHA512,
    }
}

/// The bank's hash over the parts, one after the other.
#[must_use]
pub fn hash(bank: Bank, parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(algorithm(bank));
    for part in parts {
        context.update(part);
    }
    Digest(context.finish().as_ref().to_vec())
}

/// A PCR as it stands after reset by a platform (PCRs 0 to 16): all zero.
#[must_use]
pub fn zero(bank: Bank) -> Digest {
    Digest(vec![0; bank.digest_bytes()])
}

/// Whether the data's hash in this bank is the digest.
#[must_use]
pub fn is_hash(bank: Bank, data: &[u8], digest: &[u8]) -> bool {
    ring::digest::digest(algorithm(bank), data).as_ref() == digest
}

/// `TPM2_PCR_Extend`: the hash of the old value and the digest (TPM 2.0 part 1, section 17.3).
pub fn extend(bank: Bank, pcr: &mut Digest, digest: &Digest) {
    extend_bytes(bank, pcr, &digest.0);
}

/// [`extend`] with a digest that stands somewhere else.
pub(crate) fn extend_bytes(bank: Bank, pcr: &mut Digest, digest: &[u8]) {
    let mut context = Context::new(algorithm(bank));
    context.update(&pcr.0);
    context.update(digest);
    pcr.0.clear();
    pcr.0.extend_from_slice(context.finish().as_ref());
}
