//! What was learnt about one machine at its first successful attestation, and must not change silently.

use crate::failure::{Failure, Outcome};
use crate::file;
use pillar_model::{Bank, Digest, FirmwareReference};
use pillar_verify::{Counters, Verified};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A dozen digests, a name, and some hundred events in words.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// The file `pins.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// TPM name (algorithm and digest of the public area) of the attestation key: which TPM it is.
    pub ak_name: Digest,
    /// Firmware PCRs and the events that led there, in each bank that was verified.
    #[serde(deserialize_with = "with_or_without_events")]
    pub firmware: BTreeMap<Bank, FirmwareReference>,
    /// The state volume as measured; none in pins of before there was one.
    #[serde(default)]
    pub state_volume: Option<String>,
    /// The TPM's clock and counters when it was last verified: they may only go up. None in pins from a cluster's row.
    #[serde(default)]
    pub counters: Option<Counters>,
}

/// Pins of before events were kept have the values alone.
fn with_or_without_events<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<Bank, FirmwareReference>, D::Error> {
    let banks = BTreeMap::<Bank, Value>::deserialize(from)?;
    let reference = |value: Value| {
        if value.get("pcrs").is_some() {
            return serde_json::from_value(value);
        }
        Ok(FirmwareReference { pcrs: serde_json::from_value(value)?, events: Vec::new() })
    };
    let references = banks.into_iter().map(|(bank, value)| Ok((bank, reference(value)?)));
    references.collect::<serde_json::Result<_>>().map_err(D::Error::custom)
}

impl Pins {
    /// What there is to pin in accepted evidence; of the other banks, what was pinned before.
    pub fn of(verified: &Verified, old: Option<&Pins>) -> Pins {
        let mut firmware = old.map(|old| old.firmware.clone()).unwrap_or_default();
        firmware.insert(verified.bank(), verified.firmware());
        Pins {
            ak_name: Digest(verified.ak_name().to_vec()),
            firmware,
            state_volume: Some(verified.state_volume().to_owned()),
            counters: Some(verified.counters()),
        }
    }

    /// What is pinned, when anything is.
    pub fn read(path: &Path) -> Outcome<Option<Pins>> {
        if !path.exists() {
            return Ok(None);
        }
        serde_json::from_slice(&file::read(path, FILE_MAX_BYTES)?).map(Some).map_err(|error| {
            Failure::because(format!("cannot understand the pins in {}", path.display()), &error)
                .hint("restore the file, or learn the machine anew with `pillar attest --forget`")
        })
    }

    /// Pins from now on.
    pub fn write(&self, path: &Path) -> Outcome {
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|error| Failure::because("cannot write pins", &error))?;
        text.push(b'\n');
        file::replace(path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::PcrIndex;
    use std::fs;

    #[test]
    fn pins_are_read_as_written_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("pins.json");
        assert_eq!(Pins::read(&path).expect("none"), None);
        let pins = Pins {
            ak_name: Digest(vec![0, 11, 1, 2, 3]),
            firmware: BTreeMap::from([(
                Bank::Sha256,
                FirmwareReference {
                    pcrs: BTreeMap::from([(PcrIndex::new(0).expect("PCR"), Digest(vec![1; 32]))]),
                    events: Vec::new(),
                },
            )]),
            state_volume: Some("none".to_owned()),
            counters: Some(Counters {
                clock_ms: 1,
                reset_count: 2,
                restart_count: 3,
                safe: true,
                firmware_version: 4,
            }),
        };
        pins.write(&path).expect("written");
        assert_eq!(Pins::read(&path).expect("read").as_ref(), Some(&pins));
        let old = fs::read_to_string(&path).expect("text").replace(['\n', ' '], "");
        let old = old.replace(r#"{"pcrs":"#, "").replace(r#","events":[]}"#, "");
        fs::write(&path, old).expect("written");
        assert_eq!(Pins::read(&path).expect("read of before there were events"), Some(pins));
        for text in ["", "{}", "{\"ak_name\":\"00\",\"firmware\":{\"sha256\":{\"99\":\"00\"}}}"] {
            fs::write(&path, text).expect("written");
            assert!(Pins::read(&path).expect_err(text).to_string().contains("cannot understand the pins"));
        }
    }
}
