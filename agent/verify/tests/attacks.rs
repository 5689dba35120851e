//! Attacks on an enrolled pillar's evidence, each made by a TPM in memory that signs whatever it is told: what is refused,
//! by which check, for which reason; and oddities that must not be.
#![allow(clippy::unwrap_used)]

mod boot;
mod machine;

use boot::{binding, pcr};
use machine::{Machine, public, sized, with_event};
use pillar_layout::pcr::QUOTED;
use pillar_layout::phase;
use pillar_measure::cel::CelLog;
use pillar_measure::hash::hash;
use pillar_measure::secure_boot::{Signature, signatures};
use pillar_measure::tcg::{Event, EventLog};
use pillar_model::{Bank, DbxEntry, DeniedTpmFirmware, Digest, Evidence, FirmwareReference};
use pillar_verify::ear::{Verifier, ear};
use pillar_verify::{
    AK_ATTRIBUTES, Check, Counters, EkTrust, ExitBootServices, Firmware, Policy, Rejection, SameTpm,
    StateVolume, TLS_CERTIFY_DATA, TlsKeyError, Verified, ak_name, evidence_selection, judge,
    qualifying_data, tls_key, tpm, verify,
};
use proptest::prelude::*;
use ring::signature::KeyPair as _;

/// A pillar that is a member: its keys, firmware and volume are those of its row.
struct Peer {
    machine: Machine,
    evidence: Evidence,
    ek_public: Vec<u8>,
    ak_name: Vec<u8>,
    firmware: FirmwareReference,
}

impl Peer {
    fn new() -> Self {
        Self::admitted(Machine::new(&[4; 65]))
    }

    fn admitted(machine: Machine) -> Self {
        let mut peer = Self {
            ek_public: machine.ek_public.clone(),
            ak_name: ak_name(&machine.ak_public).unwrap(),
            firmware: FirmwareReference::default(),
            evidence: evidence(&machine),
            machine,
        };
        let learnt = peer.under(|p| peer.judge(&Policy { firmware: Firmware::Learn, ..p }));
        peer.firmware = learnt.unwrap().firmware();
        peer
    }

    /// Changes the machine and has it show evidence again.
    fn again(mut self, change: impl FnOnce(&mut Machine)) -> Self {
        change(&mut self.machine);
        self.evidence = evidence(&self.machine);
        self
    }

    /// Changes the log, and has the TPM measure it.
    fn logged(self, change: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        self.again(|machine| {
            machine.event_log = change(&machine.event_log);
            machine.measure_again();
        })
    }

    /// Shows a statement of the TPM's in the place of the quote.
    fn shown(mut self, attest: impl FnOnce(&Machine, &[u8]) -> Vec<u8>) -> Self {
        let Machine { event_log, cel, heartbeat_key, .. } = &self.machine;
        let nonce = qualifying_data(&binding(), event_log, cel, heartbeat_key);
        self.evidence.attest = attest(&self.machine, &nonce);
        self.evidence.signature = self.machine.sign(&self.evidence.attest);
        self
    }

    /// With the policy that members are judged by.
    fn under<T>(&self, run: impl FnOnce(Policy<'_>) -> T) -> T {
        let release = boot::release();
        run(Policy {
            releases: &[&release],
            bank: Bank::Sha256,
            ek: EkTrust::Row { ek_public: &self.ek_public, maker: None },
            same_tpm: SameTpm::PinnedAk(&self.ak_name),
            firmware: Firmware::Pinned(&self.firmware),
            state: StateVolume::Pinned(boot::STATE_VOLUME),
            exit_boot_services: ExitBootServices::Required,
            denied_tpm_firmware: &[],
            dbx_required: &[],
            previous: None,
            session: None,
        })
    }

    fn judge(&self, policy: &Policy<'_>) -> Result<Verified, Rejection> {
        verify(&self.evidence, &binding(), policy)
    }

    fn verdict(&self) -> Result<Verified, Rejection> {
        self.under(|policy| self.judge(&policy))
    }

    #[track_caller]
    fn refused(&self, check: Check, reason: &str) -> Rejection {
        let rejection = self.verdict().expect_err("must be refused");
        assert_eq!(rejection.check, check, "{rejection}");
        assert!(rejection.reason.contains(reason), "{rejection}");
        rejection
    }
}

/// As one pillar shows it to another: without certificate and activation.
fn evidence(machine: &Machine) -> Evidence {
    Evidence { activated: Vec::new(), ..machine.evidence(&binding(), Vec::new()) }
}

fn event<'a>(log: &'a EventLog<'_>, is: impl Fn(&Event<'_>) -> bool) -> &'a Event<'a> {
    log.events.iter().find(|e| is(e)).unwrap()
}

fn bytes_of<'a>(log: &'a [u8], event: &Event<'_>) -> &'a [u8] {
    let parsed = EventLog::parse(log).unwrap();
    let next = parsed.events.iter().find(|e| e.offset > event.offset).map_or(log.len(), |e| e.offset);
    &log[event.offset..next]
}

/// The log without this event, and perhaps with other bytes in its place.
fn replaced(log: &[u8], event: &Event<'_>, with: &[u8]) -> Vec<u8> {
    let old = bytes_of(log, event).len();
    [&log[..event.offset], with, &log[event.offset + old..]].concat()
}

