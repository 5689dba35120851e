//! Resident memory of init and agent in our image, once its workload is healthy and nothing moves any more. The agent
//! tells by `/metrics`; what no metric tells is said to be unknown, and the sum is then marked as incomplete.

use crate::machine::Shape;
use anyhow::{Context, Result};
use pillar_e2e::programs::workspace;
use pillar_e2e::release::Files;
use pillar_keys::Keys;
use pillar_layout::console;
use pillar_tools::Tools;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::time::Duration;

/// What the project allows init and agent together.
const LIMIT_BYTES: u64 = 24_000_000;
/// From power-on to a healthy workload.
const DEADLINE: Duration = Duration::from_secs(600);
/// Page by page: (process, metric).
const METRICS: [(&str, &str); 2] =
    [("init", "pillar_init_resident_bytes"), ("agent", "pillar_agent_resident_bytes")];

/// One process.
#[derive(Debug, Serialize)]
pub struct Process {
    name: &'static str,
    /// Absent when no metric tells it.
    resident_bytes: Option<u64>,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    processes: Vec<Process>,
    sum_bytes: u64,
    /// Every process is in the sum.
    complete: bool,
    limit_bytes: u64,
}

/// Boots the image in out/ and asks its agent twice: the second answer counts, the first has warmed up what answering
/// takes.
pub fn bench(cpus: u32, memory_mib: u32) -> Result<Report> {
    let tools = Tools::ensure()?;
    let files = Files::find()?;
    let keys = Keys::load(&workspace().join(pillar_keys::DEFAULT_DIR))?;
    let work =
        tempfile::Builder::new().prefix("pillar-bench-").tempdir().context("cannot make a work folder")?;
    let shape = Shape::new(&tools, &keys, cpus, memory_mib)?;
    let machine = shape.start("memory", &files.file("raw"), &work.path().join("memory"))?;
    machine.wait_console(console::WORKLOAD_HEALTHY, DEADLINE)?;
    let operator = keys.operators().first().context("there is no operator's key")?;
    let certificate = fs::read(&operator.certificate)
        .with_context(|| format!("cannot read {}", operator.certificate.display()))?;
    let key = fs::read(&operator.key).with_context(|| format!("cannot read {}", operator.key.display()))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let page = runtime.block_on(async {
        let pillar =
            pillar_wire::client::connect(&machine.agent_addr().to_string(), &certificate, &key).await?;
        pillar.metrics().await?;
        pillar.metrics().await
    })?;
    Ok(report(&page))
}

fn report(page: &str) -> Report {
    let value = |metric: &str| {
        let line = page.lines().find_map(|l| l.strip_prefix(metric)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    };
    let processes: Vec<Process> =
        METRICS.iter().map(|&(name, metric)| Process { name, resident_bytes: value(metric) }).collect();
    Report {
        sum_bytes: processes.iter().filter_map(|p| p.resident_bytes).sum(),
        complete: processes.iter().all(|p| p.resident_bytes.is_some()),
        limit_bytes: LIMIT_BYTES,
        processes,
    }
}

/// Megabytes with one digit behind the point.
fn mb(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "resident memory, workload healthy")?;
        for process in &self.processes {
            let figure = process.resident_bytes.map_or_else(|| "unknown: no metric tells it".to_owned(), mb);
            writeln!(f, "{:<8} {figure}", process.name)?;
        }
        let verdict = match (self.sum_bytes <= self.limit_bytes, self.complete) {
            (false, _) => "over the limit",
            (true, true) => "within the limit",
            (true, false) => "incomplete",
        };
        writeln!(f, "{:<8} {}   limit {}: {verdict}", "sum", mb(self.sum_bytes), mb(self.limit_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_metric_makes_the_sum_incomplete() {
        let both = "# HELP x\npillar_agent_resident_bytes 9000000\npillar_init_resident_bytes 1500000\n";
        assert!(report(both).to_string().ends_with("10.5 MB   limit 24.0 MB: within the limit\n"));
        let one = "pillar_agent_resident_bytes_other 1\npillar_agent_resident_bytes 9000000\n";
        let text = report(one).to_string();
        assert!(text.contains("init     unknown") && text.ends_with("incomplete\n"), "{text}");
        assert!(report("pillar_agent_resident_bytes 25000000\n").to_string().ends_with("over the limit\n"));
    }
}
