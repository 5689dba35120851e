//! Our event log: TCG Canonical Event Log, JSON encoding, as a JSON text sequence (RFC 7464), one record an extend.

use serde::Serialize;
use std::fmt::Write as _;

const RECORD_SEPARATOR: u8 = 0x1e;

#[derive(Serialize)]
struct Record<'a> {
    recnum: u64,
    pcr: u8,
    digests: Vec<Digest>,
    content_type: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
struct Digest {
    #[serde(rename = "hashAlg")]
    hash_alg: String,
    digest: String,
}

#[derive(Serialize)]
struct Content<'a> {
    event: &'a str,
    string: &'a str,
}

/// One record with separator and line feed. What was measured is the UTF-8 of `string`.
pub fn record(
    recnum: u64,
    pcr: u8,
    event: &str,
    string: &str,
    digests: &[(u16, Vec<u8>)],
) -> serde_json::Result<Vec<u8>> {
    let digests = digests
        .iter()
        .map(|(algorithm, digest)| Digest { hash_alg: algorithm_name(*algorithm), digest: hex(digest) });
    let record = Record {
        recnum,
        pcr,
        digests: digests.collect(),
        content_type: "pillar",
        content: Content { event, string },
    };
    let mut bytes = vec![RECORD_SEPARATOR];
    serde_json::to_writer(&mut bytes, &record)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn algorithm_name(id: u16) -> String {
    let name = match id {
        0x04 => "sha1",
        0x0b => "sha256",
        0x0c => "sha384",
        0x0d => "sha512",
        0x12 => "sm3_256",
        0x27 => "sha3-256",
        0x28 => "sha3-384",
        0x29 => "sha3-512",
        other => return format!("{other:#06x}"),
    };
    name.to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record() {
        let made = record(3, 11, "phase", "enter-initrd", &[(0x0b, vec![0xab; 2])]).expect("plain text");
        assert_eq!(
            String::from_utf8(made).expect("JSON"),
            "\u{1e}{\"recnum\":3,\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"abab\"}],\
             \"content_type\":\"pillar\",\"content\":{\"event\":\"phase\",\"string\":\"enter-initrd\"}}\n"
        );
    }
}
