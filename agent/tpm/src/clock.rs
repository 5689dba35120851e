//! The TPM's clock and counters, by `TPM2_ReadClock` (TPM 2.0 part 3, section 29.1): one command, no session, nothing
//! loaded. tss-esapi 7 has no such command, so this one goes over a connection of its own. Behind the kernel's resource
//! manager that is also the cheapest way: it saves and loads nothing for a connection that holds nothing.

use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::thread::sleep;
use std::time::Duration;

const OPERATION: &str = "read the TPM's clock";
/// `TPM_ST_NO_SESSIONS`, 10 bytes, `TPM_CC_ReadClock`.
const READ_CLOCK: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81];
const HEADER_BYTES: usize = 10;
/// Header and `TPMS_TIME_INFO`: time, clock, resetCount, restartCount, safe.
const ANSWER_BYTES: usize = HEADER_BYTES + 8 + 8 + 4 + 4 + 1;
/// `TPM_RC_RETRY`, `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_NV_RATE`.
const LATER: [u32; 4] = [0x922, 0x908, 0x90a, 0x920];
/// `TPM_RC_FAILURE`.
const FAILURE: u32 = 0x101;
/// `TPM_RC_INITIALIZE`.
const INITIALIZE: u32 = 0x100;
/// A software TPM on a socket answers within this time or never; the kernel has a limit of its own for a device.
const SOCKET_DEADLINE: Duration = Duration::from_secs(10);

/// What `TPM2_ReadClock` says. It is not signed: good for noticing a change in one's own TPM, not for telling others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds in which the TPM had power, over its whole life.
    pub clock_ms: u64,
    /// Resets of the TPM since it was cleared.
    pub reset_count: u32,
    /// Times it was suspended or hibernated since the last reset.
    pub restart_count: u32,
    /// Whether the clock is sure not to have gone back.
    pub safe: bool,
}

/// How the clock is reached.
#[derive(Debug)]
enum Channel {
    /// The kernel's resource manager: kept open.
    Device(File),
    /// A software TPM serves one connection at a time: one for each question.
    Socket(String),
}

/// A connection for questions about the clock alone. It may be used beside a [`crate::Tpm`], by another thread: a
/// heartbeat then waits for one command of the TPM at most, not for a whole quote or for keys that are made.
#[derive(Debug)]
pub struct ClockReader {
    channel: Channel,
}

impl ClockReader {
    /// Opens `device:PATH` or `swtpm:host=H,port=P`.
    pub fn open(tcti: &str) -> Result<Self, Error> {
        let fail = |source| Error::Exchange { operation: OPERATION, source };
        if let Some(path) = tcti.strip_prefix("device:") {
            let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
            return Ok(Self { channel: Channel::Device(file) });
        }
        let value = |key| tcti.strip_prefix("swtpm:")?.split(',').find_map(|part| part.strip_prefix(key));
        match (value("host="), value("port=")) {
            (Some(host), Some(port)) => Ok(Self { channel: Channel::Socket(format!("{host}:{port}")) }),
            _ => {
                let kind = "neither device:PATH nor swtpm:host=HOST,port=PORT";
                Err(fail(io::Error::new(io::ErrorKind::InvalidInput, kind)))
            }
        }
    }

    /// Asks, again when the TPM only says "later".
    pub fn read(&mut self) -> Result<Clock, Error> {
        let mut wait = crate::FIRST_WAIT;
        for _ in 1..crate::TRIES {
            match self.once()? {
                Answer::Later => sleep(wait),
                Answer::Clock(clock) => return Ok(clock),
            }
            wait *= 2;
        }
        match self.once()? {
            Answer::Later => Err(Error::Busy { operation: OPERATION }),
            Answer::Clock(clock) => Ok(clock),
        }
    }

    fn once(&mut self) -> Result<Answer, Error> {
        let mut answer = [0; ANSWER_BYTES];
        let exchanged = match &mut self.channel {
            Channel::Device(file) => file.write_all(&READ_CLOCK).and_then(|()| file.read(&mut answer)),
            Channel::Socket(address) => exchange(address, &mut answer),
        };
        let bytes = exchanged.map_err(|source| Error::Exchange { operation: OPERATION, source })?;
        parse(&answer[..bytes])
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Clock(Clock),
    Later,
}

fn exchange(address: &str, answer: &mut [u8]) -> io::Result<usize> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut socket = TcpStream::connect_timeout(&address, SOCKET_DEADLINE)?;
    socket.set_read_timeout(Some(SOCKET_DEADLINE))?;
    socket.write_all(&READ_CLOCK)?;
    let (header, rest) = answer.split_at_mut(HEADER_BYTES);
    socket.read_exact(header)?;
    // A refusal is a header alone.
    if u32_at(header, 6) != Some(0) {
        return Ok(HEADER_BYTES);
    }
    socket.read_exact(rest)?;
    Ok(ANSWER_BYTES)
}

fn parse(answer: &[u8]) -> Result<Answer, Error> {
    let malformed = Error::Answer { operation: OPERATION };
    let size = u32_at(answer, 2).and_then(|size| usize::try_from(size).ok());
    match u32_at(answer, 6) {
        Some(code) if LATER.contains(&code) => return Ok(Answer::Later),
        Some(FAILURE) => return Err(Error::Failure { operation: OPERATION }),
        Some(INITIALIZE) => return Err(Error::NotStarted { operation: OPERATION }),
        Some(0) if size == Some(ANSWER_BYTES) && answer.len() == ANSWER_BYTES => {}
        _ => return Err(malformed),
    }
    let clock = || {
        Some(Clock {
            clock_ms: (u64::from(u32_at(answer, 18)?) << 32) | u64::from(u32_at(answer, 22)?),
            reset_count: u32_at(answer, 26)?,
            restart_count: u32_at(answer, 30)?,
            safe: match answer.get(34)? {
                0 => false,
                1 => true,
                _ => return None,
            },
        })
    };
    clock().map(Answer::Clock).ok_or(malformed)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u32, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(HEADER_BYTES + body.len()).expect("small");
        [&[0x80, 0x01][..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn an_answer_is_a_clock_or_a_reason() {
        let mut body = [&7u64.to_be_bytes()[..], &0x1_0000_0002u64.to_be_bytes()].concat();
        body.extend([0, 0, 0, 3, 0, 0, 0, 4, 1]);
        let clock = Clock { clock_ms: 0x1_0000_0002, reset_count: 3, restart_count: 4, safe: true };
        assert_eq!(parse(&answer(0, &body)).expect("a clock"), Answer::Clock(clock));
        assert_eq!(parse(&answer(0x922, &[])).expect("later"), Answer::Later);
        assert!(matches!(parse(&answer(0x101, &[])), Err(Error::Failure { .. })));
        assert!(matches!(parse(&answer(0x100, &[])), Err(Error::NotStarted { .. })));
        for bad in
            [answer(0x143, &[]), answer(0, &[]), answer(0, &body[1..]), answer(0, &body)[..34].to_vec()]
        {
            assert!(matches!(parse(&bad), Err(Error::Answer { .. })), "{bad:?}");
        }
        body[24] = 2;
        assert!(matches!(parse(&answer(0, &body)), Err(Error::Answer { .. })), "neither yes nor no");
    }
}
