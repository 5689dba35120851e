//! Against a real TPM 2.0 implementation (swtpm): who may unseal, and who may not, each for its reason.

use pillar_measure::policy::{self, EPOCH_REF, Policy, STATE_REF};
use pillar_model::{Bank, Digest, PcrIndex, SignedPolicies, SignedPolicy};
use pillar_qemu::{EkCa, Swtpm};
use pillar_seal::{Error, Image, Sealed, Tpm};
use pillar_tools::Tools;
use ring::rand::SystemRandom;
use ring::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const SECRET: &[u8; 32] = b"the key slot's passphrase: 32 b.";

struct Bench {
    tools: Tools,
    swtpm: Swtpm,
    dir: tempfile::TempDir,
    signer: Signer,
}

/// A policy key.
struct Signer {
    key: RsaKeyPair,
    public: Vec<u8>,
}

impl Signer {
    fn new(tools: &Tools, dir: &Path, name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let path = dir.join(name);
        let made = tools
            .command("openssl")
            .args([
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-outform",
                "DER",
                "-out",
            ])
            .arg(&path)
            .output()?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let key = RsaKeyPair::from_der(&std::fs::read(&path)?).map_err(|error| error.to_string())?;
        let modulus = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public_key()).n;
        Ok(Self { public: policy::verifying_key(&modulus), key })
    }

    fn sign(&self, policy: &Policy, reference: &[u8]) -> SignedPolicy {
        let mut signature = vec![0; self.key.public().modulus_len()];
        let message = policy::message(policy, reference);
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &message, &mut signature)
            .expect("the key signs");
        SignedPolicy { policy: policy.digest().clone(), signature: Digest(signature) }
    }

    /// What this key signs for an image of this epoch whose PCR 11 is this in `sysinit` and in `ready`.
    fn policies(&self, sysinit: &Digest, ready: &Digest, epoch: u64) -> SignedPolicies {
        let index = policy::epoch_name(&policy::name(&self.public));
        SignedPolicies {
            epoch,
            state: self.sign(&policy::state_policy(sysinit, epoch, &index), STATE_REF),
            epoch_first: self.sign(&policy::first_epoch_policy(sysinit), EPOCH_REF),
            epoch_raise: self.sign(&policy::raise_epoch_policy(ready, epoch, &index), EPOCH_REF),
        }
    }
}

impl Bench {
    /// None, with words, where the tools tree was not built.
    fn new() -> Result<Option<Self>, Box<dyn std::error::Error>> {
        Self::with_banks(&[Bank::Sha256])
    }

    fn with_banks(banks: &[Bank]) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let tools = match Tools::open() {
            Ok(tools) => tools,
            Err(error) => {
                eprintln!("skipped: {error}");
                return Ok(None);
            }
        };
        let dir = tempfile::tempdir()?;
        let swtpm = Swtpm::start_with(&tools, &EkCa::cached()?, &dir.path().join("tpm"), banks)?;
        let signer = Signer::new(&tools, dir.path(), "policy.key")?;
        Ok(Some(Self { tools, swtpm, dir, signer }))
    }

    fn tpm(&self) -> Result<Tpm, Error> {
        Tpm::open(&self.swtpm.tcti())
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        let mut command = self.tools.command(program);
        command.current_dir(self.dir.path()).env("TPM2TOOLS_TCTI", self.swtpm.tcti()).args(arguments);
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn extend(&self, pcr: u8) -> TestResult {
        self.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={}", "11".repeat(32))]).map(drop)
    }

    fn pcr11(&self) -> Result<Digest, Error> {
        let index = PcrIndex::new(11).expect("a PCR");
        Ok(self.tpm()?.pcrs(&[index])?.remove(0).1)
    }

    /// PCR 11 after one more extend.
    fn after(&self, value: &Digest) -> Digest {
        let mut next = value.clone();
        pillar_measure::hash::extend(Bank::Sha256, &mut next, &Digest(vec![0x11; 32]));
        next
    }

    /// Policies for an image that is in `sysinit` now.
    fn policies(&self, epoch: u64) -> Result<SignedPolicies, Error> {
        let sysinit = self.pcr11()?;
        Ok(self.signer.policies(&sysinit, &self.after(&sysinit), epoch))
    }

    fn image<'a>(&'a self, policies: &'a SignedPolicies) -> Image<'a> {
        Image { policy_key: &self.signer.public, policies }
    }
}

