//! `pillar status` of a cluster: one line for each pillar.

use crate::cli::{Caller, Form, Output, Viewer};
use crate::clock;
use crate::failure::{Failure, Kind, Outcome};
use crate::paint::{Paint, harmless};
use crate::reference::now_unix_s;
use crate::session::{call, malformed};
use crate::table::{self, Cell, Tone, cell};
use crate::target::Place;
use crate::view::{self, Peer, View, Witness};
use pillar_model::PeerState;
use pillar_wire::{Status, proto};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// A constitution that expires sooner is worth a word.
const EXPIRY_WARNING_S: u64 = 30 * 86_400;

/// As one pillar sees it.
pub async fn seen_from(viewer: &Viewer, caller: &Caller, form: Form) -> Outcome<String> {
    let witness = Witness::find(viewer, caller, None).await?;
    printed(&witness.view, form)
}

/// In the form that was asked for.
pub fn printed(view: &View, form: Form) -> Outcome<String> {
    match form.output {
        Output::Text => Ok(text(view, now_unix_s(), Paint::for_stdout())),
        Output::Json => Ok(format!("{:#}\n", json(view))),
    }
}

/// Of several machines that run, when nobody said whose view it is to be: the first cluster that is found, with the
/// machines that are not in it below; machines without a cluster by themselves.
pub async fn of_machines(places: Vec<Place>, caller: &Caller, form: Form) -> Outcome<String> {
    let mut best = None;
    let mut others = Vec::new();
    for (place, answer) in view::all(places, caller, view::ANSWER_TIMEOUT).await {
        match answer {
            Ok(witness) if witness.view.said.founded => {
                best = best.or(Some(witness.view));
            }
            Ok(mut witness) => others.push(Lone::ask(&mut witness).await),
            Err(failure) => others.push(Lone { name: place.name, status: Err(failure) }),
        }
    }
    if let Some(view) = &best {
        others.retain(|lone| view.peers.iter().all(|peer| peer.name.as_str() != lone.name));
    } else if others.iter().all(|lone| lone.status.is_err()) {
        // Nobody said anything: that is a failure, not a table.
        let first = others.into_iter().find_map(|lone| lone.status.err());
        return Err(first.unwrap_or_else(|| Failure::new("no machine runs").kind(Kind::Unreachable)));
    }
    match form.output {
        Output::Text => {
            let paint = Paint::for_stdout();
            let mut out = best.as_ref().map(|view| text(view, now_unix_s(), paint)).unwrap_or_default();
            if !others.is_empty() {
                out.push_str(if best.is_some() {
                    "\nnot in the cluster:\n"
                } else {
                    "no cluster; `pillar found` makes one\n\n"
                });
                out.push_str(&lone_lines(&others, paint));
            }
            Ok(out)
        }
        Output::Json => {
            let mut value = best.as_ref().map_or_else(|| json!({ "cluster": null }), json);
            value["machines"] = others.iter().map(Lone::json).collect();
            Ok(format!("{value:#}\n"))
        }
    }
}

/// A machine that belongs to no cluster.
struct Lone {
    name: String,
    status: Outcome<Status>,
}

impl Lone {
    async fn ask(witness: &mut Witness) -> Lone {
        let request = witness.connected.client.status(proto::StatusRequest {});
        let status = call("tell its status", request).await;
        let status =
            status.and_then(|reply| Status::try_from(reply).map_err(|error| malformed("status", &error)));
        Lone { name: witness.place.name.clone(), status }
    }

    fn json(&self) -> Value {
        match &self.status {
            Ok(status) => json!({
                "name": self.name, "version": status.boot.version, "slot": status.boot.slot,
                "workload": status.boot.workload.state,
            }),
            Err(failure) => json!({ "name": self.name, "error": failure.to_string() }),
        }
    }
}

fn lone_lines(machines: &[Lone], paint: Paint) -> String {
    let row = |lone: &Lone| match &lone.status {
        Ok(status) => {
            let workload = serde_json::to_value(status.boot.workload.state).unwrap_or_default();
            vec![
                cell(&lone.name, Tone::Bold),
                cell(&status.boot.version, Tone::Plain),
                cell(status.boot.slot.to_string(), Tone::Plain),
                workload_cell(workload.as_str().unwrap_or_default()),
                cell("", Tone::Plain),
            ]
        }
        Err(failure) => vec![
            cell(&lone.name, Tone::Bold),
            cell("", Tone::Plain),
            cell("", Tone::Plain),
            cell("", Tone::Plain),
            cell(failure.words(), Tone::Bad),
        ],
    };
    let titles = ["pillar", "version", "slot", "workload", "reason"];
    table::lines(&titles, machines.iter().map(row).collect(), paint)
}

