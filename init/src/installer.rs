//! An installer's stage 2: one child, the installer, instead of agent and workload; when it ends, the machine powers off.
//! Devices that come meanwhile get their modules, the watchdog is pinged: a machine that hangs is reset and boots the
//! installer again, which finds a disk without a partition table or with the whole image.

use crate::log::{self, Level};
use crate::modules::Modules;
use crate::run::describe;
use crate::service::Service;
use crate::watchdog::Pings;
use crate::{cgroup, clock, disk};
use anyhow::Context as _;
use pillar_layout::root;
use pillar_os::{CapabilitySet, Child, Identity, Output, Signals, UeventSocket};
use pillar_workload::Limits;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, WaitOptions, wait};
use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The loop looks around at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The watchdog's time for the end.
const WATCHDOG_TIME: Duration = Duration::from_secs(30);
/// Far above what the installer's buffers need.
const LIMITS: Limits = Limits { memory_mib: 256, processes: 64, cpu_percent: 0, open_files: 256 };

/// Whether this sealed root is an installer's.
pub fn is_here() -> bool {
    Path::new(root::INSTALLER_SETTINGS).exists()
}

/// Runs the installer, then powers off; returns only when it could not be started.
pub fn run(
    signals: &Signals,
    events: &UeventSocket,
    modules: &mut Modules,
    mut pings: Option<Pings>,
) -> anyhow::Result<Infallible> {
    let group = cgroup::make("installer", &LIMITS).context("cannot make the installer's group")?;
    let mut installer = Service::new("installer: ", child(group), None);
    installer.start().context("cannot start the installer")?;
    while installer.runs() {
        if let Some(pings) = &mut pings {
            pings.ping_if_due();
        }
        wait_for_something(signals, events, &installer, pings.as_ref())?;
        installer.read();
        disk::take_events(events, modules);
        while let Ok(Some(_)) = signals.next() {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if installer.is(pid.as_raw_nonzero().get().unsigned_abs()) {
                // What it said last may still be in the pipe.
                while !installer.read().is_empty() {}
                installer.ended();
                log::write(Level::Notice, &format!("the installer {}", describe(status)));
            }
        }
    }
    if let Some(pings) = pings {
        pings.last(WATCHDOG_TIME);
    }
    rustix::fs::sync();
    log::notice("down");
    anyhow::bail!("the kernel refused to power off: {}", pillar_os::power_off())
}

fn wait_for_something(
    signals: &Signals,
    events: &UeventSocket,
    installer: &Service,
    pings: Option<&Pings>,
) -> anyhow::Result<()> {
    let due = pings.map_or(LONGEST_WAIT, |pings| pings.due().saturating_sub(clock::now()).min(LONGEST_WAIT));
    let mut fds: Vec<PollFd<'_>> = [signals.as_fd(), events.as_fd()]
        .into_iter()
        .chain(installer.fd())
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    match poll(&mut fds, Some(&clock::timespec(due))) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot wait for events"),
    }
}

/// Root, because disks and consoles are root's, and without any capability, because nothing else is needed.
fn child(cgroup: PathBuf) -> Child {
    Child {
        program: root::INSTALLER.into(),
        name: None,
        arguments: Vec::new(),
        environment: Vec::new(),
        directory: "/".into(),
        cgroup,
        view: Vec::new(),
        limits: vec![(Resource::Core, 0), (Resource::Nofile, LIMITS.open_files)],
        identity: Identity { id: 0, capabilities: CapabilitySet::empty() },
        output: Output::Both,
    }
}
