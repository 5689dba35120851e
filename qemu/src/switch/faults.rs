//! What one direction between two machines does to frames, decided by a generator with a known seed. Pure: time
//! comes from outside, so that a decision can be repeated and tested.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How much later than its turn a reordered frame comes: long enough for those behind it to overtake.
const HELD_BACK: Duration = Duration::from_millis(20);
/// Frames on their way over one direction; more are dropped, as by a router whose buffer is full.
const UNDER_WAY_MAX: usize = 1024;
/// The longest delay that can be asked for: an hour is no network any more.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(3600);

/// A share of all frames, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(pub u32);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self(1_000_000);

    /// So many of a hundred.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self(percent.saturating_mul(10_000))
    }
}

impl FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a share: 0% to 100%, for example 20% or 0.5%");
        let number: f64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
        if !(0.0..=100.0).contains(&number) {
            return Err(wrong());
        }
        // Within 0 to 1000000, as the line above made sure of.
        Ok(Self((number * 10_000.0).round() as u32))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

/// The faults of one direction. The default has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Every frame takes so long.
    pub delay_us: u64,
    /// And up to so much more or less, evenly spread. Order is kept.
    pub jitter_us: u64,
    /// Frames that never come.
    pub loss_ppm: Share,
    /// Frames that come twice.
    pub duplicate_ppm: Share,
    /// Frames that others overtake: they come 20 ms later.
    pub reorder_ppm: Share,
    /// Bits in a second; 0 is no limit.
    pub rate_bits_per_s: u64,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if self.delay_us > 0 || self.jitter_us > 0 {
            let [delay, jitter] = [self.delay_us, self.jitter_us].map(Duration::from_micros);
            let spread = if jitter.is_zero() { String::new() } else { format!(" ± {jitter:?}") };
            words.push(format!("delay {delay:?}{spread}"));
        }
        for (what, share) in
            [("loss", self.loss_ppm), ("dup", self.duplicate_ppm), ("reorder", self.reorder_ppm)]
        {
            if share > Share::NONE {
                words.push(format!("{what} {share}"));
            }
        }
        if self.rate_bits_per_s > 0 {
            words.push(format!("rate {} kbit/s", self.rate_bits_per_s.div_ceil(1000)));
        }
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

/// A change of [`Faults`]: what is not named stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// See [`Faults::delay_us`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_us: Option<u64>,
    /// See [`Faults::jitter_us`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_us: Option<u64>,
    /// See [`Faults::loss_ppm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_ppm: Option<Share>,
    /// See [`Faults::duplicate_ppm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_ppm: Option<Share>,
    /// See [`Faults::reorder_ppm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_ppm: Option<Share>,
    /// See [`Faults::rate_bits_per_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_bits_per_s: Option<u64>,
}

impl Change {
    /// Delay, and its jitter.
    #[must_use]
    pub fn delay(delay: Duration, jitter: Duration) -> Self {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Self { delay_us: Some(micros(delay)), jitter_us: Some(micros(jitter)), ..Self::default() }
    }

    /// Loss.
    #[must_use]
    pub fn loss(share: Share) -> Self {
        Self { loss_ppm: Some(share), ..Self::default() }
    }

    /// Duplication.
    #[must_use]
    pub fn duplicate(share: Share) -> Self {
        Self { duplicate_ppm: Some(share), ..Self::default() }
    }

    /// Reordering.
    #[must_use]
    pub fn reorder(share: Share) -> Self {
        Self { reorder_ppm: Some(share), ..Self::default() }
    }

    /// Bits in a second; 0 is no limit.
    #[must_use]
    pub fn rate(bits_per_s: u64) -> Self {
        Self { rate_bits_per_s: Some(bits_per_s), ..Self::default() }
    }

    /// Refuses what makes no sense; says what.
    pub(crate) fn check(&self) -> Result<(), String> {
        let longest = u64::try_from(DELAY_MAX.as_micros()).unwrap_or(u64::MAX);
        if [self.delay_us, self.jitter_us].into_iter().flatten().any(|us| us > longest) {
            return Err(format!("a delay of more than {} s", DELAY_MAX.as_secs()));
        }
        let shares = [self.loss_ppm, self.duplicate_ppm, self.reorder_ppm];
        match shares.into_iter().flatten().find(|share| *share > Share::ALL) {
            Some(share) => Err(format!("a share of {share}")),
            None => Ok(()),
        }
    }

