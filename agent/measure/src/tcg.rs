//! The firmware's event log: TCG PC Client Platform Firmware Profile (PFP) 1.06, section 10, crypto agile format, as
//! Linux shows it in `binary_bios_measurements`.
//!
//! The parser takes a log whole or not at all: a length that lies, an algorithm too many or too few, a second header
//! or a byte left over is an [`Error`] with the event's number and offset. What an event means is
//! [`Event::content`]; whether it may stand where it stands is [`crate::review`]'s business.
//!
//! SHA-1-only logs (PFP before 1.21) parse as well, so that a tool can show them; they have no other bank, so nothing
//! that asks for SHA-256 is ever satisfied by one.
//!
//! What real logs have and this parser takes: digests in any order and of fewer algorithms than the header names, as
//! long as all events agree; algorithms that are not known here; events without a PCR; remarks (`EV_NO_ACTION`) with
//! digests of anything; a locality or a hardware root of trust that decides what PCR 0 begins with; vendor data in the
//! header; events that were logged twice (the kernel appends what came behind `GetEventLog`). What the kernel never
//! hands out is padding behind the last event; it is refused, and named.

use crate::bytes::{Reader, Short};
use crate::hash::{extend_bytes, zero};
use pillar_model::{Bank, Digest, PcrIndex};
use std::collections::BTreeMap;
use std::fmt;

/// A log larger than this is refused; real ones have 10 to 200 KB. A verification reads every byte a few times and has to
/// end within 10 ms, whoever sent the log.
pub const LOG_MAX_BYTES: usize = 1 << 20;
/// More events than this are refused; real logs have up to a few hundred.
pub const EVENTS_MAX: usize = 4096;
/// An event's data larger than this is refused; the largest real ones are dbx lists of some 30 KB.
pub const EVENT_MAX_BYTES: usize = 512 << 10;
/// More digest algorithms than this in the header are refused; TPMs have up to five banks.
pub const ALGORITHMS_MAX: usize = 8;
/// Digests larger than this are refused; SHA-512's are the largest.
pub const DIGEST_MAX_BYTES: usize = 64;

const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
const SPEC_ID_ANY: &[u8] = b"Spec ID Event";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
const SHA1_BYTES: usize = 20;
/// What PCR 0 begins with behind a hardware root of trust.
const LOCALITY_HCRTM: u8 = 4;

/// Why a log is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not one byte.
    #[error("event log is empty")]
    Empty,
    /// Over [`LOG_MAX_BYTES`].
    #[error("event log of {0} bytes is over the limit of {LOG_MAX_BYTES}")]
    TooLarge(usize),
    /// The header event is wrong.
    #[error("event log header: {0}")]
    Header(String),
    /// An event is wrong.
    #[error("event {number} at offset {offset}: {fault}")]
    Event {
        /// Number of the event; the header is 0.
        number: usize,
        /// Where it begins in the log.
        offset: usize,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The log ends inside the event, or bytes behind the last event are not one.
    #[error("the log ends inside it: {0}")]
    Truncated(#[from] Short),
    /// Bytes behind the last event that are all the same: a memory area was read instead of the log in it.
    #[error("{count} bytes of {byte:#04x} from here to the end: padding, not an event")]
    Padding {
        /// How many.
        count: usize,
        /// 0x00 or 0xFF.
        byte: u8,
    },
    /// Over [`EVENTS_MAX`].
    #[error("over the limit of {EVENTS_MAX} events")]
    TooMany,
    /// Over [`EVENT_MAX_BYTES`].
    #[error("data of {0} bytes is over the limit of {EVENT_MAX_BYTES}")]
    DataTooLarge(u32),
    /// The PCR does not exist.
    #[error("PCR {0} does not exist")]
    Pcr(u32),
    /// More digests than the header has algorithms.
    #[error("{found} digests, the header has {known} algorithms")]
    DigestCount {
        /// Algorithms in the header.
        known: usize,
        /// Digests of the event.
        found: u32,
    },
    /// An event lacks the digest of an algorithm that another event has, or has one more.
    #[error("its digests are not of the same algorithms as those of the events before it")]
    UnevenAlgorithms,
    /// An algorithm that the header does not have.
    #[error("digest algorithm {0:#06x} is not in the header")]
    ForeignAlgorithm(u16),
    /// One algorithm twice.
    #[error("two digests of algorithm {0:#06x}")]
    DuplicateAlgorithm(u16),
    /// A header in the middle of the log.
    #[error("a second log header")]
    SecondHeader,
    /// A startup locality that is malformed, not the first, or behind measurements into PCR 0.
    #[error("startup locality {0}")]
    StartupLocality(&'static str),
}

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Event types of the PFP (section 10.4.1) that are known here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventType {
            $($(#[$doc])* $name,)*
            /// A type that is not known: shown by tools, never accepted in a PCR that counts.
            Unknown(u32),
        }

        impl EventType {
            /// The type of a number.
            #[must_use]
            pub fn from_code(code: u32) -> Self {
                match code {
                    $($code => Self::$name,)*
                    other => Self::Unknown(other),
                }
            }
        }

        impl fmt::Display for EventType {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::Unknown(code) => write!(f, "unknown type {code:#x}"),
                }
            }
        }
    };
}

