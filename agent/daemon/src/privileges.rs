//! Gives up what starting took. Init starts the agent with the capabilities to read files of root and the kernel log;
//! once they are open, nothing needs them.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct Error {
    step: &'static str,
    source: Errno,
}

/// Drops every capability for good, and keeps other processes of the same user from looking into this one. Must run
/// before any thread is started: capabilities belong to threads.
pub fn drop_all() -> Result<(), Error> {
    let failed = |step| move |source| Error { step, source };
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    set_capabilities(None, none).map_err(failed("drop the capabilities"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("forbid core dumps"))
}
