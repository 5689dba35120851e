//! Evidence of a real boot, signed by keys made here: what is refused, by which check, for which reason.
#![allow(clippy::unwrap_used)]

mod boot;
mod machine;

use boot::{at_kernel_start, binding, digest, own_log, pcr};
use machine::{Machine, SECRET, public, with_event};
use pillar_layout::{pcr::QUOTED, phase};
use pillar_model::{Bank, Binding, Digest, Evidence, FirmwareReference, Nonce, ReleasePredicate, Role};
use pillar_verify::{
    AK_ATTRIBUTES, Check, Counters, EkTrust, ExitBootServices, Firmware, Policy, Rejection, SameTpm,
    StateVolume, Verdict, Verified, ak_name, judge, tpm, verify,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PublicKeyData,
};
use std::fmt::Debug;

const NOW: u64 = 1_800_000_000;
const EK_PURPOSE: [u64; 5] = [2, 23, 133, 8, 1];

struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2035, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// DER of less than 128 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128);
    [&[tag, content.len() as u8], content].concat()
}

/// A subject alternative name with these of the TPM's attributes: 1 manufacturer, 2 model, 3 version.
fn tpm_name(attributes: &[u8], critical: bool) -> CustomExtension {
    let named = |attribute: &u8| {
        let oid = der(6, &[0x67, 0x81, 0x05, 0x02, *attribute]);
        der(0x31, &der(0x30, &[oid, der(0x0C, b"id:00000001")].concat()))
    };
    let names: Vec<u8> = attributes.iter().flat_map(named).collect();
    let alternative = der(0x30, &der(0xA4, &der(0x30, &names)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], alternative);
    extension.set_criticality(critical);
    extension
}

impl Authority {
    fn new() -> Self {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let root = CertifiedIssuer::self_signed(authority("root"), root_key).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let intermediate = CertifiedIssuer::signed_by(authority("intermediate"), key, &root).unwrap();
        Self { root, intermediate }
    }

    fn roots(&self) -> [Vec<u8>; 1] {
        [self.root.der().to_vec()]
    }

    fn intermediates(&self) -> [Vec<u8>; 1] {
        [self.intermediate.der().to_vec()]
    }

    fn certify(&self, ek: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = named("ek");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_PURPOSE.to_vec())];
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.custom_extensions = vec![tpm_name(&[1, 2, 3], false)];
        change(&mut params);
        params.signed_by(ek, &self.intermediate).unwrap().der().to_vec()
    }
}

/// Everything that a verification needs, good as it is; tests change one thing.
struct Case {
    ek: KeyPair,
    machine: Machine,
    authority: Authority,
    release: ReleasePredicate,
    binding: Binding,
    evidence: Evidence,
    roots: [Vec<u8>; 1],
    intermediates: [Vec<u8>; 1],
}

impl Case {
    fn new() -> Self {
        let ek = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (machine, authority) = (Machine::new(ek.der_bytes()), Authority::new());
        let certificate = authority.certify(&ek, |_| {});
        let evidence = machine.evidence(&binding(), certificate);
        let (roots, intermediates) = (authority.roots(), authority.intermediates());
        Self {
            ek,
            machine,
            authority,
            release: boot::release(),
            binding: binding(),
            evidence,
            roots,
            intermediates,
        }
    }

    /// Takes the evidence again after the machine was changed.
    fn again(mut self, change: impl FnOnce(&mut Machine)) -> Self {
        change(&mut self.machine);
        self.evidence = self.machine.evidence(&self.binding, self.evidence.ek_certificate.clone());
        self
    }

