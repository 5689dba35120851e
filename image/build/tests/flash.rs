//! `pillar-image flash` as a person runs it: on files, and (as root) on loop devices with both sector sizes; cut off at
//! random instants, refused for every reason, out of room.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings are broken")]

use pillar_image::disk;
use pillar_image::flavour::{Disk, SectorSize};
use pillar_image::seal::Sealer;
use pillar_layout::gpt;
use pillar_model::RootHash;
use pillar_slot::Gpt;
use pillar_tools::Tools;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// What the disks of these tests have, the images being smaller.
const DISK_BYTES: u64 = 32 * MIB;
/// How often a run is cut off.
const INTERRUPTIONS: usize = 100;

/// xorshift64*: the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.take(count.div_ceil(8)).flatten().take(count).collect()
    }
}

/// An image with random content, and what of it must be on a disk.
struct TestImage {
    path: PathBuf,
    bytes: Vec<u8>,
    sector: SectorSize,
}

impl TestImage {
    fn make(dir: &Path, name: &str, sector: SectorSize, random: &mut Random) -> Self {
        let tools = Tools::open().unwrap();
        let sealer = Sealer { tools: &tools, epoch: 0, seed: name };
        let hash: RootHash = hex::encode(random.bytes(32)).parse().unwrap();
        let sizes = Disk { sector_sizes: vec![sector], esp_mib: 6, root_mib: 5, verity_mib: 1, state_mib: 8 };
        let plan = disk::plan(&sizes, &hash, name);
        let (esp, root) = (dir.join(format!("{name}.esp")), dir.join(format!("{name}.root")));
        // With empty parts within, and an end in the middle of a mebibyte.
        let mut content = random.bytes(5_500_000);
        content[2_000_000..4_200_000].fill(0);
        fs::write(&esp, &content).unwrap();
        fs::write(&root, random.bytes(3_300_000)).unwrap();
        let path = dir.join(format!("pillar_{name}.raw"));
        let contents = [(gpt::LABEL_ESP, esp.as_path()), (gpt::LABEL_ROOT_A, root.as_path())];
        disk::write(&sealer, &plan, sector, &contents, &path).unwrap();
        Self { bytes: fs::read(&path).unwrap(), path, sector }
    }

    /// Partitions byte for byte, and the table's entries but for the state partition's end.
    fn is_on(&self, disk: &[u8]) -> bool {
        let from = MIB as usize;
        let to = self.bytes.len() - MIB as usize;
        let (Some(ours), Some(theirs)) = (table(&self.bytes, self.sector), table(disk, self.sector)) else {
            return false;
        };
        let guids = |gpt: &Gpt| gpt.partitions.iter().map(|p| p.guid).collect::<Vec<_>>();
        guids(&ours) == guids(&theirs) && self.bytes[from..to] == disk[from..to]
    }
}

fn table(disk: &[u8], sector: SectorSize) -> Option<Gpt> {
    let block = u32::try_from(sector.bytes()).unwrap();
    let read = |offset: u64, len: usize| {
        let at = usize::try_from(offset).unwrap();
        disk.get(at..at + len).map(<[u8]>::to_vec).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    };
    Gpt::read(block, disk.len() as u64 / sector.bytes(), read).ok()
}

/// A loop device, or a file when there are none.
struct Place {
    file: PathBuf,
    node: PathBuf,
    attached: bool,
}

impl Place {
    fn file(dir: &Path, name: &str, bytes: u64) -> Self {
        let file = dir.join(name);
        File::create(&file).unwrap().set_len(bytes).unwrap();
        Self { node: file.clone(), file, attached: false }
    }

    fn device(dir: &Path, name: &str, bytes: u64, options: &[&str]) -> Option<Self> {
        let place = Self::file(dir, name, bytes);
        let mut attach = Command::new("losetup");
        let output = attach.args(["--find", "--show"]).args(options).arg(&place.file).output().ok()?;
        if !output.status.success() {
            eprintln!("skipped: loop devices need root and the kernel's loop module");
            return None;
        }
        let node = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Some(Self { node, file: place.file.clone(), attached: true })
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        File::open(&self.node).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.attached {
            let _ = Command::new("losetup").arg("--detach").arg(&self.node).status();
        }
    }
}

