//! `pillar-qemu`: the machines of `./just up`. Exit codes: 0 done (also when there was nothing to do), 1 failed,
//! 2 the command line is wrong.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod network;
mod progress;
mod up;

use clap::Parser;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Who read our output has seen enough (`| head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn report(error: &anyhow::Error) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let paint = |code: &str, word: &str| {
        if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
    };
    let mut text = format!("{} {error}\n", paint("1;31", "error:"));
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  {} {cause}\n", paint("1", "caused by:")));
    }
    for hint in error.chain().filter_map(|e| e.downcast_ref::<pillar_qemu::Error>()?.hint()) {
        text.push_str(&format!("  {} {hint}\n", paint("36", "hint:")));
    }
    // There is nowhere left to complain.
    let _ = io::stderr().write_all(text.as_bytes());
}
