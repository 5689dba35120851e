//! Key exchange for NTS (RFC 8915 section 4): what is asked and answered inside of TLS, as records.
//!
//! We ask for NTPv4 with AEAD_AES_SIV_CMAC_256, which every server must have, and for nothing else.

use pillar_model::Host;

/// What TLS must have agreed on (ALPN).
pub const PROTOCOL: &[u8] = b"ntske/1";
/// A longer answer is not read. Eight cookies of the servers in use are below 1.5 KiB.
pub const MESSAGE_MAX_BYTES: usize = 16 * 1024;
/// More cookies are not kept: that is what servers give (RFC 8915 section 4.1.6).
pub const COOKIES: usize = 8;
/// A question with a longer cookie may not fit into a packet.
pub const COOKIE_MAX_BYTES: usize = 1024;

const RECORDS_MAX: usize = 64;
const HEADER_BYTES: usize = 4;
const CRITICAL: u16 = 1 << 15;

const END: u16 = 0;
const NEXT_PROTOCOL: u16 = 1;
const ERROR: u16 = 2;
const WARNING: u16 = 3;
const ALGORITHM: u16 = 4;
const COOKIE: u16 = 5;
const SERVER: u16 = 6;
const PORT: u16 = 7;

const NTPV4: u16 = 0;
/// AEAD_AES_SIV_CMAC_256 (RFC 5297).
const AES_SIV_CMAC_256: u16 = 15;

