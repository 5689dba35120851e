//! What a person sees while an image is built: on a terminal one moving line, and each finished step with how long it
//! took; elsewhere a plain line as each step begins, with the time since the start.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Reports steps to standard error.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    current: Mutex<Option<(String, Instant)>>,
}

impl Progress {
    /// A spinner when standard error is a terminal.
    #[must_use]
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, started: Instant::now(), current: Mutex::new(None) }
    }

    /// The next step begins; the last one is done.
    pub fn step(&self, what: &str) {
        self.finish_step();
        match &self.bar {
            Some(bar) => {
                bar.reset_elapsed();
                bar.set_message(what.to_owned());
            }
            None => eprintln!("{:>7.1} s  {what}", self.started.elapsed().as_secs_f64()),
        }
        if let Ok(mut current) = self.current.lock() {
            *current = Some((what.to_owned(), Instant::now()));
        }
    }

    fn finish_step(&self) {
        let Ok(mut current) = self.current.lock() else { return };
        if let (Some((what, since)), Some(bar)) = (current.take(), &self.bar) {
            bar.println(format!("{:>7.1} s  {what}", since.elapsed().as_secs_f64()));
        }
    }

    /// Something worth saying.
    pub fn note(&self, text: &str) {
        let text = format!("           {text}");
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// All steps are done; how long they took.
    pub fn finish(&self) -> Duration {
        self.finish_step();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // After a failure too, so that the message starts on a clean line.
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
