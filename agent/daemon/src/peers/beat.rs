//! The agent's own pulse: every period one signed heartbeat for all peers, a look at verdicts that have lapsed, and a
//! line in the log for each peer whose state has changed.

use super::Shared;
use super::table::PERIOD;
use pillar_model::{PeerState, PillarId, WorkloadState};
use pillar_wire::proto;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

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

/// The pulse.
pub struct Beat {
    shared: Arc<Shared>,
    sequence: u64,
    states: BTreeMap<PillarId, PeerState>,
}

impl Beat {
    /// Not beating yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, sequence: 0, states: BTreeMap::new() }
    }

    /// Beats until it is dropped.
    pub async fn run(mut self) {
        let mut ticks = interval(PERIOD);
        // After a pause of the machine one heartbeat says all that several would.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_around();
            if let Err(error) = self.beat().await {
                warn!("no heartbeat: {error}");
            }
        }
    }

    /// Cuts off whose verdict has lapsed; tells what has changed.
    fn look_around(&mut self) {
        let now = Instant::now();
        let mut lapsed = Vec::new();
        let mut states = BTreeMap::new();
        for (name, peer) in self.shared.table().iter() {
            if peer.live_verdict(now).is_none() {
                lapsed.push(name.clone());
            }
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
        for name in lapsed {
            self.shared.cut_all(&name, "no live verdict about it");
        }
    }

    async fn beat(&mut self) -> Result<(), crate::attest::Error> {
        let Some(cluster) = self.shared.chain.cluster() else { return Ok(()) };
        let Some(own) = self.shared.own_name(&cluster) else { return Ok(()) };
        let clock = self.shared.attester.clock().await?;
        let boot = self.shared.places.boot().ok();
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
            slot: boot.as_ref().map(|boot| boot.slot.to_string()).unwrap_or_default(),
            workload: boot.map_or("none", |boot| workload_word(boot.workload.state)).to_owned(),
            views: views.collect(),
        };
        drop(table);
        self.shared.pulse.send_replace(Some((self.sequence, self.shared.key.sign(&body))));
        Ok(())
    }
}

fn uptime_ms() -> u64 {
    let uptime = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}
