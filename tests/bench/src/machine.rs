//! The machines of a benchmark: one shape for all, so that only what they boot differs.

use anyhow::{Context, Result};
use pillar_keys::{Keys, Variable};
use pillar_qemu::{DiskMode, Firmware, Machine, SecureBootCertificates, enrolled_template};
use pillar_tools::Tools;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What every machine of one benchmark has.
#[derive(Debug, Clone, Serialize)]
pub struct Shape {
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// Firmware variables with our Secure Boot keys.
    #[serde(skip)]
    vars: PathBuf,
}

impl Shape {
    /// Machines with the Secure Boot keys that the image is signed by.
    pub fn new(tools: &Tools, keys: &Keys, cpus: u32, memory_mib: u32) -> Result<Self> {
        let [pk, kek, db] =
            [Variable::Pk, Variable::Kek, Variable::Db].map(|v| keys.secure_boot(v).certificate);
        let vars = enrolled_template(tools, SecureBootCertificates { pk: &pk, kek: &kek, db: &db })
            .context("cannot prepare the firmware's variables")?;
        Ok(Self { cpus, memory_mib, vars })
    }

    /// Starts a machine that has never run before: new TPM, new variables, and a disk whose writes are forgotten.
    pub fn start(&self, name: &str, image: &Path, dir: &Path) -> Result<Machine> {
        Machine::builder(name)
            .dir(dir)
            .disk(image, DiskMode::Snapshot)
            .firmware(Firmware::enrolled(&self.vars))
            .cpus(self.cpus)
            .memory_mib(self.memory_mib)
            .stop_at_reboot(true)
            .start()
            .with_context(|| format!("cannot start {name}"))
    }
}

#[cfg(test)]
impl Shape {
    /// A shape that starts nothing.
    pub fn for_test() -> Self {
        Self { cpus: 1, memory_mib: 512, vars: PathBuf::new() }
    }
}
