//! The ordered end: workload, agent, disk, then the machine. Every step has its time, and the watchdog is not pinged any
//! more, so that a step that hangs ends in a reset.

use crate::log;
use crate::run::Machine;
use crate::service::Service;
use crate::state::Task;
use crate::{clock, fatal};
use pillar_model::WorkloadState;
use std::time::Duration;

/// For the workload to end by itself.
const WORKLOAD_TIME: Duration = Duration::from_secs(10);
/// For the agent.
const AGENT_TIME: Duration = Duration::from_secs(5);
/// For what was killed to be gone.
const KILL_TIME: Duration = Duration::from_secs(2);
/// The watchdog's time for all of it.
const WATCHDOG_TIME: Duration = Duration::from_secs(30);

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Starts again.
    Reboot,
    /// Power off.
    PowerOff,
    /// The state volume's keys are destroyed, then the machine starts again.
    Erase,
}

/// Ends the machine.
pub fn shut_down(mut machine: Machine, how: How) -> ! {
    log::notice(match how {
        How::Reboot => "shutting down to reboot",
        How::PowerOff => "shutting down to power off",
        How::Erase => "shutting down to erase the state volume and reboot",
    });
    machine.ending = true;
    if let Some(pings) = machine.pings.take() {
        pings.last(WATCHDOG_TIME);
    }
    if let Some(unit) = &machine.workload {
        unit.prober.kill();
        stop(&mut machine, |m| m.workload.as_ref().map(|unit| &unit.service), WORKLOAD_TIME);
        machine.record.change(|boot| boot.workload.state = WorkloadState::Stopped);
    }
    stop(&mut machine, |m| Some(&m.agent), AGENT_TIME);
    // Its view of the file system holds the state volume.
    stop(&mut machine, |m| Some(&m.network_program), KILL_TIME);
    machine.state.unmount();
    rustix::fs::sync();
    if how == How::Erase
        && let Err(why) = machine.state.run(Task::Erase, &mut None)
    {
        log::warn(&format!("state volume not erased: {why}"));
    }
    log::notice("down");
    let error = match how {
        How::Reboot | How::Erase => pillar_os::reboot(),
        How::PowerOff => pillar_os::power_off(),
    };
    fatal::fatal(&format!("the kernel refused to end: {error}"))
}

/// Asks a child to end, then kills it.
fn stop(machine: &mut Machine, which: impl Fn(&Machine) -> Option<&Service>, time: Duration) {
    if let Some(service) = which(machine) {
        service.terminate();
    }
    if !gone(machine, &which, time)
        && let Some(service) = which(machine)
    {
        service.kill();
        gone(machine, &which, KILL_TIME);
    }
}

/// Waits for a child to be gone, going on to relay and reap.
fn gone(machine: &mut Machine, which: impl Fn(&Machine) -> Option<&Service>, time: Duration) -> bool {
    let deadline = clock::now() + time;
    loop {
        if which(machine).is_none_or(|service| !service.runs()) {
            return true;
        }
        let left = deadline.saturating_sub(clock::now());
        if left.is_zero() || machine.wait_at_most(left).is_err() {
            return false;
        }
        // A signal that stays unread would make the wait return at once.
        while let Ok(Some(_)) = machine.signals.next() {}
        machine.relay();
        let _ = machine.reap();
    }
}
