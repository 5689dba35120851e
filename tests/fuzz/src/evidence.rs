//! The whole verification, with the logs of a hostile machine: its TPM is genuine and enrolled, its PCRs are what the
//! logs lead to, and it quotes them. So the replay holds, and what the events say is all that stands between it and
//! the verdict.

use crate::input::{Input, somewhere};
use crate::tpm::{P256_BASE, sized};
use pillar_measure::cel::CelLog;
use pillar_measure::hash::hash;
use pillar_measure::tcg::EventLog;
use pillar_model::{Bank, Binding, Digest, Evidence, Nonce, PcrIndex, Release, Role};
use pillar_verify::tpm::{MAGIC, Public, ST_QUOTE, endorsement_primary};
use pillar_verify::{
    AK_ATTRIBUTES, Check, EkTrust, ExitBootServices, Firmware, Policy, SameTpm, StateVolume, ak_name,
    evidence_selection, judge, qualifying_data,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The release that the logs of the corpus are a boot of.
static RELEASE: LazyLock<Release> = LazyLock::new(|| {
    serde_json::from_slice(include_bytes!("../corpus/release/seed-booted")).expect("a release of the corpus")
});

/// The attestation key: its private half is 1, so its public half is the curve's base point.
static AK: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let (mut one, point) = ([0; 32], [&[4][..], &P256_BASE].concat());
    one[31] = 1;
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &one, &point, &random).expect("1 is a key")
});

/// Attributes and policy of an endorsement key by the default template (TCG EK Credential Profile, template L-2).
const EK_ATTRIBUTES: u32 = 0x0003_00B2;
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

fn public(attributes: u32, policy: &[u8], parameters: &[u8]) -> Vec<u8> {
    let (x, y) = P256_BASE.split_at(32);
    let head = [&[0, 0x23, 0, 0x0B], &attributes.to_be_bytes()[..], &sized(policy), parameters];
    [head.concat(), vec![0, 3, 0, 0x10], sized(x), sized(y)].concat()
}

/// Input: a byte of flags, the firmware's log with its length in front, our own log.
pub(crate) fn evidence(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let (event_log, cel) = (input.sized(), input.rest());
    let mut pcrs = quoted(event_log, cel);
    let lies = flags & 1 != 0;
    if lies {
        // Something was extended that no event tells.
        let at = somewhere(bytes, pcrs.len()).unwrap_or(0);
        pcrs.values_mut().nth(at).expect("PCRs are quoted").0[0] ^= 1;
    }
    let binding = Binding {
        role: Role::Server,
        nonce: Nonce([0x5a; 32]),
        exporter: vec![0xe1; 32],
        attester_spki: vec![1],
        verifier_spki: vec![2],
    };
    let evidence = made(&binding, event_log, cel, &pcrs);
    let name = ak_name(&evidence.ak_public).expect("a key");
    let policy = Policy {
        releases: &[&RELEASE.predicate],
        bank: Bank::Sha256,
        ek: EkTrust::Row { ek_public: &evidence.ek_public, maker: None },
        same_tpm: SameTpm::PinnedAk(&name),
        firmware: Firmware::Learn,
        state: if flags & 2 == 0 { StateVolume::Any } else { StateVolume::Learn },
        exit_boot_services: if flags & 4 == 0 {
            ExitBootServices::Required
        } else {
            ExitBootServices::MayBeAbsent
        },
        denied_tpm_firmware: &[],
        dbx_required: &[],
        previous: None,
        session: None,
    };
    let (report, verdict) = judge(&evidence, &binding, &policy);
    assert_eq!(report.checks.len(), Check::ALL.len(), "a check that the report does not show");
    let mut other = binding.clone();
    other.nonce.0[31] ^= 1;
    assert!(judge(&evidence, &other, &policy).1.is_err(), "evidence for another challenge was accepted");
    match verdict {
        Ok(verified) => {
            assert!(!lies, "a PCR that no event explains was accepted");
            is_the_release(verified.pcrs());
            assert_eq!(verified.version(), RELEASE.predicate.version);
        }
        Err(rejection) => {
            assert!(!rejection.reason.is_empty(), "refused for no reason");
            return false;
        }
    }
    true
}

/// Whatever the events say: the PCRs of the image are those of the release.
fn is_the_release(pcrs: &BTreeMap<PcrIndex, Digest>) {
    let predicted = &RELEASE.predicate.pcrs[&Bank::Sha256];
    for (pcr, value) in &predicted.fixed {
        assert_eq!(pcrs.get(pcr), Some(value), "PCR {pcr} is not the release's");
    }
    let pcr11 = PcrIndex::new(11).expect("below 24");
    assert_eq!(pcrs.get(&pcr11), predicted.uki_after_phase.get("ready"), "PCR 11 is not the release's");
}

/// What the machine's PCRs are after these logs.
fn quoted(event_log: &[u8], cel: &[u8]) -> BTreeMap<PcrIndex, Digest> {
    let log = EventLog::parse(event_log).ok();
    let mut pcrs = log.and_then(|log| log.replay(Bank::Sha256)).unwrap_or_default();
    if let Ok(cel) = CelLog::parse(cel) {
        // Without a digest in the bank the values are of no use, and the evidence is refused.
        let _complete = cel.replay_onto(Bank::Sha256, &mut pcrs);
    }
    let value = |index: u8| {
        let pcr = PcrIndex::new(index).expect("below 24");
        (pcr, pcrs.get(&pcr).cloned().unwrap_or_else(|| Digest(vec![0; 32])))
    };
    pillar_layout::pcr::QUOTED.into_iter().map(value).collect()
}

fn made(binding: &Binding, event_log: &[u8], cel: &[u8], pcrs: &BTreeMap<PcrIndex, Digest>) -> Evidence {
    let values: Vec<&[u8]> = pcrs.values().map(|value| value.0.as_slice()).collect();
    let ak_public = public(AK_ATTRIBUTES, &[], &[0, 0x10, 0, 0x18, 0, 0x0B]);
    let signer = endorsement_primary(&Public::parse(&ak_public).expect("a key"));
    let attest = [
        &MAGIC.to_be_bytes()[..],
        &ST_QUOTE.to_be_bytes(),
        &sized(&signer),
        &sized(&qualifying_data(binding, event_log, cel, &[])),
        &5000_u64.to_be_bytes(),
        &3_u32.to_be_bytes(),
        &0_u32.to_be_bytes(),
        &[1],
        &7_u64.to_be_bytes(),
        &evidence_selection(Bank::Sha256),
        &sized(&hash(Bank::Sha256, &values).0),
    ]
    .concat();
    let rs = AK.sign(&SystemRandom::new(), &attest).expect("the key signs");
    let (r, s) = rs.as_ref().split_at(32);
    Evidence {
        signature: [&[0, 0x18, 0, 0x0B][..], &sized(r), &sized(s)].concat(),
        attest,
        ak_public,
        ek_public: public(EK_ATTRIBUTES, &EK_POLICY, &[0, 6, 0, 128, 0, 0x43, 0, 0x10]),
        event_log: event_log.to_vec(),
        cel: cel.to_vec(),
        ..Evidence::default()
    }
}