const SEPARATOR: u32 = 4;
const IMAGE: u32 = 0x8000_0003;

#[test]
fn a_member_is_verified_without_certificate_and_activation() {
    let peer = Peer::new();
    let verified = peer.verdict().unwrap();
    assert_eq!(verified.heartbeat_key(), [0x77; 32]);
    assert_eq!(verified.firmware(), peer.firmware);
    assert!(verified.ek_issuers().is_empty());
    assert!(!format!("{verified:?}").contains("[0, 0, 0"));
}

/// The other strong bank, under an AK that signs with SHA-256 as before.
// attack: A5
#[test]
fn the_sha384_bank_is_verified_where_the_policy_says_so() {
    let bank = Bank::Sha384;
    let peer = Peer::new();
    // Init extends every bank that the TPM has.
    let mut cel = String::new();
    for record in boot::own_log(&phase::ALL, &[]).lines() {
        let mut record: serde_json::Value =
            serde_json::from_str(record.trim_start_matches('\u{1e}')).unwrap();
        let text = record["content"]["string"].as_str().unwrap().to_owned();
        let digest = hash(bank, &[text.as_bytes()]).to_string();
        let more = serde_json::json!({ "hashAlg": "sha384", "digest": digest });
        record["digests"].as_array_mut().unwrap().push(more);
        cel += &format!("\u{1e}{record}\n");
    }
    let peer = peer.again(|m| m.cel = cel.into_bytes());
    let mut pcrs = EventLog::parse(&boot::EVENT_LOG).unwrap().replay(bank).unwrap();
    let mut release = boot::release();
    let mut prediction = release.pcrs[&Bank::Sha256].clone();
    let zero = Digest(vec![0; 48]);
    prediction.fixed = [4, 9].map(|i| (pcr(i), pcrs[&pcr(i)].clone())).into();
    let mut uki = pcrs[&pcr(11)].clone();
    for name in phase::ALL {
        pillar_measure::hash::extend(bank, &mut uki, &hash(bank, &[name.as_bytes()]));
        prediction.uki_after_phase.insert(name.to_owned(), uki.clone());
    }
    release.pcrs.insert(bank, prediction);
    assert!(CelLog::parse(&peer.machine.cel).unwrap().replay_onto(bank, &mut pcrs));
    let values: Vec<Digest> =
        QUOTED.iter().map(|i| pcrs.get(&pcr(*i)).cloned().unwrap_or_else(|| zero.clone())).collect();
    let quoted: Vec<&[u8]> = values.iter().map(|v| v.0.as_slice()).collect();
    let body = [evidence_selection(bank), sized(&hash(Bank::Sha256, &quoted).0)].concat();
    let peer = peer.shown(|machine, nonce| machine.attest(tpm::ST_QUOTE, nonce, &body));
    let under = |bank| {
        let releases = [&release];
        let judge = |p: Policy<'_>| {
            let firmware = Firmware::Learn;
            peer.judge(&Policy { bank, releases: &releases, firmware, ..p })
        };
        peer.under(judge)
    };
    let verified = under(bank).unwrap();
    assert_eq!((verified.bank(), &verified.firmware().pcrs[&pcr(0)]), (bank, &pcrs[&pcr(0)]));
    assert_eq!(under(Bank::Sha256).unwrap_err().check, Check::Selection);
}

// attack: A1
#[test]
fn a_quote_of_other_pcrs_is_refused() {
    let own = evidence_selection(Bank::Sha256);
    let relabelled = || {
        let mut pcrs = QUOTED;
        pcrs[pcrs.len() - 1] = 16;
        tpm::selection(Bank::Sha256, &pcrs)
    };
    let banks = |parts: &[&[u8]]| [&(parts.len() as u32).to_be_bytes()[..], &parts.concat()].concat();
    let four_bytes = [&own[..6], &[4], &own[7..], &[0]].concat();
    for selection in [
        relabelled(),
        banks(&[&own[4..], &own[4..]]),
        banks(&[&own[4..], &tpm::selection(Bank::Sha1, &[0])[4..]]),
        tpm::selection(Bank::Sha256, &QUOTED[1..]),
        tpm::selection(Bank::Sha256, &[]),
        tpm::selection(Bank::Sha1, &QUOTED),
        tpm::selection(Bank::Sha384, &QUOTED),
        banks(&[]),
        four_bytes,
    ] {
        let peer = Peer::new().shown(|machine, nonce| {
            let digest = &machine.quoted()[own.len()..];
            machine.attest(tpm::ST_QUOTE, nonce, &[&selection, digest].concat())
        });
        peer.refused(Check::Selection, "is not the policy's");
    }
}

