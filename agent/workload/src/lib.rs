//! What one workload is: the parsed and checked `pillar.toml`. The build parses and checks; init and the agent read
//! the result as JSON from the sealed root.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A workload that passed every check of [`parse`].
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
    /// Absolute paths under which it may write; each is an empty tmpfs directory at start.
    #[serde(default)]
    pub writable: Vec<String>,
}

/// A health check, repeated for as long as the workload runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What is checked.
    #[serde(flatten)]
    pub check: Check,
    /// Milliseconds between two checks once healthy.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// Milliseconds until one check counts as failed.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Failed checks in a row until a healthy workload counts as unhealthy.
    #[serde(default = "default_failures")]
    pub failures: u32,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
