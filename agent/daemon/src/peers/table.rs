//! What this pillar knows about each of the others, and what follows from it. Pure: time is an argument.
//!
//! ```text
//!             evidence accepted                       heartbeats late            silent
//!   (nothing) ────────────────▶ up ◀──────────────▶ suspect ─────────────▶ down
//!       │                       │    a heartbeat        │                    │
//!       └───────────────────────┴────── evidence refused, counters moved ────┘
//!                                              ▼
//!                                          untrusted ── evidence accepted ──▶ up
//! ```
//!
//! **Invariant:** silence never makes a peer untrusted, and nothing but accepted evidence makes it trusted again.

use phi_detector::PingWindow;
use pillar_model::{PeerState, PillarId, RootHash};
use pillar_verify::{Counters, Report};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Between two heartbeats.
pub const PERIOD: Duration = Duration::from_secs(2);
/// Between two attestations of a connected peer, before jitter.
pub const REATTEST: Duration = Duration::from_secs(60);
/// How long a verdict is worth something: two attestations.
pub const VERDICT_LIFE: Duration = Duration::from_secs(120);
/// A heartbeat that is late by less than this is not late: machines pause, links delay.
const PAUSE: Duration = PERIOD;
/// From here on the detector's hint is taken (one false alarm in 10^8 by its own reckoning).
const SUSPECT_PHI: f64 = 8.0;
/// Silent for so long is suspect, whatever the detector makes of an irregular past.
const SUSPECT_AFTER: Duration = Duration::from_secs(8);
/// Silent for so long is down.
const DOWN_AFTER: Duration = Duration::from_secs(16);

/// What accepted evidence said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// When it was judged.
    pub at: Instant,
    /// The TPM's clock and counters in it.
    pub counters: Counters,
    /// Version of the release that runs there.
    pub version: String,
    /// Its root hash, which is what it is known by.
    pub root_hash: RootHash,
    /// What its dbx was held to.
    pub dbx_required: [u8; 32],
    /// The key that signs its heartbeats, Ed25519.
    pub heartbeat_key: Vec<u8>,
}

/// Why a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The check that failed.
    pub check: String,
    /// The PCR that it was about.
    pub pcr: Option<u8>,
    /// The event that changed, in words.
    pub event: Option<String>,
    /// Why, in words.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// What a heartbeat said that passed its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// One more each time since the sender's agent started.
    pub sequence: u64,
    /// Sender's wall clock minus ours.
    pub clock_offset_ms: i64,
    /// The sender's TPM.
    pub reset_count: u32,
    /// The sender's TPM.
    pub restart_count: u32,
    /// Its last entry.
    pub serial: u64,
    /// Digest of that entry.
    pub head: Vec<u8>,
    /// The slot that it runs from.
    pub slot: String,
    /// State of its workload.
    pub workload: String,
    /// Members about whom it holds a live verdict.
    pub vouches_for: BTreeSet<PillarId>,
}

/// Why a heartbeat does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// There is no verdict that lives.
    #[error("no live verdict about the sender, or about another agent than this one")]
    Unverified,
    /// Sent again, or out of order.
    #[error("heartbeat {found} after {last}: replayed")]
    Replayed {
        /// Its number.
        found: u64,
        /// The last one's.
        last: u64,
    },
    /// The TPM was reset or restarted under the running system.
    #[error("the TPM's reset and restart counters are {found:?}, the evidence had {attested:?}")]
    Counters {
        /// In the heartbeat.
        found: (u32, u32),
        /// In the evidence.
        attested: (u32, u32),
    },
}

/// One peer.
#[derive(Default)]
pub struct Peer {
    /// TLS key of the row that this is about (SubjectPublicKeyInfo).
    tls_spki: Vec<u8>,
    verdict: Option<Verdict>,
    refusal: Option<Refusal>,
    heartbeat: Option<Heartbeat>,
    /// Last sign of life: a heartbeat, or the answer to one.
    alive_at: Option<Instant>,
    heartbeat_at: Option<Instant>,
    intervals: Option<PingWindow>,
    trouble: Option<String>,
    /// It reaches us and does not believe us: its own words.
    refuses_us: Option<String>,
    report: Option<Report>,
    round_trip: Option<Duration>,
    /// Counters and heartbeat key of the last evidence that was ever accepted.
    attested: Option<(Counters, Vec<u8>)>,
    tries: u64,
}

