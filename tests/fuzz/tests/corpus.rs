//! The short run: every input of the corpus, then mutations of them from a fixed seed. The same on every machine.

use pillar_fuzz::mutate::{Random, mutated};
use pillar_fuzz::{INPUT_MAX_BYTES, TARGETS, Target, corpus, run};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// Mutations for each target.
const MUTATIONS: usize = 6000;
/// Those whose inputs take milliseconds each, with fewer: chains in which every signature is made and verified.
const SLOW: &[(&str, usize)] =
    &[("entries", 600), ("evidence", 2000), ("envelope", 2000), ("heartbeat", 3000)];

/// Bounds are over the whole process, so one target runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpus(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.expect("the corpus can be read").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("the corpus can be read")))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} has no input", folder.display());
    inputs
}

fn short_run(name: &str) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let target = pillar_fuzz::by_name(name).expect("a target");
    let known = inputs(target);
    let mut accepted = 0;
    for (path, bytes) in &known {
        accepted += usize::from(given(target, bytes, path));
    }
    assert!(
        accepted > 0,
        "{name}: no input of the corpus is accepted, so what follows acceptance is not tested"
    );
    println!("{name}: {accepted} of {} inputs of the corpus are accepted", known.len());
    let known: Vec<Vec<u8>> = known.into_iter().map(|(_, bytes)| bytes).collect();
    let mut random = Random::new(4);
    let mut accepted = 0;
    let mutations = SLOW.iter().find(|(slow, _)| *slow == name).map_or(MUTATIONS, |(_, fewer)| *fewer);
    for number in 0..mutations {
        let bytes = mutated(&mut random, &known, INPUT_MAX_BYTES);
        accepted += usize::from(given(target, &bytes, &format!("mutation {number}")));
    }
    println!("{name}: {accepted} of {mutations} mutations were accepted");
}

/// Runs one input; when a property does not hold, keeps it where the test's message says.
fn given(target: &Target, bytes: &[u8], what: &str) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(target, bytes))).unwrap_or_else(|panic| {
        let kept = std::env::temp_dir().join(format!("pillar-fuzz-{}", target.name));
        fs::write(&kept, bytes).expect("the input can be kept");
        eprintln!("{}: {what} breaks a property; the input is in {}", target.name, kept.display());
        std::panic::resume_unwind(panic)
    })
}

macro_rules! short_runs {
    ($($test:ident = $target:literal;)*) => {
        $(#[test]
        fn $test() {
            short_run($target);
        })*

        #[test]
        fn every_target_has_its_short_run() {
            let runs: Vec<&str> = vec![$($target),*];
            let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(runs, targets);
        }
    };
}

short_runs! {
    // attack: A10 A13 P10
    hostile_event_logs = "event-log";
    // attack: P1 P10
    hostile_own_logs = "cel";
    // attack: A2 A6 P10
    hostile_quotes = "quote";
    // attack: A3 P10
    hostile_keys = "key";
    // attack: A7 P10
    hostile_signatures = "signature";
    // attack: B3 P10
    hostile_certifications = "tls-key";
    // attack: B8 P10
    hostile_certificates = "certificate";
    // attack: A12 A17 P1 P2 P10
    hostile_evidence = "evidence";
    // attack: P10
    hostile_messages = "wire";
    // attack: P9 P10
    hostile_frames = "frame";
    // attack: P9 P10
    hostile_heartbeats = "heartbeat";
    // attack: C3 P10
    hostile_luks_headers = "luks";
    // attack: C1 P10
    hostile_partition_tables = "gpt";
    // attack: C1 P10
    hostile_superblocks = "superblock";
    // attack: P5 P10
    hostile_recovery_tokens = "recovery";
    // attack: P10
    hostile_node_settings = "settings";
    // attack: P10
    hostile_releases = "release";
    // attack: D1 P10
    hostile_envelopes = "envelope";
    // attack: P10 P12
    hostile_entries = "entries";
    // attack: P10
    hostile_boot_entries = "boot";
    // attack: P10 P18
    hostile_time_servers = "time";
}
