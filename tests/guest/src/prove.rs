//! Volumes with and without integrity: made, cut short and made anew, grown, filled, closed, opened again, read.

use crate::say;
use crate::volume::{self, BLOCK_BYTES, Cut};
use anyhow::{Context, Result, ensure};
use pillar_luks::{Shape, State};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

/// How many files are written, and how large each is: more than the file system had room for before it grew.
const FILES: u8 = 12;
const FILE_BYTES: usize = 8 << 20;

pub fn run() -> Result<()> {
    for (disk, name, integrity) in [("/dev/vda", "plain", false), ("/dev/vdb", "integrity", true)] {
        prove(Path::new(disk), name, integrity).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn prove(disk: &Path, name: &str, integrity: bool) -> Result<()> {
    let shape = Shape::state(integrity);
    is(disk, &State::Blank)?;
    for cut in [Cut::Formatted, Cut::Grown] {
        ensure!(volume::make(disk, name, &shape, Some(cut))?.is_none(), "it was cut short");
        is(disk, &State::Interrupted)?;
    }
    let started = Instant::now();
    let made = volume::make(disk, name, &shape, None)?.context("it was not cut short")?;
    is(disk, &State::Luks2)?;
    let stat = rustix::fs::statvfs(&made.at).context("no statvfs")?;
    let (mib, seconds) = ((stat.f_blocks * stat.f_frsize) >> 20, started.elapsed().as_secs_f64());
    say(&format!("{name}: made, {mib} MiB, in {seconds:.1} s"));
    for number in 0..FILES {
        let mut file =
            File::create(made.at.join(format!("file-{number}"))).context("cannot create a file")?;
        file.write_all(&content(number)).context("cannot write a file")?;
        file.sync_all().context("cannot sync a file")?;
    }
    made.close_after(volume::check_file_system)?;
    let again = volume::reopen(disk, name, &shape)?;
    for number in 0..FILES {
        let mut found = Vec::new();
        let path = again.at.join(format!("file-{number}"));
        File::open(&path).and_then(|mut file| file.read_to_end(&mut found)).context("cannot read a file")?;
        ensure!(found == content(number), "{} is not what was written", path.display());
    }
    fs::remove_file(again.at.join("file-0")).context("cannot remove a file")?;
    again.close_after(volume::check_file_system)?;
    say(&format!("{name}: closed, opened again, all files as written, e2fsck finds nothing"));
    damage(disk, name, &shape)
}

/// One changed byte in the data: with integrity it cannot be read, without it is read as something else.
fn damage(disk: &Path, name: &str, shape: &Shape) -> Result<()> {
    let file = volume::open(disk)?;
    let end = pillar_os::device_bytes(&file).context("no size")? - BLOCK_BYTES;
    let mut found = 0;
    // Where the files are is ext4's secret, so that a stripe over everything behind the first blocks is changed.
    for at in (shape.data_offset + (24 << 20)..end).step_by(16 << 10) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).context("cannot read the disk")?;
        if byte != [0] {
            file.write_all_at(&[byte[0] ^ 1], at).context("cannot write the disk")?;
            found += 1;
        }
    }
    ensure!(found > 0, "nothing was there to be damaged");
    file.sync_all().context("cannot sync the disk")?;
    let again = match volume::reopen(disk, name, shape) {
        Ok(again) => again,
        Err(error) => {
            say(&format!("{name}: damaged, does not mount: {error:#}"));
            return Ok(());
        }
    };
    let (mut refused, mut wrong) = (0, 0);
    for number in 1..FILES {
        let mut found = Vec::new();
        match File::open(again.at.join(format!("file-{number}"))).and_then(|mut f| f.read_to_end(&mut found))
        {
            Err(_) => refused += 1,
            Ok(_) if found != content(number) => wrong += 1,
            Ok(_) => {}
        }
    }
    // How many depends on where ext4 put them.
    let result = match (refused, wrong) {
        (0, 1..) => "files read wrong".to_owned(),
        (1.., 0) => "files refused".to_owned(),
        _ => format!("{refused} files refused, {wrong} read wrong"),
    };
    say(&format!("{name}: damaged, {result}"));
    again.close()
}

fn is(disk: &Path, expected: &State) -> Result<()> {
    let state = volume::state_of(disk)?;
    ensure!(state == *expected, "{} is {state:?}, expected {expected:?}", disk.display());
    Ok(())
}

fn content(number: u8) -> Vec<u8> {
    (0..FILE_BYTES).map(|at| (at >> 8) as u8 ^ at as u8 ^ number).collect()
}
