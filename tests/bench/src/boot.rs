//! Boot time: our image to a healthy workload, the reference to multi-user.target, the bare kernel to its init. Runs
//! alternate, one machine at a time, so that a busy host burdens all three alike. Times are the kernel's own time
//! stamps; the host's clock checks them. A benchmark judges nothing: it fails only when a run fails.

use crate::figures::{Ratio, Summary};
use crate::machine::Shape;
use crate::{bare, reference, stamp};
use anyhow::{Context, Result, bail, ensure};
use pillar_e2e::release::Files;
use pillar_keys::{Keys, Variable};
use pillar_layout::console;
use pillar_tools::{Network, Tools};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ours against the reference.
const TARGET_REFERENCE: f64 = 0.2;
/// Ours against the bare kernel.
const TARGET_BARE: f64 = 2.0;
/// From power-on to the marker, for the slowest machine on the slowest host that is worth measuring.
const DEADLINE: Duration = Duration::from_secs(900);
/// The kernel's first line.
const FIRST_LINE: &str = "Linux version ";
/// A machine that says one of these will not come up: systemd, the kernel, our init.
const GIVES_UP: [&str; 3] = ["You are in emergency mode", "Kernel panic", "pillar-init: fatal: "];
/// The kernel shows its first lines when the serial console is ready, so the host counts a little less than the
/// kernel does. By this much more (a share, and seconds for the delivery of a line), and one of the clocks is wrong: an
/// emulated machine cannot calibrate its clock well on a busy host.
const CLOCK_TOLERANCE: (f64, f64) = (0.1, 1.0);

/// What is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Our image.
    Ours,
    /// Debian with systemd.
    Reference,
    /// The kernel and an init that powers off.
    Bare,
}

impl Subject {
    const ALL: [Subject; 3] = [Subject::Ours, Subject::Reference, Subject::Bare];

    /// The end of what is measured, on the console.
    fn marker(self) -> &'static str {
        match self {
            Subject::Ours => console::WORKLOAD_HEALTHY,
            Subject::Reference => reference::MARKER,
            Subject::Bare => bare::MARKER,
        }
    }

    /// What is measured, from the kernel's start on.
    fn until(self) -> &'static str {
        match self {
            Subject::Ours => "workload healthy",
            Subject::Reference => "multi-user.target",
            Subject::Bare => "init runs",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Subject::Ours => "ours",
            Subject::Reference => "reference",
            Subject::Bare => "bare",
        }
    }

    /// When it was reached, by the kernel's clock, from the marker's line.
    fn reached(self, line: &str) -> Result<Duration> {
        let (at, text) = stamp::parse(line).with_context(|| format!("no time stamp on the line {line:?}"))?;
        if self != Subject::Reference {
            return Ok(at);
        }
        // The unit repeats an earlier record, whose own time stamp counts.
        let record = text.strip_prefix(reference::MARKER).unwrap_or_default();
        match stamp::parse(record) {
            Some((at, text)) if text.contains(reference::REACHED) => Ok(at),
            _ => bail!("the reference did not reach multi-user.target: {line:?}"),
        }
    }
}

/// One boot, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Run {
    /// Kernel start to the end of what is measured, by the kernel's clock.
    pub kernel_s: f64,
    /// The kernel's first line on the console to the marker's line, by the host's clock.
    pub host_s: f64,
    /// Power-on to the marker's line, firmware and loader included, by the host's clock.
    pub power_on_s: f64,
}

/// All boots of one subject.
#[derive(Debug, Serialize)]
pub struct Series {
    /// What was booted.
    pub subject: Subject,
    /// What the time ends with.
    pub until: &'static str,
    /// The kernel's command line, as the kernel said it.
    pub command_line: String,
    /// Each boot, in order.
    pub runs: Vec<Run>,
    /// Of `kernel_s`.
    pub kernel_s: Summary,
    /// Of `host_s`.
    pub host_s: Summary,
    /// Of `power_on_s`.
    pub power_on_s: Summary,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machines.
    pub machine: Shape,
    /// What ran the guests.
    pub accelerator: String,
    /// The kernel, the same in all.
    pub kernel: String,
    /// The host's load averages at the end.
    pub host_load: String,
    /// Ours, reference, bare.
    pub series: Vec<Series>,
    /// Ours by reference.
    pub to_reference: Ratio,
    /// Ours by bare.
    pub to_bare: Ratio,
}

