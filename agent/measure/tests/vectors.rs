//! Other people's logs: real ones must replay to the values that their projects expect, changed ones must be refused for
//! the right reason. The vectors are data beside the repository; without them these tests say so and pass.
#![allow(clippy::unwrap_used)]

use pillar_measure::review::{ExitBootServices, review};
use pillar_measure::tcg::EventLog;
use pillar_measure::view::View;
use pillar_model::{Bank, Digest, PcrIndex};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn vectors(folder: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = std::env::var_os("PILLAR_VECTORS").map_or(workspace.join("../shared/vectors"), PathBuf::from);
    let folder = root.join(folder);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no vectors at {} (set PILLAR_VECTORS)", folder.display());
    None
}

fn bank(name: &str) -> Bank {
    serde_json::from_value(Value::from(name)).unwrap()
}

fn values(json: &Value) -> BTreeMap<PcrIndex, Digest> {
    json.as_object()
        .unwrap()
        .iter()
        .map(|(pcr, value)| {
            let value = hex::decode(value.as_str().unwrap().to_lowercase()).unwrap();
            (PcrIndex::new(pcr.parse().unwrap()).unwrap(), Digest(value))
        })
        .collect()
}

#[test]
fn real_logs_replay_to_what_their_projects_expect() {
    let Some(folder) = vectors("eventlogs") else { return };
    let expected: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("expected-pcrs.json")).unwrap()).unwrap();
    let mut compared = 0;
    for entry in &expected {
        let name = entry["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let Some(agreement) = entry.get("agreement") else {
            assert!(EventLog::parse(&bytes).is_err(), "{name} is malformed");
            continue;
        };
        let log = EventLog::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (bank_name, pcrs) in entry["independent_replay"].as_object().unwrap() {
            let bank = bank(bank_name);
            // A header may promise banks that no event has digests of.
            let Some(replayed) = log.replay(bank) else {
                assert!(pcrs.as_object().unwrap().is_empty(), "{name}: no replay in {bank}");
                continue;
            };
            assert_eq!(replayed, values(pcrs), "{name} {bank}");
        }
        if agreement["different"] == 0 && agreement["not_in_log"] == 0 {
            for (bank_name, pcrs) in entry["peer_pcrs"].as_object().unwrap() {
                let replayed = log.replay(bank(bank_name)).unwrap();
                for (pcr, value) in values(pcrs) {
                    assert_eq!(replayed.get(&pcr), Some(&value), "{name} {bank_name} PCR {pcr}");
                    compared += 1;
                }
            }
        }
    }
    eprintln!("{} logs, {compared} values compared", expected.len());
}

/// What `pillar eventlog -o json` prints: each bank of the header with every PCR that an event extends, as the list has
/// it; what is malformed is refused.
#[test]
fn real_logs_are_shown_with_the_values_of_the_list() {
    let Some(folder) = vectors("eventlogs") else { return };
    let expected: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("expected-pcrs.json")).unwrap()).unwrap();
    for entry in &expected {
        let name = entry["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let Ok(log) = EventLog::parse(&bytes) else {
            assert_eq!(entry["banks"], Value::Null, "{name}");
            continue;
        };
        let view = View::new(&log);
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["pcrs"], entry["independent_replay"], "{name}");
        let banks: Vec<&String> = json["pcrs"].as_object().unwrap().keys().collect();
        assert_eq!(
            Value::from(banks.iter().map(|b| b.as_str()).collect::<Vec<_>>()),
            entry["banks"],
            "{name}"
        );
        assert_eq!(Value::from(view.events.len()), entry["events"], "{name}");
        assert!(view.events.iter().all(|event| !event.words.is_empty()), "{name}");
        assert!(!view.to_string().contains(|c: char| c.is_control() && c != '\n'), "{name}");
    }
    assert_eq!(expected.len(), 30);
}

/// Whether the log explains the quoted values in SHA-256, and is one that firmware writes.
fn judge(bytes: &[u8], quoted: &BTreeMap<PcrIndex, Digest>) -> Result<(), String> {
    let log = EventLog::parse(bytes).map_err(|e| e.to_string())?;
    let replayed = log.replay(Bank::Sha256).ok_or("no SHA-256 digests")?;
    for (pcr, value) in quoted {
        match replayed.get(pcr) {
            Some(found) if found == value => {}
            Some(_) => return Err(format!("PCR {pcr} does not replay")),
            None => return Err(format!("PCR {pcr} is explained by no event")),
        }
    }
    let pcrs: Vec<PcrIndex> = quoted.keys().copied().filter(|p| p.get() < 8).collect();
    review(&log, Bank::Sha256, &pcrs, ExitBootServices::MayBeAbsent).map_err(|e| e.to_string())
}

// attack: A5 A9 A10 A11 A12 A13 A14 A15
#[test]
fn changed_logs_are_judged_as_they_must_be() {
    let Some(folder) = vectors("mutations") else { return };
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let reasons = [
        ("01", "(EV_UNUSED): this type may not be in this PCR"),
        ("02", "(EV_EFI_PLATFORM_FIRMWARE_BLOB): this type may not be in this PCR"),
        ("04", "unknown type 0x1234"),
        ("05", "PCR 7 does not replay"),
        ("06", "event log is empty"),
        ("07", "PCR 0 is explained by no event"),
        ("08", "two digests of algorithm 0x000b"),
        ("09", "not of the same algorithms"),
        ("10", "digest algorithm 0x0012 is not in the header"),
        ("11", "the log ends inside it"),
        ("12", "the log ends inside it"),
        ("13", "is not in the header"),
        ("14", "4294967295 digest algorithms"),
        ("15", "cannot have 31 bytes"),
        ("16", "a second log header"),
        ("17", "the separator tells of an error"),
        ("18", "PCR 7 does not replay"),
        ("19", "does not replay"),
    ];
    for (name, entry) in expected.as_object().unwrap() {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let verdict = judge(&bytes, &values(&entry["pcrs_as_quoted"]["sha256"]));
        match reasons.iter().find(|(number, _)| name.starts_with(number)) {
            Some((_, reason)) => {
                let found = verdict.expect_err(name);
                assert!(found.contains(reason), "{name}: {found}");
            }
            None => assert_eq!(verdict, Ok(()), "{name}"),
        }
    }
}

/// Real machines are not refused for their oddities: the general rules hold on all complete logs that are here.
// attack: A16
#[test]
fn real_logs_pass_the_general_rules() {
    let Some(folder) = vectors("eventlogs") else { return };
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let Ok(log) = EventLog::parse(&bytes) else { continue };
        // Logs of one event are cut out of a boot, to show that one event.
        if log.events.len() < 10 || path.extension().is_none_or(|e| e != "bin") {
            continue;
        }
        let bank = if log.has_bank(Bank::Sha256) { Bank::Sha256 } else { Bank::Sha1 };
        let pcrs: Vec<PcrIndex> = (0..8).map(|i| PcrIndex::new(i).unwrap()).collect();
        if let Err(objection) = review(&log, bank, &pcrs, ExitBootServices::MayBeAbsent) {
            panic!("{}: {objection}", path.display());
        }
    }
}
