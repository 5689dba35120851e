//! Keeps strangers from filling the log: who may not speak to the agent may still make it write lines.

use std::time::{Duration, Instant};

/// Lines per period that one throttle lets through.
const LINES: u32 = 10;
/// The period.
const PERIOD: Duration = Duration::from_secs(60);

/// Counts lines of one kind.
#[derive(Debug)]
pub struct Throttle {
    since: Instant,
    lines: u32,
}

impl Throttle {
    /// Nothing said yet.
    pub fn new(now: Instant) -> Self {
        Self { since: now, lines: 0 }
    }

    /// Whether this line may be written.
    pub fn allows(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= PERIOD {
            *self = Self::new(now);
        }
        self.lines += 1;
        self.lines <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_minute() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        assert_eq!((0..30).filter(|_| throttle.allows(start)).count(), 10);
        assert!(throttle.allows(start + PERIOD));
    }
}
