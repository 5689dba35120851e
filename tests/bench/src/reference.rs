//! The reference image: a plain Debian with systemd in the initrd and on a dm-verity root, built by mkosi from
//! `reference/`, kept in the cache under a digest of everything that it is made of.

use crate::program;
use anyhow::{Context, Result};
use pillar_keys::SecureBootKey;
use pillar_tools::{Tools, apt_sandbox_tree, cache_dir, package_cache_dir};
use ring::digest::{Context as Digest, SHA256};
use std::fs;
use std::path::{Path, PathBuf};

/// The marker unit writes this, and behind it the record of PID 1 with its time stamp.
pub const MARKER: &str = "bench-reference: ";
/// What the record says.
pub const REACHED: &str = "Reached target multi-user.target";

/// Where mkosi finds each file of the configuration, and its text.
const CONFIGURATION: [(&str, &str); 6] = [
    ("mkosi.conf", include_str!("../reference/mkosi.conf")),
    ("repart/00-esp.conf", include_str!("../reference/00-esp.conf")),
    ("repart/10-root.conf", include_str!("../reference/10-root.conf")),
    ("repart/20-root-verity.conf", include_str!("../reference/20-root-verity.conf")),
    ("extra/usr/lib/systemd/system/bench-marker.service", include_str!("../reference/bench-marker.service")),
    ("extra/usr/lib/systemd/system-preset/00-bench.preset", "enable bench-marker.service\n"),
];

/// The image with this kernel (`uname -r`), built first when the cache does not have it.
pub fn image(tools: &Tools, kernel: &str, db: &SecureBootKey) -> Result<PathBuf> {
    let certificate =
        fs::read(&db.certificate).with_context(|| format!("cannot read {}", db.certificate.display()))?;
    let folder = cache_dir().join("bench");
    let image = folder.join(format!("reference-{}.raw", name(kernel, &certificate)));
    if !image.is_file() {
        eprintln!("building the reference image, once: 2 to 5 minutes and 250 MB in {}", folder.display());
        build(tools, kernel, db, &folder, &image)?;
    }
    Ok(image)
}

/// Begins a hash over what the image depends on.
fn name(kernel: &str, certificate: &[u8]) -> String {
    let mut digest = Digest::new(&SHA256);
    let parts = CONFIGURATION.iter().flat_map(|(path, text)| [path.as_bytes(), text.as_bytes()]);
    for part in parts.chain([kernel.as_bytes(), certificate]) {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex::encode(&digest.finish().as_ref()[..6])
}

fn build(tools: &Tools, kernel: &str, db: &SecureBootKey, folder: &Path, image: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let work = tempfile::Builder::new()
        .prefix("reference-")
        .tempdir_in(folder)
        .context("cannot make a work folder")?;
    let [configuration, output, workspace] =
        ["configuration", "output", "workspace"].map(|n| work.path().join(n));
    let packages = package_cache_dir();
    for folder in [&output, &workspace, &packages] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    for (path, text) in CONFIGURATION {
        let path = configuration.join(path);
        let parent = path.parent().unwrap_or(&configuration);
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut mkosi = tools.mkosi();
    mkosi.arg("--directory").arg(&configuration).arg("--sandbox-tree").arg(apt_sandbox_tree()?);
    mkosi.arg("--tools-tree").arg(tools.path("")).arg("--package-cache-directory").arg(&packages);
    mkosi.arg("--output-directory").arg(&output).arg("--workspace-directory").arg(&workspace);
    mkosi
        .arg("--extra-tree")
        .arg(configuration.join("extra"))
        .arg("--repart-directory")
        .arg(configuration.join("repart"));
    mkosi.arg("--package").arg(format!("linux-image-{kernel}"));
    mkosi.arg("--secure-boot-key").arg(&db.key).arg("--secure-boot-certificate").arg(&db.certificate);
    mkosi.arg("build");
    program::run(&mut mkosi, "mkosi", &folder.join("reference.log")).with_context(|| {
        format!("the reference image with kernel {kernel} cannot be built; when the mirror has a newer kernel by now, `./just image` takes that one too")
    })?;
    let built = output.join("reference.raw");
    fs::rename(&built, image).with_context(|| format!("cannot move {}", built.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kernel_or_key_is_another_image() {
        assert_eq!(name("6.12", b"key"), name("6.12", b"key"));
        assert_ne!(name("6.12", b"key"), name("6.13", b"key"));
        assert_ne!(name("6.12", b"key"), name("6.12", b"yek"));
    }

    #[test]
    fn the_marker_is_what_the_unit_writes() {
        let unit = CONFIGURATION[4].1;
        assert!(unit.contains(MARKER) && unit.contains(REACHED), "{unit}");
    }
}
