//! A key that ssh-agent keeps (draft-ietf-sshm-ssh-agent): two requests, "which keys are there" and "sign this".
//!
//! The agent is a program of the same user; still its answers are bounded, waited for with a limit, and a signature is
//! checked before it is given on.

use crate::Error;
use data_encoding::{BASE64, BASE64_NOPAD};
use pillar_model::OperatorKey;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const FAILURE: u8 = 5;
const ALGORITHM: &[u8] = b"ssh-ed25519";
/// OpenSSH's agent answers with at most this.
const ANSWER_MAX_BYTES: usize = 256 << 10;
/// For a list of keys nobody is asked.
const LIST_TIME: Duration = Duration::from_secs(10);
/// An agent may ask its owner (`ssh-add -c`), who needs time to look.
const SIGN_TIME: Duration = Duration::from_secs(120);

/// Which of an agent's keys is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The only Ed25519 key that it has.
    Only,
    /// By the public key: 64 hexadecimal digits, or the middle word of an OpenSSH public key.
    Key(OperatorKey),
    /// By OpenSSH's fingerprint: `SHA256:` and base64 without padding.
    Fingerprint(String),
    /// By the comment, whole.
    Comment(String),
}

impl FromStr for Which {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text.is_empty() {
            return Ok(Self::Only);
        }
        if text.starts_with("SHA256:") {
            return Ok(Self::Fingerprint(text.to_owned()));
        }
        let word = text.strip_prefix("ssh-ed25519 ").unwrap_or(text);
        let word = word.split(' ').next().unwrap_or_default();
        let blob = BASE64.decode(word.as_bytes()).ok();
        let key = blob.as_deref().and_then(key_of).or_else(|| OperatorKey::try_from(text.to_owned()).ok());
        Ok(key.map_or_else(|| Self::Comment(text.to_owned()), Self::Key))
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Key(key) => key.fmt(f),
            Self::Fingerprint(text) | Self::Comment(text) => f.write_str(text),
        }
    }
}

/// An Ed25519 key that an agent has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: OperatorKey,
    /// What its owner calls it.
    pub comment: String,
}

impl Listed {
    /// OpenSSH's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = digest(&SHA256, &blob_of(&self.key));
        format!("SHA256:{}", BASE64_NOPAD.encode(digest.as_ref()))
    }

    fn is(&self, which: &Which) -> bool {
        match which {
            Which::Only => true,
            Which::Key(key) => *key == self.key,
            Which::Fingerprint(text) => *text == self.fingerprint(),
            Which::Comment(text) => *text == self.comment,
        }
    }
}

/// A key in an agent.
#[derive(Debug)]
pub struct AgentKey {
    socket: PathBuf,
    key: Listed,
}

impl AgentKey {
    /// The one key that is meant.
    pub fn find(socket: &Path, which: &Which) -> Result<Self, Error> {
        let all = list(socket)?;
        let wanted =
            || if *which == Which::Only { String::new() } else { format!(" {:?}", which.to_string()) };
        let mut fit: Vec<&Listed> = all.iter().filter(|key| key.is(which)).collect();
        match fit.len() {
            0 => {
                let has = all.iter().map(|key| key.comment.clone()).collect();
                Err(Error::NoSuchKey { wanted: wanted(), has })
            }
            1 => Ok(Self { socket: socket.to_owned(), key: fit.remove(0).clone() }),
            _ => {
                let has = fit.into_iter().map(Listed::fingerprint).collect();
                Err(Error::Ambiguous { wanted: wanted(), has })
            }
        }
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> OperatorKey {
        self.key.key
    }

    /// What its owner calls it.
    #[must_use]
    pub fn comment(&self) -> &str {
        &self.key.comment
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 64], Error> {
        let mut request = vec![SIGN_REQUEST];
        put(&mut request, &blob_of(&self.key.key));
        put(&mut request, message);
        // Flags: none are defined for Ed25519.
        request.extend_from_slice(&[0; 4]);
        let answer = ask(&self.socket, &request, SIGN_TIME)?;
        let mut body = match answer.split_first() {
            Some((&SIGN_RESPONSE, body)) => body,
            Some((&FAILURE, _)) => return Err(Error::AgentRefused("sign")),
            _ => return Err(Error::AgentAnswer("no signature")),
        };
        let mut signature = take(&mut body).ok_or(Error::AgentAnswer("a signature cut short"))?;
        if take(&mut signature) != Some(ALGORITHM) {
            return Err(Error::AgentAnswer("a signature of another kind"));
        }
        let signature = take(&mut signature).and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        let signature = signature.ok_or(Error::AgentAnswer("a signature of another length"))?;
        UnparsedPublicKey::new(&ED25519, &self.key.key.0)
            .verify(message, &signature)
            .map_err(|_| Error::AgentAnswer("a signature that is wrong"))?;
        Ok(signature)
    }
}

/// The Ed25519 keys of an agent. Keys of other kinds (those on security keys too, whose signatures have another form)
/// are left out.
pub fn list(socket: &Path) -> Result<Vec<Listed>, Error> {
    let answer = ask(socket, &[REQUEST_IDENTITIES], LIST_TIME)?;
    let body = match answer.split_first() {
        Some((&IDENTITIES_ANSWER, body)) => body,
        Some((&FAILURE, _)) => return Err(Error::AgentRefused("list its keys")),
        _ => return Err(Error::AgentAnswer("no list of keys")),
    };
    parse_list(body).ok_or(Error::AgentAnswer("a list of keys cut short"))
}

fn parse_list(mut body: &[u8]) -> Option<Vec<Listed>> {
    let (count, rest) = body.split_first_chunk()?;
    body = rest;
    let mut keys: Vec<Listed> = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (blob, comment) = (take(&mut body)?, take(&mut body)?);
        if let Some(key) = key_of(blob) {
            keys.push(Listed { key, comment: printable(comment) });
        }
    }
    Some(keys)
}

/// Comments are shown on terminals.
fn printable(comment: &[u8]) -> String {
    String::from_utf8_lossy(comment).chars().filter(|c| !c.is_control()).collect()
}

/// An `ssh-ed25519` public key (RFC 8709, section 4).
fn key_of(mut blob: &[u8]) -> Option<OperatorKey> {
    if take(&mut blob)? != ALGORITHM {
        return None;
    }
    let key = take(&mut blob)?.try_into().ok()?;
    blob.is_empty().then_some(OperatorKey(key))
}

fn blob_of(key: &OperatorKey) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, ALGORITHM);
    put(&mut blob, &key.0);
    blob
}

/// A string of SSH (RFC 4251, section 5): its length as u32, big endian, then its bytes.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(bytes);
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *from = rest;
    Some(bytes)
}

fn ask(socket: &Path, request: &[u8], time: Duration) -> Result<Vec<u8>, Error> {
    converse(socket, request, time).map_err(|source| Error::Agent { socket: socket.to_owned(), source })
}

fn converse(socket: &Path, request: &[u8], time: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))?;
    let mut framed = Vec::with_capacity(request.len() + 4);
    put(&mut framed, request);
    stream.write_all(&framed)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(1..=ANSWER_MAX_BYTES).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {length} bytes")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