/// Why an answer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The connection ended before the answer did.
    #[error("the answer ends too early")]
    Unfinished,
    /// More than [`MESSAGE_MAX_BYTES`] or 64 records.
    #[error("the answer is too long")]
    TooLong,
    /// What must be understood and is not.
    #[error("it sends a critical record of the unknown type {0}")]
    UnknownCritical(u16),
    /// The server says that something is wrong.
    #[error("it reports {}", name(*.0))]
    Reported(u16),
    /// A warning: RFC 8915 knows none, and one that is not understood is an error.
    #[error("it warns of something unknown ({0})")]
    Warned(u16),
    /// No NTPv4.
    #[error("it does not offer NTPv4")]
    Protocol,
    /// Not our algorithm.
    #[error("it does not offer AEAD_AES_SIV_CMAC_256")]
    Algorithm,
    /// A record that may be there once only.
    #[error("it says twice what its {0} is")]
    Repeated(&'static str),
    /// A record that is not as it should be.
    #[error("its {0} is malformed")]
    Malformed(&'static str),
    /// Nothing to ask the time with.
    #[error("it gives no cookies")]
    NoCookies,
}

/// What an error code means (RFC 8915 section 4.1.3).
fn name(code: u16) -> String {
    match code {
        0 => "that it does not understand a critical record".to_owned(),
        1 => "that our request is bad".to_owned(),
        2 => "an internal error".to_owned(),
        _ => format!("the unknown error {code}"),
    }
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// Whom to ask for the time, when it is another machine.
    pub server: Option<Host>,
    /// At which port, when it is not that of NTP.
    pub port: Option<u16>,
    /// At least one, at most [`COOKIES`].
    pub cookies: Vec<Vec<u8>>,
}

/// The request.
#[must_use]
pub fn request() -> Vec<u8> {
    let mut message = Vec::new();
    for (kind, body) in [(NEXT_PROTOCOL, Some(NTPV4)), (ALGORITHM, Some(AES_SIV_CMAC_256)), (END, None)] {
        let body = body.map(u16::to_be_bytes);
        let body = body.as_ref().map_or(&[][..], |body| body);
        message.extend((CRITICAL | kind).to_be_bytes());
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
    }
    message
}

/// What was read so far.
#[derive(Debug, Default)]
struct Reading {
    protocol: Option<u16>,
    algorithm: Option<u16>,
    server: Option<Host>,
    port: Option<u16>,
    cookies: Vec<Vec<u8>>,
}

/// Reads an answer as far as it came. None while its end is missing.
pub fn read(message: &[u8]) -> Result<Option<Agreement>, RecordError> {
    let mut reading = Reading::default();
    let mut rest = message.get(..MESSAGE_MAX_BYTES).unwrap_or(message);
    for _ in 0..RECORDS_MAX {
        let Some((kind, body, behind)) = record(rest) else {
            return if message.len() < MESSAGE_MAX_BYTES { Ok(None) } else { Err(RecordError::TooLong) };
        };
        if kind & !CRITICAL == END {
            return reading.end(body).map(Some);
        }
        reading.take(kind, body)?;
        rest = behind;
    }
    Err(RecordError::TooLong)
}

/// The first record: its type, its body, and what comes behind it.
fn record(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [kind, kind_low, length, length_low] = *header;
    let length = usize::from(u16::from_be_bytes([length, length_low]));
    let (body, behind) = rest.split_at_checked(length)?;
    Some((u16::from_be_bytes([kind, kind_low]), body, behind))
}

impl Reading {
    fn take(&mut self, kind: u16, body: &[u8]) -> Result<(), RecordError> {
        match kind & !CRITICAL {
            ERROR => Err(RecordError::Reported(number(body, "error")?)),
            WARNING => Err(RecordError::Warned(number(body, "warning")?)),
            // An empty list means that there is nothing that both have.
            NEXT_PROTOCOL if body.is_empty() => Err(RecordError::Protocol),
            ALGORITHM if body.is_empty() => Err(RecordError::Algorithm),
            NEXT_PROTOCOL => once(&mut self.protocol, number(body, "protocol")?, "protocol"),
            ALGORITHM => once(&mut self.algorithm, number(body, "algorithm")?, "algorithm"),
            PORT => once(&mut self.port, port(body)?, "port"),
            SERVER => once(&mut self.server, server(body)?, "time server"),
            COOKIE => self.cookie(body),
            other if kind & CRITICAL != 0 => Err(RecordError::UnknownCritical(other)),
            _ => Ok(()),
        }
    }

    fn cookie(&mut self, body: &[u8]) -> Result<(), RecordError> {
        if body.is_empty() || body.len() > COOKIE_MAX_BYTES {
            return Err(RecordError::Malformed("cookie"));
        }
        if self.cookies.len() < COOKIES {
            self.cookies.push(body.to_vec());
        }
        Ok(())
    }

    fn end(self, body: &[u8]) -> Result<Agreement, RecordError> {
        if !body.is_empty() {
            return Err(RecordError::Malformed("end"));
        }
        if self.protocol != Some(NTPV4) {
            return Err(RecordError::Protocol);
        }
        if self.algorithm != Some(AES_SIV_CMAC_256) {
            return Err(RecordError::Algorithm);
        }
        if self.cookies.is_empty() {
            return Err(RecordError::NoCookies);
        }
        Ok(Agreement { server: self.server, port: self.port, cookies: self.cookies })
    }
}

fn once<T>(place: &mut Option<T>, value: T, what: &'static str) -> Result<(), RecordError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(RecordError::Repeated(what)),
    }
}

fn number(body: &[u8], what: &'static str) -> Result<u16, RecordError> {
    body.try_into().map(u16::from_be_bytes).map_err(|_| RecordError::Malformed(what))
}

fn port(body: &[u8]) -> Result<u16, RecordError> {
    let port = number(body, "port")?;
    if port == 0 { Err(RecordError::Malformed("port")) } else { Ok(port) }
}

fn server(body: &[u8]) -> Result<Host, RecordError> {
    let text = str::from_utf8(body).map_err(|_| RecordError::Malformed("time server"))?;
    // A name may have the root's dot at its end.
    let text = text.strip_suffix('.').unwrap_or(text);
    text.parse().map_err(|_| RecordError::Malformed("time server"))
}

#[cfg(test)]
mod tests;
