//! What a constitution that may come would make of the members that are there: asked before it is signed, because all
//! pillars hold each other to it in the moment in which it is in force.

use crate::attest::try_prove;
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
    witness: &Witness,
    chain: &Chain,
    next: &Constitution,
    caller: &Caller,
    meant: bool,
) -> Outcome<String> {
    let present = chain.cluster.constitution();
    if !demands_more(present, next) {
        return Ok(String::new());
    }
    told(&fates(witness, chain, next, caller).await, meant)
}

/// Whether something is demanded that was not before.
fn demands_more(present: &Constitution, next: &Constitution) -> bool {
    let new = |range| !present.denied_tpm_firmware.contains(range);
    let lacking = |digest| !present.dbx_required.contains(digest);
    next.denied_tpm_firmware.iter().any(new) || next.dbx_required.iter().any(lacking)
}

/// Of all members, asked at the same time. What the witness saw of one is enough when it speaks against it; else it must
/// prove itself anew.
async fn fates(
    witness: &Witness,
    chain: &Chain,
    next: &Constitution,
    caller: &Caller,
) -> Vec<(String, Fate)> {
    let reference = chain.reference_by(next).map_err(|failure| failure.words().to_owned());
    let mut asked = Vec::new();
    for member in chain.cluster.members().values() {
        let known = match (&reference, by_view(witness, next, member)) {
            (_, Some(fate)) => Ok(fate),
            (Err(why), None) => Ok(Fate::Unknown(why.clone())),
            (Ok(reference), None) => {
                let place = if witness.view.said.own_name == member.name.as_str() {
                    Ok(witness.place.clone())
                } else {
                    Place::named(member.name.as_str(), &caller.run)
                };
                let (next, member) = (next.clone(), member.clone());
                let (reference, caller) = (reference.clone(), caller.clone());
                Err(tokio::spawn(
                    async move { by_evidence(place, &reference, &next, &member, &caller).await },
                ))
            }
        };
        asked.push((member.name.to_string(), known));
    }
    let mut fates = Vec::new();
    for (name, known) in asked {
        let fate = match known {
            Ok(fate) => fate,
            Err(task) => task.await.unwrap_or_else(|error| Fate::Unknown(error.to_string())),
        };
        fates.push((name, fate));
    }
    fates
}

/// What the witness knows is enough when it speaks against the member.
fn by_view(witness: &Witness, next: &Constitution, member: &Member) -> Option<Fate> {
    let peer = witness.view.peers.iter().find(|peer| peer.name == member.name)?;
    let version: TpmVersion = peer.said.tpm_firmware.parse().ok()?;
    Some(by_row(next, member, version)).filter(|fate| *fate != Fate::Stays)
}

async fn by_evidence(
    place: Outcome<Place>,
    reference: &Reference,
    next: &Constitution,
    member: &Member,
    caller: &Caller,
) -> Fate {
    let proved = async {
        let place = place?;
        let mut connected = connect(&place, caller).await?;
        try_prove(&place, &mut connected, reference).await
    };
    match timeout(ANSWER, proved).await {
        Ok(Ok(Ok(proved))) => by_row(next, member, proved.verified.counters().tpm_version()),
        Ok(Ok(Err((check, reason)))) if DECIDED.iter().any(|decided| decided.name() == check) => {
            Fate::Untrusted(if reason.starts_with(&check) { reason } else { format!("{check}: {reason}") })
        }
        Ok(Ok(Err((check, reason)))) => {
            Fate::Unknown(format!("its evidence is refused by {check}: {reason}"))
        }
        Ok(Err(failure)) => Fate::Unknown(failure.words().to_owned()),
        Err(_) => Fate::Unknown(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

/// Evidence names the TPM's maker by its certificate, and peers go by the row: where that does not say it, every maker's
/// ranges count for them.
fn by_row(next: &Constitution, member: &Member, version: TpmVersion) -> Fate {
    match denied_tpm_firmware(&next.denied_tpm_firmware, member.tpm_maker, version) {
        Ok(()) => Fate::Stays,
        Err(error) if member.tpm_maker.is_none() => Fate::Untrusted(format!(
            "{error}: its row does not say it, so any maker's range counts; `pillar readmit {}` writes it",
            member.name
        )),
        Err(error) => Fate::Untrusted(error.to_string()),
    }
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
    if lost > 0 && lost + unknown == members && !meant {
        let whom = if unknown == 0 {
            format!("none of the {members} members would be trusted any more")
        } else {
            format!("it is known of none of the {members} members that it would stay trusted")
        };
        return Err(Failure::new(format!("with this constitution {whom}:\n{}", out.trim_end()))
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
        // Nobody is left for sure where the others cannot be asked.
        let unknown = || Fate::Unknown("no answer within 20 s".to_owned());
        let fates = [("p1".to_owned(), untrusted()), ("p2".to_owned(), unknown())];
        let text = told(&fates, false).expect_err("perhaps nobody is left").to_string();
        for want in ["it is known of none of the 2 members that it would stay", "p2: what becomes of it"] {
            assert!(text.contains(want), "{want} in {text}");
        }
        assert!(told(&fates, true).expect("meant").contains("of 2 members 0 stay trusted"));
        // Where nothing is known, nothing is said to be lost.
        let unknown = [("p1".to_owned(), Fate::Unknown("down".to_owned()))];
        assert!(told(&unknown, false).is_ok());
    }
    // attack: B8
    #[test]
    fn a_row_that_does_not_say_who_made_the_tpm_is_held_to_every_makers_ranges() {
        let mut next = constitution();
        next.denied_tpm_firmware = vec!["STM:1.0.0.0-2.0.0.0".parse().expect("a range")];
        let version = |text: &str| text.parse::<TpmVersion>().expect("a version");
        let said = member(Some("IFX".parse().expect("a maker")));
        assert_eq!(by_row(&next, &said, version("1.5.0.0")), Fate::Stays);
        let Fate::Untrusted(why) = by_row(&next, &member(None), version("1.5.0.0")) else {
            panic!("peers go by the row");
        };
        for want in
            ["TPM firmware 1.5.0.0 is denied", "any maker's range counts", "`pillar readmit p1` writes"]
        {
            assert!(why.contains(want), "{want} in {why}");
        }
        assert_eq!(by_row(&next, &member(None), version("3.0.0.0")), Fate::Stays);
    }

    fn constitution() -> Constitution {
        Constitution {
            version: 2,
            cluster: "lab".to_owned(),
            operators: Vec::new(),
            threshold: 1,
            ek_roots: Vec::new(),
            ek_intermediates: Vec::new(),
            ek_allowed: Vec::new(),
            denied_tpm_firmware: Vec::new(),
            dbx_required: Vec::new(),
            expires_unix_s: 1_000_000,
        }
    }

    fn member(tpm_maker: Option<pillar_model::TpmMaker>) -> Member {
        Member {
            name: "p1".parse().expect("a name"),
            ek_public: pillar_model::Digest(vec![1; 122]),
            ek_certificate: pillar_model::Digest(vec![1; 32]),
            tpm_maker,
            ak_public: pillar_model::Digest(vec![1; 88]),
            tls_spki: pillar_model::Digest(vec![1; 91]),
            firmware: std::collections::BTreeMap::new(),
            state_volume: "open".to_owned(),
            addresses: Vec::new(),
        }
    }
}
