//! A machine without a pillar: the image's kernel with an initrd of `pillar-guest`, the image's libraries and the few
//! modules that it needs, and four disks. For what needs a kernel with device-mapper and nothing else: no firmware, no
//! TPM, no sealed root.

use crate::programs::{program, workspace};
use anyhow::{Context, Result, ensure};
use pillar_image::elf::{self, Linkage};
use pillar_image::modules::{Index, Texts};
use pillar_image::progress::Progress;
use pillar_image::tree::{Source, Tree};
use pillar_image::workshop::Workshop;
use pillar_image::{archive, flavour, lock};
use pillar_qemu::Machine;
use pillar_qemu::accel::Accel;
use pillar_tools::{Network, Tools};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// In front of each of the guest's lines that are meant for us.
const SAYS: &str = "guest: ";
/// Where libraries are, in the Debian trees and in the guest.
const LIBRARY_FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib"];
/// What the guest runs of the tools tree.
const PROGRAMS: [&str; 2] = ["cryptsetup", "e2fsck"];
/// What it needs, dependencies aside. Those of a processor that is not there do not load, which is no failure.
const MODULES: [&str; 7] =
    ["virtio_blk", "dm_crypt", "dm_integrity", "xts", "authenc", "aesni_intel", "sha256_ssse3"];
/// The disks that are empty at the beginning.
const EMPTY_DISKS: [&str; 3] = ["ours.raw", "integrity.raw", "peer.raw"];
/// The file system to begin with.
const TEMPLATE: &str = "template.raw";
/// Under emulation several minutes of work.
const DEADLINE: Duration = Duration::from_secs(300);
const MEMORY_MIB: u32 = 768;

/// What a guest said, and how it was run.
#[derive(Debug)]
pub struct Said {
    /// Its lines, without what the kernel wrote between them.
    pub lines: Vec<String>,
    /// How guest code was run.
    pub accel: Accel,
    /// `uname -r` of the kernel.
    pub kernel: String,
}

/// Runs a guest to its end; `what` is for its command line. An error is what it failed with.
pub fn run(what: &str, disk_mib: u64, folder: &Path) -> Result<Said> {
    let tools = Tools::ensure(Network::Allowed)?;
    let project = workspace();
    let flavour = flavour::read(&project, "virt")?;
    let packages = lock::read(&project, &flavour)?;
    let progress = Progress::new();
    let workshop =
        Workshop::prepare(&project, &flavour, &packages, &tools, Network::Allowed, false, &progress)?;
    let kernel = workshop.file(&format!("boot/vmlinuz-{}", workshop.kernel))?;
    let initrd = folder.join("initrd.cpio");
    let archive = archive::cpio(&tree(&workshop, &tools)?).context("cannot make the guest's initrd")?;
    fs::write(&initrd, archive).with_context(|| format!("cannot write {}", initrd.display()))?;
    let mut builder = Machine::builder("guest").dir(folder.join("machine")).memory_mib(MEMORY_MIB);
    builder = builder.kernel(
        kernel,
        Some(initrd),
        &format!("console=ttyS0 loglevel=4 panic=-1 cryptomgr.notests {what}"),
    );
    // Emulated processors get AES and SHA instructions too: which cipher is fast is part of the question.
    builder = builder.qemu_argument("-cpu").qemu_argument("max");
    let template = empty_file_system(&tools, folder)?;
    let empty = |name: &&str| {
        let path = folder.join(name);
        File::create(&path)
            .and_then(|file| file.set_len(disk_mib << 20))
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    };
    let disks = EMPTY_DISKS.iter().map(empty).chain([Ok(template)]).collect::<Result<Vec<_>>>()?;
    for disk in disks {
        let drive = format!("file={},format=raw,if=virtio,cache=writeback", disk.display());
        builder = builder.qemu_argument("-drive").qemu_argument(drive);
    }
    let mut machine = builder.start().context("cannot start the guest")?;
    let accel = machine.accel();
    let ended = machine.wait_exit(DEADLINE * accel.patience());
    let console = machine.console_so_far();
    let lines: Vec<String> = console
        .lines()
        .filter_map(|line| line.split_once(SAYS))
        .map(|(_, said)| said.trim_end().to_owned())
        .collect();
    ended.with_context(|| format!("the guest did not end: {lines:?}\n{}", machine.account()))?;
    ensure!(
        lines.last().is_some_and(|line| line == "done"),
        "the guest said {lines:#?}\n{}",
        machine.account()
    );
    Ok(Said { lines, accel, kernel: workshop.kernel })
}

