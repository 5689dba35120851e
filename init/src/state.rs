//! The state volume: `pillar-state` opens or makes it in the phase `sysinit`; what became of it is measured into PCR 15
//! before anything of it is used, so that it opens once a boot. Then it is mounted.
//!
//! **Invariant:** PCR 15 is extended in every boot, whatever `pillar-state` did: no second program unseals.

use crate::disk::{self, Part};
use crate::measure::Measurer;
use crate::modules::Modules;
use crate::run::describe;
use crate::service::Service;
use crate::watchdog::Pings;
use crate::{cgroup, clock, files, log, sandbox};
use pillar_layout::{gpt, root, run};
use pillar_model::StateReport;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Gid, Mode, Uid, chmod, chown};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `pillar-state` is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Open the volume, or make it.
    Open,
    /// Seal it anew with the recovery key that the agent left.
    Recover,
    /// Destroy its keys.
    Erase,
    /// Raise the minimum epoch: this boot is good.
    Commit,
}

impl Task {
    fn word(self) -> &'static str {
        match self {
            Task::Open => "open",
            Task::Recover => "recover",
            Task::Erase => "erase",
            Task::Commit => "commit",
        }
    }

    fn deadline(self) -> Duration {
        if self == Task::Open { OPEN_DEADLINE } else { DEADLINE }
    }

    fn arguments(self, partition: &Path) -> Vec<std::ffi::OsString> {
        match self {
            Task::Commit => vec![self.word().into()],
            _ => vec![self.word().into(), partition.into()],
        }
    }
}

/// For making a volume on a slow disk with a slow TPM.
const OPEN_DEADLINE: Duration = Duration::from_secs(300);
/// Everything else takes a second, and the machine's other children wait for it.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often the end of a program that says nothing is looked for.
const LOOK: Duration = Duration::from_millis(20);
const REPORT_MAX_BYTES: usize = 64 << 10;
/// Nothing on it is executed or has rights of its own; read-ahead of inode tables would read what was never written.
const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const OPTIONS: &std::ffi::CStr = c"errors=remount-ro,inode_readahead_blks=0";

/// The state volume of this machine.
#[derive(Debug)]
pub struct State {
    partition: Option<Part>,
    group: PathBuf,
    report: Option<StateReport>,
    mounted: bool,
    why_not: String,
}

impl State {
    /// Opens the volume on this disk, measures and mounts it. Whatever goes wrong, the machine goes on without it.
    pub fn open(
        disk: &str,
        modules: &mut Modules,
        measurer: &mut Measurer,
        pings: &mut Option<Pings>,
    ) -> Self {
        modules.load_list(root::STATE_MODULES);
        let mut state = State {
            partition: None,
            group: PathBuf::new(),
            report: None,
            mounted: false,
            why_not: String::new(),
        };
        if let Err(why) = state.find_and_open(disk, pings) {
            state.why_not = why;
        }
        let measured =
            state.report.as_ref().map_or_else(|| StateReport::NONE.to_owned(), StateReport::measured);
        let known = measurer.state_volume(&measured);
        let device = state.report.as_ref().filter(|report| report.is_open()).map(|r| r.device.clone());
        match device {
            Some(device) if known => match mount_volume(&device) {
                Ok(()) => state.mounted = true,
                Err(error) => state.why_not = format!("cannot mount it: {error}"),
            },
            Some(_) => state.why_not = "it could not be measured".to_owned(),
            None => {}
        }
        match state.mounted {
            true => log::notice("state volume mounted"),
            false => log::write(log::Level::Error, &format!("no state volume: {}", state.why_not)),
        }
        state
    }

    fn find_and_open(&mut self, disk: &str, pings: &mut Option<Pings>) -> Result<(), String> {
        let group = cgroup::make("state", &sandbox::state_limits())
            .map_err(|error| format!("cannot make its group: {error:#}"))?;
        self.group = group;
        let partition = disk::by_type(disk, gpt::TYPE_STATE)
            .map_err(|error| format!("disk {disk}: {}", log::chain(&error)))?;
        self.partition = Some(partition);
        self.run(Task::Open, pings)?;
        let report = files::read_text(Path::new(run::STATE), REPORT_MAX_BYTES)
            .map_err(|error| format!("{}: {error}", run::STATE))?;
        let report: StateReport =
            serde_json::from_str(&report).map_err(|error| format!("{}: {error}", run::STATE))?;
        report.reason.clone_into(&mut self.why_not);
        self.report = Some(report);
        Ok(())
    }

