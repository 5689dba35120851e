//! DSSE envelopes (Dead Simple Signing Envelope, version 1.0.2: `protocol.md`, `envelope.md`).
//!
//! What the specification leaves open is narrow here: base64 has its padding and no stray bits, one alphabet in one
//! field, every field at most once, objects are objects. Fields that we do not know are ignored, as it demands.

use crate::limits::{ENVELOPE_MAX_BYTES, PAYLOAD_MAX_BYTES, SIGNATURES_MAX};
use crate::tally::signers;
use crate::text::excerpt;
use crate::{ENTRY_TYPE, sha256};
use data_encoding::{BASE64, BASE64URL};
use pillar_model::{Digest, OperatorKey};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// Why bytes are no envelope, or an envelope cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Larger than [`ENVELOPE_MAX_BYTES`].
    #[error("the envelope has {0} bytes, more than {ENVELOPE_MAX_BYTES}")]
    TooLarge(usize),
    /// No JSON, or not with the fields of an envelope.
    #[error("this is no DSSE envelope: {0}")]
    Json(String),
    /// A field is in neither alphabet of RFC 4648.
    #[error("{0} of the envelope is not base64")]
    Base64(&'static str),
    /// The payload is larger than [`PAYLOAD_MAX_BYTES`].
    #[error("the payload has {0} bytes, more than {PAYLOAD_MAX_BYTES}")]
    PayloadTooLarge(usize),
    /// More than [`SIGNATURES_MAX`].
    #[error("the envelope has {0} signatures, more than {SIGNATURES_MAX}")]
    TooManySignatures(usize),
    /// Two envelopes to merge say different things.
    #[error("the two envelopes do not hold the same payload")]
    OtherPayload,
    /// A signature to be added is not one of that key over this payload.
    #[error("the signature is not one by {0} over this payload")]
    BadSignature(OperatorKey),
}

impl EnvelopeError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::PayloadTooLarge(_) => {
                "an entry is far smaller; is this the right file?"
            }
            Self::Json(_) | Self::Base64(_) => {
                "give the file as it was written, whole; editors and mail programs change bytes"
            }
            Self::TooManySignatures(_) => "remove the signatures of keys that are no operators'",
            Self::OtherPayload => "merge signatures over one and the same proposal",
            Self::BadSignature(_) => "sign again, with the key that was named",
        }
    }
}

/// What is signed: the pre-authentication encoding of a payload and its type.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// The `keyid` that we write: SHA-256 of the 32 bytes of the key, hexadecimal. A hint, nothing more.
#[must_use]
pub fn key_id(key: &OperatorKey) -> String {
    sha256(&key.0).to_string()
}

/// One signature of an envelope, of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Whose it may be; empty when it does not say.
    pub key_id: String,
    /// The signature.
    pub bytes: Vec<u8>,
}

/// A payload with its type and signatures. That it exists says nothing about who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

impl Envelope {
    /// An envelope without signatures.
    pub fn new(payload_type: impl Into<String>, payload: Vec<u8>) -> Result<Self, EnvelopeError> {
        if payload.len() > PAYLOAD_MAX_BYTES {
            return Err(EnvelopeError::PayloadTooLarge(payload.len()));
        }
        Ok(Self { payload_type: payload_type.into(), payload, signatures: Vec::new() })
    }