    pub(crate) fn applied_to(&self, old: Faults) -> Faults {
        Faults {
            delay_us: self.delay_us.unwrap_or(old.delay_us),
            jitter_us: self.jitter_us.unwrap_or(old.jitter_us),
            loss_ppm: self.loss_ppm.unwrap_or(old.loss_ppm),
            duplicate_ppm: self.duplicate_ppm.unwrap_or(old.duplicate_ppm),
            reorder_ppm: self.reorder_ppm.unwrap_or(old.reorder_ppm),
            rate_bits_per_s: self.rate_bits_per_s.unwrap_or(old.rate_bits_per_s),
        }
    }
}

/// What became of the frames of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Handed to the other machine, copies among them.
    pub delivered: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Copied on purpose.
    pub duplicated: u64,
    /// Held back on purpose.
    pub reordered: u64,
    /// Stopped by a partition.
    pub cut: u64,
    /// Dropped because a queue was full.
    pub overflowed: u64,
    /// Dropped because the other machine was not there.
    pub absent: u64,
}

/// One direction: its faults, its chance, and what is on its way.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    pub(crate) under_way: usize,
    rng: fastrand::Rng,
    /// When the line is free again, when it has a rate.
    busy_until: Option<Instant>,
    /// When the last frame that keeps its place arrives.
    last_due: Option<Instant>,
}

impl Link {
    /// Each direction has a generator of its own: what happens on one does not depend on the traffic of another.
    pub(crate) fn new(seed: u64, from: &str, to: &str) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        for byte in from.bytes().chain([0]).chain(to.bytes()) {
            rng = fastrand::Rng::with_seed(rng.u64(..) ^ u64::from(byte));
        }
        Self {
            faults: Faults::default(),
            counters: Counters::default(),
            under_way: 0,
            rng,
            busy_until: None,
            last_due: None,
        }
    }

    pub(crate) fn change(&mut self, change: &Change) {
        self.faults = change.applied_to(self.faults);
        // A shorter delay holds from the next frame on, even if it overtakes those under way.
        self.last_due = None;
        self.busy_until = None;
    }

    /// No faults any more, and chance as it was at the beginning.
    pub(crate) fn begin_anew(&mut self, seed: u64, from: &str, to: &str) {
        let (counters, under_way) = (self.counters, self.under_way);
        *self = Self { counters, under_way, ..Self::new(seed, from, to) };
    }

    /// No faults any more; chance goes on.
    pub(crate) fn clear(&mut self) {
        self.faults = Faults::default();
        self.last_due = None;
        self.busy_until = None;
    }

    /// When a frame of that size arrives, and when its copy does; none at all when it is lost.
    pub(crate) fn decide(&mut self, now: Instant, bytes: usize) -> [Option<Instant>; 2] {
        // All of them are drawn for every frame: a changed share does not shift what happens to later frames.
        let [lost, twice, overtaken] = [(); 3].map(|()| Share(self.rng.u32(0..Share::ALL.0)));
        let spread = self.rng.f64() * 2.0 - 1.0;
        let faults = self.faults;
        if lost < faults.loss_ppm {
            self.counters.lost += 1;
            return [None, None];
        }
        if self.under_way >= UNDER_WAY_MAX {
            self.counters.overflowed += 1;
            return [None, None];
        }
        let mut due = self.sent(now, bytes) + delay(&faults, spread);
        if overtaken < faults.reorder_ppm {
            self.counters.reordered += 1;
            due += HELD_BACK;
        } else {
            due = due.max(self.last_due.unwrap_or(due));
            self.last_due = Some(due);
        }
        self.under_way += 1;
        if twice < faults.duplicate_ppm {
            self.counters.duplicated += 1;
            self.under_way += 1;
            return [Some(due), Some(due)];
        }
        [Some(due), None]
    }

    /// When the last bit of the frame is on the line.
    fn sent(&mut self, now: Instant, bytes: usize) -> Instant {
        let Some(nanoseconds) =
            (bytes as u64).saturating_mul(8_000_000_000).checked_div(self.faults.rate_bits_per_s)
        else {
            return now;
        };
        let free = self.busy_until.unwrap_or(now).max(now);
        // A rate of 1 bit/s must not reach beyond what the clock can count.
        let takes = Duration::from_nanos(nanoseconds).min(DELAY_MAX);
        let sent = free + takes;
        self.busy_until = Some(sent);
        sent
    }
}

