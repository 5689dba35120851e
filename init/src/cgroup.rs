//! Control groups (v2): one for each child, with limits.

use crate::files;
use pillar_workload::Limits;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: &str = "+cpu +memory +pids";
/// The scheduler's period for `cpu.max`.
const PERIOD_US: u64 = 100_000;

/// Lets groups have limits.
pub fn enable() -> io::Result<()> {
    files::set(&Path::new(ROOT).join("cgroup.subtree_control"), CONTROLLERS)
}

/// Makes a group with limits; returns its directory.
pub fn make(name: &str, limits: &Limits) -> io::Result<PathBuf> {
    let group = Path::new(ROOT).join(name);
    match fs::create_dir(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for (file, value) in limit_files(limits) {
        match files::set(&group.join(file), &value) {
            // A kernel without swap accounting has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file == "memory.swap.max" => {}
            done => done?,
        }
    }
    Ok(group)
}

/// Kills everything in a group.
pub fn kill(group: &Path) -> io::Result<()> {
    files::set(&group.join("cgroup.kill"), "1")
}

/// Files of a group and what is written to them.
fn limit_files(limits: &Limits) -> Vec<(&'static str, String)> {
    let cpu = match limits.cpu_percent {
        0 => "max".to_owned(),
        percent => percent.saturating_mul(PERIOD_US / 100).to_string(),
    };
    vec![
        ("memory.max", limits.memory_mib.saturating_mul(1 << 20).to_string()),
        ("memory.swap.max", "0".to_owned()),
        ("memory.oom.group", "1".to_owned()),
        ("pids.max", limits.processes.to_string()),
        ("cpu.max", format!("{cpu} {PERIOD_US}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_files() {
        let limits = Limits { memory_mib: 64, processes: 8, cpu_percent: 50, open_files: 9 };
        let files = limit_files(&limits);
        assert!(files.contains(&("memory.max", "67108864".to_owned())));
        assert!(files.contains(&("pids.max", "8".to_owned())));
        assert!(files.contains(&("cpu.max", "50000 100000".to_owned())));
        assert!(limit_files(&Limits::default()).contains(&("cpu.max", "max 100000".to_owned())));
    }
}
