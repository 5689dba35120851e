//! The JSON area (specification, section 3), compared field by field with the shape.
//!
//! libcryptsetup reads it with another parser than ours. So what two parsers may see differently is refused first:
//! bytes that are not printable ASCII, a name that is there twice, anything behind the object.

use crate::{HEADER_BYTES, Refusal, Shape, TOKEN_MAX_BYTES};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use std::ops::Range;

/// PBKDF2's salt, and a SHA-256 digest.
const SALT_BYTES: usize = 32;

/// What the caller gets out of it.
#[derive(Debug)]
pub struct Metadata {
    pub tokens: Vec<Value>,
    pub areas: Vec<Range<u64>>,
}

pub fn judge(area: &[u8], shape: &Shape, device_bytes: u64) -> Result<Metadata, Refusal> {
    let parsed = parse(area)?;
    let root = At { path: String::new(), value: &parsed };
    let root = root.object(&["keyslots", "tokens", "segments", "digests", "config"])?;
    config(&root.get("config"), area.len(), shape)?;
    segments(&root.get("segments"), shape, device_bytes)?;
    let areas = keyslots(&root.get("keyslots"), shape)?;
    digests(&root.get("digests"), shape)?;
    Ok(Metadata { tokens: tokens(&root.get("tokens"), shape)?, areas })
}

fn parse(area: &[u8]) -> Result<Value, Refusal> {
    let end = area.iter().position(|byte| *byte == 0).unwrap_or(area.len());
    let (text, rest) = area.split_at(end);
    if rest.is_empty() {
        return Err(Refusal::new("JSON area", "full", "an object that ends in a NUL"));
    }
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Refusal::new("JSON area", "not zero behind its object", "zeros there"));
    }
    if let Some(at) = text.iter().position(|byte| !(b' '..=b'~').contains(byte)) {
        return Err(Refusal::new("JSON area", format!("not printable at byte {at}"), "printable ASCII"));
    }
    serde_json::from_slice::<Once>(text)
        .map(|once| once.0)
        .map_err(|error| Refusal::new("JSON area", error, "an object in which every name is there once"))
}

fn config(config: &At<'_>, area_bytes: usize, shape: &Shape) -> Result<(), Refusal> {
    // No `flags` (they would change how the volume is opened), no `requirements` (re-encryption and whatever comes).
    let config = config.object(&["json_size", "keyslots_size"])?;
    config.get("json_size").is_decimal(area_bytes as u64)?;
    config.get("keyslots_size").is_decimal(shape.keyslots_bytes)
}

fn segments(segments: &At<'_>, shape: &Shape, device_bytes: u64) -> Result<(), Refusal> {
    let segments = segments.object(&["0"])?;
    let segment = segments.get("0");
    let names = ["type", "offset", "size", "iv_tweak", "encryption", "sector_size", "integrity"];
    let names = if shape.integrity.is_some() { &names[..] } else { &names[..6] };
    let segment = segment.object(names)?;
    segment.get("type").is_text("crypt")?;
    segment.get("offset").is_decimal(shape.data_offset)?;
    segment.get("size").is_text("dynamic")?;
    segment.get("iv_tweak").is_text("0")?;
    segment.get("encryption").is_text(shape.encryption)?;
    segment.get("sector_size").is_number(shape.sector_bytes)?;
    if let Some(integrity) = shape.integrity {
        let found = segment.get("integrity");
        let found = found.object(&["type", "journal_encryption", "journal_integrity"])?;
        found.get("type").is_text(integrity)?;
        found.get("journal_encryption").is_text("none")?;
        found.get("journal_integrity").is_text("none")?;
    }
    if device_bytes <= shape.data_offset {
        return Err(Refusal::new(
            "the partition's size",
            device_bytes,
            format!("more than {}, where the data begins", shape.data_offset),
        ));
    }
    Ok(())
}

