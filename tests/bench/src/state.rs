//! Throughput of our state volume beside a volume that cryptsetup made with its defaults, both with ext4, in one guest,
//! measured in turn: sequential and random, write (with fsync at the end) and read, direct I/O.

use crate::figures::Summary;
use anyhow::{Context, Result, ensure};
use pillar_e2e::guest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Ours against the peer, without integrity; no less than this is wanted.
const TARGET: f64 = 0.9;
/// Room for the file that is written and read.
const DISK_MIB: u64 = 256;
/// What the guest's lines with a measurement begin with.
const FIGURE: &str = "figure ";

/// One measurement, as the guest says it.
#[derive(Debug, Deserialize)]
struct Figure {
    volume: String,
    what: String,
    mib_per_s: f64,
}

/// One kind of I/O on the three volumes, MiB/s.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Which kind.
    pub what: String,
    /// cryptsetup's volume.
    pub peer: Summary,
    /// Ours.
    pub ours: Summary,
    /// Ours with integrity.
    pub integrity: Summary,
    /// Ours divided by the peer's, medians.
    pub ours_to_peer: f64,
    /// With integrity, divided by the peer's.
    pub integrity_to_peer: f64,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Measurements of each kind and volume.
    pub runs: u32,
    /// What ran the guest.
    pub accelerator: String,
    /// Its kernel.
    pub kernel: String,
    /// What is wanted of `ours_to_peer`.
    pub target: f64,
    /// Each kind of I/O.
    pub rows: Vec<Row>,
    /// The host's load averages at the end.
    pub host_load: String,
}

/// Runs the benchmark.
pub fn bench(runs: u32) -> Result<Report> {
    let folder =
        tempfile::Builder::new().prefix("pillar-bench-").tempdir().context("cannot make a work folder")?;
    eprintln!("one machine, {runs} runs of each volume in turn");
    let said = guest::run(&format!("do=bench runs={runs}"), DISK_MIB, folder.path())?;
    let figures = said.lines.iter().filter_map(|line| line.strip_prefix(FIGURE)).map(|json| {
        serde_json::from_str(json)
            .with_context(|| format!("the guest said {json:?}, which is no measurement"))
    });
    let rows = rows(figures.collect::<Result<Vec<Figure>>>()?)?;
    ensure!(!rows.is_empty(), "the guest measured nothing: {:#?}", said.lines);
    Ok(Report {
        runs,
        accelerator: said.accel.to_string(),
        kernel: said.kernel,
        target: TARGET,
        rows,
        host_load: crate::boot::host_load(),
    })
}

fn rows(figures: Vec<Figure>) -> Result<Vec<Row>> {
    // Kinds in the order in which they are measured.
    let mut kinds: Vec<String> = Vec::new();
    let mut by: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for figure in figures {
        if !kinds.contains(&figure.what) {
            kinds.push(figure.what.clone());
        }
        by.entry((figure.what, figure.volume)).or_default().push(figure.mib_per_s);
    }
    let summary = |what: &str, volume: &str| {
        let values = by.get(&(what.to_owned(), volume.to_owned())).cloned().unwrap_or_default();
        Summary::of(values).with_context(|| format!("no {what} of {volume} was measured"))
    };
    let row = |what: String| {
        let [peer, ours, integrity] = ["peer", "ours", "integrity"].map(|volume| summary(&what, volume));
        let (peer, ours, integrity) = (peer?, ours?, integrity?);
        let to_peer = |volume: Summary| volume.median / peer.median;
        Ok(Row {
            ours_to_peer: to_peer(ours),
            integrity_to_peer: to_peer(integrity),
            what,
            peer,
            ours,
            integrity,
        })
    };
    kinds.into_iter().map(row).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state volume, MiB/s, median of {} (least to greatest)", self.runs)?;
        let cell = |s: Summary| format!("{:.2} ({:.2} to {:.2})", s.median, s.min, s.max);
        let [what, peer, ours, integrity] = ["", "cryptsetup's defaults", "ours", "ours with integrity"];
        writeln!(f, "{what:<18}  {peer:<26}  {ours:<26}  {integrity:<26}")?;
        for row in &self.rows {
            let [peer, ours, integrity] = [row.peer, row.ours, row.integrity].map(cell);
            writeln!(f, "{:<18}  {peer:<26}  {ours:<26}  {integrity:<26}", row.what)?;
        }
        for row in &self.rows {
            let verdict =
                if row.ours_to_peer >= self.target { "within the target" } else { "under the target" };
            writeln!(
                f,
                "{:<18}  ours {:.2} × the peer's, target ≥ {}: {verdict}; with integrity {:.2} ×",
                row.what, row.ours_to_peer, self.target, row.integrity_to_peer
            )?;
        }
        writeln!(f, "kernel {}, {}; host load {}", self.kernel, self.accelerator, self.host_load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(volume: &str, what: &str, mib_per_s: f64) -> Figure {
        Figure { volume: volume.to_owned(), what: what.to_owned(), mib_per_s }
    }

    #[test]
    fn ratios_are_of_medians_and_rows_in_order() {
        let mut figures = Vec::new();
        for (run, peer) in [(1.0, 10.0), (2.0, 20.0), (3.0, 90.0)] {
            for what in ["sequential write", "random 4 KiB read"] {
                figures.push(figure("peer", what, peer));
                figures.push(figure("ours", what, 10.0 * run));
                figures.push(figure("integrity", what, run));
            }
        }
        let rows = rows(figures).expect("all measured");
        assert_eq!(
            rows.iter().map(|row| row.what.as_str()).collect::<Vec<_>>(),
            ["sequential write", "random 4 KiB read"]
        );
        assert_eq!((rows[0].ours_to_peer, rows[0].integrity_to_peer), (1.0, 0.1));
    }

    #[test]
    fn what_was_not_measured_is_named() {
        let error = rows(vec![figure("peer", "sequential read", 1.0)]).expect_err("ours is missing");
        assert_eq!(error.to_string(), "no sequential read of ours was measured");
    }
}
