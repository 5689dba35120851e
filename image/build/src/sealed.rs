//! The content of the sealed root and of the initrd, as lists. Every file has a reason to be here: a program, a library
//! that a program needs, a module that the flavour names, data that libraries read.

use crate::elf::{self, Linkage};
use crate::error::{Error, file};
use crate::flavour::Flavour;
use crate::modules::{Index, Selection, Texts, name_of as module_name};
use crate::tree::{Content, Source, Tree};
use crate::workload::Workload;
use crate::workshop::Workshop;
use pillar_layout::{root, run, user};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian's dynamic loader looks by itself: there is no ld.so.cache in the image.
const LIBRARY_FOLDERS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib"];

/// Libraries that are opened at run time, so that no ELF file names them: the agent's way to the TPM.
const OPENED_AT_RUN_TIME: [&str; 1] = ["libtss2-tcti-device.so.0"];

/// Where the kernel looks for firmware.
const FIRMWARE: &str = "/usr/lib/firmware";

const ZONES: &str = "/usr/share/zoneinfo";
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What the image is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The Debian tree.
    pub workshop: &'a Workshop,
    /// The flavour.
    pub flavour: &'a Flavour,
    /// Image version.
    pub version: &'a str,
    /// PID 1, static.
    pub init: &'a Path,
    /// The agent.
    pub agent: &'a Path,
    /// What opens the state volume.
    pub state: &'a Path,
    /// What asks DHCP and time servers.
    pub network: &'a Path,
    /// The file system that a new state volume begins with.
    pub state_template: &'a Path,
    /// `TPMT_PUBLIC` of the policy key.
    pub policy_key: &'a [u8],
    /// The workload.
    pub workload: &'a Workload,
    /// The workload's compiled programs.
    pub workload_programs: &'a [PathBuf],
    /// The operators' certificates, PEM.
    pub operators: &'a str,
}

/// A tree and which files of the workshop are in it.
#[derive(Debug, Default)]
pub struct Contents {
    /// What goes in.
    pub tree: Tree,
    /// Paths in the workshop that the content came from.
    pub used: BTreeSet<String>,
    /// Firmware that modules name and no package of the workshop has: module, file.
    pub missing_firmware: Vec<(String, String)>,
}

/// The sealed root.
pub fn root(parts: &Parts<'_>) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    skeleton(&mut contents.tree)?;
    configuration(&mut contents.tree, parts)?;
    contents.tree.program(root::INIT, Source::Host(parts.init.to_owned()))?;
    contents.tree.program(root::AGENT, Source::Host(parts.agent.to_owned()))?;
    contents.tree.program(root::STATE, Source::Host(parts.state.to_owned()))?;
    contents.tree.program(root::NETWORK, Source::Host(parts.network.to_owned()))?;
    contents.tree.file(root::STATE_TEMPLATE, Source::Host(parts.state_template.to_owned()))?;
    contents.tree.text(root::POLICY_KEY, parts.policy_key)?;
    let state = serde_json::to_vec_pretty(&parts.flavour.state.settings())
        .map_err(|source| Error::Json { what: "the state volume's settings", source })?;
    contents.tree.text(root::STATE_SETTINGS, state)?;
    contents.tree.text(root::STATE_MODULES, lines(&parts.flavour.state.modules))?;
    let json = serde_json::to_vec_pretty(&parts.workload.settings)
        .map_err(|source| Error::Json { what: "the workload", source })?;
    contents.tree.text(root::WORKLOAD, json)?;
    parts.workload.add_to(&mut contents.tree, parts.workload_programs)?;
    libraries(&mut contents, parts.workshop)?;
    certificates(&mut contents, parts.workshop)?;
    zones(&mut contents, parts.workshop)?;
    flavour_modules(&mut contents, parts.workshop, parts.flavour)?;
    Ok(contents)
}

/// A root without programs: folders, os-release, the flavour's modules. What an installer is built on.
pub fn bare(workshop: &Workshop, flavour: &Flavour, version: &str) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    skeleton(&mut contents.tree)?;
    contents.tree.text("/etc/passwd", "root:x:0:0:root:/:/nonexistent\n")?;
    contents.tree.text("/etc/group", "root:x:0:\n")?;
    contents.tree.symlink("/etc/os-release", "../usr/lib/os-release")?;
    contents.tree.text(root::OS_RELEASE, os_release_of(version, &flavour.name))?;
    flavour_modules(&mut contents, workshop, flavour)?;
    Ok(contents)
}

