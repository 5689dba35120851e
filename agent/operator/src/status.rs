//! `pillar status`: what a pillar says about itself.

use crate::cli::{Form, Output, Target, Viewer};
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::members;
use crate::paint::{Paint, harmless};
use crate::session::{call, connect, malformed};
use crate::target::Place;
use crate::view::{self, View};
use pillar_model::{Boot, Tpm, WorkloadHealth, WorkloadState};
use pillar_wire::{Status, proto};
use serde_json::json;
use std::fmt::Write;
use std::time::Duration;

/// The cluster, or one pillar.
pub async fn run(target: &Target, viewer: &Viewer, form: Form) -> Outcome<String> {
    let caller = &target.caller;
    if viewer.from.is_some() {
        if target.name.is_some() || target.addr.is_some() {
            return Err(Failure::new("--from shows the whole cluster as one pillar sees it")
                .hint("`pillar explain NAME --from …` shows how it sees one member"));
        }
        return members::seen_from(viewer, caller, form).await;
    }
    if target.name.is_none() && target.addr.is_none() {
        let running = Place::running(&caller.run);
        if running.len() > 1 {
            return members::of_machines(running, caller, form).await;
        }
    }
    let place = Place::find(target)?;
    let mut connected = connect(&place, caller).await?;
    let view = view::ask(&place, &mut connected).await?;
    if target.name.is_none() && target.addr.is_none() && view.said.founded {
        return members::printed(&view, form);
    }
    let reply = call("tell its status", connected.client.status(proto::StatusRequest {})).await?;
    let status = Status::try_from(reply).map_err(|error| malformed("status", &error))?;
    match form.output {
        Output::Text => Ok(text(&status, &view, &place.addr, Paint::for_stdout())),
        Output::Json => json_text(&status, &view, &place.addr),
    }
}

fn json_text(status: &Status, view: &View, addr: &str) -> Outcome<String> {
    let mut value =
        serde_json::to_value(&status.boot).map_err(|error| Failure::because("cannot print JSON", &error))?;
    value["uptime_ms"] = json!(u64::try_from(status.uptime.as_millis()).unwrap_or(u64::MAX));
    value["agent"] = json!(addr);
    let cluster = || json!({ "name": view.said.cluster, "serial": view.said.serial });
    value["cluster"] = if view.said.founded { cluster() } else { serde_json::Value::Null };
    Ok(format!("{value:#}\n"))
}

fn text(status: &Status, view: &View, addr: &str, paint: Paint) -> String {
    let Boot { name, version, flavour, slot, root_hash, kernel, trial, phases, tpm, workload, agent_starts } =
        &status.boot;
    let boot = if *trial { paint.warn("on trial, not yet blessed") } else { paint.good("blessed") };
    let mut out = format!(
        "{}  {}\n",
        paint.bold(&harmless(name)),
        paint.dim(&format!("at {addr}, in its own words; `pillar attest` proves"))
    );
    let mut line = |label: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {label:<10} {value}");
    };
    line("image", format!("pillar {} ({}), slot {slot}, {boot}", harmless(version), harmless(flavour)));
    line("root hash", root_hash.to_string());
    line("kernel", harmless(kernel));
    line("uptime", span(status.uptime));
    line("tpm", tpm_text(tpm, paint));
    line("workload", workload_text(workload, paint));
    if view.said.founded {
        line("cluster", members::summary(view));
    }
    if !view.said.trouble.is_empty() {
        line("trouble", paint.bad(&harmless(&view.said.trouble)));
    }
    if let Some(offset) = view.clock_offset_s.filter(|offset| clock::is_far(*offset)) {
        line("clock", paint.warn(&clock::words(&harmless(name), offset)));
    }
    if *agent_starts > 1 {
        line("agent", paint.warn(&format!("started {agent_starts} times")));
    }
    if !phases.is_empty() {
        out.push_str("\n  phase                   at         took\n");
    }
    let mut before = 0;
    for phase in phases {
        let took = phase.at_us.saturating_sub(before);
        let _ = writeln!(
            out,
            "  {:<18} {:>8} {:>10}",
            harmless(&phase.name),
            seconds(phase.at_us),
            seconds(took)
        );
        before = phase.at_us;
    }
    out
}

fn tpm_text(tpm: &Tpm, paint: Paint) -> String {
    match tpm {
        Tpm::Present => paint.good("present"),
        Tpm::Absent => paint.bad("absent: no verifier accepts this machine"),
        Tpm::Failed(reason) => paint.bad(&format!("failed: {}", harmless(reason))),
    }
}

