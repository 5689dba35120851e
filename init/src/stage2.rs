//! Stage 2, on the sealed root: everything ready, then the agent and the workload.

use crate::bless::Esp;
use crate::measure::Measurer;
use crate::modules::Modules;
use crate::network::Network;
use crate::record::{BootRecord, Handover};
use crate::run::{Machine, WorkloadUnit};
use crate::service::Service;
use crate::settings::{self, Settings, Source};
use crate::state::State;
use crate::supervise::{AgentPolicy, HealthJudge, Trial, WorkloadPolicy};
use crate::watchdog::Pings;
use crate::{cgroup, clock, files, health, installer, log, mounts, network, plan, sandbox};
use anyhow::Context as _;
use pillar_layout::{ESP_NODE, console, phase, root, run, user};
use pillar_model::WorkloadState;
use pillar_os::{Signal, Signals, UeventSocket};
use rustix::fs::{Gid, Mode, Uid, chmod, chown};
use rustix::system::sethostname;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// The agent starts when the workload is healthy or after this time: on a machine with one CPU the two would only hinder
/// each other (IMA alone reads and hashes the whole agent), and it is the workload that the machine is there for.
const AGENT_WAIT: Duration = Duration::from_secs(2);
const TPM: &str = "/dev/tpmrm0";

/// Runs the stage, then the loop; returns only when it failed.
pub fn run() -> anyhow::Result<Infallible> {
    log::open().context("cannot open the kernel log")?;
    let Handover { boot, disk, esp, records, watchdog } =
        Handover::take().context("nothing handed over by stage 1")?;
    let mut measurer = Measurer::open(records, Some(boot.tpm.clone()));
    let mut record = BootRecord::new(boot);
    measurer.phase(phase::SYSINIT);
    record.reached(phase::SYSINIT, measurer.state());

    let signals = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR2, Signal::SIGPWR];
    let signals = Signals::block(&signals).context("cannot take signals")?;
    if let Err(error) = pillar_os::take_ctrl_alt_del() {
        log::warn(&format!("cannot take Ctrl-Alt-Del: {error}"));
    }
    mounts::mount_all(&plan::LATE)?;
    mounts::set_sysctls(&plan::SYSCTLS);
    cgroup::enable().context("cannot use control groups")?;

    let events = UeventSocket::open().context("cannot listen for devices")?;
    let mut modules = Modules::open(&record.get().kernel);
    modules.load_list(root::ROOT_MODULES);
    modules.load_for_all_devices();
    let pings = Pings::arm(&mut modules, watchdog);
    record.reached("devices-ready", measurer.state());
    if installer::is_here() {
        return installer::run(&signals, &events, &mut modules, pings);
    }

    let esp = Esp { disk, number: esp };
    let settings = node_settings(&mut measurer, &esp, &mut modules);
    record.change(|boot| {
        if let Some(name) = &settings.name {
            boot.name = name.to_string();
        }
    });
    if let Err(errno) = sethostname(record.get().name.as_bytes()) {
        log::warn(&format!("cannot set the host name: {errno}"));
    }
    network::loopback_up();
    network::write_name_servers(&settings.dns);
    let mut network = Network::new(settings);
    network.set_new_cards();

    let mut pings = pings;
    let state = State::open(&esp.disk, &mut modules, &mut measurer, &mut pings);
    record.reached("state-volume", measurer.state());

    give_to_agent(TPM, 0o660, false);
    mounts::make_directory(run::AGENT).context(run::AGENT)?;
    give_to_agent(run::AGENT, 0o700, true);
    let requests = UnixDatagram::bind(run::INIT_SOCKET).context(run::INIT_SOCKET)?;
    requests.set_nonblocking(true).context(run::INIT_SOCKET)?;
    give_to_agent(run::INIT_SOCKET, 0o600, true);
    let agent = cgroup::make("agent", &sandbox::agent_limits()).context("cannot make the agent's group")?;
    let networker = cgroup::make("network", &sandbox::network_limits())
        .context("cannot make the network program's group")?;
    let networker = sandbox::network(network.settings(), networker);
    let workload = workload_unit(&mut record, &state)?;

    measurer.phase(phase::READY);
    record.reached(phase::READY, measurer.state());
    drop(measurer);
    log::notice(console::READY);
    let agent_start =
        clock::now() + if workload.is_some() && state.is_mounted() { AGENT_WAIT } else { Duration::ZERO };
    // An address is what everybody waits for; the time is not.
    let network_start = match (network.wants_dhcp(), network.wants_time()) {
        (true, _) => Some(clock::now()),
        (false, wants_time) => wants_time.then_some(agent_start),
    };
    Machine {
        record,
        signals,
        events,
        requests,
        pings,
        modules,
        state,
        network,
        network_program: Service::new("network: ", networker, network_start),
        network_policy: WorkloadPolicy::default(),
        esp,
        agent: Service::new("agent: ", sandbox::agent(agent), Some(agent_start)),
        agent_policy: AgentPolicy::default(),
        workload,
        trial: Trial::Unknown,
        ending: false,
    }
    .run()
}

