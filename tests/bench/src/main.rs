//! `pillar-bench`: benchmarks that run the peer beside ours, in the same machines. They print figures beside the
//! targets and judge nothing: exit code 0 when every run succeeded, 1 when one failed, 2 for wrong arguments.
#![forbid(unsafe_code)]

mod bare;
mod boot;
mod cargo;
mod cluster;
mod figures;
mod flash;
mod image;
mod machine;
mod memory;
mod program;
mod reference;
mod stamp;
mod state;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

/// Benchmarks of the image in out/ beside their peers
#[derive(Debug, Parser)]
#[command(name = "pillar-bench", max_term_width = 100)]
struct Arguments {
    /// How figures are printed
    #[arg(short, long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kernel start to healthy workload, against Debian with systemd and against the bare kernel
    Boot {
        /// Boots of each, alternated
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        #[command(flatten)]
        shape: ShapeArguments,
    },
    /// Writing an image to a disk, against dd (needs root and loop devices)
    Flash {
        /// Runs of each, alternated
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
    },
    /// `./just image` after a change to the agent alone
    Image,
    /// The state volume against one that cryptsetup makes with its defaults, in one guest
    State {
        /// Measurements of each volume, alternated
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
    },
    /// Full verifications a second on one core, with ring's bare P-256 verifications beside them
    Verify,
    /// The longest time and the most memory that hostile evidence takes to be refused
    Hostile,
    /// Four pillars in one network: how soon they attest each other and notice tampering, what an agent costs
    Cluster {
        /// Starts of all four at once
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// Seconds in which agents are left alone
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(10..=86400))]
        idle: u32,
    },
    /// Resident memory of init and agent in the running image
    Memory {
        #[command(flatten)]
        shape: ShapeArguments,
    },
}

#[derive(Debug, clap::Args)]
struct ShapeArguments {
    /// Processors of each machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory of each machine in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..=65536))]
    memory: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Boot { runs, shape } => {
            boot::bench(runs, shape.cpus, shape.memory).and_then(|report| print(&report, arguments.output))
        }
        Command::Flash { runs } => flash::bench(runs).and_then(|report| print(&report, arguments.output)),
        Command::Image => image::bench().and_then(|report| print(&report, arguments.output)),
        Command::State { runs } => state::bench(runs).and_then(|report| print(&report, arguments.output)),
        Command::Cluster { runs, idle } => cluster::bench(runs, Duration::from_secs(idle.into()))
            .and_then(|report| print(&report, arguments.output)),
        Command::Verify => cargo::bench("verify"),
        Command::Hostile => cargo::bench("hostile"),
        Command::Memory { shape } => {
            memory::bench(shape.cpus, shape.memory).and_then(|report| print(&report, arguments.output))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            if let Some(hint) = error.chain().find_map(hint) {
                eprintln!("  hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn print(report: &(impl Serialize + Display), output: Output) -> Result<()> {
    match output {
        Output::Text => print!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(report).context("cannot write JSON")?),
    }
    Ok(())
}

fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    error.downcast_ref::<pillar_keys::Error>().and_then(pillar_keys::Error::hint)
}