event_types! {
    /// Code before the firmware's own, deprecated name.
    PrebootCert = 0x0, "EV_PREBOOT_CERT";
    /// Firmware code.
    PostCode = 0x1, "EV_POST_CODE";
    /// Deprecated.
    Unused = 0x2, "EV_UNUSED";
    /// Information that extends nothing.
    NoAction = 0x3, "EV_NO_ACTION";
    /// End of a part of the boot.
    Separator = 0x4, "EV_SEPARATOR";
    /// A string that tells what is done.
    Action = 0x5, "EV_ACTION";
    /// Tagged data, here of the kernel and of systemd-boot.
    EventTag = 0x6, "EV_EVENT_TAG";
    /// Code of the root of trust.
    SCrtmContents = 0x7, "EV_S_CRTM_CONTENTS";
    /// Version of the root of trust.
    SCrtmVersion = 0x8, "EV_S_CRTM_VERSION";
    /// Microcode.
    CpuMicrocode = 0x9, "EV_CPU_MICROCODE";
    /// Settings of the platform.
    PlatformConfigFlags = 0xA, "EV_PLATFORM_CONFIG_FLAGS";
    /// List of devices.
    TableOfDevices = 0xB, "EV_TABLE_OF_DEVICES";
    /// A digest whose data is not told.
    CompactHash = 0xC, "EV_COMPACT_HASH";
    /// Loader stages: GRUB's strings, systemd-stub's sections.
    Ipl = 0xD, "EV_IPL";
    /// Partition data before UEFI.
    IplPartitionData = 0xE, "EV_IPL_PARTITION_DATA";
    /// Code of another processor.
    NonhostCode = 0xF, "EV_NONHOST_CODE";
    /// Settings of another processor.
    NonhostConfig = 0x10, "EV_NONHOST_CONFIG";
    /// Something another processor did.
    NonhostInfo = 0x11, "EV_NONHOST_INFO";
    /// Boot devices are left out.
    OmitBootDeviceEvents = 0x12, "EV_OMIT_BOOT_DEVICE_EVENTS";
    /// Firmware code, with a name (PFP 1.06).
    PostCode2 = 0x13, "EV_POST_CODE2";
    /// Intel TXT: hash of the authenticated code module's registers.
    TxtBiosAcRegData = 0x40A, "TXT BIOSAC_REG_DATA";
    /// Intel TXT: status of the processor's root of trust.
    TxtCpuScrtmStat = 0x40B, "TXT CPU_SCRTM_STAT";
    /// Intel TXT: launch control policy.
    TxtLcpControlHash = 0x40C, "TXT LCP_CONTROL_HASH";
    /// Intel TXT: elements of the policy.
    TxtElementsHash = 0x40D, "TXT ELEMENTS_HASH";
    /// Intel TXT: SMM transfer monitor.
    TxtStmHash = 0x40E, "TXT STM_HASH";
    /// A variable of the Secure Boot policy.
    VariableDriverConfig = 0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG";
    /// A boot variable.
    VariableBoot = 0x8000_0002, "EV_EFI_VARIABLE_BOOT";
    /// A program started by the firmware.
    BootServicesApplication = 0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION";
    /// A driver.
    BootServicesDriver = 0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER";
    /// A driver that stays.
    RuntimeServicesDriver = 0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER";
    /// The partition table.
    GptEvent = 0x8000_0006, "EV_EFI_GPT_EVENT";
    /// A string that tells what is done.
    EfiAction = 0x8000_0007, "EV_EFI_ACTION";
    /// Firmware code.
    PlatformFirmwareBlob = 0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB";
    /// Tables for the operating system.
    HandoffTables = 0x8000_0009, "EV_EFI_HANDOFF_TABLES";
    /// Firmware code, with a name.
    PlatformFirmwareBlob2 = 0x8000_000A, "EV_EFI_PLATFORM_FIRMWARE_BLOB2";
    /// Tables, with a name.
    HandoffTables2 = 0x8000_000B, "EV_EFI_HANDOFF_TABLES2";
    /// A boot variable, of which only the data is measured.
    VariableBoot2 = 0x8000_000C, "EV_EFI_VARIABLE_BOOT2";
    /// The partition table, without what changes.
    GptEvent2 = 0x8000_000D, "EV_EFI_GPT_EVENT2";
    /// The hardware's root of trust.
    HcrtmEvent = 0x8000_0010, "EV_EFI_HCRTM_EVENT";
    /// The key or digest that allowed an image to start.
    VariableAuthority = 0x8000_00E0, "EV_EFI_VARIABLE_AUTHORITY";
    /// Firmware of a device.
    SpdmFirmwareBlob = 0x8000_00E1, "EV_EFI_SPDM_FIRMWARE_BLOB";
    /// Settings of a device.
    SpdmFirmwareConfig = 0x8000_00E2, "EV_EFI_SPDM_FIRMWARE_CONFIG";
    /// Policy for devices.
    SpdmDevicePolicy = 0x8000_00E3, "EV_EFI_SPDM_DEVICE_POLICY";
    /// Authority over devices.
    SpdmDeviceAuthority = 0x8000_00E4, "EV_EFI_SPDM_DEVICE_AUTHORITY";
}

