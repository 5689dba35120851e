//! The built files, judged without booting them: what is in the sealed root, how big it is, and that tools which we
//! did not write agree.

use anyhow::{Context, Result, ensure};
use pillar_e2e::damage::{Disk, pe_sections};
use pillar_e2e::programs::workspace;
use pillar_e2e::release::Files;
use pillar_model::Bank;
use pillar_tools::Tools;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const MIB: u64 = 1024 * 1024;

fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{text}");
    Ok(text)
}

/// The sealed root, unpacked by the file system's own tool.
fn unpacked(files: &Files) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let target = folder.path().join("root");
    output(
        Tools::open()?
            .command("fsck.erofs")
            .arg(format!("--extract={}", target.display()))
            .arg(files.file("root")),
    )?;
    Ok(folder)
}

#[test]
fn the_sealed_root_has_no_shell_interpreter_package_manager_getty_or_setuid_file() -> Result<()> {
    let folder = unpacked(&Files::find()?)?;
    let root = folder.path().join("root");
    let banned = [
        "sh", "bash", "dash", "busybox", "zsh", "ksh", "csh", "ash", "python", "python3", "perl", "ruby",
        "lua", "awk", "gawk", "mawk", "node", "tclsh", "php", "gdb", "apt", "apt-get", "dpkg", "rpm", "pip",
        "getty", "agetty", "login", "su", "sudo", "passwd", "sshd", "systemd", "mount", "insmod", "modprobe",
        "env", "sed", "vi",
    ];
    let mut programs = Vec::new();
    let mut wrong = Vec::new();
    walk(&root, &mut |path, metadata| {
        use std::os::unix::fs::PermissionsExt;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if metadata.is_file() && metadata.permissions().mode() & 0o6000 != 0 {
            wrong.push(format!("{}: setuid or setgid", path.display()));
        }
        let runs = metadata.is_symlink() || metadata.permissions().mode() & 0o111 != 0;
        if runs && !metadata.is_dir() && (banned.contains(&name.as_str()) || banned.contains(&stem)) {
            wrong.push(format!("{}: banned name", path.display()));
        }
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            let head = fs::read(path)?;
            if head.starts_with(b"#!") {
                wrong.push(format!("{}: a script", path.display()));
            }
            if head.starts_with(b"\x7fELF") && !name.contains(".so") {
                programs.push(path.strip_prefix(&root)?.display().to_string());
            }
        }
        Ok(())
    })?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    programs.sort();
    ensure!(
        programs
            == [
                "usr/bin/pillar-agent",
                "usr/bin/pillar-init",
                "usr/bin/pillar-network",
                "usr/bin/pillar-state",
                "usr/lib/pillar/workload/bin/hello"
            ],
        "the programs of the sealed root are exactly five: {programs:?}"
    );
    Ok(())
}

fn walk(folder: &Path, see: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        see(&path, &metadata)?;
        if metadata.is_dir() {
            walk(&path, see)?;
        }
    }
    Ok(())
}

#[test]
fn the_image_keeps_its_size_budget() -> Result<()> {
    let files = Files::find()?;
    let (uki, root) = (fs::metadata(files.file("efi"))?.len(), fs::metadata(files.file("root"))?.len());
    println!("UKI {:.1} MiB, sealed root {:.1} MiB", uki as f64 / MIB as f64, root as f64 / MIB as f64);
    ensure!(uki <= 24_000_000, "the UKI has {uki} bytes, the budget is 24 MB");
    ensure!(root <= 40_000_000, "the sealed root has {root} bytes, the budget is 40 MB");
    Ok(())
}

#[test]
fn the_statement_names_the_files_as_they_are() -> Result<()> {
    let files = Files::find()?;
    for suffix in ["raw", "efi", "root", "verity"] {
        let path = files.file(suffix);
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let subject = files
            .release
            .subject
            .iter()
            .find(|s| s.name == name)
            .with_context(|| format!("{name} is not a subject"))?;
        let said = subject.digest.get("sha256").context("sha256")?.to_string();
        let real = output(Command::new("sha256sum").arg(&path))?;
        ensure!(real.starts_with(&said), "{name}: the statement says {said}, the file is {real}");
    }
    Ok(())
}