/// The tone of a state.
pub fn tone(state: PeerState) -> Tone {
    match state {
        PeerState::Up => Tone::Good,
        PeerState::Suspect => Tone::Warn,
        PeerState::Down | PeerState::Untrusted => Tone::Bad,
    }
}

fn workload_cell(state: &str) -> Cell {
    let tone = match state {
        "healthy" => Tone::Good,
        "unhealthy" => Tone::Bad,
        "starting" | "restarting" | "stopped" => Tone::Warn,
        _ => Tone::Plain,
    };
    cell(state, tone)
}

/// "lab: entry 5, constitution 1 (any 2 operators decide), release 0.1.0".
pub fn summary(view: &View) -> String {
    let said = &view.said;
    let trial =
        if said.trial.is_empty() { String::new() } else { format!(", {} on trial", harmless(&said.trial)) };
    let release = if said.committed.is_empty() {
        "no release yet".to_owned()
    } else {
        format!("release {}", harmless(&said.committed))
    };
    format!(
        "{}: entry {}, constitution {} (any {} operators decide), {release}{trial}",
        harmless(&said.cluster),
        said.serial,
        said.constitution_version,
        said.threshold,
    )
}

fn text(view: &View, now_unix_s: u64, paint: Paint) -> String {
    let mut out = format!(
        "{}  {}\n",
        paint.bold(&summary(view)),
        paint.dim(&format!("as {} sees it", harmless(&view.from)))
    );
    for warning in warnings(view, now_unix_s) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", paint.warn(&warning));
    }
    out.push('\n');
    let titles =
        ["pillar", "state", "version", "slot", "workload", "vouched by", "heartbeat", "verdict", "reason"];
    out.push_str(&table::lines(&titles, view.peers.iter().map(row).collect(), paint));
    out
}

/// What everybody should know before they read on.
fn warnings(view: &View, now_unix_s: u64) -> Vec<String> {
    let mut all = Vec::new();
    let expires = view.said.constitution_expires_unix_s;
    if view.is_expired(now_unix_s) {
        all.push("the constitution has expired: `pillar constitution propose` the next one".to_owned());
    } else if expires.saturating_sub(now_unix_s) < EXPIRY_WARNING_S {
        let left = crate::status::span(Duration::from_secs(expires - now_unix_s));
        all.push(format!("the constitution expires in {left}: `pillar constitution propose` the next one"));
    }
    if !view.said.trouble.is_empty() {
        all.push(format!("{} cannot take part: {}", harmless(&view.from), harmless(&view.said.trouble)));
    }
    if let Some(offset) = view.clock_offset_s.filter(|offset| clock::is_far(*offset)) {
        all.push(clock::words(&harmless(&view.from), offset));
    }
    all
}

fn row(peer: &Peer) -> Vec<Cell> {
    let said = &peer.said;
    let (heartbeat, verdict) = ages(peer);
    let aged = |text: String| cell(text, Tone::Plain);
    vec![
        cell(peer.name.as_str(), Tone::Bold),
        cell(peer.state.to_string(), tone(peer.state)),
        cell(&said.version, Tone::Plain),
        cell(&said.slot, Tone::Plain),
        workload_cell(&said.workload),
        cell(said.vouchers.join(" "), Tone::Plain),
        aged(heartbeat),
        aged(verdict),
        cell(reason(peer), Tone::Plain),
    ]
}

/// Since the last heartbeat and the last accepted evidence. A pillar sends itself neither.
fn ages(peer: &Peer) -> (String, String) {
    let said = &peer.said;
    if said.self_ {
        return ("itself".to_owned(), String::new());
    }
    let heartbeat = if said.heard { age(said.heartbeat_age_ms) } else { "none".to_owned() };
    let verdict = if said.verified { age(said.verdict_age_ms) } else { "none".to_owned() };
    (heartbeat, verdict)
}

fn reason(peer: &Peer) -> String {
    let said = &peer.said;
    match (said.check.is_empty(), said.reason.is_empty()) {
        (false, false) if !said.reason.starts_with(&said.check) => format!("{}: {}", said.check, said.reason),
        (false, true) => said.check.clone(),
        _ => said.reason.clone(),
    }
}

/// "0.8 s" below ten seconds, then "42 s", "3 min 5 s".
pub fn age(ms: u64) -> String {
    if ms < 10_000 {
        return format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    }
    crate::status::span(Duration::from_millis(ms))
}