/// The modules that the flavour's root has, with the firmware that they name.
fn flavour_modules(contents: &mut Contents, workshop: &Workshop, flavour: &Flavour) -> Result<(), Error> {
    let Flavour { initrd_modules, initrd_spare_modules, root_modules, spare_modules, .. } = flavour;
    let state_modules = &flavour.state.modules;
    let names = [root_modules.as_slice(), spare_modules, initrd_modules, initrd_spare_modules, state_modules]
        .concat();
    modules(contents, workshop, &names, &[])?;
    firmware(contents, workshop)?;
    contents.tree.text(root::ROOT_MODULES, lines(root_modules))?;
    Ok(())
}

/// The initrd: PID 1 and the few modules between it and the sealed root.
pub fn initrd(parts: &Parts<'_>) -> Result<Contents, Error> {
    initrd_of(parts.workshop, parts.flavour, parts.version, parts.init)
}

/// The same from what it depends on.
pub fn initrd_of(
    workshop: &Workshop,
    flavour: &Flavour,
    version: &str,
    init: &Path,
) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    let tree = &mut contents.tree;
    for mount_point in ["/proc", "/sys", "/dev", "/run", root::SYSROOT] {
        tree.directory(mount_point)?;
    }
    tree.symlink("/lib", "usr/lib")?;
    tree.program("/init", Source::Host(init.to_owned()))?;
    tree.text(root::INITRD_MARKER, os_release_of(version, &flavour.name))?;
    tree.text(root::INITRD_MODULES, lines(&flavour.initrd_modules))?;
    modules(&mut contents, workshop, &flavour.initrd_modules, &flavour.initrd_spare_modules)?;
    Ok(contents)
}

fn skeleton(tree: &mut Tree) -> Result<(), Error> {
    for path in ["/usr/bin", "/usr/lib", "/usr/lib64", "/usr/share", "/etc", root::STATE_MOUNT] {
        tree.directory(path)?;
    }
    for mount_point in ["/proc", "/sys", "/dev", "/run", "/tmp", root::ESP] {
        tree.directory(mount_point)?;
    }
    for (path, target) in [
        ("/bin", "usr/bin"),
        ("/sbin", "usr/bin"),
        ("/usr/sbin", "bin"),
        ("/lib", "usr/lib"),
        ("/lib64", "usr/lib64"),
        ("/var/run", "../run"),
        ("/var/tmp", "../tmp"),
    ] {
        tree.symlink(path, target)?;
    }
    Ok(())
}

