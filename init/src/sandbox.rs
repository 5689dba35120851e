//! What each child is allowed, as data: agent, workload, health prober.

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
/// Places of the workload's view that become private, empty and (but for what is shown in them) read-only.
const PRIVATE: [&str; 5] = ["/run", "/tmp", "/dev", "/sys/kernel", "/sys/firmware"];

/// Limits of the agent, far above what it needs.
pub fn agent_limits() -> Limits {
    Limits { memory_mib: 128, processes: 64, cpu_percent: 0, open_files: 1024 }
}

/// Limits of what opens the state volume: libcryptsetup and the header in memory.
pub fn state_limits() -> Limits {
    Limits { memory_mib: 256, processes: 16, cpu_percent: 0, open_files: 256 }
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

fn view(writable: &[String]) -> Vec<MountStep> {
    let mut steps: Vec<MountStep> = PRIVATE
        .iter()
        .map(|at| MountStep::Tmpfs { at: at.into(), options: "mode=0755,size=64k,nr_inodes=64".to_owned() })
        .collect();
    steps.push(MountStep::Proc { at: "/proc".into() });
    steps.extend(DEVICES.iter().map(|node| MountStep::Bind { from: node.into(), to: node.into() }));
    steps.extend(writable.iter().enumerate().map(|(index, to)| MountStep::Bind {
        from: Backing::of(index, to).path().to_owned(),
        to: to.into(),
    }));
    let read_only = PRIVATE.iter().chain(&["/sys"]).filter(|at| !writable.iter().any(|to| to == *at));
    steps.extend(read_only.map(|at| MountStep::ReadOnly { at: at.into() }));
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