    fn chain(&self, now_unix_s: u64) -> EkTrust<'_> {
        let (roots, intermediates) = (&self.roots, &self.intermediates);
        EkTrust::Chain { roots, intermediates, allowed: &[], now_unix_s }
    }

    fn with_policy<T>(&self, use_it: impl FnOnce(Policy<'_>) -> T) -> T {
        use_it(Policy {
            releases: &[&self.release],
            bank: Bank::Sha256,
            ek: self.chain(NOW),
            same_tpm: SameTpm::Activated(&SECRET),
            firmware: Firmware::Learn,
            state: StateVolume::Learn,
            exit_boot_services: ExitBootServices::Required,
            denied_tpm_firmware: &[],
            dbx_required: &[],
            previous: None,
            session: None,
        })
    }

    fn verify(&self) -> Result<Verified, Rejection> {
        self.with_policy(|policy| verify(&self.evidence, &self.binding, &policy))
    }

    #[track_caller]
    fn refused(&self, check: Check, reason: &str) -> Rejection {
        let rejection = self.verify().expect_err("must be refused");
        assert_eq!(rejection.check, check, "{rejection}");
        assert!(rejection.reason.contains(reason), "{rejection}");
        rejection
    }

    #[track_caller]
    fn policy_refused(&self, check: Check, reason: &str, change: impl FnOnce(&mut Policy<'_>)) {
        let verdict = self.with_policy(|mut policy| {
            // The change borrows nothing of the case.
            change(&mut policy);
            verify(&self.evidence, &self.binding, &policy)
        });
        let rejection = verdict.expect_err("must be refused");
        assert_eq!(rejection.check, check, "{rejection}");
        assert!(rejection.reason.contains(reason), "{rejection}");
    }
}

#[test]
fn good_evidence_is_verified() {
    let case = Case::new();
    let verified = case.verify().unwrap();
    assert_eq!(verified.version(), "1");
    assert_eq!(verified.root_hash(), case.release.root_hash);
    assert_eq!(verified.counters(), case.machine.counters);
    assert_eq!(verified.ek_issuers(), ["CN=intermediate", "CN=root"]);
    assert_eq!(verified.ak_name(), ak_name(&case.evidence.ak_public).unwrap());
    assert_eq!(verified.node_settings(), None);
    let firmware = verified.firmware();
    assert_eq!(firmware.pcrs[&pcr(0)], at_kernel_start(0));
    case.with_policy(|policy| {
        let policy = Policy { firmware: Firmware::Pinned(&firmware), ..policy };
        let policy = Policy { same_tpm: SameTpm::PinnedAk(verified.ak_name()), ..policy };
        let (report, verdict) = judge(&case.evidence, &case.binding, &policy);
        assert!(verdict.is_ok());
        assert_eq!(report.checks.len(), Check::ALL.len());
        assert!(report.checks.iter().all(|c| c.verdict == Verdict::Passed && !c.words.is_empty()));
    });
}

// attack: B8
#[test]
fn whose_firmware_it_is_the_certificate_tells() {
    let judged = |case: &Case, denied: &str| {
        let denied = [denied.parse().unwrap()];
        case.with_policy(|p| {
            verify(&case.evidence, &case.binding, &Policy { denied_tpm_firmware: &denied, ..p })
        })
    };
    let mut case = Case::new();
    assert_eq!(case.verify().unwrap().tpm_maker(), "id:00000001".parse().ok());
    let rejection = judged(&case, "id:00000001:0.0.0.7").unwrap_err();
    assert_eq!(rejection.check, Check::TpmFirmware);
    assert_eq!(rejection.reason, "TPM firmware 0.0.0.7 is denied (id:00000001 0.0.0.7)");
    assert!(judged(&case, "id:00000002:0.0.0.7").is_ok(), "another maker's");
    // Two makers are none, and what is nobody's is anybody's.
    let twice = [tpm_name(&[1, 1, 2, 3], false)].to_vec();
    case.evidence.ek_certificate = case.authority.certify(&case.ek, |p| p.custom_extensions = twice);
    let rejection = judged(&case, "id:00000002:0.0.0.7").unwrap_err();
    assert!(rejection.reason.ends_with("; who made this TPM is not known"), "{rejection}");
    assert!(judged(&case, "id:00000002:0.0.0.8").is_ok());
}

#[test]
fn a_report_ends_with_the_failed_check() {
    let mut case = Case::new();
    case.binding.nonce = Nonce([1; 32]);
    let (report, verdict) = case.with_policy(|policy| judge(&case.evidence, &case.binding, &policy));
    assert_eq!(verdict.unwrap_err().check, Check::Challenge);
    let at = Check::ALL.iter().position(|c| *c == Check::Challenge).unwrap();
    for (number, line) in report.checks.iter().enumerate() {
        let expected = match number.cmp(&at) {
            std::cmp::Ordering::Less => Verdict::Passed,
            std::cmp::Ordering::Equal => Verdict::Failed,
            std::cmp::Ordering::Greater => Verdict::NotReached,
        };
        assert_eq!(line.verdict, expected, "{}", line.name);
    }
}

// attack: A2 A7 A13
#[test]
fn every_changed_byte_is_refused() {
    let case = Case::new();
    let fields: [fn(&mut Evidence) -> &mut Vec<u8>; 7] = [
        |e| &mut e.attest,
        |e| &mut e.signature,
        |e| &mut e.ak_public,
        |e| &mut e.ek_public,
        |e| &mut e.ek_certificate,
        |e| &mut e.activated,
        |e| &mut e.heartbeat_key,
    ];
    let refused = |evidence: &Evidence, what: &dyn Debug| {
        let verdict = case.with_policy(|policy| verify(evidence, &case.binding, &policy));
        assert!(verdict.is_err(), "{what:?}");
    };
    let (mut evidence, mut positions) = (case.evidence.clone(), 0);
    for (number, field) in fields.iter().enumerate() {
        for at in 0..field(&mut evidence).len() {
            positions += 1;
            for bit in 0..8 {
                field(&mut evidence)[at] ^= 1 << bit;
                refused(&evidence, &(number, at, bit));
                field(&mut evidence)[at] ^= 1 << bit;
            }
            let gone = field(&mut evidence).remove(at);
            refused(&evidence, &(number, at, "gone"));
            field(&mut evidence).insert(at, gone);
        }
        // Zeros behind a certificate are the NV index's padding.
        field(&mut evidence).push(1);
        refused(&evidence, &(number, "one more"));
        field(&mut evidence).pop();
    }
    println!("{positions} positions in the seven short fields, each bit of each");
    assert_eq!(evidence, case.evidence);
}

// attack: A1
#[test]
fn every_changed_byte_of_the_logs_is_refused() {
    let case = Case::new();
    // As a pillar judges its peer: the keys are known, and what is left takes no time.
    let row = EkTrust::Row { ek_public: &case.evidence.ek_public, maker: None };
    let name = ak_name(&case.evidence.ak_public).unwrap();
    let judged = |evidence: &Evidence| {
        case.with_policy(|policy| {
            let policy = Policy { ek: row, same_tpm: SameTpm::PinnedAk(&name), ..policy };
            verify(evidence, &case.binding, &policy)
        })
    };
    let mut evidence = case.evidence.clone();
    judged(&evidence).unwrap();
    let logs: [fn(&mut Evidence) -> &mut Vec<u8>; 2] = [|e| &mut e.event_log, |e| &mut e.cel];
    let mut positions = 0;
    for log in logs {
        for at in 0..log(&mut evidence).len() {
            positions += 1;
            log(&mut evidence)[at] ^= 1 << (at % 8);
            let rejection = judged(&evidence).expect_err("a changed byte");
            // Never parsed: the quote is about other bytes.
            assert_eq!(rejection.check, Check::Challenge, "byte {at}: {rejection}");
            log(&mut evidence)[at] ^= 1 << (at % 8);
        }
        for at in [0, log(&mut evidence).len() / 2, log(&mut evidence).len() - 1] {
            let gone = log(&mut evidence).remove(at);
            assert_eq!(judged(&evidence).expect_err("a byte less").check, Check::Challenge);
            log(&mut evidence).insert(at, gone);
        }
        log(&mut evidence).push(0);
        assert_eq!(judged(&evidence).expect_err("a byte more").check, Check::Challenge);
        log(&mut evidence).pop();
    }
    println!("{positions} positions in the two logs");
}

// attack: A6 B1
#[test]
fn evidence_for_a_binding_that_differs_in_a_byte_is_refused() {
    let case = Case::new();
    let parts: [fn(&mut Binding) -> &mut [u8]; 4] =
        [|b| &mut b.nonce.0, |b| &mut b.exporter, |b| &mut b.attester_spki, |b| &mut b.verifier_spki];
    let (mut binding, mut positions) = (case.binding.clone(), 0);
    for part in parts {
        for at in 0..part(&mut binding).len() {
            positions += 1;
            part(&mut binding)[at] ^= 1 << (at % 8);
            let verdict = case.with_policy(|policy| verify(&case.evidence, &binding, &policy));
            assert_eq!(verdict.expect_err("another binding").check, Check::Challenge);
            part(&mut binding)[at] ^= 1 << (at % 8);
        }
    }
    println!("{positions} positions in the binding");
}

// attack: A16
#[test]
fn padding_behind_the_certificate_is_tolerated() {
    for padding in [0x00, 0xFF] {
        let mut case = Case::new();
        case.evidence.ek_certificate.extend([padding; 300]);
        assert!(case.verify().is_ok());
        case.evidence.ek_certificate.push(0x55);
        case.refused(Check::EkCertificate, "bytes behind it");
    }
}

// attack: A6 B1
#[test]
fn relayed_reflected_and_replayed_evidence_is_refused() {
    let changes: [fn(&mut Binding); 5] = [
        |b| b.nonce = Nonce([0; 32]),
        |b| b.role = Role::Client,
        |b| b.exporter[31] ^= 1,
        |b| b.attester_spki.push(0),
        |b| std::mem::swap(&mut b.attester_spki, &mut b.verifier_spki),
    ];
    for change in changes {
        let mut case = Case::new();
        change(&mut case.binding);
        case.refused(Check::Challenge, "extraData");
    }
}

// attack: A3 B2
#[test]
fn attestation_keys_of_another_kind_are_refused() {
    for (attributes, check, reason) in [
        (AK_ATTRIBUTES & !tpm::attribute::RESTRICTED, Check::Structures, "not restricted"),
        (AK_ATTRIBUTES & !tpm::attribute::FIXED_TPM, Check::Structures, "fixedTPM"),
        (AK_ATTRIBUTES | tpm::attribute::DECRYPT, Check::Structures, "decrypts"),
        (AK_ATTRIBUTES & !tpm::attribute::NO_DA, Check::AttestationKey, "the template has"),
    ] {
        let case = Case::new().again(|m| {
            m.ak_public = public(ring::signature::KeyPair::public_key(&m.ak).as_ref(), attributes, false);
        });
        case.refused(check, reason);
    }
    Case::new().policy_refused(Check::SameTpm, "is pinned", |p| p.same_tpm = SameTpm::PinnedAk(&[0, 11, 1]));
    Case::new()
        .policy_refused(Check::SameTpm, "did not come back", |p| p.same_tpm = SameTpm::Activated(&[1; 32]));
    Case::new().policy_refused(Check::SameTpm, "expects nothing", |p| p.same_tpm = SameTpm::Activated(&[]));
}

// attack: B8
#[test]
fn ek_certificates_that_prove_nothing_are_refused() {
    let refused = |change: fn(&mut CertificateParams), reason: &str| {
        let mut case = Case::new();
        case.evidence.ek_certificate = case.authority.certify(&case.ek, change);
        case.refused(Check::EkCertificate, reason);
    };
    refused(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature], "neither encipher nor agree");
    refused(|p| p.custom_extensions.clear(), "does not name the TPM's manufacturer, model and version");
    refused(|p| p.custom_extensions = vec![tpm_name(&[2, 3], true)], "does not name the TPM's manufacturer");
    refused(|p| p.custom_extensions = vec![tpm_name(&[1, 3], true)], "does not name the TPM's model");
    refused(|p| p.custom_extensions = vec![tpm_name(&[1, 2], true)], "does not name the TPM's version");
    refused(|p| p.distinguished_name = DistinguishedName::new(), "neither a subject nor a critical");
    refused(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "2.23.133.8.1");
    refused(|p| p.not_after = rcgen::date_time_ymd(2026, 1, 1), "EK certificate is valid from");
    refused(|p| p.not_before = rcgen::date_time_ymd(2034, 1, 1), "EK certificate is valid from");
    refused(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "authority's");
    refused(
        |p| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
            unknown.set_criticality(true);
            p.custom_extensions.push(unknown);
        },
        "unknown critical extension",
    );

    let mut case = Case::new();
    case.evidence.ek_certificate = case.authority.certify(&KeyPair::generate().unwrap(), |_| {});
    case.refused(Check::EkCertificate, "another key");

    // Old certificates have no purposes; one without a subject names the TPM critically.
    let accepted = |change: fn(&mut CertificateParams)| {
        let mut case = Case::new();
        case.evidence.ek_certificate = case.authority.certify(&case.ek, change);
        assert!(case.verify().is_ok());
    };
    accepted(|p| p.extended_key_usages.clear());
    accepted(|p| p.key_usages.clear());
    accepted(|p| {
        p.distinguished_name = DistinguishedName::new();
        p.custom_extensions = vec![tpm_name(&[1, 2, 3], true)];
    });

    // A chain to another root of the same name; without the intermediate; an intermediate that is none.
    let mut case = Case::new();
    case.roots = Authority::new().roots();
    case.refused(Check::EkCertificate, "root 0 did not sign it");
    let mut case = Case::new();
    case.intermediates = case.roots.clone();
    case.refused(Check::EkCertificate, "does not lead to a trusted root");
    let mut case = Case::new();
    let key = KeyPair::generate().unwrap();
    let impostor = CertifiedIssuer::signed_by(named("intermediate"), key, &case.authority.root).unwrap();
    case.intermediates = [impostor.der().to_vec()];
    case.refused(Check::EkCertificate, "is not a certificate authority");
    Case::new().policy_refused(Check::EkCertificate, "0 roots", |p| {
        p.ek = EkTrust::Chain { roots: &[], intermediates: &[], allowed: &[], now_unix_s: NOW };
    });
    let case = Case::new();
    let verdict = case.with_policy(|p| {
        let policy = Policy { ek: case.chain(3_000_000_000), ..p };
        verify(&case.evidence, &case.binding, &policy)
    });
    assert!(verdict.unwrap_err().reason.contains("certificate is valid from"));
}