// attack: A2 A4
#[test]
fn other_statements_of_the_tpm_are_no_quotes() {
    // Certification, creation, time, NV, session and command audit.
    for kind in [0x8017, 0x801A, 0x8019, 0x8014, 0x8016, 0x8015, 0x0000] {
        Peer::new()
            .shown(|machine, nonce| machine.attest(kind, nonce, &machine.quoted()))
            .refused(Check::Structures, "not a quote");
    }
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let changes: [(Change, &str); 7] = [
        (|a| [&[0xFE], &a[1..]].concat(), "magic is"),
        (|a| [&a[..], &[0]].concat(), "1 bytes behind its end"),
        (|a| a[..a.len() - 1].to_vec(), "ends early"),
        // Two quotes in one, the second over whatever else.
        (|a| [&a[..], &a[..]].concat(), "bytes behind its end"),
        // The signer's name longer than all that follows, and than any name.
        (|a| [&a[..6], &[0, 66], &a[8..40]].concat(), "ends early"),
        (|a| [&a[..6], &[0xFF, 0xFF], &a[8..]].concat(), "over the limit of 66"),
        (|a| [&a[..101], &[0xFF; 4], &a[105..]].concat(), "is not known"),
    ];
    for (change, reason) in changes {
        let peer = Peer::new()
            .shown(|machine, nonce| change(machine.attest(tpm::ST_QUOTE, nonce, &machine.quoted())));
        peer.refused(Check::Structures, reason);
    }
    // A genuine signature, over another quote.
    let mut peer = Peer::new();
    peer.evidence.signature = Peer::new().again(|m| m.counters.clock_ms += 1).evidence.signature;
    peer.refused(Check::Signature, "does not verify");
}

// attack: A3
#[test]
fn statements_of_ordinary_keys_are_refused() {
    let attributes = AK_ATTRIBUTES & !tpm::attribute::RESTRICTED;
    let peer = Peer::new().again(|machine| {
        machine.ak_public = public(machine.ak.public_key().as_ref(), attributes, false);
    });
    peer.refused(Check::Structures, "not restricted");
    // A key without a TPM behind it, said to be an AK.
    let mut peer = Peer::new();
    let forger = Machine::new(&[4; 65]);
    peer.evidence.signature = forger.sign(&peer.evidence.attest);
    peer.refused(Check::Signature, "does not verify");
    peer.evidence.ak_public = forger.ak_public;
    peer.refused(Check::SameTpm, "is pinned");
    // Only a PEM.
    peer.evidence.ak_public = b"-----BEGIN PUBLIC KEY-----".to_vec();
    peer.refused(Check::Structures, "TPMT_PUBLIC of the AK");
}

// attack: A7
#[test]
fn signatures_in_another_form_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(Change, Check, &str); 8] = [
        (|s| s[6..38].fill(0), Check::Signature, "does not verify"),
        (|s| *s = [&s[..4], &[0, 1, 0, 0, 1, 0]].concat(), Check::Structures, "coordinate's length"),
        (
            |s| *s = [&s[..4], &[0, 33, 0], &s[6..38], &s[38..]].concat(),
            Check::Structures,
            "over the limit of 32",
        ),
        (|s| s.push(0), Check::Structures, "1 bytes behind its end"),
        (|s| s[3] = 0x04, Check::Signature, "is not the key's"),
        (|s| s[3] = 0x0C, Check::Signature, "is not the key's"),
        (|s| s[1] = 0x14, Check::Structures, "signature scheme is 0x14"),
        (|s| s[1] = 0x1A, Check::Structures, "signature scheme is 0x1a"),
    ];
    for (change, check, reason) in changes {
        let mut peer = Peer::new();
        change(&mut peer.evidence.signature);
        peer.refused(check, reason);
    }
}

// attack: A8 B5
#[test]
fn a_tpm_that_was_reset_under_a_session_is_refused() {
    let peer = Peer::new();
    let now = peer.machine.counters;
    let session = |opened: Counters| peer.under(|p| peer.judge(&Policy { session: Some(opened), ..p }));
    assert!(session(now).is_ok());
    assert!(session(Counters { clock_ms: 1, ..now }).is_ok());
    for (opened, reason) in [
        (Counters { reset_count: 2, ..now }, "reset counter moved from 2 to 3: the TPM was reset"),
        (Counters { reset_count: 4, ..now }, "reset counter moved from 4 to 3"),
        (Counters { restart_count: 1, ..now }, "restart counter moved from 1 to 0"),
        (Counters { clock_ms: 5001, ..now }, "clock went back from 5001 to 5000 in one session"),
        (Counters { firmware_version: 6, ..now }, "TPM firmware version moved from 0.0.0.6 to 0.0.0.7"),
    ] {
        let rejection = session(opened).unwrap_err();
        assert_eq!(rejection.check, Check::Counters);
        assert!(rejection.reason.contains(reason), "{rejection}");
    }
    // Golden values, extended again after a reset and quoted: all is as it was but the counter.
    let reset = Peer::new().again(|m| m.counters.reset_count += 1);
    assert!(reset.verdict().is_ok());
    let rejection = reset.under(|p| reset.judge(&Policy { session: Some(now), ..p })).unwrap_err();
    assert!(
        rejection.reason.contains("reset under") || rejection.reason.contains("the TPM was reset"),
        "{rejection}"
    );
}

