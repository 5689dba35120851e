//! The short run: every input of the corpus, then mutations of them from a fixed seed. The same on every machine.

use pillar_fuzz::mutate::{Random, mutated};
use pillar_fuzz::{INPUT_MAX_BYTES, TARGETS, Target, corpus, run};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// Mutations for each target.
const MUTATIONS: usize = 6000;

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
    let known: Vec<Vec<u8>> = known.into_iter().map(|(_, bytes)| bytes).collect();
    let mut random = Random::new(4);
    let mut accepted = 0;
    for number in 0..MUTATIONS {
        let bytes = mutated(&mut random, &known, INPUT_MAX_BYTES);
        accepted += usize::from(given(target, &bytes, &format!("mutation {number}")));
    }
    println!("{name}: {accepted} of {MUTATIONS} mutations were accepted");
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
    hostile_event_logs = "event-log";
    hostile_own_logs = "cel";
    hostile_quotes = "quote";
    hostile_keys = "key";
    hostile_signatures = "signature";
    hostile_certifications = "tls-key";
    hostile_certificates = "certificate";
    hostile_messages = "wire";
    hostile_luks_headers = "luks";
    hostile_partition_tables = "gpt";
    hostile_superblocks = "superblock";
    hostile_recovery_tokens = "recovery";
    hostile_node_settings = "settings";
    hostile_releases = "release";
    hostile_boot_entries = "boot";
}
