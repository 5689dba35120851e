//! A TPM that is reset, cleared, filled up or taken away under the agent; and that nothing of ours stays in it.

mod bench;

use bench::{Bench, QUALIFYING, SECRET, TestResult, make_credential, name, pcrs, run};
use pillar_model::Bank;
use pillar_tpm::{Error, Tpm};
use std::time::{Duration, Instant};

const KINDS: [&str; 3] = ["handles-transient", "handles-loaded-session", "handles-saved-session"];

/// One of everything.
fn works(bench: &Bench, tpm: &mut Tpm) -> TestResult {
    let identity = tpm.identity()?;
    let (blob, secret) = make_credential(bench, &identity.ek_public, &name(&identity.ak_public))?;
    assert_eq!(tpm.activate(&blob, &secret)?, SECRET);
    tpm.quote(Bank::Sha256, &pcrs(&[0, 7]), &QUALIFYING)?;
    tpm.sign_tls(&QUALIFYING)?;
    tpm.clock()?;
    Ok(())
}

#[test]
fn nothing_stays_in_the_tpm() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    let good = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;
    let foreign = make_credential(&bench, &identity.ek_public, &name(b"some other key"))?;
    for round in 0..200 {
        tpm.identity()?;
        tpm.quote(Bank::Sha256, &pcrs(&[0, 7]), &QUALIFYING)?;
        tpm.sign_tls(&[round; 32])?;
        tpm.quote(Bank::Sha512, &pcrs(&[7]), &QUALIFYING).expect_err("the bank is off");
        tpm.activate(&foreign.0, &foreign.1).expect_err("for another key");
        if round % 10 == 0 {
            assert_eq!(tpm.activate(&good.0, &good.1)?, SECRET);
            tpm.clock()?;
        }
        if round % 50 == 0 {
            assert_eq!(bench.handles(KINDS[0])?, [""; 0], "round {round}");
            assert_eq!(bench.handles(KINDS[1])?.len(), 1, "round {round}: the one session");
        }
    }
    drop(tpm);
    for kind in KINDS {
        assert_eq!(bench.handles(kind)?, [""; 0], "{kind}");
    }
    Ok(())
}

// attack: B5
#[test]
fn a_tpm_that_was_reset_gets_its_keys_made_anew() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    let before = tpm.clock()?;
    assert!(tpm.clock()?.clock_ms >= before.clock_ms);

    run(bench.tool("tpm2_shutdown").arg("-c"))?;
    bench.reset()?;
    let error = tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING).expect_err("nobody started it");
    assert!(matches!(error, Error::NotStarted { .. }), "{error}");
    let error = tpm.clock().expect_err("nobody started it");
    assert!(matches!(error, Error::NotStarted { .. }), "{error}");
    run(bench.tool("tpm2_startup").arg("-c"))?;
    works(&bench, &mut tpm)?;
    let after = tpm.clock()?;
    assert_eq!(after.reset_count, before.reset_count + 1);

    // And between two calls, where nobody notices but by the saved keys.
    for call in 0..3 {
        run(bench.tool("tpm2_shutdown").arg("-c"))?;
        bench.reset()?;
        run(bench.tool("tpm2_startup").arg("-c"))?;
        match call {
            0 => drop(tpm.sign_tls(&QUALIFYING)?),
            1 => drop(tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING)?),
            _ => works(&bench, &mut tpm)?,
        }
    }
    assert_eq!(tpm.clock()?.reset_count, before.reset_count + 4);
    assert_eq!(tpm.identity()?.tls_public, identity.tls_public);
    assert_eq!(bench.handles(KINDS[0])?, [""; 0]);
    assert_eq!(bench.handles(KINDS[1])?.len(), 1);
    Ok(())
}

