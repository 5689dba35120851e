//! NTS (RFC 8915): time servers that prove their answers. First keys and cookies are fetched over TLS (`exchange`), then
//! the time is asked in packets of NTP that both sides authenticate.
//!
//! The time proves no more than before that nobody on the way changed it: the server may be wrong, or lie. So no decision
//! about trust rests on it either. Of its own we have the protocol alone, which is small; TLS is rustls, AES-SIV is
//! RustCrypto's. There is no crate for a client that does not bring an async runtime or a daemon along.

pub mod exchange;
pub mod fields;
pub mod records;
pub mod trust;

use crate::ntp::{self, Refusal, Sample};
use crate::time::{converse, unix_s};
use crate::{random, random_bytes};
use exchange::{ExchangeError, Keys, exchange};
use fields::{FieldError, NONCE_BYTES, UNIQUE_BYTES};
use pillar_model::NtsServer;
use records::COOKIES;
use std::io;
use trust::{Clock, TrustError};

/// So many questions without an answer, and the keys are fetched anew: perhaps it is another server's address by now.
const FAILURES_MAX: u32 = 3;
/// RFC 8915 section 7.7.
const NAK: &str = "NTSN";

/// Why there is no proven answer.
#[derive(Debug, thiserror::Error)]
pub enum NtsError {
    /// No keys.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// No socket, no route, no answer.
    #[error("no answer")]
    Socket(#[source] io::Error),
    /// Only answers that nobody may believe.
    #[error("no answer that counts: {0}")]
    Unproven(#[source] Unproven),
    /// A proven answer that is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A proven answer at a time at which the server can prove nothing.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It said so, and proved it.
    #[error("it does not want to be asked")]
    Spared,
}

/// Why an answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// What it is.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// It does not know our cookie (a kiss named NTSN). Nothing proves that, so it is believed when nothing better comes.
    #[error("it does not know our cookie any more")]
    Nak,
}

/// One server, and what was agreed on with it.
#[derive(Debug)]
pub struct Client {
    server: NtsServer,
    keys: Option<Keys>,
    failures: u32,
    /// It asked not to be asked.
    spared: bool,
}

impl Client {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(server: NtsServer) -> Self {
        Self { server, keys: None, failures: 0, spared: false }
    }

    /// The server's name for people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("nts://{}", self.server.place)
    }

    /// Asks for the time once, after asking for keys where there are none, and once more with new keys when the server does
    /// not know the old ones.
    pub fn ask(&mut self, clock: Clock) -> Result<Sample, NtsError> {
        if self.spared {
            return Err(NtsError::Spared);
        }
        let had_keys = self.keys.is_some();
        let mut asked = self.ask_once(clock);
        if had_keys && matches!(asked, Err(NtsError::Unproven(Unproven::Nak))) {
            self.keys = None;
            asked = self.ask_once(clock);
        }
        match &asked {
            Ok(_) => self.failures = 0,
            Err(NtsError::Refused(refusal)) if refusal.is_farewell() => self.spared = true,
            Err(NtsError::Unproven(Unproven::Nak) | NtsError::Trust(_)) => self.keys = None,
            Err(_) => self.failures += 1,
        }
        if self.failures >= FAILURES_MAX || self.keys.as_ref().is_some_and(|keys| keys.cookies.is_empty()) {
            (self.keys, self.failures) = (None, 0);
        }
        asked
    }

    fn ask_once(&mut self, clock: Clock) -> Result<Sample, NtsError> {
        let keys = match &mut self.keys {
            Some(keys) => keys,
            none => none.insert(exchange(&self.server.place, &self.server.keys, clock)?),
        };
        let sample = ask(keys, clock.earliest_unix_s)?;
        keys.chain.is_valid_at(told(sample)?)?;
        Ok(sample)
    }
}

/// What time it is by this answer.
fn told(sample: Sample) -> Result<u64, Refusal> {
    let seconds = sample.offset.div_euclid(1_000_000_000);
    unix_s().checked_add_signed(seconds).ok_or(Refusal::Impossible)
}

/// Asks with the next cookie.
fn ask(keys: &mut Keys, earliest_unix_s: u64) -> Result<Sample, NtsError> {
    if keys.cookies.is_empty() {
        return Err(NtsError::Unproven(Unproven::Nak));
    }
    // The oldest one: it is the first that the server will not know any more.
    let cookie = keys.cookies.remove(0);
    let nonce = random();
    let unique: [u8; UNIQUE_BYTES] = random_bytes();
    let aead_nonce: [u8; NONCE_BYTES] = random_bytes();
    let wanted = COOKIES.saturating_sub(keys.cookies.len());
    let header = ntp::question(nonce);
    let question = fields::question(&header, &unique, &cookie, wanted, &keys.to_server, &aead_nonce);
    let mut disbelieved = None;
    let asked = converse(keys.to, &question, |packet, asked, took| {
        let answer = ntp::answer(packet, nonce, asked, took, earliest_unix_s);
        match fields::open(packet, &unique, &keys.to_client) {
            Ok(cookies) => {
                let room = COOKIES.saturating_sub(keys.cookies.len());
                keys.cookies.extend(cookies.into_iter().take(room));
                Some(answer)
            }
            // Somebody guesses, or repeats: the answer may still come.
            Err(FieldError::Unproven) if is_nak(packet, &unique, &answer) => {
                disbelieved = Some(Unproven::Nak);
                None
            }
            Err(error) => {
                disbelieved.get_or_insert(error.into());
                None
            }
        }
    });
    match (asked, disbelieved) {
        (Ok(answer), _) => Ok(answer?),
        (Err(_), Some(why)) => Err(NtsError::Unproven(why)),
        (Err(error), None) => Err(NtsError::Socket(error)),
    }
}

/// The kiss of a server that lost its keys (RFC 8915 section 5.7): it repeats nonce and identifier.
fn is_nak(packet: &[u8], unique: &[u8; UNIQUE_BYTES], answer: &Result<Sample, Refusal>) -> bool {
    matches!(answer, Err(Refusal::Kiss(code)) if code == NAK) && fields::is_unproven_answer(packet, unique)
}