/// For programs: ages are null where there was nothing.
fn json(view: &View) -> Value {
    let said = &view.said;
    json!({
        "from": view.from,
        "cluster": said.cluster,
        "serial": said.serial,
        "head": hex::encode(&said.head),
        "constitution_version": said.constitution_version,
        "constitution_expires_unix_s": said.constitution_expires_unix_s,
        "threshold": said.threshold,
        "committed": said.committed,
        "trial": if said.trial.is_empty() { Value::Null } else { json!(said.trial) },
        "trouble": if said.trouble.is_empty() { Value::Null } else { json!(said.trouble) },
        "clock_offset_s": view.clock_offset_s,
        "peers": view.peers.iter().map(peer_json).collect::<Vec<_>>(),
    })
}

/// One member, for programs.
pub fn peer_json(peer: &Peer) -> Value {
    let said = &peer.said;
    let some = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    json!({
        "name": peer.name,
        "self": said.self_,
        "state": peer.state,
        "reason": some(&said.reason),
        "check": some(&said.check),
        "pcr": u8::try_from(said.pcr).ok(),
        "event": some(&said.event),
        "hint": some(&said.hint),
        "version": some(&said.version),
        "slot": some(&said.slot),
        "workload": some(&said.workload),
        "vouchers": said.vouchers,
        "heartbeat_age_ms": said.heard.then_some(said.heartbeat_age_ms),
        "verdict_age_ms": said.verified.then_some(said.verdict_age_ms),
        "round_trip_us": said.heard.then_some(said.round_trip_us),
        "phi": said.phi,
        "clock_offset_ms": said.heard.then_some(said.clock_offset_ms),
        "addresses": said.addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::view;

    #[test]
    fn one_line_for_each_pillar() {
        let want = "\
lab: entry 5, constitution 1 (any 2 operators decide), release 0.1.0  as p1 sees it

pillar  state      version  slot  workload  vouched by  heartbeat  verdict  reason
p1      up         0.1.0    a     healthy   p1 p4       itself
p2      suspect    0.1.0    a     healthy   p1 p4       9.0 s      32 s     no heartbeat for 9.0 s
p3      down                                            none       none     cannot connect to 10.77.0.3:7444
p10     untrusted  0.1.0    a     healthy               0.8 s      none     firmware: PCR 1: is 00, ff is pinned
";
        assert_eq!(text(&view(), 1_900_000_000, Paint::PLAIN), want);
        let rich = text(&view(), 1_900_000_000, Paint::RICH);
        for want in [
            "\x1b[32mup\x1b[0m",
            "\x1b[33msuspect\x1b[0m",
            "\x1b[1;31mdown\x1b[0m",
            "\x1b[1;31muntrusted\x1b[0m",
        ] {
            assert!(rich.contains(want), "{want:?} in {rich:?}");
        }
    }

    #[test]
    fn what_everybody_should_know_stands_above() {
        let mut view = view();
        assert!(warnings(&view, 1_900_000_000).is_empty());
        assert_eq!(
            warnings(&view, 2_000_000_000 - 86_400),
            ["the constitution expires in 1 d: `pillar constitution propose` the next one"]
        );
        view.said.trouble = "its own row has another TLS key".to_owned();
        view.clock_offset_s = Some(-7200);
        assert_eq!(
            warnings(&view, 2_000_000_000),
            [
                "the constitution has expired: `pillar constitution propose` the next one",
                "p1 cannot take part: its own row has another TLS key",
                "p1's clock is 2 h behind this machine's",
            ]
        );
    }

    #[test]
    fn json_tells_nothing_from_zero() {
        let value = json(&view());
        assert_eq!((&value["cluster"], &value["trial"]), (&json!("lab"), &Value::Null));
        let peers = value["peers"].as_array().expect("peers");
        assert_eq!(peers[1]["state"], "suspect");
        assert_eq!((&peers[1]["pcr"], &peers[3]["pcr"]), (&Value::Null, &json!(1)));
        assert_eq!(
            (&peers[1]["heartbeat_age_ms"], &peers[2]["heartbeat_age_ms"]),
            (&json!(9000), &Value::Null)
        );
        assert_eq!(peers[3]["event"], "EV_EFI_VARIABLE_BOOT Boot0000: other");
    }

    #[test]
    fn machines_without_a_cluster_are_told_from_those_that_do_not_answer() {
        let failure = Failure::new("cannot reach p2").kind(Kind::Unreachable).hint("wait");
        let machines = [Lone { name: "p2".to_owned(), status: Err(failure) }];
        let text = lone_lines(&machines, Paint::PLAIN);
        assert_eq!(text, "pillar  reason\np2      cannot reach p2\n");
        assert!(machines[0].json()["error"].as_str().expect("words").contains("hint: wait"));
    }

    #[test]
    fn ages_are_short() {
        for (ms, want) in
            [(0, "0.0 s"), (850, "0.8 s"), (9_999, "9.9 s"), (42_000, "42 s"), (185_000, "3 min 5 s")]
        {
            assert_eq!(age(ms), want);
        }
    }
}