fn delay(faults: &Faults, spread: f64) -> Duration {
    let jitter = faults.jitter_us as f64 * spread;
    Duration::from_micros((faults.delay_us as f64 + jitter).max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(seed: u64, change: Change) -> Link {
        let mut link = Link::new(seed, "p1", "p2");
        link.change(&change);
        link
    }

    /// Arrivals in milliseconds after the start of frames that are sent at these milliseconds; the link holds none.
    fn arrivals(link: &mut Link, sent_ms: &[u64]) -> Vec<Vec<u128>> {
        let start = Instant::now();
        let mut all = Vec::new();
        for ms in sent_ms {
            let due = link.decide(start + Duration::from_millis(*ms), 1000);
            all.push(due.into_iter().flatten().map(|at| (at - start).as_millis()).collect());
            link.under_way = 0;
        }
        all
    }

    #[test]
    fn shares_are_parsed_and_printed() {
        for (text, ppm) in [("20%", 200_000), ("0.5%", 5_000), ("0%", 0), ("100%", 1_000_000)] {
            assert_eq!(text.parse::<Share>().map(|s| s.0), Ok(ppm));
            assert_eq!(Share(ppm).to_string(), text);
        }
        for wrong in ["20", "%", "-1%", "101%", "nan%", "inf%", ""] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
        assert_eq!(Share::percent(20), Share(200_000));
    }

    #[test]
    fn without_faults_nothing_happens() {
        assert_eq!(arrivals(&mut link(1, Change::default()), &[0, 5]), [[0], [5]]);
    }

    #[test]
    fn the_same_seed_decides_the_same_and_another_differs() {
        let change = Change { loss_ppm: Some(Share::percent(50)), ..Change::default() };
        let run = |seed| arrivals(&mut link(seed, change), &[0; 64]);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let mut back = Link::new(7, "p2", "p1");
        back.change(&change);
        assert_ne!(arrivals(&mut back, &[0; 64]), run(7), "directions are independent");
    }

    #[test]
    fn a_frame_lost_at_one_share_is_lost_at_every_higher_one() {
        let lost = |percent| -> Vec<bool> {
            arrivals(&mut link(3, Change::loss(Share::percent(percent))), &[0; 500])
                .iter()
                .map(Vec::is_empty)
                .collect()
        };
        let (few, many) = (lost(10), lost(30));
        assert!(few.iter().zip(&many).all(|(few, many)| !few || *many));
        assert!(lost(0).iter().all(|lost| !lost) && lost(100).iter().all(|lost| *lost));
        let share = many.iter().filter(|lost| **lost).count();
        assert!((100..200).contains(&share), "{share} of 500 at 30 %");
    }

    #[test]
    fn delay_and_jitter_keep_the_order() {
        let sent: Vec<u64> = (0..200).collect();
        let change = Change::delay(Duration::from_millis(100), Duration::from_millis(50));
        let came: Vec<u128> = arrivals(&mut link(5, change), &sent).into_iter().flatten().collect();
        assert_eq!(came.len(), 200);
        assert!(came.is_sorted());
        assert!(
            came.iter().zip(&sent).all(|(came, sent)| (50..=150 + 150).contains(&(came - u128::from(*sent))))
        );
        assert!(came[0] >= 50 && came[0] <= 150, "{}", came[0]);
    }

    #[test]
    fn reordering_and_duplication_touch_their_share() {
        let mut half = link(9, Change::reorder(Share::percent(50)));
        let sent: Vec<u64> = (0..200).collect();
        let came: Vec<u128> = arrivals(&mut half, &sent).into_iter().flatten().collect();
        assert!(!came.is_sorted());
        let late = came.iter().zip(&sent).filter(|(came, sent)| **came == u128::from(**sent) + 20).count();
        assert_eq!(late as u64, half.counters.reordered);
        assert!((60..140).contains(&late), "{late} of 200 at 50 %");
        let twice = arrivals(&mut link(9, Change::duplicate(Share::ALL)), &[0, 1]);
        assert_eq!(twice, [[0, 0], [1, 1]]);
    }

    #[test]
    fn a_rate_spreads_frames_and_a_full_queue_drops() {
        // 1000 bytes at 800 kbit/s take 10 ms each.
        let came = arrivals(&mut link(1, Change::rate(800_000)), &[0, 0, 0, 100]);
        assert_eq!(came, [[10], [20], [30], [110]]);
        let mut full = link(1, Change::default());
        full.under_way = UNDER_WAY_MAX;
        assert_eq!(full.decide(Instant::now(), 100), [None, None]);
        assert_eq!(full.counters.overflowed, 1);
        assert!(link(1, Change::rate(1)).decide(Instant::now(), 100)[0].is_some());
    }

    #[test]
    fn changes_name_what_they_change() {
        let mut link = link(1, Change::delay(Duration::from_millis(200), Duration::ZERO));
        link.change(&Change::loss(Share::percent(20)));
        assert_eq!(link.faults.to_string(), "delay 200ms, loss 20%");
        assert_eq!(Faults::default().to_string(), "none");
        assert!(Change::delay(DELAY_MAX * 2, Duration::ZERO).check().is_err());
        assert!(Change::loss(Share(1_000_001)).check().is_err());
    }
}
