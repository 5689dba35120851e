//! `pillar enroll`, `admit`, `revoke`, `pending`: who belongs to the cluster, decided by operators one after the other.
//!
//! Each operator looks for themselves: `admit` attests the machine afresh and compares, so that a proposal is never
//! signed because somebody else signed it.

use crate::attest::{Proved, prove};
use crate::chain::{self, Chain, Proposal};
use crate::cli::{Admit, Caller, Enroll, Form, Output, Revoke, Signing, Via};
use crate::clock;
use crate::failure::{Failure, Kind, Outcome, Said};
use crate::paint::harmless;
use crate::promise::promise;
use crate::row;
use crate::session::connect;
use crate::signer::Signer;
use crate::spread::{Spread, spread};
use crate::target::{Place, check_addr};
use crate::view::{self, Witness};
use crate::words;
use pillar_model::{Action, Member, PillarId};
use pillar_quorum::{Count, Envelope};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;

/// How long a machine may take to come to an entry that it was just given.
const CATCH_UP: Duration = Duration::from_secs(20);

/// Proposes a machine.
pub async fn enroll(args: &Enroll, replace: bool) -> Outcome<Said> {
    let place = Place::named(&args.name, &args.caller.run)?;
    let name = place.id()?;
    for address in &args.peer {
        check_addr(address)?;
    }
    let (mut witness, chain) = chain::open(&args.via, &args.caller).await?;
    let (mut machine, proved) = attested(&place, &args.caller, &chain).await?;
    clock::check(&witness.place.name, witness.view.clock_offset_s)?;
    clock::check(&place.name, machine.view.clock_offset_s)?;
    let member = row_of(&place, &proved, &args.peer)?;
    let replaces = match chain.cluster.member(&name) {
        Some(present) if same_member(present, &member).is_ok() && !replace => {
            chain::hand_over(&mut machine, &chain.envelopes).await?;
            let words = format!("{name} is a member already, and this is its TPM, firmware and state volume");
            return Ok(no_news(args.form, &name, &words));
        }
        Some(present) if !replace => {
            let what = same_member(present, &member).err().unwrap_or_default();
            return Err(Failure::new(format!("{name} is a member already, with another {what}"))
                .kind(Kind::Refused)
                .hint(format!(
                    "if that change is yours: `pillar readmit {name}`; else find out which machine this is"
                )));
        }
        Some(present) => Some(row::sha256(&present.ek_public.0)),
        None if replace => {
            return Err(Failure::new(format!("{name} is not a member, so nothing can be replaced"))
                .kind(Kind::Unknown)
                .hint(format!("`pillar enroll {name}` proposes a new member")));
        }
        None => None,
    };
    let decision = Decision {
        proposal: proposed(&chain, member, replaces)?,
        signing: (!args.no_sign).then_some(&args.signing),
        machine: Some(&mut machine),
        foreseen: String::new(),
        form: args.form,
    };
    decide(&mut witness, &chain, &args.caller, decision).await
}

/// The proposal that waits already, when it says the same; else a new one.
fn proposed(chain: &Chain, member: Member, replaces: Option<pillar_model::Digest>) -> Outcome<Proposal> {
    let waits = chain.proposal(|action| {
        matches!(action, Action::Admit { member: there, replaces: old } if **there == member && *old == replaces)
    });
    match waits {
        Some(proposal) => Ok(proposal.clone()),
        None => chain.propose(Action::Admit { member: Box::new(member), replaces }),
    }
}

/// Signs a proposal after a look at the machine.
pub async fn admit(args: &Admit) -> Outcome<Said> {
    let name: PillarId = args.name.split('=').next().unwrap_or_default().parse().map_err(|error| {
        Failure::of(&error).kind(Kind::Unknown).hint("admit takes NAME or NAME=HOST:PORT")
    })?;
    let (mut witness, chain) = chain::open(&args.via, &args.caller).await?;
    let Some(proposal) =
        chain.proposal(|action| matches!(action, Action::Admit { member, .. } if member.name == name))
    else {
        return nothing_proposed(&name, &chain, args).await;
    };
    let proposal = proposal.clone();
    clock::check(&witness.place.name, witness.view.clock_offset_s)?;
    let Action::Admit { member, .. } = &proposal.entry.action else {
        return Err(Failure::new("the proposal is of another kind"));
    };
    let mut machine = if args.trust_proposal {
        None
    } else {
        let place = Place::named(&args.name, &args.caller.run).map_err(|failure| {
            if matches!(failure.kind, Kind::Unknown) {
                failure.hint(format!("`pillar admit {name}=HOST:PORT` says where it is; --trust-proposal signs without asking it"))
            } else {
                failure
            }
        })?;
        let (machine, proved) = attested(&place, &args.caller, &chain).await?;
        same_machine(member, &row_of(&place, &proved, &[])?).map_err(|what| {
            Failure::new(format!("{name} shows another {what} than the proposal"))
                .kind(Kind::Refused)
                .hint("nothing was signed; find out who proposed what, `pillar pending` shows it")
        })?;
        Some(machine)
    };
    let decision = Decision {
        proposal,
        signing: Some(&args.signing),
        machine: machine.as_mut(),
        foreseen: String::new(),
        form: args.form,
    };
    decide(&mut witness, &chain, &args.caller, decision).await
}

