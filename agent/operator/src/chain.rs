//! A cluster's chain of entries: fetched from a pillar, judged here, handed to others. A pillar that lies about it is
//! found out, because every entry is signed by operators whose certificates we hold.

use crate::cli::{Caller, Via, Viewer};
use crate::failure::{Failure, Kind, Outcome};
use crate::fork;
use crate::operators;
use crate::reference::{Reference, now_unix_s};
use crate::session::{call, malformed};
use crate::view::{self, Witness};
use pillar_model::{Action, Constitution, Entry, OperatorEntry, OperatorKey};
use pillar_quorum::{Cluster, Envelope, MemberError, Refusal, Tally, replay};
use pillar_wire::client::Connected;
use pillar_wire::proto;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// More entries than any cluster makes; a pillar that sends more without end is cut short here.
const ENTRIES_MAX: usize = 1 << 16;
/// Proposals that wait at one pillar.
const PENDING_MAX: usize = 256;
/// How often a pillar is asked whether it has come so far.
const POLL: Duration = Duration::from_millis(200);

/// The chain as one pillar has it.
pub struct Chain {
    /// All entries.
    pub envelopes: Vec<Envelope>,
    /// Proposals on top of the last entry, which lack signatures.
    pub pending: Vec<Proposal>,
    /// What the entries make.
    pub cluster: Cluster,
}

/// An entry that is not in force yet.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// As it is signed.
    pub envelope: Envelope,
    /// What it says.
    pub entry: Entry,
    /// Who signed.
    pub tally: Tally,
}

impl Chain {
    /// The pending proposal that fits best: the one that most operators signed.
    pub fn proposal(&self, fits: impl Fn(&Action) -> bool) -> Option<&Proposal> {
        self.pending
            .iter()
            .filter(|proposal| fits(&proposal.entry.action))
            .max_by_key(|proposal| proposal.tally.signed_by().len())
    }

    /// What evidence of a machine that joins is compared with: what the operators signed before.
    pub fn reference(&self) -> Outcome<Reference> {
        self.reference_by(self.cluster.constitution())
    }

    /// The same by a constitution that may come.
    pub fn reference_by(&self, constitution: &Constitution) -> Outcome<Reference> {
        let releases = self.cluster.releases().ok_or_else(|| {
            Failure::new("the cluster has no release that its pillars may run")
                .hint("`pillar found` was interrupted: run it again")
        })?;
        let der = |all: &[pillar_model::Digest]| all.iter().map(|digest| digest.0.clone()).collect();
        Ok(Reference {
            releases: releases.iter().cloned().collect(),
            ek_roots: der(&constitution.ek_roots),
            ek_intermediates: der(&constitution.ek_intermediates),
            ek_allowed: constitution.ek_allowed.clone(),
            denied_tpm_firmware: constitution.denied_tpm_firmware.clone(),
            dbx_required: constitution.dbx_required.clone(),
        })
    }

    /// A proposal, judged and counted.
    pub fn count(&self, envelope: Envelope) -> Outcome<Proposal> {
        let tally = self.cluster.needed(&envelope, now_unix_s()).map_err(|error| refused(&error))?;
        let entry = entry_of(&envelope)?;
        Ok(Proposal { envelope, entry, tally })
    }

    /// A new proposal without signatures.
    pub fn propose(&self, action: Action) -> Outcome<Proposal> {
        let envelope = self.cluster.propose(action, now_unix_s()).map_err(|error| refused(&error))?;
        self.count(envelope)
    }
}

/// What a payload that was judged says.
pub fn entry_of(envelope: &Envelope) -> Outcome<Entry> {
    serde_json::from_slice(envelope.payload())
        .map_err(|error| Failure::because("an entry cannot be read", &error))
}

/// An entry that cannot be, in our words and with its exit code.
pub fn refused(refusal: &Refusal) -> Failure {
    let kind = match refusal {
        Refusal::Expired { .. } => Kind::Expired,
        Refusal::Clock { .. } | Refusal::MadeBefore { .. } => Kind::Clock,
        Refusal::TooFewSignatures { .. } => Kind::Unsigned,
        Refusal::NoMember(_) => Kind::Unknown,
        // The machine itself is what is not taken.
        Refusal::Admit {
            source: MemberError::Revoked { .. } | MemberError::NotAllowed(_) | MemberError::NoMaker,
            ..
        } => Kind::Refused,
        _ => Kind::Other,
    };
    Failure::of(refusal).kind(kind).hint(refusal.hint())
}

/// Operators and chain of the cluster that the arguments mean.
pub async fn open(via: &Via, caller: &Caller) -> Outcome<(Witness, Chain)> {
    let trusted = keys(&operators::load(&via.operators, &caller.cert())?);
    let viewer = Viewer { from: via.via.clone() };
    let mut witness = Witness::find(&viewer, caller, None).await?;
    let chain = fetch(&mut witness, &trusted).await?;
    Ok((witness, chain))
}

/// The keys alone.
pub fn keys(operators: &[OperatorEntry]) -> Vec<OperatorKey> {
    operators.iter().map(|operator| operator.key).collect()
}