#[test]
fn the_clock_is_the_tpm_s() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let clock = Tpm::open(&bench.swtpm.tcti())?.clock()?;
    let text = run(&mut bench.tool("tpm2_readclock"))?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).expect("a line");
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(value("reset_count:"), clock.reset_count.to_string());
    assert_eq!(value("restart_count:"), clock.restart_count.to_string());
    assert_eq!(value("safe:"), if clock.safe { "yes" } else { "no" });
    let later: u64 = value("clock:").parse()?;
    assert!((clock.clock_ms..clock.clock_ms + 60_000).contains(&later), "{} {later}", clock.clock_ms);
    Ok(())
}

#[test]
fn a_cleared_tpm_keeps_its_identity() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    run(bench.tool("tpm2_clear").args(["-c", "p"]))?;
    works(&bench, &mut tpm)?;
    // Its clearing changes the owner's seed, and the endorsement's proof alone.
    assert_eq!(tpm.identity()?.ak_public, identity.ak_public);
    Ok(())
}

// attack: B3
#[test]
fn a_tpm_with_new_seeds_is_another_one() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    run(&mut bench.tool("tpm2_changeeps"))?;
    let error = tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING).expect_err("another seed");
    assert!(matches!(error, Error::ForeignCertificate { .. }), "{error}");

    let Some(other) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&other.swtpm.tcti())?;
    tpm.identity()?;
    tpm.pin_ek(&identity.ek_public);
    let error = tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING).expect_err("another TPM");
    assert!(matches!(error, Error::OtherEk), "{error}");
    Ok(())
}

#[test]
fn a_tpm_in_lockout_still_quotes_signs_and_activates() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    tpm.identity()?;
    run(bench.tool("tpm2_dictionarylockout").args(["-s", "-n", "1", "-t", "1000", "-l", "1000"]))?;
    run(bench.tool("tpm2_createprimary").args(["-C", "o", "-p", "right", "-c", "guarded.ctx"]))?;
    assert!(run(bench.tool("tpm2_create").args(["-C", "guarded.ctx", "-P", "wrong"])).is_err());
    assert!(run(bench.tool("tpm2_create").args(["-C", "guarded.ctx", "-P", "right"])).is_err(), "in lockout");
    run(bench.tool("tpm2_flushcontext").arg("-t"))?;
    works(&bench, &mut tpm)?;
    works(&bench, &mut Tpm::open(&bench.swtpm.tcti())?)
}

#[test]
fn a_password_of_the_endorsement_hierarchy_is_named() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    let identity = tpm.identity()?;
    run(bench.tool("tpm2_changeauth").args(["-c", "endorsement", "secret"]))?;
    // Keys that are made already serve; what needs the hierarchy says so.
    tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING)?;
    let (blob, secret) = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;
    let error = tpm.activate(&blob, &secret).expect_err("a password");
    assert!(matches!(error, Error::Endorsement { .. }), "{error}");
    let error = Tpm::open(&bench.swtpm.tcti())?.identity().expect_err("a password");
    assert!(matches!(error, Error::Endorsement { .. }), "{error}");
    Ok(())
}

#[test]
fn a_full_tpm_is_named_and_works_when_there_is_room() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    tpm.identity()?;
    let fill = || run(bench.tool("tpm2_createprimary").args(["-C", "o", "-G", "ecc", "-c", "filler.ctx"]));
    for _ in 0..3 {
        fill()?;
    }
    let error = tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING).expect_err("no room");
    assert!(matches!(error, Error::Room { .. }), "{error}");
    run(bench.tool("tpm2_flushcontext").arg("-t"))?;
    works(&bench, &mut tpm)
}

#[test]
fn a_tpm_that_goes_away_is_an_error_at_once() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let mut tpm = Tpm::open(&bench.swtpm.tcti())?;
    tpm.identity()?;
    tpm.clock()?;
    drop(bench);
    let start = Instant::now();
    let error = tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING).expect_err("gone");
    assert!(matches!(error, Error::Gone { .. } | Error::Open { .. }), "{error}");
    let error = tpm.sign_tls(&QUALIFYING).expect_err("gone");
    assert!(matches!(error, Error::Open { .. }), "{error}");
    let error = tpm.clock().expect_err("gone");
    assert!(matches!(error, Error::Exchange { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    Ok(())
}