/// A parsed log; events borrow from the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// The digest algorithms as TPM algorithm number and digest size, as the header has them.
    pub algorithms: Vec<(u16, usize)>,
    /// False for a SHA-1-only log without a header.
    pub crypto_agile: bool,
    /// The locality from which the TPM was started, when the log tells it; it is PCR 0's first value.
    pub startup_locality: Option<u8>,
    /// All events behind the header.
    pub events: Vec<Event<'a>>,
    /// What extended PCR 0 first.
    first_in_pcr0: Option<EventType>,
    /// The algorithms of the digests that every extending event has, a bit for each of `algorithms`; a header may
    /// promise more.
    used: Option<u8>,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its number; the header is 0, so the first event of a crypto agile log is 1.
    pub number: usize,
    /// Where it begins in the log.
    pub offset: usize,
    /// The PCR; `None` for an event without one (0xFFFFFFFF, which only `EV_NO_ACTION` may have).
    pub pcr: Option<PcrIndex>,
    /// The type.
    pub event_type: EventType,
    digests: Digests<'a>,
    /// The data. What it says counts only where its hash is the digest: see [`crate::content`].
    pub data: &'a [u8],
}

/// The digests of one event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Digests<'a> {
    sha1: Option<&'a [u8; 20]>,
    sha256: Option<&'a [u8; 32]>,
    sha384: Option<&'a [u8; 48]>,
    sha512: Option<&'a [u8; 64]>,
    /// A bit for each of the header's algorithms, those that are not known here as well.
    algorithms: u8,
}

impl<'a> Digests<'a> {
    /// Takes one more; `place` is its algorithm's in the header, which says how long it is.
    fn add(&mut self, id: u16, place: usize, digest: &'a [u8]) -> Result<(), Fault> {
        let bit = 1 << place;
        if self.algorithms & bit != 0 {
            return Err(Fault::DuplicateAlgorithm(id));
        }
        self.algorithms |= bit;
        match Bank::from_alg_id(id) {
            Some(Bank::Sha1) => self.sha1 = digest.try_into().ok(),
            Some(Bank::Sha256) => self.sha256 = digest.try_into().ok(),
            Some(Bank::Sha384) => self.sha384 = digest.try_into().ok(),
            Some(Bank::Sha512) => self.sha512 = digest.try_into().ok(),
            None => {}
        }
        Ok(())
    }

