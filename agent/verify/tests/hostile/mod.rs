//! Evidence that is made to take long, within the limits on sizes. Shared by the test and the benchmark.

use crate::boot;
use crate::machine::{Machine, public, with_event};
use pillar_measure::cel;
use pillar_measure::hash::hash;
use pillar_measure::tcg::{EVENT_MAX_BYTES, EVENTS_MAX, EventLog, LOG_MAX_BYTES};
use pillar_model::{Bank, Digest, Evidence, FirmwareEvent, FirmwareReference};
use pillar_verify::{
    Check, EkTrust, ExitBootServices, Firmware, Policy, SameTpm, StateVolume, ak_name, judge, verify,
};

/// Evidence, and what it is held against.
pub struct Case {
    evidence: Evidence,
    ak_name: Vec<u8>,
    firmware: FirmwareReference,
    chain: bool,
}

/// A case, by name.
type Named = (&'static str, fn() -> Case);

/// The cases.
pub const CASES: &[Named] = &[
    ("a log of as many events as may be", || tables(0)),
    ("a log as large as may be, of as many events", || tables(LOG_MAX_BYTES / EVENTS_MAX - 160)),
    ("as many of the smallest events as may be", smallest),
    ("the partition table's PCR, a separator after each", separators),
    ("authorities, each over its data but one byte", || authorities(40_000, true)),
    ("authorities of 1 KB that are certificates", || authorities(1_000, false)),
    ("authorities of 100 bytes", || authorities(100, false)),
    ("a dbx of certificates of one byte", || dbx(17)),
    ("a dbx of as many digests as may be", || dbx(48)),
    ("remarks of the firmware in the Secure Boot PCR", remarks),
    ("two events as large as may be", largest),
    ("digest count of 0xffffffff", || changed(|log| log[81..85].fill(0xFF))),
    ("number of algorithms of 0xffffffff", || changed(|log| log[56..60].fill(0xFF))),
    ("data of 0xffffffff bytes", || changed(|log| log[191..195].fill(0xFF))),
    ("a log of zeros", || changed(|log| log.resize(LOG_MAX_BYTES, 0))),
    ("an own log as large as may be", || own_log("x")),
    ("an own log of escapes", || own_log("\\u0041")),
    ("an own log of nested arrays", nested),
    ("an EK certificate of nothing but structure", || certificate(&[0x30, 0x80])),
    ("an EK certificate of zeros", || certificate(&[0])),
    ("an EK certificate of nested sequences", || certificate(&[0x30, 0x82, 0x1f, 0xf0])),
];

impl Case {
    fn new(change: impl FnOnce(&mut Machine)) -> Self {
        let mut machine = Machine::new(&[4; 65]);
        let firmware = Self::of(&machine).firmware();
        change(&mut machine);
        let mut case = Self::of(&machine);
        case.firmware = firmware;
        case
    }

    fn of(machine: &Machine) -> Self {
        let evidence = machine.evidence(&boot::binding(), Vec::new());
        let ak_name = ak_name(&evidence.ak_public).unwrap();
        Self { evidence, ak_name, firmware: FirmwareReference::default(), chain: false }
    }

    fn policy<T>(&self, firmware: Firmware<'_>, run: impl FnOnce(&Policy<'_>) -> T) -> T {
        let release = boot::release();
        let roots = [vec![0x30, 0]];
        let chain =
            EkTrust::Chain { roots: &roots, intermediates: &[], allowed: &[], now_unix_s: 1_800_000_000 };
        let row = EkTrust::Row { ek_public: &self.evidence.ek_public, maker: None };
        run(&Policy {
            releases: &[&release, &release],
            bank: Bank::Sha256,
            ek: if self.chain { chain } else { row },
            same_tpm: SameTpm::PinnedAk(&self.ak_name),
            firmware,
            state: StateVolume::Pinned(boot::STATE_VOLUME),
            exit_boot_services: ExitBootServices::Required,
            denied_tpm_firmware: &[],
            dbx_required: &[],
            previous: None,
            session: None,
        })
    }

    fn firmware(&self) -> FirmwareReference {
        self.policy(Firmware::Learn, |policy| {
            verify(&self.evidence, &boot::binding(), policy).unwrap().firmware()
        })
    }

    /// Which check refused; none for what is large but good.
    pub fn judge(&self) -> Option<Check> {
        self.policy(Firmware::Pinned(&self.firmware), |policy| {
            judge(&self.evidence, &boot::binding(), policy).1.err().map(|rejection| rejection.check)
        })
    }
}

/// An event as it stands in a log, measured as its data.
fn event(pcr: u32, event_type: u32, data: &[u8]) -> Vec<u8> {
    let log = with_event(&boot::EVENT_LOG, pcr, event_type, data);
    let at = last(&boot::EVENT_LOG);
    log[at..at + log.len() - boot::EVENT_LOG.len()].to_vec()
}

/// Where the last event begins, which ends the boot services.
fn last(log: &[u8]) -> usize {
    EventLog::parse(log).unwrap().events.last().unwrap().offset
}

/// The real boot's log with an event as often as there is room for it, in front of what stands at `at`.
fn filled(at: usize, event: &[u8], most: usize) -> Case {
    Case::new(|machine| {
        let room = (LOG_MAX_BYTES - machine.event_log.len()) / event.len();
        let events = EVENTS_MAX - EventLog::parse(&machine.event_log).unwrap().events.len();
        let count = most.min(room).min(events);
        machine.event_log =
            [&machine.event_log[..at], &event.repeat(count), &machine.event_log[at..]].concat();
        machine.measure_again();
    })
}

