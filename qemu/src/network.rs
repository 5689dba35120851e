//! `lab`, and what `up` and `down` have to do with the network between machines.

use crate::cli::{Lab as Words, Output, Up, duration};
use crate::up::say;
use anyhow::{Context, Result, bail};
use clap::Parser;
use pillar_qemu::switch::{Change, Control, Order, Pair, PortState, Share, State};
use pillar_qemu::{Lab, Record, Seat, switch};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A script is some lines; more than this is no script.
const SCRIPT_MAX_BYTES: u64 = 1024 * 1024;

/// The places of these machines in the lab, whose switch runs from here on. Several machines are always in one; a
/// single one is when there is a lab.
pub fn seats(run_dir: &Path, names: &[String], options: &Up) -> Result<BTreeMap<String, Seat>> {
    let dir = Lab::dir_in(run_dir);
    if options.alone || (names.len() == 1 && Lab::open(&dir)?.is_none()) {
        return Ok(BTreeMap::new());
    }
    let _lock = Lab::lock(&dir)?;
    if options.lab_seed.is_some() && Control::find(&dir)?.is_some() {
        bail!("the lab's switch runs already\n  hint: `./just lab reset --seed N` has chance begin anew");
    }
    let mut lab = Lab::make(&dir, options.lab_seed)?;
    let mut joining = Vec::new();
    for name in names {
        if !runs(run_dir, name)? {
            joining.push(name.as_str());
        } else if !lab.has(name) && names.len() > 1 {
            bail!("{name} runs already, without the others' network\n  hint: `./just down {name}` first");
        }
    }
    let gone = |name: &str| match joining.contains(&name) {
        true => options.fresh,
        false => !run_dir.join(name).is_dir(),
    };
    lab.forget(gone)?;
    lab.join(&joining)?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    if lab.ensure_switch(Command::new(program).arg("--run-dir").arg(run_dir).arg("switch"))? {
        say("lab", &format!("the switch runs; its chance begins with {}", lab.seed()));
    }
    joining.iter().map(|name| Ok(((*name).to_owned(), lab.seat(name)?))).collect()
}

fn runs(run_dir: &Path, name: &str) -> Result<bool> {
    Ok(Record::read(&run_dir.join(name))?.is_some_and(|record| record.is_running()))
}

/// Ends the lab's switch when none of its machines runs.
pub fn end_when_idle(run_dir: &Path) -> Result<()> {
    let dir = Lab::dir_in(run_dir);
    if Lab::open(&dir)?.is_none() {
        return Ok(());
    }
    let _lock = Lab::lock(&dir)?;
    let Some(lab) = Lab::open(&dir)? else { return Ok(()) };
    for name in lab.names() {
        if runs(run_dir, name)? {
            return Ok(());
        }
    }
    if lab.end_switch()? {
        say("lab", "the switch ended with the last machine");
    }
    Ok(())
}

/// The switch itself, until it is told to stop.
pub fn switch(run_dir: &Path) -> Result<()> {
    let dir = Lab::dir_in(run_dir);
    let lab = Lab::open(&dir)?.with_context(|| format!("there is no lab in {}", dir.display()))?;
    let names: Vec<&str> = lab.names().collect();
    // Who started us waits for this line; if nobody does, the switch serves all the same.
    let ready = || drop(writeln!(io::stdout(), "ready"));
    Ok(switch::run(lab.dir(), &names, lab.seed(), ready)?)
}