/// Nothing waits for that name: it may be a member already, and only lack the chain.
async fn nothing_proposed(name: &PillarId, chain: &Chain, args: &Admit) -> Outcome<Said> {
    if chain.cluster.member(name).is_none() {
        return Err(Failure::new(format!("nobody proposed {name}"))
            .kind(Kind::Unknown)
            .hint(format!("`pillar enroll {name}` does, `pillar pending` shows what waits")));
    }
    let Ok(place) = Place::named(&args.name, &args.caller.run) else {
        return Ok(no_news(args.form, name, &format!("{name} is a member already")));
    };
    let mut machine = Witness::at(place, &args.caller).await?;
    chain::hand_over(&mut machine, &chain.envelopes).await?;
    let words = format!("{name} is a member already, and has the cluster's entries");
    Ok(no_news(args.form, name, &words))
}

/// Proposes that a member leaves, or signs such a proposal.
pub async fn revoke(args: &Revoke) -> Outcome<Said> {
    let name: PillarId = args.name.parse().map_err(|error| Failure::of(&error).kind(Kind::Unknown))?;
    let (mut witness, chain) = chain::open(&args.via, &args.caller).await?;
    clock::check(&witness.place.name, witness.view.clock_offset_s)?;
    let member = chain.cluster.member(&name).ok_or_else(|| {
        let known: Vec<&str> = chain.cluster.members().keys().map(PillarId::as_str).collect();
        Failure::new(format!("{name} is not a member of {}", chain.cluster.constitution().cluster))
            .kind(Kind::Unknown)
            .hint(format!("members are {}", known.join(", ")))
    })?;
    let waits = chain.proposal(|action| {
        matches!(action, Action::Revoke { name: there, reason, .. }
            if *there == name && args.reason.as_ref().is_none_or(|said| said == reason))
    });
    let proposal = match (waits, &args.reason) {
        (Some(proposal), _) => proposal.clone(),
        (None, Some(reason)) => {
            let (ek, reason) = (row::sha256(&member.ek_public.0), reason.clone());
            chain.propose(Action::Revoke { name, ek, reason })?
        }
        (None, None) => {
            return Err(Failure::new(format!("nobody proposed to revoke {name}"))
                .hint(format!("`pillar revoke {name} --reason WORDS` proposes it")));
        }
    };
    let decision = Decision {
        proposal,
        signing: Some(&args.signing),
        machine: None,
        foreseen: String::new(),
        form: args.form,
    };
    decide(&mut witness, &chain, &args.caller, decision).await
}

/// A machine that has just proved that it runs what the cluster runs, with a TPM of a maker that it trusts.
async fn attested(place: &Place, caller: &Caller, chain: &Chain) -> Outcome<(Witness, Proved)> {
    let reference = chain.reference()?;
    let mut connected = connect(place, caller).await?;
    let proved = prove(place, &mut connected, &reference).await?;
    let view = view::ask(place, &mut connected).await?;
    let ours = &chain.cluster.constitution().cluster;
    if view.said.founded && view.said.cluster != *ours {
        let theirs = harmless(&view.said.cluster);
        return Err(Failure::new(format!("{} belongs to the cluster {theirs}, not to {ours}", place.name))
            .kind(Kind::NoCluster)
            .hint("`pillar state erase` makes it forget that, with everything on its state volume"));
    }
    Ok((Witness { place: place.clone(), connected, view }, proved))
}

fn row_of(place: &Place, proved: &Proved, peers: &[String]) -> Outcome<Member> {
    let named: Vec<(String, String)> =
        peers.iter().map(|address| (place.name.clone(), address.clone())).collect();
    let addresses = row::addresses(&named, &[(place, row::settings(proved))]).pop().unwrap_or_default();
    row::member(place, proved, addresses)
}

/// The same for a row that is in force: those of before do not say who made the TPM.
fn same_member(present: &Member, fresh: &Member) -> Result<(), String> {
    let present = Member { tpm_maker: present.tpm_maker.or(fresh.tpm_maker), ..present.clone() };
    same_machine(&present, fresh)
}

