//! The metal image in `out/metal`: small where the firmware reads it, drivers and firmware where they belong.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings are broken")]

use pillar_image::list::list;
use pillar_tools::Tools;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What such an image may have at most, in MiB, however the flavour's own limits are set: UKI, sealed root.
const LIMITS_MIB: [(&str, u64); 2] = [("efi", 32), ("root", 160)];

/// The image that `./just image flavour=metal` left; the tests are skipped where nobody built one.
fn image() -> Option<PathBuf> {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../out/metal");
    if out.join("release.json").is_file() {
        return Some(out);
    }
    eprintln!("skipped: there is no image in {}; `./just image flavour=metal` builds one", out.display());
    None
}

fn file(out: &Path, extension: &str) -> PathBuf {
    let release: Value = serde_json::from_slice(&fs::read(out.join("release.json")).unwrap()).unwrap();
    let version = release["predicate"]["version"].as_str().unwrap();
    out.join(format!("pillar_{version}_metal.{extension}"))
}

#[test]
fn uki_and_sealed_root_are_small() {
    let Some(out) = image() else { return };
    for (extension, mib) in LIMITS_MIB {
        let bytes = fs::metadata(file(&out, extension)).unwrap().len();
        assert!(bytes <= mib << 20, "{extension}: {bytes} bytes");
    }
}

#[test]
fn the_initrd_has_disks_and_watchdogs_and_the_root_has_the_network_cards() {
    let Some(out) = image() else { return };
    // The initrd is not compressed, and the list of built-in modules names no network card.
    let uki = fs::read(file(&out, "efi")).unwrap();
    let has = |path: &str| uki.windows(path.len()).any(|bytes| bytes == path.as_bytes());
    for module in [
        "drivers/nvme/host/nvme.ko.xz",
        "drivers/ata/ahci.ko.xz",
        "drivers/usb/storage/usb-storage.ko.xz",
        "drivers/mmc/core/mmc_block.ko.xz",
        "drivers/watchdog/iTCO_wdt.ko.xz",
        "drivers/md/dm-verity.ko",
    ] {
        assert!(has(module), "{module} is not in the initrd");
    }
    assert!(!has("drivers/net/ethernet"), "network cards wait for the sealed root");

    let files = list(&Tools::open().unwrap(), &file(&out, "root")).unwrap();
    for module in
        ["intel/igc/igc.ko", "realtek/r8169.ko", "broadcom/tg3.ko", "mellanox/mlx5/core/mlx5_core.ko"]
    {
        let end = format!("drivers/net/ethernet/{module}");
        assert!(files.iter().any(|f| f.path.ends_with(&end)), "{module} is not in the sealed root");
    }
}

#[test]
fn firmware_comes_with_its_licence_and_is_in_the_bill_of_materials() {
    let Some(out) = image() else { return };
    let files = list(&Tools::open().unwrap(), &file(&out, "root")).unwrap();
    let folders: BTreeSet<&str> = files
        .iter()
        .filter(|f| f.kind == "file")
        .filter_map(|f| f.path.strip_prefix("/usr/lib/firmware/")?.split('/').next())
        .collect();
    // What the modules name, and nothing else of packages that have hundreds of files.
    assert_eq!(folders, ["bnx2", "bnx2x", "intel", "rtl_nic", "tigon"].into());
    assert!(files.iter().any(|f| f.path == "/usr/lib/firmware/intel/ice/ddp/ice.pkg" && f.kind == "file"));

    let bill: Value = serde_json::from_slice(&fs::read(out.join("sbom.json")).unwrap()).unwrap();
    for package in [
        "firmware-bnx2",
        "firmware-bnx2x",
        "firmware-intel-misc",
        "firmware-misc-nonfree",
        "firmware-realtek",
    ] {
        let licence = format!("/usr/share/doc/{package}/copyright");
        assert!(files.iter().any(|f| f.path == licence), "{licence} is missing");
        let listed = bill["components"].as_array().unwrap().iter().find(|c| c["name"] == package);
        assert!(listed.is_some_and(|c| c["licenses"].is_array()), "{package}: {listed:?}");
    }
}
