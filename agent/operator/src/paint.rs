//! Marks and colours: only on a terminal, and not when NO_COLOR is set.

use std::env;
use std::io::{self, IsTerminal};

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    rich: bool,
}

impl Paint {
    #[cfg(test)]
    pub const PLAIN: Paint = Paint { rich: false };

    /// For standard output as it is now (<https://no-color.org>: set and not empty).
    pub fn for_stdout() -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || env::var_os("TERM").is_some_and(|t| t == "dumb");
        Paint { rich: io::stdout().is_terminal() && !plain }
    }

    #[cfg(test)]
    pub const RICH: Paint = Paint { rich: true };

    fn colour(self, code: &str, text: &str) -> String {
        if self.rich { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Something passed.
    pub fn good(self, text: &str) -> String {
        self.colour("32", text)
    }

    /// Something failed.
    pub fn bad(self, text: &str) -> String {
        self.colour("1;31", text)
    }

    /// Something to look at.
    pub fn warn(self, text: &str) -> String {
        self.colour("33", text)
    }

    /// Less important.
    pub fn dim(self, text: &str) -> String {
        self.colour("2", text)
    }

    /// A title.
    pub fn bold(self, text: &str) -> String {
        self.colour("1", text)
    }

    /// The mark in front of a check; plain ones have the same width.
    pub fn mark(self, verdict: Mark) -> String {
        match (self.rich, verdict) {
            (true, Mark::Pass) => self.good("✓"),
            (true, Mark::Fail) => self.bad("✗"),
            (true, Mark::Note) => self.warn("•"),
            (true, Mark::Skip) => self.dim("-"),
            (false, Mark::Pass) => "ok  ".to_owned(),
            (false, Mark::Fail) => "FAIL".to_owned(),
            (false, Mark::Note) => "note".to_owned(),
            (false, Mark::Skip) => "-   ".to_owned(),
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Passed.
    Pass,
    /// Refused.
    Fail,
    /// Learnt or left out, with a reason.
    Note,
    /// Not reached.
    Skip,
}

/// Text from a pillar, made harmless for a terminal: no control characters (which would move the cursor or recolour),
/// nothing that turns the writing direction.
pub fn harmless(text: &str) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if odd(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[31mb\r\nc\u{202e}"), "a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}");
        assert_eq!(Paint::PLAIN.bad("x"), "x");
        assert_eq!(Paint::RICH.good("x"), "\x1b[32mx\x1b[0m");
    }
}