fn configuration(tree: &mut Tree, parts: &Parts<'_>) -> Result<(), Error> {
    let (agent, workload, network) = (user::AGENT, user::WORKLOAD, user::NETWORK);
    // No shell is named because none is there; an empty field would mean /bin/sh.
    let passwd = format!(
        "root:x:0:0:root:/:/nonexistent\n\
         agent:x:{agent}:{agent}:pillar-agent:/:/nonexistent\n\
         workload:x:{workload}:{workload}:workload:/:/nonexistent\n\
         network:x:{network}:{network}:pillar-network:/:/nonexistent\n\
         nobody:x:65534:65534:nobody:/:/nonexistent\n"
    );
    let group = format!(
        "root:x:0:\nagent:x:{agent}:\nworkload:x:{workload}:\nnetwork:x:{network}:\nnogroup:x:65534:\n"
    );
    tree.text("/etc/passwd", passwd)?;
    tree.text("/etc/group", group)?;
    tree.text("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
    tree.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n")?;
    tree.symlink("/etc/resolv.conf", &format!("..{}", run::RESOLV_CONF))?;
    tree.symlink("/etc/mtab", "../proc/self/mounts")?;
    tree.symlink("/etc/localtime", "../usr/share/zoneinfo/Etc/UTC")?;
    tree.symlink("/etc/os-release", "../usr/lib/os-release")?;
    tree.text(root::OS_RELEASE, os_release(parts))?;
    tree.text(root::OPERATORS, parts.operators)?;
    Ok(())
}

/// os-release(5); also the UKI's `.osrel`, from which the boot loader takes title and version.
#[must_use]
pub fn os_release(parts: &Parts<'_>) -> String {
    os_release_of(parts.version, &parts.flavour.name)
}

/// The same from what it depends on.
#[must_use]
pub fn os_release_of(version: &str, flavour: &str) -> String {
    format!(
        "NAME=\"Pillar\"\nPRETTY_NAME=\"Pillar {version} ({flavour})\"\nID=pillar\nVERSION_ID={version}\n\
         IMAGE_ID=pillar\nIMAGE_VERSION={version}\nVARIANT_ID={flavour}\n"
    )
}

fn lines(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// The dynamic loader and every library that a program in the tree needs.
fn libraries(contents: &mut Contents, workshop: &Workshop) -> Result<(), Error> {
    let mut roots = vec![("the agent".to_owned(), run_time_linkage())];
    let mut loaders = BTreeSet::new();
    for (path, entry) in contents.tree.iter() {
        let Content::File(Source::Host(host)) = &entry.content else { continue };
        if entry.mode & 0o111 == 0 && !path.contains(".so") {
            continue;
        }
        let bytes = fs::read(host).map_err(file("read", host))?;
        if elf::is_elf(&bytes) {
            let linkage = elf::linkage(path, &bytes)?;
            loaders.extend(linkage.interpreter.clone());
            roots.push((path.to_owned(), linkage));
        }
    }
    // A workload may bring libraries of its own, beside its program (RUNPATH): those are in the tree already.
    let own: BTreeSet<String> = contents
        .tree
        .iter()
        .filter(|(path, _)| path.starts_with(root::WORKLOAD_FILES))
        .filter_map(|(path, _)| path.rsplit('/').next().map(str::to_owned))
        .collect();
    for (_, linkage) in &mut roots {
        linkage.needed.retain(|name| !own.contains(name));
    }
    let found = elf::closure(&roots, |name| {
        let host = LIBRARY_FOLDERS.iter().find_map(|folder| workshop.find(&format!("{folder}/{name}")))?;
        let bytes = fs::read(&host).ok()?;
        Some((host, bytes))
    })?;
    let is_loader = |name: &str| loaders.iter().any(|path| path.rsplit('/').next() == Some(name));
    for (name, host) in found.into_iter().filter(|(name, _)| !is_loader(name)) {
        add_library(contents, workshop, &name, host)?;
    }
    for loader in loaders {
        let name = loader.rsplit('/').next().unwrap_or_default().to_owned();
        let host = workshop.file(&loader)?;
        contents.used.extend(workshop.inside(&host));
        // The kernel starts it by itself, so it must be executable.
        contents.tree.program(&format!("{}/{name}", LIBRARY_FOLDERS[0]), Source::Host(host))?;
        let here = format!("/usr/lib64/{name}");
        contents.tree.symlink(&here, &format!("../lib/x86_64-linux-gnu/{name}"))?;
    }
    Ok(())
}

fn run_time_linkage() -> Linkage {
    Linkage { interpreter: None, needed: OPENED_AT_RUN_TIME.iter().map(|name| (*name).to_owned()).collect() }
}

fn add_library(contents: &mut Contents, workshop: &Workshop, name: &str, host: PathBuf) -> Result<(), Error> {
    contents.used.extend(workshop.inside(&host));
    contents.tree.file(&format!("{}/{name}", LIBRARY_FOLDERS[0]), Source::Host(host))?;
    Ok(())
}

fn certificates(contents: &mut Contents, workshop: &Workshop) -> Result<(), Error> {
    contents.tree.file(CERTIFICATES, Source::Host(workshop.file(CERTIFICATES)?))?;
    contents.tree.symlink("/etc/ssl/cert.pem", "certs/ca-certificates.crt")?;
    contents.tree.symlink("/usr/lib/ssl", "../../etc/ssl")?;
    contents.used.insert(CERTIFICATES.to_owned());
    Ok(())
}

/// Compiled time zones; of those with the same content, one file, the others links to it.
fn zones(contents: &mut Contents, workshop: &Workshop) -> Result<(), Error> {
    let top = workshop.find(ZONES).ok_or_else(|| Error::WorkshopFile(ZONES.to_owned()))?;
    let mut names = Vec::new();
    zone_names(&top, "", &mut names)?;
    names.sort();
    let mut first: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for name in names {
        let Some(host) = workshop.find(&format!("{ZONES}/{name}")) else { continue };
        let bytes = fs::read(&host).map_err(file("read", &host))?;
        if !bytes.starts_with(b"TZif") {
            continue;
        }
        contents.used.extend(workshop.inside(&host));
        let path = format!("{ZONES}/{name}");
        match first.get(&bytes) {
            Some(same) => contents.tree.symlink(&path, &relative(&name, same))?,
            None => {
                first.insert(bytes, name);
                contents.tree.file(&path, Source::Host(host))?;
            }
        }
    }
    Ok(())
}

fn zone_names(top: &Path, below: &str, names: &mut Vec<String>) -> Result<(), Error> {
    let at = top.join(below);
    for entry in fs::read_dir(&at).map_err(file("read", &at))?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Leap-second and POSIX copies of everything; the machine's own choice.
        if below.is_empty() && ["right", "posix", "localtime", "posixrules"].contains(&name.as_str()) {
            continue;
        }
        let inside = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            zone_names(top, &inside, names)?;
        } else {
            names.push(inside);
        }
    }
    Ok(())
}

