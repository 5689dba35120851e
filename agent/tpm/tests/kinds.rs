//! Each kind of EK, with certificates that a tool of others makes for keys that tools of others made.

mod bench;

use bench::{Bench, SECRET, TestResult, make_credential, name, run};
use pillar_tpm::{Error, Tpm};
use std::fs;

const LOW: &str = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt";
const HIGH: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt";
/// tpm2-tools take a size in the processor's own byte order.
const SIZE_256: [u8; 2] = 256u16.to_ne_bytes();
const POLICY_A: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
const POLICY_C: &str = "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde";

/// `TPM2_PolicyOR` of PolicyA and PolicyC: the profile's PolicyB.
fn policy_b() -> Vec<u8> {
    let branches = [POLICY_A, POLICY_C].map(|policy| hex::decode(policy).expect("hex")).concat();
    let message = [&[0; 32][..], &0x171u32.to_be_bytes(), &branches].concat();
    ring::digest::digest(&ring::digest::SHA256, &message).as_ref().to_vec()
}

impl Bench {
    /// A primary of the endorsement hierarchy by tpm2-tools: its `TPMT_PUBLIC`, and a certificate for it.
    fn endorse(&self, create: &[&str]) -> Result<(Vec<u8>, Vec<u8>), Box<dyn std::error::Error>> {
        run(self.tool(create[0]).args(&create[1..]).args(["-c", "ek.ctx"]))?;
        for (format, file) in [("pem", "ek.pem"), ("tss", "ek.tss")] {
            run(self.tool("tpm2_readpublic").args(["-c", "ek.ctx", "-f", format, "-o", file]))?;
        }
        run(self.tool("tpm2_flushcontext").arg("-t"))?;
        self.authority("ca")?;
        run(self.tool("openssl").args(["x509", "-new", "-force_pubkey", "ek.pem", "-subj", "/CN=ek"]).args(
            ["-CA", "ca.pem", "-CAkey", "ca.key", "-days", "10", "-outform", "DER", "-out", "ek.der"],
        ))?;
        let at = |file: &str| fs::read(self.dir.path().join(file));
        Ok((at("ek.tss")?[2..].to_vec(), at("ek.der")?))
    }

    /// A certification authority; its certificate.
    fn authority(&self, name: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let (key, pem, der) = (format!("{name}.key"), format!("{name}.pem"), format!("{name}.der"));
        run(self.tool("openssl").args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "10"]).args([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &pem,
        ]))?;
        run(self.tool("openssl").args(["x509", "-in", &pem, "-outform", "DER", "-out", &der]))?;
        Ok(fs::read(self.dir.path().join(der))?)
    }

    fn write(&self, file: &str, bytes: &[u8]) -> std::io::Result<()> {
        fs::write(self.dir.path().join(file), bytes)
    }
}

/// A TPM with no certificate but this one takes that key for its EK, and activates with it.
fn check(bench: &Bench, index: u32, ek_public: &[u8], certificate: &[u8]) -> TestResult {
    let padded = [certificate, &[0xff; 100]].concat();
    bench.put(index, &padded)?;
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    assert_eq!(identity.ek_public, ek_public, "{index:#x}");
    assert_eq!(identity.ek_certificate, certificate, "without its padding");
    let (blob, secret) = make_credential(bench, &identity.ek_public, &name(&identity.ak_public))?;
    assert_eq!(tpm.activate(&blob, &secret)?, SECRET);
    Ok(())
}

// attack: A16
#[test]
fn the_high_range_s_smaller_keys() -> TestResult {
    for (index, algorithm) in
        [(0x01c0_0012, "rsa2048:null:aes128cfb"), (0x01c0_0014, "ecc256:null:aes128cfb")]
    {
        let Some(bench) = Bench::new()? else { return Ok(()) };
        bench.forget_certificates()?;
        bench.write("policy", &policy_b())?;
        let (public, certificate) = bench.endorse(&[
            "tpm2_createprimary",
            "-C",
            "e",
            "-g",
            "sha256",
            "-G",
            algorithm,
            "-a",
            HIGH,
            "-L",
            "policy",
        ])?;
        check(&bench, index, &public, &certificate)?;
    }
    Ok(())
}

#[test]
fn the_low_range_s_ecc_key_comes_first() -> TestResult {
    // RSA-2048 and P-384 have certificates too.
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (public, certificate) = bench.endorse(&["tpm2_createek", "-G", "ecc"])?;
    check(&bench, 0x01c0_000a, &public, &certificate)
}

