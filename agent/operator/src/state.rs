//! `pillar state`: the state volume, from outside.

use crate::attest::connect_for_recovery;
use crate::cli::{Form, Judge, Output, StateAction, Target};
use crate::failure::{Failure, Kind, Outcome};
use crate::paint::{Paint, harmless};
use crate::session::{call, connect, malformed};
use crate::signer;
use crate::target::Place;
use pillar_model::StateReport;
use pillar_recovery::{Operator, Token, VolumeId};
use pillar_wire::{client::Connected, limit, proto};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use zeroize::Zeroizing;

/// What a pillar says about its state volume.
struct State {
    report: StateReport,
    total_bytes: u64,
    free_bytes: u64,
}

/// Runs one of the commands.
pub async fn run(action: StateAction) -> Outcome<String> {
    match action {
        StateAction::Status { target, form } => status(&target, form).await,
        StateAction::Recover { target, judge } => recover(&target, &judge).await,
        StateAction::Erase { target, yes } => erase(&target, yes).await,
    }
}

async fn ask(connected: &mut Connected) -> Outcome<State> {
    let reply = call("tell about its state volume", connected.client.state(proto::StateRequest {})).await?;
    if reply.report.len() > limit::STATE_REPORT_BYTES {
        return Err(Failure::new("the pillar's report about its state volume is too long").kind(Kind::Denied));
    }
    let report = serde_json::from_str(&reply.report)
        .map_err(|error| malformed("report about its state volume", &error))?;
    Ok(State { report, total_bytes: reply.total_bytes, free_bytes: reply.free_bytes })
}

async fn status(target: &Target, form: Form) -> Outcome<String> {
    let place = Place::find(target)?;
    let state = ask(&mut connect(&place, &target.caller).await?).await?;
    match form.output {
        Output::Text => Ok(text(&place.name, &state, Paint::for_stdout())),
        Output::Json => json_text(&place.name, &state),
    }
}

fn json_text(name: &str, state: &State) -> Outcome<String> {
    let cannot = |error| Failure::because("cannot print JSON", &error);
    let mut value = serde_json::to_value(&state.report).map_err(cannot)?;
    value["machine"] = json!(name);
    value["total_bytes"] = json!(state.total_bytes);
    value["free_bytes"] = json!(state.free_bytes);
    value["recovery"] = serde_json::from_str(&state.report.recovery).unwrap_or(serde_json::Value::Null);
    Ok(format!("{value:#}\n"))
}

fn text(name: &str, state: &State, paint: Paint) -> String {
    let report = &state.report;
    let outcome = report.outcome.to_string();
    let outcome = if report.is_open() { paint.good(&outcome) } else { paint.bad(&outcome) };
    let mut out = format!("{}  state volume {outcome}\n", paint.bold(&harmless(name)));
    let mut line = |label: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {label:<10} {value}");
    };
    if !report.reason.is_empty() {
        line("reason", harmless(&report.reason));
        line("hint", harmless(&report.hint));
    }
    if !report.uuid.is_empty() {
        line("uuid", harmless(&report.uuid));
    }
    if report.partition_bytes > 0 {
        let integrity = if report.integrity { "with integrity" } else { "without integrity" };
        let mib = report.partition_bytes >> 20;
        line("partition", format!("{}, {mib} MiB, {integrity}", harmless(&report.partition)));
    }
    if state.total_bytes > 0 {
        line("free", format!("{} of {} MiB", state.free_bytes >> 20, state.total_bytes >> 20));
    }
    if let (Some(minimum), Some(epoch)) = (report.minimum_epoch, report.epoch) {
        line("epoch", format!("{epoch}, at least {minimum} opens it"));
    }
    if let Ok(token) = serde_json::from_str::<Token>(&report.recovery) {
        let operators: Vec<String> = token
            .shares
            .iter()
            .map(|share| harmless(&share.operator.chars().take(12).collect::<String>()))
            .collect();
        line("recovery", format!("{} of {} operators ({})", token.k, token.n, operators.join(", ")));
    }
    out
}

async fn recover(target: &Target, judge: &Judge) -> Outcome<String> {
    if target.name.is_none() && target.addr.is_none() {
        return Err(Failure::new("recover wants to know which pillar").hint("pillar state recover NAME"));
    }
    let seed = seed(target)?;
    let (place, mut connected) = connect_for_recovery(target, judge).await?;
    let state = ask(&mut connected).await?;
    if state.report.is_open() {
        return Err(Failure::new(format!(
            "the state volume of {} is open, there is nothing to recover",
            place.name
        )));
    }
    let share = share(&state.report, &seed)?;
    let (index, value) = (u32::from(share.index()), share.value().to_vec());
    let offer = connected.client.offer_share(proto::OfferShareRequest { index, value });
    let reply = call("take the share", offer).await?;
    let (name, have, needed) = (&place.name, reply.have, reply.needed);
    Ok(if have < needed {
        format!("{name} has {have} of {needed} shares; the next operator has ten minutes\n")
    } else {
        format!(
            "{name} has {have} of {needed} shares: it seals its state volume anew and reboots; `pillar attest --forget` when the TPM or the firmware is another\n"
        )
    })
}

