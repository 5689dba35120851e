//! What goes over the wire between processor and TPM: how many commands, what of it can be read, and what happens to who
//! changes it.

mod bench;

use bench::{
    Bench, Listens, Meddle, QUALIFYING, SECRET, TestResult, codes, holds, make_credential, name, pcrs,
};
use pillar_model::Bank;
use pillar_tpm::{Error, Tpm};
use std::sync::atomic::{AtomicU32, Ordering};

const CONTEXT_LOAD: u32 = 0x161;
const FLUSH: u32 = 0x165;
const QUOTE: u32 = 0x158;
const SIGN: u32 = 0x15d;
const READ_CLOCK: u32 = 0x181;
const START_SESSION: u32 = 0x176;
const POLICY_SECRET: u32 = 0x151;
const ACTIVATE: u32 = 0x147;

// attack: B6
#[test]
fn who_listens_on_the_bus_learns_neither_secret_nor_what_is_signed() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let tap = bench.tap(Listens)?;
    let mut tpm = Tpm::open(&tap.tcti)?;
    let identity = tpm.identity()?;
    let (blob, secret) = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;
    let digest: [u8; 32] = *b"a digest that is signed for TLS.";
    let mut quotes = Vec::new();
    for _ in 0..2 {
        assert_eq!(tpm.activate(&blob, &secret)?, SECRET);
        tpm.sign_tls(&digest)?;
        quotes.push(tpm.quote(Bank::Sha256, &pcrs(&[0, 7, 11]), &QUALIFYING)?);
    }
    drop(tpm);
    let seen = tap.take();
    // The tap works: what nobody hides is there.
    assert!(holds(&seen, &identity.ek_certificate[..512]) && holds(&seen, &secret));
    // A quote is for everybody to read.
    assert!(holds(&seen, quotes[1].attest.last_chunk::<32>().expect("a digest is its end")));
    // Not whole, and no eight bytes of it.
    for hidden in [&SECRET[..], &digest, identity.ak_public.last_chunk::<32>().expect("y")] {
        for part in hidden.windows(8) {
            assert!(!holds(&seen, part), "{:?} went over the wire", String::from_utf8_lossy(part));
        }
    }
    Ok(())
}

#[test]
fn a_call_takes_few_commands() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let tap = bench.tap(Listens)?;
    let mut tpm = Tpm::open(&tap.tcti)?;
    let identity = tpm.identity()?;
    let made = tap.take().len();
    assert!(made <= 45, "{made} commands for the identity");
    tpm.identity()?;
    assert_eq!(tap.take(), [], "it is kept");

    let quoted = pcrs(&[0, 7]);
    for _ in 0..2 {
        tpm.quote(Bank::Sha256, &quoted, &QUALIFYING)?;
        assert_eq!(codes(&tap.take()), [CONTEXT_LOAD, QUOTE, FLUSH]);
    }
    tpm.sign_tls(&QUALIFYING)?;
    assert_eq!(codes(&tap.take()), [CONTEXT_LOAD, SIGN, FLUSH]);
    tpm.clock()?;
    let seen = tap.take();
    assert_eq!(codes(&seen), [READ_CLOCK]);
    assert_eq!(seen[0].0[..2], [0x80, 0x01], "no session");
    let (blob, secret) = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;
    tap.take();
    tpm.activate(&blob, &secret)?;
    let expected = [CONTEXT_LOAD, CONTEXT_LOAD, START_SESSION, POLICY_SECRET, ACTIVATE, FLUSH, FLUSH, FLUSH];
    assert_eq!(codes(&tap.take()), expected);
    Ok(())
}

/// Changes the last bit of each answer that has an HMAC.
struct Changes;

impl Meddle for Changes {
    fn changes(&self, answer: &mut Vec<u8>) {
        let end = answer.len();
        if answer.starts_with(&[0x80, 0x02]) && end > 44 && answer[end - 34..end - 32] == [0, 32] {
            answer[end - 1] ^= 1;
        }
    }
}

// attack: B6
#[test]
fn an_answer_that_was_changed_on_its_way_is_refused() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let tap = bench.tap(Changes)?;
    let error = Tpm::open(&tap.tcti)?.identity().expect_err("changed");
    assert!(matches!(error, Error::Wire { .. }), "{error}");
    Ok(())
}

/// Says "later" to commands of one code, some times.
struct Later {
    code: u32,
    answer: u32,
    times: AtomicU32,
}

impl Later {
    fn new(code: u32, answer: u32, times: u32) -> Self {
        Self { code, answer, times: AtomicU32::new(times) }
    }
}

impl Meddle for Later {
    fn answers(&self, command: &[u8]) -> Option<Vec<u8>> {
        let left = self.times.load(Ordering::Relaxed);
        if command[6..10] != self.code.to_be_bytes() || left == 0 {
            return None;
        }
        self.times.store(left - 1, Ordering::Relaxed);
        Some([&[0x80, 0x01, 0, 0, 0, 10][..], &self.answer.to_be_bytes()].concat())
    }
}

#[test]
fn a_tpm_that_says_later_is_asked_again() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    // Busy, yielded, testing itself; more often than the library below asks again by itself.
    for (code, answer) in
        [(QUOTE, 0x922), (QUOTE, 0x908), (CONTEXT_LOAD, 0x90a), (FLUSH, 0x922), (READ_CLOCK, 0x922)]
    {
        let tap = bench.tap(Later::new(code, answer, 7))?;
        let mut tpm = Tpm::open(&tap.tcti)?;
        tpm.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING)?;
        tpm.clock()?;
        drop(tpm);
        assert_eq!(bench.handles("handles-transient")?, [""; 0], "{code:#x} {answer:#x}");
    }
    let tap = bench.tap(Later::new(QUOTE, 0x922, u32::MAX))?;
    let error =
        Tpm::open(&tap.tcti)?.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING).expect_err("busy for ever");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    Ok(())
}

#[test]
fn what_a_tpm_says_of_itself_is_named() -> TestResult {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let refused = |answer| -> Result<String, Box<dyn std::error::Error>> {
        let tap = bench.tap(Later::new(QUOTE, answer, u32::MAX))?;
        let quote = Tpm::open(&tap.tcti)?.quote(Bank::Sha256, &pcrs(&[7]), &QUALIFYING);
        Ok(quote.expect_err("a refusal").to_string())
    };
    assert!(refused(0x921)?.starts_with("TPM in lockout, cannot quote;"));
    assert!(refused(0x101)?.starts_with("TPM failed its self-test, cannot quote;"));
    assert!(refused(0x100)?.starts_with("the TPM was not started since it was reset, cannot quote;"));
    assert!(refused(0x902)?.starts_with("the TPM has no room, cannot quote:"));
    assert!(refused(0x918)?.starts_with("the TPM forgot its keys, cannot quote:"));
    assert_eq!(refused(0x143)?, "cannot quote");
    Ok(())
}