fn flash(image: &Path, target: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillar-image"));
    command.args(["flash", "--yes", "--image"]).arg(image).arg(target);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(image: &Path, target: &Path) -> (i32, String) {
    said(&flash(image, target).output().unwrap())
}

fn said(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn succeeds(image: &TestImage, place: &Place) {
    let (code, text) = run(&image.path, &place.node);
    assert_eq!(code, 0, "{text}");
    assert!(image.is_on(&place.read()), "the image is not on {}: {text}", place.node.display());
}

/// Images and places of one sector size: the same place gets one image after the other.
struct Track {
    images: [TestImage; 2],
    place: Place,
    /// Which of the images is there.
    now: usize,
    /// How long an undisturbed run takes.
    usual: Duration,
}

// attack: P8
#[test]
fn cut_off_at_100_random_instants_a_disk_never_boots_half_an_image_and_a_second_run_mends_it() {
    let seed = std::env::var("PILLAR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 | 1
    });
    println!("PILLAR_SEED={seed} repeats this run's instants");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut images = |name: &str, sector| {
        ["a", "b"].map(|n| TestImage::make(dir.path(), &format!("{name}-{n}"), sector, &mut random))
    };
    let place = Place::file(dir.path(), "file", DISK_BYTES);
    let mut tracks =
        vec![Track { images: images("file", SectorSize::B512), place, now: 0, usual: Duration::ZERO }];
    for sector in SectorSize::ALL {
        let bytes = sector.bytes().to_string();
        let options = ["--sector-size", &bytes];
        if let Some(place) = Place::device(dir.path(), &format!("disk{bytes}"), DISK_BYTES, &options) {
            tracks.push(Track { images: images(&bytes, sector), place, now: 0, usual: Duration::ZERO });
        }
    }
    for track in &mut tracks {
        succeeds(&track.images[0], &track.place);
        let begin = Instant::now();
        let (code, text) = run(&track.images[0].path, &track.place.node);
        assert_eq!(code, 0, "{text}");
        track.usual = begin.elapsed();
    }
    let (mut old, mut none, mut new) = (0, 0, 0);
    for round in 0..INTERRUPTIONS {
        let count = tracks.len();
        let track = &mut tracks[round % count];
        let (before, after) = (&track.images[track.now], &track.images[1 - track.now]);
        let instant = track.usual.mul_f64((random.next() >> 11) as f64 / (1_u64 << 53) as f64);
        let mut child = flash(&after.path, &track.place.node).spawn().unwrap();
        std::thread::sleep(instant);
        child.kill().unwrap();
        child.wait().unwrap();
        let disk = track.place.read();
        let boots = table(&disk, after.sector).is_some();
        match (boots, before.is_on(&disk), after.is_on(&disk)) {
            (false, false, false) => none += 1,
            (true, true, false) => old += 1,
            (true, false, true) => new += 1,
            _ => panic!(
                "round {round}, killed after {instant:?}: half an image boots from {:?}",
                track.place.node
            ),
        }
        succeeds(after, &track.place);
        track.now = 1 - track.now;
    }
    println!("{INTERRUPTIONS} interruptions: {old} boot the old image, {none} nothing, {new} the new one");
    assert!(none >= 10, "only {none} of the interruptions hit the writing: they prove nothing");
}

#[test]
fn third_party_tools_accept_the_table() {
    let mut random = Random(7);
    let dir = tempfile::tempdir().unwrap();
    let tools = Tools::open().unwrap();
    let agrees = |program: &str, arguments: &[&str]| {
        let (code, text) = said(&tools.command(program).args(arguments).output().unwrap());
        assert_eq!(code, 0, "{program}: {text}");
        text
    };
    for sector in SectorSize::ALL {
        let bytes = sector.bytes().to_string();
        let image = TestImage::make(dir.path(), &format!("t{bytes}"), sector, &mut random);
        let options = ["--sector-size", &bytes];
        let odd = DISK_BYTES + 5 * MIB / 2 + 4096;
        let Some(place) = Place::device(dir.path(), &format!("disk{bytes}"), odd, &options) else { continue };
        succeeds(&image, &place);
        let node = place.node.to_str().unwrap();
        let checked = agrees("sgdisk", &["-v", node]);
        assert!(checked.contains("No problems found"), "{checked}");
        agrees("sfdisk", &["--verify", node]);
        let disk = place.read();
        let gpt = table(&disk, sector).unwrap();
        assert_eq!(gpt.warning(), None);
        let end = (gpt.partitions.last().unwrap().last_lba + 1) * sector.bytes();
        assert_eq!(end, 34 * MIB, "the state partition reaches to the last whole mebibyte");
    }
    let image = TestImage::make(dir.path(), "file", SectorSize::B512, &mut random);
    let place = Place::file(dir.path(), "disk", DISK_BYTES + 1000);
    succeeds(&image, &place);
}

/// A disk that was something else before: nothing of it is left where the image is empty.
#[test]
fn what_was_on_the_disk_before_is_gone_from_the_image_s_part() {
    let mut random = Random(9);
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::make(dir.path(), "new", SectorSize::B512, &mut random);
    let places = [
        Some(Place::file(dir.path(), "file", DISK_BYTES)),
        Place::device(dir.path(), "disk", DISK_BYTES, &[]),
    ];
    for place in places.into_iter().flatten() {
        let old = File::options().write(true).open(&place.node).unwrap();
        old.write_all_at(&random.bytes(DISK_BYTES as usize), 0).unwrap();
        old.sync_all().unwrap();
        succeeds(&image, &place);
        let state = image.bytes.len() - 9 * MIB as usize;
        assert!(place.read()[state..state + 8 * MIB as usize].iter().all(|byte| *byte == 0));
    }
}

/// The target's bytes are the same before and after.
#[track_caller]
fn refuses(image: &Path, target: &Path, bytes: impl Fn() -> Vec<u8>, reason: &str) {
    let before = bytes();
    let (code, text) = run(image, target);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains(reason) && text.contains("hint: "), "{reason:?} is not said: {text}");
    assert!(before == bytes(), "{} was written to", target.display());
}