// attack: A8 B5
#[test]
fn counters_only_go_up() {
    let now = Counters { clock_ms: 5000, reset_count: 3, restart_count: 0, safe: true, firmware_version: 7 };
    let refused = |before: Counters, reason: &str| {
        Case::new().policy_refused(Check::Counters, reason, |p| p.previous = Some(before));
    };
    refused(Counters { reset_count: 4, ..now }, "reset counter went back from 4 to 3");
    refused(Counters { restart_count: 1, ..now }, "restart counter went back");
    refused(Counters { clock_ms: 5001, ..now }, "clock went back");
    refused(Counters { clock_ms: 5001, reset_count: 2, ..now }, "clock went back");
    refused(Counters { firmware_version: 8, ..now }, "firmware version went back");
    let case = Case::new();
    let before = Counters { clock_ms: 4000, reset_count: 2, restart_count: 9, ..now };
    let accepted = |case: &Case, before| {
        case.with_policy(|p| {
            verify(&case.evidence, &case.binding, &Policy { previous: Some(before), ..p }).is_ok()
        })
    };
    assert!(accepted(&case, before));
    assert!(accepted(&case, now));
    // After a crash the clock may have lost a while; the TPM says so.
    let crashed = Case::new().again(|m| m.counters.safe = false);
    assert!(accepted(&crashed, Counters { clock_ms: 5001, reset_count: 2, ..now }));
}

