//! What an event is, in words for people. They tell what the log says; nothing is decided by them.

use crate::content::{Content, content, loader_text};
use crate::tcg::{Event, EventType};

/// Longest piece of an event's own text that is repeated.
const TEXT_MAX_CHARS: usize = 80;

/// What an event is, in a few words, without an article at its end: "variable BootOrder", "partition table".
#[must_use]
pub fn words(event: &Event<'_>) -> String {
    let kind = kind(event.event_type);
    match event.event_type {
        EventType::VariableDriverConfig
        | EventType::VariableBoot
        | EventType::VariableBoot2
        | EventType::VariableAuthority => match content(event) {
            Ok(Content::Variable(variable)) => {
                format!("{kind} {}", plain(&variable.name)).trim_end().to_owned()
            }
            _ => kind.to_owned(),
        },
        EventType::Action | EventType::EfiAction => match content(event) {
            Ok(Content::Action(text)) => with_text(kind, &text),
            _ => kind.to_owned(),
        },
        EventType::Ipl => with_text(kind, &loader_text(event.data)),
        EventType::SCrtmVersion | EventType::PostCode | EventType::OmitBootDeviceEvents => {
            with_text(kind, &loader_text(event.data))
        }
        EventType::PlatformFirmwareBlob2 | EventType::HandoffTables2 | EventType::PostCode2 => {
            with_text(kind, &description(event.data))
        }
        EventType::Separator if event.data != [0; 4] => format!("{kind} that is not of four zero bytes"),
        EventType::Unknown(_) => event.event_type.to_string(),
        _ => kind.to_owned(),
    }
}

fn kind(event_type: EventType) -> &'static str {
    use EventType as E;
    match event_type {
        E::PrebootCert => "certificate from before the boot",
        E::PostCode | E::PostCode2 | E::PlatformFirmwareBlob | E::PlatformFirmwareBlob2 => "firmware code",
        E::Unused => "unused event",
        E::NoAction => "remark",
        E::Separator => "separator",
        E::Action | E::EfiAction => "action",
        E::EventTag => "tagged event",
        E::SCrtmContents => "code of the root of trust",
        E::SCrtmVersion => "version of the root of trust",
        E::CpuMicrocode => "processor microcode",
        E::PlatformConfigFlags => "firmware settings",
        E::TableOfDevices => "table of devices",
        E::CompactHash => "digest without data",
        E::Ipl => "loader's event",
        E::IplPartitionData => "partition data",
        E::NonhostCode => "code of another processor",
        E::NonhostConfig => "settings of another processor",
        E::NonhostInfo => "information of another processor",
        E::OmitBootDeviceEvents => "boot devices left out",
        E::TxtBiosAcRegData
        | E::TxtCpuScrtmStat
        | E::TxtLcpControlHash
        | E::TxtElementsHash
        | E::TxtStmHash => "trusted execution technology",
        E::VariableDriverConfig => "variable",
        E::VariableBoot | E::VariableBoot2 => "boot variable",
        E::BootServicesApplication => "program",
        E::BootServicesDriver | E::RuntimeServicesDriver => "driver",
        E::GptEvent | E::GptEvent2 => "partition table",
        E::HandoffTables | E::HandoffTables2 => "tables for the operating system",
        E::HcrtmEvent => "hardware's root of trust",
        E::VariableAuthority => "authority",
        E::SpdmFirmwareBlob => "firmware of a device",
        E::SpdmFirmwareConfig => "settings of a device",
        E::SpdmDevicePolicy => "policy for devices",
        E::SpdmDeviceAuthority => "authority over devices",
        E::Unknown(_) => "event of unknown type",
    }
}

fn with_text(kind: &str, text: &str) -> String {
    let text = plain(text);
    if text.is_empty() { kind.to_owned() } else { format!("{kind} \"{text}\"") }
}

/// The description in front of a firmware blob or table list: one byte of length, then ASCII.
fn description(data: &[u8]) -> String {
    let text = data.split_first().and_then(|(len, rest)| rest.get(..usize::from(*len)));
    text.map(loader_text).unwrap_or_default()
}

/// Text that can be printed anywhere: no control characters and none that steer how others are shown, not long.
fn plain(text: &str) -> String {
    let shown: String = text
        .trim_end_matches('\0')
        .chars()
        .take(TEXT_MAX_CHARS)
        .map(|c| if c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ' { c } else { '.' })
        .collect();
    // Binary data that was not meant to be text.
    let dots = shown.chars().filter(|c| *c == '.').count();
    if dots * 4 > shown.len() { String::new() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_says_is_shown_without_what_could_harm() {
        assert_eq!(plain("BootOrder\0"), "BootOrder");
        assert_eq!(plain("grub_cmd: linux /vmlinuz-6.1 root=UUID"), "grub_cmd: linux /vmlinuz-6.1 root=UUID");
        assert_eq!(plain("Grün und\u{202e}rot, lang genug"), "Grün und.rot, lang genug");
        assert_eq!(plain("\u{1b}[2J\u{7}\r\n\u{fffd}"), "");
        assert_eq!(plain(&"x".repeat(500)).len(), TEXT_MAX_CHARS);
        assert_eq!(with_text("action", "\u{0}\u{1}\u{2}"), "action");
    }
}
