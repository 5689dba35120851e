//! The guided engine's program (libFuzzer). `pillar-fuzz` builds it with instrumentation and runs it; the target comes
//! in the environment, because the arguments are the engine's.
#![no_main]
#![forbid(unsafe_code)]

use pillar_fuzz::{Target, by_name, run};
use std::sync::LazyLock;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("PILLAR_FUZZ_TARGET").unwrap_or_default();
    by_name(&name).expect("PILLAR_FUZZ_TARGET names a target")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _accepted = run(&TARGET, bytes);
});