/// A machine in `sysinit` that has made its state volume, with the policies of epoch 5.
fn sealed(bench: &Bench) -> Result<(SignedPolicies, Sealed), Box<dyn std::error::Error>> {
    bench.extend(11)?;
    let policies = bench.policies(5)?;
    let image = bench.image(&policies);
    let mut tpm = bench.tpm()?;
    assert_eq!(tpm.minimum_epoch(&bench.signer.public)?, None);
    assert_eq!(tpm.ensure_epoch(&image)?, 5);
    let sealed = tpm.seal(&image, SECRET)?;
    Ok((policies, sealed))
}

// attack: C5
#[test]
fn the_image_unseals_in_its_phase_and_only_before_the_volume_was_used() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (policies, sealed) = sealed(&bench)?;
    let image = bench.image(&policies);
    assert_eq!(bench.tpm()?.unseal(&image, &sealed)?.as_slice(), SECRET);
    bench.extend(15)?;
    let error = bench.tpm()?.unseal(&image, &sealed).expect_err("PCR 15 is not zero");
    assert!(matches!(error, Error::Used { .. }), "{error}");
    // Nothing of all that stays in the TPM.
    for kind in ["handles-transient", "handles-loaded-session"] {
        assert_eq!(bench.tool("tpm2_getcap", &[kind])?, "");
    }
    Ok(())
}

// attack: C5
#[test]
fn a_later_phase_does_not_unseal() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (policies, sealed) = sealed(&bench)?;
    bench.extend(11)?;
    let error = bench.tpm()?.unseal(&bench.image(&policies), &sealed).expect_err("ready");
    assert!(matches!(error, Error::Phase { .. }), "{error}");
    Ok(())
}

// attack: C5
#[test]
fn the_next_image_of_the_same_signer_unseals_and_another_signer_s_does_not() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (policies, sealed) = sealed(&bench)?;
    // A later boot, of the next image: other measurements, same signer.
    bench.extend(11)?;
    let next = bench.policies(5)?;
    assert_eq!(bench.tpm()?.unseal(&bench.image(&next), &sealed)?.as_slice(), SECRET);

    let foreign = Signer::new(&bench.tools, bench.dir.path(), "foreign.key")?;
    let sysinit = bench.pcr11()?;
    let its = foreign.policies(&sysinit, &sysinit, 5);
    let image = Image { policy_key: &foreign.public, policies: &its };
    let error = bench.tpm()?.unseal(&image, &sealed).expect_err("another signer");
    assert!(matches!(error, Error::ForeignIndex { .. }), "{error}");
    // With our key named and the foreign signature: the TPM checks it.
    let error = bench.tpm()?.unseal(&bench.image(&its), &sealed).expect_err("its signature");
    assert!(matches!(error, Error::Signature), "{error}");
    // The policies of the image that was, while this one runs.
    let error = bench.tpm()?.unseal(&bench.image(&policies), &sealed).expect_err("another image's policies");
    assert!(matches!(error, Error::Phase { .. }), "{error}");
    // Signatures under another reference are for something else.
    let mut mixed = next.clone();
    mixed.state = next.epoch_raise.clone();
    let error = bench.tpm()?.unseal(&bench.image(&mixed), &sealed).expect_err("another reference");
    assert!(matches!(error, Error::Signature), "{error}");
    Ok(())
}

// attack: C4
#[test]
fn an_older_epoch_does_not_unseal_once_the_minimum_was_raised() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (_, sealed) = sealed(&bench)?;
    let old = bench.policies(5)?;
    let new = bench.policies(6)?;
    for policies in [&old, &new] {
        assert_eq!(bench.tpm()?.unseal(&bench.image(policies), &sealed)?.as_slice(), SECRET);
    }
    let error = bench.tpm()?.raise_epoch(&bench.image(&new)).expect_err("not ready yet");
    assert!(matches!(error, Error::Phase { .. }), "{error}");
    bench.extend(11)?;
    assert_eq!(bench.tpm()?.raise_epoch(&bench.image(&new))?, 6);
    assert_eq!(bench.tpm()?.minimum_epoch(&bench.signer.public)?, Some(6));
    let error = bench.tpm()?.raise_epoch(&bench.image(&old)).expect_err("going back");
    assert!(matches!(error, Error::Epoch { epoch: 5, minimum: 6 }), "{error}");

    // "The next boot": policies that fit PCR 11 as it is now.
    let (old, new) = (bench.policies(5)?, bench.policies(6)?);
    let error = bench.tpm()?.unseal(&bench.image(&old), &sealed).expect_err("an older epoch");
    assert!(matches!(error, Error::Epoch { epoch: 5, minimum: 6 }), "{error}");
    // It claims another epoch than the one that was signed.
    let lying = SignedPolicies { epoch: 6, ..old };
    let error = bench.tpm()?.unseal(&bench.image(&lying), &sealed).expect_err("a lie");
    assert!(matches!(error, Error::Phase { .. }), "{error}");
    assert_eq!(bench.tpm()?.unseal(&bench.image(&new), &sealed)?.as_slice(), SECRET);
    Ok(())
}

