//! Who made a TPM and which firmware runs in it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text names no TPM maker or firmware.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmTextError {
    /// No maker.
    #[error(
        "{0:?} is no TPM maker: \"id:\" and eight of 0-9 and A-F, as in EK certificates, or up to four letters"
    )]
    Maker(String),
    /// No version.
    #[error("{0:?} is no version of TPM firmware: four numbers up to 65535 with dots between them")]
    Version(String),
}

/// Maker of a TPM by its four bytes in the TCG's registry of vendors. EK certificates name it, and the TPM itself does
/// as `TPM_PT_MANUFACTURER`. In documents it is written as in the certificates: `id:49465800`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TpmMaker(pub [u8; 4]);

/// Makers whose letters the registry fills up with spaces, not with zeros: STMicroelectronics and National Semiconductor.
const SPACE_FILLED: [&str; 2] = ["STM", "NSM"];

impl TpmMaker {
    /// As EK certificates write it.
    #[must_use]
    pub fn id(self) -> String {
        format!("id:{:08X}", u32::from_be_bytes(self.0))
    }

    /// The letters that most makers have, without the filling behind them.
    fn letters(&self) -> Option<&str> {
        let end = self.0.iter().rposition(|byte| ![0, b' '].contains(byte))? + 1;
        let letters = std::str::from_utf8(&self.0[..end]).ok()?;
        // Letters that mean another maker when they are typed are not shown.
        (Self::of_letters(letters) == Some(*self)).then_some(letters)
    }

    /// The maker that has these letters in the registry: in capitals, with zeros behind them, or with spaces at some.
    fn of_letters(letters: &str) -> Option<Self> {
        if !(1..=4).contains(&letters.len()) || !letters.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let capitals = letters.to_ascii_uppercase();
        let filling = if SPACE_FILLED.contains(&capitals.as_str()) { b' ' } else { 0 };
        let mut bytes = [filling; 4];
        bytes[..capitals.len()].copy_from_slice(capitals.as_bytes());
        Some(Self(bytes))
    }
}

/// For people: `IFX (id:49465800)`. Typed back as it is, or a part of it, it is the same maker.
impl fmt::Display for TpmMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.letters() {
            Some(letters) => write!(f, "{letters} ({})", self.id()),
            None => f.write_str(&self.id()),
        }
    }
}

/// The form of certificates, in whatever case, or the letters: people type `IFX`. Or both, as they are shown.
impl FromStr for TpmMaker {
    type Err = TpmTextError;
    fn from_str(text: &str) -> Result<Self, TpmTextError> {
        let wrong = || TpmTextError::Maker(text.chars().take(40).collect());
        if let Some((_, id)) = text.strip_suffix(')').and_then(|text| text.split_once(" (")) {
            let maker: Self = id.parse().map_err(|_| wrong())?;
            return if maker.to_string() == text { Ok(maker) } else { Err(wrong()) };
        }
        if let Some(digits) = text.strip_prefix("id:") {
            let mut bytes = [0; 4];
            return hex::decode_to_slice(digits, &mut bytes).map(|()| Self(bytes)).map_err(|_| wrong());
        }
        Self::of_letters(text).ok_or_else(wrong)
    }
}

/// Documents have one form.
impl TryFrom<String> for TpmMaker {
    type Error = TpmTextError;
    fn try_from(text: String) -> Result<Self, TpmTextError> {
        text.parse::<Self>().ok().filter(|maker| maker.id() == text).ok_or(TpmTextError::Maker(text))
    }
}
impl From<TpmMaker> for String {
    fn from(maker: TpmMaker) -> String {
        maker.id()
    }
}

/// Version of a TPM's firmware as its attestations have it: `TPM_PT_FIRMWARE_VERSION_1` and `_2`, one behind the other,
/// written as four numbers of 16 bits. It says something together with the maker alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TpmVersion(pub u64);

impl fmt::Display for TpmVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32| self.0 >> shift & 0xFFFF;
        write!(f, "{}.{}.{}.{}", part(48), part(32), part(16), part(0))
    }
}

impl FromStr for TpmVersion {
    type Err = TpmTextError;
    fn from_str(text: &str) -> Result<Self, TpmTextError> {
        let parts: Option<Vec<u16>> = text.split('.').map(|part| part.parse().ok()).collect();
        let parts = parts.filter(|parts| parts.len() == 4);
        let version = parts
            .map(|parts| Self(parts.into_iter().fold(0, |version, part| version << 16 | u64::from(part))));
        // One form: no sign, no zeros in front.
        version
            .filter(|version| version.to_string() == text)
            .ok_or_else(|| TpmTextError::Version(text.chars().take(40).collect()))
    }
}
impl TryFrom<String> for TpmVersion {
    type Error = TpmTextError;
    fn try_from(text: String) -> Result<Self, TpmTextError> {
        text.parse()
    }
}
impl From<TpmVersion> for String {
    fn from(version: TpmVersion) -> String {
        version.to_string()
    }
}

/// Versions of one maker's firmware that are known to be broken, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedTpmFirmware {
    /// Whose firmware: two makers may give one number to different things.
    pub maker: TpmMaker,
    /// The first version.
    pub first: TpmVersion,
    /// The last one.
    pub last: TpmVersion,
}

impl DeniedTpmFirmware {
    /// Whether it is about this firmware. It is about every maker's when it is not known whose this is.
    #[must_use]
    pub fn covers(&self, maker: Option<TpmMaker>, version: TpmVersion) -> bool {
        maker.is_none_or(|maker| maker == self.maker) && (self.first..=self.last).contains(&version)
    }
}