fn keyslots(keyslots: &At<'_>, shape: &Shape) -> Result<Vec<Range<u64>>, Refusal> {
    let numbers: Vec<String> = shape.keyslots.iter().map(|slot| slot.number.to_string()).collect();
    let keyslots = keyslots.object(&numbers)?;
    let mut areas: Vec<Range<u64>> = Vec::new();
    for (slot, number) in shape.keyslots.iter().zip(&numbers) {
        let found = keyslots.get(number);
        let found = found.object(&["type", "key_size", "af", "area", "kdf"])?;
        found.get("type").is_text("luks2")?;
        found.get("key_size").is_number(shape.volume_key_bytes)?;
        let af = found.get("af");
        let af = af.object(&["type", "stripes", "hash"])?;
        af.get("type").is_text("luks1")?;
        af.get("stripes").is_number(shape.stripes)?;
        af.get("hash").is_text("sha256")?;
        let kdf = found.get("kdf");
        // The type first: with another one, other fields are there too, and the type is what says why.
        kdf.get_any("type").is_text("pbkdf2")?;
        let kdf = kdf.object(&["type", "hash", "iterations", "salt"])?;
        kdf.get("hash").is_text("sha256")?;
        kdf.get("iterations").is_number(slot.iterations)?;
        kdf.get("salt").is_base64(SALT_BYTES)?;
        let area = area(&found.get("area"), shape)?;
        if let Some(other) = areas.iter().find(|other| area.start < other.end && other.start < area.end) {
            return Err(Refusal::new(
                format!("keyslots.{number}.area"),
                format!("at {area:?}"),
                format!("an area of its own, not that of another key slot at {other:?}"),
            ));
        }
        areas.push(area);
    }
    Ok(areas)
}

fn area(area: &At<'_>, shape: &Shape) -> Result<Range<u64>, Refusal> {
    let path = area.path.clone();
    let area = area.object(&["type", "offset", "size", "encryption", "key_size"])?;
    area.get("type").is_text("raw")?;
    area.get("encryption").is_text(shape.keyslot_encryption)?;
    area.get("key_size").is_number(shape.keyslot_key_bytes)?;
    area.get("size").is_decimal(shape.area_bytes())?;
    let offset = area.get("offset").decimal()?;
    let within = HEADER_BYTES as u64..HEADER_BYTES as u64 + shape.keyslots_bytes;
    match offset.checked_add(shape.area_bytes()) {
        Some(end) if offset >= within.start && end <= within.end && offset % 4096 == 0 => Ok(offset..end),
        _ => Err(Refusal::new(
            format!("{path}.offset"),
            offset,
            format!("a multiple of 4096 so that the area is within {within:?}"),
        )),
    }
}

fn digests(digests: &At<'_>, shape: &Shape) -> Result<(), Refusal> {
    let digests = digests.object(&["0"])?;
    let digest = digests.get("0");
    digest.get_any("type").is_text("pbkdf2")?;
    let digest = digest.object(&["type", "keyslots", "segments", "hash", "iterations", "salt", "digest"])?;
    let numbers: Vec<String> = shape.keyslots.iter().map(|slot| slot.number.to_string()).collect();
    digest.get("keyslots").is_list(&numbers)?;
    digest.get("segments").is_list(&["0"])?;
    digest.get("hash").is_text("sha256")?;
    digest.get("iterations").is_number(shape.digest_iterations)?;
    digest.get("salt").is_base64(SALT_BYTES)?;
    digest.get("digest").is_base64(SALT_BYTES)
}

fn tokens(tokens: &At<'_>, shape: &Shape) -> Result<Vec<Value>, Refusal> {
    let numbers: Vec<String> = shape.tokens.iter().map(|token| token.number.to_string()).collect();
    let tokens = tokens.object(&numbers)?;
    let mut judged = Vec::new();
    for (token, number) in shape.tokens.iter().zip(&numbers) {
        let found = tokens.get(number);
        found.get_any("type").is_text(token.kind)?;
        found.get_any("keyslots").is_list(&[token.keyslot.to_string()])?;
        let bytes = found.value.to_string().len();
        if bytes > TOKEN_MAX_BYTES {
            let (found, expected) = (format!("{bytes} bytes"), format!("at most {TOKEN_MAX_BYTES}"));
            return Err(Refusal::new(format!("tokens.{number}"), found, expected));
        }
        judged.push(found.value.clone());
    }
    Ok(judged)
}

