//! Runs other programs, and cleans up when a signal ends the build: the running program is ended with its children,
//! the scratch folder is removed, `out/` stays as it was.

use crate::error::Error;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an interrupted program has to clean up after itself (mkosi unmounts and removes its work folder).
const GRACE: Duration = Duration::from_secs(5);

/// How many of a failed program's last lines are shown.
const TAIL_LINES: usize = 25;

#[derive(Default)]
struct State {
    child: Option<Pid>,
    scratch: Option<PathBuf>,
    made: Option<PathBuf>,
}

static STATE: Mutex<State> = Mutex::new(State { child: None, scratch: None, made: None });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program to its end in a process group of its own; the error carries the last lines that it printed.
pub fn run(name: &str, command: &mut Command) -> Result<Output, Error> {
    start(name, command.stdin(Stdio::null()))
}

/// As [`run`], with a file as standard input.
pub fn run_with_input(name: &str, command: &mut Command, input: &Path) -> Result<Output, Error> {
    let input = std::fs::File::open(input).map_err(crate::error::file("open", input))?;
    start(name, command.stdin(input))
}

fn start(name: &str, command: &mut Command) -> Result<Output, Error> {
    use std::os::unix::process::CommandExt;
    let start = |source| Error::Start { program: name.to_owned(), source };
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = {
        let mut state = state();
        let child = command.spawn().map_err(start)?;
        state.child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        child
    };
    let output = child.wait_with_output().map_err(start);
    state().child = None;
    let output = output?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Failed { program: name.to_owned(), status: output.status.to_string(), tail: tail(&output) })
}

fn tail(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

/// From here on SIGINT, SIGTERM and SIGHUP end the build cleanly, with exit code 128 + signal.
pub fn end_cleanly_on_signals() -> Result<(), Error> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|source| Error::Start { program: "the signal handler".to_owned(), source })?;
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // Held until exit: nothing is started and nothing is renamed into out/ any more.
        let state = state();
        if let Some(child) = state.child {
            end(child);
        }
        if let Some(scratch) = &state.scratch {
            remove(scratch);
        }
        if let Some(folder) = &state.made {
            // Fails, as it should, when something is in it.
            let _ = std::fs::remove_dir(folder);
        }
        eprintln!("\nerror: interrupted\nhint: nothing was changed; run the command again");
        std::process::exit(128 + signal);
    });
    Ok(())
}

fn end(group: Pid) {
    // Failing means that the group is gone already.
    let _ = kill_process_group(group, Signal::TERM);
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && test_kill_process_group(group).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = kill_process_group(group, Signal::KILL);
}

/// The build's own thread may still be writing a file in there: try again until it is gone.
fn remove(folder: &Path) {
    for _ in 0..20 {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(50));
            }
            _ => return,
        }
    }
}

/// A folder that is removed when the build ends, however it ends (unless it is killed outright: then the next build
/// removes it).
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder, empty; a stale one is removed first. The caller holds the lock that makes it ours.
    pub fn new(path: PathBuf) -> Result<Self, Error> {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(crate::error::file("remove the stale folder", &path)(error));
            }
            _ => {}
        }
        std::fs::create_dir_all(&path).map_err(crate::error::file("create", &path))?;
        state().scratch = Some(path.clone());
        Ok(Self(path))
    }

    /// A path inside.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut state = state();
        remove(&self.0);
        state.scratch = None;
    }
}

/// Names a folder that this build made and that goes away again if a signal ends the build while it is empty.
pub fn made(folder: &Path) {
    state().made = Some(folder.to_owned());
}

/// Does something that a signal must not cut in two.
pub fn uninterrupted<T>(action: impl FnOnce() -> T) -> T {
    let _state = state();
    action()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_its_words() {
        let error = run("ls", Command::new("ls").arg("/nonexistent")).expect_err("fails");
        assert!(error.to_string().starts_with("ls failed (exit status: 2)\n  | "), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run("nosuch", &mut Command::new("/nonexistent/nosuch")).expect_err("fails");
        assert_eq!(error.to_string(), "cannot start nosuch");
    }

    #[test]
    fn scratch_goes_away_and_stale_ones_too() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("scratch");
        std::fs::create_dir(&path).expect("new");
        std::fs::write(path.join("stale"), "x").expect("new");
        let scratch = Scratch::new(path.clone()).expect("made");
        assert!(!scratch.join("stale").exists());
        drop(scratch);
        assert!(!path.exists());
    }
}
