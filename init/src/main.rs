//! PID 1 of a pillar: the same static program is `/init` in the initrd (stage 1), PID 1 on the sealed root (stage 2),
//! and, as `pillar-init probe`, the workload's health prober.
//!
//! Synchronous and with one thread. Plans are data (`plan`, `sandbox`, `supervise`: pure, tested), what carries them out
//! is thin. **Invariant:** as PID 1 it never ends and never waits without a deadline: every failure is a record
//! `pillar-init: fatal: …` and a reboot.
#![forbid(unsafe_code)]

mod bless;
mod cel;
mod cgroup;
mod clock;
mod disk;
mod fatal;
mod files;
mod grow;
mod health;
mod ima;
mod installer;
mod log;
mod measure;
mod modules;
mod mounts;
mod network;
mod plan;
mod record;
mod relay;
mod run;
mod sandbox;
mod service;
mod settings;
mod shutdown;
mod stage1;
mod stage2;
mod state;
mod supervise;
mod tpm;
mod verity;
mod watchdog;

use pillar_layout::root;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("probe") {
        return health::main();
    }
    if std::process::id() != 1 {
        eprintln!("error: pillar-init is PID 1 of a pillar");
        eprintln!("hint: it is started by the kernel; `pillar-init probe` is the only other use");
        return ExitCode::from(2);
    }
    fatal::reboot_on_panic();
    let done = if Path::new(root::INITRD_MARKER).exists() { stage1::run() } else { stage2::run() };
    match done {
        Ok(never) => match never {},
        Err(error) => fatal::fatal(&format!("{error:#}")),
    }
}