/// The way from one file to another in the same tree, both relative to its top.
fn relative(from: &str, to: &str) -> String {
    format!("{}{to}", "../".repeat(from.matches('/').count()))
}

/// The named modules, their dependencies and the index files for just these. What every machine loads is stored
/// uncompressed: the file system compresses as a whole, and what the kernel's own decompressor does not unpack at boot
/// is time saved. What only some machines load stays as shipped in the initrd, which is not compressed: the firmware
/// hashes all of it at every boot.
fn modules(
    contents: &mut Contents,
    workshop: &Workshop,
    unpacked: &[String],
    as_shipped: &[String],
) -> Result<(), Error> {
    let folder = format!("/usr/lib/modules/{}", workshop.kernel);
    let text = |name: &str| workshop.read_text(&format!("{folder}/modules.{name}"));
    let index = Index::parse(Texts {
        dep: &text("dep")?,
        alias: &text("alias")?,
        softdep: &text("softdep")?,
        builtin: &text("builtin")?,
    });
    let Selection { files, dep, alias, softdep, builtin } = index.select(unpacked, as_shipped)?;
    for (file, name) in files {
        let shipped = format!("{folder}/{file}");
        let bytes = workshop.read(&shipped)?;
        let bytes = if name == file { bytes } else { unpack(&file, bytes)? };
        contents.tree.text(&format!("{folder}/{name}"), bytes)?;
        contents.used.insert(shipped);
    }
    for (name, text) in [("dep", dep), ("alias", alias), ("softdep", softdep), ("builtin", builtin)] {
        contents.tree.text(&format!("{folder}/modules.{name}"), text)?;
    }
    Ok(())
}

/// The firmware that the modules in the tree name, and the licences that allow to hand it on.
fn firmware(contents: &mut Contents, workshop: &Workshop) -> Result<(), Error> {
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for (path, entry) in contents.tree.iter() {
        let Content::File(Source::Bytes(bytes)) = &entry.content else { continue };
        if path.starts_with("/usr/lib/modules/") && path.ends_with(".ko") {
            for name in elf::module_firmware(path, bytes)? {
                wanted.insert(name, module_name(path));
            }
        }
    }
    let mut used = BTreeSet::new();
    for (name, module) in wanted {
        let path = format!("{FIRMWARE}/{name}");
        match workshop.find(&path).filter(|host| host.is_file()) {
            Some(host) => {
                used.extend(workshop.inside(&host));
                contents.tree.file(&path, Source::Host(host))?;
            }
            None => contents.missing_firmware.push((module, name)),
        }
    }
    let owners = workshop.owners(&used)?;
    contents.used.extend(used);
    let names: Vec<String> = owners.into_keys().map(|package| package.name).collect();
    licences(contents, workshop, &names)
}

/// The packages' own licence texts; of those with the same text, one file, the others links to it.
fn licences(contents: &mut Contents, workshop: &Workshop, packages: &[String]) -> Result<(), Error> {
    let mut first: BTreeMap<Vec<u8>, &str> = BTreeMap::new();
    for package in packages {
        let path = format!("/usr/share/doc/{package}/copyright");
        let text = workshop.read(&path)?;
        match first.get(&text) {
            Some(same) => contents.tree.symlink(&path, &format!("../{same}/copyright"))?,
            None => {
                contents.tree.text(&path, text.clone())?;
                first.insert(text, package);
            }
        }
        contents.used.insert(path);
    }
    Ok(())
}

fn unpack(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if !name.ends_with(".xz") {
        return Ok(bytes);
    }
    let mut out = Vec::new();
    lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut out)
        .map_err(|error| Error::Output { program: "xz", problem: format!("{name}: {error:?}") })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_zones_are_relative() {
        assert_eq!(relative("Europe/Berlin", "Arctic/Longyearbyen"), "../Arctic/Longyearbyen");
        assert_eq!(relative("UTC", "Etc/UTC"), "Etc/UTC");
        assert_eq!(relative("America/Indiana/Knox", "America/Knox_IN"), "../../America/Knox_IN");
    }

    #[test]
    fn the_skeleton_has_no_loose_ends() {
        let mut tree = Tree::default();
        skeleton(&mut tree).expect("plain paths");
        assert_eq!(crate::tree::refuse_links(&tree), []);
    }
}
