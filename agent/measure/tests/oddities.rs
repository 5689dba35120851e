//! What the logs of real machines contain, each on its own: taken, and replayed as the TPM did; and what is no log.
#![allow(clippy::unwrap_used)]

use pillar_measure::hash::{extend, hash};
use pillar_measure::tcg::{EVENTS_MAX, Error, EventLog, EventType, Fault, LOG_MAX_BYTES};
use pillar_measure::view::View;
use pillar_model::{Bank, Digest, PcrIndex};
use std::collections::BTreeMap;

const SHA1: u16 = 0x0004;
const SHA256: u16 = 0x000B;
const SHA384: u16 = 0x000C;
const SHA512: u16 = 0x000D;
const SM3: u16 = 0x0012;
const SHA3_384: u16 = 0x0028;

const NO_ACTION: u32 = 3;
const POST_CODE: u32 = 1;
const HCRTM: u32 = 0x8000_0010;

fn size(algorithm: u16) -> usize {
    match algorithm {
        SHA1 => 20,
        SHA256 | SM3 => 32,
        SHA384 | SHA3_384 => 48,
        _ => 64,
    }
}

/// The event in front of a crypto agile log.
fn header(algorithms: &[u16], vendor: &[u8]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 106, 2]);
    data.extend((algorithms.len() as u32).to_le_bytes());
    for id in algorithms {
        data.extend(id.to_le_bytes());
        data.extend((size(*id) as u16).to_le_bytes());
    }
    data.push(vendor.len() as u8);
    data.extend(vendor);
    legacy(0, NO_ACTION, &[0; 20], &data)
}

/// An event as logs had them before digests had algorithms.
fn legacy(pcr: u32, event_type: u32, digest: &[u8], data: &[u8]) -> Vec<u8> {
    let head = [pcr, event_type].map(u32::to_le_bytes);
    [head.as_flattened(), digest, &(data.len() as u32).to_le_bytes(), data].concat()
}

