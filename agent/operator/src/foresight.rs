//! What a constitution that may come would make of the members that are there: asked before it is signed, because all
//! pillars hold each other to it in the moment in which it is in force.

use crate::attest::refused_by;
use crate::chain::Chain;
use crate::cli::Caller;
use crate::failure::{Failure, Kind, Outcome};
use crate::paint::harmless;
use crate::reference::Reference;
use crate::session::connect;
use crate::target::Place;
use crate::view::Witness;
use pillar_model::{Constitution, Member, TpmVersion};
use pillar_verify::{Check, denied_tpm_firmware};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::timeout;

/// How long one machine may take to prove itself.
const ANSWER: Duration = Duration::from_secs(20);
/// Checks whose outcome the constitution decides.
const DECIDED: [Check; 2] = [Check::TpmFirmware, Check::SecureBoot];

/// What becomes of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It stays what it is.
    Stays,
    /// It is untrusted at once.
    Untrusted(String),
    /// It cannot be told from here.
    Unknown(String),
}

/// Words for whoever signs; none when the constitution demands nothing new of the machines. Refused when no member would
/// be left, unless that is `meant`.
pub async fn foresee(
    witness: &mut Witness,
    chain: &Chain,
    next: &Constitution,
    caller: &Caller,
    meant: bool,
) -> Outcome<String> {
    let present = chain.cluster.constitution();
    if !demands_more(present, next) {
        return Ok(String::new());
    }
    let mut fates = Vec::new();
    for member in chain.cluster.members().values() {
        fates.push((member.name.to_string(), fate(witness, chain, next, member, caller).await));
    }
    told(&fates, meant)
}

/// Whether something is demanded that was not before.
fn demands_more(present: &Constitution, next: &Constitution) -> bool {
    let new = |range| !present.denied_tpm_firmware.contains(range);
    let lacking = |digest| !present.dbx_required.contains(digest);
    next.denied_tpm_firmware.iter().any(new) || next.dbx_required.iter().any(lacking)
}

/// By fresh evidence where the machine can be reached, else by what its peers last saw.
async fn fate(
    witness: &mut Witness,
    chain: &Chain,
    next: &Constitution,
    member: &Member,
    caller: &Caller,
) -> Fate {
    if let Some(fate) = by_view(witness, next, member) {
        return fate;
    }
    let reference = match chain.reference_by(next) {
        Ok(reference) => reference,
        Err(failure) => return Fate::Unknown(failure.words().to_owned()),
    };
    let asked = timeout(ANSWER, by_evidence(witness, &reference, member, caller)).await;
    match asked {
        Ok(Ok(None)) => Fate::Stays,
        Ok(Ok(Some((check, reason)))) if DECIDED.iter().any(|decided| decided.name() == check) => {
            Fate::Untrusted(if reason.starts_with(&check) { reason } else { format!("{check}: {reason}") })
        }
        Ok(Ok(Some((check, reason)))) => {
            Fate::Unknown(format!("its evidence is refused by {check}: {reason}"))
        }
        Ok(Err(failure)) => Fate::Unknown(failure.words().to_owned()),
        Err(_) => Fate::Unknown(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

/// What the witness knows is enough when it speaks against the member.
fn by_view(witness: &Witness, next: &Constitution, member: &Member) -> Option<Fate> {
    let peer = witness.view.peers.iter().find(|peer| peer.name == member.name)?;
    let version: TpmVersion = peer.said.tpm_firmware.parse().ok()?;
    let denied = denied_tpm_firmware(&next.denied_tpm_firmware, member.tpm_maker, version);
    denied.err().map(|error| Fate::Untrusted(error.to_string()))
}

async fn by_evidence(
    witness: &mut Witness,
    reference: &Reference,
    member: &Member,
    caller: &Caller,
) -> Outcome<Option<(String, String)>> {
    if witness.view.said.own_name == member.name.as_str() {
        return refused_by(&witness.place, &mut witness.connected, reference).await;
    }
    let place = Place::named(member.name.as_str(), &caller.run)?;
    let mut connected = connect(&place, caller).await?;
    refused_by(&place, &mut connected, reference).await
}

fn told(fates: &[(String, Fate)], meant: bool) -> Outcome<String> {
    let mut out = String::new();
    let (mut lost, mut unknown) = (0, 0);
    for (name, fate) in fates {
        // Writing to a String cannot fail.
        let _ = match fate {
            Fate::Stays => Ok(()),
            Fate::Untrusted(why) => {
                lost += 1;
                writeln!(out, "  {name} will be untrusted at once: {}", harmless(why))
            }
            Fate::Unknown(why) => {
                unknown += 1;
                writeln!(out, "  {name}: what becomes of it cannot be told: {}", harmless(why))
            }
        };
    }
    let members = fates.len();
    if lost == members && members > 0 && !meant {
        return Err(Failure::new(format!(
            "with this constitution none of the {members} members would be trusted any more:\n{}",
            out.trim_end()
        ))
        .kind(Kind::Refused)
        .hint(
            "nothing was signed; update the machines first, or deny less; --even-all says that it is meant",
        ));
    }
    if lost > 0 {
        let left = members - lost - unknown;
        let _ = writeln!(out, "  of {members} members {left} stay trusted");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn untrusted() -> Fate {
        Fate::Untrusted("TPM firmware: 1.2.3.4 is denied".to_owned())
    }

    #[test]
    fn whoever_signs_is_told_who_is_lost() {
        let unknown = Fate::Unknown("cannot reach p3".to_owned());
        let fates =
            [("p1".to_owned(), Fate::Stays), ("p2".to_owned(), untrusted()), ("p3".to_owned(), unknown)];
        let want = "  p2 will be untrusted at once: TPM firmware: 1.2.3.4 is denied\n  \
            p3: what becomes of it cannot be told: cannot reach p3\n  of 3 members 1 stay trusted\n";
        assert_eq!(told(&fates, false).expect("some are left"), want);
        assert_eq!(told(&fates[..1], false).expect("all are left"), "");
    }

    #[test]
    fn a_constitution_that_leaves_nobody_is_not_signed_by_mistake() {
        let fates = [("p1".to_owned(), untrusted()), ("p2".to_owned(), untrusted())];
        let failure = told(&fates, false).expect_err("nobody is left");
        assert_eq!(failure.kind, Kind::Refused);
        let text = failure.to_string();
        for want in
            ["none of the 2 members would be trusted", "p2 will be untrusted", "hint: nothing was signed"]
        {
            assert!(text.contains(want), "{want} in {text}");
        }
        assert!(told(&fates, true).expect("meant").contains("of 2 members 0 stay trusted"));
        // Where nothing is known, nothing is said to be lost.
        let unknown = [("p1".to_owned(), Fate::Unknown("down".to_owned()))];
        assert!(told(&unknown, false).is_ok());
    }
}