/// Whether two rows, the second of them made just now, are of one machine in one state; else what differs. Addresses are
/// hints, and may differ.
fn same_machine(a: &Member, b: &Member) -> Result<(), String> {
    for (what, same) in [
        ("name", a.name == b.name),
        ("endorsement key", a.ek_public == b.ek_public),
        ("EK certificate", a.ek_certificate == b.ek_certificate),
        ("TPM maker", a.tpm_maker == b.tpm_maker),
        ("attestation key", a.ak_public == b.ak_public),
        ("TLS key", a.tls_spki == b.tls_spki),
        ("state volume", a.state_volume == b.state_volume),
    ] {
        if !same {
            return Err(what.to_owned());
        }
    }
    for (bank, firmware) in &b.firmware {
        let other = a.firmware.get(bank).map(|reference| &reference.pcrs);
        if let Some((pcr, _)) =
            firmware.pcrs.iter().find(|(pcr, value)| other.and_then(|o| o.get(pcr)) != Some(value))
        {
            return Err(format!("firmware (PCR {pcr})"));
        }
    }
    Ok(())
}

/// What is to be done with a proposal, and what is said about it.
pub struct Decision<'a> {
    /// The proposal.
    pub proposal: Proposal,
    /// What signs it; none hands it in as it is.
    pub signing: Option<&'a Signing>,
    /// The machine that it is about, to be given the chain when it is in force.
    pub machine: Option<&'a mut Witness>,
    /// What it will cost, in lines.
    pub foreseen: String,
    /// How to print.
    pub form: Form,
}

/// Shows a proposal, signs it, hands it in, and says what is missing.
pub async fn decide(
    witness: &mut Witness,
    chain: &Chain,
    caller: &Caller,
    decision: Decision<'_>,
) -> Outcome<Said> {
    let Decision { mut proposal, signing, machine, foreseen, form } = decision;
    if let Some(signing) = signing {
        let signer = Signer::of(caller, signing)?;
        entitled(&signer, &proposal, chain)?;
        proposal = promise(&caller.run.dir, &signer.public(), chain, proposal, signing.instead)?;
        signer.approve(&mut proposal.envelope)?;
        proposal = chain.count(proposal.envelope)?;
    }
    let reply = chain::submit(&mut witness.connected, &proposal.envelope).await?;
    let next = (!reply.applied).then(|| next_command(&proposal.entry.action, &witness.place.name));
    // In force, whatever becomes of this.
    let parts = matches!(proposal.entry.action, Action::Amend(_) | Action::Revoke { .. });
    let spread = match reply.applied && parts {
        true => Some(spread(witness, chain, with(chain, &proposal), caller).await),
        false => None,
    };
    let mut given_to = None;
    if let Some(machine) = machine.filter(|_| reply.applied) {
        chain::hand_over(machine, &with(chain, &proposal)).await?;
        chain::wait_for(machine, reply.serial, CATCH_UP).await?;
        given_to = Some(machine.place.name.as_str());
    }
    let constitution = chain.cluster.constitution();
    let text = match form.output {
        Output::Json => {
            let counts = |count: &Count| {
                json!({
                    "constitution": count.constitution, "signed_by": count.signed_by,
                    "missing": count.missing, "needed": count.needed, "enough": count.enough(),
                })
            };
            let value = json!({
                "cluster": constitution.cluster,
                "entry": proposal.entry.serial,
                "decision": words::title(&proposal.entry.action),
                "in_force": reply.applied,
                "signatures": proposal.tally.counts().map(counts).collect::<Vec<_>>(),
                "foreseen": foreseen.lines().map(str::trim).collect::<Vec<_>>(),
                "next": next,
                "given_to": given_to,
                "members": spread.as_ref().map(Spread::json),
            });
            format!("{value:#}\n")
        }
        Output::Text => {
            let mut out =
                format!("entry {} of {}:\n", proposal.entry.serial, harmless(&constitution.cluster));
            out.push_str(&words::details(&proposal.entry.action, Some(constitution)));
            out.push_str(&foreseen);
            out.push_str(&words::signatures(&proposal));
            // Writing to a String cannot fail.
            let _ = match &next {
                Some(next) => writeln!(out, "next: {next}"),
                None => writeln!(out, "in force as entry {}", reply.serial),
            };
            out.extend(spread.as_ref().map(Spread::text));
            if let Some(name) = given_to {
                let _ = writeln!(
                    out,
                    "{name} has the cluster's entries; `pillar status` shows who vouches for it"
                );
            }
            out
        }
    };
    Ok(Said { text, kind: next.map(|_| Kind::Unsigned) })
}

/// The chain with one entry more.
fn with(chain: &Chain, proposal: &Proposal) -> Vec<Envelope> {
    [chain.envelopes.as_slice(), std::slice::from_ref(&proposal.envelope)].concat()
}

