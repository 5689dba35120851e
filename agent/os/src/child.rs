//! Children in a sandbox: control group, own view of the file system, limits, an identity without privileges.

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat, stat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{Resource, Rlimit, setrlimit, setsid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    unshare_unsafe,
};
use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Highest capability number that is tried when the bounding set is emptied; the kernel's last is below it.
const CAPABILITIES: u32 = 64;

/// One step of making a child's own view of the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountStep {
    /// An empty tmpfs, mounted nosuid, nodev, noexec, with these options (`size=…,mode=…`).
    Tmpfs {
        /// Where; must exist.
        at: PathBuf,
        /// Options.
        options: String,
    },
    /// What is at `from` before any step runs also appears at `to`, which is made when it is missing.
    Bind {
        /// What is shown.
        from: PathBuf,
        /// Where.
        to: PathBuf,
    },
    /// A fresh proc in which other users' processes are invisible.
    Proc {
        /// Where; must exist.
        at: PathBuf,
    },
    /// What is mounted here becomes read-only.
    ReadOnly {
        /// Where something is mounted.
        at: PathBuf,
    },
    /// What is mounted here goes away from the child's view.
    Hide {
        /// Where something is mounted.
        at: PathBuf,
    },
}

/// Who the child is. There is no way back to more: bounding set and `no_new_privs` are set too.
#[derive(Debug, Clone)]
pub struct Identity {
    /// User and group.
    pub id: u32,
    /// Capabilities that it keeps, and that programs it starts keep.
    pub capabilities: CapabilitySet,
}

/// What becomes of standard output and error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Both go into the returned pipe.
    Both,
    /// Only standard output does; error is the parent's.
    Out,
}

/// A child to be started.
#[derive(Debug, Clone)]
pub struct Child {
    /// Program, absolute.
    pub program: PathBuf,
    /// Name of the program as it sees it, when it is another one.
    pub name: Option<String>,
    /// Arguments behind the program's name.
    pub arguments: Vec<OsString>,
    /// Environment, complete.
    pub environment: Vec<(String, String)>,
    /// Working directory.
    pub directory: PathBuf,
    /// Control group, as directory; it must exist.
    pub cgroup: PathBuf,
    /// Steps in a mount namespace of its own; none when empty.
    pub view: Vec<MountStep>,
    /// Limits, soft and hard.
    pub limits: Vec<(Resource, u64)>,
    /// Who it is.
    pub identity: Identity,
    /// Output.
    pub output: Output,
}

/// Why a child did not start. Steps between fork and exec tell more on the child's error output.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No pipe.
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
    /// Its control group could not be opened.
    #[error("cannot open the control group {path}")]
    Cgroup {
        /// The group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path with a NUL in it.
    #[error("{0:?} has a NUL in it")]
    Nul(PathBuf),
    /// Fork, a step behind it, or exec.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Child {
    /// Starts the child; returns its process number and the reading end of its output, not blocking.
    pub fn spawn(&self) -> Result<(u32, PipeReader), SpawnError> {
        let (reader, writer) = io::pipe().map_err(SpawnError::Pipe)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.current_dir(&self.directory).stdin(Stdio::null());
        if let Some(name) = &self.name {
            command.arg0(name);
        }
        if self.output == Output::Both {
            command.stderr(writer.try_clone().map_err(SpawnError::Pipe)?);
        }
        command.stdout(writer);
        let mut steps = self.steps()?;
        // SAFETY: the closure runs in the child between fork and exec. The process has one thread (PID 1 never starts
        // another; a caller with more threads would have to expect a lock held by one of them at the fork), so memory
        // and locks are as the parent left them and allocating is fine. It makes system calls and touches only its own
        // data, which it owns.
        unsafe { command.pre_exec(move || steps.run()) };
        let child =
            command.spawn().map_err(|source| SpawnError::Start { program: self.program.clone(), source })?;
        // The parent's copies of the writing end must go, or the pipe would never end.
        drop(command);
        rustix::io::ioctl_fionbio(&reader, true).map_err(|errno| SpawnError::Pipe(errno.into()))?;
        Ok((child.id(), reader))
    }

    fn steps(&self) -> Result<Steps, SpawnError> {
        let procs = self.cgroup.join("cgroup.procs");
        let cgroup = OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(|source| SpawnError::Cgroup { path: procs, source })?;
        Ok(Steps {
            cgroup,
            view: self.view.clone(),
            limits: self.limits.clone(),
            identity: self.identity.clone(),
        })
    }
}

/// What the child does before it becomes the program.
struct Steps {
    cgroup: File,
    view: Vec<MountStep>,
    limits: Vec<(Resource, u64)>,
    identity: Identity,
}

impl Steps {
    fn run(&mut self) -> io::Result<()> {
        told("leave the parent's session", || {
            nix::sys::signal::SigSet::empty().thread_set_mask()?;
            setsid()?;
            Ok(())
        })?;
        told("join the control group", || self.cgroup.write_all(b"0"))?;
        if !self.view.is_empty() {
            make_view(&self.view)?;
        }
        for (resource, value) in &self.limits {
            let limit = Rlimit { current: Some(*value), maximum: Some(*value) };
            told("set a resource limit", || Ok(setrlimit(*resource, limit)?))?;
        }
        told("drop privileges", || become_user(&self.identity))
    }
}