impl Peer {
    /// Its evidence was accepted.
    pub fn accepted(&mut self, verdict: Verdict, report: Option<Report>) {
        let same_agent = self.verdict.as_ref().is_some_and(|old| old.heartbeat_key == verdict.heartbeat_key);
        if !same_agent {
            self.heartbeat = None;
            self.intervals = None;
            self.heartbeat_at = None;
        }
        self.alive_at = Some(verdict.at);
        self.attested = Some((verdict.counters, verdict.heartbeat_key.clone()));
        self.refusal = None;
        self.trouble = None;
        self.report = report.or(self.report.take());
        self.verdict = Some(verdict);
    }

    /// Its evidence was refused, or what it says contradicts its evidence.
    pub fn refused(&mut self, refusal: Refusal, report: Option<Report>) {
        self.verdict = None;
        self.refusal = Some(refusal);
        self.report = report.or(self.report.take());
    }

    /// It could not be reached, or left.
    pub fn unreachable(&mut self, reason: String) {
        self.trouble = Some(reason);
    }

    /// It has just accepted this pillar's evidence.
    pub fn believes_us(&mut self) {
        self.refuses_us = None;
    }

    /// It does not believe this pillar. That says nothing about it.
    pub fn refuses_us(&mut self, reason: String) {
        self.refuses_us = Some(reason);
    }

    /// Whether it does not believe this pillar.
    pub fn is_refusing(&self) -> bool {
        self.refuses_us.is_some()
    }

    /// How often its evidence was judged, or it could not be reached.
    pub fn tries(&self) -> u64 {
        self.tries
    }

    /// Counts one more.
    pub fn count_try(&mut self) {
        self.tries += 1;
    }

    /// A heartbeat with a good signature by `key`. An error about counters is a refusal; the caller cuts the connection.
    pub fn heard(&mut self, heartbeat: Heartbeat, key: &[u8], now: Instant) -> Result<(), HeartbeatError> {
        // A heartbeat that the agent of an earlier boot sent, and that comes late, says nothing about this one.
        let verdict = self.live_verdict(now).filter(|verdict| verdict.heartbeat_key == key);
        let verdict = verdict.ok_or(HeartbeatError::Unverified)?;
        let found = (heartbeat.reset_count, heartbeat.restart_count);
        let attested = (verdict.counters.reset_count, verdict.counters.restart_count);
        if found != attested {
            return Err(HeartbeatError::Counters { found, attested });
        }
        let last = self.heartbeat.as_ref().map(|last| last.sequence);
        if let Some(last) = last.filter(|last| heartbeat.sequence <= *last) {
            return Err(HeartbeatError::Replayed { found: heartbeat.sequence, last });
        }
        let intervals = self.intervals.get_or_insert_with(|| PingWindow::new(PERIOD));
        if let Some(before) = self.heartbeat_at {
            // A gap is an outage, not a rhythm to get used to.
            intervals.add_ping(now.duration_since(before).min(SUSPECT_AFTER));
        }
        self.heartbeat_at = Some(now);
        self.alive_at = Some(now);
        self.heartbeat = Some(heartbeat);
        self.trouble = None;
        self.refuses_us = None;
        Ok(())
    }

    /// It answered a heartbeat of ours.
    pub fn answered(&mut self, round_trip: Duration, now: Instant) {
        self.round_trip = Some(round_trip);
        self.refuses_us = None;
        if self.live_verdict(now).is_some() {
            self.alive_at = Some(now);
        }
    }

    /// The verdict, while it lives.
    pub fn live_verdict(&self, now: Instant) -> Option<&Verdict> {
        self.verdict.as_ref().filter(|verdict| now.saturating_duration_since(verdict.at) < VERDICT_LIFE)
    }

    /// Clock and counters of the last evidence that was ever accepted: they may only go up.
    pub fn previous(&self) -> Option<Counters> {
        self.attested.as_ref().map(|(counters, _)| *counters)
    }

    /// Those that the agent with this heartbeat key had. It lives no longer than one boot, so that its counters stay, even
    /// when it was refused in between.
    pub fn of_agent(&self, heartbeat_key: &[u8]) -> Option<Counters> {
        self.attested.as_ref().filter(|(_, key)| key == heartbeat_key).map(|(counters, _)| *counters)
    }

    /// Why it is not believed.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The checks of its last evidence.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// What its last heartbeat said.
    pub fn heartbeat(&self) -> Option<&Heartbeat> {
        self.heartbeat.as_ref()
    }

    /// Since the last heartbeat.
    pub fn heartbeat_age(&self, now: Instant) -> Option<Duration> {
        self.heartbeat_at.map(|at| now.saturating_duration_since(at))
    }

    /// Since the last accepted evidence, when its verdict lives.
    pub fn verdict_age(&self, now: Instant) -> Option<Duration> {
        self.live_verdict(now).map(|verdict| now.saturating_duration_since(verdict.at))
    }