pub fn run(run_dir: &Path, output: Output, words: &Words) -> Result<()> {
    let dir = Lab::dir_in(run_dir);
    let lines = match words {
        Words::Script { file, repeat } => {
            let lines = script(&read(file)?).with_context(|| format!("in {}", file.display()))?;
            vec![lines; usize::try_from(*repeat)?].concat()
        }
        one => vec![(String::new(), one.clone())],
    };
    let mut control = Control::connect(&dir)?;
    let begun = Instant::now();
    let mut state = control.show()?;
    for (line, words) in &lines {
        if !line.is_empty() {
            say(&format!("{:7.2} s", begun.elapsed().as_secs_f64()), line);
        }
        match (words, order(words)?) {
            (Words::Wait { time }, _) => std::thread::sleep(*time),
            (_, Some(order)) => state = control.order(&order)?,
            _ => {}
        }
    }
    let all = matches!(words, Words::Show { all: true });
    show(output, &dir, state, all)
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let whole = || format!("cannot read {}", file.display());
    if file == Path::new("-") {
        io::stdin().take(SCRIPT_MAX_BYTES).read_to_string(&mut text).with_context(whole)?;
    } else {
        fs::File::open(file)
            .and_then(|file| file.take(SCRIPT_MAX_BYTES).read_to_string(&mut text))
            .with_context(whole)?;
    }
    Ok(text)
}

/// A script's line has the words of the command line.
#[derive(Debug, Parser)]
#[command(name = "lab", no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(subcommand)]
    words: Words,
}

/// All lines are understood before the first one is run.
fn script(text: &str) -> Result<Vec<(String, Words)>> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let place = || format!("line {}: {line}", index + 1);
        // What clap says begins with a word that ours has already, and goes on with the usage.
        let parsed = Line::try_parse_from(line.split_whitespace()).map_err(|error| {
            let text = error.to_string();
            anyhow::anyhow!("{}", text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        });
        let words = parsed.with_context(place)?.words;
        if matches!(words, Words::Script { .. }) {
            bail!("{}: a script cannot run scripts", place());
        }
        order(&words).with_context(place)?;
        lines.push((line.to_owned(), words));
    }
    Ok(lines)
}

/// What the switch is told; none for words that are not for it.
fn order(words: &Words) -> Result<Option<Order>> {
    let share = |text: &str| text.parse::<Share>().map_err(anyhow::Error::msg);
    let order = match words {
        Words::Show { .. } => Order::Show,
        Words::Delay { words, jitter } => {
            fault(words, |text| Ok(Change::delay(duration(text).map_err(anyhow::Error::msg)?, *jitter)))?
        }
        Words::Loss { words } => fault(words, |text| Ok(Change::loss(share(text)?)))?,
        Words::Dup { words } => fault(words, |text| Ok(Change::duplicate(share(text)?)))?,
        Words::Reorder { words } => fault(words, |text| Ok(Change::reorder(share(text)?)))?,
        Words::Rate { words } => fault(words, |text| {
            let kilobits: u32 =
                text.parse().with_context(|| format!("{text:?} is not a number of kilobits"))?;
            Ok(Change::rate(u64::from(kilobits) * 1000))
        })?,
        Words::Partition { groups } => {
            let group = |group: &String| group.split(',').map(str::to_owned).collect();
            Order::Partition { groups: groups.iter().map(group).collect() }
        }
        Words::Heal => Order::Partition { groups: Vec::new() },
        Words::Reset { seed } => Order::Reset { seed: *seed },
        Words::Wait { .. } | Words::Script { .. } => return Ok(None),
    };
    Ok(Some(order))
}

/// Directions and, last, a value.
fn fault(words: &[String], change: impl Fn(&str) -> Result<Change>) -> Result<Order> {
    let Some((value, places)) = words.split_last() else { bail!("WHERE and a value are needed") };
    Ok(Order::Fault { links: links(places)?, change: change(value)? })
}

fn links(places: &[String]) -> Result<Vec<Pair>> {
    let direction = |place: &str| place.split_once(':').map(|(from, to)| Pair::one_way(from, to));
    Ok(match places {
        [all] if all == "all" => vec![Pair::ALL],
        [place] => direction(place).map_or_else(|| Pair::of(place).to_vec(), |pair| vec![pair]),
        [one, other] if !one.contains(':') && !other.contains(':') => Pair::both_ways(one, other).to_vec(),
        other => bail!("{:?} is no place: p1 p2, p1:p2, p1 or all", other.join(" ")),
    })
}

/// A machine as it is printed.
#[derive(Debug, Serialize)]
struct ShownMachine {
    #[serde(flatten)]
    port: PortState,
    number: Option<u8>,
    peer: Option<String>,
}

