//! Which disk an installer writes to: pure. It takes one that its rule names beyond doubt, or none.

use crate::device::Device;
use crate::plan::{Range, TABLE_ROOM};
use crate::refuse::{Refusal, judge};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What an installer is told when it is built; part of its sealed root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of the image that it carries.
    pub version: String,
    /// Its flavour.
    pub flavour: String,
    /// The images, one for each sector size.
    pub images: Vec<Payload>,
    /// How the disk is chosen; none: a person is asked.
    pub rule: Option<Rule>,
    /// With a rule: a disk that holds something may be overwritten.
    pub overwrite: bool,
}

/// A disk image that an installer carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// The file's name.
    pub file: String,
    /// Bytes of the sectors that it is made for.
    pub sector_bytes: u32,
    /// Its size.
    pub size_bytes: u64,
    /// What of it is not empty, ascending: the installer neither hashes nor reads the rest.
    pub data: Vec<Range>,
    /// SHA-256 of these ranges one after the other, hexadecimal; taken when the whole file had the release's digest.
    pub data_sha256: String,
}

/// How a disk is chosen among those that may be overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rule {
    /// The one with this serial number.
    Serial(String),
    /// The one of this model.
    Model(String),
    /// The one that is smaller than all others.
    Smallest,
    /// The only one.
    Only,
}

/// Text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no rule: there is serial=NUMBER, model=NAME, smallest and only")]
pub struct RuleError(String);

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text.split_once('=') {
            None if text == "smallest" => Ok(Rule::Smallest),
            None if text == "only" => Ok(Rule::Only),
            Some(("serial", serial)) if !serial.trim().is_empty() => {
                Ok(Rule::Serial(serial.trim().to_owned()))
            }
            Some(("model", model)) if !model.trim().is_empty() => Ok(Rule::Model(model.trim().to_owned())),
            _ => Err(RuleError(text.to_owned())),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Serial(serial) => write!(f, "serial={serial}"),
            Rule::Model(model) => write!(f, "model={model}"),
            Rule::Smallest => f.write_str("smallest"),
            Rule::Only => f.write_str("only"),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

/// Why no disk was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// No disk is meant.
    #[error("no disk fits the rule {rule}: {seen}")]
    None {
        /// The rule.
        rule: Rule,
        /// Every disk and what is against it.
        seen: String,
    },
    /// More than one.
    #[error("more than one disk fits the rule {rule}: {names}")]
    Several {
        /// The rule.
        rule: Rule,
        /// Their names.
        names: String,
    },
}

/// Whether an installer may write to this disk, and which image: never to what can be pulled out, never to what is in
/// use (the disk that it booted from is).
pub fn eligible<'a>(disk: &Device, images: &'a [Payload]) -> Result<&'a Payload, String> {
    if disk.is_portable() {
        return Err("it can be removed".to_owned());
    }
    judge(disk).map_err(|refusal| refusal.to_string())?;
    let image = images.iter().find(|image| image.sector_bytes == disk.sector);
    let image = image.ok_or_else(|| {
        let sizes: Vec<String> = images.iter().map(|image| image.sector_bytes.to_string()).collect();
        format!("its sectors have {} bytes, the image is made for {}", disk.sector, sizes.join(" and "))
    })?;
    let needed = image.size_bytes.saturating_sub(TABLE_ROOM);
    if disk.bytes < needed {
        return Err(Refusal::Small { has: disk.bytes, needed }.to_string());
    }
    Ok(image)
}

/// The disk that the rule names.
pub fn pick<'a>(
    rule: &Rule,
    disks: &'a [Device],
    images: &'a [Payload],
) -> Result<(&'a Device, &'a Payload), PickError> {
    let fitting: Vec<(&Device, &Payload)> =
        disks.iter().filter_map(|disk| Some((disk, eligible(disk, images).ok()?))).collect();
    let smallest = fitting.iter().map(|(disk, _)| disk.bytes).min();
    let meant: Vec<(&Device, &Payload)> = fitting
        .into_iter()
        .filter(|(disk, _)| match rule {
            Rule::Serial(serial) => disk.serial.as_ref() == Some(serial),
            Rule::Model(model) => disk.model.as_ref() == Some(model),
            Rule::Smallest => Some(disk.bytes) == smallest,
            Rule::Only => true,
        })
        .collect();
    match meant.as_slice() {
        [one] => Ok(*one),
        [] => Err(PickError::None { rule: rule.clone(), seen: seen(disks, images) }),
        several => {
            let names: Vec<&str> = several.iter().map(|(disk, _)| disk.name.as_str()).collect();
            Err(PickError::Several { rule: rule.clone(), names: names.join(", ") })
        }
    }
}

