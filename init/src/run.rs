//! The one loop of stage 2: reap, start again, relay, ping the watchdog, obey.

use crate::bless::Esp;
use crate::log::{self, Level};
use crate::modules::Modules;
use crate::network::Network;
use crate::record::BootRecord;
use crate::sandbox::Backing;
use crate::service::Service;
use crate::shutdown::{self, How};
use crate::state::{State, Task};
use crate::supervise::{AgentPolicy, HealthJudge, Next, Trial, TrialStep, Verdict, WorkloadPolicy};
use crate::watchdog::Pings;
use crate::{clock, state};
use pillar_layout::{console, request};
use pillar_model::WorkloadState;
use pillar_os::{Signal, Signals, UeventSocket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Gid, Uid, chown};
use rustix::process::{WaitOptions, WaitStatus, wait};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// The loop looks around at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Requests are one short word.
const REQUEST_MAX_BYTES: usize = 32;
/// Ends that are reaped in one go.
const REAPED_AT_ONCE: usize = 256;

/// The workload with its prober.
#[derive(Debug)]
pub struct WorkloadUnit {
    /// The workload itself.
    pub service: Service,
    /// Its health prober.
    pub prober: Service,
    /// Restarts.
    pub policy: WorkloadPolicy,
    /// Health.
    pub judge: HealthJudge,
    /// Failed checks in a row that make it unhealthy.
    pub failures: u32,
    /// Its writable directories.
    pub writable: Vec<String>,
}

/// Everything that stage 2 looks after.
pub struct Machine {
    /// What the agent is told.
    pub record: BootRecord,
    /// Signals.
    pub signals: Signals,
    /// Devices that come.
    pub events: UeventSocket,
    /// The agent's requests.
    pub requests: UnixDatagram,
    /// Watchdog.
    pub pings: Option<Pings>,
    /// Modules.
    pub modules: Modules,
    /// The state volume.
    pub state: State,
    /// Network cards.
    pub network: Network,
    /// The network program, which is started when something asks for it.
    pub network_program: Service,
    /// Its restarts: it is never given up, as the workload is not.
    pub network_policy: WorkloadPolicy,
    /// The EFI system partition.
    pub esp: Esp,
    /// The agent.
    pub agent: Service,
    /// Its restarts.
    pub agent_policy: AgentPolicy,
    /// The workload, when the image has one.
    pub workload: Option<WorkloadUnit>,
    /// Trial or blessed.
    pub trial: Trial,
    /// The machine is shutting down: what ends now is meant to.
    pub ending: bool,
}

impl Machine {
    /// Runs until a shutdown, which does not come back.
    pub fn run(mut self) -> ! {
        loop {
            let how = match self.turn() {
                Ok(None) => continue,
                Ok(Some(how)) => how,
                Err(why) => crate::fatal::fatal(&why),
            };
            shutdown::shut_down(self, how)
        }
    }

    /// One turn: what is due, then wait, then what came.
    fn turn(&mut self) -> Result<Option<How>, String> {
        if let Some(pings) = &mut self.pings {
            pings.ping_if_due();
        }
        self.start_what_is_due()?;
        if let Some(how) = self.trial_step() {
            return Ok(Some(how));
        }
        self.wait()?;
        self.relay();
        self.take_events();
        self.reap()?;
        if let Some(how) = self.take_request() {
            return Ok(Some(how));
        }
        Ok(self.take_signal())
    }

    /// Waits until something can be read or is due.
    pub fn wait(&self) -> Result<(), String> {
        let now = clock::now();
        let due = [
            self.pings.as_ref().map(Pings::due),
            self.agent.start_at,
            self.network_program.start_at,
            self.workload.as_ref().and_then(|unit| unit.service.start_at),
            self.workload.as_ref().and_then(|unit| unit.prober.start_at),
            self.trial.due(),
        ];
        let due = due.into_iter().flatten().min().map_or(LONGEST_WAIT, |due| due.saturating_sub(now));
        self.wait_at_most(due.min(LONGEST_WAIT))
    }