// attack: A11 A12
#[test]
fn what_no_event_explains_is_refused() {
    for index in QUOTED {
        let case = Case::new().again(|m| {
            m.pcrs.insert(index, Digest(vec![7; 32]));
        });
        case.refused(Check::Replay, "no event explains");
    }
    let case = Case::new().again(|m| m.event_log = m.event_log[..77].to_vec());
    assert!(case.verify().is_err());
    let case = Case::new().again(|m| m.event_log.truncate(9000));
    case.refused(Check::Logs, "the log ends inside it");
    let case = Case::new().again(|m| m.cel.truncate(40));
    case.refused(Check::Logs, "own log: record 0");
}

// attack: A17 P2
#[test]
fn what_is_not_the_release_is_named() {
    let mut case = Case::new();
    case.release.boot_applications[1].authenticode.insert(Bank::Sha256, digest(&"11".repeat(32)));
    case.release.pcrs.get_mut(&Bank::Sha256).unwrap().fixed.insert(pcr(4), digest(&"11".repeat(32)));
    let rejection = case.refused(Check::Release, "starts another uki");
    assert_eq!((rejection.pcr, rejection.event), (Some(pcr(4)), Some(28)));

    let mut case = Case::new();
    case.release.cmdline.push_str(" quiet");
    case.release.pcrs.get_mut(&Bank::Sha256).unwrap().fixed.insert(pcr(9), digest(&"11".repeat(32)));
    let rejection = case.refused(Check::Release, "another command line");
    assert_eq!((rejection.pcr, rejection.event), (Some(pcr(9)), Some(43)));

    let mut case = Case::new();
    for value in case.release.pcrs.get_mut(&Bank::Sha256).unwrap().uki_after_phase.values_mut() {
        value.0[0] ^= 1;
    }
    assert_eq!(case.refused(Check::Release, "a section of the UKI").pcr, Some(pcr(11)));

    let mut case = Case::new();
    case.release.root_hash.0[0] ^= 1;
    case.refused(Check::Release, "its command line names");

    let mut case = Case::new();
    case.release.cmdline.push_str(" quiet");
    case.refused(Check::Release, "names another command line than was measured");

    let mut case = Case::new();
    case.release.pcrs.clear();
    case.refused(Check::Release, "predicts nothing in sha256");

    // A program more, with leave of db and measured: still not the release.
    let case = Case::new().again(|m| {
        m.event_log = with_event(&m.event_log, 4, 0x8000_0003, b"another program");
        m.measure_again();
    });
    case.refused(Check::Release, "starts a program more");
}

