//! Against a real TPM 2.0 implementation (swtpm), judged by programs that we did not write (tpm2-tools).

use pillar_model::{Bank, PcrIndex};
use pillar_qemu::{EkCa, Swtpm};
use pillar_tools::Tools;
use pillar_tpm::{Error, Tpm};
use std::fs;
use std::path::Path;
use std::process::Command;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const QUALIFYING: [u8; 32] = [0x5a; 32];
const SECRET: &[u8; 32] = b"a secret that only this TPM sees";

struct Bench {
    tools: Tools,
    swtpm: Swtpm,
    dir: tempfile::TempDir,
}

impl Bench {
    /// None, with words, where the tools tree was not built.
    fn new() -> Result<Option<Self>, Box<dyn std::error::Error>> {
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

    fn tool(&self, program: &str) -> Command {
        let mut command = self.tools.command(program);
        command.current_dir(self.dir.path()).env("TPM2TOOLS_TCTI", self.swtpm.tcti());
        command
    }
}

fn run(command: &mut Command) -> Result<String, Box<dyn std::error::Error>> {
    let output = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{}", output.status, text(&output.stderr)).into());
    }
    Ok(text(&output.stdout))
}

/// `TPM2B_PUBLIC` from `TPMT_PUBLIC`: what tpm2-tools reads.
fn write_public(path: &Path, public: &[u8]) -> std::io::Result<()> {
    let size = u16::try_from(public.len()).expect("a public area is small").to_be_bytes();
    fs::write(path, [&size, public].concat())
}

/// One `TPM2B` from the front.
fn sized(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (size, rest) = bytes.split_first_chunk::<2>().expect("a size");
    rest.split_at(u16::from_be_bytes(*size).into())
}

fn name(public: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, public);
    format!("000b{}", hex::encode(digest))
}

fn pcrs(numbers: &[u8]) -> Vec<PcrIndex> {
    numbers.iter().map(|&number| PcrIndex::new(number).expect("a PCR")).collect()
}

/// `tpm2_makecredential` without a TPM: its file is a magic number, a version and the two structures.
fn make_credential(
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

#[test]
fn identity_quote_and_activation_satisfy_tpm2_tools() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let at = |file: &str| bench.dir.path().join(file);
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    let (blob, secret) = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;

    assert_eq!(tpm.activate(&blob, &secret)?, SECRET);
    let quote = tpm.quote(Bank::Sha256, &pcrs(&pillar_layout_quoted()), &QUALIFYING)?;
    let other_bank = tpm.quote(Bank::Sha384, &pcrs(&[0, 23]), &QUALIFYING)?;
    assert_ne!(quote.attest, other_bank.attest);

    write_public(&at("ak.pub"), &identity.ak_public)?;
    for quote in [&quote, &other_bank] {
        fs::write(at("attest"), &quote.attest)?;
        fs::write(at("signature"), &quote.signature)?;
        run(bench
            .tool("tpm2_checkquote")
            .args(["-u", "ak.pub", "-m", "attest", "-s", "signature", "-g", "sha256", "-q"])
            .arg(hex::encode(QUALIFYING)))?;
    }

    // The same keys for whoever opens the TPM next, and nothing of ours left in it.
    drop(tpm);
    assert_eq!(Tpm::open(&bench.swtpm.tcti())?.identity()?, identity);
    for kind in ["handles-transient", "handles-loaded-session", "handles-saved-session"] {
        assert_eq!(run(bench.tool("tpm2_getcap").arg(kind))?.trim(), "", "{kind}");
    }
    Ok(())
}

/// `pillar_layout::pcr::QUOTED`, spelt out: the layers below the programs do not share it by accident.
fn pillar_layout_quoted() -> [u8; 13] {
    [0, 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 14, 15]
}

#[test]
fn refusals_say_why_and_leave_the_tpm_usable() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;

    let error = tpm.quote(Bank::Sha512, &pcrs(&[7]), &QUALIFYING).expect_err("the bank is off");
    assert!(matches!(error, Error::Bank { bank: Bank::Sha512 }), "{error}");

    let foreign_name = name(b"some other key");
    let (blob, secret) = make_credential(&bench, &identity.ek_public, &foreign_name)?;
    let error = tpm.activate(&blob, &secret).expect_err("made for another AK");
    assert!(matches!(error, Error::Credential { .. }), "{error}");
    let error = tpm.activate(b"rubbish", &secret).expect_err("no credential");
    assert!(matches!(error, Error::Credential { .. }), "{error}");
    let error = tpm.activate(&[0; 4096], &secret).expect_err("too long");
    assert!(matches!(error, Error::Credential { .. }), "{error}");

    // Far more than a TPM has slots: each refusal flushed what it had loaded.
    for _ in 0..5 {
        tpm.activate(&blob, &secret).expect_err("made for another AK");
    }
    let (blob, secret) = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;
    assert_eq!(tpm.activate(&blob, &secret)?, SECRET);
    Ok(())
}

#[test]
fn no_tpm_and_nonsense_are_told_apart() {
    let error = Tpm::open("device:/nonexistent/tpm").expect_err("no device");
    assert!(
        error.to_string().starts_with("cannot open the TPM at device:/nonexistent/tpm; switch it on"),
        "{error}"
    );
    assert!(matches!(Tpm::open("carrier-pigeon:"), Err(Error::Open { .. })));
}

#[test]
fn a_tpm_without_an_ek_certificate_is_refused_with_where_it_was_looked_for() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    for index in ["0x01c00002", "0x01c00016"] {
        run(bench.tool("tpm2_nvundefine").args(["-C", "p", index]))?;
    }
    let error = Tpm::open(&bench.swtpm.tcti())?.identity().expect_err("no certificate");
    assert!(error.to_string().contains("0x01c0000a L-2 (ECC P-256), 0x01c00014 H-2"), "{error}");
    Ok(())
}

#[test]
fn the_high_range_key_serves_when_it_is_the_only_one() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    run(bench.tool("tpm2_nvundefine").args(["-C", "p", "0x01c00002"]))?;
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    let (blob, secret) = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;
    assert_eq!(tpm.activate(&blob, &secret)?, SECRET);
    Ok(())
}
