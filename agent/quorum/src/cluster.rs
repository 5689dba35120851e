//! The state of a cluster, and the one way to change it.

use crate::constitution::{self, ConstitutionError, allows};
use crate::limits::{CLOCK_AHEAD_MAX_S, OPERATORS_MAX, TEXT_MAX_BYTES};
use crate::member::{self, ek_digest};
use crate::tally::{Electorate, Tally, tally};
use crate::text::present;
use crate::{Approved, ENTRY_TYPE, Envelope, EnvelopeError, ImageOperators, Refusal, entry, release};
use pillar_model::{Action, Constitution, Digest, Entry, Member, OperatorKey, PillarId, ReleasePredicate};
use std::collections::BTreeMap;

/// What pillars may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Releases {
    /// What every pillar runs.
    pub committed: Approved<ReleasePredicate>,
    /// What they may run beside it.
    pub trial: Option<Approved<ReleasePredicate>>,
}

impl Releases {
    /// The one or two of them.
    pub fn iter(&self) -> impl Iterator<Item = &ReleasePredicate> {
        std::iter::once(&self.committed).chain(&self.trial).map(Approved::value)
    }
}

/// A machine that left for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its name then.
    pub name: PillarId,
    /// By which entry.
    pub serial: u64,
    /// Why.
    pub reason: String,
}

/// What properly signed entries made of a cluster. It cannot be had in any other way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    constitution: Constitution,
    members: BTreeMap<PillarId, Member>,
    releases: Option<Releases>,
    revoked: BTreeMap<Digest, Revoked>,
    serial: u64,
    head: Digest,
    made_unix_s: u64,
}

/// Where an entry comes from, and so which times it is held to.
#[derive(Debug, Clone, Copy)]
enum When {
    /// New, from an operator: neither its author's clock nor ours may be past the constitution's expiry.
    New { now_unix_s: u64 },
    /// Accepted before, by ourselves or by a peer: what counts is when it was made. No clock may put it in question, or
    /// whoever sets ours back (time servers prove nothing) keeps revocations from us.
    Accepted,
}

impl When {
    /// The time at which the constitution must be in force.
    fn counts(self, made_unix_s: u64) -> u64 {
        match self {
            When::New { now_unix_s } => now_unix_s.max(made_unix_s),
            When::Accepted => made_unix_s,
        }
    }

    fn check_clock(self, made_unix_s: u64) -> Result<(), Refusal> {
        match self {
            When::New { now_unix_s } if made_unix_s > now_unix_s.saturating_add(CLOCK_AHEAD_MAX_S) => {
                Err(Refusal::Clock { made_unix_s, now_unix_s })
            }
            _ => Ok(()),
        }
    }
}

/// The state after a chain that was accepted before, as it is read back from disk, or had from a peer by a machine that
/// belongs to no cluster yet. No clock is asked: it may be wrong when a machine starts. A refusal comes with the place
/// of its entry in the list.
pub fn replay(
    envelopes: &[Envelope],
    image_operators: impl Into<ImageOperators>,
) -> Result<Cluster, (usize, Refusal)> {
    let (first, rest) = envelopes.split_first().ok_or((0, Refusal::NoEntries))?;
    let cluster = Cluster::found_when(first, &image_operators.into(), When::Accepted)
        .map_err(|refusal| (0, refusal))?;
    cluster.follow(rest, When::Accepted).map_err(|(at, refusal)| (at + 1, refusal))
}

/// Who signed a founding, and who is missing. Refused when no signatures could make it good.
pub fn founding(
    envelope: &Envelope,
    image_operators: impl Into<ImageOperators>,
    now_unix_s: u64,
) -> Result<Tally, Refusal> {
    judge_founding(envelope, &image_operators.into(), When::New { now_unix_s }).map(|(_, tally)| tally)
}

/// A founding without signatures, judged already.
pub fn propose_founding(
    constitution: Constitution,
    image_operators: impl Into<ImageOperators>,
    now_unix_s: u64,
) -> Result<Envelope, Refusal> {
    let action = Action::Found(Box::new(constitution));
    let entry = Entry { serial: 0, previous: Digest(Vec::new()), made_unix_s: now_unix_s, action };
    let envelope = wrap(&entry)?;
    founding(&envelope, image_operators, now_unix_s)?;
    Ok(envelope)
}

fn wrap(entry: &Entry) -> Result<Envelope, Refusal> {
    let payload =
        serde_json::to_vec(entry).expect("an entry's names are texts and its values have a JSON form");
    Envelope::new(ENTRY_TYPE, payload).map_err(|error| match error {
        EnvelopeError::PayloadTooLarge(bytes) => Refusal::TooLarge { bytes },
        other => Refusal::Unreadable { problem: other.to_string() },
    })
}

