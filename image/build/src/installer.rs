//! The installer: a sealed image whose root holds init, the installer's program and the release's disk images, nothing
//! else. It boots by the same machinery (Secure Boot, verity root), so that what it writes is covered by dm-verity; it
//! compares it with the release's digest all the same.
//!
//! **Invariant:** the installer's UKI carries no signed PCR policy: booting it never opens a state volume.

use crate::assembly::{
    self, Built, FilesOfEsp, Output, PID_1, SCRATCH_MIB, SigningKeys, check_space, source_date_epoch, under,
};
use crate::compile::{Compiler, Linking};
use crate::disk;
use crate::error::{Error, file};
use crate::flavour::{self, SectorSize};
use crate::options::InstallerOptions;
use crate::progress::Progress;
use crate::run::{Scratch, uninterrupted};
use crate::seal::{Sealer, UkiParts, UkiPolicies, cmdline};
use crate::sealed::{self, Contents};
use crate::tree::Source;
use crate::workshop::Workshop;
use crate::{archive, lock, release};
use pillar_flash::install::{Payload, Settings};
use pillar_flash::plan::{CHUNK, Range};
use pillar_layout::{gpt, root};
use pillar_model::{Release, RootHash};
use pillar_tools::{Network, Tools};
use ring::digest::{Context, Digest, SHA256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const INSTALLER: &str = "pillar-installer";
/// A stick's sectors have 512 bytes, whatever the machine's disk has.
const SECTOR: SectorSize = SectorSize::B512;
/// Enough clusters for a FAT32, and for the UKI many times.
const ESP_MIB: u64 = 96;

/// Builds an installer for the release that is in the output folder.
pub fn build(project: &Path, options: &InstallerOptions, progress: &Progress) -> Result<Built, Error> {
    let flavour = flavour::read(project, &options.flavour)?;
    let packages = lock::read(project, &flavour)?;
    let as_build = options.as_build();
    let keys = SigningKeys::open(project, &as_build)?;
    let folder = under(project, &as_build.out());
    let release = read_release(&folder)?;
    if release.predicate.flavour != flavour.name {
        return Err(Error::OtherFlavour {
            path: folder.join(release::FILE),
            wanted: flavour.name,
            found: release.predicate.flavour,
        });
    }
    let tools = Tools::open()?;
    let out = Output::open(&folder)?;
    progress.step("the release's disk images");
    let images = payloads(&folder, &release)?;
    let payload_mib = images.iter().map(|image| image.size_bytes >> 20).sum::<u64>();
    check_space(out.beside(), SCRATCH_MIB + payload_mib)?;
    let compiler = Compiler::new(project, options.offline)?;
    let network = if options.offline { Network::Forbidden } else { Network::Allowed };
    let workshop = Workshop::prepare(project, &flavour, &packages, &tools, network, false, progress)?;
    let scratch = Scratch::new(out.scratch())?;
    progress.step("PID 1 and the installer");
    let mut programs = compiler.build(&[PID_1, INSTALLER], Linking::Static)?;
    let (installer, init) = (programs.remove(1), programs.remove(0));

    let version = release.predicate.version.clone();
    let settings = Settings {
        version: version.clone(),
        flavour: flavour.name.clone(),
        images,
        rule: options.rule.clone(),
        overwrite: options.overwrite,
    };
    let seed = format!("installer {version} {}", flavour.name);
    let sealer = Sealer { tools: &tools, epoch: source_date_epoch(project), seed: &seed };
    progress.step("sealed root (erofs, dm-verity)");
    let contents = installer_root(&workshop, &flavour, &settings, &folder, [&init, &installer])?;
    let root_file = scratch.join("installer.root");
    sealer.erofs(&contents, scratch.path(), &root_file)?;
    let verity_file = scratch.join("installer.verity");
    let root_hash = sealer.verity(&root_file, &verity_file)?;

    progress.step("kernel, initrd and command line as one signed file (UKI)");
    let write = |name: &str, bytes: &[u8]| {
        let path = scratch.join(name);
        fs::write(&path, bytes).map_err(file("write", &path)).map(|()| path)
    };
    let initrd = sealed::initrd_of(&workshop, &flavour, &version, &init)?;
    let initrd = write("initrd.cpio", &archive::cpio(&initrd.tree)?)?;
    let os_release = write("os-release", sealed::os_release_of(&version, &flavour.name).as_bytes())?;
    let unsigned = scratch.join("installer.unsigned.efi");
    sealer.uki(
        &UkiParts {
            kernel: &workshop.file(&format!("/boot/vmlinuz-{}", workshop.kernel))?,
            kernel_release: &workshop.kernel,
            initrd: &initrd,
            cmdline: &cmdline(&root_hash, &flavour.cmdline),
            os_release: &os_release,
            stub: &workshop.file("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")?,
            version: &version,
            policies: UkiPolicies::None,
        },
        &unsigned,
    )?;
    let uki = scratch.join("installer.efi");
    sealer.sign(&unsigned, &keys.db, &uki)?;
    let loader = scratch.join("BOOTX64.EFI");
    let shipped = workshop.file("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")?;
    sealer.sign(&shipped, &keys.db, &loader)?;

    progress.step("disk image");
    let name = format!("{INSTALLER}_{version}_{}.raw", flavour.name);
    let parts = FilesOfEsp { loader, uki, entry: format!("{INSTALLER}_{version}.efi") };
    let raw = scratch.join(&name);
    write_disk(&sealer, &keys, &scratch, &parts, &root_hash, [&root_file, &verity_file], &raw)?;
    let target = folder.join(&name);
    uninterrupted(|| fs::rename(&raw, &target).map_err(file("rename", &raw)))?;
    let size = fs::metadata(&target).map_err(file("read", &target))?.len();
    Ok(Built {
        version,
        flavour: flavour.name,
        root_hash,
        kernel: workshop.kernel.clone(),
        files: [(name, size)].into(),
        out: folder,
        took: progress.finish(),
    })
}

fn read_release(folder: &Path) -> Result<Release, Error> {
    let path = folder.join(release::FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoDiskImage(folder.to_owned()));
        }
        text => text.map_err(file("read", &path))?,
    };
    serde_json::from_slice(&text).map_err(|source| Error::ReleaseFile { path, source })
}