// attack: P2
#[test]
fn either_of_two_releases_but_not_a_mixture() {
    let case = Case::new();
    let mut other = case.release.clone();
    other.version = "2".into();
    for value in other.pcrs.get_mut(&Bank::Sha256).unwrap().fixed.values_mut() {
        value.0[0] ^= 1;
    }
    let judge = |releases: &[&ReleasePredicate]| {
        case.with_policy(|p| verify(&case.evidence, &case.binding, &Policy { releases, ..p }))
    };
    assert_eq!(judge(&[&other, &case.release]).unwrap().version(), "1");
    assert_eq!(judge(&[&other]).unwrap_err().check, Check::Release);
    let mut mixed = case.release.clone();
    mixed.pcrs.get_mut(&Bank::Sha256).unwrap().uki_after_phase.clear();
    let refused = judge(&[&other, &mixed]).unwrap_err();
    assert!(refused.reason.contains("does not predict it"), "{refused}");
    assert_eq!(judge(&[]).unwrap_err().check, Check::Sizes);
    assert_eq!(judge(&[&other; 3]).unwrap_err().check, Check::Sizes);
}

// attack: P1
#[test]
fn phases_are_complete_and_in_order() {
    let with = |phases: &[&str], settings: &[&str]| {
        let cel = own_log(phases, settings).into_bytes();
        Case::new().again(|m| {
            m.cel = cel;
            m.measure_again();
        })
    };
    with(&phase::ALL[..3], &[]).refused(Check::Events, "its last phase is sysinit");
    with(&["enter-initrd", "sysinit", "leave-initrd", "ready"], &[]).refused(Check::Events, "phases are");
    with(&["enter-initrd", "leave-initrd", "sysinit", "ready", "ready"], &[])
        .refused(Check::Events, "phases are");

    let settings = with(&phase::ALL, &[boot::NODE_SETTINGS]).verify().unwrap();
    assert_eq!(settings.node_settings(), Some(boot::NODE_SETTINGS));
    with(&phase::ALL, &["{}", "{}"]).refused(Check::Additions, "measured twice");
    with(&phase::ALL, &[r#"{"shell":true}"#]).refused(Check::Additions, "node settings are not understood");
}

// attack: C3
#[test]
fn the_state_volume_is_the_pinned_one() {
    let with = |volumes: &[&str]| {
        let cel = boot::own_log_with(&phase::ALL, &[], volumes).into_bytes();
        Case::new().again(|m| {
            m.cel = cel;
            m.measure_again();
        })
    };
    let under = |case: &Case, state: StateVolume<'_>| {
        case.with_policy(|policy| verify(&case.evidence, &case.binding, &Policy { state, ..policy }))
    };
    let open = with(&[boot::STATE_VOLUME]);
    assert_eq!(open.verify().unwrap().state_volume(), boot::STATE_VOLUME);
    assert!(under(&open, StateVolume::Pinned(boot::STATE_VOLUME)).is_ok());
    // The same UUID with another key, and another volume.
    let look_alike = boot::STATE_VOLUME.replace(" ab", " cd");
    let erased = boot::STATE_VOLUME.replace("0c5c", "1111");
    for (pinned, reason) in [(look_alike, "a look-alike"), (erased, "is pinned")] {
        let rejection = under(&open, StateVolume::Pinned(&pinned)).expect_err(reason);
        assert_eq!(rejection.check, Check::State);
        assert!(rejection.reason.contains(reason), "{rejection}");
    }
    // None is open: refused, but for those who come to recover it.
    let none = with(&["none"]);
    none.refused(Check::State, "no state volume is open");
    assert!(under(&none, StateVolume::Any).is_ok());
    assert!(under(&none, StateVolume::Pinned("none")).is_err());
    // PCR 15 left as it was: the key could be unsealed by whoever comes next.
    let untouched = with(&[]);
    assert!(under(&untouched, StateVolume::Any).is_err());
    untouched.refused(Check::State, "can still be unsealed");
    with(&[boot::STATE_VOLUME, "none"]).refused(Check::State, "measured twice");
    with(&["a volume"]).refused(Check::State, "names no state volume");
}

// attack: A10 A17
#[test]
fn what_was_added_to_the_boot_is_named() {
    let case = Case::new().again(|m| {
        m.event_log = with_event(&m.event_log, 12, 0xD, b"init=/bin/sh");
        m.measure_again();
    });
    let rejection = case.refused(Check::Additions, "a command line or add-on from outside");
    assert_eq!((rejection.pcr, rejection.event), (Some(pcr(12)), Some(46)));
    let case = Case::new().again(|m| {
        m.event_log = with_event(&m.event_log, 13, 0xD, b"sysext");
        m.measure_again();
    });
    case.refused(Check::Additions, "an extension image");
    let case = Case::new().again(|m| {
        m.event_log = with_event(&m.event_log, 15, 0x1234, b"what");
        m.measure_again();
    });
    case.refused(Check::Events, "unknown type 0x1234");
}

// attack: P3
#[test]
fn secure_boot_is_judged_by_content() {
    type Change = fn(&mut ReleasePredicate);
    let changes: [(Change, &str); 3] = [
        (|r| r.secure_boot.pk = Digest(vec![1; 32]), "PK holds certificate"),
        (|r| r.secure_boot.kek = Digest(vec![1; 32]), "KEK holds certificate"),
        (|r| r.secure_boot.db = Digest(vec![1; 32]), "db holds certificate"),
    ];
    for (change, reason) in changes {
        let mut case = Case::new();
        change(&mut case.release);
        case.refused(Check::SecureBoot, reason);
    }
    // A later authority that is not db's key.
    let variable = |name: &str, data: &[u8]| {
        let utf16: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let (units, bytes) = ((utf16.len() / 2) as u64, data.len() as u64);
        [&[0x50; 16], units.to_le_bytes().as_slice(), &bytes.to_le_bytes(), &utf16, data].concat()
    };
    let case = Case::new().again(|m| {
        m.event_log = with_event(&m.event_log, 7, 0x8000_00E0, &variable("MokList", &[0; 60]));
        m.measure_again();
    });
    case.refused(Check::SecureBoot, "by leave of \"MokList\"");
    // Behind the separator nothing else may come.
    let case = Case::new().again(|m| {
        m.event_log = with_event(&m.event_log, 7, 0x8000_0001, &variable("SecureBoot", &[0]));
        m.measure_again();
    });
    case.refused(Check::Events, "stands behind the separator");
}

// attack: A17 P4
#[test]
fn firmware_is_compared_with_what_is_pinned() {
    let case = Case::new();
    let mut pinned = case.verify().unwrap().firmware();
    pinned.pcrs.insert(pcr(1), digest(&"22".repeat(32)));
    let judge = |pinned: &FirmwareReference| {
        case.with_policy(|p| {
            verify(&case.evidence, &case.binding, &Policy { firmware: Firmware::Pinned(pinned), ..p })
                .unwrap_err()
        })
    };
    let rejection = judge(&pinned);
    assert_eq!((rejection.check, rejection.pcr), (Check::Firmware, Some(pcr(1))));
    pinned.pcrs.remove(&pcr(0));
    assert!(judge(&pinned).reason.contains("has no pinned value"));
}

// attack: A5 A11
#[test]
fn weak_banks_and_wrong_sizes_are_refused() {
    Case::new().policy_refused(Check::Sizes, "none of sha256 and sha384", |p| p.bank = Bank::Sha1);
    Case::new().policy_refused(Check::Selection, "PCR selection", |p| p.bank = Bank::Sha384);
    let empty: [fn(&mut Evidence); 4] = [
        |e| e.event_log.clear(),
        |e| e.cel.clear(),
        |e| e.ek_certificate.clear(),
        |e| e.attest.resize(2000, 0),
    ];
    for change in empty {
        let mut case = Case::new();
        change(&mut case.evidence);
        case.refused(Check::Sizes, "bytes; 1 to");
    }
}

/// An RSA key whose modulus leaves, divided by each of the small primes, what a power of 65537 leaves: here 65537 itself.
struct Roca([u8; 256]);

impl Roca {
    fn new() -> Self {
        // The product of the primes up to 167, doubled until it has 2048 bits; then 65537 more.
        let mut modulus = [0u8; 256];
        modulus[255] = 1;
        let times = |number: &mut [u8; 256], factor: u32| {
            let mut carry = 0;
            for digit in number.iter_mut().rev() {
                carry += u32::from(*digit) * factor;
                *digit = carry as u8;
                carry >>= 8;
            }
        };
        for prime in (2..=167u32).filter(|n| (2..*n).all(|d| n % d != 0)) {
            times(&mut modulus, prime);
        }
        while modulus[0] < 0x80 {
            times(&mut modulus, 2);
        }
        // The product is even, so nothing is carried.
        modulus[255] |= 1;
        modulus[253] += 1;
        Self(modulus)
    }

    /// `TPMT_PUBLIC` by template L-1.
    fn public(&self) -> Vec<u8> {
        let policy = hex::decode("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa").unwrap();
        let head = [0, 1, 0, 0x0B, 0, 3, 0, 0xB2, 0, 32];
        let parameters = [0, 6, 0, 128, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0];
        [&head[..], &policy, &parameters, &self.0].concat()
    }
}

impl PublicKeyData for Roca {
    fn der_bytes(&self) -> &[u8] {
        let numbers = [&[0x02, 0x82, 1, 1, 0][..], &self.0, &[2, 3, 1, 0, 1]].concat();
        [&[0x30, 0x82, 1, 10][..], &numbers].concat().leak()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

// attack: B8
#[test]
fn keys_that_can_be_computed_are_refused() {
    let mut case = Case::new();
    let weak = Roca::new();
    case.evidence.ek_public = weak.public();
    let mut params = named("ek");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_PURPOSE.to_vec())];
    params.custom_extensions = vec![tpm_name(&[1, 2, 3], false)];
    case.evidence.ek_certificate =
        params.signed_by(&weak, &case.authority.intermediate).unwrap().der().to_vec();
    case.refused(Check::EkCertificate, "ROCA");
}
