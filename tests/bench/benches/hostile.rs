//! The longest time and the most memory that evidence takes which is made to take long: each case within the limits on
//! sizes, signed by a TPM that measured what its maker wanted, so that it comes as far as it can.
//!
//! Each case runs in a process of its own, whose peak of resident memory is that of the verification alone.
#![allow(clippy::unwrap_used)]

#[path = "../../../agent/verify/tests/boot/mod.rs"]
mod boot;
#[path = "../../../agent/verify/tests/hostile/mod.rs"]
mod hostile;
#[path = "../../../agent/verify/tests/machine/mod.rs"]
mod machine;

use hostile::{CASES, Case};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

/// What the project wants of any input.
const LIMIT: Duration = Duration::from_millis(10);
/// The same of memory.
const LIMIT_KIB: u64 = 16 << 10;
/// Runs of each case; the shortest counts, so that what else the machine does is left out.
const RUNS: usize = 20;

fn main() {
    // Cargo gives `--bench`; a child gets the number of its case.
    if let Some(number) = env::args().nth(1).and_then(|text| text.parse::<usize>().ok()) {
        return one(&(CASES[number].1)());
    }
    println!("{:<52} {:>9} {:>9}  refused by", "hostile evidence", "ms", "KiB");
    for (number, (name, _)) in CASES.iter().enumerate() {
        let output = Command::new(env::current_exe().unwrap()).arg(number.to_string()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        println!("{name:<52} {}", told.trim_end());
    }
    println!("{:<52} {:>9.3} {LIMIT_KIB:>9}", "limit", LIMIT.as_secs_f64() * 1e3);
}

/// Runs a case and tells what it took.
fn one(case: &Case) {
    // The peak counts from here: the input is in memory before.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let check = case.judge();
    let memory = status("VmHWM:").saturating_sub(before);
    let best = (0..RUNS).map(|_| {
        let start = Instant::now();
        case.judge();
        start.elapsed()
    });
    let check = check.map_or("nothing: it is large, and good", pillar_verify::Check::name);
    println!("{:>9.3} {memory:>9}  {check}", best.min().unwrap_or_default().as_secs_f64() * 1e3);
}

/// A figure of this process in KiB.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
