//! Writing an image to a disk beside `dd bs=4M oflag=direct conv=fsync`: the real image, most of which is empty, and one
//! full of random data. Target of both is the same loop device, alternated. What `dd` does not do, reading back, is
//! shown apart.

use crate::figures::{Ratio, Summary};
use crate::program;
use anyhow::{Context, Result, bail, ensure};
use pillar_e2e::release::Files;
use pillar_flash::{Flashed, Host, Image, Phase, Target, Watch, flash};
use serde::Serialize;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const MIB: usize = 1 << 20;
/// Our time over dd's: "faster" on an image with holes.
const SPARSE_TARGET: f64 = 1.0;
/// Our time over dd's: at least 0.95 of its speed on full data.
const FULL_TARGET: f64 = 1.0 / 0.95;

/// One kind of image.
#[derive(Debug, Serialize)]
pub struct Case {
    name: &'static str,
    image_bytes: u64,
    /// Of which we sent to the disk.
    sent_bytes: u64,
    /// Until everything was on stable storage, tables included.
    ours_seconds: Summary,
    dd_seconds: Summary,
    /// Time over time: under 1 is faster than dd.
    ratio: Ratio,
    /// Reading back and comparing, on top.
    verify_seconds: Summary,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    runs: u32,
    cases: Vec<Case>,
}

struct Quiet;

impl Watch for Quiet {
    fn phase(&self, _: Phase, _: u64) {}
    fn advance(&self, _: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// A loop device for as long as this lives.
struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path) -> Result<Self> {
        let attach = |direct: &str| {
            let mut command = Command::new("losetup");
            command.args(["--find", "--show", direct]).arg(file).output().context("cannot start losetup")
        };
        let mut output = attach("--direct-io=on")?;
        if !output.status.success() {
            output = attach("--direct-io=off")?;
        }
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self(PathBuf::from(String::from_utf8(output.stdout).context("a path in UTF-8")?.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The benchmark is over either way; a device left behind shows in `losetup --all`.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Writes both images to one loop device, ours and dd in turn.
pub fn bench(runs: u32) -> Result<Report> {
    let files = Files::find()?;
    let work =
        tempfile::Builder::new().prefix("pillar-bench-").tempdir().context("cannot make a work folder")?;
    let sparse = files.file("raw");
    let full = work.path().join("full.raw");
    fill(&sparse, &full)?;
    let bytes = fs::metadata(&sparse).with_context(|| format!("cannot read {}", sparse.display()))?.len();
    let disk = work.path().join("disk");
    File::create(&disk).and_then(|f| f.set_len(bytes)).context("cannot make the disk's file")?;
    let device = Loop::attach(&disk).context("a benchmark of a disk needs root and loop devices")?;
    let log = work.path().join("dd.log");
    let mut cases = Vec::new();
    for (name, image, target) in
        [("the image in out/", &sparse, SPARSE_TARGET), ("full of random data", &full, FULL_TARGET)]
    {
        let mut ours: Vec<Flashed> = Vec::new();
        let mut dd = Vec::new();
        // The first of each warms up: the image comes into the page cache, the disk's file gets its blocks.
        for _ in 0..=runs {
            ours.push(write(image, &device.0)?);
            let begin = Instant::now();
            let mut command = Command::new("dd");
            command.arg(format!("if={}", image.display())).arg(format!("of={}", device.0.display()));
            program::run(command.args(["bs=4M", "oflag=direct", "conv=fsync"]), "dd", &log)?;
            dd.push(begin.elapsed().as_secs_f64());
        }
        let summary = |values: Vec<f64>| Summary::of(values).context("no run");
        let ours_seconds = summary(ours[1..].iter().map(|run| run.write.as_secs_f64()).collect())?;
        let dd_seconds = summary(dd[1..].to_vec())?;
        cases.push(Case {
            name,
            image_bytes: bytes,
            sent_bytes: ours.last().map(|run| run.written_bytes).unwrap_or_default(),
            ours_seconds,
            dd_seconds,
            ratio: Ratio::of(ours_seconds, dd_seconds, target),
            verify_seconds: summary(ours[1..].iter().map(|run| run.verify.as_secs_f64()).collect())?,
        });
    }
    Ok(Report { runs, cases })
}

fn write(image: &Path, device: &Path) -> Result<Flashed> {
    let image = Image::open(image)?;
    let target = Target::open(&Host::default(), device, &image)?;
    Ok(flash(&image, &target, &Quiet)?)
}

/// A copy of the image whose partitions are full of random bytes; its table stays.
fn fill(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    let file =
        File::options().write(true).open(to).with_context(|| format!("cannot open {}", to.display()))?;
    let mut source = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let mut buffer = vec![0; MIB];
    let chunks = file.metadata().context("cannot read the copy")?.len() / MIB as u64;
    if chunks < 3 {
        bail!("{} is no image", from.display());
    }
    for chunk in 1..chunks - 1 {
        source.read_exact(&mut buffer).context("cannot read /dev/urandom")?;
        file.write_all_at(&buffer, chunk * MIB as u64).context("cannot fill the copy")?;
    }
    file.sync_all().context("cannot write the copy")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "writing to one loop device, {} runs each, alternated (median, seconds)", self.runs)?;
        for case in &self.cases {
            let mib = |bytes: u64| bytes >> 20;
            writeln!(
                f,
                "{}: {} MiB, {} of them sent",
                case.name,
                mib(case.image_bytes),
                mib(case.sent_bytes)
            )?;
            writeln!(f, "  ours, until stable              {:>8.3}", case.ours_seconds.median)?;
            writeln!(f, "  dd bs=4M oflag=direct conv=fsync {:>7.3}", case.dd_seconds.median)?;
            let speed = 1.0 / case.ratio.value;
            writeln!(
                f,
                "  {speed:.2} x dd's speed, wanted {:.2}: {}",
                1.0 / case.ratio.target,
                case.ratio.verdict()
            )?;
            writeln!(f, "  reading back and comparing      {:>8.3}", case.verify_seconds.median)?;
        }
        Ok(())
    }
}
