//! A pillar under test: a machine with the release on its disk, its run folder, and our CLI pointed at it.

use crate::damage::Disk;
use crate::programs::{program, workspace};
use crate::release::Files;
use anyhow::{Context, Result, bail, ensure};
use pillar_layout::console;
use pillar_qemu::{
    Builder, DiskMode, EkCa, Firmware, Machine, Mark, SecureBootCertificates, TpmKind, enrolled_template,
    speaks_tls,
};
use pillar_tools::Tools;
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

/// Firmware, kernel and workload under emulation on a busy machine. Generous: it bounds a hang, it times nothing.
pub const BOOT: Duration = Duration::from_secs(240);
/// Orderly shutdown, then the firmware again.
pub const SHUTDOWN: Duration = Duration::from_secs(120);

/// From the workload's health to the agent's answer.
const AGENT: Duration = Duration::from_secs(60);

/// Exit code of `pillar` when a check refused.
pub const EXIT_REFUSED: i32 = 2;

/// The folder of one test: the disk copy and every log. It stays when the test fails.
#[derive(Debug)]
pub struct Bench {
    dir: PathBuf,
    files: Files,
}

impl Bench {
    /// An empty folder for the test of that name.
    pub fn new(test: &str) -> Result<Bench> {
        Self::with(test, Files::find()?)
    }

    /// The same for another release than the default one.
    pub fn with(test: &str, files: Files) -> Result<Bench> {
        let dir = workspace().join("out/test").join(test);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir)?;
        Ok(Bench { dir, files })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The release under test.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// A copy of the release's disk, to be damaged.
    pub fn disk(&self) -> Result<Disk> {
        Disk::open(&self.files.disk_copy(&self.dir)?)
    }

    /// A machine with Secure Boot and our keys, a TPM, and this disk (written in place).
    pub fn machine(&self, disk: &Disk) -> Result<Builder> {
        let firmware = Firmware::enrolled(enrolled()?);
        Ok(Machine::builder("p1")
            .dir(self.dir.join("p1"))
            .disk(disk.path(), DiskMode::InPlace)
            .firmware(firmware)
            .tpm(TpmKind::swtpm())
            .memory_mib(512)
            .forward(8080))
    }

    /// Starts a machine.
    pub fn start(&self, builder: Builder) -> Result<Pillar> {
        let machine = builder.start().with_context(|| format!("logs in {}", self.dir.display()))?;
        Ok(Pillar { machine, dir: self.dir.clone(), release: self.files.out.join("release.json") })
    }

    /// An image of another security epoch or signed by another policy key: its UKI. The sealed root is the same.
    pub fn other_uki(&self, name: &str, words: &[&str]) -> Result<Vec<u8>> {
        let out = self.dir.join(name);
        let mut command = program("pillar-image")?;
        command.args(["build", &format!("out={}", out.display())]).args(words);
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let files = Files::in_folder(out, "pillar-image build")?;
        ensure!(
            files.release.predicate.root_hash == self.files.release.predicate.root_hash,
            "the sources or the commit changed since `./just image`: the sealed root is another one"
        );
        Ok(fs::read(files.file("efi"))?)
    }

    /// The test passed: its disk copy may go, the logs stay.
    pub fn passed(self) {
        for copy in ["disk.raw", "p1/disk.raw", "p1/boot.raw"] {
            let _ = fs::remove_file(self.dir.join(copy));
        }
    }
}

/// Firmware variables with the development keys enrolled.
pub fn enrolled() -> Result<PathBuf> {
    let keys = workspace().join("keys/dev");
    let (pk, kek, db) = (keys.join("PK.crt"), keys.join("KEK.crt"), keys.join("db.crt"));
    Ok(enrolled_template(&Tools::open()?, SecureBootCertificates { pk: &pk, kek: &kek, db: &db })?)
}

/// A machine that runs, or tries to.
#[derive(Debug)]
pub struct Pillar {
    /// The machine.
    pub machine: Machine,
    dir: PathBuf,
    release: PathBuf,
}

/// What `pillar` printed.
#[derive(Debug)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output as JSON.
    pub json: Value,
    /// Standard error.
    pub errors: String,
}

impl Pillar {
    /// Waits until the workload's health check passed.
    pub fn healthy(&self) -> Result<()> {
        self.healthy_after(Mark::default())
    }

    /// The same, for the boot behind `from`.
    pub fn healthy_after(&self, from: Mark) -> Result<()> {
        let patterns = [console::WORKLOAD_HEALTHY, "pillar-init: fatal", "Kernel panic"];
        let found = self.machine.console().wait_any(&patterns, from, BOOT)?;
        if found.pattern != 0 {
            bail!("the pillar did not come up: {}", found.line);
        }
        self.answers()
    }

