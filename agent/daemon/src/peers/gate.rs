//! Who may come in, and what is made of the evidence that they show: the chain's members, and the verifier with the
//! policy that the chain says.

use super::Shared;
use super::table::{Peer, REATTEST, Refusal, Table, VERDICT_LIFE, Verdict};
use pillar_model::{
    Bank, Binding, DeniedTpmFirmware, Evidence, FirmwareReference, PillarId, RootHash, TpmMaker,
};
use pillar_quorum::{Cluster, Releases};
use pillar_session as session;
use pillar_verify::{
    Check, Counters, EkTrust, ExitBootServices, Firmware, Policy, Rejection, Report, SameTpm, StateVolume,
    Verified, ak_name, denied_tpm_firmware, judge,
};
use ring::digest::{Context, SHA256};
use std::time::Instant;

/// What peers quote and are pinned in: the bank that pillars seal to.
const BANK: Bank = Bank::Sha256;

impl Shared {
    /// The member whose TLS key this is.
    pub fn member_by_tls(&self, spki: &[u8]) -> Option<PillarId> {
        let cluster = self.chain.cluster()?;
        let own = self.own_name(&cluster);
        let found = cluster.member_by_tls(spki)?.name.clone();
        // Oneself is no peer: evidence that comes back is a reflection.
        (own.as_ref() != Some(&found)).then_some(found)
    }

    /// Judges what `name` shows, and keeps the verdict. Whoever is refused is cut off everywhere, at once.
    pub fn judge_peer(
        &self,
        name: &PillarId,
        mut evidence: Evidence,
        binding: &Binding,
    ) -> Result<Verified, session::Refusal> {
        loop {
            let cluster = self.chain.cluster().ok_or_else(|| policy("this pillar belongs to no cluster"))?;
            let judged = self.judge_by(&cluster, name, &mut evidence, binding);
            // Where there is nothing to judge by, nothing was said about the peer.
            let (report, verdict) =
                judged.inspect_err(|refusal| self.unreachable(name, refusal.to_string()))?;
            let mut table = self.table();
            // An entry that came meanwhile may have changed what it is held to, or that it is a member at all.
            if self.chain.cluster().is_none_or(|newest| newest.head() != cluster.head()) {
                continue;
            }
            let new_agent = match &verdict {
                Ok(verified) => {
                    let peer = table.peer(name);
                    let new_agent = peer.of_agent(&evidence.heartbeat_key).is_none();
                    let verdict = Verdict {
                        at: Instant::now(),
                        counters: verified.counters(),
                        version: verified.version().to_owned(),
                        root_hash: verified.root_hash(),
                        dbx_required: dbx_required(&cluster),
                        heartbeat_key: evidence.heartbeat_key,
                    };
                    peer.accepted(verdict, Some(report));
                    new_agent
                }
                Err(rejection) => {
                    table.peer(name).refused(refusal(rejection), Some(report));
                    true
                }
            };
            drop(table);
            if new_agent {
                // Those of the agent before it; this one's own is noted when it stands.
                let reason = verdict
                    .as_ref()
                    .err()
                    .map_or_else(|| "its agent was started anew".to_owned(), ToString::to_string);
                self.cut_all(name, &reason);
            }
            self.judged(name);
            return verdict.map_err(Into::into);
        }
    }

