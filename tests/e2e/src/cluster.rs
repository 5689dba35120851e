//! Several pillars in one lab network: started together, founded as a cluster, looked at through each one's eyes. All
//! their logs are in one folder, which a failure names.

use crate::damage::Disk;
use crate::machine::{BOOT, Bench, SHUTDOWN, enrolled};
use crate::programs::{program, workspace};
use anyhow::{Context, Result, bail, ensure};
use pillar_layout::console;
use pillar_qemu::switch::Control;
use pillar_qemu::{Builder, DiskMode, Firmware, Lab, Machine, Mark, Switch, TpmKind, speaks_tls};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From the workload's health to the agent's answer, on a host that starts four machines at once.
const AGENT: Duration = Duration::from_secs(90);
/// Between two looks at a machine: each costs its emulated processor a handshake.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What chance in the network begins with: a run can be repeated.
const SEED: u64 = 4;

/// A lab with its machines, as one test has it.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they end: machines before the network.
    machines: BTreeMap<String, Running>,
    lab: Lab,
    switch: Switch,
    bench: Bench,
    tapped: BTreeSet<String>,
    logs: usize,
}

/// A machine that was started, and what of its console belongs to boots before this one.
#[derive(Debug)]
struct Running {
    machine: Machine,
    before: Mark,
    healthy_at: Option<Instant>,
}

/// What `pillar` said to people.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub text: String,
    /// Standard error.
    pub errors: String,
}

/// The cluster through one pillar's eyes.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Whose eyes.
    pub from: String,
    /// Each member.
    pub peers: BTreeMap<String, Peer>,
    /// The number of the last entry that it has.
    pub serial: u64,
}

/// One member in such a view.
#[derive(Debug, Clone)]
pub struct Peer {
    /// "up", "suspect", "down" or "untrusted".
    pub state: String,
    /// The check that refused it; empty when none did.
    pub check: String,
    /// The PCR that the refusal is about.
    pub pcr: Option<u64>,
    /// Why it is not up.
    pub reason: String,
    /// It is the one who looks.
    pub is_self: bool,
    /// Its evidence was accepted, and the verdict holds.
    pub verified: bool,
    /// Who vouches for it.
    pub vouchers: Vec<String>,
}

impl View {
    /// The member's state; "absent" when it is none.
    #[must_use]
    pub fn state(&self, name: &str) -> &str {
        self.peers.get(name).map_or("absent", |peer| &peer.state)
    }

    /// Whether it is so seen; nobody's view of itself counts.
    #[must_use]
    pub fn of(&self, name: &str, wanted: impl Fn(&Peer) -> bool) -> bool {
        self.peers.get(name).is_some_and(|peer| peer.is_self || wanted(peer))
    }

    /// Whether all members are up, each by a verdict of this pillar's own, and vouched for by everybody else.
    #[must_use]
    pub fn all_up(&self) -> bool {
        let up = |(name, peer): (&String, &Peer)| {
            let vouched = self.peers.keys().filter(|other| *other != name);
            peer.state == "up"
                && (peer.is_self || peer.verified)
                && vouched.into_iter().all(|other| peer.vouchers.contains(other))
        };
        !self.peers.is_empty() && self.peers.iter().all(up)
    }

