//! `pillar explain`: why a pillar is not trusted or not up, in words.

use crate::chain;
use crate::cli::{Caller, Form, Output, Viewer};
use crate::clock;
use crate::failure::Outcome;
use crate::fork;
use crate::members::{age, peer_json, tone};
use crate::operators;
use crate::paint::{Paint, harmless};
use crate::table::Tone;
use crate::target::Place;
use crate::view::{ANSWER_TIMEOUT, Peer, View, Witness};
use pillar_model::PeerState;
use serde_json::json;
use std::fmt::Write as _;
use tokio::time::timeout;

/// Asks another pillar and prints what it knows.
pub async fn run(name: &str, viewer: &Viewer, caller: &Caller, form: Form) -> Outcome<String> {
    let mut witness = Witness::find(viewer, caller, Some(name)).await?;
    let fork = forked(&mut witness, name, caller).await;
    let peer = witness.view.peer(name)?;
    match form.output {
        Output::Text => {
            let mut out = text(&witness.view, peer, Paint::for_stdout());
            if let Some(words) = fork {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "  {:<10} {}", "two chains", harmless(&words));
            }
            Ok(out)
        }
        Output::Json => {
            let mut value = peer_json(peer);
            value["fork"] = json!(fork);
            value["from"] = json!(witness.view.from);
            value["advice"] = json!(advice(peer));
            Ok(format!("{value:#}\n"))
        }
    }
}

/// Where the chains of the witness and of the one that is asked about part, if they do and both can be had. The witness's is
/// the one that counts here: it is judged.
async fn forked(witness: &mut Witness, name: &str, caller: &Caller) -> Option<String> {
    if witness.view.said.own_name == name {
        return None;
    }
    let place = Place::named(name, &caller.run).ok()?;
    let there = timeout(ANSWER_TIMEOUT, Witness::at(place, caller)).await.ok()?.ok();
    let mut there =
        there.filter(|there| there.view.said.founded && there.view.said.head != witness.view.said.head)?;
    let trusted = chain::keys(&operators::load(&[], &caller.cert()).ok()?);
    let ours = chain::fetch(witness, &trusted).await.ok()?;
    fork::told(&ours.envelopes, &mut there.connected).await
}

fn text(view: &View, peer: &Peer, paint: Paint) -> String {
    let said = &peer.said;
    let state = peer.state.to_string();
    let state = match tone(peer.state) {
        Tone::Good => paint.good(&state),
        Tone::Warn => paint.warn(&state),
        _ => paint.bad(&state),
    };
    let from = harmless(&view.from);
    let says = if said.self_ { "as it says itself".to_owned() } else { format!("says {from}") };
    let mut out = format!("{} is {state}, {says}: {}\n", paint.bold(peer.name.as_str()), meaning(peer));
    for (label, words) in facts(view, peer) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {label:<10} {}", harmless(&words));
    }
    for check in &said.checks {
        if check.verdict == "failed" {
            let _ = writeln!(
                out,
                "  {:<10} {}",
                "failed",
                paint.bad(&harmless(&format!("{}: {}", check.name, check.words)))
            );
        }
    }
    for line in advice(peer) {
        let _ = writeln!(out, "  {:<10} {}", "to do", harmless(&line));
    }
    out
}

/// The four states, told apart.
fn meaning(peer: &Peer) -> &'static str {
    match peer.state {
        PeerState::Down if refuses(peer) => "it can be reached, and refuses the pillar that says so",
        PeerState::Up => "it proved what it runs, and its heartbeats come",
        PeerState::Suspect => "it proved what it runs, but its heartbeats are late",
        PeerState::Down => "nothing comes from it, and it cannot be reached",
        PeerState::Untrusted => "it was reached, and what it showed was refused",
    }
}

/// Whether it answers, and its answer is no: the agent's words for that begin so.
fn refuses(peer: &Peer) -> bool {
    peer.said.reason.starts_with("it refuses this pillar")
}