    /// Waits until the boot is over and the agent answers, whatever became of the workload.
    pub fn answers_without_workload(&self) -> Result<()> {
        let ready = format!("{}{}", console::INIT_PREFIX, console::READY);
        let patterns = [&ready, "pillar-init: fatal", "Kernel panic"];
        let found = self.machine.console().wait_any(&patterns, Mark::default(), BOOT)?;
        if found.pattern != 0 {
            bail!("the pillar did not come up: {}", found.line);
        }
        self.answers()
    }

    /// The agent starts behind the workload. Its port is forwarded, so it connects at once and answers later.
    fn answers(&self) -> Result<()> {
        let until = Instant::now() + AGENT;
        while !speaks_tls(self.machine.agent_addr(), Duration::from_secs(5)) {
            if Instant::now() > until {
                bail!(
                    "the agent does not answer {} s after the boot: logs in {}",
                    AGENT.as_secs(),
                    self.dir.display()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits for one of these lines and fails when sealed code reached the point where the workload would start.
    pub fn refuses_to_boot(&self, reasons: &[&str]) -> Result<String> {
        let ready = format!("{}{}", console::INIT_PREFIX, console::READY);
        let mut patterns = reasons.to_vec();
        patterns.push(&ready);
        let found = self.machine.console().wait_any(&patterns, Mark::default(), BOOT)?;
        if found.pattern == reasons.len() {
            bail!("a damaged image ran: {}", found.line);
        }
        Ok(found.line)
    }

    /// Asks the example workload for its number, one higher with each visit and on the disk before it is told.
    pub fn visit(&self) -> Result<u64> {
        let addr = self.machine.workload_addr(8080)?;
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(30))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "GET /visits HTTP/1.1\r\nHost: pillar\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let body = text.rsplit("\r\n\r\n").next().unwrap_or_default().trim();
        body.parse().with_context(|| format!("no number: {text}"))
    }

    /// Runs `pillar` with these words against this machine, JSON out.
    pub fn pillar(&self, words: &[&str]) -> Result<Answer> {
        let mut command = program("pillar")?;
        command.args(words).arg("--addr").arg(self.machine.agent_addr().to_string()).args(["-o", "json"]);
        answer(&command.output()?)
    }

    /// `pillar attest`, with this test's own pins.
    pub fn attest(&self) -> Result<Answer> {
        self.attest_with(&[])
    }

    /// The same with more words.
    pub fn attest_with(&self, more: &[&str]) -> Result<Answer> {
        let pins = self.dir.join("pins.json");
        let mut words = vec!["attest".to_owned()];
        words.extend(["--release".to_owned(), self.release.display().to_string()]);
        words.extend(["--pins".to_owned(), pins.display().to_string()]);
        let ca = match self.machine.ek_ca() {
            Some(ca) => ca.to_owned(),
            None => {
                let ca = self.dir.join("ek-ca.pem");
                fs::write(&ca, EkCa::cached()?.chain_pem()?)?;
                ca
            }
        };
        words.extend(["--ek-ca".to_owned(), ca.display().to_string()]);
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.pillar(&words)
    }

    /// Attests and expects the verdict "verified".
    pub fn is_verified(&self) -> Result<Answer> {
        self.is_verified_with(&[])
    }

    /// The same with more words for `pillar attest`.
    pub fn is_verified_with(&self, more: &[&str]) -> Result<Answer> {
        let answer = self.attest_with(more)?;
        if answer.code != 0 || answer.json["verified"] != Value::Bool(true) {
            bail!("not verified: {answer:#?}\nlogs in {}", self.dir.display());
        }
        Ok(answer)
    }

    /// Attests and expects a refusal by this check, for a reason with these words.
    pub fn is_refused(&self, check: &str, words: &str) -> Result<()> {
        let answer = self.attest()?;
        if answer.code != EXIT_REFUSED || answer.json["verified"] != Value::Bool(false) {
            bail!("expected a refusal by {check:?}: {answer:#?}\nlogs in {}", self.dir.display());
        }
        let refused = &answer.json["refused"];
        let reason = refused["reason"].as_str().unwrap_or_default();
        if refused["check"] != check || !reason.contains(words) {
            bail!("refused for another reason than {check:?}, {words:?}: {refused}");
        }
        Ok(())
    }
}

fn answer(output: &Output) -> Result<Answer> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // One document, or one a line.
    let documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut documents = documents.collect::<Result<Vec<_>, _>>().with_context(|| text.clone())?;
    let json = match documents.len() {
        0 => Value::Null,
        1 => documents.remove(0),
        _ => Value::Array(documents),
    };
    let code = output.status.code().context("pillar was killed")?;
    Ok(Answer { code, json, errors: String::from_utf8_lossy(&output.stderr).into_owned() })
}
