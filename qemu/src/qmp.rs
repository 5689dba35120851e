//! The QEMU Machine Protocol over a unix socket: commands with their answers, and events that can be awaited.

use crate::error::{Error, Result, file_error};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// QEMU answers in milliseconds; under TCG on a loaded host its main loop may wait a while for its turn.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The longest line that is taken: QEMU's answers to our commands have some hundred bytes.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// Something that happened to the machine, as QEMU tells it (QAPI run-state events).
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// For example "RESET", "SHUTDOWN", "WATCHDOG", "GUEST_PANICKED".
    pub name: String,
    /// Its data, `null` when it has none.
    pub data: Value,
    /// How many events came before it on this connection: where to go on waiting.
    pub index: usize,
}

/// One line from QEMU.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    Greeting,
    Answer(Value),
    Refusal(String),
    Event { name: String, data: Value },
}

fn parse(line: &str) -> Result<Message, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    if value.get("QMP").is_some() {
        return Ok(Message::Greeting);
    }
    if let Some(name) = value.get("event").and_then(Value::as_str) {
        let data = value.get("data").cloned().unwrap_or(Value::Null);
        return Ok(Message::Event { name: name.to_owned(), data });
    }
    if let Some(error) = value.get("error") {
        let text = error.get("desc").and_then(Value::as_str).unwrap_or("an error without a description");
        return Ok(Message::Refusal(text.to_owned()));
    }
    value.get("return").cloned().map(Message::Answer).ok_or_else(|| format!("not a QMP message: {line}"))
}

