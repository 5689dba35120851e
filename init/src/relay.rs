//! Children's output as records of the kernel log: one a line, with the child's name before it, and not more of them
//! than the log can bear.

use crate::log::Level;
use std::time::Duration;

/// Longer lines are cut into several.
const LINE_MAX_BYTES: usize = 800;
/// Lines that a child may write at once, and that it gets back every second.
const BURST: u32 = 200;
const PER_SECOND: u32 = 20;

/// The output of one child so far.
#[derive(Debug)]
pub struct Relay {
    line: Vec<u8>,
    tokens: u32,
    filled_at: Duration,
    dropped: u32,
}

impl Relay {
    /// Nothing yet.
    pub fn new() -> Relay {
        Relay { line: Vec::new(), tokens: BURST, filled_at: Duration::ZERO, dropped: 0 }
    }

    /// Takes what came; returns the lines to record. `<N>` before a line is its level, as systemd has it.
    pub fn feed(&mut self, bytes: &[u8], now: Duration) -> Vec<(Level, String)> {
        self.refill(now);
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() >= LINE_MAX_BYTES {
                let line = std::mem::take(&mut self.line);
                self.push(&line, &mut lines);
            }
        }
        lines
    }

    /// What is left of a line when the child is gone.
    pub fn end(&mut self) -> Option<(Level, String)> {
        let line = std::mem::take(&mut self.line);
        (!line.is_empty()).then(|| clean(&line))
    }

    fn push(&mut self, line: &[u8], lines: &mut Vec<(Level, String)>) {
        if line.is_empty() {
            return;
        }
        if self.tokens == 0 {
            self.dropped += 1;
            return;
        }
        self.tokens -= 1;
        if self.dropped > 0 {
            lines.push((Level::Warning, format!("({} lines dropped)", self.dropped)));
            self.dropped = 0;
        }
        lines.push(clean(line));
    }

    fn refill(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.filled_at).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(PER_SECOND);
            self.tokens = self.tokens.saturating_add(more).min(BURST);
            self.filled_at = now;
        }
    }
}

/// Level and text; control characters cannot pretend to be something else on the console.
fn clean(line: &[u8]) -> (Level, String) {
    let (level, line) = match line {
        [b'<', level @ b'0'..=b'7', b'>', rest @ ..] => (level_of(level - b'0'), rest),
        line => (Level::Info, line),
    };
    let text = String::from_utf8_lossy(line);
    (level, text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect())
}

fn level_of(number: u8) -> Level {
    match number {
        0..=3 => Level::Error,
        4 => Level::Warning,
        5 => Level::Notice,
        6 => Level::Info,
        _ => Level::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut relay = Relay::new();
        let now = Duration::from_secs(1);
        assert_eq!(
            relay.feed(b"one\n<4>two\nthr", now),
            [(Level::Info, "one".to_owned()), (Level::Warning, "two".to_owned())]
        );
        assert_eq!(relay.feed(b"ee\x1b[0m\n\n", now), [(Level::Info, "three\u{fffd}[0m".to_owned())]);
        assert_eq!(relay.feed(b"rest", now), []);
        assert_eq!(relay.end(), Some((Level::Info, "rest".to_owned())));
        assert_eq!(relay.end(), None);
        assert_eq!(relay.feed(&[b'x'; 2 * LINE_MAX_BYTES], now).len(), 2);
    }

    #[test]
    fn a_flood_is_cut_and_told() {
        let mut relay = Relay::new();
        let flood = b"x\n".repeat(500);
        assert_eq!(relay.feed(&flood, Duration::from_secs(1)).len(), BURST as usize);
        let later = relay.feed(b"y\n", Duration::from_secs(3));
        assert_eq!(later[0].1, "(300 lines dropped)");
        assert_eq!(later[1].1, "y");
    }
}
