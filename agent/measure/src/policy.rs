//! TPM policy digests in software (TPM 2.0 part 3, section 23), SHA-256 only: what the image build signs and what a
//! pillar's TPM must arrive at when the state volume's key is unsealed.
//!
//! The key of the state volume has the policy `PolicyAuthorize(policy key, "pillar-state-v1")`, then
//! `PolicyPCR(firmware, 15)`. What the policy key signs for one image is `PolicyPCR(11 in phase sysinit)`, then
//! `PolicyNV(minimum epoch <= this image's epoch)`. The NV condition is inside the signed part: outside of it, an older
//! image's policy would do.

use crate::hash::hash;
use pillar_model::{Bank, Digest, PcrIndex};

const CC_POLICY_NV: u32 = 0x0149;
const CC_POLICY_AUTHORIZE: u32 = 0x016a;
const CC_POLICY_PCR: u32 = 0x017f;
const CC_POLICY_NV_WRITTEN: u32 = 0x018f;
/// `TPM_EO_UNSIGNED_LE`: the value in NV is at most the operand.
pub const UNSIGNED_LE: u16 = 0x0009;

const ALG_RSA: u16 = 0x0001;
const ALG_NULL: u16 = 0x0010;
/// `TPM_ALG_SHA256`.
pub const ALG_SHA256: u16 = 0x000b;
/// `TPM_ALG_RSASSA`.
pub const ALG_RSASSA: u16 = 0x0014;
/// `userWithAuth | sign`: the public half of a signing key, loaded to verify with.
const VERIFYING_KEY: u32 = 0x0004_0040;

/// `policyRef` of the policies that open the state volume.
pub const STATE_REF: &[u8] = b"pillar-state-v1";
/// `policyRef` of the policies that write the minimum epoch.
pub const EPOCH_REF: &[u8] = b"pillar-epoch-v1";

/// The NV index that holds the minimum epoch, in the owner's range: eight bytes, big-endian.
pub const EPOCH_INDEX: u32 = 0x0180_7077;
/// Its size.
pub const EPOCH_BYTES: u16 = 8;
/// `TPMA_NV_POLICYWRITE | TPMA_NV_AUTHREAD | TPMA_NV_NO_DA`, an ordinary index: everybody may read it, only a signed
/// policy writes it.
const EPOCH_ATTRIBUTES: u32 = 0x0000_0008 | 0x0004_0000 | 0x0200_0000;
/// `TPMA_NV_WRITTEN`.
const NV_WRITTEN: u32 = 0x2000_0000;

/// A policy digest on its way; starts as all zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy(Digest);

impl Default for Policy {
    fn default() -> Self {
        Self(crate::hash::zero(Bank::Sha256))
    }
}

impl Policy {
    fn then(self, parts: &[&[u8]]) -> Self {
        let mut all: Vec<&[u8]> = vec![&self.0.0];
        all.extend_from_slice(parts);
        Self(hash(Bank::Sha256, &all))
    }

    /// `TPM2_PolicyPCR` over values of the SHA-256 bank, ascending by index.
    #[must_use]
    pub fn pcr(self, values: &[(PcrIndex, Digest)]) -> Self {
        let indices: Vec<PcrIndex> = values.iter().map(|(index, _)| *index).collect();
        let digests: Vec<&[u8]> = values.iter().map(|(_, digest)| digest.0.as_slice()).collect();
        let pcr_digest = hash(Bank::Sha256, &digests);
        self.then(&[&CC_POLICY_PCR.to_be_bytes(), &selection(&indices), &pcr_digest.0])
    }

    /// `TPM2_PolicyNV`: the content of the index, from its first byte, stands in `operation` to `operand`.
    #[must_use]
    pub fn nv(self, index_name: &[u8], operand: &[u8], operation: u16) -> Self {
        let arguments = hash(Bank::Sha256, &[operand, &0u16.to_be_bytes(), &operation.to_be_bytes()]);
        self.then(&[&CC_POLICY_NV.to_be_bytes(), &arguments.0, index_name])
    }

    /// `TPM2_PolicyNvWritten`: the index that is used has been written, or never.
    #[must_use]
    pub fn nv_written(self, written: bool) -> Self {
        self.then(&[&CC_POLICY_NV_WRITTEN.to_be_bytes(), &[u8::from(written)]])
    }

