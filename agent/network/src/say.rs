//! Records, one a line, with their level in front as systemd has it (`sd-daemon(3)`): init passes them to the kernel log.

use std::fmt::Display;

/// What people at the console want to see.
pub fn notice(what: impl Display) {
    println!("<5>{what}");
}

/// What went wrong.
pub fn warning(what: impl Display) {
    println!("<4>{what}");
}
