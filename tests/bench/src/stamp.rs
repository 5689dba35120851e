//! The kernel's time stamps on console lines: `[    4.123456] text`. Zero is when the kernel started.

use std::time::Duration;

/// The time stamp and the text of a line; `None` when the line has no time stamp.
#[must_use]
pub fn parse(line: &str) -> Option<(Duration, &str)> {
    let (stamp, text) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (seconds, micros) = stamp.trim_start().split_once('.')?;
    if micros.len() != 6 || !micros.bytes().chain(seconds.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let stamp = Duration::new(seconds.parse().ok()?, micros.parse::<u32>().ok()? * 1000);
    Some((stamp, text.strip_prefix(' ').unwrap_or(text)))
}

/// What follows `key` on the first line that has it.
#[must_use]
pub fn value_of<'a>(console: &'a str, key: &str) -> Option<&'a str> {
    console.lines().filter_map(parse).find_map(|(_, text)| text.strip_prefix(key)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_and_nothing_else_is() {
        let at = |s, us| Duration::from_secs(s) + Duration::from_micros(us);
        for (line, want) in [
            ("[    4.123456] pillar-init: ready", Some((at(4, 123_456), "pillar-init: ready"))),
            ("[  104.000001] x", Some((at(104, 1), "x"))),
            ("[    0.000000]", Some((Duration::ZERO, ""))),
            ("[    4.1234] short", None),
            ("[    4x123456] x", None),
            ("[  OK  ] Reached target", None),
            ("BdsDxe: starting Boot0001", None),
            ("[99999999999999999999999.000000] x", None),
            ("", None),
        ] {
            assert_eq!(parse(line), want, "{line:?}");
        }
    }

    #[test]
    fn a_value_is_found_behind_its_key() {
        let console =
            "noise\n[    0.000000] Linux version 6.12\n[    0.000000] Kernel command line: a=b c\r\n";
        assert_eq!(value_of(console, "Kernel command line: "), Some("a=b c"));
        assert_eq!(value_of(console, "Linux version "), Some("6.12"));
        assert_eq!(value_of(console, "nothing"), None);
    }
}
