//! A TPM that fails at any one command of all that are sent: later, in failure mode, with an answer that is none, or with
//! none at all. Every call ends, with a reason, and leaves nothing behind.

mod bench;

use bench::{Bench, Meddle, QUALIFYING, SECRET, TestResult, make_credential, name, pcrs, run};
use pillar_model::Bank;
use pillar_tpm::{Error, Tpm};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// `TPM_RC_RETRY`, `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_NV_RATE`.
const LATER: [u32; 4] = [0x922, 0x908, 0x90a, 0x920];
/// More often than the library below asks again by itself.
const TIMES: u32 = 7;
/// `TPM_RC_FAILURE`.
const FAILURE: u32 = 0x101;

/// What becomes of one command.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// This answer instead, so many times.
    Says(u32, u32),
    /// Success, and nothing of what should follow.
    Empty,
    /// Half of the answer, under a header that says so.
    Half,
    /// The TPM's answer with these bits changed in each byte behind the header.
    Garbled(u8),
}

/// Counts commands, and does the deed at one of them.
#[derive(Clone)]
struct At {
    deed: Deed,
    /// Commands before it.
    before: Arc<AtomicU32>,
    /// Times that are left.
    left: Arc<AtomicU32>,
    /// All that came.
    came: Arc<AtomicU32>,
}

impl At {
    fn new(deed: Deed, before: u32) -> Self {
        let times = if let Deed::Says(_, times) = deed { times } else { 1 };
        let number = |value| Arc::new(AtomicU32::new(value));
        Self { deed, before: number(before), left: number(times), came: number(0) }
    }

    /// Whether this is the one.
    fn is_due(&self) -> bool {
        self.came.fetch_add(1, Ordering::Relaxed) >= self.before.load(Ordering::Relaxed)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }
}

fn header(code: u32) -> Vec<u8> {
    [&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat()
}

impl Meddle for At {
    fn answers(&self, _: &[u8]) -> Option<Vec<u8>> {
        match self.deed {
            Deed::Says(code, _) if self.is_due() => Some(header(code)),
            Deed::Empty if self.is_due() => Some(header(0)),
            _ => None,
        }
    }

    fn changes(&self, answer: &mut Vec<u8>) {
        match self.deed {
            Deed::Half if self.is_due() => {
                answer.truncate(10.max(answer.len() / 2));
                let size = u32::try_from(answer.len()).expect("small").to_be_bytes();
                answer[2..6].copy_from_slice(&size);
            }
            Deed::Garbled(bits) if self.is_due() => answer[10..].iter_mut().for_each(|byte| *byte ^= bits),
            _ => {}
        }
    }
}

/// A TPM, and a credential for it.
struct Case {
    bench: Bench,
    blob: Vec<u8>,
    secret: Vec<u8>,
    /// Commands that one of everything takes.
    commands: u32,
}

impl Case {
    fn new() -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let Some(bench) = Bench::new()? else { return Ok(None) };
        let identity = Tpm::open(&bench.swtpm.tcti())?.identity()?;
        let (blob, secret) = make_credential(&bench, &identity.ek_public, &name(&identity.ak_public))?;
        let mut case = Self { bench, blob, secret, commands: 0 };
        let counts = At::new(Deed::Empty, u32::MAX);
        let tap = case.bench.tap(counts.clone())?;
        let mut tpm = Tpm::open(&tap.tcti)?;
        case.all(&mut tpm)?;
        // Without the one that closes the session in the end.
        case.commands = counts.came.load(Ordering::Relaxed);
        assert!((30..80).contains(&case.commands), "{} commands", case.commands);
        Ok(Some(case))
    }

    /// One of everything.
    fn all(&self, tpm: &mut Tpm) -> Result<(), Error> {
        tpm.identity()?;
        tpm.quote(Bank::Sha256, &pcrs(&[0, 7]), &QUALIFYING)?;
        tpm.sign_tls(&QUALIFYING)?;
        assert_eq!(tpm.activate(&self.blob, &self.secret)?, SECRET);
        tpm.clock().map(drop)
    }

    fn assert_empty(&self, what: &str) -> TestResult {
        for kind in ["handles-transient", "handles-loaded-session"] {
            assert_eq!(self.bench.handles(kind)?, [""; 0], "{what}: {kind}");
        }
        Ok(())
    }
}

#[test]
fn a_tpm_that_says_later_to_any_command_is_asked_again() -> TestResult {
    let Some(case) = Case::new()? else { return Ok(()) };
    for (number, code) in (0..case.commands).zip(LATER.iter().cycle()) {
        let at = At::new(Deed::Says(*code, TIMES), number);
        let tap = case.bench.tap(at.clone())?;
        case.all(&mut Tpm::open(&tap.tcti)?).map_err(|e| format!("{code:#x} to command {number}: {e}"))?;
        assert_eq!(at.left.load(Ordering::Relaxed), 0, "command {number}");
    }
    println!("{} commands, each answered \"later\" {TIMES} times", case.commands);
    case.assert_empty("in the end")
}

#[test]
fn a_tpm_that_fails_at_any_command_keeps_nothing_and_serves_when_it_is_well() -> TestResult {
    let Some(case) = Case::new()? else { return Ok(()) };
    for number in 0..case.commands {
        let tap = case.bench.tap(At::new(Deed::Says(FAILURE, 1), number))?;
        let mut tpm = Tpm::open(&tap.tcti)?;
        match case.all(&mut tpm) {
            Err(Error::Failure { .. }) => {}
            other => panic!("command {number}: {other:?}"),
        }
        case.all(&mut tpm)?;
        drop(tpm);
        case.assert_empty(&format!("command {number}"))?;
    }
    println!("{} commands, each of which failed once, and was seen to fail", case.commands);
    Ok(())
}

/// Does the deed to each command in turn. A TPM that answers so may do anything; the agent ends each call with a reason
/// that is not the caller's, and serves the next. No more than so many answers go through.
fn answers(deed: Deed, harmless: u32) -> TestResult {
    let Some(case) = Case::new()? else { return Ok(()) };
    let mut accepted = 0;
    for number in 0..case.commands {
        let tap = case.bench.tap(At::new(deed, number))?;
        let mut tpm = Tpm::open(&tap.tcti)?;
        match case.all(&mut tpm) {
            Err(error) => assert!(!error.is_about_the_request(), "{deed:?} {number}: {error}"),
            // An answer without parameters, or numbers that nobody can know to be wrong.
            Ok(()) => accepted += 1,
        }
        // A handle that nobody was told of stays; behind a resource manager it ends with the connection.
        run(case.bench.tool("tpm2_flushcontext").arg("-t"))?;
        run(case.bench.tool("tpm2_flushcontext").arg("-l"))?;
        case.all(&mut tpm).map_err(|error| format!("after {deed:?} {number}: {error}"))?;
    }
    println!("{} answers, {accepted} of which did no harm", case.commands);
    assert!(accepted <= harmless, "{accepted} answers of {} went through, {deed:?}", case.commands);
    Ok(())
}

#[test]
fn an_empty_answer_is_an_error_and_the_next_call_is_served() -> TestResult {
    answers(Deed::Empty, 11)
}

#[test]
fn half_an_answer_is_an_error_and_the_next_call_is_served() -> TestResult {
    answers(Deed::Half, 14)
}

// attack: B6
#[test]
fn a_garbled_answer_is_an_error_and_the_next_call_is_served() -> TestResult {
    answers(Deed::Garbled(0xff), 11)
}