    /// By what the chain says now.
    fn judge_by(
        &self,
        cluster: &Cluster,
        name: &PillarId,
        evidence: &mut Evidence,
        binding: &Binding,
    ) -> Result<(Report, Result<Verified, Rejection>), session::Refusal> {
        let row = cluster.member(name).ok_or_else(|| policy("it is no member any more"))?;
        // The machine that had the name before says nothing about the one that has it now.
        if row.tls_spki.0 != binding.attester_spki {
            return Err(policy("another machine has taken its place"));
        }
        let releases: Vec<_> = cluster.releases().into_iter().flat_map(Releases::iter).collect();
        if releases.is_empty() {
            return Err(policy("the cluster's entries name no release yet"));
        }
        evidence.ak_public.clone_from(&row.ak_public.0);
        evidence.ek_public.clone_from(&row.ek_public.0);
        let ak = ak_name(&row.ak_public.0).map_err(|error| policy(&format!("its row's AK {error}")))?;
        // A row without values in this bank matches nothing: refused, not waved through.
        let nothing = FirmwareReference::default();
        let (previous, living) = self.counters(name, &evidence.heartbeat_key);
        let policy = Policy {
            releases: &releases,
            bank: BANK,
            ek: EkTrust::Row { ek_public: &row.ek_public.0, maker: row.tpm_maker },
            denied_tpm_firmware: &cluster.constitution().denied_tpm_firmware,
            dbx_required: &cluster.constitution().dbx_required,
            same_tpm: SameTpm::PinnedAk(&ak),
            firmware: Firmware::Pinned(row.firmware.get(&BANK).unwrap_or(&nothing)),
            state: StateVolume::Pinned(&row.state_volume),
            exit_boot_services: ExitBootServices::Required,
            previous: previous.map(with_slack),
            session: living.map(with_slack),
        };
        Ok(judge(evidence, binding, &policy))
    }

    /// The counters of the last accepted evidence, and those that the agent with this heartbeat key must still have.
    fn counters(&self, name: &PillarId, heartbeat_key: &[u8]) -> (Option<Counters>, Option<Counters>) {
        let table = self.table();
        let peer = table.get(name);
        (peer.and_then(Peer::previous), peer.and_then(|peer| peer.of_agent(heartbeat_key)))
    }

    /// Holds what is known of the members to an entry that has just come: who is untrusted by it is so at once, and verdicts
    /// that it makes worthless lapse, so that they have to be earned again.
    pub fn hold_to(&self, cluster: &Cluster) {
        let releases = cluster.releases().into_iter().flat_map(Releases::iter);
        let may_run: Vec<RootHash> = releases.map(|release| release.root_hash).collect();
        let dbx = dbx_required(cluster);
        // First what is known to be wrong, then what is not known to be right: "lapsed" would hide the reason.
        let rows = cluster.members().values().map(|row| (&row.name, row.tpm_maker));
        let refused = refuse_denied(&mut self.table(), &cluster.constitution().denied_tpm_firmware, rows);
        self.table()
            .lapse_unless(|verdict| may_run.contains(&verdict.root_hash) && verdict.dbx_required == dbx);
        for (name, reason) in refused {
            self.cut_all(&name, &reason);
            self.judged(&name);
        }
    }

    /// Cuts every connection of a peer about whom no verdict lives.
    pub fn cut_unverified(&self) {
        let now = Instant::now();
        for name in self.connected_names() {
            let lives = self.table().get(&name).is_some_and(|peer| peer.live_verdict(now).is_some());
            if !lives {
                self.cut_all(&name, "no live verdict about it");
            }
        }
    }

    /// Notes the refusal and cuts every connection with that peer.
    pub fn refuse(&self, name: &PillarId, refusal: Refusal, report: Option<Report>) {
        let reason = format!("{}: {}", refusal.check, refusal.reason);
        self.table().peer(name).refused(refusal, report);
        self.cut_all(name, &reason);
    }
}

/// Refuses whose TPM had firmware, by the last evidence that was accepted of it, that is denied now; returns them with the
/// reason. That evidence may be old: the firmware is not forgotten with the verdict. Who is refused already is so for a
/// reason of its own.
fn refuse_denied<'m>(
    table: &mut Table,
    denied: &[DeniedTpmFirmware],
    rows: impl Iterator<Item = (&'m PillarId, Option<TpmMaker>)>,
) -> Vec<(PillarId, String)> {
    let mut refused = Vec::new();
    for (name, maker) in rows {
        let judged = table.get(name).filter(|peer| peer.refusal().is_none());
        let Some(counters) = judged.and_then(Peer::previous) else { continue };
        let Err(error) = denied_tpm_firmware(denied, maker, counters.tpm_version()) else { continue };
        let check = Check::TpmFirmware;
        let refusal = Refusal {
            check: check.name().to_owned(),
            pcr: None,
            event: None,
            reason: error.to_string(),
            hint: check.hint().to_owned(),
        };
        refused.push((name.clone(), format!("{}: {}", refusal.check, refusal.reason)));
        table.peer(name).refused(refusal, None);
    }
    refused
}