/// `IFX (id:49465800) 4.0.0.0 to 4.33.0.0`.
impl fmt::Display for DeniedTpmFirmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { maker, first, last } = self;
        write!(f, "{maker} {first}")?;
        if first == last { Ok(()) } else { write!(f, " to {last}") }
    }
}

/// `IFX:4.0.0.0-4.33.0.0`, or one version alone: as people type it.
impl FromStr for DeniedTpmFirmware {
    type Err = TpmTextError;
    fn from_str(text: &str) -> Result<Self, TpmTextError> {
        let (maker, versions) =
            text.rsplit_once(':').ok_or_else(|| TpmTextError::Version(text.chars().take(40).collect()))?;
        let (first, last) = versions.split_once('-').unwrap_or((versions, versions));
        Ok(Self { maker: maker.parse()?, first: first.parse()?, last: last.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(text: &str) -> DeniedTpmFirmware {
        text.parse().expect(text)
    }

    #[test]
    fn makers_have_letters_for_people_and_one_form_in_documents() {
        let maker: TpmMaker = "IFX".parse().expect("a maker");
        assert_eq!((maker.to_string(), maker.id()), ("IFX (id:49465800)".into(), "id:49465800".into()));
        assert_eq!("id:49465800".parse(), Ok(maker));
        let swtpm: TpmMaker = "id:00001014".parse().expect("a maker");
        assert_eq!(swtpm.to_string(), "id:00001014");
        assert_eq!("STM ".parse::<TpmMaker>(), Err(TpmTextError::Maker("STM ".into())));
        assert_eq!("id:53544D20".parse::<TpmMaker>().map(|m| m.to_string()), Ok("STM (id:53544D20)".into()));
        assert_eq!(TpmMaker::try_from("id:49465800".to_owned()), Ok(maker));
        assert_eq!("ifx".parse(), Ok(maker), "nobody's letters are small in the registry");
        for other in ["IFX", "id:4946580", "id:0000101f", ""] {
            assert!(TpmMaker::try_from(other.to_owned()).is_err(), "{other}");
        }
    }

    #[test]
    fn letters_are_filled_up_as_the_registry_does_and_what_is_shown_can_be_typed() {
        for (letters, id) in [
            ("STM", "id:53544D20"),
            ("NSM", "id:4E534D20"),
            ("AMD", "id:414D4400"),
            ("INTC", "id:494E5443"),
            ("IBM", "id:49424D00"),
        ] {
            let maker: TpmMaker = letters.parse().expect(letters);
            assert_eq!((maker.id().as_str(), maker.to_string()), (id, format!("{letters} ({id})")));
            for shown in [maker.to_string(), maker.id(), letters.to_owned()] {
                assert_eq!(shown.parse(), Ok(maker), "{shown}");
            }
        }
        // Filled up otherwise it is nobody's, and letters would name somebody else.
        for odd in ["id:53544D00", "id:49465820", "id:49462058", "id:69667800", "id:00000000", "id:20202020"]
        {
            let maker: TpmMaker = odd.parse().expect(odd);
            assert_eq!((maker.to_string().as_str(), odd.parse()), (odd, Ok(maker)));
        }
        for bad in ["STM (id:53544D00)", "IFX (id:53544D20)", "IFX (IFX)", "IFX ()", " (id:49465800)"] {
            assert_eq!(bad.parse::<TpmMaker>(), Err(TpmTextError::Maker(bad.to_owned())));
        }
    }

    #[test]
    fn versions_are_four_numbers_in_one_form() {
        let version = TpmVersion(0x0007_003E_0C36_0001);
        assert_eq!(version.to_string(), "7.62.3126.1");
        assert_eq!("7.62.3126.1".parse(), Ok(version));
        for bad in
            ["7.62.3126", "7.62.3126.1.0", "07.62.3126.1", "+7.1.1.1", "7.62.3126.65536", "", "a.b.c.d"]
        {
            assert_eq!(bad.parse::<TpmVersion>(), Err(TpmTextError::Version(bad.to_owned())));
        }
        let low: TpmVersion = "7.9.65535.65535".parse().expect("a version");
        assert!(low < version, "ordered as numbers, not as text");
    }

    #[test]
    fn a_range_is_of_one_maker_and_of_all_when_the_maker_is_not_known() {
        let range = denied("IFX:4.0.0.0-4.33.65535.65535");
        assert_eq!(range.to_string(), "IFX (id:49465800) 4.0.0.0 to 4.33.65535.65535");
        assert_eq!(denied("id:00001014:1.2.3.4").to_string(), "id:00001014 1.2.3.4");
        let version = "4.32.1.0".parse().expect("a version");
        assert!(range.covers(Some(range.maker), version) && range.covers(None, version));
        assert!(!range.covers("STM".parse().ok(), version));
        // What ST's TPMs say they are by.
        let st = Some(TpmMaker(*b"STM "));
        assert!(denied("STM:4.0.0.0-4.33.0.0").covers(st, version) && !range.covers(st, version));
        assert!(!range.covers(None, "4.34.0.0".parse().expect("a version")));
        for bad in ["IFX", "4.0.0.0", "IFX:4.0", "IFX:4.0.0.0-", "Infineon:4.0.0.0"] {
            assert!(bad.parse::<DeniedTpmFirmware>().is_err(), "{bad}");
        }
    }
}