    /// Time between a heartbeat of ours and its answer.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The failure detector's hint: 0 while nothing is late.
    pub fn phi(&self, now: Instant) -> f64 {
        let (Some(intervals), Some(alive)) = (&self.intervals, self.alive_at) else { return 0.0 };
        let silent = now.saturating_duration_since(alive);
        match silent.checked_sub(PAUSE) {
            Some(late) => intervals.normal_dist().phi(late).clamp(0.0, f64::from(u16::MAX)),
            None => 0.0,
        }
    }

    /// What it is now, and why in words (empty when up).
    pub fn state(&self, now: Instant) -> (PeerState, String) {
        if let Some(refusal) = &self.refusal {
            return (PeerState::Untrusted, format!("{}: {}", refusal.check, refusal.reason));
        }
        if let Some(reason) = &self.refuses_us {
            return (PeerState::Down, format!("it refuses this pillar: {reason}"));
        }
        let why = self.trouble.as_deref().unwrap_or("no answer");
        let Some(alive) = self.alive_at else { return (PeerState::Down, format!("never heard of: {why}")) };
        let silent = now.saturating_duration_since(alive);
        let words = format!("last sign of life {:.1} s ago", silent.as_secs_f64());
        if self.live_verdict(now).is_none() {
            return (PeerState::Down, format!("its attestation has lapsed, {words}: {why}"));
        }
        let phi = self.phi(now);
        let unheard = self.heartbeat_at.or(self.verdict.as_ref().map(|verdict| verdict.at));
        let mute = unheard.is_some_and(|at| now.saturating_duration_since(at) >= SUSPECT_AFTER);
        if silent >= DOWN_AFTER {
            (PeerState::Down, format!("{words}: {why}"))
        } else if silent >= SUSPECT_AFTER || (silent > 2 * PERIOD && phi >= SUSPECT_PHI) {
            (PeerState::Suspect, format!("{words}, phi {phi:.1}"))
        } else if mute {
            (PeerState::Suspect, "it answers, and sends no heartbeats".to_owned())
        } else {
            (PeerState::Up, String::new())
        }
    }

    /// Whether its word about others counts: believed, and not long silent.
    fn speaks(&self, now: Instant) -> Option<&Heartbeat> {
        let (state, _) = self.state(now);
        self.heartbeat.as_ref().filter(|_| matches!(state, PeerState::Up | PeerState::Suspect))
    }
}

/// Every other member.
#[derive(Default)]
pub struct Table {
    peers: BTreeMap<PillarId, Peer>,
}

impl Table {
    /// The record of one peer; an empty one when nothing is known.
    pub fn peer(&mut self, name: &PillarId) -> &mut Peer {
        self.peers.entry(name.clone()).or_default()
    }

    /// The same to look at.
    pub fn get(&self, name: &PillarId) -> Option<&Peer> {
        self.peers.get(name)
    }

    /// Keeps these members, by name and TLS key. Whoever is none any more is forgotten, and so is what was known of another
    /// machine under the same name: the names of these come back.
    pub fn keep(&mut self, rows: &BTreeMap<PillarId, &[u8]>) -> Vec<PillarId> {
        self.peers.retain(|name, _| rows.contains_key(name));
        let mut replaced = Vec::new();
        for (name, spki) in rows {
            let peer = self.peers.entry(name.clone()).or_default();
            if peer.tls_spki != *spki {
                if !peer.tls_spki.is_empty() {
                    replaced.push(name.clone());
                }
                *peer = Peer { tls_spki: spki.to_vec(), ..Peer::default() };
            }
        }
        replaced
    }

    /// Verdicts lapse that were come to by what does not hold any more: those peers have to prove themselves anew first.
    pub fn lapse_unless(&mut self, holds: impl Fn(&Verdict) -> bool) {
        for peer in self.peers.values_mut() {
            peer.verdict.take_if(|verdict| !holds(verdict));
        }
    }