/// As large as the image's own; grown by the guest. No checksums of its own and nothing left to be written lazily: what
/// was never written cannot be read on a volume with integrity, which has better checksums anyway.
fn empty_file_system(tools: &Tools, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(TEMPLATE);
    let output = tools
        .command("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-N", "1024", "-m", "0", "-J", "size=4"])
        .args(["-O", "64bit,^metadata_csum,^uninit_bg"])
        .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard,resize=268435456"])
        .arg(&path)
        .arg("16M")
        .stdin(Stdio::null())
        .output()
        .context("cannot start mkfs.ext4")?;
    ensure!(output.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr));
    Ok(path)
}

fn tree(workshop: &Workshop, tools: &Tools) -> Result<Tree> {
    let mut tree = Tree::default();
    for folder in ["/dev", "/proc", "/run", "/sys", "/tmp"] {
        tree.directory(folder)?;
    }
    let mut programs = vec![("/init".to_owned(), PathBuf::from(program("pillar-guest")?.get_program()))];
    programs
        .extend(PROGRAMS.map(|name| (format!("/usr/sbin/{name}"), tools.path(&format!("usr/sbin/{name}")))));
    let mut roots = Vec::new();
    let mut loader = None;
    for (path, host) in programs {
        let bytes = fs::read(&host).with_context(|| format!("cannot read {}", host.display()))?;
        let linkage = elf::linkage(&path, &bytes)?;
        loader = loader.or(linkage.interpreter.clone());
        roots.push((path.clone(), linkage));
        tree.program(&path, Source::Host(host))?;
    }
    // What libc opens by itself when a thread ends.
    roots.push(("libc".to_owned(), Linkage { interpreter: None, needed: vec!["libgcc_s.so.1".to_owned()] }));
    let find = |name: &str| {
        let places = LIBRARY_FOLDERS.map(|folder| format!("{folder}/{name}"));
        let shipped = places.iter().find_map(|place| workshop.find(place));
        let of_tools = || places.iter().map(|place| tools.path(place)).find(|path| path.exists());
        let host = shipped.or_else(of_tools)?;
        let bytes = fs::read(&host).ok()?;
        Some((host, bytes))
    };
    for (name, host) in elf::closure(&roots, find)? {
        tree.program(&format!("/{}/{name}", LIBRARY_FOLDERS[0]), Source::Host(host))?;
    }
    let loader = loader.context("a dynamic program names its loader")?;
    let name = loader.rsplit('/').next().unwrap_or_default().to_owned();
    tree.program(&format!("/usr/lib64/{name}"), Source::Host(workshop.file(&loader)?))?;
    for (link, target) in [("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/sbin", "usr/sbin")] {
        tree.symlink(link, target)?;
    }
    modules(&mut tree, workshop)?;
    Ok(tree)
}

/// The modules under names in the order in which they can be loaded.
fn modules(tree: &mut Tree, workshop: &Workshop) -> Result<()> {
    let folder = format!("usr/lib/modules/{}", workshop.kernel);
    let text = |name: &str| workshop.read_text(&format!("{folder}/{name}"));
    let (dep, alias, softdep, builtin) =
        (text("modules.dep")?, text("modules.alias")?, text("modules.softdep")?, text("modules.builtin")?);
    let index = Index::parse(Texts { dep: &dep, alias: &alias, softdep: &softdep, builtin: &builtin });
    let selection = index.select(&[], &MODULES.map(str::to_owned))?;
    let mut left: Vec<(String, Vec<String>)> = selection
        .dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        .collect();
    let mut number = 0;
    while !left.is_empty() {
        // Whose needs are all loaded.
        let (ready, rest): (Vec<_>, Vec<_>) =
            left.iter().cloned().partition(|(_, needs)| !left.iter().any(|(file, _)| needs.contains(file)));
        ensure!(!ready.is_empty(), "modules that need each other: {rest:?}");
        for (file, _) in ready {
            let base = file.rsplit('/').next().unwrap_or_default();
            let host = workshop.file(&format!("{folder}/{file}"))?;
            tree.file(&format!("/modules/{number:02}-{base}"), Source::Host(host))?;
            number += 1;
        }
        left = rest;
    }
    Ok(())
}