// attack: C5 P4
#[test]
fn changed_firmware_is_named() -> TestResult {
    for (pcr, word) in [(0, "firmware"), (2, "option ROMs"), (7, "Secure Boot state")] {
        let Some(bench) = Bench::new()? else { return Ok(()) };
        let (policies, sealed) = sealed(&bench)?;
        bench.extend(pcr)?;
        let error = bench.tpm()?.unseal(&bench.image(&policies), &sealed).expect_err("other firmware");
        let text = error.to_string();
        assert!(text.starts_with(&format!("PCR {pcr} ({word}) is ")), "{text}");
    }
    Ok(())
}

// attack: C5
#[test]
fn another_tpm_does_not_unseal() -> TestResult {
    let (Some(bench), Some(other)) = (Bench::new()?, Bench::new()?) else { return Ok(()) };
    let (policies, sealed) = sealed(&bench)?;
    other.extend(11)?;
    let error = other.tpm()?.unseal(&bench.image(&policies), &sealed).expect_err("another TPM");
    assert!(matches!(error, Error::NoEpoch), "{error}");
    other.tpm()?.ensure_epoch(&bench.image(&policies))?;
    let error = other.tpm()?.unseal(&bench.image(&policies), &sealed).expect_err("another TPM");
    assert!(matches!(error, Error::Foreign), "{error}");
    // Changed on the disk.
    let mut damaged = sealed.clone();
    damaged.private[20] ^= 1;
    let error = bench.tpm()?.unseal(&bench.image(&policies), &damaged).expect_err("damaged");
    assert!(matches!(error, Error::Foreign), "{error}");
    let mut password = sealed;
    password.public[7] |= 0x40;
    let error = bench.tpm()?.unseal(&bench.image(&policies), &password).expect_err("a password would do");
    assert!(matches!(error, Error::Sealed(_)), "{error}");
    Ok(())
}

// attack: P11
#[test]
fn an_impostor_of_the_minimum_epoch_is_refused() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (policies, sealed) = sealed(&bench)?;
    let index = format!("{:#x}", policy::EPOCH_INDEX);
    // Nobody but a signed policy writes it.
    std::fs::write(bench.dir.path().join("zero"), [0; 8])?;
    let written = bench.tool("tpm2_nvwrite", &[&index, "-C", "o", "-i", "zero"]);
    assert!(written.is_err(), "written by the owner");
    assert!(bench.tool("tpm2_nvwrite", &[&index, "-i", "zero"]).is_err(), "written by its password");
    // Deleted and made again by the owner, writable by everybody.
    bench.tool("tpm2_nvundefine", &[&index, "-C", "o"])?;
    let error = bench.tpm()?.unseal(&bench.image(&policies), &sealed).expect_err("deleted");
    assert!(matches!(error, Error::NoEpoch), "{error}");
    bench.tool("tpm2_nvdefine", &[&index, "-C", "o", "-s", "8", "-a", "authread|authwrite|no_da"])?;
    bench.tool("tpm2_nvwrite", &[&index, "-i", "zero"])?;
    let error = bench.tpm()?.unseal(&bench.image(&policies), &sealed).expect_err("an impostor");
    assert!(matches!(error, Error::ForeignIndex { .. }), "{error}");
    Ok(())
}

// attack: B7
#[test]
fn a_bank_that_is_off_is_named() -> TestResult {
    let Some(bench) = Bench::with_banks(&[Bank::Sha384])? else { return Ok(()) };
    let sysinit = Digest(vec![0; 32]);
    let policies = bench.signer.policies(&sysinit, &sysinit, 5);
    let error = bench.tpm()?.ensure_epoch(&bench.image(&policies)).expect_err("no SHA-256");
    assert!(matches!(error, Error::Bank), "{error}");
    Ok(())
}