fn workload_text(workload: &WorkloadHealth, paint: Paint) -> String {
    let state = match workload.state {
        WorkloadState::None => return "none".to_owned(),
        WorkloadState::Healthy => paint.good("healthy"),
        WorkloadState::Starting => paint.warn("starting"),
        WorkloadState::Restarting => paint.warn("restarting"),
        WorkloadState::Unhealthy => paint.bad("unhealthy"),
        WorkloadState::Stopped => paint.warn("stopped"),
    };
    let reason =
        if workload.reason.is_empty() { String::new() } else { format!(": {}", harmless(&workload.reason)) };
    let restarts = match workload.restarts {
        0 => String::new(),
        1 => ", restarted once".to_owned(),
        n => format!(", restarted {n} times"),
    };
    format!("{} {state}{reason}{restarts}", harmless(&workload.name))
}

fn seconds(us: u64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us / 1000 % 1000)
}

/// "2 d 3 h", "4 min 5 s", "6 s": the two largest units.
pub fn span(duration: Duration) -> String {
    let mut left = duration.as_secs();
    let mut parts = Vec::new();
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)] {
        if left >= size && parts.len() < 2 {
            parts.push(format!("{} {unit}", left / size));
        }
        left %= size;
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::{Phase, RootHash, Slot};

    fn status() -> Status {
        let phase = |name: &str, at_us| Phase { name: name.to_owned(), at_us };
        Status {
            boot: Boot {
                name: "p1".to_owned(),
                version: "0.1.0".to_owned(),
                flavour: "virt".to_owned(),
                slot: Slot::A,
                root_hash: RootHash([0xab; 32]),
                kernel: "6.12.0".to_owned(),
                trial: false,
                phases: vec![phase("enter-initrd", 2_710_400), phase("ready", 4_000_000)],
                tpm: Tpm::Present,
                workload: WorkloadHealth {
                    name: "hello".to_owned(),
                    state: WorkloadState::Healthy,
                    reason: String::new(),
                    restarts: 0,
                },
                agent_starts: 1,
            },
            uptime: Duration::from_secs(3725),
        }
    }

    fn alone() -> View {
        View::of("p1", proto::ClusterReply::default()).expect("a view")
    }

    #[test]
    fn a_member_says_of_which_cluster_and_what_keeps_it_out() {
        let mut view = view::tests::view();
        view.said.trouble = "another TLS key".to_owned();
        view.clock_offset_s = Some(600);
        let text = text(&status(), &view, "a:1", Paint::PLAIN);
        for want in [
            "  cluster    lab: entry 5, constitution 1 (any 2 operators decide), release 0.1.0\n",
            "  trouble    another TLS key\n",
            "  clock      p1's clock is 10 min ahead of this machine's\n",
        ] {
            assert!(text.contains(want), "{want} in {text}");
        }
        let value = json_text(&status(), &view, "a:1").expect("JSON");
        assert!(value.contains("\"serial\": 5"), "{value}");
    }

    #[test]
    fn a_healthy_pillar() {
        let want = "\
p1  at 127.0.0.1:7443, in its own words; `pillar attest` proves
  image      pillar 0.1.0 (virt), slot a, blessed
  root hash  abababababababababababababababababababababababababababababababab
  kernel     6.12.0
  uptime     1 h 2 min
  tpm        present
  workload   hello healthy

  phase                   at         took
  enter-initrd        2.710 s    2.710 s
  ready               4.000 s    1.289 s
";
        assert_eq!(text(&status(), &alone(), "127.0.0.1:7443", Paint::PLAIN), want);
    }

    #[test]
    fn trouble_is_said_in_words_and_cannot_move_the_cursor() {
        let mut status = status();
        status.boot.trial = true;
        status.boot.agent_starts = 3;
        status.boot.tpm = Tpm::Failed("locked\x1b[2Jout".to_owned());
        status.boot.workload.state = WorkloadState::Unhealthy;
        status.boot.workload.reason = "connection refused".to_owned();
        status.boot.workload.restarts = 1;
        let text = text(&status, &alone(), "a:1", Paint::PLAIN);
        for want in [
            "slot a, on trial, not yet blessed",
            "tpm        failed: locked\u{fffd}[2Jout",
            "workload   hello unhealthy: connection refused, restarted once",
            "agent      started 3 times",
        ] {
            assert!(text.contains(want), "{want} in {text}");
        }
    }

    #[test]
    fn json_has_the_units_in_its_names() {
        let value: serde_json::Value =
            serde_json::from_str(&json_text(&status(), &alone(), "a:1").expect("JSON")).expect("parses");
        assert_eq!(value["uptime_ms"], 3_725_000);
        assert_eq!(value["slot"], "a");
        assert_eq!(value["phases"][0]["at_us"], 2_710_400);
        assert_eq!(value["tpm"]["state"], "present");
        assert_eq!(value["workload"]["state"], "healthy");
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, want) in
            [(0, "0 s"), (59, "59 s"), (65, "1 min 5 s"), (3600, "1 h"), (90_061, "1 d 1 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), want);
        }
    }
}