/// An event whose digest in each algorithm is the algorithm's low byte, over and over.
fn event(pcr: u32, event_type: u32, algorithms: &[u16], data: &[u8]) -> Vec<u8> {
    let mut bytes = [pcr, event_type, algorithms.len() as u32].map(u32::to_le_bytes).concat();
    for id in algorithms {
        bytes.extend(id.to_le_bytes());
        bytes.extend(vec![*id as u8; size(*id)]);
    }
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn locality(value: u8, algorithms: &[u16]) -> Vec<u8> {
    event(0, NO_ACTION, algorithms, &[b"StartupLocality\0".as_slice(), &[value]].concat())
}

fn pcr(index: u8) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// The value of a PCR that began with this last byte and was extended so often by [`event`].
fn extended(bank: Bank, last: u8, times: usize) -> Digest {
    let mut value = vec![0; bank.digest_bytes()];
    *value.last_mut().unwrap() = last;
    let mut value = Digest(value);
    let digest = Digest(vec![bank.alg_id() as u8; bank.digest_bytes()]);
    (0..times).for_each(|_| extend(bank, &mut value, &digest));
    value
}

#[track_caller]
fn replays(log: &[u8], bank: Bank, expected: &[(u8, Digest)]) {
    let replayed = EventLog::parse(log).unwrap().replay(bank).unwrap();
    assert_eq!(replayed, expected.iter().map(|(i, v)| (pcr(*i), v.clone())).collect::<BTreeMap<_, _>>());
}

#[track_caller]
fn fault(log: &[u8]) -> Fault {
    match EventLog::parse(log) {
        Err(Error::Event { fault, .. }) => fault,
        other => panic!("an event must be at fault: {other:?}"),
    }
}

#[test]
fn pcr_0_begins_with_the_locality_of_the_start() {
    let both = [SHA1, SHA256];
    for value in [0, 3, 4] {
        let log = [header(&both, &[]), locality(value, &both), event(0, POST_CODE, &both, b"x")].concat();
        for bank in [Bank::Sha1, Bank::Sha256] {
            replays(&log, bank, &[(0, extended(bank, value, 1))]);
        }
    }
    // Remarks may have no digests at all, and the locality need not be the first event, only before PCR 0's.
    let log = [
        header(&both, &[]),
        event(7, POST_CODE, &both, b"x"),
        locality(3, &[]),
        event(0, POST_CODE, &both, b"x"),
    ];
    replays(
        &log.concat(),
        Bank::Sha256,
        &[(0, extended(Bank::Sha256, 3, 1)), (7, extended(Bank::Sha256, 0, 1))],
    );
    // A log of SHA-1 alone tells it too, as its first event.
    let data = [b"StartupLocality\0".as_slice(), &[3]].concat();
    let log = [legacy(0, NO_ACTION, &[0; 20], &data), legacy(0, POST_CODE, &[4; 20], b"x")].concat();
    replays(&log, Bank::Sha1, &[(0, extended(Bank::Sha1, 3, 1))]);
}

#[test]
fn localities_that_cannot_be_are_refused() {
    let one = [SHA256];
    let start = header(&one, &[]);
    let refused = |events: &[Vec<u8>], reason: &str| {
        let found = fault(&[start.clone(), events.concat()].concat()).to_string();
        assert!(found.contains(reason), "{found}");
    };
    refused(&[locality(1, &one)], "is not 0, 3 or 4");
    refused(&[locality(3, &one), locality(3, &one)], "is told twice");
    refused(&[event(0, POST_CODE, &one, b"x"), locality(3, &one)], "stands behind a measurement");
    refused(&[event(1, NO_ACTION, &one, b"StartupLocality\0\x03")], "is not in PCR 0");
    refused(&[event(0, NO_ACTION, &one, b"StartupLocality\0")], "is not one byte");
}

#[test]
fn behind_a_hardware_root_of_trust_pcr_0_begins_with_4() {
    let one = [SHA256];
    let root = event(0, HCRTM, &one, b"HCRTM");
    let log = [header(&one, &[]), root.clone(), event(0, POST_CODE, &one, b"x")].concat();
    replays(&log, Bank::Sha256, &[(0, extended(Bank::Sha256, 4, 2))]);
    // Whatever locality the start came from afterwards.
    let log = [header(&one, &[]), locality(3, &one), root.clone()].concat();
    replays(&log, Bank::Sha256, &[(0, extended(Bank::Sha256, 4, 1))]);
    // Its components are remarks; one in another place is an event as others are.
    let parts = event(0, NO_ACTION, &one, b"H-CRTM CompMeas\0\x02\x00ab\x02\x00cd");
    let log = [header(&one, &[]), parts, event(0, POST_CODE, &one, b"x"), root].concat();
    replays(&log, Bank::Sha256, &[(0, extended(Bank::Sha256, 0, 2))]);
}

#[test]
fn digests_come_in_any_order_and_of_fewer_algorithms_than_promised() {
    let promised = [SHA1, SHA256, SHA384, SHA512];
    let log = [
        header(&promised, &[]),
        event(4, POST_CODE, &[SHA256, SHA1], b"x"),
        event(4, POST_CODE, &[SHA1, SHA256], b"x"),
    ];
    let log = log.concat();
    replays(&log, Bank::Sha1, &[(4, extended(Bank::Sha1, 0, 2))]);
    replays(&log, Bank::Sha256, &[(4, extended(Bank::Sha256, 0, 2))]);
    let parsed = EventLog::parse(&log).unwrap();
    assert_eq!(parsed.replay(Bank::Sha384), None);
    let view = View::new(&parsed);
    assert!(view.pcrs[&Bank::Sha384].is_empty() && view.pcrs[&Bank::Sha512].is_empty());
    // A header without events leads nowhere, in each of its banks.
    let empty = header(&promised, &[]);
    assert_eq!(EventLog::parse(&empty).unwrap().replay(Bank::Sha512), Some(BTreeMap::new()));
}

#[test]
fn unknown_algorithms_are_passed_over_by_their_size() {
    let all = [SM3, SHA256, SHA3_384];
    let log = [header(&all, &[]), event(9, POST_CODE, &all, b"x")].concat();
    replays(&log, Bank::Sha256, &[(9, extended(Bank::Sha256, 0, 1))]);
    assert_eq!(View::new(&EventLog::parse(&log).unwrap()).unknown_algorithms, [SM3, SHA3_384]);
    let uneven =
        [header(&all, &[]), event(9, POST_CODE, &all, b"x"), event(9, POST_CODE, &all[1..], b"x")].concat();
    assert_eq!(fault(&uneven), Fault::UnevenAlgorithms);
    // A log of SHA-512 and SHA-384.
    let large = [SHA384, SHA512];
    let log = [header(&large, &[]), event(9, POST_CODE, &large, b"x")].concat();
    replays(&log, Bank::Sha512, &[(9, extended(Bank::Sha512, 0, 1))]);
}

#[test]
fn remarks_extend_nothing_whatever_they_name() {
    let one = [SHA256];
    let remarks = [
        event(u32::MAX, NO_ACTION, &one, b"SP800-155 Event3\0"),
        event(u32::MAX, NO_ACTION, &[], b""),
        event(24, NO_ACTION, &one, b"WBCL"),
        event(5, NO_ACTION, &one, b"whatever"),
    ];
    let log = [header(&one, b"vendor"), remarks.concat(), event(5, POST_CODE, &one, b"x")].concat();
    replays(&log, Bank::Sha256, &[(5, extended(Bank::Sha256, 0, 1))]);
    let parsed = EventLog::parse(&log).unwrap();
    assert_eq!(parsed.events[0].pcr, None);
    // What extends has to name a PCR that there is.
    for wrong in [24, u32::MAX] {
        let log = [header(&one, &[]), event(wrong, POST_CODE, &one, b"x")].concat();
        assert_eq!(fault(&log), Fault::Pcr(wrong));
    }
}

#[test]
fn new_types_are_named_and_unknown_ones_numbered() {
    let one = [SHA256];
    let types =
        [0x8000_00E1u32, 0x8000_00E2, 0x8000_00E3, 0x8000_00E4, 0x13, 0x8000_000C, 0x1234_5678, 0x40B];
    let events: Vec<u8> = types.iter().flat_map(|t| event(2, *t, &one, b"")).collect();
    let log = [header(&one, &[]), events].concat();
    let view = View::new(&EventLog::parse(&log).unwrap());
    let names: Vec<&str> = view.events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(
        names[..3],
        ["EV_EFI_SPDM_FIRMWARE_BLOB", "EV_EFI_SPDM_FIRMWARE_CONFIG", "EV_EFI_SPDM_DEVICE_POLICY"]
    );
    assert_eq!((names[4], names[6]), ("EV_POST_CODE2", "unknown type 0x12345678"));
    assert!(view.events.iter().all(|e| !e.words.is_empty()));
    replays(&log, Bank::Sha256, &[(2, extended(Bank::Sha256, 0, types.len()))]);
}

#[test]
fn a_dynamic_launch_begins_with_ones() {
    let one = [SHA256];
    let log = [header(&one, &[]), event(17, POST_CODE, &one, b"x")].concat();
    let mut value = Digest(vec![0xFF; 32]);
    extend(Bank::Sha256, &mut value, &Digest(vec![SHA256 as u8; 32]));
    replays(&log, Bank::Sha256, &[(17, value)]);
}

#[test]
fn logs_of_sha_1_alone_replay_and_begin_with_event_0() {
    let old_header = legacy(0, NO_ACTION, &[0; 20], b"Spec ID Event02\0\0\0\0\0\0\x02\x01\x02\x02\0");
    let events = [legacy(0, 8, &[4; 20], b"1.0"), legacy(7, 4, &[4; 20], &[0; 4])].concat();
    for (log, count) in [(events.clone(), 2), ([old_header.clone(), events.clone()].concat(), 3)] {
        replays(&log, Bank::Sha1, &[(0, extended(Bank::Sha1, 0, 1)), (7, extended(Bank::Sha1, 0, 1))]);
        let parsed = EventLog::parse(&log).unwrap();
        assert_eq!((parsed.crypto_agile, parsed.events.len(), parsed.events[0].number), (false, count, 0));
        assert_eq!(parsed.replay(Bank::Sha256), None);
    }
    assert_eq!(fault(&[events, old_header].concat()), Fault::SecondHeader);
}

#[test]
fn padding_is_named_and_never_part_of_a_log() {
    let one = [SHA256];
    let log = [header(&one, &[]), event(0, POST_CODE, &one, b"x")].concat();
    for byte in [0x00, 0xFF] {
        for count in [1, 8, 16, 5000] {
            let padded = [log.clone(), vec![byte; count]].concat();
            let found = fault(&padded);
            assert_eq!(found, Fault::Padding { count, byte });
            assert!(found.to_string().contains("from here to the end"));
        }
    }
    let old = [legacy(0, 8, &[4; 20], b"1.0"), vec![0; 64]].concat();
    assert_eq!(fault(&old), Fault::Padding { count: 64, byte: 0 });
}

#[test]
fn headers_that_lie_are_refused() {
    let good = header(&[SHA1, SHA256], b"abc");
    assert!(EventLog::parse(&good).is_ok());
    let refused = |change: fn(&mut Vec<u8>), reason: &str| {
        let mut log = good.clone();
        change(&mut log);
        let found = EventLog::parse(&log).unwrap_err().to_string();
        assert!(found.contains(reason), "{found}");
    };
    refused(|log| log[0] = 1, "PCR and digest must be zero");
    refused(|log| log[10] = 1, "PCR and digest must be zero");
    refused(|log| log[53] = 1, "specification version 1");
    refused(|log| log[56] = 0, "0 digest algorithms");
    refused(|log| log[56] = 9, "9 digest algorithms");
    refused(|log| log[56] = 3, "cannot have");
    refused(|log| log[64] = SHA1 as u8, "is there twice");
    refused(|log| log[62] = 32, "cannot have 32 bytes");
    refused(|log| log[68] = 4, "4 bytes wanted");
    refused(|log| log[68] = 2, "1 bytes too many");
    refused(|log| log.clear(), "empty");
    refused(|log| log.truncate(31), "the log ends inside it");
    refused(|log| log.resize(LOG_MAX_BYTES + 1, 0), "over the limit");
}

#[test]
fn a_log_may_have_so_many_events_and_no_more() {
    let one = [SHA256];
    let most = [header(&one, &[]), event(0, POST_CODE, &one, b"").repeat(EVENTS_MAX)].concat();
    replays(&most, Bank::Sha256, &[(0, extended(Bank::Sha256, 0, EVENTS_MAX))]);
    let more = [most, event(0, POST_CODE, &one, b"")].concat();
    assert_eq!(fault(&more), Fault::TooMany);
}

/// What old shims write besides: lengths that do not fit. The authority is told, and is none of db's.
// attack: A16
#[test]
fn authorities_that_cannot_be_read_are_told_by_their_name() {
    let utf16: Vec<u8> = "Shim".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let data = [&[0x50; 16][..], &4u64.to_le_bytes(), &100u64.to_le_bytes(), &utf16, &[0x30; 107]].concat();
    let measured = hash(Bank::Sha256, &[&data]).0;
    let mut bytes = event(7, 0x8000_00E0, &[SHA256], &data);
    bytes[14..46].copy_from_slice(&measured);
    let log = [header(&[SHA256], &[]), bytes].concat();
    let parsed = EventLog::parse(&log).unwrap();
    assert_eq!(parsed.events[0].event_type, EventType::VariableAuthority);
    let view = View::new(&parsed);
    assert_eq!(
        serde_json::to_value(&view.secure_boot.authorities).unwrap(),
        serde_json::json!([{ "other": "Shim" }])
    );
    assert!(view.events[0].data_is_measured);
}