/// Everything about a first entry but whether its signatures are enough.
fn judge_founding(
    envelope: &Envelope,
    image: &ImageOperators,
    when: When,
) -> Result<(Entry, Tally), Refusal> {
    let entry = entry::read(envelope)?;
    let Action::Found(constitution) = &entry.action else { return Err(Refusal::NotFounded) };
    if entry.serial != 0 {
        return Err(Refusal::Serial { expected: 0, found: entry.serial });
    }
    if !entry.previous.0.is_empty() {
        return Err(Refusal::Previous { expected: Digest(Vec::new()), found: entry.previous });
    }
    when.check_clock(entry.made_unix_s)?;
    constitution::check(constitution, 1, when.counts(entry.made_unix_s))?;
    image.check(constitution)?;
    let named = image.named(constitution);
    let electorate = image.electorate(&named);
    let tally = tally(envelope, electorate, Some(Electorate::of(constitution)));
    Ok((entry, tally))
}

impl Cluster {
    /// The cluster that a new first entry founds. `image_operators` are those of this machine's sealed image: each
    /// operator of the constitution must be among them, and more than half of them must have signed.
    pub fn found(
        envelope: &Envelope,
        image_operators: impl Into<ImageOperators>,
        now_unix_s: u64,
    ) -> Result<Self, Refusal> {
        Self::found_when(envelope, &image_operators.into(), When::New { now_unix_s })
    }

    fn found_when(envelope: &Envelope, image: &ImageOperators, when: When) -> Result<Self, Refusal> {
        let (entry, tally) = judge_founding(envelope, image, when)?;
        let entry = tally.approve(entry, 0)?;
        let Action::Found(constitution) = &entry.action else { return Err(Refusal::NotFounded) };
        Ok(Self {
            constitution: (**constitution).clone(),
            members: BTreeMap::new(),
            releases: None,
            revoked: BTreeMap::new(),
            serial: 0,
            head: envelope.digest(),
            made_unix_s: entry.made_unix_s,
        })
    }

    /// The cluster after a new entry, as it comes from an operator.
    pub fn apply(&self, envelope: &Envelope, now_unix_s: u64) -> Result<Self, Refusal> {
        self.step(envelope, When::New { now_unix_s })
    }

    /// The cluster after entries that a peer accepted before: the constitution must have been in force when they were
    /// made. Our clock is not asked, as in [`replay`]. A refusal comes with the place of its entry in the list.
    pub fn extend(&self, envelopes: &[Envelope]) -> Result<Self, (usize, Refusal)> {
        self.clone().follow(envelopes, When::Accepted)
    }

    /// Who signed a new entry, and who is missing. Refused when no signatures could make it good.
    pub fn needed(&self, envelope: &Envelope, now_unix_s: u64) -> Result<Tally, Refusal> {
        self.judge(envelope, When::New { now_unix_s }).map(|(_, tally)| tally)
    }

    /// The next entry without signatures, judged already.
    pub fn propose(&self, action: Action, now_unix_s: u64) -> Result<Envelope, Refusal> {
        let made_unix_s = now_unix_s.max(self.made_unix_s);
        let entry =
            Entry { serial: self.serial.saturating_add(1), previous: self.head.clone(), made_unix_s, action };
        let envelope = wrap(&entry)?;
        self.needed(&envelope, now_unix_s)?;
        Ok(envelope)
    }

    /// The same envelope with only the signatures that count, one for each operator: what is worth keeping, so that
    /// nobody can fill an envelope with others. For the entry that follows this cluster's last one.
    #[must_use]
    pub fn only_counting(&self, envelope: &Envelope) -> Envelope {
        let mut keys: Vec<OperatorKey> = self.constitution.operators.iter().map(|o| o.key).collect();
        if let Ok(Entry { action: Action::Amend(next), .. }) = entry::read(envelope) {
            keys.extend(next.operators.iter().map(|o| o.key).take(OPERATORS_MAX));
        }
        envelope.only_by(keys)
    }

    /// The constitution in force.
    #[must_use]
    pub fn constitution(&self) -> &Constitution {
        &self.constitution
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<PillarId, Member> {
        &self.members
    }

    /// The member of that name.
    #[must_use]
    pub fn member(&self, name: &PillarId) -> Option<&Member> {
        self.members.get(name)
    }

    /// The member with that TLS key: its SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn member_by_tls(&self, spki: &[u8]) -> Option<&Member> {
        self.members.values().find(|member| member.tls_spki.0 == spki)
    }

    /// What pillars may run; none before the first entry that says so.
    #[must_use]
    pub fn releases(&self) -> Option<&Releases> {
        self.releases.as_ref()
    }

    /// Machines that left for good, by the SHA-256 of their EK's `TPMT_PUBLIC`.
    #[must_use]
    pub fn revoked(&self) -> &BTreeMap<Digest, Revoked> {
        &self.revoked
    }

    /// Number of the last entry.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// SHA-256 of the last entry's payload.
    #[must_use]
    pub fn head(&self) -> &Digest {
        &self.head
    }

    /// When the last entry was made, by its author's clock; seconds since 1970.
    #[must_use]
    pub fn made_unix_s(&self) -> u64 {
        self.made_unix_s
    }

    fn follow(self, envelopes: &[Envelope], when: When) -> Result<Self, (usize, Refusal)> {
        let step = |cluster: Self, (at, envelope)| cluster.step(envelope, when).map_err(|r| (at, r));
        envelopes.iter().enumerate().try_fold(self, step)
    }