    fn of(&self, bank: Bank) -> Option<&'a [u8]> {
        match bank {
            Bank::Sha1 => self.sha1.map(|d| d.as_slice()),
            Bank::Sha256 => self.sha256.map(|d| d.as_slice()),
            Bank::Sha384 => self.sha384.map(|d| d.as_slice()),
            Bank::Sha512 => self.sha512.map(|d| d.as_slice()),
        }
    }
}

impl<'a> Event<'a> {
    /// What was extended in this bank.
    #[must_use]
    pub fn digest(&self, bank: Bank) -> Option<Digest> {
        self.digest_bytes(bank).map(|d| Digest(d.to_vec()))
    }

    /// [`Event::digest`] where it stands in the log.
    #[must_use]
    pub fn digest_bytes(&self, bank: Bank) -> Option<&'a [u8]> {
        self.digests.of(bank)
    }

    /// Whether it extends its PCR: all do but `EV_NO_ACTION`.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.event_type != EventType::NoAction
    }
}

impl<'a> EventLog<'a> {
    /// Parses a log, whole.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        if bytes.len() > LOG_MAX_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let at_start = |fault| Error::Event { number: 0, offset: 0, fault };
        let first = sha1_event(&mut reader, 0).map_err(at_start)?;
        let mut log = Self {
            algorithms: vec![(Bank::Sha1.alg_id(), SHA1_BYTES)],
            crypto_agile: first.event_type == EventType::NoAction && first.data.starts_with(SPEC_ID),
            startup_locality: None,
            events: Vec::new(),
            first_in_pcr0: None,
            used: None,
        };
        if log.crypto_agile {
            let zero = first.digests.sha1.is_some_and(|d| d.iter().all(|b| *b == 0));
            if first.pcr.map(PcrIndex::get) != Some(0) || !zero {
                return Err(Error::Header("PCR and digest must be zero".into()));
            }
            log.algorithms = spec_id(first.data).map_err(Error::Header)?;
        } else if first.data.starts_with(SPEC_ID_ANY) {
            // The header of a log of before digests had algorithms: a remark like others.
            log.events.push(first);
        } else {
            let first = log.admit(first).map_err(at_start)?;
            log.events.push(first);
        }
        // Most events of real logs have 150 to 500 bytes.
        log.events.reserve((reader.left() / 256).min(EVENTS_MAX));
        log.read_events(&mut reader)?;
        Ok(log)
    }

    fn read_events(&mut self, reader: &mut Reader<'a>) -> Result<(), Error> {
        while reader.left() > 0 {
            let (number, offset) = (self.events.len() + usize::from(self.crypto_agile), reader.offset());
            let event = self.read_event(reader, number);
            let event = event.and_then(|event| self.admit(event));
            self.events.push(event.map_err(|fault| Error::Event { number, offset, fault })?);
        }
        Ok(())
    }

    fn read_event(&self, reader: &mut Reader<'a>, number: usize) -> Result<Event<'a>, Fault> {
        if self.events.len() >= EVENTS_MAX {
            return Err(Fault::TooMany);
        }
        if looks_like_header(reader.peek()) {
            return Err(Fault::SecondHeader);
        }
        if let Some(padding) = padding(reader.peek()) {
            return Err(padding);
        }
        if self.crypto_agile {
            agile_event(reader, number, &self.algorithms)
        } else {
            sha1_event(reader, number)
        }
    }

    /// Rules about single events that hold whatever the policy is.
    fn admit(&mut self, event: Event<'a>) -> Result<Event<'a>, Fault> {
        let in_pcr0 = event.pcr.is_some_and(|pcr| pcr.get() == 0);
        if event.extends() {
            let used = event.digests.algorithms;
            if used == 0 || self.used.is_some_and(|before| before != used) {
                return Err(Fault::UnevenAlgorithms);
            }
            self.used = Some(used);
            if in_pcr0 && self.first_in_pcr0.is_none() {
                self.first_in_pcr0 = Some(event.event_type);
            }
            return Ok(event);
        }
        if event.data.starts_with(SPEC_ID_ANY) {
            return Err(Fault::SecondHeader);
        }
        if let Some(locality) = event.data.strip_prefix(STARTUP_LOCALITY) {
            let [locality] = *locality else { return Err(Fault::StartupLocality("is not one byte")) };
            if !matches!(locality, 0 | 3 | 4) {
                return Err(Fault::StartupLocality("is not 0, 3 or 4"));
            }
            if self.startup_locality.is_some() {
                return Err(Fault::StartupLocality("is told twice"));
            }
            if !in_pcr0 {
                return Err(Fault::StartupLocality("is not in PCR 0"));
            }
            if self.first_in_pcr0.is_some() {
                return Err(Fault::StartupLocality("stands behind a measurement into PCR 0"));
            }
            self.startup_locality = Some(locality);
        }
        Ok(event)
    }

    /// Whether the header has this bank, and every event that extends a PCR has a digest of it.
    #[must_use]
    pub fn has_bank(&self, bank: Bank) -> bool {
        let place = self.algorithms.iter().position(|known| *known == (bank.alg_id(), bank.digest_bytes()));
        place.is_some_and(|place| self.used.is_none_or(|used| used & (1 << place) != 0))
    }

    /// The value of a PCR before the first event.
    #[must_use]
    pub fn initial(&self, pcr: PcrIndex, bank: Bank) -> Digest {
        let mut value = zero(bank);
        match pcr.get() {
            0 => {
                if let Some(last) = value.0.last_mut() {
                    *last = self.locality();
                }
            }
            // Dynamic root of trust: all ones until a launch (PC Client PTP, "PCR initial and reset values").
            17..=22 => value.0.fill(0xFF),
            _ => {}
        }
        value
    }

    /// What PCR 0 begins with: the locality from which the TPM was started, which is 4 when a hardware root of trust
    /// measured before the start (TPM 2.0 part 1, section 34.3; PFP section 10.4.5.3).
    fn locality(&self) -> u8 {
        match self.first_in_pcr0 {
            Some(EventType::HcrtmEvent) => LOCALITY_HCRTM,
            _ => self.startup_locality.unwrap_or(0),
        }
    }

    /// The PCR values that the log leads to in this bank, for every PCR that an event extends; `None` when the log has
    /// no digests of the bank.
    #[must_use]
    pub fn replay(&self, bank: Bank) -> Option<BTreeMap<PcrIndex, Digest>> {
        if !self.has_bank(bank) {
            return None;
        }
        let mut pcrs = BTreeMap::new();
        for event in self.events.iter().filter(|e| e.extends()) {
            let pcr = event.pcr?;
            let value = pcrs.entry(pcr).or_insert_with(|| self.initial(pcr, bank));
            extend_bytes(bank, value, event.digest_bytes(bank)?);
        }
        Some(pcrs)
    }
}

/// What is left of the log, when it is the rest of a memory area: nothing but 0x00 or 0xFF, and no event could be (type
/// 0 with no digest is none).
fn padding(rest: &[u8]) -> Option<Fault> {
    let byte = *rest.first()?;
    // An event may begin with 0xFFFFFFFF (no PCR) or with zeros (PCR 0), but never has eight of them.
    let head = rest.get(..8).unwrap_or(rest);
    let uniform = matches!(byte, 0x00 | 0xFF) && head.iter().all(|b| *b == byte);
    (uniform && rest.iter().all(|b| *b == byte)).then_some(Fault::Padding { count: rest.len(), byte })
}

/// Whether the bytes begin with a header in its SHA-1 form, which no other event of a log has.
fn looks_like_header(bytes: &[u8]) -> bool {
    let no_action = [0, 0, 0, 0, 3, 0, 0, 0];
    bytes.starts_with(&no_action) && bytes.get(32..).is_some_and(|data| data.starts_with(SPEC_ID_ANY))
}

fn spec_id(data: &[u8]) -> Result<Vec<(u16, usize)>, String> {
    let short = |e: Short| e.to_string();
    let mut reader = Reader::new(data);
    reader.take(SPEC_ID.len()).map_err(short)?;
    let _platform_class = reader.u32().map_err(short)?;
    let (_minor, major) = (reader.u8().map_err(short)?, reader.u8().map_err(short)?);
    let _errata = reader.u8().map_err(short)?;
    if major != 2 {
        return Err(format!("specification version {major}, only 2 is known"));
    }
    let _uintn_size = reader.u8().map_err(short)?;
    let count = reader.u32().map_err(short)? as usize;
    if count == 0 || count > ALGORITHMS_MAX {
        return Err(format!("{count} digest algorithms, 1 to {ALGORITHMS_MAX} are possible"));
    }
    let mut algorithms: Vec<(u16, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, size) = (reader.u16().map_err(short)?, usize::from(reader.u16().map_err(short)?));
        if algorithms.iter().any(|(seen, _)| *seen == id) {
            return Err(format!("digest algorithm {id:#06x} is there twice"));
        }
        let right = match Bank::from_alg_id(id) {
            Some(bank) => bank.digest_bytes() == size,
            // SM3-256, SHA3-256, -384, -512 and whatever comes: not replayed, but passed over by their size.
            None => (1..=DIGEST_MAX_BYTES).contains(&size),
        };
        if !right {
            return Err(format!("digests of algorithm {id:#06x} cannot have {size} bytes"));
        }
        algorithms.push((id, size));
    }
    let vendor = usize::from(reader.u8().map_err(short)?);
    reader.take(vendor).map_err(short)?;
    if reader.left() != 0 {
        return Err(format!("{} bytes too many", reader.left()));
    }
    Ok(algorithms)
}

