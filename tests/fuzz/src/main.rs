//! `pillar-fuzz [TARGET] [SECONDS]`: builds the guided engine and lets it run, over one target or all in turn.
//!
//! What it finds on the way (inputs that reach new code) stays in the cache beside the build and is taken up by the
//! next run; an input that breaks a property is kept in `out/fuzz` and ends the run.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use pillar_fuzz::{INPUT_MAX_BYTES, TARGETS, Target, by_name, corpus};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds for each target when none are told.
const SECONDS: u64 = 60;
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// LLVM's coverage instrumentation, which stable Rust reaches through its own pass names: a counter for each edge, and
/// the operands of comparisons, so that the engine can guess magic numbers.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (targets, seconds) = chosen(&arguments)?;
    let folder = build_folder()?;
    let engine = build(&folder)?;
    for target in targets {
        fuzz(&engine, &folder, target, seconds)?;
    }
    Ok(())
}

/// Which targets, and how many seconds for each.
fn chosen(arguments: &[String]) -> Result<(Vec<&'static Target>, u64)> {
    let mut targets: Vec<&Target> = TARGETS.iter().collect();
    let mut seconds = SECONDS;
    for argument in arguments {
        if let Ok(number) = argument.parse() {
            seconds = number;
        } else if let Some(target) = by_name(argument) {
            targets = vec![target];
        } else {
            let names: Vec<String> = TARGETS.iter().map(|t| format!("{:12} {}", t.name, t.what)).collect();
            bail!(
                "{argument:?} is no target and no number of seconds\n  hint: the targets are\n    {}",
                names.join("\n    ")
            );
        }
    }
    Ok((targets, seconds))
}

/// Everything instrumented lies apart: it must never be mixed with what is shipped.
fn build_folder() -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("fuzz");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn build(folder: &Path) -> Result<PathBuf> {
    eprintln!("building the guided engine into {}", folder.display());
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "pillar-fuzz",
            "--bin",
            "guided",
            "--features",
            "guided",
        ])
        // A target of its own name, so that build scripts and procedural macros are not instrumented.
        .args(["--target", TRIPLE])
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", folder)
        .current_dir(root())
        .status()
        .context("cargo cannot be started")?;
    ensure!(
        status.success(),
        "the guided engine could not be built\n  hint: it needs a C++ compiler (package g++)"
    );
    Ok(folder.join(TRIPLE).join("release/guided"))
}

fn fuzz(engine: &Path, folder: &Path, target: &Target, seconds: u64) -> Result<()> {
    let found = folder.join("corpus").join(target.name);
    let broken = root().join("out/fuzz");
    for folder in [&found, &broken] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    eprintln!("{}: {} ({seconds} s)", target.name, target.what);
    let status = Command::new(engine)
        .arg(&found)
        .arg(corpus(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_MAX_BYTES}"))
        .arg(format!("-artifact_prefix={}/{}-", broken.display(), target.name))
        // A hang ends; the bound on processor time is checked for each input.
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"])
        .env("PILLAR_FUZZ_TARGET", target.name)
        .status()
        .with_context(|| format!("cannot run {}", engine.display()))?;
    ensure!(
        status.success(),
        "{}: a property does not hold\n  hint: the input is in {}; put it into {} so that the tests keep it",
        target.name,
        broken.display(),
        corpus(target).display()
    );
    Ok(())
}
