//! `pillar-agent`: answers operators over TLS with what the pillar says about itself, with the TPM's evidence and with
//! the kernel log; and attests the other pillars of its cluster, as they attest it. PID 1 starts it, restarts it, and does
//! not depend on it.
//!
//! **Invariant:** no byte of an operator's request is looked at before the connection's client certificate was found to hold
//! the key of an operator (of the sealed root, or of the constitution in a cluster), and none of another pillar's before both have accepted each other's evidence.
//!
//! Exit codes: 0 stopped by a signal, 1 could not start or serve, 2 wrong arguments.
#![forbid(unsafe_code)]

mod access;
mod attest;
mod chain;
mod channel;
mod kmsg;
mod logs;
mod metrics;
mod options;
mod peers;
mod places;
mod privileges;
mod recovery;
mod server;
mod service;
mod throttle;
mod tls;

use anyhow::Context as _;
use clap::Parser as _;
use metrics::Metrics;
use options::Options;
use places::Places;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

/// Handshakes and judgements; the verifier keeps nothing large on the stack.
const THREAD_STACK_BYTES: usize = 512 * 1024;

fn main() -> ExitCode {
    let options = Options::parse();
    log_to_stdout(&options);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("caused by: {cause}"));
            ExitCode::FAILURE
        }
    }
}

/// One line a record. Without a terminal init reads them and the kernel log stamps them.
fn log_to_stdout(options: &Options) {
    let lines = tracing_subscriber::fmt().with_max_level(options.log).with_target(false).with_ansi(false);
    if std::io::stdout().is_terminal() { lines.init() } else { lines.without_time().init() }
}

/// Opens everything, gives up what opening took, serves until told to stop.
fn run(options: &Options) -> anyhow::Result<()> {
    let places = Places::open(&options.root)?;
    let identity = tls::Identity::generate().context("cannot make the TLS certificate")?;
    let operators =
        tls::Operators::parse(&places.operators()?).context("cannot use the operators' certificates")?;
    let founders = operators.founders();
    let listener = server::listen(options.listen)?;
    let peer_listener = peers::listen(options.listen_peers).context("cannot listen for other pillars")?;
    privileges::drop_all().context("cannot drop privileges")?;

    let places = Arc::new(places);
    let metrics = Arc::new(Metrics::default());
    let attester = attest::Attester::start(options.tcti.clone(), Arc::clone(&places), Arc::clone(&metrics))
        .context("cannot start the TPM's thread")?;
    let chain = Arc::new(chain::Chain::open(&places, founders));
    let access = Arc::new(access::Access::new(operators, Arc::clone(&chain)));
    let tls = tls::server_config(&identity, Arc::clone(&access)).context("cannot set up TLS")?;
    let shared = Arc::new(peers::Shared::new(chain, Arc::clone(&places), attester.clone())?);
    let recovery = recovery::Recovery::default();
    let pillar = service::Pillar {
        places,
        attester,
        metrics: Arc::clone(&metrics),
        recovery,
        peers: Arc::clone(&shared),
    };
    let server = server::Server::new(listener, tls, identity.spki, access, pillar, metrics)?;
    let peers = peers::Peers::new(shared, peer_listener);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()
        .context("cannot start the event loop")?;
    let served = runtime.block_on(async {
        let peers = tokio::spawn(peers.run());
        tokio::select! {
            served = server.run() => served.context("cannot serve"),
            ended = peers => match ended {
                Ok(Ok(())) => Err(anyhow::anyhow!("the pillars' part of the agent ended")),
                Ok(Err(error)) => Err(error).context("cannot serve other pillars"),
                Err(failed) => Err(failed).context("the pillars' part of the agent failed"),
            },
        }
    });
    // Threads that wait for the TPM are not waited for.
    runtime.shutdown_background();
    served
}