#[test]
fn what_must_not_be_overwritten_is_refused_with_its_reason_and_not_touched() {
    let mut random = Random(11);
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::make(dir.path(), "image", SectorSize::B512, &mut random);
    let fill = |place: &Place| fs::write(&place.file, vec![0x5a; DISK_BYTES as usize]).unwrap();
    let image_bytes = || fs::read(&image.path).unwrap();
    refuses(&image.path, &image.path, image_bytes, "it is the image itself");
    refuses(&image.path, Path::new("/dev/null"), Vec::new, "it is a character device");
    refuses(&image.path, dir.path(), Vec::new, "it is a folder");
    let small = Place::file(dir.path(), "small", 20 * MIB);
    refuses(&image.path, &small.node, || small.read(), "it has 20971520 bytes, the image needs 28328448");

    // Something else than an image, and an image whose release says another digest.
    let place = Place::file(dir.path(), "plain", DISK_BYTES);
    fill(&place);
    refuses(&small.file, &place.node, || place.read(), "no partition table");
    let mut damaged = image_bytes();
    damaged[530] ^= 1;
    let damaged_path = dir.path().join("damaged.raw");
    fs::write(&damaged_path, &damaged).unwrap();
    refuses(&damaged_path, &place.node, || place.read(), "primary copy is damaged");

    // Nobody is there to be asked.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillar-image"));
    command.args(["flash", "--image"]).arg(&image.path).arg(&place.node).stdin(Stdio::null());
    let (code, text) = said(&command.output().unwrap());
    assert!(code == 3 && text.contains("standard input is no terminal"), "{code}: {text}");
    assert!(place.read().iter().all(|byte| *byte == 0x5a));

    let Some(disk) = Place::device(dir.path(), "disk", DISK_BYTES, &["--partscan"]) else { return };
    succeeds(&image, &disk);
    refuses(&image.path, &disk.file, || disk.read(), "is behind the loop device");
    let part = PathBuf::from(format!("{}p1", disk.node.display()));
    // Told by hand: this kernel may read no GPT.
    let _ = Command::new("addpart").arg(&disk.node).args(["1", "2048", "12288"]).output();
    if part.exists() {
        let whole = format!("it is a partition of {}", disk.node.display());
        refuses(&image.path, &part, || disk.read(), &whole);
        mounted_is_refused(&image, &disk, &part, dir.path());
        let removed = Command::new("delpart").arg(&disk.node).arg("1").status().unwrap();
        assert!(removed.success());
    } else {
        eprintln!("skipped: this kernel shows no partitions of loop devices");
    }
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap();
    let held = OpenOptions::new().read(true).custom_flags(exclusive).open(&disk.node).unwrap();
    refuses(&image.path, &disk.node, || disk.read(), "another program has it open for itself alone");
    drop(held);
    swap_is_refused(&image, &disk);
    drop(disk);

    let read_only = Place::device(dir.path(), "ro", DISK_BYTES, &["--read-only"]).unwrap();
    refuses(&image.path, &read_only.node, || read_only.read(), "it is read-only");
    let large = Place::device(dir.path(), "large", DISK_BYTES, &["--sector-size", "4096"]).unwrap();
    refuses(
        &image.path,
        &large.node,
        || large.read(),
        "its sectors have 4096 bytes, the image is made for 512",
    );
}

fn mounted_is_refused(image: &TestImage, disk: &Place, part: &Path, dir: &Path) {
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(part).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let at = dir.join("mounted here");
    fs::create_dir(&at).unwrap();
    let mounted = Command::new("mount").args(["-o", "ro"]).arg(part).arg(&at).status().unwrap();
    assert!(mounted.success());
    let reason = format!("is mounted on {}", at.display());
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        refuses(&image.path, &disk.node, || disk.read(), &reason);
    }));
    let unmounted = Command::new("umount").arg(&at).status().unwrap();
    assert!(unmounted.success());
    refused.unwrap();
}