fn measured(pcr: u32, event_type: u32, data: &[u8], most: usize) -> Case {
    filled(last(&boot::EVENT_LOG), &event(pcr, event_type, data), most)
}

/// Tables for the operating system, of so many bytes each: the firmware changed, and all events have to be compared.
fn tables(bytes: usize) -> Case {
    let mut case = measured(1, 0x8000_0009, &vec![0x5a; bytes], EVENTS_MAX);
    let event = |n: u32| FirmwareEvent {
        pcr: boot::pcr(1),
        kind: "EV_EFI_HANDOFF_TABLES".into(),
        digest: Digest(hash(Bank::Sha256, &[&n.to_le_bytes()]).0),
        words: "x".repeat(512),
    };
    case.firmware.events = (0..512).map(event).collect();
    case
}

fn separators() -> Case {
    measured(5, 4, &[0; 4], EVENTS_MAX)
}

/// `UEFI_VARIABLE_DATA` of a variable of the image security database.
fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    let guid =
        [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
    let utf16: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let lengths = [(utf16.len() as u64 / 2).to_le_bytes(), (data.len() as u64).to_le_bytes()];
    [&guid, lengths.as_flattened(), &utf16, data].concat()
}

/// Leave that was given to programs, as often as there is room; perhaps with a byte too many in the data, as old shims
/// have it, so that it takes two tries.
fn authorities(bytes: usize, shim: bool) -> Case {
    let certificate = [&[0; 16][..], &[0x30, 0x82], &vec![0x30; bytes]].concat();
    let data = variable("db", &certificate);
    let mut event = event(7, 0x8000_00E0, &data);
    if shim {
        let at = event.len() - data.len() - 4;
        event[at..at + 4].copy_from_slice(&(data.len() as u32 + 1).to_le_bytes());
        event.push(0);
    }
    filled(last(&boot::EVENT_LOG), &event, EVENTS_MAX)
}

/// The real log with another dbx, in place of the one it has: entries of so many bytes, as many as there is room for.
fn dbx(entry: u32) -> Case {
    Case::new(|machine| {
        let log = EventLog::parse(&machine.event_log).unwrap();
        let name: Vec<u8> = "dbx".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let old = log.events.iter().find(|e| e.data.get(32..38) == Some(&name)).unwrap();
        let kind: &[u8] = if entry == 48 {
            &[0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28]
        } else {
            &[0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72]
        };
        let count = ((EVENT_MAX_BYTES as u32 - 100) / entry).min(8192);
        let list = count * entry;
        let sizes = [28 + list, 0, entry].map(u32::to_le_bytes);
        let list = [kind, sizes.as_flattened(), &vec![7; list as usize]].concat();
        let event = event(7, 0x8000_0001, &variable("dbx", &list));
        let next = log.events[old.number].offset;
        machine.event_log = [&machine.event_log[..old.offset], &event, &machine.event_log[next..]].concat();
        machine.measure_again();
    })
}

fn remarks() -> Case {
    let log = EventLog::parse(&boot::EVENT_LOG).unwrap();
    let separator = log.events.iter().find(|e| e.pcr == Some(boot::pcr(7)) && e.data == [0; 4]).unwrap();
    filled(separator.offset, &event(7, 0x8000_0007, b"DMA Protection Disabled"), EVENTS_MAX)
}

fn largest() -> Case {
    measured(7, 0x8000_00E0, &variable("db", &vec![0x30; EVENT_MAX_BYTES - 100]), 2)
}

/// Events without data in a log of one bank.
fn smallest() -> Case {
    Case::new(|machine| {
        let mut log = [0u32, 3].map(u32::to_le_bytes).concat();
        log.extend([0; 20]);
        log.extend(33u32.to_le_bytes());
        log.extend(b"Spec ID Event03\0");
        log.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0B, 0, 32, 0, 0]);
        let mut event = [1u32, 0x8000_0009, 1].map(u32::to_le_bytes).concat();
        event.extend([0x0B, 0]);
        event.extend([0x77; 32]);
        event.extend(0u32.to_le_bytes());
        log.extend(event.repeat(EVENTS_MAX));
        machine.event_log = log;
        machine.measure_again();
    })
}

/// The real log, changed and signed without being measured.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Case {
    Case::new(|machine| change(&mut machine.event_log))
}

/// Records of the longest texts, as many as there is room for.
fn own_log(unit: &str) -> Case {
    Case::new(|machine| {
        let shown: String = serde_json::from_str(&format!("\"{unit}\"")).unwrap();
        let text = shown.repeat(1500);
        let digest = hash(Bank::Sha256, &[text.as_bytes()]);
        let mut log = String::new();
        for number in 0.. {
            let record = format!(
                "\u{1e}{{\"recnum\":{number},\"pcr\":11,\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\
                 \"content_type\":\"pillar\",\"content\":{{\"event\":\"phase\",\"string\":\"{}\"}}}}\n",
                unit.repeat(1500)
            );
            if log.len() + record.len() > cel::LOG_MAX_BYTES {
                break;
            }
            log += &record;
        }
        machine.cel = log.into_bytes();
        machine.measure_again();
    })
}

fn nested() -> Case {
    Case::new(|machine| machine.cel = format!("\u{1e}{{\"recnum\":{}}}\n", "[".repeat(60_000)).into_bytes())
}

fn certificate(unit: &[u8]) -> Case {
    let mut case = Case::new(|machine| {
        machine.ek_public = public(&[4; 65], 0x0003_00B2, true);
    });
    case.evidence.ek_certificate = unit.repeat(8192 / unit.len());
    case.chain = true;
    case
}
