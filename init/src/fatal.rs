//! The one way to give up: say why, let the console catch up, reboot.

use crate::log::{self, Level};
use pillar_layout::console::FATAL;
use std::panic::PanicHookInfo;
use std::process;
use std::thread::sleep;
use std::time::Duration;

/// For the console and for whoever reads it.
const PAUSE: Duration = Duration::from_millis(1500);

/// Records why, then reboots.
pub fn fatal(why: &str) -> ! {
    log::write(Level::Error, &format!("{FATAL}{why}"));
    sleep(PAUSE);
    let error = pillar_os::reboot();
    log::write(Level::Error, &format!("{FATAL}cannot reboot: {error}"));
    // The end of PID 1 is a kernel panic, and `panic=-1` on the command line makes that a reboot.
    process::exit(1)
}

/// Makes a panic of PID 1 what [`fatal`] is, instead of the end of PID 1.
pub fn reboot_on_panic() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        fatal(&format!("{panic}"));
    }));
}
