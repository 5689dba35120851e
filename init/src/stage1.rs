//! Stage 1, in the initrd: from nothing to the verified root, then into it.

use crate::measure::Measurer;
use crate::modules::Modules;
use crate::record::{Handover, phase_now};
use crate::{disk, files, grow, ima, log, mounts, plan, verity, watchdog};
use anyhow::{Context as _, bail};
use pillar_layout::{phase, root, run, user};
use pillar_model::{Boot, RootHash, Slot, Tpm, WorkloadHealth, WorkloadState};
use pillar_os::UeventSocket;
use rustix::fs::{Gid, Mode, chmod, chown};
use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

const CMDLINE: &str = "/proc/cmdline";
/// The kernel's own limit is below this.
const CMDLINE_MAX_BYTES: usize = 8192;
/// Four banks' policies of systemd's and ours are some ten kilobytes.
const POLICIES_MAX_BYTES: usize = 256 * 1024;
const OS_RELEASE_MAX_BYTES: usize = 16 * 1024;

/// Runs the stage; returns only when it failed.
pub fn run() -> anyhow::Result<Infallible> {
    mounts::mount_all(&plan::EARLY[..1])?;
    log::open().context("cannot open the kernel log")?;
    mounts::mount_all(&plan::EARLY[1..])?;
    mounts::set_sysctls(&plan::EARLY_SYSCTLS);
    make_run_directory()?;

    let mut phases = Vec::new();
    let mut measurer = Measurer::open(0, None);
    measurer.phase(phase::ENTER_INITRD);
    phases.push(phase_now(phase::ENTER_INITRD));

    let cmdline = files::read_text(Path::new(CMDLINE), CMDLINE_MAX_BYTES).context(CMDLINE)?;
    let root_hash = pillar_slot::root_hash(&cmdline)?;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let events = UeventSocket::open().context("cannot listen for devices")?;
    let mut modules = Modules::open(&kernel);
    modules.load_list(root::INITRD_MODULES);
    modules.load_for_all_devices();
    // What was loaded so far is part of the initrd, which the firmware and the stub have measured as a whole.
    ima::load_policy();
    // Some watchdogs are devices that another driver makes: Intel's is, of the bus that it lies on.
    disk::take_events(&events, &mut modules);
    let watchdog = watchdog::arm_for_stage_1();
    phases.push(phase_now("modules-loaded"));

    let found = disk::wait(&root_hash, &events, &mut modules)?;
    if let Some(warning) = &found.warning {
        log::warn(warning);
    }
    log::info(&format!("root hash {root_hash} is slot {} of {}", found.slot, found.disk));
    match grow::fit(&found.disk) {
        Ok(true) => {
            log::notice("starting again, so that the firmware measures the table as it is now");
            rustix::fs::sync();
            bail!("cannot reboot: {}", pillar_os::reboot());
        }
        Ok(false) => {}
        Err(error) => log::warn(&format!("state partition not grown: {}", log::chain(&error))),
    }
    verity::mount_root(&found, &root_hash, root::SYSROOT)?;
    phases.push(phase_now("root-mounted"));

    keep_policies();
    let (version, flavour) = os_release()?;
    measurer.phase(phase::LEAVE_INITRD);
    phases.push(phase_now(phase::LEAVE_INITRD));
    let boot =
        Boot { version, flavour, phases, ..first_record(root_hash, found.slot, kernel, measurer.state()) };
    Handover { boot, disk: found.disk, esp: found.esp, records: measurer.records(), watchdog }
        .write()
        .context("cannot hand over to stage 2")?;
    drop(measurer);

    mounts::switch_root(root::SYSROOT)?;
    let error = Command::new(root::INIT).env_clear().exec();
    bail!("cannot start {}: {error}", root::INIT)
}

fn make_run_directory() -> anyhow::Result<()> {
    mounts::make_directory(run::DIR).context(run::DIR)?;
    chown(run::DIR, None, Some(Gid::from_raw(user::AGENT))).context(run::DIR)?;
    chmod(run::DIR, Mode::from_raw_mode(0o750)).context(run::DIR)
}

/// Copies the UKI's signed policies to where the sealed root finds them. Without them there is no state volume, and
/// `pillar-state` says so.
fn keep_policies() {
    let kept = files::read_bytes(Path::new(root::SIGNED_POLICIES), POLICIES_MAX_BYTES)
        .and_then(|text| files::replace(Path::new(run::SIGNED_POLICIES), 0, &text));
    if let Err(error) = kept {
        log::warn(&format!("no signed policies in {}: {error}", root::SIGNED_POLICIES));
    }
}

fn first_record(root_hash: RootHash, slot: Slot, kernel: String, tpm: &Tpm) -> Boot {
    Boot {
        name: "pillar".to_owned(),
        version: String::new(),
        flavour: String::new(),
        slot,
        root_hash,
        kernel,
        trial: true,
        phases: Vec::new(),
        tpm: tpm.clone(),
        workload: WorkloadHealth {
            name: String::new(),
            state: WorkloadState::None,
            reason: String::new(),
            restarts: 0,
        },
        agent_starts: 0,
    }
}

fn os_release() -> anyhow::Result<(String, String)> {
    let path = format!("{}{}", root::SYSROOT, root::OS_RELEASE);
    let text = files::read_text(Path::new(&path), OS_RELEASE_MAX_BYTES).context(path)?;
    let take =
        |key| os_release_value(&text, key).with_context(|| format!("{} has no {key}", root::OS_RELEASE));
    Ok((take("IMAGE_VERSION")?, take("VARIANT_ID")?))
}

fn os_release_value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values() {
        let text = "ID=debian\nIMAGE_VERSION=\"1.2.3\"\nVARIANT_ID=virt\nEMPTY=\n";
        assert_eq!(os_release_value(text, "IMAGE_VERSION").as_deref(), Some("1.2.3"));
        assert_eq!(os_release_value(text, "VARIANT_ID").as_deref(), Some("virt"));
        assert_eq!(os_release_value(text, "EMPTY"), None);
        assert_eq!(os_release_value(text, "IMAGE"), None);
    }
}