struct Boot {
    run: Run,
    kernel: String,
    command_line: String,
    accelerator: String,
}

/// Runs the benchmark.
pub fn bench(runs: u32, cpus: u32, memory_mib: u32) -> Result<Report> {
    let tools = Tools::ensure(Network::Allowed)?;
    let files = Files::find()?;
    let keys = Keys::load(&pillar_e2e::programs::workspace().join(pillar_keys::DEFAULT_DIR))?;
    let db = keys.secure_boot(Variable::Db);
    let shape = Shape::new(&tools, &keys, cpus, memory_mib)?;
    let work =
        tempfile::Builder::new().prefix("pillar-bench-").tempdir().context("cannot make a work folder")?;
    let images = [
        files.file("raw"),
        reference::image(&tools, &files.release.predicate.kernel, &db)?,
        bare::build(&tools, &files.file("efi"), &db, work.path())?,
    ];
    let mut boots: [Vec<Boot>; 3] = Default::default();
    for round in 0..runs {
        for (index, subject) in Subject::ALL.into_iter().enumerate() {
            let dir = work.path().join(format!("{}-{round}", subject.name()));
            let booted = boot(subject, &shape, &images[index], &dir).map_err(|e| keep(&dir, e))?;
            eprintln!("run {}/{runs}: {} {:.2} s", round + 1, subject.name(), booted.run.kernel_s);
            boots[index].push(booted);
        }
    }
    report(shape, &boots)
}

fn boot(subject: Subject, shape: &Shape, image: &Path, dir: &Path) -> Result<Boot> {
    let machine = shape.start(subject.name(), image, dir)?;
    let first = machine.wait_console(FIRST_LINE, DEADLINE)?;
    let mut patterns = vec![subject.marker()];
    patterns.extend(GIVES_UP);
    let marker = machine.console().wait_any(&patterns, first.end, DEADLINE)?;
    ensure!(marker.pattern == 0, "{} gave up: {:?}\n{}", subject.name(), marker.line, machine.account());
    let text = machine.console_so_far();
    let value = |key| stamp::value_of(&text, key).map(str::to_owned);
    let (shown, _) =
        stamp::parse(&marker.line).with_context(|| format!("no time stamp: {:?}", marker.line))?;
    let run = Run {
        kernel_s: subject.reached(&marker.line)?.as_secs_f64(),
        host_s: marker.at.saturating_sub(first.at).as_secs_f64(),
        power_on_s: marker.at.as_secs_f64(),
    };
    let (share, seconds) = CLOCK_TOLERANCE;
    let shown = shown.as_secs_f64();
    ensure!(
        run.host_s <= shown * (1.0 + share) + seconds,
        "{}: the host counted {:.2} s from the kernel's first line to {:?}, the kernel's clock {shown:.2} s since its start",
        subject.name(),
        run.host_s,
        marker.line,
    );
    Ok(Boot {
        run,
        kernel: value(FIRST_LINE).context("the kernel did not say its version")?,
        command_line: value("Kernel command line: ").context("the kernel did not say its command line")?,
        accelerator: machine.accel().to_string(),
    })
}

/// A failed machine's logs outlive the benchmark.
fn keep(dir: &Path, error: anyhow::Error) -> anyhow::Error {
    let kept: PathBuf = std::env::temp_dir().join(format!("pillar-bench-failed-{}", std::process::id()));
    match std::fs::rename(dir, &kept) {
        Ok(()) => error.context(format!("a run failed; its logs are in {}", kept.display())),
        Err(_) => error.context("a run failed"),
    }
}

