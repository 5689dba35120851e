//! SNTP (RFC 5905): one question, one answer, and which of several answers to believe.
//!
//! The time is for people who read logs and for the dates of certificates. Nobody proves it, so no decision about trust
//! may rest on it. The code is our own because the checks are most of it: the crates for SNTP take one server's word.

use std::time::Duration;

/// Where servers listen.
pub const PORT: u16 = 123;
/// A packet without extensions.
pub const PACKET_BYTES: usize = 48;

const VERSION: u8 = 4;
const CLIENT: u8 = 3;
const SERVER: u8 = 4;
/// The server's own clock is not set.
const ALARM: u8 = 3;
/// Farther from a reference clock is too far (RFC 5905 section 14: MAXDIST).
const DISTANCE_MAX: Duration = Duration::from_millis(1500);
/// A slower answer says little about the time.
const DELAY_MAX: Duration = Duration::from_secs(1);

const NANOS: i128 = 1_000_000_000;
/// From 1900, where NTP counts from, to 1970.
const UNIX_EPOCH: i128 = 2_208_988_800;
/// NTP's seconds have 32 bits. Those without the highest one are after 2036 (RFC 4330 section 3).
const ERA: i128 = 1 << 32;
/// A time before this software was written is no time (2026-01-01), nor is one that its machine will not live to see
/// (2051-01-01).
pub const EARLIEST_UNIX_S: u64 = 1_767_225_600;
const LATEST_UNIX_S: u64 = 2_556_144_000;

/// Why an answer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too short, another mode or version, or an answer to something else.
    #[error("it is no answer to the question")]
    NotOurs,
    /// Kiss-o'-death (RFC 5905 section 7.4): it asks us to leave it alone, for now or for ever.
    #[error("it does not want to be asked ({0})")]
    Kiss(String),
    /// Its own clock is not set.
    #[error("its own clock is not set")]
    Unsynchronized,
    /// Too far from a reference clock, or too slow.
    #[error("it is too far from a reference clock or too slow")]
    TooFar,
    /// A time that cannot be.
    #[error("its time cannot be right")]
    Impossible,
}

impl Refusal {
    /// True when the server wants never to be asked again. Any other kiss is for now: it is asked too often, or has no time
    /// yet, as all of a rack after a power cut.
    #[must_use]
    pub fn is_farewell(&self) -> bool {
        matches!(self, Self::Kiss(code) if matches!(code.as_str(), "DENY" | "RSTR"))
    }
}

/// What one answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds that our clock is behind.
    pub offset: i64,
    /// How wrong that may be, nanoseconds.
    pub distance: i64,
}

/// The question. It says nothing about us: what is our clock in other clients is a random number here, which the answer
/// must repeat.
#[must_use]
pub fn question(nonce: u64) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = VERSION << 3 | CLIENT;
    packet[40..].copy_from_slice(&nonce.to_be_bytes());
    packet
}

/// Reads the answer to the question with this nonce: `asked` by our clock, nanoseconds since 1970, and how long it took. No
/// time before `earliest_unix_s` is taken.
pub fn answer(
    packet: &[u8],
    nonce: u64,
    asked: i64,
    took: Duration,
    earliest_unix_s: u64,
) -> Result<Sample, Refusal> {
    let packet = packet.first_chunk::<PACKET_BYTES>().ok_or(Refusal::NotOurs)?;
    let [first, stratum, ..] = *packet;
    let (leap, version, mode) = (first >> 6, first >> 3 & 7, first & 7);
    if mode != SERVER || !(3..=VERSION).contains(&version) || word(packet, 24) != nonce {
        return Err(Refusal::NotOurs);
    }
    if stratum == 0 {
        let code = packet[12..16].iter().filter(|c| c.is_ascii_alphanumeric());
        let code: String = code.map(|c| char::from(*c)).collect();
        // Stratum 0 is also what a server has that was just started: chrony names no code then, ntpd one of these.
        let starts = matches!(code.as_str(), "" | "INIT" | "STEP");
        return Err(if starts { Refusal::Unsynchronized } else { Refusal::Kiss(code) });
    }
    let (received, sent) = (word(packet, 32), word(packet, 40));
    if leap == ALARM || stratum > 15 || received == 0 || sent == 0 {
        return Err(Refusal::Unsynchronized);
    }
    let (received, sent) = (unix_nanos(received), unix_nanos(sent));
    let (asked, took) = (i128::from(asked), took.as_nanos() as i128);
    let answered = asked + took;
    let delay = took - (sent - received);
    // A server that answered before it was asked, or thought longer than the answer took.
    if sent < received || delay < 0 {
        return Err(Refusal::Impossible);
    }
    let root = i128::from(short(packet, 4)) / 2 + i128::from(short(packet, 8));
    let distance = delay / 2 + root;
    if delay > DELAY_MAX.as_nanos() as i128 || distance > DISTANCE_MAX.as_nanos() as i128 {
        return Err(Refusal::TooFar);
    }
    let offset = ((received - asked) + (sent - answered)) / 2;
    let earliest = earliest_unix_s.max(EARLIEST_UNIX_S);
    if !(i128::from(earliest)..i128::from(LATEST_UNIX_S)).contains(&sent.div_euclid(NANOS)) {
        return Err(Refusal::Impossible);
    }
    let fits = |value: i128| i64::try_from(value).map_err(|_| Refusal::Impossible);
    Ok(Sample { offset: fits(offset)?, distance: fits(distance)? })
}

