//! Event logs: the firmware's and our own.

use crate::input::{longer, shorter, somewhere};
use pillar_measure::cel::CelLog;
use pillar_measure::content::{content, is_measured};
use pillar_measure::hash::hash;
use pillar_measure::review::{ExitBootServices, review};
use pillar_measure::secure_boot::state;
use pillar_measure::tcg::EventLog;
use pillar_model::{Bank, Digest, PcrIndex};
use std::collections::BTreeMap;

const BANKS: [Bank; 4] = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];

pub(crate) fn event_log(bytes: &[u8]) -> bool {
    let Ok(log) = EventLog::parse(bytes) else { return false };
    assert!(EventLog::parse(&longer(bytes)).is_err(), "a byte behind the last event was accepted");
    assert!(EventLog::parse(shorter(bytes)).is_err(), "a log that lacks its last byte was accepted");
    let every: Vec<PcrIndex> = (0..24).filter_map(|n| PcrIndex::new(n).ok()).collect();
    for bank in BANKS {
        let replayed = log.replay(bank);
        assert_eq!(replayed.is_some(), log.has_bank(bank), "a bank has values exactly when the log has it");
        assert_eq!(replayed, replayed.as_ref().map(|_| plain_replay(&log, bank)), "replayed otherwise");
        for pcr in &every {
            let _ = review(&log, bank, &[*pcr], ExitBootServices::MayBeAbsent);
        }
        let _ = review(&log, bank, &every, ExitBootServices::Required);
        let _ = state(&log, bank);
    }
    for event in &log.events {
        let _ = content(event);
    }
    data_decides_nothing(bytes, &log);
    true
}

/// The replay as the specification has it, once more: a PCR is the hash of what it was and of the digest.
fn plain_replay(log: &EventLog<'_>, bank: Bank) -> BTreeMap<PcrIndex, Digest> {
    let mut pcrs = BTreeMap::new();
    for event in log.events.iter().filter(|event| event.extends()) {
        let pcr = event.pcr.expect("an event that extends has a PCR");
        let digest = event.digest(bank).expect("every event that extends has a digest of the bank");
        let start = || match (pcr.get(), log.startup_locality) {
            (17..=22, _) => vec![0xFF; bank.digest_bytes()],
            (0, Some(locality)) => {
                let mut value = vec![0; bank.digest_bytes() - 1];
                value.push(locality);
                value
            }
            _ => vec![0; bank.digest_bytes()],
        };
        let value = pcrs.entry(pcr).or_insert_with(|| Digest(start()));
        *value = hash(bank, &[&value.0, &digest.0]);
    }
    pcrs
}

/// Data that no digest covers may say anything: the values stay, and what was measured is not measured any more.
fn data_decides_nothing(bytes: &[u8], log: &EventLog<'_>) {
    let events: Vec<_> = log.events.iter().filter(|e| e.extends() && !e.data.is_empty()).collect();
    let Some(event) = somewhere(bytes, events.len()).map(|at| events[at]) else { return };
    let start = event.data.as_ptr().addr() - bytes.as_ptr().addr();
    let mut changed = bytes.to_vec();
    changed[start + somewhere(bytes, event.data.len()).unwrap_or(0)] ^= 0x41;
    let other = EventLog::parse(&changed).expect("the data of an event that extends decides nothing");
    let same = other.events.iter().find(|e| e.number == event.number).expect("the same events");
    for bank in BANKS {
        assert_eq!(other.replay(bank), log.replay(bank), "data of an event changed a PCR");
        assert!(!(is_measured(event, bank) && is_measured(same, bank)), "two data with one digest");
    }
}

pub(crate) fn own_log(bytes: &[u8]) -> bool {
    let Ok(log) = CelLog::parse(bytes) else { return false };
    assert!(CelLog::parse(&longer(bytes)).is_err(), "a byte behind the last record was accepted");
    assert!(bytes.is_empty() || CelLog::parse(shorter(bytes)).is_err(), "half a record was accepted");
    let mut written = Vec::new();
    for record in log.records() {
        written.push(0x1e);
        written.extend(serde_json::to_vec(record).expect("records are JSON"));
        written.push(b'\n');
        for digest in &record.digests {
            let measured = hash(digest.hash_alg, &[record.content.string.as_bytes()]);
            assert_eq!(digest.digest, measured, "a digest that is not the text's");
        }
    }
    assert_eq!(CelLog::parse(&written).as_ref(), Ok(&log), "written and read again it is another log");
    for bank in BANKS {
        let mut pcrs = BTreeMap::new();
        let complete = log.records().iter().all(|r| r.digests.iter().any(|d| d.hash_alg == bank));
        assert_eq!(log.replay_onto(bank, &mut pcrs), complete, "a record without a digest went unnoticed");
    }
    true
}