    /// Has `pillar-state` do something, and waits for it.
    pub fn run(&self, task: Task, pings: &mut Option<Pings>) -> Result<(), String> {
        let partition = self.partition.as_ref().ok_or("there is no state partition")?;
        let child = sandbox::state(self.group.clone(), task.arguments(&partition.node));
        let mut service = Service::new("state: ", child, None);
        service.start().map_err(|error| log::chain(&error))?;
        let ended = wait(&mut service, clock::now() + task.deadline(), pings);
        service.ended();
        let failed = |how: &str| Err(format!("pillar-state {} {how}; its records say why", task.word()));
        match ended {
            Ok(Some(status)) if status.exit_status() == Some(0) => Ok(()),
            Ok(Some(status)) => failed(&describe(status)),
            Ok(None) => failed(&format!("was killed after {} s", task.deadline().as_secs())),
            Err(errno) => failed(&format!("cannot be waited for: {errno}")),
        }
    }

    /// True when the workload's data is there.
    pub fn is_mounted(&self) -> bool {
        self.mounted
    }

    /// Why it is not.
    pub fn why_not(&self) -> &str {
        &self.why_not
    }

    /// True while an image of an older security epoch could open the volume.
    pub fn can_commit(&self) -> bool {
        self.mounted && self.report.as_ref().is_some_and(|report| report.minimum_epoch < report.epoch)
    }

    /// Leaves the volume in order.
    pub fn unmount(&mut self) {
        if !self.mounted {
            return;
        }
        self.mounted = false;
        // What still holds it open does not hold up the shutdown; what was synced is on the disk.
        if let Err(errno) = unmount(root::STATE_MOUNT, UnmountFlags::empty()) {
            log::warn(&format!("cannot unmount the state volume: {errno}"));
            let _ = unmount(root::STATE_MOUNT, UnmountFlags::DETACH);
        }
    }
}

/// Relays what it says until it ends; none when it takes too long.
fn wait(
    service: &mut Service,
    deadline: Duration,
    pings: &mut Option<Pings>,
) -> Result<Option<WaitStatus>, Errno> {
    loop {
        if let Some(pings) = pings {
            pings.ping_if_due();
        }
        service.read();
        let pid = service.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some((_, status)) = waitpid(pid, WaitOptions::NOHANG)? {
            return Ok(Some(status));
        }
        if clock::now() >= deadline {
            return Ok(None);
        }
        match service.fd() {
            Some(fd) => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
                let _ = poll(&mut fds, Some(&clock::timespec(LOOK)));
            }
            None => std::thread::sleep(LOOK),
        }
    }
}

fn mount_volume(device: &str) -> io::Result<()> {
    mount(device, root::STATE_MOUNT, "ext4", FLAGS, OPTIONS)?;
    chmod(root::STATE_MOUNT, Mode::from_raw_mode(0o711))?;
    make_directory(Path::new(root::STATE_MOUNT).join("workload").as_path())?;
    make_directory(Path::new(root::AGENT_STATE))?;
    let id = pillar_layout::user::AGENT;
    chown(root::AGENT_STATE, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes a directory of the workload on the volume, with what is above it, and gives it to the workload's user.
pub fn make_workload_directory(path: &Path) -> io::Result<()> {
    let top = Path::new(root::STATE_MOUNT).join("workload");
    let below = path.strip_prefix(&top).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut at = top.clone();
    for part in below.components() {
        at.push(part);
        make_directory(&at)?;
    }
    let id = pillar_layout::user::WORKLOAD;
    chown(path, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_task_is_told() {
        let arguments = |task: Task| task.arguments(Path::new("/dev/vda6")).join(" ".as_ref());
        assert_eq!(arguments(Task::Open), "open /dev/vda6");
        assert_eq!(arguments(Task::Recover), "recover /dev/vda6");
        assert_eq!(arguments(Task::Erase), "erase /dev/vda6");
        assert_eq!(arguments(Task::Commit), "commit");
    }

    #[test]
    fn a_directory_outside_of_the_workload_s_is_refused() {
        let error = make_workload_directory(Path::new("/etc")).expect_err("not on the volume");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
