//! Evidence that is made to take long ends in time, with the verdict that it must have. `./just bench hostile` tells the
//! times and the memory of optimised code.
#![allow(clippy::unwrap_used)]

mod boot;
mod hostile;
mod machine;

use hostile::CASES;
use pillar_verify::Check;
use std::time::{Duration, Instant};

/// What optimised code keeps; this test's code is optimised in part.
const LIMIT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 10 });

#[test]
fn hostile_evidence_is_judged_in_time() {
    let expected = |name: &str| match name {
        _ if name.starts_with("a log of as many") || name.starts_with("a log as large") => {
            Some(Check::Firmware)
        }
        _ if name.starts_with("authorities") || name.starts_with("remarks") || name.starts_with("two") => {
            Some(Check::SecureBoot)
        }
        // What may not start is for the machine's owner to say.
        _ if name.starts_with("a dbx") => None,
        _ if name.starts_with("an EK certificate") => Some(Check::EkCertificate),
        "as many of the smallest events as may be"
        | "the partition table's PCR, a separator after each"
        | "an own log as large as may be"
        | "an own log of escapes" => Some(Check::Events),
        _ => Some(Check::Logs),
    };
    for (name, make) in CASES {
        let case = make();
        assert_eq!(case.judge(), expected(name), "{name}");
        // The shortest of some runs: the machine has other things to do.
        let best = (0..5).map(|_| {
            let start = Instant::now();
            case.judge();
            start.elapsed()
        });
        let best = best.min().unwrap();
        assert!(best < LIMIT, "{name}: {best:?}");
    }
}