    /// `TPM2_PolicyAuthorize`: any policy that this key signed under this reference; what went before is forgotten.
    #[must_use]
    pub fn authorize(key_name: &[u8], reference: &[u8]) -> Self {
        Self::default().then(&[&CC_POLICY_AUTHORIZE.to_be_bytes(), key_name]).then(&[reference])
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

/// What is signed, as a message for RSASSA with SHA-256, so that `TPM2_PolicyAuthorize` takes the policy.
#[must_use]
pub fn message(policy: &Policy, reference: &[u8]) -> Vec<u8> {
    [&policy.0.0, reference].concat()
}

/// The two conditions that the policy key signs for the state volume.
#[must_use]
pub fn state_policy(pcr11: &Digest, epoch: u64, epoch_name: &[u8]) -> Policy {
    at_phase(pcr11).nv(epoch_name, &epoch.to_be_bytes(), UNSIGNED_LE)
}

/// What the policy key signs for the first write of the minimum epoch.
#[must_use]
pub fn first_epoch_policy(pcr11: &Digest) -> Policy {
    at_phase(pcr11).nv_written(false)
}

/// What the policy key signs for raising the minimum epoch: an image older than the minimum cannot write it.
#[must_use]
pub fn raise_epoch_policy(pcr11: &Digest, epoch: u64, epoch_name: &[u8]) -> Policy {
    at_phase(pcr11).nv(epoch_name, &epoch.to_be_bytes(), UNSIGNED_LE)
}

fn at_phase(pcr11: &Digest) -> Policy {
    let uki = PcrIndex::new(pillar_layout::pcr::UKI).expect("PCR 11 is one of 24");
    Policy::default().pcr(&[(uki, pcr11.clone())])
}

/// `TPML_PCR_SELECTION` of the SHA-256 bank, three bytes wide.
#[must_use]
pub fn selection(pcrs: &[PcrIndex]) -> Vec<u8> {
    let mut bits = [0u8; 3];
    for pcr in pcrs {
        let index = usize::from(pcr.get());
        if let Some(byte) = bits.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
    }
    [&1u32.to_be_bytes()[..], &ALG_SHA256.to_be_bytes(), &[3], &bits].concat()
}

/// `TPMT_PUBLIC` of the policy key for `TPM2_LoadExternal`: RSA with this modulus, exponent 65537, any scheme.
#[must_use]
pub fn verifying_key(modulus: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(modulus.len()).unwrap_or(u16::MAX);
    let mut public = Vec::with_capacity(22 + modulus.len());
    public.extend(ALG_RSA.to_be_bytes());
    public.extend(ALG_SHA256.to_be_bytes());
    public.extend(VERIFYING_KEY.to_be_bytes());
    public.extend(0u16.to_be_bytes());
    public.extend(ALG_NULL.to_be_bytes());
    public.extend(ALG_NULL.to_be_bytes());
    public.extend((bytes.saturating_mul(8)).to_be_bytes());
    public.extend(0u32.to_be_bytes());
    public.extend(bytes.to_be_bytes());
    public.extend_from_slice(modulus);
    public
}

/// The Name of an object with SHA-256 as its name algorithm (part 1, section 16).
#[must_use]
pub fn name(public_area: &[u8]) -> Vec<u8> {
    [&ALG_SHA256.to_be_bytes()[..], &hash(Bank::Sha256, &[public_area]).0].concat()
}

/// `TPMS_NV_PUBLIC` of the minimum epoch's index. It is the same on every pillar that has the same policy key.
#[must_use]
pub fn epoch_public(policy_key_name: &[u8], written: bool) -> Vec<u8> {
    let policy = Policy::authorize(policy_key_name, EPOCH_REF);
    let attributes = EPOCH_ATTRIBUTES | if written { NV_WRITTEN } else { 0 };
    let mut public = Vec::with_capacity(46);
    public.extend(EPOCH_INDEX.to_be_bytes());
    public.extend(ALG_SHA256.to_be_bytes());
    public.extend(attributes.to_be_bytes());
    public.extend(32u16.to_be_bytes());
    public.extend_from_slice(&policy.0.0);
    public.extend(EPOCH_BYTES.to_be_bytes());
    public
}

/// The Name of the minimum epoch's index once it was written.
#[must_use]
pub fn epoch_name(policy_key_name: &[u8]) -> Vec<u8> {
    name(&epoch_public(policy_key_name, true))
}
