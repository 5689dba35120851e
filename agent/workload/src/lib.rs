//! What one workload is: the parsed and checked `pillar.toml`. The build parses and checks; init and the agent read
//! the result as JSON from the sealed root.
//!
//! Invariant: what [`parse`] returns survives the way through JSON unchanged, and JSON with a key that we do not know
//! is refused.
#![forbid(unsafe_code)]

#[cfg(feature = "parse")]
mod parse;

#[cfg(feature = "parse")]
pub use parse::{Build, Error, limit, parse};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A workload that passed every check of `parse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Name: a host name label.
    pub name: String,
    /// Program and arguments; the program is relative to the workload's directory unless absolute.
    pub command: Vec<String>,
    /// Environment, complete: nothing is inherited.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// How to tell that it works.
    pub health: Health,
    /// TCP ports it listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Absolute paths under which it may write: kept on the state volume; those under `/run` and `/tmp` are on tmpfs and
    /// empty at each start.
    #[serde(default)]
    pub writable: Vec<String>,
}

/// A health check, repeated for as long as the workload runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HealthForm", into = "HealthForm")]
pub struct Health {
    /// What is checked.
    pub check: Check,
    /// Milliseconds between two checks once healthy.
    pub interval_ms: u64,
    /// Milliseconds until one check counts as failed.
    pub timeout_ms: u64,
    /// Failed checks in a row until a healthy workload counts as unhealthy.
    pub failures: u32,
}

/// [`Health`] as it is written: the check beside its numbers. (serde's `flatten` would do the same, but then unknown
/// keys could not be refused.)
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<CommandForm>,
    #[serde(default = "default_interval_ms")]
    interval_ms: u64,
    #[serde(default = "default_timeout_ms")]
    timeout_ms: u64,
    #[serde(default = "default_failures")]
    failures: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpForm {
    port: u16,
    path: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpForm {
    port: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandForm {
    argv: Vec<String>,
}

/// A `[health]` table without a check, or with several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("needs exactly one check (http, tcp or command), found {0}")]
struct OneCheck(usize);

/// Exactly one of the three, or how many there were.
fn one_check(http: Option<Check>, tcp: Option<Check>, command: Option<Check>) -> Result<Check, OneCheck> {
    let mut checks: Vec<Check> = [http, tcp, command].into_iter().flatten().collect();
    match (checks.pop(), checks.len()) {
        (Some(check), 0) => Ok(check),
        (None, _) => Err(OneCheck(0)),
        (Some(_), others) => Err(OneCheck(others + 1)),
    }
}

impl TryFrom<HealthForm> for Health {
    type Error = OneCheck;
    fn try_from(form: HealthForm) -> Result<Self, OneCheck> {
        let check = one_check(
            form.http.map(|c| Check::Http { port: c.port, path: c.path }),
            form.tcp.map(|c| Check::Tcp { port: c.port }),
            form.command.map(|c| Check::Command { argv: c.argv }),
        )?;
        Ok(Health {
            check,
            interval_ms: form.interval_ms,
            timeout_ms: form.timeout_ms,
            failures: form.failures,
        })
    }
}

impl From<Health> for HealthForm {
    fn from(health: Health) -> Self {
        let Health { check, interval_ms, timeout_ms, failures } = health;
        let mut form = HealthForm { http: None, tcp: None, command: None, interval_ms, timeout_ms, failures };
        match check {
            Check::Http { port, path } => form.http = Some(HttpForm { port, path }),
            Check::Tcp { port } => form.tcp = Some(TcpForm { port }),
            Check::Command { argv } => form.command = Some(CommandForm { argv }),
        }
        form
    }
}

fn default_interval_ms() -> u64 {
    5_000
}
fn default_timeout_ms() -> u64 {
    2_000
}
fn default_failures() -> u32 {
    3
}

/// The kinds of health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// `GET` of this path on the port at 127.0.0.1 answers with a status of 200 to 299.
    Http {
        /// TCP port.
        port: u16,
        /// Absolute path.
        path: String,
    },
    /// A TCP connection to the port at 127.0.0.1 opens.
    Tcp {
        /// TCP port.
        port: u16,
    },
    /// A command (as [`Workload::command`]) exits with 0.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// Resource limits of the workload's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Share of one CPU, in percent; 0 is no limit.
    pub cpu_percent: u64,
    /// Open files per process.
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_mib: 256, processes: 64, cpu_percent: 0, open_files: 1024 }
    }
}