#[test]
fn an_owner_password_is_named() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    bench.extend(11)?;
    let policies = bench.policies(5)?;
    bench.tool("tpm2_changeauth", &["-c", "owner", "secret"])?;
    let error = bench.tpm()?.ensure_epoch(&bench.image(&policies)).expect_err("not ours");
    assert!(matches!(error, Error::Owner { .. }), "{error}");
    Ok(())
}

#[test]
fn a_tpm_in_lockout_still_opens_the_volume() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (policies, sealed) = sealed(&bench)?;
    bench.tool("tpm2_dictionarylockout", &["-s", "-n", "1", "-t", "1000", "-l", "1000"])?;
    bench.tool("tpm2_createprimary", &["-C", "o", "-p", "right", "-c", "guarded.ctx"])?;
    assert!(bench.tool("tpm2_create", &["-C", "guarded.ctx", "-P", "wrong"]).is_err());
    assert!(bench.tool("tpm2_getcap", &["properties-variable"])?.contains("inLockout: "), "the property");
    assert!(bench.tool("tpm2_create", &["-C", "guarded.ctx", "-P", "right"]).is_err(), "in lockout");
    bench.tool("tpm2_flushcontext", &["-t"])?;
    // No password of ours could be guessed, so none of our objects is under that protection.
    assert_eq!(bench.tpm()?.unseal(&bench.image(&policies), &sealed)?.as_slice(), SECRET);
    Ok(())
}

/// Somebody on the wire: everything that goes over it, both ways; with `flips`, the last bit of every answer to a command
/// with sessions is another one.
fn tap(target: &str, flips: bool) -> std::io::Result<(String, Arc<Mutex<Vec<u8>>>)> {
    let port = target.rsplit("port=").next().and_then(|p| p.parse::<u16>().ok()).expect("a port");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let own = listener.local_addr()?.port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let copy = |mut from: TcpStream, mut to: TcpStream, record: Arc<Mutex<Vec<u8>>>, flips: bool| {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
                        if flips && buffer.starts_with(&[0x80, 2]) {
                            buffer[bytes - 1] ^= 1;
                        }
                        record.lock().expect("whole").extend_from_slice(&buffer[..bytes]);
                        if to.write_all(&buffer[..bytes]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                })
            };
            if let (Ok(client_2), Ok(server_2)) = (client.try_clone(), server.try_clone()) {
                copy(client, server, Arc::clone(&record), false);
                copy(server_2, client_2, Arc::clone(&record), flips);
            }
        }
    });
    Ok((format!("swtpm:host=127.0.0.1,port={own}"), seen))
}

// attack: B6
#[test]
fn who_listens_on_the_bus_does_not_learn_the_key() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    bench.extend(11)?;
    let policies = bench.policies(5)?;
    let image = bench.image(&policies);
    let (tapped, seen) = tap(&bench.swtpm.tcti(), false)?;
    let mut tpm = Tpm::open(&tapped)?;
    tpm.ensure_epoch(&image)?;
    let sealed = tpm.seal(&image, SECRET)?;
    assert_eq!(tpm.unseal(&image, &sealed)?.as_slice(), SECRET);
    drop(tpm);
    let seen = seen.lock().expect("whole");
    let holds = |what: &[u8]| seen.windows(what.len()).any(|window| window == what);
    // The tap works: what is not secret is there.
    assert!(holds(STATE_REF) && holds(&sealed.private));
    // Not whole, and no eight bytes of it.
    for part in SECRET.windows(8) {
        assert!(!holds(part), "{:?} went over the wire", String::from_utf8_lossy(part));
    }
    Ok(())
}

// attack: B6
#[test]
fn an_answer_that_was_changed_on_its_way_is_refused() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (policies, sealed) = sealed(&bench)?;
    let (tapped, _) = tap(&bench.swtpm.tcti(), true)?;
    let error = Tpm::open(&tapped)?.unseal(&bench.image(&policies), &sealed).expect_err("changed");
    assert!(matches!(error, Error::Wire), "{error}");
    Ok(())
}

#[test]
fn a_tpm_that_is_not_there_is_named() {
    for name in ["swtpm:port=1", "device:/nonexistent/tpm", "mssim:"] {
        let error = Tpm::open(name).expect_err("no TPM").to_string();
        assert!(error.starts_with(&format!("cannot open the TPM at {name};")), "{error}");
    }
}