/// The whole chain of a pillar that belongs to a cluster. Judged as it comes: a pillar that lies is cut short at its first
/// entry that nobody signed, before it can fill our memory.
pub async fn fetch(witness: &mut Witness, trusted: &[OperatorKey]) -> Outcome<Chain> {
    let mut envelopes = Vec::new();
    let mut cluster: Option<Cluster> = None;
    let pending = loop {
        let from = envelopes.len() as u64;
        let request = witness.connected.client.entries(proto::EntriesRequest { from });
        let reply = call("give its entries", request).await?;
        if reply.pending.len() > PENDING_MAX || envelopes.len() + reply.envelopes.len() > ENTRIES_MAX {
            return Err(
                Failure::new(format!("{} sends entries without end", witness.place.name)).kind(Kind::Denied)
            );
        }
        let more = !reply.envelopes.is_empty();
        for json in &reply.envelopes {
            let envelope = Envelope::parse(json).map_err(|error| malformed("entry", &error))?;
            let one = std::slice::from_ref(&envelope);
            let next = match &cluster {
                None => replay(one, trusted),
                Some(cluster) => cluster.extend(one),
            };
            let at = envelopes.len();
            cluster = Some(next.map_err(|(_, refusal)| forged(&witness.place.name, at, &refusal))?);
            envelopes.push(envelope);
        }
        if !more || envelopes.len() as u64 > witness.view.said.serial {
            break reply.pending;
        }
    };
    let cluster = cluster.ok_or_else(|| forged(&witness.place.name, 0, &Refusal::NoEntries))?;
    let mut chain = Chain { envelopes, pending: Vec::new(), cluster };
    for json in &pending {
        // What fits this chain no longer, or never did, is nobody's concern.
        if let Ok(proposal) = Envelope::parse(json).map_err(drop).and_then(|e| chain.count(e).map_err(drop)) {
            chain.pending.push(proposal);
        }
    }
    Ok(chain)
}

/// A pillar shows a chain that our operators did not sign.
fn forged(name: &str, at: usize, refusal: &Refusal) -> Failure {
    let hint = match refusal {
        Refusal::Stranger { .. } => {
            "the founding is signed by operators whose certificates are not here; --operators FILE… names them all"
        }
        _ => "its chain is not what your operators signed: another cluster, or a pillar that lies",
    };
    Failure::because(format!("entry {at} of {name}'s chain is refused"), refusal)
        .kind(Kind::NoCluster)
        .hint(hint)
}

/// Gives one entry to a pillar.
pub async fn submit(connected: &mut Connected, envelope: &Envelope) -> Outcome<proto::SubmitReply> {
    let request = proto::SubmitRequest { envelope: envelope.to_json().into_bytes() };
    call("take the entry", connected.client.submit(request)).await
}

/// Brings a pillar up to the end of a chain. Its peers may do the same meanwhile, so it is asked how far it is. Entries
/// under a constitution that is void by now are in force there once one that is not has followed.
pub async fn hand_over(witness: &mut Witness, envelopes: &[Envelope]) -> Outcome {
    let mut refused: Option<(usize, Failure)> = None;
    let mut given = 0;
    loop {
        let view = view::ask(&witness.place, &mut witness.connected).await?;
        let next = if view.said.founded {
            usize::try_from(view.said.serial).unwrap_or(usize::MAX).saturating_add(1)
        } else {
            0
        };
        witness.view = view;
        check_same_chain(witness, envelopes).await?;
        let next = next.max(given);
        let Some(envelope) = envelopes.get(next) else { return Ok(()) };
        match refused.take() {
            // Refused, and nobody else gave it to that pillar either.
            Some((at, failure)) if at == next => return Err(failure),
            _ => {}
        }
        match submit(&mut witness.connected, envelope).await {
            Ok(_) => given = next + 1,
            Err(failure) => refused = Some((next, failure)),
        }
    }
}

/// A pillar that has another entry in the same place belongs to another cluster, or to the other half of one.
async fn check_same_chain(witness: &mut Witness, envelopes: &[Envelope]) -> Outcome {
    let said = &witness.view.said;
    let ours = usize::try_from(said.serial).ok().and_then(|serial| envelopes.get(serial));
    if ours.is_none_or(|ours| !said.founded || ours.digest().0 == said.head) {
        return Ok(());
    }
    let mut what = format!("{} has another entry {} than the cluster", witness.place.name, said.serial);
    if let Some(words) = fork::told(envelopes, &mut witness.connected).await {
        what = format!("{what}: {words}");
    }
    Err(Failure::new(what).kind(Kind::NoCluster).hint(
        "`pillar state erase` makes it forget that, with everything on its state volume; who signed two decisions for one place should say which of them counts",
    ))
}

/// Waits until a pillar has an entry.
pub async fn wait_for(witness: &mut Witness, serial: u64, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    loop {
        let view = view::ask(&witness.place, &mut witness.connected).await?;
        if view.said.founded && view.said.serial >= serial {
            witness.view = view;
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "{} did not come to entry {serial} within {} s",
                witness.place.name,
                limit.as_secs()
            ))
            .kind(Kind::Denied)
            .hint(format!("`pillar logs {}` may say why", witness.place.name)));
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::Digest;

    #[test]
    fn a_machine_that_operators_decided_against_is_refused_and_not_an_error() {
        let name = || "p3".parse().expect("a name");
        for (source, words) in [
            (
                MemberError::Revoked { ek: Digest(vec![0xab; 2]), serial: 7 },
                "p3 is not admitted\n  caused by: its endorsement key abab was revoked by entry 7\n  hint: a revoked machine does not come back; replace its TPM",
            ),
            (MemberError::NotAllowed(Digest(vec![1])), "hint: amend the constitution's list first"),
            (MemberError::NoMaker, "hint: let the machine ask anew"),
        ] {
            let failure = refused(&Refusal::Admit { name: name(), source });
            assert_eq!(failure.kind, Kind::Refused);
            assert!(failure.to_string().contains(words), "{failure}");
        }
        let full = refused(&Refusal::Admit { name: name(), source: MemberError::Full });
        assert_eq!(full.kind, Kind::Other, "that says nothing about the machine");
    }
}
