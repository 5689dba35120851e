//! Throughput of three volumes in turn, so that a busy host burdens all alike. Direct I/O: the page cache is not what
//! is measured.

use crate::say;
use crate::volume::{self, BLOCK_BYTES, PASSPHRASE};
use anyhow::{Context, Result, ensure};
use pillar_luks::Shape;
use rustix::fs::OFlags;
use serde::Serialize;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The file that is written and read.
const FILE_BYTES: u64 = 64 << 20;
/// One request of sequential I/O.
const LARGE_BYTES: usize = 1 << 20;
/// Requests of random I/O.
const RANDOM_REQUESTS: u64 = 1024;
/// The disk of cryptsetup's own volume.
const PEER: &str = "/dev/vdc";

/// One measurement. The host reads it as JSON.
#[derive(Debug, Serialize)]
struct Figure {
    volume: &'static str,
    what: &'static str,
    mib_per_s: f64,
}

pub fn run(runs: u32) -> Result<()> {
    let ours = volume::make(Path::new("/dev/vda"), "ours", &Shape::state(false), None)?.context("made")?;
    let integrity =
        volume::make(Path::new("/dev/vdb"), "integrity", &Shape::state(true), None)?.context("made")?;
    let volumes = [("peer", peer()?), ("ours", ours.at.clone()), ("integrity", integrity.at.clone())];
    say("volumes made");
    for (_, at) in &volumes {
        // Allocates, so that no run finds another file than the next.
        let mut file = File::create(at.join("file")).context("cannot create a file")?;
        let chunk = vec![1; LARGE_BYTES];
        (0..FILE_BYTES / LARGE_BYTES as u64)
            .try_for_each(|_| file.write_all(&chunk))
            .and_then(|()| file.sync_all())
            .context("cannot write a file")?;
    }
    for _ in 0..runs {
        for (name, at) in &volumes {
            for (what, bytes, seconds) in measure(at)? {
                let mib_per_s = bytes as f64 / f64::from(1 << 20) / seconds;
                let figure = Figure { volume: name, what, mib_per_s };
                say(&format!("figure {}", serde_json::to_string(&figure).context("JSON")?));
            }
        }
    }
    ours.close()?;
    integrity.close()
}

/// A volume as cryptsetup makes it when it is told nothing but where: its own choice of cipher, key, sector and header.
/// (How long a passphrase is stretched plays no part here and would take minutes.)
fn peer() -> Result<PathBuf> {
    for arguments in [
        &[
            "luksFormat",
            "--batch-mode",
            "--pbkdf-memory=32",
            "--pbkdf-force-iterations=4",
            "--key-file=-",
            PEER,
        ][..],
        &["open", "--key-file=-", PEER, "peer"],
    ] {
        let mut child = Command::new("/usr/sbin/cryptsetup")
            .args(arguments)
            .env("DM_DISABLE_UDEV", "1")
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start cryptsetup")?;
        child
            .stdin
            .take()
            .context("no input")?
            .write_all(PASSPHRASE)
            .context("cannot write to cryptsetup")?;
        let status = child.wait().context("cannot wait for cryptsetup")?;
        ensure!(status.success(), "cryptsetup {arguments:?}: {status}");
    }
    let blocks = volume::lay_file_system("peer")?;
    let at = volume::mount_ext4("peer")?;
    pillar_os::ext4_resize(File::open(&at).context("cannot open the mount point")?, blocks)
        .context("cannot grow")?;
    Ok(at)
}

/// Each kind of I/O once: what, bytes, seconds.
fn measure(at: &Path) -> Result<[(&'static str, u64, f64); 4]> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(at.join("file"))
        .context("cannot open the file")?;
    let mut memory = vec![0x5a; LARGE_BYTES + BLOCK_BYTES as usize];
    let aligned = memory.as_ptr().align_offset(BLOCK_BYTES as usize);
    let large = &mut memory[aligned..aligned + LARGE_BYTES];
    let places = FILE_BYTES / LARGE_BYTES as u64;
    let random = |request: u64| {
        // A full-period walk over all blocks: odd step, number of blocks a power of two.
        (request * 40_503) % (FILE_BYTES / BLOCK_BYTES) * BLOCK_BYTES
    };
    let timed = |what: &'static str, bytes: u64, work: &mut dyn FnMut() -> std::io::Result<()>| {
        let started = Instant::now();
        work().with_context(|| what.to_owned())?;
        anyhow::Ok((what, bytes, started.elapsed().as_secs_f64()))
    };
    let sequential_write = timed("sequential write", FILE_BYTES, &mut || {
        (0..places).try_for_each(|place| file.write_all_at(large, place * LARGE_BYTES as u64))?;
        file.sync_all()
    })?;
    let sequential_read = timed("sequential read", FILE_BYTES, &mut || {
        (0..places).try_for_each(|place| file.read_exact_at(large, place * LARGE_BYTES as u64))
    })?;
    let small = &mut large[..BLOCK_BYTES as usize];
    let random_bytes = RANDOM_REQUESTS * BLOCK_BYTES;
    let random_write = timed("random 4 KiB write", random_bytes, &mut || {
        (0..RANDOM_REQUESTS).try_for_each(|request| file.write_all_at(small, random(request)))?;
        file.sync_all()
    })?;
    let random_read = timed("random 4 KiB read", random_bytes, &mut || {
        (0..RANDOM_REQUESTS).try_for_each(|request| file.read_exact_at(small, random(request)))
    })?;
    Ok([sequential_write, sequential_read, random_write, random_read])
}
