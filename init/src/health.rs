//! The health prober: a child of PID 1 in the workload's sandbox that checks and reports by a line on standard output,
//! `ok` or `fail WHY`. What a report means is PID 1's decision.

use crate::files;
use pillar_layout::root;
use pillar_workload::{Check, Health, Workload};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A checked workload is far smaller.
pub const WORKLOAD_MAX_BYTES: usize = 256 * 1024;
/// Until the first success checks are this far apart, then farther and farther.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Looks at a running command this often.
const COMMAND_PAUSE: Duration = Duration::from_millis(20);
/// The status line of an HTTP answer is within this.
const STATUS_MAX_BYTES: usize = 64;

/// Reads the workload of this image; `None` when it carries none.
pub fn read_workload() -> io::Result<Option<Workload>> {
    match files::read_text(Path::new(root::WORKLOAD), WORKLOAD_MAX_BYTES) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Probes until it is killed or nobody listens.
pub fn main() -> ExitCode {
    let workload = match read_workload() {
        Ok(Some(workload)) => workload,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot read {}\ncaused by: {error}", root::WORKLOAD);
            return ExitCode::FAILURE;
        }
    };
    let interval = Duration::from_millis(workload.health.interval_ms.max(1));
    let mut pause = FIRST_PAUSE.min(interval);
    loop {
        let report = match check(&workload.health) {
            Ok(()) => {
                pause = interval;
                "ok\n".to_owned()
            }
            Err(why) => {
                pause = (pause + pause / 4).min(interval);
                format!("fail {}\n", why.to_string().replace('\n', " "))
            }
        };
        if io::stdout().write_all(report.as_bytes()).is_err() {
            return ExitCode::SUCCESS;
        }
        sleep(pause);
    }
}

fn check(health: &Health) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(health.timeout_ms.max(1));
    match &health.check {
        Check::Tcp { port } => connect(*port, deadline).map(drop),
        Check::Http { port, path } => http(*port, path, deadline),
        Check::Command { argv } => command(argv, deadline),
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")) } else { Ok(left) }
}

fn connect(port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, left(deadline)?)
}

fn http(port: u16, path: &str, deadline: Instant) -> io::Result<()> {
    let mut stream = connect(port, deadline)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    // In one piece: a server may answer and close as soon as it has seen the first line.
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    while line.len() < STATUS_MAX_BYTES && !line.contains(&b'\n') {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut buffer = [0; STATUS_MAX_BYTES];
        match stream.read(&mut buffer)? {
            0 => break,
            bytes => line.extend(&buffer[..bytes]),
        }
    }
    match status(&line) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(io::Error::other(format!("answered with status {status}"))),
        None => Err(io::Error::other("answered with something that is not HTTP")),
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(line.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = text.strip_prefix("HTTP/1.")?.split(' ');
    words.next()?;
    words.next().filter(|word| word.len() == 3)?.parse().ok()
}

fn command(argv: &[String], deadline: Instant) -> io::Result<()> {
    let (program, arguments) = argv.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut child = Command::new(Path::new(root::WORKLOAD_FILES).join(program))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(io::Error::other(format!("command ended with {status}"))),
            None => {}
        }
        if let Err(late) = left(deadline) {
            child.kill()?;
            child.wait()?;
            return Err(late);
        }
        sleep(COMMAND_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn status_lines() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nServer: x"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503"), Some(503));
        for wrong in [&b""[..], b"HTTP/2 200", b"HTTP/1.1 20", b"HTTP/1.1 abc", b"\xff\xff", b"SSH-2.0"] {
            assert_eq!(status(wrong), None);
        }
    }

    fn serve(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            if let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(answer);
                sleep(Duration::from_millis(300));
            }
        });
        port
    }

    fn probe(port: u16) -> Result<(), String> {
        let check_http = Check::Http { port, path: "/".to_owned() };
        let health = Health { check: check_http, interval_ms: 1, timeout_ms: 200, failures: 1 };
        check(&health).map_err(|error| error.to_string())
    }

    #[test]
    fn http_checks() {
        assert_eq!(probe(serve(b"HTTP/1.1 204 No Content\r\n\r\n")), Ok(()));
        assert_eq!(probe(serve(b"HTTP/1.1 500 No\r\n\r\n")), Err("answered with status 500".to_owned()));
        assert!(probe(serve(b"hello\n")).is_err_and(|why| why.contains("not HTTP")));
        assert!(probe(serve(b"")).is_err());
    }
}
