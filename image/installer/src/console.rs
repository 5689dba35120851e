//! The machine's consoles. What is said goes to init, which writes it to the kernel's log and so to every console; what
//! is typed is taken from each of them.

use crate::error::Error;
use pillar_flash::{Phase, Watch};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

/// The kernel's consoles, by name, in one line.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// Syslog's "notice": what the kernel shows on the consoles with `loglevel=6`.
const NOTICE: &str = "<5>";
/// Progress is told in steps of this many percent.
const STEP: u64 = 25;
/// What is over in a moment is not told in steps.
const WORTH_STEPS: u64 = 64 << 20;

/// One line for whoever watches.
pub fn say(text: &str) {
    // There is nobody else to tell that nobody can be told.
    let _ = writeln!(std::io::stdout().lock(), "{NOTICE}{text}");
}

/// Lines that are typed on any console.
pub struct Console {
    lines: Receiver<String>,
}

impl Console {
    /// Listens on every console that can be opened.
    pub fn open() -> Result<Self, Error> {
        let active = fs::read_to_string(ACTIVE).map_err(Error::read(Path::new(ACTIVE)))?;
        let (sender, lines) = channel();
        let mut opened = 0;
        for name in active.split_whitespace() {
            // "tty0" is whichever virtual terminal is shown: all of them can be typed on.
            let path: PathBuf = Path::new("/dev").join(name);
            let Ok(file) = File::open(&path) else { continue };
            opened += 1;
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(file).lines().map_while(Result::ok) {
                    if sender.send(line.trim().to_owned()).is_err() {
                        return;
                    }
                }
            });
        }
        if opened == 0 { Err(Error::NoConsole(active.trim().to_owned())) } else { Ok(Self { lines }) }
    }

    /// The next line; waits for a person as long as it takes.
    pub fn line(&self) -> Result<String, Error> {
        self.lines.recv().map_err(|_| Error::NoConsole("all of them ended".to_owned()))
    }
}

/// Tells how far the writing is, now and then.
#[derive(Default)]
pub struct Progress {
    state: Mutex<(u64, u64, u64)>,
}

impl Watch for Progress {
    fn phase(&self, phase: Phase, bytes: u64) {
        if let Ok(mut state) = self.state.lock() {
            *state = (0, bytes.max(1), STEP);
        }
        say(phase.words());
    }

    fn advance(&self, bytes: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        let (done, total, next) = &mut *state;
        *done += bytes;
        let percent = *done * 100 / *total;
        if *total >= WORTH_STEPS && percent >= *next && percent < 100 {
            *next = percent / STEP * STEP + STEP;
            say(&format!("{percent} %"));
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}
