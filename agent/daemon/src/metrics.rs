//! Prometheus metrics: counters of this process, and gauges read when asked for.

use pillar_model::{Boot, Tpm, WorkloadState};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::{Display, Write as _};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters.
#[derive(Debug, Default)]
pub struct Metrics {
    quotes: AtomicU64,
    quotes_failed: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
}

impl Metrics {
    /// A quote was made, or not.
    pub fn count_quote(&self, made: bool) {
        let counter = if made { &self.quotes } else { &self.quotes_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that got no further than the handshake.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of open connections, as the server counts them.
    pub fn set_connections(&self, open: usize) {
        self.connections.store(u64::try_from(open).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Everything in Prometheus' text format. Without `boot` what init knows is left out.
    pub fn text(&self, boot: Option<&Boot>, uptime: Duration, resident_bytes: Option<u64>) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut page = Page::default();
        page.gauge("pillar_uptime_seconds", "Time since the kernel started.", uptime.as_secs_f64());
        page.counter("pillar_quotes_total", "Quotes made.", load(&self.quotes));
        page.counter(
            "pillar_quotes_failed_total",
            "Challenges that got no quote.",
            load(&self.quotes_failed),
        );
        page.gauge("pillar_connections_open", "Open connections.", load(&self.connections));
        page.counter(
            "pillar_handshakes_refused_total",
            "Connections that got no further than the TLS handshake.",
            load(&self.refused),
        );
        if let Some(bytes) = resident_bytes {
            page.gauge("pillar_agent_resident_bytes", "Resident memory of the agent.", bytes);
        }
        if let Ok(time) = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)) {
            let help = "Processor time that the agent has used.";
            page.counter("pillar_agent_cpu_seconds_total", help, time.as_secs_f64());
        }
        if let Some(boot) = boot {
            page.boot(boot);
        }
        page.0
    }
}

/// Resident memory of this process, from the kernel.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn boot(&mut self, boot: &Boot) {
        self.head("pillar_info", "gauge", "What runs.");
        let _ = writeln!(
            self.0,
            "pillar_info{{name={},version={},flavour={},slot={}}} 1",
            label(&boot.name),
            label(&boot.version),
            label(&boot.flavour),
            label(&boot.slot.to_string())
        );
        self.head(
            "pillar_boot_phase_seconds",
            "gauge",
            "When boot reached the phase, since the kernel started.",
        );
        for phase in &boot.phases {
            let at = Duration::from_micros(phase.at_us).as_secs_f64();
            let _ = writeln!(self.0, "pillar_boot_phase_seconds{{phase={}}} {at}", label(&phase.name));
        }
        let number = u8::from;
        self.gauge(
            "pillar_workload_up",
            "1 when the workload's health check passes.",
            number(boot.workload.state == WorkloadState::Healthy),
        );
        self.counter(
            "pillar_workload_restarts_total",
            "Times the workload was started again.",
            boot.workload.restarts,
        );
        self.gauge("pillar_agent_starts", "Times the agent was started in this boot.", boot.agent_starts);
        self.gauge("pillar_tpm_present", "1 when the boot was measured.", number(boot.tpm == Tpm::Present));
        self.gauge("pillar_trial", "1 until the boot was blessed.", number(boot.trial));
    }
}

/// A label's value with its quotes.
fn label(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }

    #[test]
    fn the_page_without_a_boot_record() {
        let metrics = Metrics::default();
        metrics.count_quote(true);
        metrics.count_quote(false);
        metrics.set_connections(2);
        let page = metrics.text(None, Duration::from_millis(1500), None);
        assert!(page.starts_with(
            "# HELP pillar_uptime_seconds Time since the kernel started.\n# TYPE pillar_uptime_seconds gauge\npillar_uptime_seconds 1.5\n"
        ));
        for line in ["pillar_quotes_total 1", "pillar_quotes_failed_total 1", "pillar_connections_open 2"] {
            assert!(page.lines().any(|one| one == line), "{line}");
        }
        assert!(!page.contains("pillar_info"));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
