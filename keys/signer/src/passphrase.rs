//! Where a passphrase comes from: a terminal without echo, a file, a file descriptor. Never an argument, never the
//! environment.

use crate::{Error, file_error};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Longest passphrase.
const MAX_BYTES: usize = 1024;

/// A passphrase, wiped when it is dropped.
pub type Passphrase = Zeroizing<String>;

/// Who is asked for a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PassphraseFrom {
    /// Whoever sits at the terminal.
    #[default]
    Terminal,
    /// The first line of a file that only its owner may read.
    File(PathBuf),
    /// The first line of what an open file descriptor gives. Written `fd:3`.
    Descriptor(u32),
}

impl FromStr for PassphraseFrom {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let number = text.strip_prefix("fd:").and_then(|number| number.parse().ok());
        Ok(number.map_or_else(|| Self::File(text.into()), Self::Descriptor))
    }
}

impl PassphraseFrom {
    /// Asks for a passphrase that exists.
    pub fn ask(&self, prompt: &str) -> Result<Passphrase, Error> {
        match self {
            Self::Terminal => judge(&Terminal::open()?.ask(prompt)?),
            Self::File(path) => {
                let file = File::open(path).map_err(file_error("open", path))?;
                let metadata = file.metadata().map_err(file_error("look at", path))?;
                let mode = metadata.permissions().mode() & 0o7777;
                // A pipe or a terminal has bits that mean nothing.
                if metadata.is_file() && mode & 0o077 != 0 {
                    return Err(Error::Open { path: path.clone(), mode });
                }
                first_line(file).map_err(file_error("read", path)).and_then(|line| judge(&line))
            }
            Self::Descriptor(number) => {
                let path = PathBuf::from(format!("/dev/fd/{number}"));
                let file = File::open(&path).map_err(file_error("open", &path))?;
                first_line(file).map_err(file_error("read", &path)).and_then(|line| judge(&line))
            }
        }
    }

    /// Asks for a new passphrase: twice when a person types it.
    pub fn ask_new(&self, prompt: &str) -> Result<Passphrase, Error> {
        let first = self.ask(prompt)?;
        if *self == Self::Terminal && *self.ask("The same again: ")? != *first {
            return Err(Error::Mistyped);
        }
        Ok(first)
    }
}

fn judge(bytes: &Zeroizing<Vec<u8>>) -> Result<Passphrase, Error> {
    if bytes.is_empty() {
        return Err(Error::BadPassphrase("empty"));
    }
    if bytes.len() > MAX_BYTES {
        return Err(Error::BadPassphrase("longer than 1024 bytes"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Error::BadPassphrase("not UTF-8")),
    }
}

/// Up to the end of the line, which is not part of it. One byte more than may be, so that too much is seen.
fn first_line(mut from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room from the start: a vector that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let mut byte = Zeroizing::new([0]);
    // Byte by byte: the end of a pipe may come much later than the end of the line.
    while line.len() <= MAX_BYTES && from.read(&mut *byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// The terminal of this session, without echo until it is dropped.
struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    fn open() -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(Error::NoTerminal)?;
        let before = tcgetattr(&file).map_err(|error| Error::NoTerminal(error.into()))?;
        let mut silent = before.clone();
        // Key by key and without signals, so that even ^C comes here and the echo is put back.
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&file, OptionalActions::Flush, &silent).map_err(|error| Error::NoTerminal(error.into()))?;
        Ok(Self { file, before })
    }

    fn ask(&mut self, prompt: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let line = self.converse(prompt).map_err(Error::NoTerminal)?;
        line.ok_or(Error::NoPassphrase)
    }

    /// None when the question was given up (^C, ^D, or the terminal is gone).
    fn converse(&mut self, prompt: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        self.file.write_all(prompt.as_bytes())?;
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
        let mut key = Zeroizing::new([0]);
        let answer = loop {
            if self.file.read(&mut *key)? == 0 {
                break None;
            }
            match key[0] {
                b'\r' | b'\n' => break Some(line),
                0x03 | 0x04 => break None,
                0x08 | 0x7f => erase_character(&mut line),
                0x15 => line.clear(),
                byte if line.len() <= MAX_BYTES => line.push(byte),
                _ => {}
            }
        };
        self.file.write_all(b"\n")?;
        Ok(answer)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing better can be done when it fails: the terminal is gone.
        let _ = tcsetattr(&self.file, OptionalActions::Flush, &self.before);
    }
}

/// Backspace takes a character, not a byte (continuation bytes of UTF-8 are 10xxxxxx).
fn erase_character(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_it_ends() {
        for (input, line) in [("a b \n", "a b "), ("ab", "ab"), ("ab\r\ncd", "ab"), ("\n", ""), ("ä\nx", "ä")]
        {
            assert_eq!(first_line(input.as_bytes()).expect("bytes").as_slice(), line.as_bytes());
        }
        let judged = |bytes: &[u8]| judge(&Zeroizing::new(bytes.to_vec()));
        assert!(matches!(judged(b""), Err(Error::BadPassphrase("empty"))));
        assert!(matches!(judged(b"\xff"), Err(Error::BadPassphrase("not UTF-8"))));
        let long = first_line(&[b'x'; 2000][..]).expect("bytes");
        assert!(matches!(judge(&long), Err(Error::BadPassphrase("longer than 1024 bytes"))));
        assert_eq!(judged("ä".as_bytes()).expect("text").as_str(), "ä");
    }

    #[test]
    fn backspace_takes_a_character() {
        let mut line = "aä€".as_bytes().to_vec();
        erase_character(&mut line);
        assert_eq!(line, "aä".as_bytes());
        erase_character(&mut line);
        erase_character(&mut line);
        erase_character(&mut line);
        assert_eq!(line, b"");
    }

    #[test]
    fn sources_are_told_apart() {
        assert_eq!("fd:3".parse(), Ok(PassphraseFrom::Descriptor(3)));
        assert_eq!("fd:x".parse(), Ok(PassphraseFrom::File("fd:x".into())));
        assert_eq!("/run/pass".parse(), Ok(PassphraseFrom::File("/run/pass".into())));
    }
}