/// The release's disk images, each compared with its digest.
fn payloads(folder: &Path, release: &Release) -> Result<Vec<Payload>, Error> {
    let mut payloads = Vec::new();
    for subject in release.subject.iter().filter(|subject| subject.name.ends_with(".raw")) {
        let path = folder.join(&subject.name);
        let (found, data, data_sha256) = survey(&path).map_err(file("read", &path))?;
        let told = subject.digest.get("sha256").map(|digest| digest.0.as_slice());
        if told != Some(found.as_ref()) {
            return Err(Error::NotOfRelease { path, release: folder.join(release::FILE) });
        }
        let image = pillar_flash::Image::open(&path)?;
        payloads.push(Payload {
            file: subject.name.clone(),
            sector_bytes: image.sector(),
            size_bytes: image.bytes(),
            data,
            data_sha256: hex::encode(data_sha256),
        });
    }
    if payloads.is_empty() { Err(Error::NoDiskImage(folder.to_owned())) } else { Ok(payloads) }
}

/// Digest of a file, what of it is not empty, and the digest of that. By content, not by the holes that the builder's file
/// system happens to keep: the same image makes the same installer.
fn survey(path: &Path) -> io::Result<(Digest, Vec<Range>, Digest)> {
    let mut file = File::open(path)?;
    let (mut whole, mut parts) = (Context::new(&SHA256), Context::new(&SHA256));
    let mut data: Vec<Range> = Vec::new();
    let mut buffer = vec![0; usize::try_from(CHUNK).map_err(io::Error::other)?];
    let zeros = buffer.clone();
    let mut offset = 0;
    loop {
        let len = read_full(&mut file, &mut buffer)? as u64;
        if len == 0 {
            return Ok((whole.finish(), data, parts.finish()));
        }
        let bytes = &buffer[..len as usize];
        whole.update(bytes);
        if bytes != &zeros[..bytes.len()] {
            parts.update(bytes);
            match data.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => data.push(Range { offset, len }),
            }
        }
        offset += len;
    }
}

/// Fills the buffer as far as the file goes.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    Ok(filled)
}

fn installer_root(
    workshop: &Workshop,
    flavour: &flavour::Flavour,
    settings: &Settings,
    folder: &Path,
    [init, installer]: [&PathBuf; 2],
) -> Result<Contents, Error> {
    let mut contents = sealed::bare(workshop, flavour, &settings.version)?;
    let tree = &mut contents.tree;
    tree.program(root::INIT, Source::Host(init.clone()))?;
    tree.program(root::INSTALLER, Source::Host(installer.clone()))?;
    let json = serde_json::to_vec_pretty(settings)
        .map_err(|source| Error::Json { what: "the installer's settings", source })?;
    tree.text(root::INSTALLER_SETTINGS, json)?;
    for image in &settings.images {
        let path = format!("{}/{}", root::INSTALLER_IMAGES, image.file);
        tree.file(&path, Source::Host(folder.join(&image.file)))?;
    }
    Ok(contents)
}

fn write_disk(
    sealer: &Sealer<'_>,
    keys: &SigningKeys,
    scratch: &Scratch,
    parts: &FilesOfEsp,
    root_hash: &RootHash,
    [root, verity]: [&Path; 2],
    raw: &Path,
) -> Result<(), Error> {
    let bytes = |path: &Path| fs::metadata(path).map(|m| m.len()).map_err(file("read", path));
    let plan = disk::installer_plan(ESP_MIB, bytes(root)?, bytes(verity)?, root_hash, sealer.seed);
    let files = assembly::esp_files(parts, keys, scratch)?;
    let esp = scratch.join("esp.img");
    if let Some(partition) = plan.partition(gpt::LABEL_ESP) {
        disk::esp(sealer, partition, SECTOR, &files, &esp)?;
    }
    let contents =
        [(gpt::LABEL_ESP, esp.as_path()), (gpt::LABEL_ROOT_A, root), (gpt::LABEL_VERITY_A, verity)];
    disk::write(sealer, &plan, SECTOR, &contents, raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;

    #[test]
    fn what_is_empty_is_found_by_content() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("image");
        let chunk = CHUNK as usize;
        let mut bytes = vec![0; 5 * chunk + 100];
        (bytes[10], bytes[2 * chunk], bytes[3 * chunk - 1], bytes[4 * chunk - 1]) = (1, 2, 3, 4);
        fs::write(&path, &bytes).expect("new");
        let (whole, data, parts) = survey(&path).expect("readable");
        assert_eq!(data, [Range { offset: 0, len: CHUNK }, Range { offset: 2 * CHUNK, len: 2 * CHUNK }]);
        assert_eq!(whole.as_ref(), digest::file(&path).expect("readable"));
        let kept = [&bytes[..chunk], &bytes[2 * chunk..4 * chunk]].concat();
        assert_eq!(parts.as_ref(), ring::digest::digest(&SHA256, &kept).as_ref());
    }
}
