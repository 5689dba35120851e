//! This machine in a few words, as JSON made by hand.

use std::fs;
use std::process;

/// `/about.json`. What cannot be read is an empty string or zero: the page is for people, not for proof.
pub fn json() -> String {
    let os = fs::read_to_string("/usr/lib/os-release").unwrap_or_default();
    let uptime = line("/proc/uptime").split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0_u64);
    let command_line = line("/proc/cmdline");
    let root_hash =
        command_line.split_whitespace().find_map(|w| w.strip_prefix("roothash=")).unwrap_or_default();
    let texts = [
        ("name", line("/proc/sys/kernel/hostname")),
        ("image", os_release(&os, "IMAGE_ID")),
        ("version", os_release(&os, "IMAGE_VERSION")),
        ("flavour", os_release(&os, "VARIANT_ID")),
        ("kernel", line("/proc/sys/kernel/osrelease")),
        ("root_hash", root_hash.to_owned()),
    ];
    let fields: String =
        texts.iter().map(|(key, value)| format!("\"{key}\":\"{}\",", escape(value))).collect();
    format!("{{{fields}\"uptime_s\":{uptime},\"pid\":{}}}\n", process::id())
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A value of os-release(5), without its quotes.
fn os_release(text: &str, key: &str) -> String {
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    value.trim_matches(['"', '\'']).to_owned()
}

/// A JSON string's content (RFC 8259, section 7).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "NAME=\"Pillar\"\nIMAGE_ID=pillar\nIMAGE_VERSION='0.1.0'\n";
        assert_eq!(os_release(text, "IMAGE_ID"), "pillar");
        assert_eq!(os_release(text, "IMAGE_VERSION"), "0.1.0");
        assert_eq!(os_release(text, "NAME"), "Pillar");
        assert_eq!(os_release(text, "IMAGE"), "");
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(escape("a\"b\\c\n"), "a\\\"b\\\\c\\u000a");
        assert!(json().starts_with("{\"name\":\"") && json().ends_with("}\n"));
    }
}