/// The PCR of an event. What extends nothing may name none: 0xFFFFFFFF in the logs of Windows and of current firmware.
fn pcr_of(raw: u32, event_type: EventType) -> Result<Option<PcrIndex>, Fault> {
    match u8::try_from(raw).ok().and_then(|index| PcrIndex::new(index).ok()) {
        None if event_type != EventType::NoAction => Err(Fault::Pcr(raw)),
        pcr => Ok(pcr),
    }
}

fn event_data<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Fault> {
    let size = reader.u32()?;
    if size as usize > EVENT_MAX_BYTES {
        return Err(Fault::DataTooLarge(size));
    }
    Ok(reader.take(size as usize)?)
}

/// `TCG_PCClientPCREvent` (PFP section 10.2.1).
fn sha1_event<'a>(reader: &mut Reader<'a>, number: usize) -> Result<Event<'a>, Fault> {
    let offset = reader.offset();
    let pcr = reader.u32()?;
    let event_type = EventType::from_code(reader.u32()?);
    let pcr = pcr_of(pcr, event_type)?;
    let mut digests = Digests::default();
    digests.add(Bank::Sha1.alg_id(), 0, reader.take(SHA1_BYTES)?)?;
    let data = event_data(reader)?;
    Ok(Event { number, offset, pcr, event_type, digests, data })
}

/// `TCG_PCR_EVENT2` (PFP section 10.2.2).
fn agile_event<'a>(
    reader: &mut Reader<'a>,
    number: usize,
    algorithms: &[(u16, usize)],
) -> Result<Event<'a>, Fault> {
    let offset = reader.offset();
    let pcr = reader.u32()?;
    let event_type = EventType::from_code(reader.u32()?);
    let pcr = pcr_of(pcr, event_type)?;
    let count = reader.u32()?;
    let mut digests = Digests::default();
    // Digests are read before the count is judged, so that a duplicate or foreign one is named; each known
    // algorithm is taken once, so this ends after as many rounds as the header has algorithms.
    for _ in 0..count {
        let id = reader.u16()?;
        let Some(place) = algorithms.iter().position(|(known, _)| *known == id) else {
            return Err(Fault::ForeignAlgorithm(id));
        };
        digests.add(id, place, reader.take(algorithms[place].1)?)?;
    }
    if count as usize > algorithms.len() {
        return Err(Fault::DigestCount { known: algorithms.len(), found: count });
    }
    let data = event_data(reader)?;
    Ok(Event { number, offset, pcr, event_type, digests, data })
}
