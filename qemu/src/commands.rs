//! The commands on machines that are there, and how machines are printed.

use crate::cli::{Cli, Command, Output};
use crate::{network, up};
use anyhow::{Result, bail};
use pillar_qemu::{Error, LabFacts, Mark, Record, Stopped, check_name};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn run(cli: Cli) -> Result<()> {
    let Cli { run_dir, output, command } = cli;
    match command {
        Command::Up(options) => up::run(&run_dir, output, &options),
        Command::Console { name, no_follow } => console(&run_dir, name.as_deref(), no_follow),
        Command::Down { names, all: _, grace } => down(&run_dir, output, names, Duration::from_secs(grace)),
        Command::Lab { command } => network::run(&run_dir, output, &command),
        Command::Switch => network::switch(&run_dir),
        Command::List => list(&run_dir, output),
        Command::Reset { name } => reset(&run_dir, name.as_deref()),
    }
}

/// A machine as it is printed.
#[derive(Debug, Serialize)]
pub struct Shown {
    name: String,
    state: &'static str,
    agent: String,
    /// Guest port to address on this host.
    workload: BTreeMap<u16, String>,
    accel: String,
    image: Option<PathBuf>,
    release: Option<PathBuf>,
    ek_ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lab: Option<LabFacts>,
    dir: PathBuf,
}

impl Shown {
    pub fn of(dir: &Path, record: Record) -> Self {
        Self {
            state: if record.is_running() { "running" } else { "stopped" },
            agent: record.agent.to_string(),
            workload: record
                .workload
                .iter()
                .map(|(guest, host)| (*guest, format!("127.0.0.1:{host}")))
                .collect(),
            name: record.name,
            accel: record.accel,
            image: record.image.map(|image| image.path),
            release: record.release,
            ek_ca: record.ek_ca,
            lab: record.lab,
            dir: dir.canonicalize().unwrap_or_else(|_| dir.to_owned()),
        }
    }
}

pub fn show(output: Output, machines: &[Shown]) -> Result<()> {
    let mut out = io::stdout().lock();
    if output == Output::Json {
        serde_json::to_writer_pretty(&mut out, machines)?;
        return Ok(writeln!(out)?);
    }
    for machine in machines {
        writeln!(out, "{}  {} ({})", machine.name, machine.state, machine.accel)?;
        if machine.state == "running" {
            writeln!(out, "  agent     {}", machine.agent)?;
            for (guest, address) in &machine.workload {
                writeln!(out, "  port {guest:<5}http://{address}/")?;
            }
        }
        if let Some(lab) = &machine.lab {
            writeln!(out, "  in {}    {}", lab.name, lab.peer.ip())?;
        }
        writeln!(out, "  folder    {}", machine.dir.display())?;
    }
    Ok(())
}

/// The machines that were ever started in this run folder.
fn known(run_dir: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(run_dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut names: Vec<String> = entries
        .iter()
        .filter(|entry| entry.path().join(pillar_qemu::record::FILE).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn record(run_dir: &Path, name: &str) -> Result<Record> {
    check_name(name)?;
    match Record::read(&run_dir.join(name))? {
        Some(record) => Ok(record),
        None => {
            let known = known(run_dir).join(", ");
            let hint = if known.is_empty() {
                "`./just up` starts one".to_owned()
            } else {
                format!("known are: {known}")
            };
            bail!("there is no machine {name} in {}\n  hint: {hint}", run_dir.display())
        }
    }
}

/// The machine that is meant when none is named: the one that runs, else the only one, else p1.
fn the_one(run_dir: &Path, name: Option<&str>) -> Result<String> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let known = known(run_dir);
    let runs =
        |name: &&String| Record::read(&run_dir.join(name)).ok().flatten().is_some_and(|r| r.is_running());
    let running: Vec<&String> = known.iter().filter(runs).collect();
    match (running.as_slice(), known.as_slice()) {
        ([one], _) => Ok((*one).clone()),
        ([], [one]) => Ok(one.clone()),
        ([], _) => Ok("p1".to_owned()),
        (many, _) => {
            let names: Vec<&str> = many.iter().map(|n| n.as_str()).collect();
            bail!("several machines run\n  hint: name one of {}", names.join(", "))
        }
    }
}

fn console(run_dir: &Path, name: Option<&str>, no_follow: bool) -> Result<()> {
    let name = the_one(run_dir, name)?;
    let record = record(run_dir, &name)?;
    let dir = run_dir.join(&name);
    let mut out = io::stdout().lock();
    if no_follow {
        let log = dir.join("serial.log");
        let bytes = fs::read(&log).map_err(|source| Error::File { operation: "read", path: log, source })?;
        return Ok(out.write_all(pillar_qemu::printable(&bytes).as_bytes())?);
    }
    let console = Record::console(&dir, &record)?;
    let mut from = Mark::default();
    while let Some((text, end)) = console.more(from) {
        out.write_all(text.as_bytes())?;
        out.flush()?;
        from = end;
    }
    Ok(())
}

fn down(run_dir: &Path, output: Output, names: Vec<String>, grace: Duration) -> Result<()> {
    let named = !names.is_empty();
    let names = if named { names } else { known(run_dir) };
    let mut told = BTreeMap::new();
    let mut stuck = Vec::new();
    for name in names {
        let record = record(run_dir, &name)?;
        let how = record.stop(&run_dir.join(&name), grace);
        let words = match how {
            Stopped::WasNotRunning if !named => continue,
            Stopped::WasNotRunning => "did not run",
            Stopped::PoweredOff => "powered off",
            Stopped::Ended => "stopped",
            Stopped::Killed => "killed",
            Stopped::Stuck => {
                stuck.push(format!("{name} (process {})", record.processes.qemu.pid));
                continue;
            }
        };
        told.insert(name, words);
    }
    network::end_when_idle(run_dir)?;
    let mut out = io::stdout().lock();
    if output == Output::Json {
        serde_json::to_writer_pretty(&mut out, &told)?;
        writeln!(out)?;
    } else if told.is_empty() && stuck.is_empty() {
        writeln!(out, "no machine runs")?;
    } else {
        for (name, words) in told {
            writeln!(out, "{name}: {words}")?;
        }
    }
    if !stuck.is_empty() {
        bail!("could not be killed: {}", stuck.join(", "));
    }
    Ok(())
}

fn list(run_dir: &Path, output: Output) -> Result<()> {
    let mut machines = Vec::new();
    for name in known(run_dir) {
        machines.push(Shown::of(&run_dir.join(&name), record(run_dir, &name)?));
    }
    if machines.is_empty() && output == Output::Text {
        return Ok(writeln!(io::stdout(), "there are no machines in {}", run_dir.display())?);
    }
    show(output, &machines)
}

fn reset(run_dir: &Path, name: Option<&str>) -> Result<()> {
    let name = the_one(run_dir, name)?;
    if !record(run_dir, &name)?.is_running() {
        bail!("{name} does not run\n  hint: `./just up {name}` starts it");
    }
    Record::qmp(&run_dir.join(&name))?.system_reset()?;
    Ok(writeln!(io::stdout(), "{name}: reset")?)
}