/// What is known, as far as it bears on the state.
fn facts(view: &View, peer: &Peer) -> Vec<(&'static str, String)> {
    let said = &peer.said;
    let mut facts = Vec::new();
    if peer.state == PeerState::Untrusted {
        if !said.check.is_empty() {
            facts.push(("check", said.check.clone()));
        }
        if let Ok(pcr) = u8::try_from(said.pcr) {
            facts.push(("PCR", format!("{pcr}: {}", pcr_words(pcr))));
        }
        if !said.event.is_empty() {
            facts.push(("event", said.event.clone()));
        }
    }
    if !said.reason.is_empty() {
        facts.push(("reason", said.reason.clone()));
    }
    if !said.self_ {
        facts.push(("heartbeat", heartbeat(view, peer)));
        facts.push(("evidence", evidence(peer)));
    }
    facts.push(("vouched by", vouchers(peer)));
    if peer.state != PeerState::Up && !said.self_ {
        let tried = if said.addresses.is_empty() {
            "no address is known".to_owned()
        } else {
            said.addresses.join(", ")
        };
        facts.push(("called at", tried));
    }
    if let Some(offset) =
        Some(said.clock_offset_ms / 1000).filter(|offset| said.heard && clock::is_far(*offset))
    {
        let by = crate::status::span(std::time::Duration::from_secs(offset.unsigned_abs()));
        let way = if offset > 0 { "ahead of" } else { "behind" };
        facts.push((
            "clock",
            format!("{by} {way} {}'s; no trust rests on it, certificates' dates do", view.from),
        ));
    }
    facts
}

fn heartbeat(view: &View, peer: &Peer) -> String {
    let said = &peer.said;
    if !said.heard {
        return format!("none since {} started", view.from);
    }
    let period = age(u64::from(view.said.period_ms));
    let ago = format!("the last one {} ago, one is due every {period}", age(said.heartbeat_age_ms));
    // Phi: minus the logarithm of the chance that it is merely late (Hayashibara and others, 2004).
    if peer.state == PeerState::Suspect { format!("{ago} (phi {:.1})", said.phi) } else { ago }
}

fn evidence(peer: &Peer) -> String {
    if peer.said.verified {
        format!("accepted {} ago", age(peer.said.verdict_age_ms))
    } else {
        "no verdict that still holds".to_owned()
    }
}

fn vouchers(peer: &Peer) -> String {
    match peer.said.vouchers.as_slice() {
        [] => "nobody".to_owned(),
        some => some.join(", "),
    }
}

/// What is measured where (TCG PC Client Platform Firmware Profile, section 3.3.4, and this project's own plan).
fn pcr_words(pcr: u8) -> &'static str {
    match pcr {
        0 => "the firmware's code",
        1 => "the firmware's settings and the boot order",
        2 => "code of plugged-in cards",
        3 => "settings of plugged-in cards",
        4 => "loader and UKI",
        5 => "the loader's settings and the partition table",
        7 => "Secure Boot: its keys, and whether it is on",
        9 => "initrd and kernel command line",
        11 => "the UKI's sections and the phases of the boot",
        12 => "add-ons and credentials beside the UKI",
        13 => "node settings",
        14 => "keys that an owner enrolled in a shim",
        15 => "the state volume",
        _ => "nothing that a pillar uses",
    }
}

