//! A verdict as other programs read it: EAT Attestation Results (draft-ietf-rats-ear) with the trustworthiness vector of
//! draft-ietf-rats-ar4si, as JSON. Who signs it, and how, is for the caller.
//!
//! It goes out only. There is no way from here, or from any bytes, back to a [`Verified`]: that is earned again.

use crate::Verified;
use crate::report::{Check, Rejection, Report, Verdict};
use serde_json::{Map, Value, json};

/// `eat_profile` of an EAR.
pub const PROFILE: &str = "tag:github.com,2023:veraison/ear";
/// By what rules was judged: those of this crate, in this version.
pub const POLICY_ID: &str = concat!("urn:pillar:verify:", env!("CARGO_PKG_VERSION"));

/// Who judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verifier<'a> {
    /// Who made it.
    pub developer: &'a str,
    /// Which build it is.
    pub build: &'a str,
}

/// The claims of a trustworthiness vector (AR4SI section 2.3), with the checks that have to pass for each and the value
/// that it then has.
const CLAIMS: [(&str, i8, &[Check]); 6] = [
    (
        "instance-identity",
        2,
        &[
            Check::Sizes,
            Check::Structures,
            Check::AttestationKey,
            Check::SameTpm,
            Check::Signature,
            Check::Challenge,
        ],
    ),
    ("hardware", 2, &[Check::EkCertificate, Check::Counters]),
    ("executables", 3, &[Check::Selection, Check::Logs, Check::Replay, Check::Events, Check::Release]),
    ("file-system", 2, &[Check::Release]),
    ("configuration", 2, &[Check::Additions, Check::SecureBoot, Check::Firmware]),
    ("storage-opaque", 2, &[Check::State]),
];

/// What a claim says when a check of its own failed: the evidence is not authentic, or what it shows is not wanted.
fn failed(check: Check) -> i8 {
    match check {
        // The evidence could not be understood.
        Check::Sizes | Check::Structures | Check::Selection | Check::Logs => 1,
        // It was not signed by who should, or does not add up.
        Check::Signature | Check::Challenge | Check::Replay => 99,
        // It is another one.
        Check::AttestationKey | Check::EkCertificate | Check::SameTpm => 97,
        _ => 96,
    }
}

/// The attestation result about one pillar. The report must be that of the same judgement.
#[must_use]
pub fn ear(
    name: &str,
    report: &Report,
    result: Result<&Verified, &Rejection>,
    issued_at_unix_s: u64,
    verifier: Verifier<'_>,
) -> Value {
    let mut submod = Map::new();
    submod.insert("ear.status".into(), status(result).into());
    submod.insert("ear.trustworthiness-vector".into(), vector(report));
    submod.insert("ear.appraisal-policy-id".into(), POLICY_ID.into());
    match result {
        Ok(verified) => submod.insert("pillar.verified".into(), accepted(verified)),
        Err(rejection) => submod.insert("pillar.rejection".into(), refused(rejection)),
    };
    json!({
        "eat_profile": PROFILE,
        "iat": issued_at_unix_s,
        "ear.verifier-id": { "developer": verifier.developer, "build": verifier.build },
        "submods": { name: submod },
    })
}

fn status(result: Result<&Verified, &Rejection>) -> &'static str {
    if result.is_ok() { "affirming" } else { "contraindicated" }
}

fn vector(report: &Report) -> Value {
    let verdict = |check: &Check| {
        let line = report.checks.iter().find(|line| line.check == *check);
        line.map_or(Verdict::NotReached, |line| line.verdict)
    };
    let claim = |(name, good, checks): &(&str, i8, &[Check])| {
        let failure = checks.iter().find(|check| verdict(check) == Verdict::Failed);
        let value = match failure {
            Some(check) => failed(*check),
            None if checks.iter().all(|check| verdict(check) == Verdict::Passed) => *good,
            // No claim.
            None => 0,
        };
        ((*name).to_owned(), Value::from(value))
    };
    CLAIMS.iter().map(claim).collect::<Map<_, _>>().into()
}

fn accepted(verified: &Verified) -> Value {
    json!({
        "version": verified.version(),
        "flavour": verified.flavour(),
        "root-hash": verified.root_hash(),
        "bank": verified.bank(),
        "pcrs": verified.pcrs(),
        "ak-name": hex::encode(verified.ak_name()),
        "counters": verified.counters(),
    })
}

fn refused(rejection: &Rejection) -> Value {
    json!({
        "check": rejection.check,
        "pcr": rejection.pcr,
        "event": rejection.event,
        "reason": rejection.reason,
        "changed": rejection.changed,
    })
}
