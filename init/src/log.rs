//! Records in the kernel log. Before it is open, standard error (the kernel's console) takes them.

use pillar_layout::console::INIT_PREFIX;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;

const DEVICE: &str = "/dev/kmsg";
/// The kernel refuses records over 1024 bytes, prefix and all.
const RECORD_MAX_BYTES: usize = 960;

static LOG: OnceLock<File> = OnceLock::new();

/// Severity, with syslog's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error = 3,
    Warning = 4,
    /// What tools outside wait for: shown on the console with `loglevel=6`.
    Notice = 5,
    Info = 6,
    Debug = 7,
}

/// Opens the kernel log; needs `/dev`.
pub fn open() -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(DEVICE)?;
    // A second call finds the log open already, which is as good.
    let _ = LOG.set(file);
    Ok(())
}

/// Writes one record of init's.
pub fn write(level: Level, text: &str) {
    record(level, INIT_PREFIX, text);
}

/// Writes one record with another prefix.
pub fn record(level: Level, prefix: &str, text: &str) {
    let mut end = text.len().min(RECORD_MAX_BYTES - prefix.len().min(64));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let line = format!("<{}>{prefix}{}\n", level as u8, text[..end].replace('\n', " "));
    // There is no other place to tell that the log cannot be written.
    let _ = match LOG.get() {
        Some(mut log) => log.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// Something failed and the machine goes on without it.
pub fn warn(text: &str) {
    write(Level::Warning, text);
}

/// A step of the boot that tools outside may wait for.
pub fn notice(text: &str) {
    write(Level::Notice, text);
}

/// Of use when looking for a cause.
pub fn info(text: &str) {
    write(Level::Info, text);
}

/// An error with everything that caused it, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