fn swap_is_refused(image: &TestImage, disk: &Place) {
    let made = Command::new("mkswap").arg(&disk.node).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    if !Command::new("swapon").arg(&disk.node).status().is_ok_and(|s| s.success()) {
        return eprintln!("skipped: this kernel does not swap to loop devices");
    }
    // Its content may change while it is in use: what is told is compared, not the bytes.
    let (code, text) = run(&image.path, &disk.node);
    let off = Command::new("swapoff").arg(&disk.node).status().unwrap();
    assert!(off.success());
    assert!(code == 3 && text.contains("is swap space in use"), "{code}: {text}");
}

#[test]
fn the_disk_of_the_running_system_is_refused_and_listed_as_such() {
    let output = Command::new(env!("CARGO_BIN_EXE_pillar-image"))
        .args(["flash", "--list", "--output", "json"])
        .output()
        .unwrap();
    let (code, text) = said(&output);
    assert_eq!(code, 0, "{text}");
    let disks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let system =
        disks.as_array().unwrap().iter().find(|disk| {
            disk["refused"].as_str().is_some_and(|why| why.starts_with("this system runs from it"))
        });
    let Some(system) = system else {
        return eprintln!("skipped: the root file system of this host is on no disk of its own");
    };
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::make(dir.path(), "image", SectorSize::B512, &mut Random(13));
    let (code, text) = run(&image.path, Path::new(system["path"].as_str().unwrap()));
    assert!(code == 3 && text.contains("this system runs from it"), "{code}: {text}");
}

// attack: P8
#[test]
fn an_image_that_its_release_does_not_know_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(real) = fs::read_to_string(project_out().join("release.json")).ok() else {
        return eprintln!("skipped: there is no image in out/; `./just image` builds one");
    };
    let image = TestImage::make(dir.path(), "image", SectorSize::B512, &mut Random(17));
    let release: serde_json::Value = serde_json::from_str(&real).unwrap();
    let named = release["subject"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|subject| subject["name"].as_str().filter(|name| name.ends_with(".raw")));
    let renamed = dir.path().join(named.unwrap());
    fs::rename(&image.path, &renamed).unwrap();
    fs::write(dir.path().join("release.json"), real).unwrap();
    let place = Place::file(dir.path(), "disk", DISK_BYTES);
    refuses(&renamed, &place.node, || place.read(), "its digest is another one");
}

fn project_out() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("PILLAR_OUT").map_or_else(|| project.join("out"), PathBuf::from)
}

/// Starts a run and returns when it has begun to write.
fn writing(image: &TestImage, place: &Place) -> Child {
    let mut child = flash(&image.path, &place.node).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().starts_with("writing") {}
    // The rest is read when it ends; the pipe holds it.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

#[test]
fn a_wish_to_stop_is_heard_and_leaves_nothing_that_boots() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::make(dir.path(), "image", SectorSize::B512, &mut Random(19));
    let place = Place::file(dir.path(), "disk", DISK_BYTES);
    let mut heard = 0;
    for _ in 0..20 {
        succeeds(&image, &place);
        let mut child = writing(&image, &place);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let code = child.wait().unwrap().code();
        let boots = table(&place.read(), image.sector).is_some();
        match code {
            Some(130) => {
                assert!(!boots, "half an image boots");
                heard += 1;
            }
            // It was done already.
            Some(0) => assert!(image.is_on(&place.read())),
            other => panic!("ended with {other:?}"),
        }
    }
    assert!(heard > 0, "no run was stopped in time");
    succeeds(&image, &place);
}

#[test]
fn a_file_system_without_room_ends_in_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::make(dir.path(), "image", SectorSize::B512, &mut Random(23));
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(&full).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: mounting a file system needs root");
    }
    let outcome = std::panic::catch_unwind(|| {
        let place = Place::file(&full, "disk", DISK_BYTES);
        let (code, text) = run(&image.path, &place.node);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("the file system of") && text.contains("is full"), "{text}");
        assert!(text.contains("hint: make room there"), "{text}");
        assert!(table(&place.read(), image.sector).is_none(), "half an image boots");
        drop(place);
        fs::remove_file(full.join("disk")).unwrap();
        // Seen through a loop device, it is the device that fails.
        if let Some(place) = Place::device(&full, "disk", DISK_BYTES, &[]) {
            let (code, text) = run(&image.path, &place.node);
            assert_eq!(code, 1, "{text}");
            assert!(text.contains("error: ") && text.contains(place.node.to_str().unwrap()), "{text}");
            assert!(text.contains("hint: "), "{text}");
            assert!(table(&place.read(), image.sector).is_none(), "half an image boots");
        }
    });
    let unmounted = Command::new("umount").arg(&full).status().unwrap();
    assert!(unmounted.success());
    outcome.unwrap();
}
