//! What each child is allowed, as data: agent, workload, health prober.

use crate::settings::Settings;
use pillar_layout::{root, run, user};
use pillar_os::{CapabilitySet, Child, Identity, MountStep, Output};
use pillar_workload::{Limits, Workload};
use rustix::process::Resource;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Ports below need a capability.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// Directories of the workload below these are empty at each start; all others are kept.
const PASSING: [&str; 2] = ["/run", "/tmp"];
/// Device nodes in the workload's `/dev`.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Options of a tmpfs that only holds mount points.
const NOTHING: &str = "mode=0755,size=64k,nr_inodes=64";
/// Places of a child's own view that become private, empty and (but for what is shown in them) read-only.
const PRIVATE: [&str; 5] = ["/run", "/tmp", "/dev", "/sys/kernel", "/sys/firmware"];

/// Limits of the agent, far above what it needs.
pub fn agent_limits() -> Limits {
    Limits { memory_mib: 128, processes: 64, cpu_percent: 0, open_files: 1024 }
}

/// Limits of what opens the state volume: libcryptsetup and the header in memory.
pub fn state_limits() -> Limits {
    Limits { memory_mib: 256, processes: 16, cpu_percent: 0, open_files: 256 }
}

/// Limits of the network program: two threads, small packets, one TLS connection at a time.
pub fn network_limits() -> Limits {
    Limits { memory_mib: 32, processes: 8, cpu_percent: 0, open_files: 64 }
}

/// Limits of the prober, which shares them with the commands that it runs.
pub fn prober_limits() -> Limits {
    Limits { memory_mib: 64, processes: 16, cpu_percent: 0, open_files: 256 }
}

/// The agent: reads what belongs to others (event logs, boot record) and the kernel log, nothing more.
pub fn agent(cgroup: PathBuf) -> Child {
    Child {
        program: root::AGENT.into(),
        name: None,
        arguments: Vec::new(),
        // libtss2 would print its own warnings beside the agent's errors, which say more.
        environment: vec![("TSS2_LOG".to_owned(), "all+NONE".to_owned())],
        directory: "/".into(),
        cgroup,
        view: Vec::new(),
        limits: limits(&agent_limits()),
        identity: Identity {
            id: user::AGENT,
            capabilities: CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYSLOG,
        },
        output: Output::Both,
    }
}

/// The workload.
pub fn workload(workload: &Workload, cgroup: PathBuf) -> Option<Child> {
    let (program, arguments) = workload.command.split_first()?;
    let privileged = workload.ports.iter().any(|port| *port < FIRST_UNPRIVILEGED_PORT);
    let capabilities = if privileged { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() };
    Some(Child {
        program: Path::new(root::WORKLOAD_FILES).join(program),
        name: Some(program.clone()),
        arguments: arguments.iter().map(Into::into).collect(),
        environment: workload.environment.clone().into_iter().collect(),
        directory: root::WORKLOAD_FILES.into(),
        cgroup,
        view: view(&workload.writable),
        limits: limits(&workload.limits),
        identity: Identity { id: user::WORKLOAD, capabilities },
        output: Output::Both,
    })
}

/// The health prober: sees what the workload sees.
pub fn prober(workload: &Workload, cgroup: PathBuf) -> Child {
    Child {
        program: root::INIT.into(),
        name: None,
        arguments: vec!["probe".into()],
        environment: workload.environment.clone().into_iter().collect(),
        directory: root::WORKLOAD_FILES.into(),
        cgroup,
        view: view(&workload.writable),
        limits: limits(&prober_limits()),
        identity: Identity { id: user::WORKLOAD, capabilities: CapabilitySet::empty() },
        output: Output::Out,
    }
}

/// The network program: parses what strangers send, so it is nobody else, sees its own folder and no other's, and may set
/// addresses and the clock, bind the port of DHCP and see packets before there are addresses. Nothing more.
pub fn network(settings: &Settings, cgroup: PathBuf) -> Child {
    let mut view = base_view();
    view.push(MountStep::Tmpfs { at: root::STATE_MOUNT.into(), options: NOTHING.to_owned() });
    view.push(MountStep::Bind { from: run::NETWORK.into(), to: run::NETWORK.into() });
    let covered = PRIVATE.iter().chain(&["/sys", root::STATE_MOUNT]);
    view.extend(covered.map(|at| MountStep::ReadOnly { at: at.into() }));
    Child {
        program: root::NETWORK.into(),
        name: None,
        arguments: network_arguments(settings).into_iter().map(Into::into).collect(),
        environment: Vec::new(),
        directory: "/".into(),
        cgroup,
        view,
        limits: limits(&network_limits()),
        identity: Identity {
            id: user::NETWORK,
            capabilities: CapabilitySet::NET_ADMIN
                | CapabilitySet::NET_RAW
                | CapabilitySet::NET_BIND_SERVICE
                | CapabilitySet::SYS_TIME,
        },
        output: Output::Both,
    }
}

