//! How long `./just image` takes after a change to the agent alone. The agent's main file gets a new modification time,
//! so that it is compiled again, and the image a new version, so that no later step can be skipped because its input
//! did not change.

use anyhow::{Context, Result, bail};
use pillar_e2e::programs::workspace;
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

/// What the project allows.
const TARGET_S: f64 = 60.0;
/// What a change to the agent touches.
const AGENT_SOURCE: &str = "agent/daemon/src/main.rs";

/// One build.
#[derive(Debug, Serialize)]
pub struct Build {
    name: &'static str,
    seconds: f64,
    /// The steps as the build printed them, each with the seconds at its beginning.
    steps: Vec<String>,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    builds: Vec<Build>,
    target_s: f64,
    host_load: String,
}

/// Builds twice into a folder of its own: once to have everything warm, once after the touch.
pub fn bench() -> Result<Report> {
    let work =
        tempfile::Builder::new().prefix("pillar-bench-").tempdir().context("cannot make a work folder")?;
    let mut builds = vec![build("before", "0.0.1-bench", work.path())?];
    let source = workspace().join(AGENT_SOURCE);
    let file = File::options().append(true).open(&source);
    file.and_then(|f| f.set_modified(SystemTime::now()))
        .with_context(|| format!("cannot touch {}", source.display()))?;
    builds.push(build("warm", "0.0.2-bench", work.path())?);
    Ok(Report { builds, target_s: TARGET_S, host_load: crate::boot::host_load() })
}

fn build(name: &'static str, version: &str, out: &Path) -> Result<Build> {
    let started = Instant::now();
    let output = Command::new(workspace().join("just"))
        .arg("image")
        .arg(format!("out={}", out.display()))
        .arg(format!("version={version}"))
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .context("cannot start ./just")?;
    let seconds = started.elapsed().as_secs_f64();
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("./just image failed ({})\n{}", output.status, log.trim_end());
    }
    Ok(Build { name, seconds, steps: steps(&log) })
}

/// The lines `   12.3 s  what` of the build's log.
fn steps(log: &str) -> Vec<String> {
    let is_step = |line: &&str| {
        line.split_once(" s  ").is_some_and(|(seconds, _)| seconds.trim().parse::<f64>().is_ok())
    };
    log.lines().filter(is_step).map(|line| line.trim().to_owned()).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for build in &self.builds {
            writeln!(f, "{:<8} {:>7.1} s", build.name, build.seconds)?;
            for step in &build.steps {
                writeln!(f, "    {step}")?;
            }
        }
        let warm = self.builds.last().map_or(f64::NAN, |b| b.seconds);
        let verdict = if warm <= self.target_s { "within the target" } else { "over the target" };
        writeln!(
            f,
            "warm, after a change to the agent alone: {warm:.1} s   target ≤ {} s: {verdict}",
            self.target_s
        )?;
        writeln!(f, "host load {}", self.host_load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_other_lines() {
        let log = "will install x\n    0.0 s  the programs\n           a note\n   12.3 s  the sealed root\nerror s  no\n";
        assert_eq!(steps(log), ["0.0 s  the programs", "12.3 s  the sealed root"]);
    }
}
