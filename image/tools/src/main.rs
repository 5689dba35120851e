//! `pillar-tools`: makes sure of the tools tree, or runs a program inside it.
#![forbid(unsafe_code)]

use pillar_tools::{Network, Tools};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

const USAGE: &str = "usage: pillar-tools ensure [--offline] | run PROGRAM [ARGUMENT …]\n\n  \
    ensure   builds the tools tree from the locked packages when it is missing\n  run      runs a program of the tools tree";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match words.first().and_then(|w| w.to_str()) {
        Some("ensure") => Tools::ensure(network(&words[1..])).map(|_| ()),
        Some("run") if words.len() > 1 => Tools::open().map(|tools| {
            let error = tools.command(&words[1]).args(&words[2..]).exec();
            eprintln!("error: cannot start the tools tree's python\n  caused by: {error}");
            std::process::exit(1);
        }),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  caused by: {cause}");
                source = cause.source();
            }
            if let Some(hint) = error.hint() {
                eprintln!("  hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// `./just image` hands all its words on; the one about the network concerns the tools tree too.
fn network(words: &[OsString]) -> Network {
    let forbids = |word: &str| ["--offline", "offline=yes", "offline=true", "offline=1"].contains(&word);
    let forbidden = words.iter().filter_map(|w| w.to_str()).flat_map(str::split_whitespace).any(forbids);
    if forbidden { Network::Forbidden } else { Network::Allowed }
}