fn show(output: Output, dir: &Path, mut state: State, all: bool) -> Result<()> {
    let lab = Lab::open(dir)?;
    let machines = std::mem::take(&mut state.machines);
    let machines: Vec<ShownMachine> = machines
        .into_iter()
        .map(|port| {
            let seat = lab.as_ref().and_then(|lab| lab.seat(&port.name).ok());
            let peer = seat.as_ref().map(|seat| seat.peer().to_string());
            ShownMachine { port, number: seat.map(|seat| seat.number), peer }
        })
        .collect();
    let mut out = io::stdout().lock();
    if output == Output::Json {
        let mut whole = serde_json::to_value(&state)?;
        whole["machines"] = serde_json::to_value(&machines)?;
        serde_json::to_writer_pretty(&mut out, &whole)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "seed {}", state.seed)?;
    for machine in &machines {
        let peer = machine.peer.as_deref().unwrap_or("-");
        let attached = if machine.port.attached { "connected" } else { "away" };
        writeln!(out, "{:<12}{peer:<20}{attached}", machine.port.name)?;
    }
    if !state.partition.is_empty() {
        let groups: Vec<String> = state.partition.iter().map(|group| group.join(",")).collect();
        writeln!(out, "partition   {}", groups.join(" | "))?;
    }
    for link in &state.links {
        let faults = link.faults.to_string();
        if all {
            let c = link.counters;
            writeln!(
                out,
                "{} → {}: {faults}; delivered {}, lost {}, copied {}, reordered {}, cut {}, overflowed {}, absent {}",
                link.from,
                link.to,
                c.delivered,
                c.lost,
                c.duplicated,
                c.reordered,
                c.cut,
                c.overflowed,
                c.absent
            )?;
        } else if link.faults != Default::default() {
            writeln!(out, "{} → {}: {faults}", link.from, link.to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Option<Order>, String> {
        let lines = script(line).map_err(|e| format!("{e:#}"))?;
        order(&lines[0].1).map_err(|e| format!("{e:#}"))
    }

    fn json(line: &str) -> String {
        serde_json::to_string(&one(line).expect("understood")).expect("JSON")
    }

    #[test]
    fn words_become_orders() {
        for (line, order) in [
            ("show", r#"{"do":"show"}"#),
            (
                "delay all 200ms --jitter 20ms",
                r#"{"do":"fault","links":[{}],"change":{"delay_us":200000,"jitter_us":20000}}"#,
            ),
            (
                "loss p1 p2 20%",
                r#"{"do":"fault","links":[{"from":"p1","to":"p2"},{"from":"p2","to":"p1"}],"change":{"loss_ppm":200000}}"#,
            ),
            (
                "dup p1:p2 5%",
                r#"{"do":"fault","links":[{"from":"p1","to":"p2"}],"change":{"duplicate_ppm":50000}}"#,
            ),
            (
                "reorder p3 0.1%",
                r#"{"do":"fault","links":[{"from":"p3"},{"to":"p3"}],"change":{"reorder_ppm":1000}}"#,
            ),
            ("rate all 800", r#"{"do":"fault","links":[{}],"change":{"rate_bits_per_s":800000}}"#),
            ("partition p1,p2 p3", r#"{"do":"partition","groups":[["p1","p2"],["p3"]]}"#),
            ("heal", r#"{"do":"partition","groups":[]}"#),
            ("reset --seed 7", r#"{"do":"reset","seed":7}"#),
            ("wait 5s # and then", "null"),
        ] {
            assert_eq!(json(line), order, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (line, why) in [
            ("loss p1 p2 20", "not a share"),
            ("delay all 200", "not a time"),
            ("delay p1", "2 values required"),
            ("loss p1:p2 p3 1%", "no place"),
            ("dance", "unrecognized subcommand"),
            ("script x", "cannot run scripts"),
            ("rate all many", "kilobits"),
        ] {
            let text = one(&format!("\n# a comment\n{line}")).expect_err(line);
            assert!(text.starts_with("line 3: ") && text.contains(why), "{line}: {text}");
        }
        assert_eq!(script("# nothing\n\n").expect("a script").len(), 0);
    }
}
