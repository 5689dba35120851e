//! From an envelope's payload to an [`Entry`].

use crate::limits::PAYLOAD_MAX_BYTES;
use crate::text::excerpt;
use crate::{Envelope, Refusal};
use pillar_model::Entry;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// `payloadType` of an entry's envelope.
pub const ENTRY_TYPE: &str = "application/vnd.pillar.entry+json";

/// Longest excerpt of foreign text in a refusal.
const EXCERPT_CHARS: usize = 80;

/// The entry, whoever signed it.
pub(crate) fn read(envelope: &Envelope) -> Result<Entry, Refusal> {
    if !envelope.is_entry() {
        let found = envelope.payload_type().chars().take(EXCERPT_CHARS).collect();
        return Err(Refusal::PayloadType { found });
    }
    let payload = envelope.payload();
    if payload.len() > PAYLOAD_MAX_BYTES {
        return Err(Refusal::TooLarge { bytes: payload.len() });
    }
    let unreadable = |error: serde_json::Error| Refusal::Unreadable { problem: excerpt(&error.to_string()) };
    serde_json::from_slice::<Once>(payload).map_err(unreadable)?;
    serde_json::from_slice(payload).map_err(unreadable)
}

/// Any JSON in which no object has the same name twice: readers differ in which of the two they take, and what an
/// operator was shown must be what counts.
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Once;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Once, E> {
        Ok(Once)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Once, E> {
        Ok(Once)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Once, E> {
        Ok(Once)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Once, E> {
        Ok(Once)
    }
    fn visit_str<E>(self, _: &str) -> Result<Once, E> {
        Ok(Once)
    }
    fn visit_unit<E>(self) -> Result<Once, E> {
        Ok(Once)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Once, A::Error> {
        while list.next_element::<Once>()?.is_some() {}
        Ok(Once)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Once>()?;
            if let Some(twice) = names.replace(name) {
                let twice: String = twice.chars().take(EXCERPT_CHARS).collect();
                return Err(A::Error::custom(format_args!("{twice:?} is there twice")));
            }
        }
        Ok(Once)
    }
}