/// Two connections with one peer are attested independently, so that an older quote may be judged after a newer one: the
/// nonces make both fresh, and the clock may be behind by as much as a verdict lives.
fn with_slack(previous: Counters) -> Counters {
    let slack = u64::try_from((VERDICT_LIFE + REATTEST).as_millis()).unwrap_or(u64::MAX);
    Counters { clock_ms: previous.clock_ms.saturating_sub(slack), ..previous }
}

/// The constitution's demand in short, to tell one from another.
fn dbx_required(cluster: &Cluster) -> [u8; 32] {
    let mut all = Context::new(&SHA256);
    for entry in &cluster.constitution().dbx_required {
        all.update(entry.to_string().as_bytes());
    }
    let mut short = [0; 32];
    short.copy_from_slice(all.finish().as_ref());
    short
}

fn policy(reason: &str) -> session::Refusal {
    session::Refusal::Policy(reason.to_owned())
}

fn refusal(rejection: &Rejection) -> Refusal {
    Refusal {
        check: rejection.check.name().to_owned(),
        pcr: rejection.pcr.map(|pcr| pcr.get()),
        event: rejection.changed.clone(),
        reason: rejection.reason.clone(),
        hint: rejection.hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::PeerState;

    fn verdict(at: Instant) -> Verdict {
        let firmware_version = 0x0007_003E_0C36_0001;
        Verdict {
            at,
            counters: Counters {
                clock_ms: 1,
                reset_count: 1,
                restart_count: 0,
                safe: true,
                firmware_version,
            },
            version: "1".to_owned(),
            root_hash: RootHash([1; 32]),
            dbx_required: [0; 32],
            heartbeat_key: vec![7; 32],
        }
    }

    // attack: B8
    #[test]
    fn firmware_is_denied_by_the_last_evidence_however_old_and_other_reasons_stay() {
        let names = ["p2", "p3", "p4", "p5"].map(|name| name.parse::<PillarId>().expect("a name"));
        let [lapsed, refused, other, unknown] = &names;
        let mut table = Table::default();
        let start = Instant::now();
        table.peer(lapsed).accepted(verdict(start), None);
        table.peer(refused).accepted(verdict(start), None);
        let reason = Refusal {
            check: "replay".to_owned(),
            pcr: None,
            event: None,
            reason: "another".to_owned(),
            hint: String::new(),
        };
        table.peer(refused).refused(reason, None);
        table.peer(other).accepted(verdict(start), None);
        table.peer(unknown);
        table.lapse();
        let now = start + 2 * VERDICT_LIFE;
        assert_eq!(table.peer(lapsed).state(now).0, PeerState::Down);

        let denied = ["IFX:7.62.3126.0-7.62.3126.1".parse().expect("a range")];
        let maker = |name: &str| name.parse::<TpmMaker>().ok();
        let makers = [maker("IFX"), maker("IFX"), maker("STM"), maker("IFX")];
        let mut cut = refuse_denied(&mut table, &denied, names.iter().zip(makers));
        assert_eq!(cut.len(), 1, "{cut:?}");
        let (name, words) = cut.pop().expect("one");
        assert_eq!(&name, lapsed);
        assert!(words.starts_with("TPM firmware: TPM firmware 7.62.3126.1 is denied"), "{words}");
        assert_eq!(table.peer(lapsed).state(now), (PeerState::Untrusted, words));
        let kept = (PeerState::Untrusted, "replay: another".to_owned());
        assert_eq!(table.peer(refused).state(now), kept);
        for trusted in [other, unknown] {
            assert_eq!(table.peer(trusted).state(now).0, PeerState::Down);
        }
        assert!(refuse_denied(&mut table, &[], names.iter().zip(makers)).is_empty());
    }
}
