//! The example workload: one page over HTTP/1.1, for a browser, and `/health` for init. The standard library alone,
//! so that a reader sees how little a workload needs.
//!
//! Every file is read at the start and served from memory: a request names an entry of a table, never a path.
#![forbid(unsafe_code)]

mod about;
mod request;
mod serve;
mod site;
mod visits;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

const USAGE: &str = "usage: pillar-hello --listen ADDRESS:PORT --root DIR [--state DIR]\n\n  \
    Serves the files of DIR, /about.json (this machine in a few words), /health, and with --state\n  \
    /visits: a number that counts on over restarts and power cuts.";

/// Requests that are answered at once; more wait in the kernel's queue. A page has four files.
const WORKERS: usize = 4;
/// A worker needs a few KiB; eight times that is no waste.
const STACK_BYTES: usize = 128 * 1024;

#[derive(Debug)]
struct Arguments {
    listen: SocketAddr,
    root: PathBuf,
    state: Option<PathBuf>,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut listen, mut root, mut state) = (None, None, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--listen" => {
                let text = value()?;
                listen = Some(
                    text.parse().map_err(|_| format!("\"{text}\" is not ADDRESS:PORT, like 0.0.0.0:8080"))?,
                );
            }
            "--root" => root = Some(value()?.into()),
            "--state" => state = Some(value()?.into()),
            _ => return Err(format!("unknown argument \"{word}\"")),
        }
    }
    let (listen, root) = (listen.ok_or("--listen is missing")?, root.ok_or("--root is missing")?);
    Ok(Arguments { listen, root, state })
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let visits = arguments.state.clone().map(visits::Visits::open).transpose()?;
    let site = Arc::new(site::Site::load(&arguments.root, visits)?);
    let listener = TcpListener::bind(arguments.listen)
        .map_err(|e| format!("cannot listen on {}: {e}", arguments.listen))?;
    println!("listening on {}, {} files", arguments.listen, site.len());
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let listener = listener.try_clone().map_err(|e| format!("cannot share the socket: {e}"))?;
            let site = Arc::clone(&site);
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || serve::accept(&listener, &site))
                .map_err(|e| format!("cannot start a worker: {e}"))
        })
        .collect::<Result<_, _>>()?;
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked".to_owned())?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_checked() {
        let good = parse("--listen 127.0.0.1:80 --root www").expect("good");
        assert_eq!((good.listen.port(), good.root), (80, "www".into()));
        for (line, want) in [
            ("--root www", "--listen is missing"),
            ("--listen 127.0.0.1:80", "--root is missing"),
            ("--listen", "--listen needs a value"),
            ("--listen here --root www", "\"here\" is not ADDRESS:PORT"),
            ("--verbose", "unknown argument \"--verbose\""),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(want), "{error}");
        }
    }
}