/// A value and where it is.
struct At<'a> {
    path: String,
    value: &'a Value,
}

/// An object that has exactly the members that were asked for.
struct Members<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> At<'a> {
        let path = join(&self.path, name);
        At { path, value: self.map.get(name).unwrap_or(&Value::Null) }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl<'a> At<'a> {
    fn object<S: AsRef<str>>(&self, names: &[S]) -> Result<Members<'a>, Refusal> {
        let Value::Object(map) = self.value else {
            return Err(self.wrong("an object"));
        };
        if let Some(name) = map.keys().find(|key| !names.iter().any(|name| name.as_ref() == *key)) {
            return Err(Refusal::new(join(&self.path, name), "there", "not to be there"));
        }
        if let Some(name) = names.iter().find(|name| !map.contains_key(name.as_ref())) {
            return Err(Refusal::new(join(&self.path, name.as_ref()), "missing", "to be there"));
        }
        Ok(Members { path: self.path.clone(), map })
    }

    /// A member of an object that may have others.
    fn get_any(&self, name: &str) -> At<'a> {
        let value = self.value.get(name).unwrap_or(&Value::Null);
        At { path: join(&self.path, name), value }
    }

    fn wrong(&self, expected: impl fmt::Display) -> Refusal {
        let found = match self.value {
            Value::Null => "missing".to_owned(),
            value => value.to_string(),
        };
        let path = if self.path.is_empty() { "JSON area" } else { &self.path };
        Refusal::new(path, found, expected)
    }

    fn is_text(&self, expected: &str) -> Result<(), Refusal> {
        if self.value.as_str() == Some(expected) { Ok(()) } else { Err(self.wrong(format!("{expected:?}"))) }
    }

    fn is_number(&self, expected: u32) -> Result<(), Refusal> {
        if self.value.as_u64() == Some(u64::from(expected)) { Ok(()) } else { Err(self.wrong(expected)) }
    }

    /// 64-bit numbers are texts in LUKS2: digits without a sign or a zero in front.
    fn decimal(&self) -> Result<u64, Refusal> {
        let number = self.value.as_str().and_then(|text| {
            let number: u64 = text.parse().ok()?;
            (number.to_string() == text).then_some(number)
        });
        number.ok_or_else(|| self.wrong("a decimal number as text"))
    }

    fn is_decimal(&self, expected: u64) -> Result<(), Refusal> {
        if self.decimal()? == expected { Ok(()) } else { Err(self.wrong(format!("\"{expected}\""))) }
    }

    fn is_list<S: AsRef<str>>(&self, expected: &[S]) -> Result<(), Refusal> {
        let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
        let found: Option<Vec<&str>> =
            self.value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        match found {
            Some(mut found) => {
                found.sort_unstable();
                if found == expected { Ok(()) } else { Err(self.wrong(format!("{expected:?}"))) }
            }
            None => Err(self.wrong(format!("{expected:?}"))),
        }
    }

    /// Base64 of so many bytes, with its padding.
    fn is_base64(&self, bytes: usize) -> Result<(), Refusal> {
        let right = self.value.as_str().is_some_and(|text| {
            let body = text.trim_end_matches('=');
            let symbols = body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
            symbols && text.len() == bytes.div_ceil(3) * 4 && body.len() == (bytes * 8).div_ceil(6)
        });
        if right { Ok(()) } else { Err(self.wrong(format!("{bytes} bytes in base64"))) }
    }
}

/// A JSON value in which no object has a name twice.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Once)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Err(E::custom(format_args!("the number {value} is not whole")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Err(E::custom("a null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(value)) = access.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let Once(value) = access.next_value()?;
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name {name:?} is there twice")));
            }
            map.insert(name, value);
        }
        Ok(map.into())
    }
}
