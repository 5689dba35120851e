//! The watchdog, from as early as its module is there until the very end: what hangs is reset.

use crate::modules::Modules;
use crate::{clock, files, log};
use pillar_os::Watchdog;
use std::path::Path;
use std::time::Duration;

const DEVICE: &str = "/dev/watchdog0";
const IDENTITY: &str = "/sys/class/watchdog/watchdog0/identity";
const SOFT: &str = "softdog";
/// Stage 1 does not ping: this is for all of it, the wait for the disk too.
const STAGE_1: Duration = Duration::from_secs(180);
/// Long enough for a slow emulator, short enough to be of use.
const STAGE_2: Duration = Duration::from_secs(60);

/// An armed watchdog and when to ping it.
#[derive(Debug)]
pub struct Pings {
    watchdog: Watchdog,
    every: Duration,
    next: Duration,
}

/// Arms a hardware watchdog for stage 1, when the initrd has its module. It stays open and armed through the switch of
/// root; returns its descriptor for [`Pings::arm`] in stage 2.
pub fn arm_for_stage_1() -> Option<i32> {
    if !Path::new(DEVICE).exists() {
        return None;
    }
    let armed = Watchdog::open(Path::new(DEVICE)).and_then(|watchdog| {
        watchdog.set_timeout(STAGE_1)?;
        watchdog.stay_open()
    });
    armed.inspect_err(|error| log::warn(&format!("no watchdog in stage 1: {error}"))).ok()
}

impl Pings {
    /// Arms the watchdog for good: a hardware one if there is one, else the kernel's own.
    pub fn arm(modules: &mut Modules, from_stage_1: Option<i32>) -> Option<Pings> {
        if !Path::new(DEVICE).exists() {
            modules.load_or_warn(SOFT);
        }
        let device = Path::new(DEVICE);
        let watchdog = match from_stage_1 {
            Some(number) => Watchdog::left_open(number, device),
            None => Watchdog::open(device),
        };
        let watchdog = match watchdog {
            Ok(watchdog) => watchdog,
            Err(error) => {
                log::warn(&format!("no watchdog: {error}"));
                return None;
            }
        };
        let timeout = watchdog.set_timeout(STAGE_2).unwrap_or_else(|error| {
            log::warn(&format!("watchdog keeps its own timeout: {error}"));
            STAGE_2 / 4
        });
        let kind = files::read_text(Path::new(IDENTITY), 128).unwrap_or_default();
        log::info(&format!("watchdog armed: {}, {} s", kind.trim(), timeout.as_secs()));
        let every = (timeout / 4).max(Duration::from_secs(1));
        Some(Pings { watchdog, every, next: clock::now() + every })
    }

    /// When to ping next.
    pub fn due(&self) -> Duration {
        self.next
    }

    /// Pings when it is time.
    pub fn ping_if_due(&mut self) {
        if clock::now() < self.next {
            return;
        }
        if let Err(error) = self.watchdog.ping() {
            log::warn(&format!("cannot ping the watchdog: {error}"));
        }
        self.next = clock::now() + self.every;
    }

    /// Pings for the last time; the machine has to be down after `timeout`.
    pub fn last(self, timeout: Duration) {
        if let Err(error) = self.watchdog.set_timeout(timeout).and_then(|_| self.watchdog.ping()) {
            log::warn(&format!("cannot set the watchdog for the shutdown: {error}"));
        }
    }
}