fn network_arguments(settings: &Settings) -> Vec<String> {
    let all = settings.cards.is_empty().then(|| "all".to_owned());
    let cards = settings.cards.iter().filter(|card| card.dhcp).map(|card| card.card.to_string());
    let mut pairs: Vec<(&str, String)> = Vec::new();
    pairs.extend(settings.name.iter().map(|name| ("--name", name.to_string())));
    pairs.extend(all.into_iter().chain(cards).map(|card| ("--dhcp", card)));
    pairs.extend(settings.dns.iter().map(|server| ("--dns", server.to_string())));
    pairs.extend(settings.time.iter().map(|server| ("--time", server.to_string())));
    pairs.extend(settings.no_time.then(|| ("--time", "-".to_owned())));
    pairs.into_iter().flat_map(|(word, value)| [word.to_owned(), value]).collect()
}

/// `pillar-state`: root, for device-mapper, mounts and the partition; nothing else is open to it.
pub fn state(cgroup: PathBuf, arguments: Vec<OsString>) -> Child {
    Child {
        program: root::STATE.into(),
        name: None,
        arguments,
        environment: Vec::new(),
        directory: "/".into(),
        cgroup,
        view: Vec::new(),
        limits: vec![(Resource::Core, 0)],
        identity: Identity {
            id: 0,
            capabilities: CapabilitySet::SYS_ADMIN
                | CapabilitySet::SYS_RESOURCE
                | CapabilitySet::MKNOD
                | CapabilitySet::IPC_LOCK
                | CapabilitySet::CHOWN
                | CapabilitySet::DAC_OVERRIDE,
        },
        output: Output::Both,
    }
}

/// Where a writable directory of the workload is: on the state volume, but for those that programs expect to be empty when
/// they start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// On tmpfs, emptied at each start.
    Passing(PathBuf),
    /// On the state volume, by its own path, so that an update that names other directories finds its own again.
    Kept(PathBuf),
}

impl Backing {
    /// For the directory of that number and path.
    pub fn of(index: usize, path: &str) -> Self {
        if PASSING.iter().any(|top| Path::new(path).starts_with(top)) {
            return Self::Passing(Path::new(run::WORKLOAD).join(index.to_string()));
        }
        let below = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path));
        Self::Kept(Path::new(root::STATE_MOUNT).join("workload").join(below))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Passing(path) | Self::Kept(path) => path,
        }
    }
}

fn limits(limits: &Limits) -> Vec<(Resource, u64)> {
    vec![(Resource::Core, 0), (Resource::Nofile, limits.open_files), (Resource::Memlock, 64 << 10)]
}

/// What the workload and its prober see: name servers are looked up in the network program's folder.
fn view(writable: &[String]) -> Vec<MountStep> {
    let mut steps = base_view();
    steps.extend(writable.iter().enumerate().map(|(index, to)| MountStep::Bind {
        from: Backing::of(index, to).path().to_owned(),
        to: to.into(),
    }));
    steps.push(MountStep::Bind { from: run::NETWORK.into(), to: run::NETWORK.into() });
    let read_only = PRIVATE.iter().chain(&["/sys"]).filter(|at| !writable.iter().any(|to| to == *at));
    steps.extend(read_only.map(|at| MountStep::ReadOnly { at: at.into() }));
    steps
}

