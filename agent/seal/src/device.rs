//! The way to the TPM: one command out, one answer back.

use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

/// No answer is longer (part 2, `TPM_MAX_RESPONSE_SIZE` of PC Client TPMs).
const ANSWER_MAX_BYTES: usize = 4096;
const HEADER_BYTES: usize = 10;
/// A TPM that says "later" is asked so many times; all waits together are under 6 s.
const TRIES: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// A software TPM on a socket answers within this time or never.
const SOCKET_DEADLINE: Duration = Duration::from_secs(60);
/// `TPM_RC_RETRY`, `TPM_RC_YIELDED`, `TPM_RC_TESTING`.
const LATER: [u32; 3] = [0x922, 0x908, 0x90a];

/// An open TPM.
#[derive(Debug)]
pub enum Device {
    /// The kernel's resource manager.
    Kernel(File),
    /// A software TPM's command socket.
    Socket(TcpStream),
}

impl Device {
    /// Opens `device:PATH` or `swtpm:host=H,port=P`, as tpm2-tss names them.
    pub fn open(name: &str) -> Result<Self, Error> {
        let fail = |source| Error::Open { name: name.to_owned(), source };
        if let Some(path) = name.strip_prefix("device:") {
            let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
            return Ok(Self::Kernel(file));
        }
        let value = |key| name.strip_prefix("swtpm:")?.split(',').find_map(|part| part.strip_prefix(key));
        let (Some(host), Some(port)) = (value("host="), value("port=")) else {
            let kind = "neither device:PATH nor swtpm:host=HOST,port=PORT";
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, kind)));
        };
        let socket = TcpStream::connect(format!("{host}:{port}")).map_err(fail)?;
        socket.set_read_timeout(Some(SOCKET_DEADLINE)).map_err(fail)?;
        Ok(Self::Socket(socket))
    }

    /// Sends a command, again when the TPM is busy, and returns its answer with whatever code it has.
    pub fn exchange(&mut self, operation: &'static str, command: &[u8]) -> Result<Vec<u8>, Error> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            let answer = self.once(operation, command)?;
            if !LATER.contains(&code(&answer)) {
                return Ok(answer);
            }
            sleep(wait);
            wait *= 2;
        }
        self.once(operation, command)
    }

    fn once(&mut self, operation: &'static str, command: &[u8]) -> Result<Vec<u8>, Error> {
        let fail = |source| Error::Exchange { operation, source };
        let answer = match self {
            Self::Kernel(file) => {
                file.write_all(command).map_err(fail)?;
                let mut answer = vec![0; ANSWER_MAX_BYTES];
                let bytes = file.read(&mut answer).map_err(fail)?;
                answer.truncate(bytes);
                answer
            }
            Self::Socket(socket) => {
                socket.write_all(command).map_err(fail)?;
                let mut answer = vec![0; HEADER_BYTES];
                socket.read_exact(&mut answer).map_err(fail)?;
                let bytes = size(&answer).filter(|bytes| (HEADER_BYTES..=ANSWER_MAX_BYTES).contains(bytes));
                answer.resize(bytes.ok_or(Error::Answer { operation })?, 0);
                socket.read_exact(&mut answer[HEADER_BYTES..]).map_err(fail)?;
                answer
            }
        };
        if answer.len() < HEADER_BYTES || size(&answer) != Some(answer.len()) {
            return Err(Error::Answer { operation });
        }
        Ok(answer)
    }
}

fn size(answer: &[u8]) -> Option<usize> {
    let bytes = answer.get(2..6)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(bytes)).ok()
}

/// The response code of a whole answer.
pub fn code(answer: &[u8]) -> u32 {
    answer.get(6..10).and_then(|b| b.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes)
}
