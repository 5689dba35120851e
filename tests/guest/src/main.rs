//! PID 1 of a machine that does one thing with state volumes, says how it went on the console, and powers off. What it
//! does stands on the kernel's command line: `do=prove` makes, opens, grows and reopens volumes and checks what they
//! hold; `do=bench` measures them beside a volume of cryptsetup's own making.
//!
//! Disks: `vda` ours, `vdb` ours with integrity, `vdc` cryptsetup's, `vdd` an empty ext4 file system to begin with.
#![forbid(unsafe_code)]

mod bench;
mod prove;
mod volume;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::path::Path;

/// In front of each line that is meant for the host.
const SAYS: &str = "guest: ";
/// Kernel modules, in the order in which they can be loaded.
const MODULES: &str = "/modules";

fn main() {
    match run() {
        Ok(()) => say("done"),
        Err(error) => {
            let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
            say(&format!("failed: {}", chain.join(": ")));
        }
    }
    let error = pillar_os::power_off();
    say(&format!("failed: cannot power off: {error}"));
}

/// Tells the host.
pub fn say(what: &str) {
    println!("{SAYS}{what}");
}

fn run() -> Result<()> {
    for (what, at, kind) in [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("tmpfs", "/run", "tmpfs"),
    ] {
        fs::create_dir_all(at).with_context(|| format!("cannot make {at}"))?;
        match mount(what, at, kind, MountFlags::empty(), None) {
            // The kernel mounts devtmpfs itself when it is built so.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot mount {at}")),
        }
    }
    load_modules()?;
    let command_line = fs::read_to_string("/proc/cmdline").context("cannot read the command line")?;
    let value = |name: &str| command_line.split_whitespace().find_map(|word| word.strip_prefix(name));
    match value("do=") {
        Some("prove") => prove::run(),
        Some("bench") => bench::run(value("runs=").and_then(|runs| runs.parse().ok()).unwrap_or(1)),
        other => bail!("nothing to do: do={other:?}"),
    }
}

fn load_modules() -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(MODULES)
        .context("no modules")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .context("cannot list the modules")?;
    names.sort();
    for path in names {
        // Some are for processors that this one is not; whoever needs one that is missing fails and says so.
        if let Err(error) = load(&path) {
            say(&format!("{error:#}"));
        }
    }
    Ok(())
}

fn load(path: &Path) -> Result<()> {
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let compressed = path.extension().is_some_and(|end| end != "ko");
    pillar_os::load_module(&file, compressed).with_context(|| format!("cannot load {}", path.display()))
}
