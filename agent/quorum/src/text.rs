//! Texts that people will read on a terminal: short, and without characters that would write over what they read.

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing is there.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Too long.
    #[error("{what} has {bytes} bytes, more than {max}")]
    Long {
        /// Of what.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// Its limit.
        max: usize,
    },
    /// Escape sequences, line breaks, marks that turn the direction of writing.
    #[error("{0} holds a character that cannot be printed")]
    Unprintable(&'static str),
}

/// At most `max` bytes, all of them printable.
pub(crate) fn printable(what: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.len() > max {
        return Err(TextError::Long { what, bytes: text.len(), max });
    }
    if text.chars().any(|c| c.is_control() || turns_direction(c)) {
        return Err(TextError::Unprintable(what));
    }
    Ok(())
}

/// The same, and something is there.
pub(crate) fn present(what: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty(what));
    }
    printable(what, text, max)
}

/// What a parser says about foreign bytes, which it may quote: short, and without what cannot be printed.
pub(crate) fn excerpt(words: &str) -> String {
    const CHARS: usize = 200;
    words
        .chars()
        .take(CHARS)
        .map(|c| if c.is_control() || turns_direction(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Explicit directional formatting (Unicode Standard Annex #9), and the line and paragraph separators.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