    /// Reads the JSON form.
    pub fn parse(json: &[u8]) -> Result<Self, EnvelopeError> {
        if json.len() > ENVELOPE_MAX_BYTES {
            return Err(EnvelopeError::TooLarge(json.len()));
        }
        let raw: Object<RawEnvelope> =
            serde_json::from_slice(json).map_err(|error| EnvelopeError::Json(excerpt(&error.to_string())))?;
        let RawEnvelope { payload, payload_type, signatures } = raw.0;
        if signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::TooManySignatures(signatures.len()));
        }
        let mut envelope = Self::new(payload_type, base64(&payload, "the payload")?)?;
        for Object(RawSignature { keyid, sig }) in signatures {
            let bytes = base64(&sig, "a signature")?;
            envelope.signatures.push(Signature { key_id: keyid.unwrap_or_default(), bytes });
        }
        Ok(envelope)
    }

    /// The JSON form, on one line: the standard alphabet, fields in the specification's order.
    #[must_use]
    pub fn to_json(&self) -> String {
        let signature = |s: &Signature| {
            let keyid = (!s.key_id.is_empty()).then(|| s.key_id.clone());
            RawSignature { keyid, sig: BASE64.encode(&s.bytes) }
        };
        let raw = RawEnvelope {
            payload: BASE64.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: self.signatures.iter().map(signature).map(Object).collect(),
        };
        serde_json::to_string(&raw).expect("strings and lists of strings are always JSON")
    }

    /// What the payload is.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload, byte for byte as it was received.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// SHA-256 of the payload: what the next entry names, and what tells two proposals apart.
    #[must_use]
    pub fn digest(&self) -> Digest {
        sha256(&self.payload)
    }

    /// What a signer signs.
    #[must_use]
    pub fn pae(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// The signatures, in the order in which they were received.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Whether it holds an entry.
    #[must_use]
    pub fn is_entry(&self) -> bool {
        self.payload_type == ENTRY_TYPE
    }

    /// Adds a signature over [`Envelope::pae`], after checking it. One that is there already is not added again.
    pub fn add_signature(&mut self, key: &OperatorKey, signature: [u8; 64]) -> Result<(), EnvelopeError> {
        if !verifies(key, &self.pae(), &signature) {
            return Err(EnvelopeError::BadSignature(*key));
        }
        self.push(Signature { key_id: key_id(key), bytes: signature.to_vec() })
    }

    /// The signatures of both, each once. `self`'s come first.
    pub fn merge(&self, other: &Self) -> Result<Self, EnvelopeError> {
        if self.payload_type != other.payload_type || self.payload != other.payload {
            return Err(EnvelopeError::OtherPayload);
        }
        let mut both = Self { signatures: Vec::new(), ..self.clone() };
        for signature in self.signatures.iter().chain(&other.signatures) {
            both.push(signature.clone())?;
        }
        Ok(both)
    }

    /// The same payload with one good signature of each of these keys, as far as they are there, in their order and
    /// under the `keyid` that we write: one that came with them may have any length.
    #[must_use]
    pub fn only_by(&self, keys: impl IntoIterator<Item = OperatorKey>) -> Self {
        let mut kept: Vec<(usize, OperatorKey)> =
            signers(self, &keys.into_iter().collect()).into_iter().map(|(key, at)| (at, key)).collect();
        kept.sort_unstable_by_key(|(at, _)| *at);
        let signature = |(at, key): (usize, OperatorKey)| Signature {
            key_id: key_id(&key),
            bytes: self.signatures[at].bytes.clone(),
        };
        let (payload_type, payload) = (self.payload_type.clone(), self.payload.clone());
        Self { payload_type, payload, signatures: kept.into_iter().map(signature).collect() }
    }

    fn push(&mut self, signature: Signature) -> Result<(), EnvelopeError> {
        if self.signatures.iter().any(|there| there.bytes == signature.bytes) {
            return Ok(());
        }
        if self.signatures.len() == SIGNATURES_MAX {
            return Err(EnvelopeError::TooManySignatures(SIGNATURES_MAX + 1));
        }
        self.signatures.push(signature);
        Ok(())
    }
}

/// Ed25519 (RFC 8032), strict: S below the group's order, R compared as bytes.
pub(crate) fn verifies(key: &OperatorKey, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, &key.0).verify(message, signature).is_ok()
}

/// Standard or URL-safe alphabet (`envelope.md`): with padding, unused bits zero, never both alphabets in one text.
fn base64(text: &str, field: &'static str) -> Result<Vec<u8>, EnvelopeError> {
    BASE64
        .decode(text.as_bytes())
        .or_else(|_| BASE64URL.decode(text.as_bytes()))
        .map_err(|_| EnvelopeError::Base64(field))
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Object<RawSignature>>,
}

#[derive(Serialize, Deserialize)]
struct RawSignature {
    // "An unset field MUST be treated the same as set-but-empty."
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
    sig: String,
}

/// A struct that is written as an object. serde's derived readers take a list of the fields' values as well, which
/// other readers of DSSE do not.
#[derive(Serialize)]
#[serde(transparent)]
struct Object<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}