fn seen(disks: &[Device], images: &[Payload]) -> String {
    let one = |disk: &Device| {
        let why = eligible(disk, images).err().unwrap_or_else(|| "the rule does not name it".to_owned());
        format!("{}: {why}", disk.name)
    };
    if disks.is_empty() {
        return "there is no disk".to_owned();
    }
    disks.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Use;

    const GIB: u64 = 1 << 30;

    fn disk(name: &str, bytes: u64) -> Device {
        Device {
            name: name.to_owned(),
            bytes,
            sector: 512,
            serial: Some(format!("S-{name}")),
            model: Some("Some Disk".to_owned()),
            ..Device::default()
        }
    }

    fn images() -> Vec<Payload> {
        vec![Payload {
            file: "x.raw".to_owned(),
            sector_bytes: 512,
            size_bytes: GIB,
            data: Vec::new(),
            data_sha256: String::new(),
        }]
    }

    fn picked(rule: &str, disks: &[Device]) -> Result<String, String> {
        let rule: Rule = rule.parse().expect("a rule");
        pick(&rule, disks, &images()).map(|(disk, _)| disk.name.clone()).map_err(|e| e.to_string())
    }

    /// What the installer booted from, and a stick beside it.
    fn around() -> [Device; 2] {
        let used = Use::Mounted { what: "dm-0".to_owned(), at: "/".to_owned() };
        let booted = Device { uses: vec![used], ..disk("vda", 4 * GIB) };
        [booted, Device { transport: Some("usb".to_owned()), ..disk("sdz", 4 * GIB) }]
    }

    #[test]
    fn the_one_disk_that_is_meant_is_taken() {
        let two = [around().to_vec(), vec![disk("vdb", 3 * GIB), disk("vdc", 2 * GIB)]].concat();
        assert_eq!(picked("serial=S-vdb", &two), Ok("vdb".to_owned()));
        assert_eq!(picked("smallest", &two), Ok("vdc".to_owned()));
        assert_eq!(picked("only", &two[..3]), Ok("vdb".to_owned()));
        assert_eq!(picked("model=Some Disk", &two[..3]), Ok("vdb".to_owned()));
    }

    #[test]
    fn doubt_is_a_refusal() {
        let two = [around().to_vec(), vec![disk("vdb", 3 * GIB), disk("vdc", 3 * GIB)]].concat();
        for rule in ["only", "smallest", "model=Some Disk"] {
            let said = format!("more than one disk fits the rule {rule}: vdb, vdc");
            assert_eq!(picked(rule, &two), Err(said));
        }
        let none = picked("serial=S-vda", &two[..2]).expect_err("it booted from that one");
        assert!(none.contains("vda: this system runs from it (dm-0 is mounted on /)"), "{none}");
        assert!(none.contains("sdz: it can be removed"), "{none}");
        let small = picked("only", &[disk("vdb", GIB / 2)]).expect_err("too small");
        assert!(small.contains("vdb: it has 536870912 bytes, the image needs"), "{small}");
        let large = Device { sector: 4096, ..disk("vdb", 2 * GIB) };
        let said = picked("only", &[large]).expect_err("other sectors");
        assert!(said.contains("its sectors have 4096 bytes, the image is made for 512"), "{said}");
        assert!(picked("only", &[]).expect_err("none").contains("there is no disk"));
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        for text in ["serial=A B", "model=x=y", "smallest", "only"] {
            assert_eq!(text.parse::<Rule>().map(|rule| rule.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "serial", "serial=", "model= ", "largest", "only=1", "smallest=2"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }
}
