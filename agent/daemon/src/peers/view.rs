//! The cluster as an operator is shown it.

use super::Shared;
use super::beat::workload_word;
use super::table::{PERIOD, Peer, Table};
use pillar_model::{Member, PeerState, PillarId};
use pillar_quorum::Cluster;
use pillar_wire::proto;
use std::time::{Duration, Instant};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    /// Everything that this pillar knows.
    pub fn cluster_reply(&self) -> proto::ClusterReply {
        let period_ms = u32::try_from(millis(PERIOD)).unwrap_or(u32::MAX);
        let mut reply = proto::ClusterReply { period_ms, trouble: self.trouble(), ..Default::default() };
        let Some(cluster) = self.chain.cluster() else { return reply };
        let constitution = cluster.constitution();
        reply.founded = true;
        reply.cluster.clone_from(&constitution.cluster);
        reply.constitution_version = constitution.version;
        reply.constitution_expires_unix_s = constitution.expires_unix_s;
        reply.threshold = constitution.threshold;
        reply.serial = cluster.serial();
        reply.head.clone_from(&cluster.head().0);
        if let Some(releases) = cluster.releases() {
            reply.committed.clone_from(&releases.committed.value().version);
            reply.trial =
                releases.trial.as_ref().map(|trial| trial.value().version.clone()).unwrap_or_default();
        }
        let own = self.own_name(&cluster);
        reply.own_name = own.as_ref().map(ToString::to_string).unwrap_or_default();
        let table = self.table();
        let now = Instant::now();
        reply.peers =
            cluster.members().values().map(|row| self.line(&table, row, own.as_ref(), now)).collect();
        reply
    }

    /// One peer; none when there is no such member.
    pub fn peer_reply(&self, cluster: &Cluster, name: &PillarId) -> Option<proto::Peer> {
        let own = self.own_name(cluster);
        let table = self.table();
        cluster.member(name).map(|row| self.line(&table, row, own.as_ref(), Instant::now()))
    }

    fn line(&self, table: &Table, row: &Member, own: Option<&PillarId>, now: Instant) -> proto::Peer {
        let mut line = if own == Some(&row.name) {
            self.own_line()
        } else {
            table.get(&row.name).map_or_else(unknown, |peer| other(peer, now))
        };
        line.name = row.name.to_string();
        line.addresses.clone_from(&row.addresses);
        // Before it is a member itself, a pillar vouches for nobody, and its table is empty.
        if let Some(own) = own {
            line.vouchers = table.vouchers(&row.name, own, now).iter().map(ToString::to_string).collect();
        }
        line
    }

    fn own_line(&self) -> proto::Peer {
        let boot = self.places.boot().ok();
        let (slot, workload, version) = boot.map_or_else(Default::default, |boot| {
            (boot.slot.to_string(), workload_word(boot.workload.state), boot.version)
        });
        proto::Peer {
            self_: true,
            state: PeerState::Up.to_string(),
            pcr: -1,
            heard: true,
            version,
            slot,
            workload: workload.to_owned(),
            ..Default::default()
        }
    }
}

fn unknown() -> proto::Peer {
    let reason = "not called yet".to_owned();
    proto::Peer { state: PeerState::Down.to_string(), reason, pcr: -1, ..Default::default() }
}

fn other(peer: &Peer, now: Instant) -> proto::Peer {
    let (state, reason) = peer.state(now);
    let mut line =
        proto::Peer { state: state.to_string(), reason, pcr: -1, phi: peer.phi(now), ..Default::default() };
    if let Some(refusal) = peer.refusal() {
        line.check.clone_from(&refusal.check);
        line.pcr = refusal.pcr.map_or(-1, i32::from);
        line.event = refusal.event.clone().unwrap_or_default();
        line.hint.clone_from(&refusal.hint);
    }
    if let Some(verdict) = peer.live_verdict(now) {
        line.version.clone_from(&verdict.version);
        line.tpm_firmware = verdict.counters.tpm_version().to_string();
        // A verdict beside "it refuses this pillar" would look like trust, and there is no connection for it to hold.
        if !peer.is_refusing() {
            line.verified = true;
            line.verdict_age_ms = peer.verdict_age(now).map_or(0, millis);
        }
    }
    if let Some(said) = peer.heartbeat() {
        line.heard = true;
        line.slot.clone_from(&said.slot);
        line.workload.clone_from(&said.workload);
        line.clock_offset_ms = said.clock_offset_ms;
    }
    line.heartbeat_age_ms = peer.heartbeat_age(now).map_or(0, millis);
    line.round_trip_us =
        peer.round_trip().map_or(0, |time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    line.checks = peer
        .report()
        .map(|report| &report.checks)
        .into_iter()
        .flatten()
        .map(|check| proto::CheckLine {
            name: check.name.to_owned(),
            verdict: check.verdict.to_string(),
            words: check.words.clone(),
        })
        .collect();
    line
}

#[cfg(test)]
mod tests {
    use super::super::table::Verdict;
    use super::*;
    use pillar_model::RootHash;
    use pillar_verify::Counters;

    #[test]
    fn no_verdict_stands_beside_a_peer_that_refuses_this_pillar() {
        let at = Instant::now();
        let counters = Counters {
            clock_ms: 1,
            reset_count: 1,
            restart_count: 0,
            safe: true,
            firmware_version: 0x0007_003E_0C36_0001,
        };
        let verdict = Verdict {
            at,
            counters,
            version: "1".to_owned(),
            root_hash: RootHash([1; 32]),
            dbx_required: [0; 32],
            heartbeat_key: vec![7; 32],
        };
        let mut peer = Peer::default();
        peer.accepted(verdict, None);
        let now = at + Duration::from_secs(3);
        let line = other(&peer, now);
        assert_eq!((line.verified, line.verdict_age_ms, line.state.as_str()), (true, 3000, "up"));
        assert_eq!(line.tpm_firmware, "7.62.3126.1");
        peer.refuses_us("firmware: PCR 1".to_owned());
        let line = other(&peer, now);
        assert_eq!((line.verified, line.verdict_age_ms, line.state.as_str()), (false, 0, "down"));
        assert_eq!(line.reason, "it refuses this pillar: firmware: PCR 1");
        peer.believes_us();
        assert!(other(&peer, now).verified, "the verdict lived on");
    }
}
