//! What the tests share: a TPM of their own, programs that judge, and somebody on the wire.
#![allow(dead_code, reason = "each test program uses a part")]

use pillar_model::{Bank, PcrIndex};
use pillar_qemu::{EkCa, Swtpm};
use pillar_tools::Tools;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

pub type TestResult = Result<(), Box<dyn std::error::Error>>;

pub const QUALIFYING: [u8; 32] = [0x5a; 32];
pub const SECRET: &[u8; 32] = b"a secret that only this TPM sees";

pub struct Bench {
    pub tools: Tools,
    pub swtpm: Swtpm,
    pub dir: tempfile::TempDir,
}

impl Bench {
    /// None, with words, where the tools tree was not built.
    pub fn new() -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let tools = match Tools::open() {
            Ok(tools) => tools,
            Err(error) => {
                eprintln!("skipped: {error}");
                return Ok(None);
            }
        };
        let dir = tempfile::tempdir()?;
        let banks = [Bank::Sha256, Bank::Sha384];
        let swtpm = Swtpm::start_with(&tools, &EkCa::cached()?, &dir.path().join("tpm"), &banks)?;
        Ok(Some(Self { tools, swtpm, dir }))
    }

    pub fn tool(&self, program: &str) -> Command {
        let mut command = self.tools.command(program);
        command.current_dir(self.dir.path()).env("TPM2TOOLS_TCTI", self.swtpm.tcti());
        command
    }
}

pub fn run(command: &mut Command) -> Result<String, Box<dyn std::error::Error>> {
    let output = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{}", output.status, text(&output.stderr)).into());
    }
    Ok(text(&output.stdout))
}

/// `TPM2B_PUBLIC` from `TPMT_PUBLIC`: what tpm2-tools reads.
pub fn write_public(path: &Path, public: &[u8]) -> std::io::Result<()> {
    let size = u16::try_from(public.len()).expect("a public area is small").to_be_bytes();
    fs::write(path, [&size, public].concat())
}

/// One `TPM2B` from the front.
pub fn sized(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (size, rest) = bytes.split_first_chunk::<2>().expect("a size");
    rest.split_at(u16::from_be_bytes(*size).into())
}

pub fn name(public: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, public);
    format!("000b{}", hex::encode(digest))
}

pub fn pcrs(numbers: &[u8]) -> Vec<PcrIndex> {
    numbers.iter().map(|&number| PcrIndex::new(number).expect("a PCR")).collect()
}

/// `tpm2_makecredential` without a TPM: its file is a magic number, a version and the two structures.
pub fn make_credential(
    bench: &Bench,
    ek_public: &[u8],
    ak_name: &str,
) -> Result<(Vec<u8>, Vec<u8>), Box<dyn std::error::Error>> {
    let at = |file: &str| bench.dir.path().join(file);
    write_public(&at("ek.pub"), ek_public)?;
    fs::write(at("secret"), SECRET)?;
    run(bench.tool("tpm2_makecredential").args([
        "-T",
        "none",
        "-u",
        "ek.pub",
        "-s",
        "secret",
        "-n",
        ak_name,
        "-o",
        "credential",
    ]))?;
    let file = fs::read(at("credential"))?;
    let (blob, rest) = sized(&file[8..]);
    let (secret, rest) = sized(rest);
    assert!(rest.is_empty());
    Ok((blob.to_vec(), secret.to_vec()))
}

impl Bench {
    /// `handles` of one kind that are in the TPM.
    pub fn handles(&self, kind: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        Ok(run(self.tool("tpm2_getcap").arg(kind))?.lines().map(str::to_owned).collect())
    }

    /// Puts bytes into a new NV index that everybody reads.
    pub fn put(&self, index: u32, bytes: &[u8]) -> TestResult {
        let index = format!("{index:#010x}");
        fs::write(self.dir.path().join("content"), bytes)?;
        let attributes = "authread|ppwrite|ppread|ownerread|no_da|platformcreate";
        run(self
            .tool("tpm2_nvdefine")
            .args(["-C", "p", &index, "-a", attributes, "-s"])
            .arg(bytes.len().to_string()))?;
        run(self.tool("tpm2_nvwrite").args(["-C", "p", &index, "-i", "content"])).map(drop)
    }

    /// Leaves no EK certificate.
    pub fn forget_certificates(&self) -> TestResult {
        for index in ["0x01c00002", "0x01c00016"] {
            run(self.tool("tpm2_nvundefine").args(["-C", "p", index]))?;
        }
        Ok(())
    }