    fn parse(json: &Value) -> Result<View> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut view = View {
            from: text(&json["from"]),
            serial: json["serial"].as_u64().unwrap_or_default(),
            ..View::default()
        };
        for peer in json["peers"].as_array().with_context(|| format!("no view of a cluster: {json}"))? {
            let vouchers = peer["vouchers"].as_array().into_iter().flatten().map(text).collect();
            view.peers.insert(
                text(&peer["name"]),
                Peer {
                    state: text(&peer["state"]),
                    check: text(&peer["check"]),
                    pcr: peer["pcr"].as_u64(),
                    reason: text(&peer["reason"]),
                    is_self: peer["self"] == true,
                    verified: !peer["verdict_age_ms"].is_null(),
                    vouchers,
                },
            );
        }
        Ok(view)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sees", self.from)?;
        for (name, peer) in &self.peers {
            write!(f, " {name} {}", peer.state)?;
            if !peer.reason.is_empty() {
                write!(f, " ({})", peer.reason)?;
            }
            if !peer.is_self {
                write!(f, " [{}]", peer.vouchers.join(" "))?;
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// Machines of these names, all started at once, healthy, and not a cluster yet.
    pub fn boot(test: &str, names: &[&str]) -> Result<Cluster> {
        let mut cluster = Self::prepare(test, names)?;
        cluster.start(names)?;
        Ok(cluster)
    }

    /// A lab with a place for each of these machines; none runs.
    pub fn prepare(test: &str, names: &[&str]) -> Result<Cluster> {
        // Built now: machines that wait for the compiler are measured wrongly.
        program("pillar")?;
        let bench = Bench::new(test)?;
        let mut lab = Lab::make(&Lab::dir_in(bench.dir()), Some(SEED))?;
        lab.join(names)?;
        let switch = lab.switch()?;
        Ok(Cluster { machines: BTreeMap::new(), lab, switch, bench, tapped: BTreeSet::new(), logs: 0 })
    }

    /// From its next start on, somebody sits on this machine's TPM bus.
    pub fn tap(&mut self, name: &str) {
        self.tapped.insert(name.to_owned());
    }

    /// The folder with everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.bench.dir()
    }

    /// The test's folder and release.
    #[must_use]
    pub fn bench(&self) -> &Bench {
        &self.bench
    }

    /// The network.
    pub fn network(&self) -> Result<Control> {
        Ok(self.switch.control()?)
    }

    /// Machines that run.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.machines.keys().map(String::as_str)
    }

