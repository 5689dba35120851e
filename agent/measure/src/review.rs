//! Whether a firmware event log, once its replay is proved, is one that firmware writes: which event types a PCR may
//! hold, one separator in each, nothing behind the end of the boot services.
//!
//! These rules hold for any machine; what a pillar must be on top of them is `pillar_verify`'s policy.

use crate::content::{self, Content, content, is_measured, measured_authority};
use crate::tcg::{Event, EventLog, EventType};
use pillar_model::{Bank, PcrIndex};

/// What firmware measures last (PFP section 8.2.4, "ExitBootServices").
const EXIT_SUCCESS: &str = "Exit Boot Services Returned with Success";

/// Whether the log must end with the end of the boot services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitBootServices {
    /// It must: the operating system runs, and nothing of the firmware measures any more.
    Required,
    /// The policy says that this firmware does not log it.
    MayBeAbsent,
}

/// What is wrong with a log that replays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {number} ({event_type}): {fault}")]
pub struct Objection {
    /// Number of the event; 0 when an event is missing.
    pub number: usize,
    /// The PCR; `None` when the log has no event at all.
    pub pcr: Option<PcrIndex>,
    /// The event's type; [`EventType::Separator`] or [`EventType::EfiAction`] when that is what is missing.
    pub event_type: EventType,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The PCR may not hold events of this type.
    #[error("this type may not be in this PCR")]
    Type,
    /// The type may not stand behind the separator in this PCR.
    #[error("stands behind the separator")]
    BehindSeparator,
    /// The separator says that the firmware met an error.
    #[error("the separator tells of an error in the firmware")]
    ErrorSeparator,
    /// A second separator.
    #[error("the second separator in this PCR")]
    SecondSeparator,
    /// The PCR has events and no separator.
    #[error("there is no separator")]
    NoSeparator,
    /// The data is not what was measured.
    #[error("its data does not hash to its digest")]
    NotMeasured,
    /// The data does not have the form of the type.
    #[error("its data cannot be read: {0}")]
    Content(#[from] content::Error),
    /// The log does not tell that the boot services ended, or goes on behind it.
    #[error("the log does not end with the end of the boot services")]
    NoExit,
}

fn allowed(pcr: u8, event_type: EventType) -> bool {
    use EventType as E;
    match event_type {
        E::Separator => true,
        E::PostCode
        | E::PostCode2
        | E::SCrtmContents
        | E::SCrtmVersion
        | E::NonhostCode
        | E::NonhostInfo
        | E::PlatformFirmwareBlob
        | E::PlatformFirmwareBlob2
        | E::HcrtmEvent
        | E::TxtBiosAcRegData
        | E::TxtCpuScrtmStat
        | E::TxtLcpControlHash
        | E::TxtElementsHash
        | E::TxtStmHash => matches!(pcr, 0 | 2),
        E::Action | E::EfiAction => true,
        E::CpuMicrocode
        | E::PlatformConfigFlags
        | E::TableOfDevices
        | E::NonhostConfig
        | E::HandoffTables
        | E::HandoffTables2 => matches!(pcr, 0 | 1 | 3),
        E::VariableBoot | E::VariableBoot2 => matches!(pcr, 1 | 5),
        E::VariableDriverConfig => matches!(pcr, 1 | 3 | 5 | 7),
        E::BootServicesDriver | E::RuntimeServicesDriver => matches!(pcr, 0 | 2),
        E::BootServicesApplication => matches!(pcr, 2 | 4),
        E::SpdmFirmwareBlob => pcr == 2,
        E::SpdmFirmwareConfig => pcr == 3,
        E::SpdmDevicePolicy | E::SpdmDeviceAuthority | E::VariableAuthority => pcr == 7,
        E::GptEvent | E::GptEvent2 | E::IplPartitionData => pcr == 5,
        E::CompactHash => matches!(pcr, 4..=6),
        E::OmitBootDeviceEvents => pcr == 4,
        // Loaders: GRUB in 8 and 9, systemd-stub in 11 to 13, shim in 14, systemd-boot in 5 and 12, the kernel in 9.
        E::Ipl => matches!(pcr, 4 | 8 | 9 | 11..=14),
        E::EventTag => matches!(pcr, 1 | 4 | 5 | 8 | 9 | 11..=14),
        E::PrebootCert | E::Unused | E::NoAction | E::Unknown(_) => false,
    }
}

/// May an event of this type stand behind the separator of this PCR?
fn allowed_behind(pcr: u8, event_type: EventType) -> bool {
    use EventType as E;
    match pcr {
        4 => {
            matches!(event_type, E::BootServicesApplication | E::EfiAction | E::Action | E::Ipl | E::EventTag)
        }
        5 => matches!(event_type, E::GptEvent | E::GptEvent2 | E::EfiAction | E::Action | E::EventTag),
        7 => event_type == E::VariableAuthority,
        // Tables for the operating system and drivers from devices that are connected late.
        1..=3 => event_type != E::SCrtmVersion,
        _ => false,
    }
}

fn check_data(event: &Event<'_>, pcr: u8, bank: Bank) -> Result<(), Fault> {
    match event.event_type {
        EventType::Separator => {
            if !is_measured(event, bank) {
                return Err(Fault::NotMeasured);
            }
            match content(event)? {
                Content::Separator => Ok(()),
                _ => Err(Fault::ErrorSeparator),
            }
        }
        EventType::EfiAction | EventType::Action | EventType::VariableDriverConfig
            if matches!(pcr, 4 | 5 | 7) =>
        {
            content(event)?;
            if is_measured(event, bank) { Ok(()) } else { Err(Fault::NotMeasured) }
        }
        // Old shims also get the length fields wrong, so what it says is read only where it decides something.
        EventType::VariableAuthority => match measured_authority(event, bank) {
            Some(_) => Ok(()),
            None => Err(Fault::NotMeasured),
        },
        _ => Ok(()),
    }
}

/// Judges the events of the PCRs of interest, in the order of the log. The replay must have been proved first.
pub fn review(
    log: &EventLog<'_>,
    bank: Bank,
    pcrs: &[PcrIndex],
    exit: ExitBootServices,
) -> Result<(), Objection> {
    for pcr in pcrs {
        let events = log.events.iter().filter(|e| e.extends() && e.pcr == Some(*pcr));
        review_pcr(*pcr, events, bank)?;
    }
    if exit == ExitBootServices::Required { ends_with_exit(log, bank) } else { Ok(()) }
}

fn review_pcr<'e, 'a: 'e>(
    pcr: PcrIndex,
    events: impl Iterator<Item = &'e Event<'a>>,
    bank: Bank,
) -> Result<(), Objection> {
    let index = pcr.get();
    let (mut seen, mut separated) = (false, false);
    for event in events {
        seen = true;
        let object =
            |fault| Objection { number: event.number, pcr: Some(pcr), event_type: event.event_type, fault };
        if !allowed(index, event.event_type) {
            return Err(object(Fault::Type));
        }
        check_data(event, index, bank).map_err(object)?;
        if event.event_type == EventType::Separator {
            if separated {
                return Err(object(Fault::SecondSeparator));
            }
            separated = true;
        } else if separated && index < 8 && !allowed_behind(index, event.event_type) {
            return Err(object(Fault::BehindSeparator));
        }
    }
    // The firmware's own PCRs end with a separator; loaders write none into theirs.
    if seen && !separated && index < 8 {
        return Err(Objection {
            number: 0,
            pcr: Some(pcr),
            event_type: EventType::Separator,
            fault: Fault::NoSeparator,
        });
    }
    Ok(())
}

fn ends_with_exit(log: &EventLog<'_>, bank: Bank) -> Result<(), Objection> {
    let last = log.events.iter().rev().find(|e| e.extends());
    let exited = last.is_some_and(|event| {
        event.pcr.map(PcrIndex::get) == Some(5)
            && is_measured(event, bank)
            && content(event) == Ok(Content::Action(EXIT_SUCCESS.into()))
            && event.event_type == EventType::EfiAction
    });
    if exited {
        return Ok(());
    }
    Err(Objection {
        number: last.map_or(0, |e| e.number),
        pcr: last.and_then(|e| e.pcr),
        event_type: last.map_or(EventType::EfiAction, |e| e.event_type),
        fault: Fault::NoExit,
    })
}