#[derive(Debug, Default)]
struct Inbox {
    greeted: bool,
    /// The answer to the one command that is under way.
    answer: Option<Result<Value, String>>,
    events: Vec<(String, Value)>,
    /// Why nothing more will come.
    closed: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something in the inbox.
    fn wait<T>(&self, until: Instant, mut look: impl FnMut(&mut Inbox) -> Option<T>) -> Option<T> {
        let mut inbox = self.lock();
        loop {
            if let Some(found) = look(&mut inbox) {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || inbox.closed.is_some() {
                return None;
            }
            inbox = self.changed.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A connection to one machine.
#[derive(Debug)]
pub struct Qmp {
    shared: Arc<Shared>,
    /// One command at a time: answers carry no name.
    stream: Mutex<UnixStream>,
}

impl Qmp {
    /// Connects to the socket `name` in `dir`; everything said is appended to `log`.
    pub fn connect(dir: &Path, name: &str, log: &Path) -> Result<Self> {
        let socket = dir.join(name);
        let folder = File::open(dir).map_err(file_error("open", dir))?;
        // The path of a unix socket has 107 bytes at most; through the folder's descriptor it is always short.
        let short = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
        let stream = UnixStream::connect(short).map_err(file_error("connect to", &socket))?;
        let reading = stream.try_clone().map_err(file_error("connect to", &socket))?;
        let log_file =
            File::options().create(true).append(true).open(log).map_err(file_error("open", log))?;
        let shared = Arc::new(Shared::default());
        let for_reader = shared.clone();
        std::thread::spawn(move || read_all(reading, log_file, &for_reader));
        let qmp = Self { shared, stream: Mutex::new(stream) };
        let until = Instant::now() + ANSWER_DEADLINE;
        if qmp.shared.wait(until, |inbox| inbox.greeted.then_some(())).is_none() {
            return Err(qmp.refused("greeting"));
        }
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Runs a command and waits for its answer.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let mut message = json!({ "execute": command });
        if !arguments.is_null() {
            message["arguments"] = arguments.clone();
        }
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.lock().answer = None;
        let failed = |reason: String| Error::Qmp { command: command.to_owned(), reason };
        writeln!(stream, "{message}").map_err(|e| failed(e.to_string()))?;
        match self.shared.wait(Instant::now() + ANSWER_DEADLINE, |inbox| inbox.answer.take()) {
            Some(answer) => answer.map_err(failed),
            None => Err(self.refused(command)),
        }
    }

    /// The machine's run state: "running", "paused", "shutdown", "internal-error" … (QAPI `RunState`).
    pub fn status(&self) -> Result<String> {
        let answer = self.execute("query-status", &Value::Null)?;
        Ok(answer.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned())
    }

    /// Presses reset.
    pub fn system_reset(&self) -> Result<()> {
        self.execute("system_reset", &Value::Null).map(drop)
    }

    /// Presses the power button; whether anything happens is up to the guest.
    pub fn system_powerdown(&self) -> Result<()> {
        self.execute("system_powerdown", &Value::Null).map(drop)
    }

    /// Stops the processors and writes the disks out.
    pub fn pause(&self) -> Result<()> {
        self.execute("stop", &Value::Null).map(drop)
    }

    /// Ends QEMU, which writes its disks out first. The TPM loses what it had not written down (its clock).
    pub fn quit(&self) -> Result<()> {
        self.execute("quit", &Value::Null).map(drop)
    }

    /// How many events came so far: give it to [`Self::wait_event`] to await a later one.
    #[must_use]
    pub fn events_so_far(&self) -> usize {
        self.shared.lock().events.len()
    }

    /// Waits for an event of one of these names, counting from the event number `from` (0: since the connection).
    pub fn wait_event(&self, names: &[&str], from: usize, deadline: Duration) -> Result<Event> {
        let found = self.shared.wait(Instant::now() + deadline, |inbox| {
            inbox
                .events
                .iter()
                .enumerate()
                .skip(from)
                .find(|(_, (name, _))| names.contains(&name.as_str()))
                .map(|(index, (name, data))| Event { name: name.clone(), data: data.clone(), index })
        });
        found.ok_or_else(|| {
            let closed = self.shared.lock().closed.clone();
            let why = closed.unwrap_or_else(|| format!("nothing within {:.1} s", deadline.as_secs_f64()));
            Error::Qmp { command: format!("waiting for {names:?}"), reason: why }
        })
    }

    fn refused(&self, command: &str) -> Error {
        let closed = self.shared.lock().closed.clone();
        let reason = closed.unwrap_or_else(|| format!("no answer within {} s", ANSWER_DEADLINE.as_secs()));
        Error::Qmp { command: command.to_owned(), reason }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Ends the reader; fails only when QEMU closed it first.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

fn read_all(stream: UnixStream, mut log: File, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    let reason = loop {
        let mut line = String::new();
        match reader.by_ref().take(MAX_LINE_BYTES).read_line(&mut line) {
            Ok(0) => break "QEMU closed the connection".to_owned(),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
        // A log that cannot be written must not stop the conversation.
        let _ = log.write_all(line.as_bytes());
        let message = match parse(line.trim_end()) {
            Ok(message) => message,
            Err(error) => break error,
        };
        let mut inbox = shared.lock();
        match message {
            Message::Greeting => inbox.greeted = true,
            Message::Answer(value) => inbox.answer = Some(Ok(value)),
            Message::Refusal(reason) => inbox.answer = Some(Err(reason)),
            Message::Event { name, data } => inbox.events.push((name, data)),
        }
        shared.changed.notify_all();
    };
    shared.lock().closed = Some(reason);
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let greeting = r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": ["oob"]}}"#;
        assert_eq!(parse(greeting), Ok(Message::Greeting));
        assert_eq!(
            parse(r#"{"return": {"status": "running"}}"#),
            Ok(Message::Answer(json!({"status": "running"})))
        );
        let reset = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert_eq!(
            parse(reset),
            Ok(Message::Event {
                name: "RESET".to_owned(),
                data: json!({"guest": true, "reason": "guest-reset"})
            })
        );
        assert_eq!(
            parse(r#"{"event": "POWERDOWN"}"#),
            Ok(Message::Event { name: "POWERDOWN".to_owned(), data: Value::Null })
        );
        let refusal =
            r#"{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#;
        assert_eq!(parse(refusal), Ok(Message::Refusal("The command x has not been found".to_owned())));
        assert!(parse("{}").is_err());
        assert!(parse("not json").is_err());
    }
}