/// The Ed25519 seed of the operator's key.
fn seed(target: &Target) -> Outcome<Zeroizing<[u8; 32]>> {
    let unusable = || {
        Failure::new(format!(
            "{} is not an operator's Ed25519 key (PKCS#8, PEM)",
            target.caller.key.display()
        ))
        .hint("--key names the key file that the image was built with")
    };
    let pem = signer::pem(&target.caller)?;
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable())?;
    pillar_recovery::seed_of_pkcs8(der.secret_der()).ok_or_else(unusable)
}

/// This operator's share, opened.
fn share(report: &StateReport, seed: &[u8; 32]) -> Outcome<pillar_recovery::Share> {
    let denied = |what: &str, error: &dyn std::error::Error| {
        Failure::because(what, error)
            .kind(Kind::Denied)
            .hint("`pillar state status` shows why, and which operators have a share")
    };
    let token: Token = serde_json::from_str(&report.recovery)
        .map_err(|error| denied("the pillar has no state volume whose header could be read", &error))?;
    token.judge().map_err(|error| denied("the state volume's recovery token is damaged", &error))?;
    let volume = VolumeId::parse(&report.uuid).ok_or_else(|| Failure::new("the state volume has no UUID"))?;
    Operator::of_seed(seed)
        .and_then(|_| token.open(seed, volume))
        .map_err(|error| denied("this operator has no share of this state volume", &error))
}

async fn erase(target: &Target, yes: bool) -> Outcome<String> {
    if target.name.is_none() && target.addr.is_none() {
        return Err(Failure::new("erase wants to know which pillar").hint("pillar state erase NAME"));
    }
    let place = Place::find(target)?;
    let mut connected = connect(&place, &target.caller).await?;
    let state = ask(&mut connected).await?;
    if !yes {
        confirm(&place.name, &state)?;
    }
    let uuid = state.report.uuid;
    call("erase its state volume", connected.client.erase_state(proto::EraseStateRequest { uuid })).await?;
    Ok(format!("{} erases its state volume and reboots; then `pillar attest --forget`\n", place.name))
}

/// The name typed by a person who saw what goes away.
fn confirm(name: &str, state: &State) -> Outcome {
    if !io::stdin().is_terminal() {
        return Err(Failure::new("nobody is there to confirm that the state volume may be erased")
            .hint("--yes says so, if you are sure"));
    }
    print!(
        "{}everything on it will be gone; type the pillar's name to go on: ",
        text(name, state, Paint::for_stdout())
    );
    let mut typed = String::new();
    let read = io::stdout().flush().and_then(|()| io::stdin().lock().read_line(&mut typed));
    read.map_err(|error| Failure::because("cannot ask", &error))?;
    if typed.trim() == name { Ok(()) } else { Err(Failure::new("not erased: another name was typed")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::StateOutcome;

    const UUID: &str = "0c5c2a3e-8a5e-4b8e-9a55-6d1f6f1f6c11";

    fn state(outcome: StateOutcome) -> State {
        let operators: Vec<Operator> = (1..=3).map(|n| Operator::of_seed(&[n; 32]).expect("a key")).collect();
        let random = vec![0x5a; pillar_recovery::random_bytes_to_make(2, 3)];
        let volume = VolumeId::parse(UUID).expect("a UUID");
        let token = Token::make(&[7; 32], 2, &operators, volume, 1, &random).expect("a token");
        let report = StateReport {
            outcome,
            reason: "PCR 7 (Secure Boot state) is other".to_owned(),
            hint: "recover".to_owned(),
            uuid: UUID.to_owned(),
            tag: String::new(),
            device: String::new(),
            partition: "/dev/vda6".to_owned(),
            integrity: true,
            partition_bytes: 256 << 20,
            minimum_epoch: Some(1),
            epoch: Some(2),
            recovery: serde_json::to_string(&token).expect("JSON"),
        };
        State { report, total_bytes: 0, free_bytes: 0 }
    }

    #[test]
    fn a_sealed_volume_says_why_and_who_recovers_it() {
        let text = text("p1", &state(StateOutcome::Sealed), Paint::PLAIN);
        for words in [
            "state volume sealed",
            "reason     PCR 7",
            "256 MiB, with integrity",
            "2 of 3 operators",
            "2, at least 1 opens it",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        let json = json_text("p1", &state(StateOutcome::Sealed)).expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&value["outcome"], &value["recovery"]["k"]), (&json!("sealed"), &json!(2)));
    }

    #[test]
    fn an_operator_without_a_share_is_told() {
        let report = state(StateOutcome::Sealed).report;
        assert_eq!(share(&report, &[2; 32]).expect("its share").index(), 2);
        let error = share(&report, &[9; 32]).expect_err("none of theirs").to_string();
        assert!(error.contains("this operator has no share"), "{error}");
    }
}