/// Private places, processes of one's own, a few devices; nothing is read-only yet.
fn base_view() -> Vec<MountStep> {
    let private = |at: &&str| MountStep::Tmpfs { at: at.into(), options: NOTHING.to_owned() };
    let mut steps: Vec<MountStep> = PRIVATE.iter().map(private).collect();
    steps.push(MountStep::Proc { at: "/proc".into() });
    steps.extend(DEVICES.iter().map(|node| MountStep::Bind { from: node.into(), to: node.into() }));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_workload::{Check, Health};
    use std::collections::BTreeMap;

    fn sample(ports: &[u16]) -> Workload {
        Workload {
            name: "hello".to_owned(),
            command: vec!["hello".to_owned(), "--port".to_owned()],
            environment: BTreeMap::new(),
            health: Health { check: Check::Tcp { port: 1 }, interval_ms: 1, timeout_ms: 1, failures: 1 },
            ports: ports.to_vec(),
            limits: Limits::default(),
            writable: vec!["/tmp".to_owned(), "/run/data".to_owned()],
        }
    }

    #[test]
    fn a_low_port_is_the_only_reason_for_a_capability() {
        let capabilities =
            |ports: &[u16]| workload(&sample(ports), PathBuf::new()).map(|child| child.identity.capabilities);
        assert_eq!(capabilities(&[8080, 1024]), Some(CapabilitySet::empty()));
        assert_eq!(capabilities(&[8080, 80]), Some(CapabilitySet::NET_BIND_SERVICE));
    }

    #[test]
    fn what_the_network_program_is_told() {
        let told = |text: &str| network_arguments(&Settings::parse(text).0).join(" ");
        assert_eq!(told("{}"), "--dhcp all");
        assert_eq!(
            told(r#"{"address":"10.0.0.1/24","time":["a.b","fd00::1"]}"#),
            "--time a.b --time fd00::1"
        );
        // A server that is not understood is not replaced by one that DHCP names.
        assert_eq!(told(r#"{"time":["nts://a.b"]}"#), "--dhcp all --time -");
        assert_eq!(told(r#"{"time":["nts://a.b","a.b"]}"#), "--dhcp all --time -");
        let server = format!("nts://a.b:4460#sha256:{}", "0a".repeat(32));
        let nts = format!(r#"{{"address":"10.0.0.1/24","time":["{server}"]}}"#);
        assert_eq!(told(&nts), format!("--time {server}"));
        let cards = r#"{"name":"p1","networks":[{"card":"1"},{"card":"2","dhcp":true}],"dns":["10.0.0.1"]}"#;
        assert_eq!(told(cards), "--name p1 --dhcp 2 --dns 10.0.0.1");
    }

    #[test]
    fn the_network_program_sees_its_own_folder_alone() {
        let child = network(&Settings::default(), PathBuf::new());
        let shown: Vec<_> = child
            .view
            .iter()
            .filter_map(|step| match step {
                MountStep::Bind { to, .. } if !to.starts_with("/dev") => Some(to.as_path()),
                _ => None,
            })
            .collect();
        assert_eq!(shown, [Path::new("/run/network")]);
        assert!(child.view.contains(&MountStep::ReadOnly { at: root::STATE_MOUNT.into() }));
        assert!(!child.identity.capabilities.contains(CapabilitySet::SYS_ADMIN));
    }

    #[test]
    fn program_is_relative_to_the_workload_unless_absolute() {
        let mut sample = sample(&[]);
        let program = |w: &Workload| workload(w, PathBuf::new()).map(|child| child.program);
        assert_eq!(program(&sample), Some("/usr/lib/pillar/workload/hello".into()));
        sample.command = vec!["/usr/bin/x".to_owned()];
        assert_eq!(program(&sample), Some("/usr/bin/x".into()));
        sample.command.clear();
        assert_eq!(program(&sample), None);
    }

    #[test]
    fn nothing_is_read_only_before_it_is_filled_and_writable_places_stay_writable() {
        let steps = view(&sample(&[]).writable);
        let first_read_only = steps.iter().position(|s| matches!(s, MountStep::ReadOnly { .. }));
        let last_bind = steps.iter().rposition(|s| matches!(s, MountStep::Bind { .. }));
        assert!(last_bind < first_read_only);
        assert!(!steps.contains(&MountStep::ReadOnly { at: "/tmp".into() }));
        assert!(steps.contains(&MountStep::ReadOnly { at: "/run".into() }));
        assert!(steps.contains(&MountStep::Bind { from: "/run/workload/1".into(), to: "/run/data".into() }));
        let kept = view(&["/var/lib/data".to_owned()]);
        let from = "/var/lib/pillar/workload/var/lib/data".into();
        assert!(kept.contains(&MountStep::Bind { from, to: "/var/lib/data".into() }));
    }
}
