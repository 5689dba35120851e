//! File names of boot entries with systemd-boot's counter (Boot Loader Specification, "Boot counting"):
//! `pillar_1.2.3+3.efi` has three tries left, `pillar_1.2.3+2-1.efi` two left and one used, `pillar_1.2.3.efi` is
//! blessed. The name on the ESP is what decides; EFI variables are hints.

use std::fmt;

/// Longest file name that is read (the limit of FAT's long names).
const NAME_MAX_BYTES: usize = 255;
/// Longest counter that is read: systemd-boot's own limit is far below.
const COUNTER_MAX_DIGITS: usize = 3;

const PREFIX: &str = "pillar_";
const SUFFIX: &str = ".efi";

/// A boot entry's file name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// Image version.
    pub version: String,
    /// Tries left and tries used; `None` when the entry is blessed.
    pub tries: Option<Tries>,
}

/// A boot entry's counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Boots that the loader will still try.
    pub left: u32,
    /// Boots tried.
    pub done: u32,
}

/// Why a file name is no boot entry of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not `pillar_*.efi`.
    #[error("not of the form pillar_VERSION.efi")]
    Form,
    /// A version with characters that versions do not have.
    #[error("version has other characters than letters, digits, '.', '~', '^' and '-'")]
    Version,
    /// Something behind `+` that is no counter.
    #[error("counter is not +LEFT or +LEFT-DONE")]
    Counter,
}

impl BootEntry {
    /// Takes a file name apart.
    pub fn parse(file_name: &str) -> Result<BootEntry, EntryError> {
        if file_name.len() > NAME_MAX_BYTES {
            return Err(EntryError::Form);
        }
        let stem = file_name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix(SUFFIX))
            .ok_or(EntryError::Form)?;
        let (version, counter) = match stem.split_once('+') {
            Some((version, counter)) => (version, Some(counter)),
            None => (stem, None),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".~^-".contains(c);
        if version.is_empty() || !version.chars().all(allowed) {
            return Err(EntryError::Version);
        }
        let tries = counter.map(Tries::parse).transpose()?;
        Ok(BootEntry { version: version.to_owned(), tries })
    }

    /// True while the loader still counts this entry's boots.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.tries.is_some()
    }

    /// The name without the counter: what blessing renames it to.
    #[must_use]
    pub fn blessed_name(&self) -> String {
        BootEntry { version: self.version.clone(), tries: None }.to_string()
    }
}

impl Tries {
    fn parse(counter: &str) -> Result<Tries, EntryError> {
        let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
        Ok(Tries { left: number(left)?, done: number(done)? })
    }
}

fn number(digits: &str) -> Result<u32, EntryError> {
    let sane = (1..=COUNTER_MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !sane {
        return Err(EntryError::Counter);
    }
    digits.parse().map_err(|_| EntryError::Counter)
}

impl fmt::Display for BootEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.version)?;
        match self.tries {
            None => {}
            Some(Tries { left, done: 0 }) => write!(f, "+{left}")?,
            Some(Tries { left, done }) => write!(f, "+{left}-{done}")?,
        }
        f.write_str(SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        // (name, version, left and done, blessed name)
        let table = [
            ("pillar_1.2.3+3.efi", "1.2.3", Some((3, 0)), "pillar_1.2.3.efi"),
            ("pillar_1.2.3+2-1.efi", "1.2.3", Some((2, 1)), "pillar_1.2.3.efi"),
            ("pillar_1.2.3+0-3.efi", "1.2.3", Some((0, 3)), "pillar_1.2.3.efi"),
            ("pillar_1.2.3.efi", "1.2.3", None, "pillar_1.2.3.efi"),
            ("pillar_7~rc1-2.efi", "7~rc1-2", None, "pillar_7~rc1-2.efi"),
        ];
        for (name, version, tries, blessed) in table {
            let entry = BootEntry::parse(name).expect(name);
            assert_eq!(entry.version, version);
            assert_eq!(entry.tries.map(|t| (t.left, t.done)), tries, "{name}");
            assert_eq!(entry.is_trial(), tries.is_some());
            assert_eq!(entry.blessed_name(), blessed);
            assert_eq!(entry.to_string(), name);
        }
    }

    #[test]
    fn what_is_no_entry() {
        use EntryError::{Counter, Form, Version};
        let table = [
            ("", Form),
            ("pillar_.efi", Version),
            ("pillar_1.2.efi.bak", Form),
            ("other_1.efi", Form),
            ("pillar_1/2.efi", Version),
            ("pillar_+3.efi", Version),
            ("pillar_1+.efi", Counter),
            ("pillar_1+-1.efi", Counter),
            ("pillar_1+3-.efi", Counter),
            ("pillar_1+3-1-1.efi", Counter),
            ("pillar_1+3+3.efi", Counter),
            ("pillar_1+9999.efi", Counter),
            ("pillar_1+x.efi", Counter),
        ];
        for (name, why) in table {
            assert_eq!(BootEntry::parse(name), Err(why), "{name}");
        }
        assert_eq!(BootEntry::parse(&format!("pillar_{}.efi", "1".repeat(300))), Err(Form));
    }
}
