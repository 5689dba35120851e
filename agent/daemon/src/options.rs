//! Command line. The sealed system passes nothing; the options are for tests and for debugging on a host.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing::level_filters::LevelFilter;

/// Serves this pillar to its operators, and attests the other pillars of its cluster.
#[derive(Debug, Parser)]
#[command(name = "pillar-agent", version)]
pub struct Options {
    /// Folder that stands for `/` in all paths
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Address to listen on [default: every address, port 7443]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address to listen on for other pillars [default: every address, port 7444]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen_peers: Option<SocketAddr>,
    /// Where the TPM is, as tpm2-tss names it
    #[arg(long, value_name = "TCTI", default_value = "device:/dev/tpmrm0")]
    pub tcti: String,
    /// What to log: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LevelFilter,
}