/// Nothing had to be decided.
fn no_news(form: Form, name: &PillarId, words: &str) -> Said {
    let text = match form.output {
        Output::Text => format!("{words}\n"),
        Output::Json => {
            format!("{:#}\n", json!({ "member": name, "in_force": true, "words": words }))
        }
    };
    text.into()
}

/// A signature that does not count is not worth a round.
fn entitled(signer: &Signer, proposal: &Proposal, chain: &Chain) -> Outcome {
    let key = signer.public();
    let next = match &proposal.entry.action {
        Action::Amend(next) => next.operators.as_slice(),
        _ => &[],
    };
    if chain.cluster.constitution().operators.iter().chain(next).any(|operator| operator.key == key) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the key {key} is no operator's of this cluster, so its signature would not count"
    ))
    .kind(Kind::Denied)
    .hint("`pillar constitution show` names the operators; --key names another key"))
}

/// What the next operator types.
fn next_command(action: &Action, via: &str) -> String {
    let rest = format!("--via {via} --key KEY-OF-ANOTHER-OPERATOR");
    match action {
        Action::Admit { member, .. } => format!("pillar admit {} {rest}", member.name),
        Action::Revoke { name, .. } => format!("pillar revoke {name} {rest}"),
        Action::Amend(_) => format!("pillar constitution sign {rest}"),
        Action::Found(_) | Action::Run { .. } => format!("pillar found {rest}"),
    }
}

/// What waits for signatures.
pub async fn pending(via: &Via, caller: &Caller, form: Form) -> Outcome<String> {
    let (witness, chain) = chain::open(via, caller).await?;
    match form.output {
        Output::Text => Ok(pending_text(&chain, &witness.place.name)),
        Output::Json => {
            let one = |proposal: &Proposal| {
                json!({
                    "entry": proposal.entry,
                    "signed_by": proposal.tally.signed_by(),
                    "enough": proposal.tally.enough(),
                    "next": next_command(&proposal.entry.action, &witness.place.name),
                })
            };
            let all: Vec<_> = chain.pending.iter().map(one).collect();
            Ok(format!("{:#}\n", json!({ "cluster": chain.cluster.constitution().cluster, "pending": all })))
        }
    }
}

fn pending_text(chain: &Chain, via: &str) -> String {
    if chain.pending.is_empty() {
        return format!("nothing waits for signatures at {via}\n");
    }
    let mut out = String::new();
    for proposal in &chain.pending {
        out.push_str(&words::details(&proposal.entry.action, Some(chain.cluster.constitution())));
        for line in words::signatures(proposal).lines() {
            let _ = writeln!(out, "    {line}");
        }
        let _ = writeln!(out, "    next: {}", next_command(&proposal.entry.action, via));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::{Bank, Digest, FirmwareReference, PcrIndex, TpmMaker};
    use std::collections::BTreeMap;

    fn row(tpm_maker: Option<TpmMaker>) -> Member {
        let pcrs = [0, 7].map(|pcr| (PcrIndex::new(pcr).expect("a PCR"), Digest(vec![1; 32])));
        let firmware = FirmwareReference { pcrs: BTreeMap::from(pcrs), events: Vec::new() };
        Member {
            name: "p1".parse().expect("a name"),
            ek_public: Digest(vec![1; 122]),
            ek_certificate: Digest(vec![1; 32]),
            tpm_maker,
            ak_public: Digest(vec![1; 88]),
            tls_spki: Digest(vec![1; 91]),
            firmware: BTreeMap::from([(Bank::Sha256, firmware)]),
            state_volume: "open".to_owned(),
            addresses: Vec::new(),
        }
    }

    // attack: B8
    #[test]
    fn a_proposal_that_hides_who_made_the_tpm_is_not_signed() {
        let (unsaid, ours, other) =
            (row(None), row(Some(TpmMaker(*b"IFX\0"))), row(Some(TpmMaker(*b"STM "))));
        let differs = Err("TPM maker".to_owned());
        assert_eq!(same_machine(&ours, &ours), Ok(()));
        assert_eq!(same_machine(&unsaid, &ours), differs);
        assert_eq!(same_machine(&other, &ours), differs);
        // A row in force that does not say it was signed when none did.
        assert_eq!(same_member(&unsaid, &ours), Ok(()));
        assert_eq!(same_member(&other, &ours), differs);
        assert_eq!(same_member(&ours, &unsaid), differs);
        let changed = Member { tls_spki: Digest(vec![2; 91]), ..ours.clone() };
        assert_eq!(same_member(&unsaid, &changed), Err("TLS key".to_owned()));
    }
}