fn report(machine: Shape, boots: &[Vec<Boot>; 3]) -> Result<Report> {
    let all = || boots.iter().flatten();
    let one = all().next().context("no runs")?;
    if let Some(other) = all().find(|b| b.kernel != one.kernel) {
        bail!(
            "the kernels differ, so the figures cannot be compared: {:?} and {:?}",
            one.kernel,
            other.kernel
        );
    }
    let mut series = Vec::new();
    for (subject, boots) in Subject::ALL.into_iter().zip(boots) {
        let summary = |f: fn(&Run) -> f64| Summary::of(boots.iter().map(|b| f(&b.run))).context("no runs");
        series.push(Series {
            subject,
            until: subject.until(),
            command_line: boots.first().map(|b| b.command_line.clone()).unwrap_or_default(),
            runs: boots.iter().map(|b| b.run).collect(),
            kernel_s: summary(|r| r.kernel_s)?,
            host_s: summary(|r| r.host_s)?,
            power_on_s: summary(|r| r.power_on_s)?,
        });
    }
    Ok(Report {
        machine,
        accelerator: one.accelerator.clone(),
        kernel: one.kernel.clone(),
        host_load: host_load(),
        to_reference: Ratio::of(series[0].kernel_s, series[1].kernel_s, TARGET_REFERENCE),
        to_bare: Ratio::of(series[0].kernel_s, series[2].kernel_s, TARGET_BARE),
        series,
    })
}

/// The three load averages of /proc/loadavg.
pub fn host_load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.series.first().map_or(0, |s| s.runs.len());
        writeln!(f, "boot, {runs} run(s) each, alternated; seconds by the kernel's clock, kernel start = 0")?;
        let [least, middle, greatest] = ["min", "median", "max"];
        writeln!(f, "{:<29} {least:>8} {middle:>8} {greatest:>8} {:>8} {:>9}", "", "by host", "power-on")?;
        for s in &self.series {
            let Summary { min, median, max } = s.kernel_s;
            let (name, host, power_on) = (s.subject.name(), s.host_s.median, s.power_on_s.median);
            let until = s.until;
            writeln!(
                f,
                "{name:<10} {until:<18} {min:>8.2} {median:>8.2} {max:>8.2} {host:>8.2} {power_on:>9.2}"
            )?;
        }
        writeln!(f, "by host: median by the host's clock, from the kernel's first line on the console")?;
        writeln!(f, "power-on: median by the host's clock, firmware and loader included")?;
        for (name, ratio) in [("reference", &self.to_reference), ("bare", &self.to_bare)] {
            writeln!(
                f,
                "ours / {name:<10} {:>6.2}   target ≤ {}: {}",
                ratio.value,
                ratio.target,
                ratio.verdict()
            )?;
        }
        writeln!(
            f,
            "machine: q35, {} cpu(s), {} MiB, {}, OVMF with Secure Boot, TPM 2.0 (CRB); host load {}",
            self.machine.cpus, self.machine.memory_mib, self.accelerator, self.host_load
        )?;
        writeln!(f, "kernel: {}", self.kernel)?;
        writeln!(f, "what differs beside user space (the reference runs no workload):")?;
        for s in &self.series {
            writeln!(f, "  {:<10} {}", s.subject.name(), s.command_line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_own_time_stamp_counts() {
        let line = "[   41.500000] bench-reference: [   40.250000] systemd[1]: Reached target multi-user.target - Multi-User System.";
        assert_eq!(Subject::Reference.reached(line).expect("reached"), Duration::from_millis(40_250));
        let bad =
            Subject::Reference.reached("[   41.500000] bench-reference: ").expect_err("nothing reached");
        assert!(bad.to_string().contains("did not reach multi-user.target"), "{bad}");
        let ours = Subject::Ours.reached("[    4.123456] pillar-init: workload healthy").expect("reached");
        assert_eq!(ours, Duration::from_micros(4_123_456));
    }

    #[test]
    fn different_kernels_are_not_compared() {
        let boot = |kernel: &str| {
            vec![Boot {
                run: Run { kernel_s: 1.0, host_s: 1.0, power_on_s: 2.0 },
                kernel: kernel.to_owned(),
                command_line: "x".to_owned(),
                accelerator: "tcg".to_owned(),
            }]
        };
        let shape = Shape::for_test();
        let error = report(shape.clone(), &[boot("a"), boot("b"), boot("a")]).expect_err("they differ");
        assert!(error.to_string().starts_with("the kernels differ"), "{error}");
        let report = report(shape, &[boot("a"), boot("a"), boot("a")]).expect("they do not");
        assert_eq!((report.to_bare.value, report.to_reference.value), (1.0, 1.0));
        assert!(report.to_string().contains("over the target"), "{report}");
    }
}
