//! `flash`: shows the disk, asks, writes. What is decided and done is in `pillar_flash`; here is what a person sees of it.

use crate::error::{Error, file};
use crate::options::{FlashOptions, Format};
use crate::{digest, release};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pillar_flash::refuse::judge;
use pillar_flash::{Device, Flashed, Host, Image, Phase, Target, Watch};
use pillar_model::Release;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a disk image of ours is called.
const PREFIX: &str = "pillar_";
/// Exit code of a second interruption, which does not wait for the request in flight.
const INTERRUPTED: i32 = 130;
/// How often progress is a new line where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Does what the options say; what is to be printed.
pub fn run(options: &FlashOptions) -> Result<String, Error> {
    let host = Host::default();
    if options.list {
        return list(&host, options.output);
    }
    let Some(path) = &options.device else {
        return Err(Error::Usage("flash what? say the disk's node, or --list to see them".to_owned()));
    };
    let image = match &options.image {
        Some(path) => path.clone(),
        None => newest(&options.out, sector_of(&host, path))?,
    };
    let image = Image::open(&image)?;
    let target = Target::open(&host, path, &image)?;
    describe(&image, &target);
    if !options.yes {
        confirm(&target.name())?;
    }
    let watch = Screen::new()?;
    check_against_release(&image, &watch)?;
    let flashed = pillar_flash::flash(&image, &target, &watch)?;
    watch.finish();
    match options.output {
        Format::Json => json(&flashed),
        Format::Text => Ok(summary(&image, &target, &flashed)),
    }
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|source| Error::Json { what: "the result", source })
}

/// A disk and whether it may be overwritten.
#[derive(Serialize)]
struct Candidate {
    #[serde(flatten)]
    device: Device,
    /// Why not; none when it may.
    refused: Option<String>,
}

fn list(host: &Host, output: Format) -> Result<String, Error> {
    let disks = host.disks().map_err(file("read", &host.sys.join("block")))?;
    let candidates: Vec<Candidate> = disks
        .into_iter()
        .map(|device| Candidate { refused: judge(&device).err().map(|r| r.to_string()), device })
        .collect();
    if output == Format::Json {
        return json(&candidates);
    }
    if candidates.is_empty() {
        return Ok("this machine shows no disk".to_owned());
    }
    let mut text = String::new();
    for Candidate { device, refused } in &candidates {
        let state = match refused {
            Some(why) => format!("no: {why}"),
            None => "free".to_owned(),
        };
        text.push_str(&format!("{:16} {:>11}  {state}\n", device.path.display(), size(device.bytes)));
        text.push_str(&format!("{:30}{}\n", "", traits(device)));
    }
    Ok(text.trim_end().to_owned())
}

fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// What a person recognises a disk by, beside name and size.
fn traits(device: &Device) -> String {
    let mut words = vec![device.model.clone().unwrap_or_else(|| "unknown model".to_owned())];
    words.extend(device.serial.as_ref().map(|serial| format!("serial {serial}")));
    words.extend(device.transport.clone());
    if device.removable {
        words.push("removable".to_owned());
    }
    words.push(format!("sectors of {} bytes", device.sector));
    words.join(", ")
}

fn sector_of(host: &Host, path: &Path) -> u32 {
    let sector = || {
        let metadata = fs::metadata(path).ok().filter(|m| m.file_type().is_block_device())?;
        let (name, whole) = host.name_of(metadata.rdev()).ok()?;
        Some(host.disk(&whole.unwrap_or(name)).ok()?.sector)
    };
    // A file, or something that will be refused with its reason.
    sector().unwrap_or(512)
}

/// The newest image in `out`, or in a folder in it (flavours have their own), for disks of such sectors; when there is
/// none, the newest: its refusal says what is missing.
fn newest(out: &Path, sector: u32) -> Result<PathBuf, Error> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let within = entries(out).filter(|entry| entry.path().is_dir()).flat_map(|entry| entries(&entry.path()));
    let mut images: Vec<(bool, std::time::SystemTime, PathBuf)> = entries(out)
        .chain(within)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let large = name.ends_with(".4k.raw");
            let ours = name.starts_with(PREFIX) && name.ends_with(".raw");
            let modified = entry.metadata().and_then(|m| m.modified()).ok().filter(|_| ours)?;
            Some((large == (sector == 4096), modified, entry.path()))
        })
        .collect();
    images.sort();
    let newest = images.pop().map(|(_, _, path)| path);
    newest.ok_or_else(|| Error::NoDiskImage(out.to_owned()))
}

fn describe(image: &Image, target: &Target) {
    let what = match target.device() {
        Some(device) => traits(device),
        None => "a regular file".to_owned(),
    };
    eprintln!("image   {} ({})", image.path().display(), size(image.bytes()));
    eprintln!("disk    {} ({}), {what}", target.path().display(), size(target.bytes()));
    if let Some(table) = target.table() {
        let labels: Vec<&str> = table
            .partitions
            .iter()
            .map(|p| if p.label.is_empty() { "a partition without a label" } else { p.label.as_str() })
            .collect();
        eprintln!("holds   {}; all of it will be lost", labels.join(", "));
    }
}