#[test]
fn the_maker_s_nonce_and_template() -> TestResult {
    let create = |attributes, unique: &'static str| {
        let algorithm = "rsa2048:null:aes128cfb";
        let mut arguments = vec!["tpm2_createprimary", "-C", "e", "-g", "sha256", "-G", algorithm];
        arguments.extend(["-a", attributes, "-L", "policy", "-u", unique]);
        arguments
    };
    let nonce = *b"the maker's nonce, of 32 bytes 1";
    let Some(bench) = Bench::new()? else { return Ok(()) };
    bench.forget_certificates()?;
    bench.write("policy", &hex::decode(POLICY_A)?)?;
    bench.write("unique", &[&SIZE_256[..], &nonce, &[0; 256 - 32]].concat())?;
    let (public, certificate) = bench.endorse(&create(LOW, "unique"))?;
    bench.put(0x01c0_0003, &nonce)?;
    check(&bench, 0x01c0_0002, &public, &certificate)?;

    // A template that differs from the profile's in its attributes.
    let Some(bench) = Bench::new()? else { return Ok(()) };
    bench.forget_certificates()?;
    bench.write("policy", &hex::decode(POLICY_A)?)?;
    bench.write("unique", &[&SIZE_256[..], &[0; 256]].concat())?;
    let attributes = format!("{LOW}|noda");
    let (public, certificate) = bench.endorse(&create(&attributes, "unique"))?;
    let template = [&public[..public.len() - 256], &[0; 256]].concat();
    bench.put(0x01c0_0004, &template)?;
    check(&bench, 0x01c0_0002, &public, &certificate)
}

#[test]
fn a_template_that_is_none_of_an_ek_is_refused() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    run(bench.tool("tpm2_nvundefine").args(["-C", "p", "0x01c00016"]))?;
    let ak = Tpm::open(&bench.swtpm.tcti())?.identity()?.ak_public;
    // A signing key's.
    bench.put(0x01c0_0004, &ak)?;
    let error = Tpm::open(&bench.swtpm.tcti())?.identity().expect_err("no EK");
    assert!(matches!(error, Error::Template { index: 0x01c0_0004 }), "{error}");
    run(bench.tool("tpm2_nvundefine").args(["-C", "p", "0x01c00004"]))?;
    bench.put(0x01c0_0004, b"rubbish")?;
    let error = Tpm::open(&bench.swtpm.tcti())?.identity().expect_err("no template");
    assert!(matches!(error, Error::Template { index: 0x01c0_0004 }), "{error}");
    Ok(())
}

// attack: B8
#[test]
fn a_certificate_for_another_key_or_of_rubbish_is_refused() -> TestResult {
    let (Some(bench), Some(other)) = (Bench::new()?, Bench::new()?) else { return Ok(()) };
    bench.forget_certificates()?;
    let (_, certificate) = other.endorse(&["tpm2_createek", "-G", "ecc"])?;
    bench.put(0x01c0_000a, &certificate)?;
    let error = Tpm::open(&bench.swtpm.tcti())?.identity().expect_err("another TPM's");
    assert!(matches!(error, Error::ForeignCertificate { index: 0x01c0_000a, .. }), "{error}");
    run(bench.tool("tpm2_nvundefine").args(["-C", "p", "0x01c0000a"]))?;
    bench.put(0x01c0_000a, &[0xff; 64])?;
    let error = Tpm::open(&bench.swtpm.tcti())?.identity().expect_err("rubbish");
    assert!(matches!(error, Error::Certificate { index: 0x01c0_000a, .. }), "{error}");
    Ok(())
}

#[test]
fn certificates_of_authorities_are_handed_out() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let (root, issuer) = (bench.authority("root")?, bench.authority("issuer")?);
    assert_eq!(Tpm::open(&bench.swtpm.tcti())?.identity()?.ek_chain, Vec::<Vec<u8>>::new());
    // One goes on in the next index, and padding is at the end.
    let (start, rest) = issuer.split_at(100);
    bench.put(0x01c0_0100, &[&root, start].concat())?;
    bench.put(0x01c0_0101, &[rest, &[0; 50]].concat())?;
    bench.put(0x01c0_0102, b"no certificate")?;
    assert_eq!(Tpm::open(&bench.swtpm.tcti())?.identity()?.ek_chain, [root, issuer]);
    Ok(())
}