    /// Pulls the reset line (swtpm_ioctls(3), `CMD_INIT`): what a reboot does to a TPM. Nobody has started it then.
    pub fn reset(&self) -> TestResult {
        let mut control = TcpStream::connect(("127.0.0.1", port(&self.swtpm.tcti()) + 1))?;
        control.write_all(&[0, 0, 0, 2, 0, 0, 0, 0])?;
        let mut answer = [1; 4];
        control.read_exact(&mut answer)?;
        assert_eq!(answer, [0; 4], "the TPM was reset");
        Ok(())
    }

    /// Somebody on the wire to this TPM.
    pub fn tap(&self, meddle: impl Meddle) -> std::io::Result<Tap> {
        let target = port(&self.swtpm.tcti());
        let (listener, control) = listen_twice()?;
        let tcti = format!("swtpm:host=127.0.0.1,port={}", listener.local_addr()?.port());
        std::thread::spawn(move || {
            for client in control.incoming().flatten() {
                std::thread::spawn(move || pass(client, target + 1));
            }
        });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, meddle) = (Arc::clone(&seen), Arc::new(meddle));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (record, meddle) = (Arc::clone(&record), Arc::clone(&meddle));
                std::thread::spawn(move || relay(client, target, &record, &*meddle));
            }
        });
        Ok(Tap { tcti, seen })
    }
}

/// What is done to what goes over the wire.
pub trait Meddle: Send + Sync + 'static {
    /// An answer in the TPM's place.
    fn answers(&self, _command: &[u8]) -> Option<Vec<u8>> {
        None
    }
    /// A change of the TPM's answer.
    fn changes(&self, _answer: &mut Vec<u8>) {}
}

/// Only listens.
pub struct Listens;

impl Meddle for Listens {}

/// Somebody on the wire.
pub struct Tap {
    pub tcti: String,
    seen: Arc<Record>,
}

impl Tap {
    /// Everything that went over since the last time: commands and answers.
    pub fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.seen.lock().expect("whole"))
    }
}

/// Whether the bytes went over the wire.
pub fn holds(seen: &[Exchange], what: &[u8]) -> bool {
    seen.iter().any(|(command, answer)| {
        [command, answer].iter().any(|side| side.windows(what.len()).any(|window| window == what))
    })
}

/// The codes of the commands.
pub fn codes(seen: &[Exchange]) -> Vec<u32> {
    seen.iter().map(|(command, _)| u32::from_be_bytes(command[6..10].try_into().expect("a code"))).collect()
}

pub fn port(tcti: &str) -> u16 {
    tcti.rsplit("port=").next().and_then(|port| port.parse().ok()).expect("a port")
}

/// A command and its answer.
pub type Exchange = (Vec<u8>, Vec<u8>);
type Record = Mutex<Vec<Exchange>>;

/// On two ports in a row: the second is for swtpm's control channel.
fn listen_twice() -> std::io::Result<(TcpListener, TcpListener)> {
    loop {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let next = first.local_addr()?.port().saturating_add(1);
        if let Ok(second) = TcpListener::bind(("127.0.0.1", next)) {
            return Ok((first, second));
        }
    }
}

/// Copies both ways, untouched.
fn pass(client: TcpStream, target: u16) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target))?;
    let (mut from_client, mut to_client) = (client.try_clone()?, client);
    let (mut from_server, mut to_server) = (server.try_clone()?, server);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        to_client.shutdown(std::net::Shutdown::Both)
    });
    std::io::copy(&mut from_client, &mut to_server)?;
    to_server.shutdown(std::net::Shutdown::Both)
}

/// One connection; each command gets a connection of its own to the TPM, which serves one at a time.
fn relay(mut client: TcpStream, target: u16, record: &Record, meddle: &dyn Meddle) -> Option<()> {
    loop {
        let command = message(&mut client)?;
        let answer = match meddle.answers(&command) {
            Some(answer) => answer,
            None => {
                let mut server = TcpStream::connect(("127.0.0.1", target)).ok()?;
                server.write_all(&command).ok()?;
                let mut answer = message(&mut server)?;
                meddle.changes(&mut answer);
                answer
            }
        };
        record.lock().expect("whole").push((command, answer.clone()));
        client.write_all(&answer).ok()?;
    }
}

/// A command or an answer: its size is in bytes 2 to 5.
fn message(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut header = vec![0; 10];
    from.read_exact(&mut header).ok()?;
    let size = u32::from_be_bytes(header[2..6].try_into().ok()?);
    header.resize(usize::try_from(size).ok()?, 0);
    from.read_exact(&mut header[10..]).ok()?;
    Some(header)
}
