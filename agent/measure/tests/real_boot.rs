//! One real boot: the log leads to the values that the TPM had, and says what was started and by whose leave.
#![allow(clippy::unwrap_used)]

use pillar_measure::cel::{self, CelLog};
use pillar_measure::hash::{extend, hash};
use pillar_measure::predict::pcr4;
use pillar_measure::review::{ExitBootServices, Fault, review};
use pillar_measure::secure_boot::{Authority, Signature, signatures, state};
use pillar_measure::tcg::{self, EventLog, EventType};
use pillar_model::{Bank, BootApplication, Digest, PcrIndex};
use proptest::prelude::*;
use std::collections::BTreeMap;

const LOG: &[u8] = include_bytes!("data/ovmf-sdboot.eventlog");
const PCRS: &str = include_str!("data/ovmf-sdboot.pcrs");

/// Authenticode (SHA-256) of the loader and the UKI of that boot, as `systemd-pcrlock lock-pe` tells it.
const LOADER: &str = "937f1f3b0b3fed2034f1fddcc68c835f3e4ba190143f79693816e5a9d1718da5";
const UKI: &str = "83143265d1c35a9770a6c3a3a8bed95b3f471a9d19fee81a3775386559bd4a0a";

fn digest(text: &str) -> Digest {
    Digest(hex::decode(text).unwrap())
}

fn quoted(bank: Bank) -> BTreeMap<u8, Digest> {
    PCRS.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == bank.to_string()).then_some(())?;
            Some((words.next()?.parse().ok()?, digest(words.next()?)))
        })
        .collect()
}

fn firmware_pcrs() -> Vec<PcrIndex> {
    [0, 1, 2, 3, 4, 5, 7, 9, 11].map(|i| PcrIndex::new(i).unwrap()).to_vec()
}

#[test]
fn replay_equals_the_tpm_in_both_banks() {
    let log = EventLog::parse(LOG).unwrap();
    for bank in [Bank::Sha256, Bank::Sha384] {
        let replayed = log.replay(bank).unwrap();
        for (pcr, value) in quoted(bank) {
            // PCR 10 is IMA's, whose log is another one.
            if pcr == 10 {
                continue;
            }
            let found = replayed.get(&PcrIndex::new(pcr).unwrap());
            assert_eq!(
                found.cloned().unwrap_or(Digest(vec![0; bank.digest_bytes()])),
                value,
                "{bank} PCR {pcr}"
            );
        }
    }
    assert_eq!(log.replay(Bank::Sha512), None);
}

#[test]
fn pcr_4_is_predicted_from_the_two_programs() {
    let application = |name: &str, value| BootApplication {
        name: name.into(),
        authenticode: BTreeMap::from([(Bank::Sha256, digest(value))]),
    };
    let predicted = pcr4(&[application("loader", LOADER), application("uki", UKI)], Bank::Sha256);
    assert_eq!(predicted.as_ref(), quoted(Bank::Sha256).get(&4));
    assert_eq!(pcr4(&[application("loader", LOADER)], Bank::Sha384), None);
}

#[test]
fn the_log_is_one_that_firmware_writes() {
    let log = EventLog::parse(LOG).unwrap();
    assert_eq!(review(&log, Bank::Sha256, &firmware_pcrs(), ExitBootServices::Required), Ok(()));
}

// attack: A15
#[test]
fn a_log_that_ends_early_is_named() {
    let mut log = EventLog::parse(LOG).unwrap();
    log.events.pop();
    let objection = review(&log, Bank::Sha256, &firmware_pcrs(), ExitBootServices::Required).unwrap_err();
    assert_eq!(objection.fault, Fault::NoExit);
    assert_eq!(review(&log, Bank::Sha256, &firmware_pcrs(), ExitBootServices::MayBeAbsent), Ok(()));
}

// attack: A14
#[test]
fn a_missing_or_second_separator_is_named() {
    let log = EventLog::parse(LOG).unwrap();
    let in_pcr4 = |e: &tcg::Event<'_>| e.event_type == EventType::Separator && e.pcr.unwrap().get() == 4;
    let mut without = log.clone();
    without.events.retain(|e| !in_pcr4(e));
    let fault =
        |log| review(log, Bank::Sha256, &firmware_pcrs(), ExitBootServices::Required).unwrap_err().fault;
    assert_eq!(fault(&without), Fault::NoSeparator);
    let mut twice = log.clone();
    let separator = *twice.events.iter().find(|e| in_pcr4(e)).unwrap();
    twice.events.insert(0, separator);
    assert_eq!(fault(&twice), Fault::SecondSeparator);
}

