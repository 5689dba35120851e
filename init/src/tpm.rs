//! One TPM 2.0 command, by hand: `TPM2_PCR_Event` (TPM 2.0 Library, Part 3, section 22.4), which hashes the event in
//! every bank that the TPM has, extends the PCR and returns the digests. The agent owns everything else.

use rustix::event::{PollFd, PollFlags, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

/// The resource manager's device first: the agent uses the same one.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];
/// `TPM2B_EVENT` holds at most this much.
pub const EVENT_MAX_BYTES: usize = 1024;
/// A response holds a digest a bank; five banks are more than any TPM has.
const RESPONSE_MAX_BYTES: usize = 512;
/// The kernel's own limit for a command of this kind is 2 s; a slow firmware TPM may take longer after its start.
const DEADLINE: Duration = Duration::from_secs(20);

const TAG_SESSIONS: u16 = 0x8002;
const CC_PCR_EVENT: u32 = 0x0000_013c;
const PASSWORD_SESSION: u32 = 0x4000_0009;
/// `TPM_RC_RETRY`, `TPM_RC_YIELDED`, `TPM_RC_TESTING`: ask again.
const AGAIN: [u32; 3] = [0x922, 0x908, 0x90a];
const TRIES: u32 = 20;

/// A digest with its algorithm's `TPM_ALG_ID`.
pub type BankDigest = (u16, Vec<u8>);

/// Why the TPM did not take an event.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The device is there and does not open.
    #[error("cannot open {0}")]
    Open(&'static str, #[source] io::Error),
    /// Talking to it failed.
    #[error("cannot talk to the TPM")]
    Exchange(#[source] io::Error),
    /// It took longer than the deadline.
    #[error("the TPM did not answer in time")]
    Silent,
    /// It refused.
    #[error("the TPM refused to extend PCR {pcr}: code {code:#x}")]
    Refused {
        /// The PCR.
        pcr: u8,
        /// `TPM_RC`.
        code: u32,
    },
    /// Its answer makes no sense.
    #[error("the TPM's answer is malformed: {0}")]
    Malformed(&'static str),
    /// The event is too long for one command.
    #[error("an event of {0} bytes is longer than {EVENT_MAX_BYTES}")]
    Long(usize),
}

/// The TPM's device.
#[derive(Debug)]
pub struct Tpm(File);

impl Tpm {
    /// Opens the TPM; `None` when the machine has none. The drivers are built in: a TPM that is not there when init
    /// starts does not come later.
    pub fn open() -> Result<Option<Tpm>, TpmError> {
        for device in DEVICES {
            match OpenOptions::new().read(true).write(true).open(device) {
                Ok(file) => return Ok(Some(Tpm(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(TpmError::Open(device, error)),
            }
        }
        Ok(None)
    }

    /// Extends a PCR by the hash of `event` in every bank; returns the hashes.
    pub fn event(&mut self, pcr: u8, event: &[u8]) -> Result<Vec<BankDigest>, TpmError> {
        let command = command(pcr, event)?;
        for _ in 0..TRIES {
            let response = self.exchange(&command)?;
            match parse(&response)? {
                Ok(digests) => return Ok(digests),
                Err(code) if AGAIN.contains(&code) => std::thread::sleep(Duration::from_millis(50)),
                Err(code) => return Err(TpmError::Refused { pcr, code }),
            }
        }
        Err(TpmError::Silent)
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.0.write_all(command).map_err(TpmError::Exchange)?;
        let mut wait = [PollFd::new(&self.0, PollFlags::IN)];
        let ready = poll(&mut wait, Some(&crate::clock::timespec(DEADLINE)));
        if ready.map_err(|errno| TpmError::Exchange(errno.into()))? == 0 {
            return Err(TpmError::Silent);
        }
        let mut response = vec![0; RESPONSE_MAX_BYTES];
        let bytes = self.0.read(&mut response).map_err(TpmError::Exchange)?;
        response.truncate(bytes);
        Ok(response)
    }
}

fn command(pcr: u8, event: &[u8]) -> Result<Vec<u8>, TpmError> {
    let bytes = u16::try_from(event.len()).ok().filter(|_| event.len() <= EVENT_MAX_BYTES);
    let bytes = bytes.ok_or(TpmError::Long(event.len()))?;
    let mut c = Vec::with_capacity(29 + event.len());
    c.extend(TAG_SESSIONS.to_be_bytes());
    c.extend((29 + u32::from(bytes)).to_be_bytes());
    c.extend(CC_PCR_EVENT.to_be_bytes());
    c.extend(u32::from(pcr).to_be_bytes());
    // Authorisation area, 9 bytes: password session, no nonce, no attributes, empty password.
    c.extend(9_u32.to_be_bytes());
    c.extend(PASSWORD_SESSION.to_be_bytes());
    c.extend([0; 5]);
    c.extend(bytes.to_be_bytes());
    c.extend(event);
    Ok(c)
}

/// The digests, or the TPM's response code.
fn parse(response: &[u8]) -> Result<Result<Vec<BankDigest>, u32>, TpmError> {
    let mut r = Reader(response);
    let (_tag, size, code) = (r.u16()?, r.u32()?, r.u32()?);
    if size as usize != response.len() {
        return Err(TpmError::Malformed("its size field"));
    }
    if code != 0 {
        return Ok(Err(code));
    }
    let (_parameter_bytes, count) = (r.u32()?, r.u32()?);
    let mut digests = Vec::new();
    for _ in 0..count.min(16) {
        let algorithm = r.u16()?;
        let length = digest_length(algorithm).ok_or(TpmError::Malformed("unknown hash algorithm"))?;
        digests.push((algorithm, r.take(length)?.to_vec()));
    }
    Ok(Ok(digests))
}

/// Bytes of a digest by `TPM_ALG_ID`: SHA-1, the SHA-2 and SHA-3 family, SM3.
fn digest_length(algorithm: u16) -> Option<usize> {
    match algorithm {
        0x04 => Some(20),
        0x0b | 0x12 | 0x27 => Some(32),
        0x0c | 0x28 => Some(48),
        0x0d | 0x29 => Some(64),
        _ => None,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], TpmError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(TpmError::Malformed("cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, TpmError> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, TpmError> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_bytes() {
        let made = command(11, b"ready").expect("short");
        let expected = [
            &[0x80, 2, 0, 0, 0, 34, 0, 0, 1, 0x3c, 0, 0, 0, 11][..],
            &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
            &[0, 5],
            b"ready",
        ];
        assert_eq!(made, expected.concat());
        assert!(matches!(command(11, &[0; 1025]), Err(TpmError::Long(1025))));
    }

    fn response(digests: &[(u16, usize)]) -> Vec<u8> {
        let body: Vec<u8> =
            digests.iter().flat_map(|(alg, len)| [&alg.to_be_bytes()[..], &vec![7; *len]].concat()).collect();
        let mut r = vec![0x80, 2];
        r.extend((18 + body.len() as u32 + 5).to_be_bytes());
        r.extend([0; 4]);
        r.extend((body.len() as u32 + 4).to_be_bytes());
        r.extend((digests.len() as u32).to_be_bytes());
        r.extend(body);
        r.extend([0; 5]);
        r
    }

    #[test]
    fn responses() {
        let banks = parse(&response(&[(4, 20), (11, 32)])).expect("well-formed").expect("no error code");
        assert_eq!(banks, [(4, vec![7; 20]), (11, vec![7; 32])]);
        assert!(matches!(parse(&[0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x22]), Ok(Err(0x922))));
        let whole = response(&[(11, 32)]);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err());
        }
        assert!(matches!(parse(&response(&[(0x99, 32)])), Err(TpmError::Malformed(_))));
    }
}
