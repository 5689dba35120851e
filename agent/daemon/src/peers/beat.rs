//! What the agent does by the clock: every period one signed heartbeat for all peers, and a look at verdicts
//! that have lapsed and at states that have changed.

use super::Shared;
use super::table::PERIOD;
use crate::places::ChangedAt;
use pillar_model::{PeerState, PillarId, WorkloadState};
use pillar_tpm::{Clock, ClockReader};
use pillar_wire::proto;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

/// Signing and one TPM command keep little on the stack.
const STACK_BYTES: usize = 256 * 1024;
/// Suspended for longer than this: what was known of others is old.
const SLEEP: Duration = Duration::from_secs(10);

/// Our wall clock. For people: nothing is decided by it here.
pub fn wall_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A workload's state as one word.
pub fn workload_word(state: WorkloadState) -> &'static str {
    match state {
        WorkloadState::None => "none",
        WorkloadState::Starting => "starting",
        WorkloadState::Healthy => "healthy",
        WorkloadState::Unhealthy => "unhealthy",
        WorkloadState::Restarting => "restarting",
        WorkloadState::Stopped => "stopped",
    }
}

/// A signed heartbeat with its number; nothing before the first.
pub type Pulse = Option<(u64, proto::Heartbeat)>;

/// Without a heartbeat of our own the table is looked after this often. Far enough off for the event loop's wheel of
/// timers, which wakes up once more for those that cross one of its 4.1 s slots: a heartbeat puts this one off before.
const UNHURRIED: Duration = Duration::from_millis(6_500);

/// Hands our heartbeats to those who send them, and looks after the table: cuts off whose verdict has lapsed, tells what
/// has changed. Apart from the pulse's thread, so that a TPM that hangs does not keep anybody connected.
pub struct Watch {
    shared: Arc<Shared>,
    pulse: watch::Receiver<Pulse>,
    states: BTreeMap<PillarId, PeerState>,
    asleep: Duration,
}

impl Watch {
    /// Not watching yet.
    pub fn new(shared: Arc<Shared>, pulse: watch::Receiver<Pulse>) -> Self {
        Self { shared, pulse, states: BTreeMap::new(), asleep: asleep() }
    }

    /// Watches until it is dropped: with each heartbeat, so that an idle agent wakes up once for both, and without one
    /// when none comes. From here the heartbeat goes to all senders: each that the thread told itself would wake up the
    /// event loop by itself.
    pub async fn run(mut self) {
        loop {
            match timeout(UNHURRIED, self.pulse.changed()).await {
                Ok(Ok(())) => {
                    let beat = self.pulse.borrow_and_update().clone();
                    self.shared.pulse.send_replace(beat);
                }
                // The thread has ended, and with it soon the agent.
                Ok(Err(_)) => return,
                Err(_) => {}
            }
            self.notice_sleep();
            self.look_around();
        }
    }

    /// Verdicts age by a clock that stands still while the machine is suspended.
    fn notice_sleep(&mut self) {
        let asleep = asleep();
        if asleep > self.asleep + SLEEP {
            warn!("this machine was suspended: every peer has to prove itself anew");
            self.shared.table().lapse();
        }
        self.asleep = asleep;
    }

    fn look_around(&mut self) {
        let now = Instant::now();
        let mut states = BTreeMap::new();
        for (name, peer) in self.shared.table().iter() {
            let (state, reason) = peer.state(now);
            if self.states.get(name) != Some(&state) {
                match state {
                    PeerState::Up => info!("{name} is up"),
                    PeerState::Suspect | PeerState::Down => warn!("{name} is {state}: {reason}"),
                    PeerState::Untrusted => warn!("{name} is untrusted and cut off: {reason}"),
                }
            }
            states.insert(name.clone(), state);
        }
        self.states = states;
        self.shared.cut_unverified();
    }
}

/// How long this machine has been suspended since it booted.
fn asleep() -> Duration {
    let clock = |id| Duration::try_from(clock_gettime(id)).unwrap_or_default();
    clock(ClockId::Boottime).saturating_sub(clock(ClockId::Monotonic))
}

/// What init says about this boot, as far as heartbeats tell it.
#[derive(Debug, Clone, Default)]
struct Told {
    slot: String,
    workload: String,
}

/// The pulse: a thread of its own, since the TPM makes it wait.
pub struct Beat {
    shared: Arc<Shared>,
    pulse: watch::Sender<Pulse>,
    sequence: u64,
    /// As of this change of init's record: reading it again each time would be a good part of what an idle agent does.
    told: Option<(ChangedAt, Told)>,
    reader: Option<ClockReader>,
}

impl Beat {
    /// Not beating yet.
    pub fn new(shared: Arc<Shared>, pulse: watch::Sender<Pulse>) -> Self {
        Self { shared, pulse, sequence: 0, told: None, reader: None }
    }

    /// Starts the thread. What is returned ends when the thread has ended, which it does not by itself.
    pub fn start(self) -> io::Result<oneshot::Receiver<()>> {
        let (lives, ended) = oneshot::channel();
        thread::Builder::new().name("pulse".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            let _lives = lives;
            self.run();
        })?;
        Ok(ended)
    }

    /// Beats while anybody is there to hear of it. After a pause of the machine one heartbeat says all that several would.
    fn run(mut self) {
        let mut due = Instant::now();
        while Arc::strong_count(&self.shared) > 1 {
            if let Err(error) = self.beat() {
                warn!("no heartbeat: {error}");
            }
            due = (due + PERIOD).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    /// The TPM's clock, over a connection of its own: it waits for one command at most, not for quotes.
    fn clock(&mut self) -> Result<Clock, pillar_tpm::Error> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => ClockReader::open(self.shared.attester.tcti())?,
        };
        let clock = reader.read()?;
        self.reader = Some(reader);
        Ok(clock)
    }

    fn told(&mut self) -> Told {
        let places = &self.shared.places;
        let changed = places.boot_changed_at().ok();
        if let (Some(changed), Some((at, told))) = (changed, &self.told)
            && *at == changed
        {
            return told.clone();
        }
        let told = places.boot().map_or_else(
            |_| Told::default(),
            |boot| Told {
                slot: boot.slot.to_string(),
                workload: workload_word(boot.workload.state).to_owned(),
            },
        );
        self.told = changed.map(|at| (at, told.clone()));
        told
    }

    fn beat(&mut self) -> Result<(), pillar_tpm::Error> {
        let Some(cluster) = self.shared.chain.cluster() else { return Ok(()) };
        let Some(own) = self.shared.own_name(&cluster) else { return Ok(()) };
        let clock = self.clock()?;
        let told = self.told();
        self.sequence += 1;
        let now = Instant::now();
        let table = self.shared.table();
        let views = table.iter().map(|(name, peer)| proto::View {
            name: name.to_string(),
            state: peer.state(now).0.to_string(),
            verified: peer.live_verdict(now).is_some(),
        });
        let body = proto::HeartbeatBody {
            name: own.to_string(),
            sequence: self.sequence,
            uptime_ms: uptime_ms(),
            wall_unix_ms: wall_unix_ms(),
            reset_count: clock.reset_count,
            restart_count: clock.restart_count,
            serial: cluster.serial(),
            head: cluster.head().0.clone(),
            slot: told.slot,
            workload: told.workload,
            views: views.collect(),
        };
        drop(table);
        self.pulse.send_replace(Some((self.sequence, self.shared.key.sign(&body))));
        Ok(())
    }
}

fn uptime_ms() -> u64 {
    let uptime = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}