    /// Waits until something can be read, for this long at most.
    pub fn wait_at_most(&self, time: Duration) -> Result<(), String> {
        let fixed = [self.signals.as_fd(), self.events.as_fd(), self.requests.as_fd()];
        let mut fds: Vec<PollFd<'_>> = fixed
            .into_iter()
            .chain(self.services().filter_map(Service::fd))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, Some(&clock::timespec(time))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(format!("cannot wait for events: {errno}")),
        }
    }

    fn services(&self) -> impl Iterator<Item = &Service> {
        let unit = self.workload.iter().flat_map(|unit| [&unit.service, &unit.prober]);
        [&self.agent, &self.network_program].into_iter().chain(unit)
    }

    fn start_what_is_due(&mut self) -> Result<(), String> {
        let now = clock::now();
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        // The workload first: it is what everybody waits for, and the agent takes longer.
        if self.workload.as_ref().is_some_and(|unit| due(unit.service.start_at)) {
            self.start_workload();
        }
        if self.workload.as_ref().is_some_and(|unit| due(unit.prober.start_at)) {
            self.start_prober();
        }
        if due(self.network_program.start_at)
            && let Err(error) = self.network_program.start()
        {
            self.network_ended(&log::chain(&error));
        }
        if due(self.agent.start_at) {
            self.start_agent()?;
        }
        Ok(())
    }

    fn start_agent(&mut self) -> Result<(), String> {
        self.record.change(|boot| boot.agent_starts = boot.agent_starts.saturating_add(1));
        match self.agent.start() {
            Ok(()) => Ok(()),
            Err(error) => {
                let why = log::chain(&error);
                log::warn(&format!("agent: {why}"));
                self.agent_ended(&why)
            }
        }
    }

    fn start_workload(&mut self) {
        let Some(unit) = &mut self.workload else { return };
        let started = make_writable(&unit.writable)
            .map_err(|error| format!("cannot make its writable directories: {error}"))
            .and_then(|()| unit.service.start().map_err(|error| log::chain(&error)));
        unit.judge = HealthJudge::new(unit.failures, clock::now());
        match started {
            Ok(()) => {
                unit.prober.start_at = Some(clock::now());
                self.set_workload(WorkloadState::Starting, "no health check passed yet");
            }
            Err(why) => {
                log::warn(&format!("workload: {why}"));
                self.workload_ended(&why);
            }
        }
    }

    fn start_prober(&mut self) {
        let Some(unit) = &mut self.workload else { return };
        if let Err(error) = unit.prober.start() {
            log::warn(&format!("health prober: {}", log::chain(&error)));
            unit.prober.start_at = Some(clock::now() + Duration::from_secs(1));
        }
    }

    fn set_workload(&mut self, state: WorkloadState, reason: &str) {
        self.record.change(|boot| {
            boot.workload.state = state;
            reason.clone_into(&mut boot.workload.reason);
        });
    }

    /// Passes children's output on and takes the prober's reports.
    pub fn relay(&mut self) {
        self.agent.read();
        self.network_program.read();
        let Some(unit) = &mut self.workload else { return };
        unit.service.read();
        for (_, report) in unit.prober.take_lines() {
            self.take_report(&report);
        }
    }

    fn take_report(&mut self, report: &str) {
        let Some(unit) = self.workload.as_mut().filter(|unit| unit.service.runs()) else { return };
        let why = report.strip_prefix("fail ");
        let verdict = unit.judge.report(report == "ok", clock::now());
        match (verdict, why) {
            (Verdict::Now(WorkloadState::Healthy), _) => self.healthy(),
            (Verdict::Now(state), why) => {
                let why = why.unwrap_or(report);
                log::warn(&format!("workload unhealthy: {why}"));
                self.set_workload(state, why);
            }
            (Verdict::Kill, _) => {
                log::warn("workload killed, it stayed unhealthy");
                unit.service.kill();
            }
            (Verdict::Same, _) => {}
        }
    }

    fn healthy(&mut self) {
        let phases = &self.record.get().phases;
        if !phases.iter().any(|phase| phase.name == WORKLOAD_HEALTHY_PHASE) {
            let tpm = self.record.get().tpm.clone();
            self.record.reached(WORKLOAD_HEALTHY_PHASE, &tpm);
            log::notice(console::WORKLOAD_HEALTHY);
            tell_resident_memory();
            // The agent's head wait is over, if it had one left.
            self.agent.start_at = self.agent.start_at.map(|at| at.min(clock::now()));
        } else {
            log::info("workload healthy again");
        }
        self.set_workload(WorkloadState::Healthy, "");
    }

    /// Loads modules for devices that came, and sets cards that did.
    fn take_events(&mut self) {
        loop {
            match self.events.next() {
                Ok(Some(event)) if event.action == "add" => {
                    if let Some(modalias) = event.modalias {
                        self.modules.load_for_device(&modalias);
                    }
                    if event.subsystem == "net" {
                        self.set_new_cards();
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                // Events were lost: look at everything.
                Err(_) => return self.modules.load_for_all_devices(),
            }
        }
    }

    /// Sets the cards that came; the first one that wants DHCP has the network program started.
    fn set_new_cards(&mut self) {
        let wanted = self.network.wants_dhcp();
        self.network.set_new_cards();
        if !wanted && self.network.wants_dhcp() && !self.network_program.runs() {
            self.network_program.start_at = Some(clock::now());
        }
    }

    /// Takes in all processes that ended, ours and orphans.
    pub fn reap(&mut self) -> Result<(), String> {
        for _ in 0..REAPED_AT_ONCE {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else { break };
            self.reaped(pid.as_raw_nonzero().get().unsigned_abs(), &describe(status))?;
        }
        Ok(())
    }

    fn reaped(&mut self, pid: u32, how: &str) -> Result<(), String> {
        if self.agent.is(pid) {
            return self.agent_ended(how);
        }
        if self.network_program.is(pid) {
            self.network_ended(how);
            return Ok(());
        }
        let Some(unit) = &mut self.workload else { return Ok(()) };
        if unit.service.is(pid) {
            self.workload_ended(how);
        } else if unit.prober.is(pid) {
            unit.prober.ended();
            if unit.service.runs() {
                unit.prober.start_at = Some(clock::now() + Duration::from_secs(1));
            }
        }
        Ok(())
    }

    fn agent_ended(&mut self, how: &str) -> Result<(), String> {
        let ran = self.agent.ended();
        if self.ending {
            return Ok(());
        }
        log::warn(&format!("agent {how} after {} s", ran.as_secs()));
        match self.agent_policy.ended(ran) {
            Next::StartIn(pause) => {
                self.agent.start_at = Some(clock::now() + pause);
                Ok(())
            }
            Next::GiveUp => Err(format!("the agent died too often, at last it {how}")),
        }
    }

    /// What it leased stays for as long as the lease lasts: the kernel keeps the time.
    fn network_ended(&mut self, how: &str) {
        let ran = self.network_program.ended();
        if self.ending {
            return;
        }
        let pause = self.network_policy.ended(ran);
        log::warn(&format!("network program {how} after {} s", ran.as_secs()));
        self.network_program.start_at = Some(clock::now() + pause);
    }

    fn workload_ended(&mut self, how: &str) {
        let Some(unit) = &mut self.workload else { return };
        let ran = unit.service.ended();
        unit.prober.kill();
        unit.prober.start_at = None;
        if self.ending {
            return;
        }
        let pause = unit.policy.ended(ran);
        unit.service.start_at = Some(clock::now() + pause);
        log::warn(&format!(
            "workload {how} after {} s, starts again in {} ms",
            ran.as_secs(),
            pause.as_millis()
        ));
        self.set_workload(WorkloadState::Restarting, how);
        self.record.change(|boot| boot.workload.restarts = boot.workload.restarts.saturating_add(1));
    }

    /// One word a datagram; anything else is only worth a record.
    fn take_request(&mut self) -> Option<How> {
        let mut buffer = [0; REQUEST_MAX_BYTES];
        let bytes = self.requests.recv(&mut buffer).ok()?;
        match std::str::from_utf8(buffer.get(..bytes)?) {
            Ok(request::REBOOT) => Some(How::Reboot),
            Ok(request::POWER_OFF) => Some(How::PowerOff),
            Ok(request::RECOVER) => self.recover(),
            Ok(request::ERASE) => Some(How::Erase),
            other => {
                log::warn(&format!("unknown request {other:?}"));
                None
            }
        }
    }

    /// Seals the state volume anew; the next boot opens it. When that fails, the machine goes on as it is.
    fn recover(&mut self) -> Option<How> {
        if self.state.is_mounted() {
            log::warn("recovery asked for, and the state volume is open");
            return None;
        }
        match self.state.run(Task::Recover, &mut self.pings) {
            Ok(()) => Some(How::Reboot),
            Err(why) => {
                log::warn(&format!("recovery failed: {why}"));
                None
            }
        }
    }

    fn take_signal(&mut self) -> Option<How> {
        while let Ok(Some(signal)) = self.signals.next() {
            match signal {
                // Ctrl-Alt-Del, and what a person would try.
                Signal::SIGINT | Signal::SIGTERM => return Some(How::Reboot),
                Signal::SIGUSR2 | Signal::SIGPWR => return Some(How::PowerOff),
                _ => {}
            }
        }
        None
    }

    fn trial_step(&mut self) -> Option<How> {
        let boot = self.record.get();
        let well =
            self.agent.runs() && matches!(boot.workload.state, WorkloadState::Healthy | WorkloadState::None);
        let version = boot.version.clone();
        match self.trial.step(clock::now(), well)? {
            TrialStep::Look => match self.esp.is_trial(&mut self.modules, &version) {
                Ok(true) => self.trial = Trial::Counted { well_since: None },
                Ok(false) => {
                    self.trial_over(false);
                    self.commit();
                }
                Err(error) => {
                    log::warn(&format!("cannot tell whether this is a trial boot: {}", log::chain(&error)));
                    self.trial = Trial::Over;
                }
            },
            TrialStep::Bless => match self.esp.bless(&mut self.modules, &version) {
                Ok(()) => {
                    self.trial_over(false);
                    self.commit();
                }
                Err(error) => {
                    log::write(Level::Error, &format!("cannot bless this boot: {}", log::chain(&error)));
                    self.trial = Trial::Over;
                }
            },
            TrialStep::Fail => {
                log::write(Level::Error, "trial boot not healthy in time, rebooting");
                return Some(How::Reboot);
            }
        }
        None
    }

    /// This image is good: from now on none of an older security epoch opens the state volume.
    fn commit(&mut self) {
        if self.state.can_commit()
            && let Err(why) = self.state.run(Task::Commit, &mut self.pings)
        {
            log::warn(&format!("minimum security epoch not raised: {why}"));
        }
    }

    fn trial_over(&mut self, trial: bool) {
        self.trial = Trial::Over;
        self.record.change(|boot| boot.trial = trial);
    }
}

/// Name of the phase in the record; not extended into any PCR.
const WORKLOAD_HEALTHY_PHASE: &str = "workload-healthy";

/// Says what init itself occupies, for whoever watches the console.
fn tell_resident_memory() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    if let Some(kib) = resident {
        log::notice(&format!("{}{kib} KiB", console::RESIDENT));
    }
}

/// How a process ended, in words.
pub fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Gives the workload its writable directories: those that are kept as they are, the others empty.
fn make_writable(directories: &[String]) -> io::Result<()> {
    for (index, directory) in directories.iter().enumerate() {
        match Backing::of(index, directory) {
            Backing::Kept(path) => state::make_workload_directory(&path)?,
            Backing::Passing(path) => make_empty(&path)?,
        }
    }
    Ok(())
}

fn make_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(directory)?;
    let id = pillar_layout::user::WORKLOAD;
    chown(directory, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    Ok(())
}
