//! What a person types first: `./just up` with several machines, as the README has it, from the launcher on.

use anyhow::{Context, Result, ensure};
use pillar_e2e::machine::Bench;
use pillar_e2e::programs::{program, workspace};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A run folder of its own; nothing in it runs when this is gone.
struct Recipes {
    run_dir: PathBuf,
}

impl Recipes {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(workspace().join("just"));
        command.args(words).current_dir("/").env("PILLAR_RUN_DIR", &self.run_dir).env("NO_COLOR", "1");
        command
    }

    /// Runs one to its good end; what it printed.
    fn just(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output().context("cannot start ./just")?;
        let (text, errors) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "./just {}: {text}{errors}", words.join(" "));
        Ok(text)
    }
}

impl Drop for Recipes {
    fn drop(&mut self) {
        // Also when the test failed.
        let _ = self.command(&["down"]).output();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Two machines: the recipe does the same with four.
#[test]
fn up_with_several_machines_ends_with_a_cluster_that_attests_itself() -> Result<()> {
    let bench = Bench::new("recipes")?;
    // Built before machines wait for the compiler.
    program("pillar")?;
    let recipes = Recipes { run_dir: bench.dir().to_owned() };
    let said = recipes.just(&["up", "2"])?;
    ensure!(said.contains("founded lab: 2 pillars"), "{said}");
    // The table at its end: each is up, and the other one vouches for it.
    for (name, other) in [("p1", "p2"), ("p2", "p1")] {
        let line = said.lines().find(|line| line.starts_with(&format!("{name}  ")) && line.contains(" up "));
        let line = line.with_context(|| format!("{name} is not up: {said}"))?;
        ensure!(line.contains(other), "{other} does not vouch for {name}: {said}");
    }
    // Once more: nothing is started and nothing is founded.
    let again = recipes.just(&["up", "2"])?;
    ensure!(!again.contains("founded lab"), "{again}");
    let asked = recipes.just(&["attest", "p2", "--from", "p1"])?;
    ensure!(asked.contains("verified by p1: p2 runs pillar"), "{asked}");
    recipes.just(&["attest", "p1"])?;
    recipes.just(&["lab", "delay", "p1", "p2", "5ms"])?;
    let network = recipes.just(&["lab", "show"])?;
    ensure!(network.contains("p1 → p2: "), "{network}");
    recipes.just(&["down"])?;
    let unreachable = recipes.command(&["pillar", "status", "--from", "p1"]).output()?;
    ensure!(!unreachable.status.success(), "{}", text(&unreachable.stdout));
    for machine in ["p1", "p2"] {
        fs::remove_file(bench.dir().join(machine).join("disk.raw"))?;
    }
    Ok(())
}