    fn step(&self, envelope: &Envelope, when: When) -> Result<Self, Refusal> {
        let (entry, tally) = self.judge(envelope, when)?;
        let serial = entry.serial;
        Ok(self.after(&tally.approve(entry, serial)?, envelope.digest()))
    }

    /// Everything about an entry but whether its signatures are enough.
    fn judge(&self, envelope: &Envelope, when: When) -> Result<(Entry, Tally), Refusal> {
        let entry = entry::read(envelope)?;
        self.check_place(&entry)?;
        self.check_time(&entry, when)?;
        self.check_action(&entry, when)?;
        let next = match &entry.action {
            Action::Amend(next) => Some(Electorate::of(next)),
            _ => None,
        };
        let tally = tally(envelope, Electorate::of(&self.constitution), next);
        Ok((entry, tally))
    }

    fn check_place(&self, entry: &Entry) -> Result<(), Refusal> {
        if matches!(entry.action, Action::Found(_)) {
            return Err(Refusal::FoundedAlready { cluster: self.constitution.cluster.clone() });
        }
        if self.serial.checked_add(1) != Some(entry.serial) {
            let expected = self.serial.saturating_add(1);
            return Err(Refusal::Serial { expected, found: entry.serial });
        }
        if entry.previous != self.head {
            return Err(Refusal::Previous { expected: self.head.clone(), found: entry.previous.clone() });
        }
        Ok(())
    }

    fn check_time(&self, entry: &Entry, when: When) -> Result<(), Refusal> {
        let made_unix_s = entry.made_unix_s;
        if made_unix_s < self.made_unix_s {
            return Err(Refusal::MadeBefore { made_unix_s, previous_unix_s: self.made_unix_s });
        }
        when.check_clock(made_unix_s)?;
        let Constitution { version, expires_unix_s, .. } = self.constitution;
        let now_unix_s = when.counts(made_unix_s);
        // An amendment is the way out of an expired constitution.
        if now_unix_s >= expires_unix_s && !matches!(entry.action, Action::Amend(_)) {
            return Err(Refusal::Expired { version, expired_unix_s: expires_unix_s, now_unix_s });
        }
        Ok(())
    }

    fn check_action(&self, entry: &Entry, when: When) -> Result<(), Refusal> {
        match &entry.action {
            Action::Found(_) => Err(Refusal::FoundedAlready { cluster: self.constitution.cluster.clone() }),
            Action::Amend(next) => Ok(self.check_amendment(next, when.counts(entry.made_unix_s))?),
            Action::Admit { member, replaces } => member::check(self, member, replaces.as_ref())
                .map_err(|source| Refusal::Admit { name: member.name.clone(), source }),
            Action::Revoke { name, ek, reason } => self.check_revocation(name, ek, reason),
            Action::Run { committed, trial } => {
                let reached = self.releases.as_ref().map_or(0, |releases| releases.committed.epoch);
                Ok(release::check(reached, committed, trial.as_deref())?)
            }
        }
    }

    fn check_amendment(&self, next: &Constitution, now_unix_s: u64) -> Result<(), ConstitutionError> {
        constitution::check(next, self.constitution.version.saturating_add(1), now_unix_s)?;
        if next.cluster != self.constitution.cluster {
            let expected = self.constitution.cluster.clone();
            return Err(ConstitutionError::OtherCluster { expected, found: next.cluster.clone() });
        }
        match self.members.values().find(|member| !allows(next, &ek_digest(member))) {
            Some(member) => Err(ConstitutionError::LeavesOut(member.name.clone())),
            None => Ok(()),
        }
    }

    fn check_revocation(&self, name: &PillarId, ek: &Digest, reason: &str) -> Result<(), Refusal> {
        let member = self.members.get(name).ok_or_else(|| Refusal::NoMember(name.clone()))?;
        let present_ek = ek_digest(member);
        if present_ek != *ek {
            return Err(Refusal::OtherEk { name: name.clone(), named: ek.clone(), present: present_ek });
        }
        present("the reason", reason, TEXT_MAX_BYTES).map_err(Refusal::Reason)
    }

    /// What an approved entry changes. Everything was checked before; nothing is decided here.
    fn after(&self, entry: &Approved<Entry>, digest: Digest) -> Self {
        let mut next = self.clone();
        match &entry.action {
            Action::Found(constitution) | Action::Amend(constitution) => {
                next.constitution = (**constitution).clone();
            }
            Action::Admit { member, .. } => {
                next.members.insert(member.name.clone(), (**member).clone());
            }
            Action::Revoke { name, ek, reason } => {
                next.members.remove(name);
                let revoked = Revoked { name: name.clone(), serial: entry.serial, reason: reason.clone() };
                next.revoked.insert(ek.clone(), revoked);
            }
            Action::Run { committed, trial } => {
                let part = |release: &ReleasePredicate| entry.part(release.clone());
                next.releases =
                    Some(Releases { committed: part(committed), trial: trial.as_deref().map(part) });
            }
        }
        next.serial = entry.serial;
        next.head = digest;
        next.made_unix_s = entry.made_unix_s;
        next
    }
}
