//! Against a real TPM 2.0 implementation (swtpm), judged by programs that we did not write (tpm2-tools).

mod bench;

use bench::{Bench, QUALIFYING, SECRET, TestResult, make_credential, name, pcrs, run, write_public};
use pillar_model::Bank;
use pillar_tpm::{Error, Identity, Tpm};
use std::fs;

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
    let again = Tpm::open(&bench.swtpm.tcti())?.identity()?;
    // The certification names the time at which it was made.
    let (tls_attest, tls_signature) = (identity.tls_attest.clone(), identity.tls_signature.clone());
    assert_eq!(Identity { tls_attest, tls_signature, ..again }, identity);
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
