//! UEFI firmware (OVMF of the tools tree) and its variables.

use crate::error::{Error, Result, file_error, tail};
use pillar_tools::Tools;
use ring::digest::{Context, SHA256};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Code with Secure Boot and SMM, which guards the variables.
const CODE_SECURE: &str = "usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// Code without Secure Boot.
const CODE_PLAIN: &str = "usr/share/OVMF/OVMF_CODE_4M.fd";
/// Variables of a machine fresh from the factory: no platform key, so Secure Boot is in setup mode.
const VARS_EMPTY: &str = "usr/share/OVMF/OVMF_VARS_4M.fd";
/// Owner of the signatures in a template that we make; the value means nothing to anybody.
const OWNER: &str = "6f3f2a3e-6a0b-4d8e-9a53-70696c6c6172";

/// What a machine starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// UEFI with Secure Boot.
    SecureBoot {
        /// Variables of a new machine; none is setup mode, in which the loader enrols the keys of the disk.
        vars_template: Option<PathBuf>,
    },
    /// UEFI without Secure Boot.
    NoSecureBoot,
    /// A BIOS that starts the kernel given to QEMU: no TPM event log, nothing measured.
    Bios,
}

impl Firmware {
    /// Secure Boot in setup mode, as a machine comes from the factory.
    #[must_use]
    pub fn setup_mode() -> Self {
        Self::SecureBoot { vars_template: None }
    }

    /// Secure Boot with the variables of this file: see [`enrolled_template`].
    #[must_use]
    pub fn enrolled(vars_template: impl Into<PathBuf>) -> Self {
        Self::SecureBoot { vars_template: Some(vars_template.into()) }
    }

    /// The code, or none for a BIOS (QEMU brings its own).
    pub(crate) fn code(&self, tools: &Tools) -> Result<Option<PathBuf>> {
        let relative = match self {
            Firmware::SecureBoot { .. } => CODE_SECURE,
            Firmware::NoSecureBoot => CODE_PLAIN,
            Firmware::Bios => return Ok(None),
        };
        existing(tools.path(relative)).map(Some)
    }

    /// The variables that a new machine gets.
    pub(crate) fn vars_template(&self, tools: &Tools) -> Result<PathBuf> {
        match self {
            Firmware::SecureBoot { vars_template: Some(path) } => existing(path.clone()),
            _ => existing(tools.path(VARS_EMPTY)),
        }
    }
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if path.is_file() { Ok(path) } else { Err(Error::FirmwareMissing(path)) }
}

/// The certificates (PEM files) that Secure Boot shall hold.
#[derive(Debug, Clone, Copy)]
pub struct SecureBootCertificates<'a> {
    /// Platform key.
    pub pk: &'a Path,
    /// Key exchange key.
    pub kek: &'a Path,
    /// Signers of what may boot.
    pub db: &'a Path,
}

/// A variables file with exactly these keys enrolled and Secure Boot on, made once per set of certificates and kept
/// in the cache. What the loader would do in setup mode, without the boot and the reset that this takes.
pub fn enrolled_template(tools: &Tools, keys: SecureBootCertificates<'_>) -> Result<PathBuf> {
    let empty = existing(tools.path(VARS_EMPTY))?;
    let mut name = Context::new(&SHA256);
    for path in [&empty, keys.pk, keys.kek, keys.db] {
        let bytes = fs::read(path).map_err(file_error("read", path))?;
        name.update(&(bytes.len() as u64).to_be_bytes());
        name.update(&bytes);
    }
    let dir = pillar_tools::cache_dir().join("qemu/firmware");
    fs::create_dir_all(&dir).map_err(file_error("create", &dir))?;
    let template = dir.join(format!("{}.fd", &hex::encode(name.finish())[..16]));
    // Tests ask for it all at once.
    let lock_path = dir.join("lock");
    let lock = File::create(&lock_path).map_err(file_error("create", &lock_path))?;
    lock.lock().map_err(file_error("lock", &lock_path))?;
    if template.is_file() {
        return Ok(template);
    }
    let work = dir.join(format!("{}.tmp", std::process::id()));
    let mut enroll: Vec<OsString> =
        vec!["--input".into(), empty.into(), "--output".into(), work.clone().into()];
    for (option, certificate) in [("--set-pk", keys.pk), ("--add-kek", keys.kek), ("--add-db", keys.db)] {
        enroll.extend([option.into(), OWNER.into(), absolute(certificate)?.into()]);
    }
    enroll.push("--secure-boot".into());
    virt_fw_vars(tools, &dir, &enroll)?;
    // It adds an empty dbx, which the loader in setup mode does not.
    virt_fw_vars(tools, &dir, &["--inplace".into(), work.clone().into(), "--delete".into(), "dbx".into()])?;
    fs::rename(&work, &template).map_err(file_error("rename", &work))?;
    Ok(template)
}

fn virt_fw_vars(tools: &Tools, dir: &Path, arguments: &[OsString]) -> Result<()> {
    let program = "virt-fw-vars";
    let log = dir.join(format!("{program}.log"));
    let output = File::create(&log).map_err(file_error("create", &log))?;
    let errors = output.try_clone().map_err(file_error("open", &log))?;
    let status = tools
        .command(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .map_err(|source| Error::Spawn { program: program.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Program { program: program.to_owned(), status: status.to_string(), tail: tail(&log), log })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(file_error("find", path))
}
