//! Makes a folder of development keys: once, whole or not at all.
//!
//! RSA keys, certificates and signature lists come from openssl and efitools of the tools tree; the operators'
//! Ed25519 keys are made here, and their certificates by `operator`.

use crate::folder::{operator, pcr, secure_boot};
use crate::operator::{certificate, private_file, write_private};
use crate::{Error, Keys, Operator, PcrKey, SecureBootKey, Variable, file_error};
use pillar_signer::{KeyFile, Signer};
use pillar_tools::Tools;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Operators in a new folder: enough to try any two of three.
pub const DEFAULT_OPERATORS: usize = 3;

/// More operators than this is a typing mistake.
pub const MAX_OPERATORS: usize = 99;

/// Thirty years: a development key that expires under someone's feet teaches nothing.
const VALID_DAYS: &str = "10950";

/// What [`make`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Nothing was there; all of it is new.
    New,
    /// All of it was there; nothing was touched.
    Existed,
    /// The folder was whole but for so many operators; they were added.
    Added(usize),
}

/// Makes the development keys in `dir`, or adds the operators that are missing in a folder that is whole otherwise.
pub fn make(dir: &Path, operators: usize) -> Result<(Keys, Made), Error> {
    if !(1..=MAX_OPERATORS).contains(&operators) {
        return Err(Error::Operators(operators));
    }
    if dir.exists() {
        return add_operators(dir, operators);
    }
    let workshop = Workshop::open(dir)?;
    // Somebody else made them while we waited for the workshop's lock.
    if dir.exists() {
        return add_operators(dir, operators);
    }
    let tools = Tools::open()?;
    fill(&tools, &workshop.path, operators)?;
    workshop.become_folder(dir)?;
    Ok((Keys::load(dir)?, Made::New))
}

fn add_operators(dir: &Path, operators: usize) -> Result<(Keys, Made), Error> {
    let keys = Keys::load(dir)?;
    let missing: Vec<Operator> =
        (1..=operators).map(|n| operator(dir, n)).filter(|o| !keys.operators().contains(o)).collect();
    if missing.is_empty() {
        return Ok((keys, Made::Existed));
    }
    missing.iter().try_for_each(make_operator)?;
    Ok((Keys::load(dir)?, Made::Added(missing.len())))
}

/// The folder beside the one to be, in which the keys are made. Its lock keeps two runs from working in it at once;
/// what an interrupted run left there is thrown away.
struct Workshop {
    path: PathBuf,
    _lock: File,
}

impl Workshop {
    fn open(dir: &Path) -> Result<Self, Error> {
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(file_error("create", parent))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(format!(".{name}.new"));
        match private_folder(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(file_error("create", &path)(error));
            }
            _ => {}
        }
        let lock = File::open(&path).map_err(file_error("open", &path))?;
        lock.lock().map_err(file_error("lock", &path))?;
        // Emptied, not removed: the lock is on this very folder. It may have become `dir` while we waited.
        if !dir.exists() {
            for entry in fs::read_dir(&path).map_err(file_error("list", &path))?.flatten() {
                fs::remove_file(entry.path()).map_err(file_error("remove", &entry.path()))?;
            }
        }
        Ok(Self { path, _lock: lock })
    }

    fn become_folder(self, dir: &Path) -> Result<(), Error> {
        fs::rename(&self.path, dir).map_err(file_error("rename", &self.path))
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    // The umask can only have taken bits away; what the owner needs is put back.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn fill(tools: &Tools, dir: &Path, operators: usize) -> Result<(), Error> {
    for variable in Variable::ALL {
        make_secure_boot(tools, dir, variable)?;
    }
    for variable in Variable::ALL {
        make_auth(tools, dir, variable)?;
    }
    let PcrKey { key, public } = pcr(dir);
    make_rsa(tools, &key)?;
    run(tools.command("openssl").args(["pkey", "-pubout", "-in"]).arg(&key), "openssl pkey", Some(&public))?;
    (1..=operators).try_for_each(|number| make_operator(&operator(dir, number)))
}

/// RSA-2048: what every firmware takes for PK, KEK and db (UEFI section 32.4.1).
fn make_rsa(tools: &Tools, key: &Path) -> Result<(), Error> {
    let mut command = tools.command("openssl");
    command.args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    run(&mut command, "openssl genpkey", Some(key))
}

fn make_secure_boot(tools: &Tools, dir: &Path, variable: Variable) -> Result<(), Error> {
    let SecureBootKey { key, certificate, .. } = secure_boot(dir, variable);
    make_rsa(tools, &key)?;
    let mut command = tools.command("openssl");
    command.args(["req", "-new", "-x509", "-sha256", "-days", VALID_DAYS, "-key"]).arg(&key);
    command.args(["-subj", &format!("/CN=Pillar development {variable}/")]);
    command.args(["-addext", "keyUsage=critical,digitalSignature"]);
    run(&mut command, "openssl req", Some(&certificate))
}

fn make_auth(tools: &Tools, dir: &Path, variable: Variable) -> Result<(), Error> {
    let own = secure_boot(dir, variable);
    let signer = secure_boot(dir, variable.signer());
    let list = dir.join(format!("{variable}.esl"));
    let owner = ["-g", pillar_layout::SIGNATURE_OWNER];
    let mut command = tools.command("cert-to-efi-sig-list");
    run(command.args(owner).arg(&own.certificate).arg(&list), "cert-to-efi-sig-list", None)?;
    let mut command = tools.command("sign-efi-sig-list");
    command.args(owner).arg("-k").arg(&signer.key).arg("-c").arg(&signer.certificate);
    command.arg(variable.to_string()).arg(&list).arg(&own.auth);
    run(&mut command, "sign-efi-sig-list", None)?;
    fs::remove_file(&list).map_err(file_error("remove", &list))
}

fn make_operator(operator: &Operator) -> Result<(), Error> {
    let key = KeyFile::create(&operator.key, None)?;
    write_private(&operator.certificate, certificate(&operator.name, &Signer::File(key))?.as_bytes())
}

/// Runs a program of the tools tree; what it prints goes to `output`, which only the owner may read.
fn run(command: &mut Command, program: &str, output: Option<&Path>) -> Result<(), Error> {
    let stdout = match output {
        Some(path) => Stdio::from(private_file(path)?),
        None => Stdio::piped(),
    };
    let done = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output();
    let done = done.map_err(file_error("start", Path::new(program)))?;
    if done.status.success() {
        return Ok(());
    }
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(Error::Program {
        program: program.to_owned(),
        status: done.status.to_string(),
        output: lines[lines.len().saturating_sub(4)..].join("; "),
    })
}