/// Has the person type the disk's name.
fn confirm(name: &str) -> Result<(), Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::Unconfirmed("nobody can be asked: standard input is no terminal".to_owned()));
    }
    eprint!("Everything on it will be overwritten. Type {name} to go on: ");
    let _ = io::stderr().flush();
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed).map_err(file("read", Path::new("standard input")))?;
    if typed.trim() == name {
        return Ok(());
    }
    Err(Error::Unconfirmed(format!("{:?} is not {name:?}", typed.trim())))
}

/// When the release beside the image names it, its digest must be the one that stands there.
fn check_against_release(image: &Image, watch: &Screen) -> Result<(), Error> {
    let path = image.path();
    let folder = path.parent().unwrap_or(Path::new("."));
    let Ok(text) = fs::read(folder.join(release::FILE)) else { return Ok(()) };
    let Ok(release) = serde_json::from_slice::<Release>(&text) else { return Ok(()) };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let told = release.subject.iter().find(|subject| subject.name == name);
    let Some(told) = told.and_then(|subject| subject.digest.get("sha256")) else { return Ok(()) };
    watch.say("comparing the image with its release");
    let found = digest::file(path).map_err(file("read", path))?;
    if found.as_slice() == told.0.as_slice() {
        return Ok(());
    }
    Err(Error::NotOfRelease { path: path.to_owned(), release: folder.join(release::FILE) })
}

fn summary(image: &Image, target: &Target, flashed: &Flashed) -> String {
    let rate = |bytes: u64, time: Duration| {
        #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let mib = bytes as f64 / f64::from(1 << 20);
        format!("{:.1} MiB/s", mib / time.as_secs_f64().max(0.001))
    };
    let mut text = format!(
        "{} holds {} and is whole\nwrote {} in {:.1} s ({} of the image a second; {} are empty and were not sent), \
         read back {} in {:.1} s\nthe state partition reaches to the disk's end: {}",
        target.path().display(),
        image.path().file_name().unwrap_or_default().to_string_lossy(),
        size(flashed.written_bytes),
        flashed.write.as_secs_f64(),
        rate(flashed.written_bytes + flashed.skipped_bytes, flashed.write),
        size(flashed.skipped_bytes),
        size(flashed.verified_bytes),
        flashed.verify.as_secs_f64(),
        size(flashed.state_bytes),
    );
    if !flashed.direct {
        text.push_str("\nthe file system does no direct I/O: what was read back may have come from memory");
    }
    text
}

/// Progress on standard error, and the person's wish to stop.
struct Screen {
    bar: ProgressBar,
    terminal: bool,
    stop: Arc<AtomicBool>,
    state: Mutex<Lines>,
}

/// What is told where there is no terminal.
struct Lines {
    phase: &'static str,
    done: u64,
    total: u64,
    told: Instant,
}

impl Screen {
    fn new() -> Result<Self, Error> {
        let terminal = io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // The first one ends the work in order; a second one ends the program.
            signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
                .map_err(|source| Error::Start { program: "the signal handler".to_owned(), source })?;
        }
        let state = Lines { phase: "", done: 0, total: 0, told: Instant::now() };
        Ok(Self {
            bar: ProgressBar::with_draw_target(None, target),
            terminal,
            stop,
            state: Mutex::new(state),
        })
    }

    fn say(&self, words: &str) {
        match self.terminal {
            true => self.bar.set_message(words.to_owned()),
            false => eprintln!("{words}"),
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // After a failure too, so that the message starts on a clean line.
        self.bar.finish_and_clear();
    }
}

impl Watch for Screen {
    fn phase(&self, phase: Phase, bytes: u64) {
        let template = "{msg} [{bar:30}] {percent:>3}% {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.reset();
        self.bar.set_length(bytes);
        self.say(phase.words());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = Lines { phase: phase.words(), done: 0, total: bytes, told: Instant::now() };
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.terminal {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += bytes;
        if state.told.elapsed() >= LINE_EVERY {
            state.told = Instant::now();
            eprintln!("{}: {} of {}", state.phase, size(state.done), size(state.total));
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_image_for_the_disks_sectors_is_taken() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = newest(dir.path(), 512).expect_err("there is none");
        assert!(matches!(error, Error::NoDiskImage(_)) && error.hint().is_some());
        let names =
            ["pillar_2_virt.raw", "pillar_1_virt.4k.raw", "pillar_3_virt.raw", "pillar-installer_9_virt.raw"];
        for (age, name) in names.iter().enumerate() {
            let made = fs::File::create(dir.path().join(name)).expect("new");
            let age = Duration::from_secs(1_000_000 - age as u64);
            made.set_modified(std::time::SystemTime::now() - age).expect("set");
        }
        let found = |sector| newest(dir.path(), sector).expect("there").file_name().map(|n| n.to_owned());
        assert_eq!(found(512), Some("pillar_3_virt.raw".into()));
        assert_eq!(found(4096), Some("pillar_1_virt.4k.raw".into()));
        fs::remove_file(dir.path().join("pillar_1_virt.4k.raw")).expect("there");
        assert_eq!(found(4096), Some("pillar_3_virt.raw".into()), "it will be refused with its reason");
        fs::create_dir(dir.path().join("metal")).expect("new");
        fs::write(dir.path().join("metal/pillar_1_metal.raw"), "").expect("new");
        assert_eq!(found(512), Some("pillar_1_metal.raw".into()), "flavours have folders of their own");
    }
}