fn word(packet: &[u8; PACKET_BYTES], at: usize) -> u64 {
    packet[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// NTP's short format, 16 bits of seconds and 16 of their fraction, as nanoseconds.
fn short(packet: &[u8; PACKET_BYTES], at: usize) -> u64 {
    let raw = packet[at..at + 4].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    (raw * NANOS as u64) >> 16
}

fn unix_nanos(timestamp: u64) -> i128 {
    let seconds = i128::from(timestamp >> 32);
    let era = if timestamp >> 63 == 0 { ERA } else { 0 };
    let fraction = (i128::from(timestamp & 0xffff_ffff) * NANOS) >> 32;
    (seconds + era - UNIX_EPOCH) * NANOS + fraction
}

/// What most servers agree about: how far our clock is behind, and how many of them say so. None when no majority
/// agrees.
#[must_use]
pub fn agreed(samples: &[Sample]) -> Option<(i64, usize)> {
    let agree =
        |a: &Sample, b: &Sample| a.offset.abs_diff(b.offset) <= (a.distance + b.distance).unsigned_abs();
    let mut best: Vec<i64> = Vec::new();
    for sample in samples {
        let with: Vec<i64> = samples.iter().filter(|other| agree(sample, other)).map(|s| s.offset).collect();
        if with.len() > best.len() {
            best = with;
        }
    }
    if best.len() * 2 <= samples.len() {
        return None;
    }
    best.sort_unstable();
    best.get((best.len() - 1) / 2).map(|median| (*median, best.len()))
}

/// What to do about the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is right, or an odd answer waits to be confirmed.
    Leave,
    /// Nothing: the clock is proven, and who proves nothing may not move it so far.
    Refuse,
    /// Set it at once.
    Step,
    /// Have it run faster or slower for a while.
    Slew,
}

/// More than this is a jump and not a drift.
pub const JUMP: Duration = Duration::from_millis(500);
/// Less than this is noise.
const NOISE: Duration = Duration::from_millis(1);
/// Once the clock was set, a jump must be told so often in a row.
const JUMPS: u32 = 3;

/// What was done about the clock so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Discipline {
    set: bool,
    jumps: u32,
    proven: bool,
    /// How far unproven answers moved the clock since a proven one agreed with it or set it, to and fro.
    unproven: Duration,
}

impl Discipline {
    /// True when proven answers have set the clock, or agreed with it.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Decides about an offset that was agreed on, by servers that proved their answers or by others. Once the clock
    /// is proven, these may not have it jump any more, nor move it by more than a jump in many small steps: else who keeps the
    /// proven answers away could tell any time.
    pub fn decide(&mut self, offset: i64, proven: bool) -> Action {
        let off = Duration::from_nanos(offset.unsigned_abs());
        if self.proven && !proven {
            return self.decide_unproven(off);
        }
        if off <= JUMP {
            self.take(proven);
            return if off <= NOISE { Action::Leave } else { Action::Slew };
        }
        self.jumps += 1;
        // The first proven answers are as good as the first ones at all.
        if self.set && self.proven == proven && self.jumps < JUMPS {
            return Action::Leave;
        }
        self.take(proven);
        Action::Step
    }

    fn take(&mut self, proven: bool) {
        (self.set, self.jumps, self.proven) = (true, 0, self.proven || proven);
        self.unproven = Duration::ZERO;
    }

    /// The same about a proven clock and unproven answers. What they say by turns counts as well: a slew that is replaced
    /// before its end is not undone by its opposite.
    fn decide_unproven(&mut self, off: Duration) -> Action {
        if off <= NOISE {
            return Action::Leave;
        }
        let moved = self.unproven.saturating_add(off);
        if moved > JUMP {
            return Action::Refuse;
        }
        self.unproven = moved;
        Action::Slew
    }
}

#[cfg(test)]
mod tests;