// attack: A9
#[test]
fn what_no_digest_covers_decides_nothing() {
    // The device path of the loader: a remark.
    let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
    let loader = event(&log, |e| e.event_type.to_string() == "EV_EFI_BOOT_SERVICES_APPLICATION");
    let mut bytes = bytes_of(&boot::EVENT_LOG, loader).to_vec();
    bytes.last_mut().map(|b| *b ^= 0xFF).unwrap();
    let peer = Peer::new().logged(|log| replaced(log, loader, &bytes));
    assert!(peer.verdict().is_ok());
    // Its type: what a driver or firmware's code may do, it may not.
    for (code, shown) in
        [(0x8000_0004u32, "EV_EFI_BOOT_SERVICES_DRIVER"), (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB")]
    {
        let mut bytes = bytes_of(&boot::EVENT_LOG, loader).to_vec();
        bytes[4..8].copy_from_slice(&code.to_le_bytes());
        let peer = Peer::new().logged(|log| replaced(log, loader, &bytes));
        let rejection = peer.refused(Check::Events, "this type may not be in this PCR");
        assert!(rejection.reason.contains(shown), "{rejection}");
        assert_eq!((rejection.pcr, rejection.event), (Some(pcr(4)), Some(loader.number)));
    }
    // An authority that is said to be a setting.
    let authority = event(&log, |e| e.event_type.to_string() == "EV_EFI_VARIABLE_AUTHORITY");
    let mut bytes = bytes_of(&boot::EVENT_LOG, authority).to_vec();
    bytes[4..8].copy_from_slice(&0x8000_0001u32.to_le_bytes());
    Peer::new()
        .logged(|log| replaced(log, authority, &bytes))
        .refused(Check::Events, "stands behind the separator");
}

// attack: A11 A12
#[test]
fn logs_without_events_explain_nothing() {
    let mut peer = Peer::new();
    peer.evidence.event_log.clear();
    peer.refused(Check::Sizes, "event log has 0 bytes");
    Peer::new().again(|m| m.event_log.truncate(73)).refused(Check::Replay, "no event explains");
    Peer::new()
        .again(|m| {
            let more = hash(Bank::Sha256, &[&m.pcrs[&7].0, &[0; 32]]);
            m.pcrs.insert(7, more);
        })
        .refused(Check::Replay, "something was extended that no event explains");
}

// attack: A13
#[test]
fn logs_that_lie_are_refused_where_they_do() {
    // Of the first event: count of digests at 81, digests at 85, 107 and 141, size of the data at 191.
    type Change = fn(&mut Vec<u8>);
    let changes: [(Change, &str); 12] = [
        (|log| log[81..85].fill(0xFF), "is not in the header"),
        (|log| log[81] = 2, "event 1"),
        (|log| log[107] = 0x04, "two digests of algorithm 0x0004"),
        (|log| log[107] = 0x12, "digest algorithm 0x0012 is not in the header"),
        (|log| log[191..195].fill(0xFF), "data of 4294967295 bytes is over the limit"),
        (|log| log[191..195].copy_from_slice(&500_000u32.to_le_bytes()), "the log ends inside it"),
        (|log| log[56..60].fill(0xFF), "4294967295 digest algorithms"),
        (|log| log[66] = 31, "cannot have 31 bytes"),
        (|log| log.truncate(5000), "the log ends inside it"),
        (|log| log.extend([1, 2, 3]), "the log ends inside it"),
        (|log| log.extend([0xFF; 64]), "64 bytes of 0xff from here to the end: padding"),
        (|log| *log = [&log[..73], &log[..73], &log[73..]].concat(), "a second log header"),
    ];
    for (change, reason) in changes {
        Peer::new().again(|m| change(&mut m.event_log)).refused(Check::Logs, reason);
    }
    // One digest less in one event than in the others.
    let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
    let second = &log.events[1];
    let old = bytes_of(&boot::EVENT_LOG, second).to_vec();
    let without = [&old[..8], &2u32.to_le_bytes(), &old[12..34], &old[68..]].concat();
    Peer::new()
        .again(|m| m.event_log = replaced(&m.event_log, second, &without))
        .refused(Check::Logs, "not of the same algorithms as those of the events before it");
}

// attack: A14
#[test]
fn separators_stand_once_and_nothing_behind_them() {
    let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
    for number in [4, 5, 7] {
        let separator = event(&log, |e| e.pcr == Some(pcr(number)) && e.data == [0; 4]);
        Peer::new()
            .logged(|log| replaced(log, separator, &[]))
            .refused(Check::Events, "there is no separator");
        let error = |log: &[u8]| {
            let with = with_event(log, number.into(), SEPARATOR, &[0xFF; 4]);
            let last = EventLog::parse(log).unwrap().events.last().unwrap().offset;
            with[last..last + with.len() - log.len()].to_vec()
        };
        Peer::new()
            .logged(|log| replaced(log, separator, &error(log)))
            .refused(Check::Events, "the separator tells of an error");
        Peer::new()
            .logged(|log| with_event(log, number.into(), SEPARATOR, &[0; 4]))
            .refused(Check::Events, "the second separator");
    }
    for (number, event_type) in [(4, 0x8000_0004), (5, 0x8000_0002), (7, 0x8000_0001)] {
        let rejection =
            Peer::new().logged(|log| with_event(log, number, event_type, &[0; 40])).verdict().unwrap_err();
        assert_eq!(rejection.check, Check::Events, "{rejection}");
    }
    Peer::new()
        .logged(|log| with_event(log, 4, IMAGE, b"one more"))
        .refused(Check::Release, "starts a program more");
}

// attack: A15
#[test]
fn events_stand_in_the_order_in_which_firmware_measures() {
    let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
    let of_pcr7: Vec<&Event<'_>> = log.events.iter().filter(|e| e.pcr == Some(pcr(7))).collect();
    let (first, second) = (of_pcr7[0], of_pcr7[1]);
    let swapped = |log: &[u8]| {
        let (a, b) = (bytes_of(log, first), bytes_of(log, second));
        [&log[..first.offset], b, a, &log[second.offset + b.len()..]].concat()
    };
    assert_eq!(bytes_of(&boot::EVENT_LOG, first).len(), second.offset - first.offset);
    Peer::new().again(|m| m.event_log = swapped(&m.event_log)).refused(Check::Replay, "do not lead to");
    // Measured in that order, it is no state of Secure Boot.
    Peer::new().logged(swapped).refused(Check::SecureBoot, "out of order");

    let last = log.events.last().unwrap();
    let peer = Peer::new().logged(|log| replaced(log, last, &[]));
    peer.refused(Check::Events, "does not end with the end of the boot services");
    let exit_boot_services = ExitBootServices::MayBeAbsent;
    let lenient = peer.under(|p| peer.judge(&Policy { exit_boot_services, firmware: Firmware::Learn, ..p }));
    assert!(lenient.is_ok());
}

// attack: A16
#[test]
fn oddities_of_real_machines_are_accepted() {
    let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
    // A byte too many behind the data of an authority, as old shims count.
    let authority = event(&log, |e| e.event_type.to_string() == "EV_EFI_VARIABLE_AUTHORITY");
    let mut bytes = bytes_of(&boot::EVENT_LOG, authority).to_vec();
    let at = bytes.len() - authority.data.len() - 4;
    bytes[at..at + 4].copy_from_slice(&(authority.data.len() as u32 + 1).to_le_bytes());
    bytes.push(0xAA);
    let peer = Peer::new().logged(|log| replaced(log, authority, &bytes));
    assert!(peer.verdict().is_ok());
    // Remarks without a PCR, as Windows writes them, with and without digests.
    let mut remark = u32::MAX.to_le_bytes().to_vec();
    remark.extend([3u32, 0, 12].map(u32::to_le_bytes).concat());
    remark.extend(b"TrustPoint..");
    for at in [73, boot::EVENT_LOG.len()] {
        let peer = Peer::new().logged(|log| [&log[..at], &remark, &log[at..]].concat());
        assert!(peer.verdict().is_ok());
    }
    // A certificate with a negative serial in a database is known by its hash, whatever it says.
    let negative = [0x30, 0x82, 0x01, 0x00, 0x30, 0x82, 0x00, 0xF0, 0x02, 0x01, 0x80];
    let kind =
        [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
    let sizes = [28 + 16 + 11, 0, 16 + 11].map(u32::to_le_bytes);
    let list = [&kind, sizes.as_flattened(), &[0; 16], &negative].concat();
    assert_eq!(signatures(&list), Ok(vec![Signature::Certificate(hash(Bank::Sha256, &[&negative]))]));
}

// attack: A17 P3
#[test]
fn a_change_of_the_firmware_is_named_in_words() {
    // The partition table: its header of 92 bytes, a count, and one partition.
    let table = |guid: u8| [&[guid; 92][..], &1u64.to_le_bytes(), &[0; 128]].concat();
    let mut machine = Machine::new(&[4; 65]);
    machine.event_log = with_event(&machine.event_log, 5, 0x8000_0006, &table(1));
    machine.measure_again();
    let before = machine.event_log.clone();
    let log = EventLog::parse(&before).unwrap();
    let old = event(&log, |e| e.event_type.to_string() == "EV_EFI_GPT_EVENT");
    let other = with_event(&boot::EVENT_LOG, 5, 0x8000_0006, &table(2));
    let other = other[old.offset..old.offset + bytes_of(&before, old).len()].to_vec();
    let rejection = Peer::admitted(machine)
        .logged(|log| replaced(log, old, &other))
        .refused(Check::Firmware, "the partition table is another than when the pillar was admitted");
    assert_eq!((rejection.pcr, rejection.event), (Some(pcr(5)), Some(old.number)));
    assert!(rejection.changed.unwrap().starts_with("the partition table is another"));

    let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
    // An SMBIOS text in PCR 1: one event more, then one less, then two in another order.
    let more = Peer::new().logged(|log| with_event(log, 1, 0x8000_0009, b"OEM strings"));
    let rejection =
        more.refused(Check::Firmware, "is new since the pillar was admitted: tables for the operating");
    assert_eq!(rejection.pcr, Some(pcr(1)));
    let of_pcr1: Vec<&Event<'_>> = log.events.iter().filter(|e| e.pcr == Some(pcr(1))).collect();
    Peer::new()
        .logged(|log| replaced(log, of_pcr1[0], &[]))
        .refused(Check::Firmware, "an event is missing that was there when the pillar was admitted");
    let swapped = |log: &[u8]| {
        let (a, b) = (bytes_of(log, of_pcr1[0]).to_vec(), bytes_of(log, of_pcr1[1]).to_vec());
        let log = replaced(log, of_pcr1[1], &a);
        replaced(&log, of_pcr1[0], &b)
    };
    Peer::new().logged(swapped).refused(Check::Firmware, "stand in another order");
    // Without events the values are told.
    let mut peer = Peer::new().logged(|log| with_event(log, 1, 0x8000_0009, b"OEM strings"));
    peer.firmware.events.clear();
    assert_eq!(peer.refused(Check::Firmware, "is pinned").changed, None);
}

// attack: B2 B3
#[test]
fn another_tpm_is_not_the_member() {
    let mut peer = Peer::new();
    peer.evidence.ek_public = public(&[5; 65], 0x0003_00B2, true);
    peer.refused(Check::EkCertificate, "another than the enrolled one");
    // Cleared: the same EK, a new AK.
    let old = Peer::new();
    let mut peer = Peer::new();
    peer.ak_name = old.ak_name;
    peer.refused(Check::SameTpm, "is pinned");
    // An AK that is loaded under the owner's hierarchy, of the same template.
    let owner = |machine: &Machine, nonce: &[u8]| {
        let name = ak_name(&machine.ak_public).unwrap();
        let signer = [&[0, 0x0B][..], &hash(Bank::Sha256, &[&[0x40, 0, 0, 1], &name]).0].concat();
        let attest = machine.attest(tpm::ST_QUOTE, nonce, &machine.quoted());
        [&attest[..8], &signer, &attest[8 + signer.len()..]].concat()
    };
    Peer::new().shown(owner).refused(Check::Signature, "not a primary key of the endorsement hierarchy");
}

// attack: B1
#[test]
fn the_heartbeat_key_belongs_to_the_quote() {
    let mut peer = Peer::new();
    peer.evidence.heartbeat_key[31] ^= 1;
    peer.refused(Check::Challenge, "extraData");
    peer.evidence.heartbeat_key.clear();
    peer.refused(Check::Challenge, "extraData");
    peer.evidence.heartbeat_key = vec![0x77; 33];
    peer.refused(Check::Sizes, "heartbeat key has 33 bytes");
    assert!(Peer::new().again(|m| m.heartbeat_key.clear()).verdict().is_ok());
}

// attack: B8
#[test]
fn tpms_off_the_list_or_with_denied_firmware_are_refused() {
    let peer = Peer::new();
    let judged = |denied: &[&str], maker: &str| {
        let denied: Vec<DeniedTpmFirmware> = denied.iter().map(|text| text.parse().unwrap()).collect();
        let ek = EkTrust::Row { ek_public: &peer.ek_public, maker: maker.parse().ok() };
        peer.under(|p| peer.judge(&Policy { denied_tpm_firmware: &denied, ek, ..p }))
    };
    // The TPM of these tests says that its firmware is 0.0.0.7.
    for (denied, maker, reason) in [
        (["IFX:0.0.0.7", "STM:0.0.0.9"], "IFX", "TPM firmware 0.0.0.7 is denied (IFX (id:49465800) 0.0.0.7)"),
        (["IFX:0.0.0.1", "STM:0.0.0.1-0.0.0.8"], "STM", "(STM (id:53544D20) 0.0.0.1 to 0.0.0.8)"),
        // A row that does not say whose TPM it is: it may be anybody's.
        (["IFX:0.0.0.1", "STM:0.0.0.6-0.0.0.7"], "", "0.0.0.7); who made this TPM is not known"),
    ] {
        let rejection = judged(&denied, maker).unwrap_err();
        assert_eq!(rejection.check, Check::TpmFirmware, "{rejection}");
        assert!(rejection.reason.contains(reason), "{rejection}");
    }
    // Another maker's firmware of that number is another firmware.
    let verified = judged(&["IFX:0.0.0.7", "STM:0.0.0.9"], "STM").unwrap();
    assert_eq!(verified.tpm_maker().map(|maker| maker.id()).as_deref(), Some("id:53544D20"));
    assert!(judged(&["IFX:0.0.0.0-0.0.0.6", "IFX:0.0.0.8-1.0.0.0"], "").is_ok());
    let allowed = [Digest(vec![1; 32])];
    let mut peer = Peer::new();
    peer.evidence.ek_certificate = vec![0x30];
    let roots = [vec![0x30]];
    let ek = EkTrust::Chain { roots: &roots, intermediates: &[], allowed: &allowed, now_unix_s: 0 };
    let rejection = peer.under(|p| peer.judge(&Policy { ek, ..p })).unwrap_err();
    assert_eq!(rejection.check, Check::EkCertificate);
    assert!(rejection.reason.contains("is not on the list"), "{rejection}");
}

// attack: P22
#[test]
fn a_dbx_that_lacks_what_it_must_have_is_refused() {
    const SHA256: [u8; 16] =
        [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
    const X509: [u8; 16] =
        [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
    let image = Digest(vec![0x11; 32]);
    let certificate = b"certificate".as_slice();
    let list = |kind: [u8; 16], data: &[u8]| {
        let sizes = [28 + 16 + data.len() as u32, 0, 16 + data.len() as u32].map(u32::to_le_bytes);
        [&kind[..], sizes.as_flattened(), &[9; 16], data].concat()
    };
    let dbx = [list(SHA256, &image.0), list(X509, certificate)].concat();
    let peer = Peer::new().logged(|log| {
        let name: Vec<u8> = "dbx".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let parsed = EventLog::parse(log).unwrap();
        let old = event(&parsed, |e| e.data.get(32..38) == Some(&name));
        let data = [&old.data[..24], &(dbx.len() as u64).to_le_bytes(), &name, &dbx].concat();
        let more = with_event(log, 7, 0x8000_0001, &data);
        let parsed = EventLog::parse(&more).unwrap();
        let new = &parsed.events[parsed.events.len() - 2];
        replaced(log, old, bytes_of(&more, new))
    });
    let sha256 = |digest: &Digest| <[u8; 32]>::try_from(digest.0.as_slice()).unwrap();
    let (image, certificate) = (sha256(&image), sha256(&hash(Bank::Sha256, &[certificate])));
    let judged = |required: &[DbxEntry]| peer.under(|p| peer.judge(&Policy { dbx_required: required, ..p }));
    assert!(judged(&[]).is_ok(), "it may hold more");
    let both = [DbxEntry::Certificate(certificate), DbxEntry::Image(image)];
    assert!(judged(&both).is_ok(), "images and certificates");
    // What nobody has, and what is there as the other kind: an image's hash does not forbid what a certificate signed.
    for missing in [DbxEntry::Image([0x22; 32]), DbxEntry::Certificate(image), DbxEntry::Image(certificate)] {
        let rejection = judged(&[both[0], missing, both[1]]).unwrap_err();
        assert_eq!((rejection.check, rejection.pcr), (Check::SecureBoot, Some(pcr(7))));
        let want = format!("dbx lacks 1 of the 3 entries that it must have: {missing} first");
        assert!(rejection.reason.contains(&want), "{rejection}");
    }
}

/// A TLS key's certification, good until it is changed.
struct Certified {
    machine: Machine,
    key: Vec<u8>,
    attest: Vec<u8>,
    signature: Vec<u8>,
}

impl Certified {
    /// `fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | noDA | sign`.
    const ATTRIBUTES: u32 = AK_ATTRIBUTES & !tpm::attribute::RESTRICTED;

    fn new(attributes: u32) -> Self {
        let key = public(&[4; 65], attributes, false);
        Self::of(Machine::new(&[4; 65]), key, TLS_CERTIFY_DATA)
    }

    fn of(machine: Machine, key: Vec<u8>, data: &[u8]) -> Self {
        let name = ak_name(&key).unwrap();
        let attest = machine.attest(tpm::ST_CERTIFY, data, &[sized(&name), sized(&name)].concat());
        Self { signature: machine.sign(&attest), attest, key, machine }
    }

    fn judge(&self) -> Result<Vec<u8>, TlsKeyError> {
        tls_key(&self.machine.ak_public, &self.key, &self.attest, &self.signature)
    }
}

// attack: B3
#[test]
fn a_tls_key_is_the_tpm_s_or_none() {
    let spki = Certified::new(Certified::ATTRIBUTES).judge().unwrap();
    assert_eq!((spki.len(), &spki[26..]), (91, [4; 65].as_slice()));
    for (attributes, reason) in [
        (Certified::ATTRIBUTES & !tpm::attribute::FIXED_TPM, "may leave its TPM"),
        (Certified::ATTRIBUTES & !tpm::attribute::FIXED_PARENT, "may leave its TPM"),
        (Certified::ATTRIBUTES & !tpm::attribute::SENSITIVE_DATA_ORIGIN, "was not made there"),
        (Certified::ATTRIBUTES & !tpm::attribute::SIGN, "sign must be set"),
        (Certified::ATTRIBUTES | tpm::attribute::RESTRICTED, "cannot sign a handshake"),
        (Certified::ATTRIBUTES | tpm::attribute::DECRYPT, "decrypts as well"),
    ] {
        let error = Certified::new(attributes).judge().unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    // Another key than the certified one; a certification for something else; a quote; another TPM's AK.
    let mut other = Certified::new(Certified::ATTRIBUTES);
    other.key = public(&[5; 65], Certified::ATTRIBUTES, false);
    assert_eq!(other.judge(), Err(TlsKeyError::OtherKey));
    let key = public(&[4; 65], Certified::ATTRIBUTES, false);
    assert_eq!(Certified::of(Machine::new(&[4; 65]), key, &[0; 32]).judge(), Err(TlsKeyError::Purpose));
    let mut foreign = Certified::new(Certified::ATTRIBUTES);
    foreign.machine = Machine::new(&[4; 65]);
    assert!(foreign.judge().unwrap_err().to_string().contains("does not verify"));
    let mut quote = Certified::new(Certified::ATTRIBUTES);
    quote.attest[5] = 0x18;
    assert!(quote.judge().unwrap_err().to_string().contains("not a certification"));
    // Any other byte, and any length.
    let good = Certified::new(Certified::ATTRIBUTES);
    for field in 0..4 {
        let parts = [&good.machine.ak_public, &good.key, &good.attest, &good.signature];
        for at in 0..parts[field].len() {
            let mut changed = parts.map(Clone::clone);
            changed[field][at] ^= 0x40;
            let [ak, key, attest, signature] = &changed;
            assert!(tls_key(ak, key, attest, signature).is_err(), "part {field}, byte {at}");
        }
        for length in [0, parts[field].len() - 1, 2000] {
            let mut changed = parts.map(Clone::clone);
            changed[field].resize(length, 0);
            let [ak, key, attest, signature] = &changed;
            assert!(tls_key(ak, key, attest, signature).is_err(), "part {field}, {length} bytes");
        }
    }
}

#[test]
fn a_verdict_is_told_as_an_attestation_result() {
    let peer = Peer::new();
    let tell = |evidence: &Evidence, firmware: &FirmwareReference| {
        let (report, result) = peer.under(|policy| {
            let policy = Policy { firmware: Firmware::Pinned(firmware), ..policy };
            judge(evidence, &binding(), &policy)
        });
        ear("p1", &report, result.as_ref(), 1_800_000_000, Verifier { developer: "d", build: "b" })
    };
    let good = tell(&peer.evidence, &peer.firmware);
    assert_eq!(good["eat_profile"], "tag:github.com,2023:veraison/ear");
    assert_eq!((&good["iat"], &good["ear.verifier-id"]["build"]), (&1_800_000_000.into(), &"b".into()));
    let submod = &good["submods"]["p1"];
    assert_eq!(submod["ear.status"], "affirming");
    let vector = submod["ear.trustworthiness-vector"].as_object().unwrap();
    assert!(vector.values().all(|claim| claim == 2 || claim == 3), "{vector:?}");
    assert_eq!(submod["pillar.verified"]["version"], "1");

    let mut changed = peer.evidence.clone();
    changed.signature[10] ^= 1;
    let bad = &tell(&changed, &peer.firmware)["submods"]["p1"];
    assert_eq!(bad["ear.status"], "contraindicated");
    assert_eq!(bad["ear.trustworthiness-vector"]["instance-identity"], 99);
    assert_eq!(bad["ear.trustworthiness-vector"]["configuration"], 0);
    assert_eq!(bad["pillar.rejection"]["check"], "signature");

    // No check fails without a claim that says so.
    let mut pinned = peer.firmware.clone();
    pinned.pcrs.clear();
    let firmware = tell(&peer.evidence, &pinned);
    assert_eq!(firmware["submods"]["p1"]["ear.trustworthiness-vector"]["configuration"], 96);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever bytes of whichever part change in whatever way, good evidence is no longer good.
    // attack: A2 A13
    #[test]
    fn changed_evidence_is_never_verified(
        part in 0..7usize,
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
        cut in any::<bool>(),
    ) {
        let mut peer = Peer::new();
        let evidence = &mut peer.evidence;
        let part = match part {
            0 => &mut evidence.attest,
            1 => &mut evidence.signature,
            2 => &mut evidence.ak_public,
            3 => &mut evidence.ek_public,
            4 => &mut evidence.event_log,
            5 => &mut evidence.cel,
            _ => &mut evidence.heartbeat_key,
        };
        let at = at.index(part.len());
        if cut { part.truncate(at) } else { part[at] ^= flip }
        prop_assert!(peer.verdict().is_err());
    }

    /// A log whose events are shuffled is not what the TPM measured, unless no PCR sees a difference; and what is signed
    /// is the log itself.
    // attack: A15
    #[test]
    fn reordered_events_are_never_verified(from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
        let events: Vec<&[u8]> = log.events.iter().map(|e| bytes_of(&boot::EVENT_LOG, e)).collect();
        let mut moved = events.clone();
        let event = moved.remove(from.index(events.len()));
        moved.insert(to.index(events.len()), event);
        let moved = [&boot::EVENT_LOG[..73], &moved.concat()].concat();
        prop_assume!(moved != *boot::EVENT_LOG);
        // Under the old signature.
        let mut peer = Peer::new();
        peer.evidence.event_log = moved.clone();
        prop_assert_eq!(peer.verdict().unwrap_err().check, Check::Challenge);
        // Signed as it is, without having been measured.
        let peer = Peer::new().again(|m| m.event_log = moved);
        if let Err(rejection) = peer.verdict() {
            prop_assert!([Check::Logs, Check::Replay, Check::Events].contains(&rejection.check), "{}", rejection);
        } else {
            let order = |bytes: &[u8]| {
                let log = EventLog::parse(bytes).unwrap();
                let of = |number| log.events.iter().filter(|e| e.pcr == Some(pcr(number))).map(|e| e.digest(Bank::Sha256)).collect::<Vec<_>>();
                (0..16).map(of).collect::<Vec<_>>()
            };
            prop_assert_eq!(order(&peer.evidence.event_log), order(&boot::EVENT_LOG));
        }
    }

    /// The log of one machine under the quote of another.
    // attack: A4
    #[test]
    fn swapped_logs_are_never_verified(count in 1..20u32) {
        let other = Peer::new().logged(|log| {
            (0..count).fold(log.to_vec(), |log, n| with_event(&log, 1, 0x8000_0009, &n.to_le_bytes()))
        });
        let mut peer = Peer::new();
        peer.evidence.event_log = other.machine.event_log.clone();
        prop_assert_eq!(peer.verdict().unwrap_err().check, Check::Challenge);
        let peer = Peer::new().again(|m| m.event_log = other.machine.event_log);
        prop_assert_eq!(peer.verdict().unwrap_err().check, Check::Replay);
    }
}