#[test]
fn veritysetup_accepts_the_tree() -> Result<()> {
    let files = Files::find()?;
    output(
        Tools::open()?
            .command("veritysetup")
            .arg("verify")
            .arg(files.file("root"))
            .arg(files.file("verity"))
            .arg(files.release.predicate.root_hash.to_string()),
    )?;
    Ok(())
}

#[test]
fn sbverify_accepts_uki_and_loader() -> Result<()> {
    let files = Files::find()?;
    let tools = Tools::open()?;
    let certificate = workspace().join("keys/dev/db.crt");
    output(tools.command("sbverify").arg("--cert").arg(&certificate).arg(files.file("efi")))?;
    let folder = tempfile::tempdir()?;
    let loader = folder.path().join("loader.efi");
    fs::write(&loader, Disk::open(&files.file("raw"))?.esp_read("EFI/BOOT/BOOTX64.EFI")?)?;
    output(tools.command("sbverify").arg("--cert").arg(&certificate).arg(&loader))?;
    Ok(())
}

#[test]
fn partition_tools_accept_the_disk() -> Result<()> {
    let files = Files::find()?;
    let tools = Tools::open()?;
    let text = output(tools.command("sgdisk").arg("-v").arg(files.file("raw")))?;
    ensure!(text.contains("No problems found"), "sgdisk -v: {text}");
    output(tools.command("sfdisk").arg("--verify").arg(files.file("raw")))?;
    let disk = Disk::open(&files.file("raw"))?;
    let esp = disk.partition("esp")?;
    let folder = tempfile::tempdir()?;
    let fat = folder.path().join("esp.fat");
    let bytes = usize::try_from((esp.last_lba - esp.first_lba + 1) * 512)?;
    fs::write(&fat, disk.read(esp.first_lba * 512, bytes)?)?;
    output(tools.command("fsck.vfat").arg("-n").arg(&fat))?;
    Ok(())
}

#[test]
fn systemd_measure_predicts_the_same_pcr_11() -> Result<()> {
    let files = Files::find()?;
    let uki = fs::read(files.file("efi"))?;
    let folder = tempfile::tempdir()?;
    let tools = Tools::open()?;
    let mut command = tools.command("/usr/lib/systemd/systemd-measure");
    command.args(["calculate", "--bank=sha256", "--json=short"]);
    for name in ["linux", "osrel", "cmdline", "initrd", "ucode", "splash", "dtb", "uname", "sbat", "pcrpkey"]
    {
        let sections = pe_sections(&uki)?;
        let Some((_, offset, bytes)) = sections.into_iter().find(|(n, _, _)| *n == format!(".{name}")) else {
            continue;
        };
        let path = folder.path().join(name);
        fs::write(&path, &uki[usize::try_from(offset)?..usize::try_from(offset + bytes)?])?;
        command.arg(format!("--{name}={}", path.display()));
    }
    let phases = pillar_layout::phase::ALL;
    for end in 1..=phases.len() {
        command.arg(format!("--phase={}", phases[..end].join(":")));
    }
    let said = output(&mut command)?;
    for (phase, digest) in &files.release.predicate.pcrs[&Bank::Sha256].uki_after_phase {
        ensure!(
            said.contains(&digest.to_string()),
            "PCR 11 after {phase} is predicted as {digest}; systemd-measure: {said}"
        );
    }
    Ok(())
}

#[test]
fn the_bill_of_materials_covers_what_is_in_the_root() -> Result<()> {
    let files = Files::find()?;
    let text = fs::read_to_string(files.out.join("sbom.json"))?;
    let sbom: serde_json::Value = serde_json::from_str(&text)?;
    let components =
        sbom["components"].as_array().or_else(|| sbom["packages"].as_array()).context("no components")?;
    for name in ["libc6", "libtss2-esys-3.0.2-0t64", "tzdata", "tokio", "rustls", "ring"] {
        ensure!(components.iter().any(|c| c["name"] == name), "{name} is not in the bill of materials");
    }
    Ok(())
}

#[test]
fn the_keys_folder_is_private() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = workspace().join("keys/dev");
    let mut keys = 0;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "key") {
            keys += 1;
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
        }
    }
    ensure!(keys >= 5, "{keys} keys in {}", folder.display());
    Ok(())
}
