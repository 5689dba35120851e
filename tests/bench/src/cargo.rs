//! Benchmarks that are programs of their own: pure code, built for speed and timed in one process.

use anyhow::{Context, Result, bail};
use pillar_e2e::programs::workspace;
use std::process::Command;

/// Runs one; it prints its figures itself.
pub fn bench(name: &str) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["bench", "--quiet", "--package", "pillar-bench", "--bench", name]);
    let status = cargo.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the benchmark {name} failed ({status})");
    }
    Ok(())
}