/// Reads the node settings, measures them, then takes what is valid.
fn node_settings(measurer: &mut Measurer, esp: &Esp, modules: &mut Modules) -> Settings {
    let text = match settings::from_fw_cfg() {
        Source::FwCfg(text) => text,
        Source::Esp => esp
            .with(modules, false, |directory| Ok(settings::read(&directory.join(ESP_NODE))))
            .inspect_err(|error| log::warn(&format!("node settings ignored: {}", log::chain(error))))
            .unwrap_or_default(),
    };
    let Some(text) = text else { return Settings::default() };
    if !measurer.node_settings(&text) {
        log::warn("node settings ignored: they could not be measured");
        return Settings::default();
    }
    let (settings, warnings) = Settings::parse(&text);
    for warning in warnings {
        log::warn(&format!("node settings: {warning}; ignored"));
    }
    let written = serde_json::to_vec(&settings.to_node())
        .map_err(io::Error::from)
        .and_then(|json| files::replace(Path::new(run::NODE), user::AGENT, &json));
    if let Err(error) = written {
        log::warn(&format!("cannot write {}: {error}", run::NODE));
    }
    settings
}

/// Lets the agent use a node; without it the agent says itself what it lacks.
fn give_to_agent(path: &str, mode: u32, owner: bool) {
    let uid = owner.then(|| Uid::from_raw(user::AGENT));
    match chown(path, uid, Some(Gid::from_raw(user::AGENT)))
        .and_then(|()| chmod(path, Mode::from_raw_mode(mode)))
    {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => log::warn(&format!("cannot give {path} to the agent: {errno}")),
    }
}

/// The workload that the image carries.
fn workload_unit(record: &mut BootRecord, volume: &State) -> anyhow::Result<Option<WorkloadUnit>> {
    let Some(workload) = health::read_workload().context(root::WORKLOAD)? else {
        log::info("this image carries no workload");
        return Ok(None);
    };
    let group = cgroup::make("workload", &workload.limits).context("cannot make the workload's group")?;
    let probers =
        cgroup::make("prober", &sandbox::prober_limits()).context("cannot make the prober's group")?;
    let child = sandbox::workload(&workload, group).context("the workload has no command")?;
    // It starts when the workload has.
    let prober = Service::new("health: ", sandbox::prober(&workload, probers), None);
    record.change(|boot| {
        workload.name.clone_into(&mut boot.workload.name);
        boot.workload.state = WorkloadState::Starting;
        if !volume.is_mounted() {
            boot.workload.state = WorkloadState::Stopped;
            boot.workload.reason = format!("its state volume is not there: {}", volume.why_not());
        }
    });
    Ok(Some(WorkloadUnit {
        service: Service::new("workload: ", child, volume.is_mounted().then(clock::now)),
        prober,
        policy: WorkloadPolicy::default(),
        judge: HealthJudge::new(workload.health.failures, clock::now()),
        failures: workload.health.failures,
        writable: workload.writable,
    }))
}
