//! Evidence in a file: CBOR (RFC 8949) of what the pillar sent and what it answered to, without the activated secret.

use crate::failure::{Failure, Outcome};
use crate::file;
use pillar_model::{Binding, Evidence, Nonce, Role};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::Path;

/// First field of the file; another one is another format.
const FORMAT: &str = "pillar-evidence-v1";
/// Two event logs at their limits on the wire, and everything else; see `pillar_wire::limit::REPLY_BYTES`.
const FILE_MAX_BYTES: u64 = 2 * 1024 * 1024;
/// Longest name in a file.
const NAME_MAX_BYTES: usize = 255;

/// A byte string: serde would write a `Vec<u8>` as an array of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expect;
        impl Visitor<'_> for Expect {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        from.deserialize_byte_buf(Expect)
    }
}

/// The file's shape.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    format: String,
    name: String,
    binding: BindingForm,
    evidence: EvidenceForm,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BindingForm {
    role: Role,
    nonce: Bytes,
    exporter: Bytes,
    attester_spki: Bytes,
    verifier_spki: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceForm {
    attest: Bytes,
    signature: Bytes,
    ak_public: Bytes,
    ek_public: Bytes,
    ek_certificate: Bytes,
    event_log: Bytes,
    cel: Bytes,
}

/// Evidence with the challenge that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The machine's name as the operator who saved it knew it.
    pub name: String,
    /// The challenge and the connection.
    pub binding: Binding,
    /// What the pillar sent; `activated` is empty.
    pub evidence: Evidence,
}

impl Saved {
    /// Writes a new file and says how large it is.
    pub fn write(&self, path: &Path) -> Outcome<usize> {
        let bytes = self.to_cbor()?;
        file::create(path, &bytes)?;
        Ok(bytes.len())
    }

    /// Reads a file that [`Saved::write`] wrote.
    pub fn read(path: &Path) -> Outcome<Self> {
        Self::from_cbor(&file::read(path, FILE_MAX_BYTES)?).map_err(|error| {
            Failure::because(format!("{} is not saved evidence", path.display()), &error)
                .hint("`pillar evidence NAME -o FILE` writes such a file")
        })
    }

    fn to_cbor(&self) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        ciborium::into_writer(&FileForm::from(self.clone()), &mut bytes)
            .map_err(|error| Failure::because("cannot write evidence as CBOR", &error))?;
        Ok(bytes)
    }

    fn from_cbor(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let form: FileForm = ciborium::from_reader(&mut rest).map_err(|error| Malformed(words(error)))?;
        if !rest.is_empty() {
            return Err(Malformed(format!("{} bytes follow behind it", rest.len())));
        }
        Self::try_from(form)
    }
}

fn words(error: ciborium::de::Error<std::io::Error>) -> String {
    use ciborium::de::Error;
    match error {
        Error::Io(_) => "it ends too early".to_owned(),
        Error::Syntax(at) => format!("byte {at} is not CBOR"),
        Error::Semantic(_, problem) => problem,
        Error::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    }
}

/// Why a file is not saved evidence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Malformed(String);

impl From<Saved> for FileForm {
    fn from(Saved { name, binding, evidence }: Saved) -> Self {
        Self {
            format: FORMAT.to_owned(),
            name,
            binding: BindingForm {
                role: binding.role,
                nonce: Bytes(binding.nonce.0.to_vec()),
                exporter: Bytes(binding.exporter),
                attester_spki: Bytes(binding.attester_spki),
                verifier_spki: Bytes(binding.verifier_spki),
            },
            evidence: EvidenceForm {
                attest: Bytes(evidence.attest),
                signature: Bytes(evidence.signature),
                ak_public: Bytes(evidence.ak_public),
                ek_public: Bytes(evidence.ek_public),
                ek_certificate: Bytes(evidence.ek_certificate),
                event_log: Bytes(evidence.event_log),
                cel: Bytes(evidence.cel),
            },
        }
    }
}

impl TryFrom<FileForm> for Saved {
    type Error = Malformed;

    fn try_from(FileForm { format, name, binding, evidence }: FileForm) -> Result<Self, Malformed> {
        if format != FORMAT {
            return Err(Malformed(format!("its format is not \"{FORMAT}\"")));
        }
        if name.len() > NAME_MAX_BYTES {
            return Err(Malformed(format!("its name has more than {NAME_MAX_BYTES} bytes")));
        }
        let nonce =
            binding.nonce.0.try_into().map_err(|_| Malformed("its nonce has not 32 bytes".to_owned()))?;
        Ok(Saved {
            name,
            binding: Binding {
                role: binding.role,
                nonce: Nonce(nonce),
                exporter: binding.exporter.0,
                attester_spki: binding.attester_spki.0,
                verifier_spki: binding.verifier_spki.0,
            },
            evidence: Evidence {
                attest: evidence.attest.0,
                signature: evidence.signature.0,
                ak_public: evidence.ak_public.0,
                ek_public: evidence.ek_public.0,
                ek_certificate: evidence.ek_certificate.0,
                activated: Vec::new(),
                event_log: evidence.event_log.0,
                cel: evidence.cel.0,
                heartbeat_key: Vec::new(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        Saved {
            name: "p1".to_owned(),
            binding: Binding {
                role: Role::Server,
                nonce: Nonce([7; 32]),
                exporter: vec![1; 32],
                attester_spki: vec![2; 91],
                verifier_spki: vec![3; 44],
            },
            evidence: Evidence {
                attest: vec![4; 200],
                signature: vec![5; 72],
                ak_public: vec![6; 88],
                ek_public: vec![7; 122],
                ek_certificate: vec![8; 700],
                activated: vec![9; 32],
                event_log: vec![10; 300_000],
                cel: vec![11; 900],
                heartbeat_key: Vec::new(),
            },
        }
    }

    #[test]
    fn a_file_round_trips_without_the_secret() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("p1.cbor");
        let size = saved().write(&path).expect("written");
        // Byte strings, not arrays of numbers.
        assert!(size < 303_000, "{size}");
        let read = Saved::read(&path).expect("read");
        let mut want = saved();
        want.evidence.activated.clear();
        assert_eq!(read, want);
        assert!(saved().write(&path).expect_err("exists").to_string().contains("exists already"));
    }

    #[test]
    fn other_files_are_refused() {
        let good = saved().to_cbor().expect("CBOR");
        let check = |bytes: &[u8], want: &str| {
            let error = Saved::from_cbor(bytes).expect_err(want).to_string();
            assert!(error.contains(want), "{error}");
        };
        check(&[&good[..], b"x"].concat(), "1 bytes follow behind it");
        for length in [0, 1, 20, good.len() - 1] {
            check(&good[..length], "it ends too early");
        }
        check(b"{\"format\":1}", "expected map");
        // The same map with another format, a short nonce and an unknown key.
        let spoil = |change: &dyn Fn(&mut FileForm)| {
            let mut form = FileForm::from(saved());
            change(&mut form);
            let mut bytes = Vec::new();
            ciborium::into_writer(&form, &mut bytes).expect("CBOR");
            bytes
        };
        check(&spoil(&|f| f.format = "other".to_owned()), "its format is not \"pillar-evidence-v1\"");
        check(&spoil(&|f| f.binding.nonce.0.truncate(31)), "its nonce has not 32 bytes");
        check(&spoil(&|f| f.name = "n".repeat(256)), "its name has more than 255 bytes");
        let mut unknown = good.clone();
        let at = unknown.windows(6).position(|w| w == b"signat").expect("a key");
        unknown[at] = b'S';
        check(&unknown, "unknown field `Signature`");
    }
}
