//! `pillar-installer`: started by init instead of agent and workload when the sealed root is an installer's. Chooses the
//! disk by its rule or by asking, checks the image that it carries, writes it, and ends; init then powers off.
//!
//! Which disk may be taken is decided in `pillar_flash::install`; here are the console and the order of things.
//! **Invariant:** nothing is written before exactly one disk is named, by a rule that fits no other or by a person.
#![forbid(unsafe_code)]

mod console;
mod error;

use crate::console::{Console, Progress, say};
use crate::error::Error;
use pillar_flash::install::{Payload, Settings, eligible, pick};
use pillar_flash::{Device, Host, Image, Target, flash};
use pillar_layout::{console as told, root};
use ring::digest::{Context, SHA256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Disks appear one after the other (a USB hub, a controller that spins them up). They are all there when none has come
/// for so long; there is no event that says it.
const SETTLED: Duration = Duration::from_secs(5);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);
/// A person must be able to read why nothing was installed before init powers off.
const READING_TIME: Duration = Duration::from_secs(60);
/// Bytes hashed at once.
const PIECE: usize = 1 << 20;
/// What a person types to have a disk overwritten that holds something.
const OVERWRITE: &str = "overwrite";

fn main() -> ExitCode {
    match install() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("{}{error}", told::NOT_INSTALLED);
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            say(&text);
            if let Some(hint) = error.hint() {
                say(&format!("hint: {hint}"));
            }
            say(&format!("powering off in {} s", READING_TIME.as_secs()));
            std::thread::sleep(READING_TIME);
            ExitCode::FAILURE
        }
    }
}

fn install() -> Result<(), Error> {
    let settings = settings()?;
    say(&format!("this installs pillar {} ({})", settings.version, settings.flavour));
    let host = Host::default();
    let disks = settled_disks(&host)?;
    let (target, image) = match &settings.rule {
        Some(rule) => {
            let (disk, payload) = pick(rule, &disks, &settings.images)?;
            say(&format!("rule {rule}: {}", describe(disk)));
            let image = open(payload)?;
            let target = Target::open(&host, &disk.path, &image)?;
            if !settings.overwrite && !target.is_blank().map_err(Error::read(&disk.path))? {
                return Err(Error::NotEmpty { disk: disk.name.clone(), holds: holds(&target) });
            }
            (target, image)
        }
        None => ask(&host, &settings)?,
    };
    say(&format!("writing to {}", target.path().display()));
    let flashed = flash(&image, &target, &Progress::default())?;
    say(&format!(
        "{} MiB written, {} MiB read back and compared",
        flashed.written_bytes >> 20,
        flashed.verified_bytes >> 20
    ));
    say(&format!(
        "{}pillar {} on {}; remove the installer's medium, the machine powers off now",
        told::INSTALLED,
        settings.version,
        target.name()
    ));
    Ok(())
}

fn settings() -> Result<Settings, Error> {
    let path = Path::new(root::INSTALLER_SETTINGS);
    let text = fs::read(path).map_err(Error::read(path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Settings { path: path.to_owned(), source })
}

/// Every disk, when no more come.
fn settled_disks(host: &Host) -> Result<Vec<Device>, Error> {
    let mut names = BTreeSet::new();
    let mut since = Instant::now();
    loop {
        let disks = host.disks().map_err(Error::read(&host.sys.join("block")))?;
        let now: BTreeSet<String> = disks.iter().map(|disk| disk.name.clone()).collect();
        if now != names {
            (names, since) = (now, Instant::now());
        }
        if since.elapsed() >= SETTLED {
            return Ok(disks);
        }
        std::thread::sleep(LOOK);
    }
}

fn describe(disk: &Device) -> String {
    let model = disk.model.as_deref().unwrap_or("unknown model");
    let serial = disk.serial.as_deref().map(|serial| format!(", serial {serial}")).unwrap_or_default();
    let transport = disk.transport.as_deref().map(|t| format!(", {t}")).unwrap_or_default();
    format!("{} ({} MiB, {model}{serial}{transport})", disk.name, disk.bytes >> 20)
}

/// What is on a disk that is not blank, in words.
fn holds(target: &Target) -> String {
    match target.table() {
        Some(table) if !table.partitions.is_empty() => {
            let labels: Vec<&str> = table
                .partitions
                .iter()
                .map(|p| if p.label.is_empty() { "a partition without a label" } else { p.label.as_str() })
                .collect();
            format!("the partitions {}", labels.join(", "))
        }
        _ => "something other than a GUID partition table".to_owned(),
    }
}

/// Opens a payload that has the digest that it had when it was taken from the release. Its bytes come through dm-verity;
/// this says that what was sealed is what was meant.
fn open(payload: &Payload) -> Result<Image, Error> {
    let path: PathBuf = Path::new(root::INSTALLER_IMAGES).join(&payload.file);
    say("checking the image");
    let file = File::open(&path).map_err(Error::read(&path))?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; PIECE];
    for range in &payload.data {
        let (mut at, end) = (range.offset, range.offset.saturating_add(range.len));
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            file.read_exact_at(&mut buffer[..len], at).map_err(Error::read(&path))?;
            context.update(&buffer[..len]);
            at += len as u64;
        }
    }
    if hex::encode(context.finish()) != payload.data_sha256 {
        return Err(Error::Payload(path));
    }
    Ok(Image::open_with_data(&path, payload.data.clone())?)
}

/// Shows the disks, has one named, and has a disk that holds something confirmed once more.
fn ask(host: &Host, settings: &Settings) -> Result<(Target, Image), Error> {
    let console = Console::open()?;
    loop {
        let disks = settled_disks(host)?;
        say("disks of this machine:");
        for disk in &disks {
            let state = match eligible(disk, &settings.images) {
                Ok(_) => "free".to_owned(),
                Err(why) => format!("no: {why}"),
            };
            say(&format!("  {}: {state}", describe(disk)));
        }
        say("type the name of the disk to install on; an empty line looks for disks again");
        let name = console.line()?;
        let Some(disk) = disks.iter().find(|disk| disk.name == name) else {
            if !name.is_empty() {
                say(&format!("{name:?} is no disk of this machine"));
            }
            continue;
        };
        let payload = match eligible(disk, &settings.images) {
            Ok(payload) => payload,
            Err(why) => {
                say(&format!("{name} is not taken: {why}"));
                continue;
            }
        };
        let image = open(payload)?;
        let target = match Target::open(host, &disk.path, &image) {
            Ok(target) => target,
            Err(error) => {
                say(&format!("{name} is not taken: {error}"));
                continue;
            }
        };
        let blank = target.is_blank().map_err(Error::read(&disk.path))?;
        if !blank {
            say(&format!("{name} holds {}; all of it will be lost", holds(&target)));
            say(&format!("type {OVERWRITE} to go on, anything else to choose again"));
        } else {
            say(&format!("type {name} once more to write to it, anything else to choose again"));
        }
        let wanted = if blank { name.as_str() } else { OVERWRITE };
        if console.line()? == wanted {
            return Ok((target, image));
        }
    }
}