    /// A machine that runs.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        Ok(&self.running(name)?.machine)
    }

    fn running(&self, name: &str) -> Result<&Running> {
        self.machines.get(name).with_context(|| format!("{name} does not run"))
    }

    /// The disk of a machine that does not run.
    #[must_use]
    pub fn disk(&self, name: &str) -> PathBuf {
        self.dir().join(name).join("disk.raw")
    }

    /// A machine of this lab: with Secure Boot, our keys, a TPM and a disk of its own.
    pub fn builder(&self, name: &str) -> Result<Builder> {
        let builder = Machine::builder(name)
            .dir(self.dir().join(name))
            .disk(self.bench.files().file("raw"), DiskMode::Copy)
            .firmware(Firmware::enrolled(enrolled()?))
            .tpm(TpmKind::swtpm())
            .lab(&self.lab.seat(name)?);
        Ok(if self.tapped.contains(name) { builder.tpm_bus() } else { builder })
    }

    /// Starts machines at once and waits until each is healthy.
    pub fn start(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            let builder = self.builder(name)?;
            self.power_on(name, builder)?;
        }
        names.iter().try_for_each(|name| self.healthy(name))
    }

    /// Starts one machine, and does not wait for it.
    pub fn power_on(&mut self, name: &str, builder: Builder) -> Result<()> {
        let machine = builder.start().with_context(|| format!("cannot start {name}"))?;
        self.machines.insert(name.to_owned(), Running { machine, before: Mark::default(), healthy_at: None });
        Ok(())
    }

    /// Waits until the workload is healthy and the agent answers.
    pub fn healthy(&mut self, name: &str) -> Result<()> {
        let running = self.machines.get_mut(name).with_context(|| format!("{name} does not run"))?;
        let machine = &running.machine;
        let patterns = [console::WORKLOAD_HEALTHY, "pillar-init: fatal", "Kernel panic"];
        let found = machine.console().wait_any(&patterns, running.before, 2 * BOOT)?;
        ensure!(found.pattern == 0, "{name} did not come up: {}", found.line);
        let ago = machine.uptime().saturating_sub(found.at);
        running.healthy_at = Instant::now().checked_sub(ago);
        self.answers(name)
    }

    /// Waits until the agent answers, whatever became of the workload.
    pub fn answers(&self, name: &str) -> Result<()> {
        let agent = self.machine(name)?.agent_addr();
        let until = Instant::now() + BOOT + AGENT;
        while !speaks_tls(agent, Duration::from_secs(5)) {
            ensure!(Instant::now() < until, "{name}'s agent does not answer");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Since the last of all workloads became healthy.
    #[must_use]
    pub fn since_healthy(&self) -> Duration {
        let last = self.machines.values().filter_map(|running| running.healthy_at).max();
        last.map(|at| at.elapsed()).unwrap_or_default()
    }

    /// Reboots a machine in order, as its operator does.
    pub fn reboot(&mut self, name: &str) -> Result<()> {
        self.keep_log(name)?;
        self.expect_another_boot(name)?;
        self.done(&["reboot", name])?;
        self.healthy(name)
    }

    /// Presses a machine's reset button.
    pub fn reset(&mut self, name: &str) -> Result<()> {
        self.keep_log(name)?;
        self.expect_another_boot(name)?;
        self.machine(name)?.qmp().system_reset()?;
        self.healthy(name)
    }

    /// From now on [`Cluster::healthy`] is about the boot that follows.
    pub fn expect_another_boot(&mut self, name: &str) -> Result<()> {
        let running = self.machines.get_mut(name).with_context(|| format!("{name} does not run"))?;
        running.before = running.machine.console().mark();
        Ok(())
    }

    /// Keeps a machine's log and cuts its power.
    pub fn power_cut(&mut self, name: &str) -> Result<()> {
        self.keep_log(name)?;
        self.cut(name)
    }

    /// Cuts a machine's power now; its log goes with it.
    pub fn cut(&mut self, name: &str) -> Result<()> {
        self.machines.remove(name).with_context(|| format!("{name} does not run"))?.machine.power_cut();
        Ok(())
    }

    /// Powers machines off in order, all at once.
    pub fn power_off(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.keep_log(name)?;
            self.done(&["reboot", name, "--power-off"])?;
        }
        for name in names {
            let running = self.machines.remove(*name);
            let mut machine = running.with_context(|| format!("{name} does not run"))?.machine;
            machine.wait_exit(SHUTDOWN).with_context(|| format!("{name} did not power off in order"))?;
        }
        Ok(())
    }

    /// The disk of a machine that is off gets another UKI in place of its own.
    pub fn boots(&self, name: &str, uki: &[u8]) -> Result<()> {
        let disk = Disk::open(&self.disk(name))?;
        disk.esp_write(&disk.esp_entry()?, uki)
    }

    /// A machine that is off gets another TPM.
    pub fn another_tpm(&self, name: &str) -> Result<()> {
        Ok(fs::remove_dir_all(self.dir().join(name).join("swtpm"))?)
    }

    /// A machine that is off is put away, so that another one may have its name; or brought back in that one's place.
    pub fn put_away(&self, name: &str) -> Result<()> {
        Ok(fs::rename(self.dir().join(name), self.away(name))?)
    }

    /// See [`Cluster::put_away`].
    pub fn bring_back(&self, name: &str) -> Result<()> {
        let place = self.dir().join(name);
        fs::remove_dir_all(&place)?;
        Ok(fs::rename(self.away(name), place)?)
    }

    fn away(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}-away"))
    }

    /// Runs `pillar` in this lab.
    pub fn pillar(&self, words: &[&str]) -> Result<Said> {
        let output = program("pillar")?.args(words).env("PILLAR_RUN_DIR", self.dir()).output()?;
        Ok(Said {
            code: output.status.code().context("pillar was killed")?,
            text: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The same, and expects that it is done; what it printed.
    pub fn done(&self, words: &[&str]) -> Result<String> {
        let said = self.pillar(words)?;
        ensure!(said.code == 0, "pillar {}: {said:#?}", words.join(" "));
        Ok(said.text)
    }

    /// The words that make `pillar` sign as this operator.
    #[must_use]
    pub fn key(operator: u32) -> [String; 2] {
        let key = workspace().join(format!("keys/dev/operator-{operator}.key"));
        ["--key".to_owned(), key.display().to_string()]
    }

    /// `pillar status --from NAME`.
    pub fn view(&self, from: &str) -> Result<View> {
        let text = self.done(&["status", "--from", from, "-o", "json"])?;
        View::parse(&serde_json::from_str(&text).with_context(|| text.clone())?)
    }

    /// Looks through the eyes of each of these until it is as wanted in all of them; each is asked again only until then.
    /// Fails at once when anybody says `never`.
    pub fn until(
        &self,
        what: &str,
        eyes: &[&str],
        deadline: Duration,
        never: impl Fn(&View) -> bool,
        wanted: impl Fn(&View) -> bool,
    ) -> Result<Duration> {
        let started = Instant::now();
        let mut waiting = eyes.to_vec();
        loop {
            let mut last = Vec::new();
            for from in std::mem::take(&mut waiting) {
                let view = self.view(from);
                if let Ok(view) = &view {
                    ensure!(!never(view), "while waiting until {what}: {view}");
                    if wanted(view) {
                        continue;
                    }
                }
                waiting.push(from);
                last.push(view.map_or_else(|error| format!("{error:#}"), |view| view.to_string()));
            }
            if waiting.is_empty() {
                return Ok(started.elapsed());
            }
            if started.elapsed() > deadline {
                bail!("not {what} within {} s:\n  {}", deadline.as_secs(), last.join("\n  "));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Looks through the eyes of each of these for so long, and expects the same in every look.
    pub fn stays(
        &self,
        what: &str,
        eyes: &[&str],
        time: Duration,
        wanted: impl Fn(&View) -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            for from in eyes {
                let view = self.view(from)?;
                ensure!(wanted(&view), "not {what} after {} s: {view}", started.elapsed().as_secs());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Keeps what a machine has logged in its folder; a reboot forgets it.
    pub fn keep_log(&mut self, name: &str) -> Result<()> {
        let log = self.log(name)?;
        self.logs += 1;
        fs::write(self.dir().join(name).join(format!("agent-{}.log", self.logs)), log)?;
        Ok(())
    }

    /// What a machine has logged in this boot.
    pub fn log(&self, name: &str) -> Result<String> {
        self.done(&["logs", name, "-n", "0"])
    }

    /// All lines that were kept, of all machines and boots, with these words in them.
    pub fn lines_with(&mut self, words: &str) -> Result<Vec<String>> {
        let names: Vec<String> = self.names().map(str::to_owned).collect();
        names.iter().try_for_each(|name| self.keep_log(name))?;
        let mut found = Vec::new();
        for folder in fs::read_dir(self.dir())?.flatten().map(|entry| entry.path()) {
            for log in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if !name.starts_with("agent-") {
                    continue;
                }
                let text = fs::read_to_string(&log)?;
                let lines = text.lines().filter(|line| line.contains(words));
                found.extend(lines.map(|line| format!("{}: {line}", log.display())));
            }
        }
        Ok(found)
    }

    /// Names the folder in a failure, and keeps every log there.
    pub fn explain<T>(&mut self, result: Result<T>) -> Result<T> {
        let error = match result {
            Ok(told) => return Ok(told),
            Err(error) => error,
        };
        let names: Vec<String> = self.names().map(str::to_owned).collect();
        for name in names {
            // Who does not answer has its console there.
            let _ = self.keep_log(&name);
        }
        if let Ok(state) = self.network().and_then(|mut network| Ok(network.show()?)) {
            let _ = fs::write(self.dir().join("network.txt"), format!("{state:#?}"));
        }
        Err(error.context(format!("logs of all machines in {}", self.dir().display())))
    }

    /// The test passed: disks may go, logs stay.
    pub fn passed(self) {
        let dir = self.dir().to_owned();
        drop(self);
        for machine in fs::read_dir(dir).into_iter().flatten().flatten() {
            let _ = fs::remove_file(machine.path().join("disk.raw"));
        }
    }
}
