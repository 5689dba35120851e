//! Resident memory of init and agent in our image, once its workload is healthy. The agent tells by `/metrics`, init on
//! the console; what is not told is said to be unknown, and the sum is then marked as incomplete.

use crate::machine::Shape;
use anyhow::{Context, Result};
use pillar_e2e::programs::workspace;
use pillar_e2e::release::Files;
use pillar_keys::Keys;
use pillar_layout::console;
use pillar_tools::{Network, Tools};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::str::FromStr;
use std::time::Duration;

/// What the project allows init and agent together.
const LIMIT_BYTES: u64 = 24_000_000;
/// From power-on to a healthy workload.
const DEADLINE: Duration = Duration::from_secs(600);
/// Init may wait for a quiet moment before it says what it takes.
const INIT_DEADLINE: Duration = Duration::from_secs(60);
/// The agent's metric.
const AGENT_METRIC: &str = "pillar_agent_resident_bytes";

/// One process.
#[derive(Debug, Serialize)]
pub struct Process {
    name: &'static str,
    /// Absent when it was not told.
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
    let tools = Tools::ensure(Network::Allowed)?;
    let files = Files::find()?;
    let keys = Keys::load(&workspace().join(pillar_keys::DEFAULT_DIR))?;
    let work =
        tempfile::Builder::new().prefix("pillar-bench-").tempdir().context("cannot make a work folder")?;
    let shape = Shape::new(&tools, &keys, cpus, memory_mib)?;
    let machine = shape.start("memory", &files.file("raw"), &work.path().join("memory"))?;
    let healthy = machine.wait_console(console::WORKLOAD_HEALTHY, DEADLINE)?;
    let init = format!("{}{}", console::INIT_PREFIX, console::RESIDENT);
    let told = machine.wait_console_after(healthy.end, &init, INIT_DEADLINE);
    let init = told.ok().and_then(|found| kib(found.line.split_once(console::RESIDENT)?.1));
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
    Ok(report(init, metric(&page, AGENT_METRIC)))
}

/// Bytes of `1234 KiB`.
fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" KiB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The value of a metric without labels.
pub fn metric<T: FromStr>(page: &str, name: &str) -> Option<T> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
}

fn report(init: Option<u64>, agent: Option<u64>) -> Report {
    let process = |name, resident_bytes| Process { name, resident_bytes };
    let processes = vec![process("init", init), process("agent", agent)];
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
            let figure = process.resident_bytes.map_or_else(|| "unknown: it does not tell".to_owned(), mb);
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
    fn what_is_not_told_makes_the_sum_incomplete() {
        let text = report(Some(1_500_000), Some(9_000_000)).to_string();
        assert!(text.ends_with("10.5 MB   limit 24.0 MB: within the limit\n"), "{text}");
        let text = report(None, Some(9_000_000)).to_string();
        assert!(text.contains("init     unknown") && text.ends_with("incomplete\n"), "{text}");
        assert!(report(None, Some(25_000_000)).to_string().ends_with("over the limit\n"));
    }

    #[test]
    fn figures_are_read_as_they_are_told() {
        assert_eq!(kib("1480 KiB\r"), Some(1_515_520));
        for bad in ["", "1480", "-1 KiB", "99999999999999999999 KiB", "18446744073709551615 KiB"] {
            assert_eq!(kib(bad), None, "{bad:?}");
        }
        let page = "# HELP pillar_agent_resident_bytes x\npillar_agent_resident_bytes_other 1\npillar_agent_resident_bytes 9\n";
        assert_eq!(metric(page, AGENT_METRIC), Some(9));
        assert_eq!(metric::<u64>("", AGENT_METRIC), None);
    }
}
