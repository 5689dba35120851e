//! Power cuts at random instants of the first boot and of use: the machine always comes back, and what was synced is
//! there. Two runs in CI, one of each kind; `PILLAR_POWER_CUTS=50 cargo test -p pillar-e2e --test power` for more. The seed is printed, and
//! `PILLAR_SEED` repeats a run.

use anyhow::{Context as _, Result, ensure};
use pillar_e2e::machine::{BOOT, Bench};
use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Until when in a boot the power is cut, after the kernel has started.
const FIRST_BOOT_MS: u64 = 16_000;
const USE_MS: u64 = 4_000;

/// Numbers that look random and can be repeated (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

// attack: P6
#[test]
fn the_machine_comes_back_with_what_was_synced() -> Result<()> {
    let runs = number("PILLAR_POWER_CUTS").unwrap_or(2);
    let seed = number("PILLAR_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs()));
    println!("{runs} power cuts, PILLAR_SEED={seed}");
    let mut random = Random(seed);
    let bench = Bench::new("power")?;
    let mut disk = bench.disk()?;
    let mut synced = 0;
    for run in 1..=runs {
        let pillar = bench.start(bench.machine(&disk)?)?;
        if run % 2 == 1 {
            // The first boot of a new disk, cut while the volume is being made or shortly after.
            let instant = Duration::from_millis(random.below(FIRST_BOOT_MS));
            pillar.machine.wait_console("Linux version", BOOT)?;
            std::thread::sleep(instant);
            println!("run {run}: first boot, cut {} ms after the kernel started", instant.as_millis());
            pillar.machine.power_cut();
        } else {
            // In use, cut between or in the middle of writes.
            pillar.healthy()?;
            let until = std::time::Instant::now() + Duration::from_millis(random.below(USE_MS));
            while std::time::Instant::now() < until {
                let visits = pillar.visit()?;
                ensure!(visits > synced, "run {run}: visit {visits} after {synced}");
                synced = visits;
            }
            println!("run {run}: cut after {synced} visits");
            pillar.machine.power_cut();
        }
        let pillar = bench.start(bench.machine(&disk)?)?;
        pillar.healthy().with_context(|| format!("run {run}: it did not come back"))?;
        let visits = pillar.visit()?;
        ensure!(visits > synced, "run {run}: visit {visits}, {synced} had been synced");
        pillar.machine.power_cut();
        synced = visits;
        if run % 2 == 0 {
            // A new disk on the same machine; its TPM stays.
            disk = bench.disk()?;
            synced = 0;
        }
    }
    bench.passed();
    Ok(())
}