    /// Every verdict lapses: nobody knows how long this machine was not there.
    pub fn lapse(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.verdict = None);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&PillarId, &Peer)> {
        self.peers.iter()
    }

    /// Who vouches for `name`, as far as this pillar (`own`) knows: itself by its own verdict, others by their word. For
    /// who refuses this pillar it does not stand: there is no connection for its verdict to hold.
    pub fn vouchers(&self, name: &PillarId, own: &PillarId, now: Instant) -> Vec<PillarId> {
        let mut vouchers: BTreeSet<PillarId> = self
            .peers
            .iter()
            .filter(|(other, _)| *other != name)
            .filter(|(_, peer)| peer.speaks(now).is_some_and(|said| said.vouches_for.contains(name)))
            .map(|(other, _)| other.clone())
            .collect();
        if self.get(name).is_some_and(|peer| peer.live_verdict(now).is_some() && !peer.is_refusing()) {
            vouchers.insert(own.clone());
        }
        vouchers.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PillarId {
        name.parse().expect("a name")
    }

    fn counters(reset_count: u32) -> Counters {
        Counters { clock_ms: 1, reset_count, restart_count: 0, safe: true, firmware_version: 1 }
    }

    fn verdict(at: Instant) -> Verdict {
        Verdict {
            at,
            counters: counters(1),
            version: "1".to_owned(),
            root_hash: ROOT,
            dbx_required: [0; 32],
            heartbeat_key: KEY.to_vec(),
        }
    }

    const KEY: &[u8] = &[7; 32];
    const ROOT: RootHash = RootHash([1; 32]);

    fn heartbeat(sequence: u64) -> Heartbeat {
        Heartbeat {
            sequence,
            clock_offset_ms: 0,
            reset_count: 1,
            restart_count: 0,
            serial: 0,
            head: Vec::new(),
            slot: "a".to_owned(),
            workload: "healthy".to_owned(),
            vouches_for: BTreeSet::from([id("p3")]),
        }
    }

    fn refusal() -> Refusal {
        Refusal {
            check: "firmware".to_owned(),
            pcr: Some(0),
            event: None,
            reason: "another".to_owned(),
            hint: String::new(),
        }
    }

    /// A peer that was attested and has sent heartbeats for a while; the time of the last one.
    fn steady(start: Instant) -> (Peer, Instant) {
        let mut peer = Peer::default();
        peer.accepted(verdict(start), None);
        let mut now = start;
        for sequence in 1..=20 {
            // A little jitter, as there is.
            now = start
                + PERIOD * u32::try_from(sequence).expect("small")
                + Duration::from_millis(sequence % 3 * 40);
            peer.heard(heartbeat(sequence), KEY, now).expect("heard");
        }
        (peer, now)
    }

    #[test]
    fn silence_makes_a_peer_suspect_then_down_and_never_untrusted() {
        let (mut peer, last) = steady(Instant::now());
        let state = |peer: &Peer, after: u64| peer.state(last + Duration::from_millis(after)).0;
        assert_eq!(state(&peer, 0), PeerState::Up);
        assert_eq!(state(&peer, 3900), PeerState::Up);
        assert_eq!(state(&peer, 8000), PeerState::Suspect);
        assert_eq!(state(&peer, 15_999), PeerState::Suspect);
        assert_eq!(state(&peer, 16_000), PeerState::Down);
        // The verdict lapses; that is silence too.
        assert_eq!(state(&peer, 1_000_000), PeerState::Down);
        peer.unreachable("no route".to_owned());
        let (down, why) = peer.state(last + Duration::from_secs(20));
        assert_eq!(down, PeerState::Down);
        assert!(why.contains("20.0 s ago") && why.contains("no route"), "{why}");
        // One heartbeat mends it.
        let now = last + Duration::from_secs(20);
        peer.heard(heartbeat(21), KEY, now).expect("heard");
        assert_eq!(peer.state(now), (PeerState::Up, String::new()));
    }

    #[test]
    fn answers_to_our_heartbeats_are_signs_of_life() {
        let (mut peer, last) = steady(Instant::now());
        let now = last + Duration::from_secs(30);
        peer.answered(Duration::from_millis(3), now);
        let (state, why) = peer.state(now + PERIOD);
        assert_eq!((state, why.as_str()), (PeerState::Suspect, "it answers, and sends no heartbeats"));
        assert_eq!(peer.round_trip(), Some(Duration::from_millis(3)));
    }

    #[test]
    fn who_refuses_us_is_down_until_it_speaks_again() {
        let (mut peer, last) = steady(Instant::now());
        peer.refuses_us("replay: changed".to_owned());
        let down = (PeerState::Down, "it refuses this pillar: replay: changed".to_owned());
        assert_eq!(peer.state(last), down);
        peer.accepted(verdict(last), None);
        assert_eq!(peer.state(last), down, "its own evidence is good, and that is not the point");
        peer.believes_us();
        assert_eq!(peer.state(last).0, PeerState::Up);
    }

    #[test]
    fn a_refusal_is_not_forgotten_until_evidence_is_accepted() {
        let (mut peer, last) = steady(Instant::now());
        peer.refused(refusal(), None);
        assert_eq!(peer.state(last), (PeerState::Untrusted, "firmware: another".to_owned()));
        assert_eq!(peer.live_verdict(last), None);
        assert_eq!(peer.heard(heartbeat(30), KEY, last), Err(HeartbeatError::Unverified));
        peer.unreachable("gone".to_owned());
        peer.answered(Duration::ZERO, last);
        assert_eq!(peer.state(last + Duration::from_secs(3600)).0, PeerState::Untrusted);
        peer.accepted(verdict(last), None);
        assert_eq!(peer.state(last).0, PeerState::Up);
    }

    #[test]
    fn a_verdict_lapses() {
        let start = Instant::now();
        let mut peer = Peer::default();
        peer.accepted(verdict(start), None);
        let late = start + VERDICT_LIFE;
        assert!(peer.live_verdict(late - Duration::from_millis(1)).is_some());
        assert_eq!(peer.live_verdict(late), None);
        assert_eq!(peer.heard(heartbeat(1), KEY, late), Err(HeartbeatError::Unverified));
        assert_eq!(peer.state(late).0, PeerState::Down);
        assert!(peer.previous().is_some(), "the counters stay");
    }

    #[test]
    fn heartbeats_are_not_taken_twice_and_moved_counters_are_noticed() {
        let (mut peer, last) = steady(Instant::now());
        for sequence in [20, 19, 0] {
            let replayed = HeartbeatError::Replayed { found: sequence, last: 20 };
            assert_eq!(peer.heard(heartbeat(sequence), KEY, last), Err(replayed));
        }
        let moved = Heartbeat { restart_count: 1, ..heartbeat(21) };
        let expected = HeartbeatError::Counters { found: (1, 1), attested: (1, 0) };
        assert_eq!(peer.heard(moved, KEY, last), Err(expected));
        // A new agent begins at one again, under a key of its own.
        let other = vec![8; 32];
        peer.accepted(Verdict { heartbeat_key: other.clone(), ..verdict(last) }, None);
        peer.heard(heartbeat(1), &other, last).expect("heard");
        // What the old one sent comes late, and does not count.
        assert_eq!(peer.heard(heartbeat(22), KEY, last), Err(HeartbeatError::Unverified));
        peer.heard(heartbeat(2), &other, last).expect("heard");
    }

    #[test]
    fn a_verdict_lapses_with_the_release_that_it_is_about() {
        let (peer, now) = steady(Instant::now());
        let mut table = Table::default();
        *table.peer(&id("p2")) = peer;
        table.lapse_unless(|verdict| verdict.root_hash == ROOT);
        assert_eq!(table.peer(&id("p2")).state(now).0, PeerState::Up);
        table.lapse_unless(|verdict| verdict.dbx_required != [0; 32]);
        let peer = table.peer(&id("p2"));
        assert_eq!((peer.state(now).0, peer.live_verdict(now)), (PeerState::Down, None));
        assert!(peer.previous().is_some(), "the counters stay");
    }

    #[test]
    fn who_vouches() {
        let start = Instant::now();
        let (own, p2, p3) = (id("p1"), id("p2"), id("p3"));
        let mut table = Table::default();
        let (peer, now) = steady(start);
        *table.peer(&p2) = peer;
        assert_eq!(table.vouchers(&p3, &own, now), std::slice::from_ref(&p2));
        table.peer(&p3).accepted(verdict(now), None);
        assert_eq!(table.vouchers(&p3, &own, now), [own.clone(), p2.clone()]);
        // Whoever refuses this pillar has others to vouch for it, while they do.
        table.peer(&p3).refuses_us("firmware: PCR 1".to_owned());
        assert_eq!(table.vouchers(&p3, &own, now), std::slice::from_ref(&p2));
        table.peer(&p3).believes_us();
        assert_eq!(table.vouchers(&p3, &own, now), [own.clone(), p2.clone()]);
        // Who is not believed does not vouch.
        table.peer(&p2).refused(refusal(), None);
        assert_eq!(table.vouchers(&p3, &own, now), std::slice::from_ref(&own));
        let rows = |spki: &'static [u8]| BTreeMap::from([(id("p2"), spki)]);
        assert!(table.keep(&rows(b"key")).is_empty());
        assert!(table.get(&p3).is_none());
        table.peer(&p2).accepted(verdict(now), None);
        assert!(table.keep(&rows(b"key")).is_empty() && table.peer(&p2).live_verdict(now).is_some());
        // Another machine under the name has nothing of the old one.
        assert_eq!(table.keep(&rows(b"other key")), std::slice::from_ref(&p2));
        assert!(table.peer(&p2).live_verdict(now).is_none() && table.peer(&p2).previous().is_none());
    }
}
