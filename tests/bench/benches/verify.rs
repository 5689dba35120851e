//! Full verifications a second on one core, and ring's bare P-256 verifications beside them: an enrolled pillar's quote
//! over a firmware log of 34 KB, replayed whole, with the state of Secure Boot judged by content.
#![allow(clippy::unwrap_used)]

#[path = "../../../agent/verify/tests/boot/mod.rs"]
mod boot;
#[path = "../../../agent/verify/tests/machine/mod.rs"]
mod machine;

use criterion::Criterion;
use machine::{Machine, with_event};
use pillar_measure::tcg::EventLog;
use pillar_model::{Bank, Binding, Evidence, FirmwareReference};
use pillar_verify::{EkTrust, ExitBootServices, Firmware, Policy, SameTpm, StateVolume, ak_name, verify};
use ring::signature::{ECDSA_P256_SHA256_FIXED, KeyPair, UnparsedPublicKey};
use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Size of the log, as servers and cloud machines have it.
const LOG_BYTES: usize = 34 * 1024;
/// What the project wants.
const TARGET_PER_SECOND: f64 = 6000.0;

/// The real boot's log, filled up with events of the firmware as larger machines have more of them.
fn log() -> Vec<u8> {
    // Drivers of cards (PCR 2) before the separators would be the usual thing; behind them stand tables (PCR 1).
    let mut log = boot::EVENT_LOG.to_vec();
    let table = [0x5a; 200];
    while log.len() < LOG_BYTES {
        log = with_event(&log, 1, 0x8000_0009, &table);
    }
    log
}

struct Peer {
    evidence: Evidence,
    binding: Binding,
    ak_name: Vec<u8>,
    firmware: FirmwareReference,
    volume: String,
    key: Vec<u8>,
}

impl Peer {
    fn new() -> Self {
        let mut machine = Machine::new(&[4; 65]);
        machine.event_log = log();
        machine.measure_again();
        let binding = boot::binding();
        let evidence = Evidence { activated: Vec::new(), ..machine.evidence(&binding, Vec::new()) };
        let mut peer = Self {
            ak_name: ak_name(&evidence.ak_public).unwrap(),
            key: machine.ak.public_key().as_ref().to_vec(),
            volume: boot::STATE_VOLUME.to_owned(),
            firmware: FirmwareReference::default(),
            evidence,
            binding,
        };
        let release = boot::release();
        let releases = [&release];
        let policy = Policy { firmware: Firmware::Learn, ..peer.policy(&releases) };
        let learnt = verify(&peer.evidence, &peer.binding, &policy).unwrap().firmware();
        peer.firmware = learnt;
        peer
    }

    /// As a pillar judges an enrolled one.
    fn policy<'a>(&'a self, releases: &'a [&'a pillar_model::ReleasePredicate]) -> Policy<'a> {
        Policy {
            releases,
            bank: Bank::Sha256,
            ek: EkTrust::Row { ek_public: &self.evidence.ek_public, maker: None },
            same_tpm: SameTpm::PinnedAk(&self.ak_name),
            firmware: Firmware::Pinned(&self.firmware),
            state: StateVolume::Pinned(&self.volume),
            exit_boot_services: ExitBootServices::Required,
            denied_tpm_firmware: &[],
            dbx_required: &[],
            previous: None,
            session: None,
        }
    }
}

/// Runs under criterion; returns how often a second it ran at its best sample.
fn rate(criterion: &mut Criterion, name: &str, mut run: impl FnMut()) -> f64 {
    let best = Cell::new(f64::MAX);
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let start = Instant::now();
            (0..times).for_each(|_| run());
            let took = start.elapsed();
            best.set(best.get().min(took.as_secs_f64() / times as f64));
            took
        });
    });
    1.0 / best.get()
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let peer = Peer::new();
    let release = boot::release();
    let releases = [&release];
    let policy = peer.policy(&releases);
    let log = EventLog::parse(&peer.evidence.event_log).unwrap();
    println!("event log: {} bytes, {} events", peer.evidence.event_log.len(), log.events.len());

    let rs = [&peer.evidence.signature[6..38], &peer.evidence.signature[40..]].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &peer.key);
    let bare = rate(&mut criterion, "ring: P-256 verify", || {
        key.verify(black_box(&peer.evidence.attest), black_box(&rs)).unwrap();
    });
    let full = rate(&mut criterion, "pillar: full verification", || {
        verify(black_box(&peer.evidence), black_box(&peer.binding), &policy).unwrap();
    });
    criterion.final_summary();
    println!("bare P-256 verifications   {bare:>8.0} a second");
    println!("full verifications         {full:>8.0} a second, {:.2} of the bare rate", full / bare);
    let verdict = if full >= TARGET_PER_SECOND { "reached" } else { "missed" };
    println!("target                     {TARGET_PER_SECOND:>8.0} a second: {verdict}");
}