/// What to do next, most useful first.
fn advice(peer: &Peer) -> Vec<String> {
    let name = peer.name.as_str();
    let said = &peer.said;
    let mut all = Vec::new();
    match peer.state {
        PeerState::Up => {}
        PeerState::Suspect => {
            all.push(
                "wait: late heartbeats come back by themselves when the network or the load was the cause"
                    .to_owned(),
            );
            all.push(format!("`pillar logs {name}` when it stays"));
        }
        PeerState::Down if refuses(peer) => all.push(format!(
            "`pillar status {name}` shows whether it still knows the cluster: a machine that was set up anew, or whose state volume did not open, knows nobody; `pillar attest {name}` checks what it runs"
        )),
        PeerState::Down => {
            all.push(format!(
                "see whether it has power and network; `pillar status {name}` asks it from here"
            ));
            all.push(format!("`pillar revoke {name} --reason …` only when it is gone for good"));
        }
        PeerState::Untrusted => {
            if !said.hint.is_empty() {
                all.push(said.hint.clone());
            }
            match said.check.as_str() {
                "firmware" | "state volume" | "AK in this TPM" | "TPM" => all.push(format!(
                    "if the change was yours: `pillar readmit {name}`, which the operators' threshold signs; if it was not, find out whose it was"
                )),
                "release" | "nothing added" | "secure boot" | "event rules" => {
                    all.push(format!("it must boot what the operators approved: flash or restart it; `pillar attest {name}` checks from here"));
                }
                "TPM firmware" => all.push(format!(
                    "`pillar constitution show` lists what is denied; if it is not known who made its TPM, `pillar readmit {name}` writes that into its row"
                )),
                _ => all.push(format!("`pillar attest {name}` shows every check from here")),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::view;
    use pillar_wire::proto;

    fn explained(view: &View, name: &str) -> String {
        text(view, view.peer(name).expect("a member"), Paint::PLAIN)
    }

    #[test]
    fn an_untrusted_one_is_explained_by_check_pcr_and_event() {
        let mut view = view();
        view.peers[3].said.checks = vec![
            proto::CheckLine { name: "replay".into(), verdict: "passed".into(), words: "fine".into() },
            proto::CheckLine { name: "firmware".into(), verdict: "failed".into(), words: "PCR 1".into() },
        ];
        let want = "\
p10 is untrusted, says p1: it was reached, and what it showed was refused
  check      firmware
  PCR        1: the firmware's settings and the boot order
  event      EV_EFI_VARIABLE_BOOT Boot0000: other
  reason     PCR 1: is 00, ff is pinned
  heartbeat  the last one 0.8 s ago, one is due every 2.0 s
  evidence   no verdict that still holds
  vouched by nobody
  called at  10.77.0.10:7444
  failed     firmware: PCR 1
  to do      look at it
  to do      if the change was yours: `pillar readmit p10`, which the operators' threshold signs; if it was not, find out whose it was
";
        assert_eq!(explained(&view, "p10"), want);
    }

    #[test]
    fn late_and_gone_are_told_apart() {
        let view = view();
        let suspect = explained(&view, "p2");
        for want in [
            "p2 is suspect, says p1: it proved",
            "the last one 9.0 s ago, one is due every 2.0 s (phi 9.5)",
            "accepted 32 s ago",
            "to do      wait",
        ] {
            assert!(suspect.contains(want), "{want} in {suspect}");
        }
        let down = explained(&view, "p3");
        for want in [
            "p3 is down, says p1: nothing comes",
            "none since p1 started",
            "called at  10.77.0.3:7444",
            "cannot connect to 10.77.0.3",
            "see whether it has power",
        ] {
            assert!(down.contains(want), "{want} in {down}");
        }
    }

    #[test]
    fn one_that_refuses_is_not_said_to_be_out_of_reach() {
        let mut view = view();
        view.peers[2].said.reason = "it refuses this pillar: membership: no member".to_owned();
        let refuses = explained(&view, "p3");
        for want in [
            "p3 is down, says p1: it can be reached, and refuses the pillar that says so",
            "reason     it refuses this pillar: membership: no member",
            "to do      `pillar status p3` shows whether it still knows the cluster",
        ] {
            assert!(refuses.contains(want), "{want} in {refuses}");
        }
        assert!(!refuses.contains("has power"), "{refuses}");
    }

    #[test]
    fn one_that_is_up_is_vouched_for_and_its_clock_is_looked_at() {
        let mut view = view();
        let own = explained(&view, "p1");
        assert!(
            own.contains("p1 is up, as it says itself: it proved") && own.contains("vouched by p1, p4"),
            "{own}"
        );
        assert!(!own.contains("to do"), "{own}");
        view.peers[1].said.clock_offset_ms = -7_200_000;
        assert!(explained(&view, "p2").contains("clock      2 h behind p1's"));
    }
}
