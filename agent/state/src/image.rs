//! What the sealed image and its UKI say about the state volume.

use anyhow::{Context as _, bail};
use pillar_layout::{root, run};
use pillar_model::{SIGNED_POLICIES_KEY, SignedPolicies, StateSettings};
use pillar_recovery::Operator;
use serde::Deserialize as _;
use std::fs::File;
use std::io::Read as _;
use x509_parser::pem::Pem;

/// Policies, certificates, settings: all are a few kilobytes.
const FILE_MAX_BYTES: u64 = 256 << 10;

/// The policy key and what it signed.
pub struct Image {
    /// `TPMT_PUBLIC`.
    pub policy_key: Vec<u8>,
    /// For this image.
    pub policies: SignedPolicies,
}

impl Image {
    /// From the sealed root, and from what stage 1 copied out of the UKI.
    pub fn read() -> anyhow::Result<Self> {
        let text = read(run::SIGNED_POLICIES)
            .context("the image brought no signed policies; it was built without a policy key")?;
        let all: serde_json::Value = serde_json::from_slice(&text).context(run::SIGNED_POLICIES)?;
        let Some(ours) = all.get(SIGNED_POLICIES_KEY) else {
            bail!("the UKI's signed policies are not Pillar's; build the image with `pillar-image`");
        };
        let policies = SignedPolicies::deserialize(ours).context("the UKI's signed policies")?;
        Ok(Self { policy_key: read(root::POLICY_KEY)?, policies })
    }

    /// As sealing and unsealing take it.
    pub fn sealing(&self) -> pillar_seal::Image<'_> {
        pillar_seal::Image { policy_key: &self.policy_key, policies: &self.policies }
    }
}

/// What a state volume is made with.
pub fn settings() -> anyhow::Result<StateSettings> {
    serde_json::from_slice(&read(root::STATE_SETTINGS)?).context(root::STATE_SETTINGS)
}

/// The operators who get a share of the recovery key.
pub fn operators() -> anyhow::Result<Vec<Operator>> {
    operators_in(&read(root::OPERATORS)?)
}

fn operators_in(pem: &[u8]) -> anyhow::Result<Vec<Operator>> {
    let mut operators = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.context("the operators' certificates")?;
        let certificate = block.parse_x509().context("an operator's certificate")?;
        let operator = Operator::of_spki(certificate.public_key().raw)
            .with_context(|| format!("the key of {}", certificate.subject()))?;
        if !operators.contains(&operator) {
            operators.push(operator);
        }
    }
    if operators.is_empty() {
        bail!("the image names no operator who could keep a share of the recovery key");
    }
    Ok(operators)
}

/// How many operators it takes to recover: more than half.
pub fn recovery_threshold(operators: usize) -> u8 {
    u8::try_from(operators / 2 + 1).unwrap_or(u8::MAX)
}

/// A file that is no larger than it can be.
pub fn read(path: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {path}"))?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        bail!("{path} is larger than {FILE_MAX_BYTES} bytes");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_recover() {
        for (operators, needed) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            assert_eq!(recovery_threshold(operators), needed);
        }
    }

    #[test]
    fn an_image_without_operators_makes_no_volume() {
        let error = operators_in(b"").map(|_| ()).expect_err("nobody");
        assert!(error.to_string().contains("names no operator"), "{error}");
    }
}
