//! Programs of the tools tree, with their output in a log.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

/// How many lines of a log an error carries.
const TAIL_LINES: usize = 10;

/// Runs a program with its output in `log`; the error carries the log's last lines.
pub fn run(command: &mut Command, name: &str, log: &Path) -> Result<()> {
    let output = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let errors = output.try_clone().with_context(|| format!("cannot open {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let text = fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  | ");
        bail!("{name} failed ({status}), see {}\n  | {tail}", log.display());
    }
    Ok(())
}