/// Runs a step; when it fails, says on standard error which one it was, as exec's caller learns only a number.
fn told(what: &str, step: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    step().inspect_err(|error| {
        // If nobody reads, nobody can be told.
        let _ = writeln!(io::stderr(), "cannot {what}: {error}");
    })
}

fn make_view(steps: &[MountStep]) -> io::Result<()> {
    told("enter an own mount namespace", || {
        // SAFETY: unshare_unsafe is unsafe for CLONE_FILES alone (file descriptors could go while others use them);
        // the mount namespace does not touch descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
    })?;
    // Sources are taken before anything is covered by a later step.
    let mut trees = Vec::new();
    for step in steps {
        if let MountStep::Bind { from, .. } = step {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            told(&format!("take {}", from.display()), || {
                trees.push((open_tree(CWD, from, flags)?, stat(from)?.st_mode));
                Ok(())
            })?;
        }
    }
    let mut trees = trees.into_iter();
    for step in steps {
        told(&step.describe(), || step.run(&mut trees))?;
    }
    Ok(())
}

impl MountStep {
    fn describe(&self) -> String {
        match self {
            MountStep::Tmpfs { at, .. } => format!("mount a tmpfs at {}", at.display()),
            MountStep::Bind { from, to } => format!("show {} at {}", from.display(), to.display()),
            MountStep::Proc { at } => format!("mount proc at {}", at.display()),
            MountStep::ReadOnly { at } => format!("make {} read-only", at.display()),
            MountStep::Hide { at } => format!("unmount {}", at.display()),
        }
    }

    fn run(&self, trees: &mut impl Iterator<Item = (OwnedFd, u32)>) -> io::Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match self {
            MountStep::Tmpfs { at, options } => {
                let options = CString::new(options.as_str())?;
                mount("tmpfs", at, "tmpfs", flags, options.as_c_str())?;
            }
            MountStep::Bind { to, .. } => {
                let (tree, mode) = trees.next().ok_or_else(|| io::Error::other("a source is missing"))?;
                make_mount_point(to, FileType::from_raw_mode(mode) == FileType::Directory)?;
                move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            }
            MountStep::Proc { at } => mount("proc", at, "proc", flags, c"hidepid=invisible")?,
            MountStep::ReadOnly { at } => {
                let flags = flags | MountFlags::BIND | MountFlags::RDONLY;
                mount_remount(at, flags, c"")?;
            }
            MountStep::Hide { at } => unmount(at, UnmountFlags::DETACH)?,
        }
        Ok(())
    }
}

/// Makes a missing directory or file to mount on, with missing directories above it.
fn make_mount_point(at: &Path, directory: bool) -> io::Result<()> {
    if stat(at).is_ok() {
        return Ok(());
    }
    if let Some(above) = at.parent() {
        make_mount_point(above, true)?;
    }
    if directory {
        mkdirat(CWD, at, Mode::from_raw_mode(0o755))?;
    } else {
        openat(CWD, at, OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
    }
    Ok(())
}

fn become_user(identity: &Identity) -> io::Result<()> {
    let keep = identity.capabilities;
    for capability in (0..CAPABILITIES).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        if keep.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no capability of that number, nor any above it.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    clear_ambient_capability_set()?;
    set_keep_capabilities(true)?;
    let user = rustix::fs::Uid::from_raw(identity.id);
    let group = rustix::fs::Gid::from_raw(identity.id);
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: keep };
    set_capabilities(None, sets)?;
    for capability in keep.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    set_keep_capabilities(false)?;
    set_no_new_privs(true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(program: &str, arguments: &[&str], cgroup: &Path) -> Child {
        Child {
            program: program.into(),
            name: None,
            arguments: arguments.iter().map(Into::into).collect(),
            environment: vec![("ONLY".to_owned(), "this".to_owned())],
            directory: "/".into(),
            cgroup: cgroup.to_owned(),
            view: Vec::new(),
            limits: Vec::new(),
            identity: Identity { id: 401, capabilities: CapabilitySet::empty() },
            output: Output::Both,
        }
    }

    #[test]
    fn a_missing_group_is_told() {
        let error = child("/bin/true", &[], Path::new("/nonexistent")).spawn().expect_err("no group");
        assert!(matches!(error, SpawnError::Cgroup { .. }));
    }

    #[test]
    fn mount_points_are_made() {
        let folder = std::env::temp_dir().join(format!("pillar-os-test-{}", std::process::id()));
        make_mount_point(&folder.join("a/b"), true).expect("directories");
        make_mount_point(&folder.join("c"), false).expect("a file");
        assert!(folder.join("a/b").is_dir() && folder.join("c").is_file());
        std::fs::remove_dir_all(folder).expect("ours");
    }
}