#[test]
fn secure_boot_is_on_with_our_certificates_alone() {
    let state = state(&EventLog::parse(LOG).unwrap(), Bank::Sha256).unwrap();
    let certificate = |value| Signature::Certificate(digest(value));
    assert!(state.enabled);
    assert_eq!(state.pk, [certificate("07c1d68447b737b4fcd719151d8864848c7c4b978ec295d96a39f97ea7624b10")]);
    assert_eq!(state.kek, [certificate("5e782c83138fb68562dececcc4ab860b97bda21d1cd9168a647d43fefd725ae0")]);
    let db = "95de43eeb10a81fc779e427bc9c4ecaf5140671603a0c2880a77cd00c5c6fab8";
    assert_eq!(state.db, [certificate(db)]);
    // virt-fw-vars puts the customary placeholder into an empty dbx.
    assert!(state.dbx.iter().all(|entry| matches!(entry, Signature::ImageSha256(_))));
    assert_eq!(state.authorities, [Authority::Certificate(digest(db))]);
    assert!(state.remarks.is_empty());
}

#[test]
fn our_own_log_continues_the_firmware_s() {
    let record = |number: u32, phase: &str| {
        let value = hash(Bank::Sha256, &[phase.as_bytes()]);
        format!(
            "\u{1e}{{\"recnum\":{number},\"pcr\":11,\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{value}\"}}],\
             \"content_type\":\"pillar\",\"content\":{{\"event\":\"phase\",\"string\":\"{phase}\"}}}}\n"
        )
    };
    let text = record(0, "enter-initrd") + &record(1, "leave-initrd");
    let own = CelLog::parse(text.as_bytes()).unwrap();
    let mut pcrs = EventLog::parse(LOG).unwrap().replay(Bank::Sha256).unwrap();
    let pcr11 = PcrIndex::new(11).unwrap();
    let mut expected = pcrs[&pcr11].clone();
    for phase in ["enter-initrd", "leave-initrd"] {
        extend(Bank::Sha256, &mut expected, &hash(Bank::Sha256, &[phase.as_bytes()]));
    }
    assert!(own.replay_onto(Bank::Sha256, &mut pcrs));
    assert_eq!(pcrs[&pcr11], expected);
    assert!(!own.replay_onto(Bank::Sha384, &mut pcrs));

    for (change, fault) in [
        (text.replace("\u{1e}", ""), cel::Fault::Framing),
        (text[..text.len() - 1].to_owned(), cel::Fault::Framing),
        (text.replace("\"pcr\":11", "\"pcr\":12"), cel::Fault::Pcr(PcrIndex::new(12).unwrap())),
        (text.replace("\"recnum\":1", "\"recnum\":2"), cel::Fault::Number(2)),
        (text.replace("leave-initrd", "leave-Initrd"), cel::Fault::Digest(Bank::Sha256)),
        (text.replace("\"pillar\"", "\"systemd\""), cel::Fault::ContentType("systemd".into())),
    ] {
        let cel::Error::Record { fault: found, .. } = CelLog::parse(change.as_bytes()).unwrap_err() else {
            panic!("a record is at fault")
        };
        assert_eq!(found, fault);
    }
    let unknown = text.replace("\"event\":\"phase\"", "\"event\":\"phase\",\"more\":1");
    assert!(matches!(
        CelLog::parse(unknown.as_bytes()),
        Err(cel::Error::Record { number: 0, fault: cel::Fault::Json(_) })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever one byte of the log becomes: no panic, and what the log proves does not change unnoticed: either it
    /// is refused, or the values differ, or the byte was in data that no digest covers, or in an event that
    /// extends nothing.
    // attack: A13
    #[test]
    fn one_changed_byte_never_panics(at in 0..LOG.len(), flip in 1..=255u8) {
        let mut bytes = LOG.to_vec();
        bytes[at] ^= flip;
        if let Ok(log) = EventLog::parse(&bytes) {
            let _ = log.replay(Bank::Sha256);
            let _ = review(&log, Bank::Sha256, &firmware_pcrs(), ExitBootServices::Required);
            let _ = state(&log, Bank::Sha256);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = EventLog::parse(&bytes);
        let _ = EventLog::parse(&[&LOG[..77], &bytes].concat());
        let _ = CelLog::parse(&bytes);
        let _ = signatures(&bytes);
    }

    /// A prefix of a log is a log only where an event ends.
    #[test]
    fn a_cut_log_is_refused_or_shorter(end in 0..LOG.len()) {
        let whole = EventLog::parse(LOG).unwrap();
        if let Ok(log) = EventLog::parse(&LOG[..end]) {
            prop_assert!(log.events.len() < whole.events.len());
        }
    }
}
