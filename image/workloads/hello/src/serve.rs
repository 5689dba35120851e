//! Connections: one request each, a deadline for all of it, then closed.

use crate::about;
use crate::request::{HEADER_MAX_BYTES, Refusal, Request, parse};
use crate::site::Site;
use crate::visits::Visits;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// A whole request must have come within this time; with few workers, a slow sender must not hold one.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// One write may wait this long for a slow reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// After `accept` failed (no descriptors left, for example), before it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Nothing is loaded from elsewhere, nothing may frame the page, nothing is guessed.
const HEADERS: &str = "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n";

/// Answers connections for ever.
pub fn accept(listener: &TcpListener, site: &Site) {
    loop {
        match listener.accept() {
            // A connection's failure is its other end's affair.
            Ok((stream, _)) => drop(answer(stream, site)),
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

fn answer(mut stream: TcpStream, site: &Site) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut buffer = Vec::with_capacity(1024);
    let deadline = Instant::now() + REQUEST_DEADLINE;
    loop {
        if let Some(request) = parse(&buffer) {
            respond(&mut stream, request, site)?;
            return stream.shutdown(Shutdown::Write);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 1024];
        let room = (HEADER_MAX_BYTES + 1 - buffer.len()).min(chunk.len());
        match stream.read(&mut chunk[..room])? {
            0 => return Ok(()),
            count => buffer.extend_from_slice(&chunk[..count]),
        }
    }
}

fn respond(out: &mut impl Write, request: Result<Request<'_>, Refusal>, site: &Site) -> io::Result<()> {
    match request {
        Ok(Request { head, path: "/health" }) => send(out, "200 OK", "text/plain", b"ok\n", head),
        Ok(Request { head, path: "/about.json" }) => {
            send(out, "200 OK", "application/json", about::json().as_bytes(), head)
        }
        Ok(Request { head: false, path: "/visits" }) if site.visits.is_some() => {
            match site.visits.as_ref().map(Visits::count) {
                Some(Ok(count)) => send(out, "200 OK", "text/plain", format!("{count}\n").as_bytes(), false),
                _ => send(out, "500 Internal Server Error", "text/plain", b"cannot write\n", false),
            }
        }
        Ok(Request { head, path }) => match site.get(path) {
            Some(file) => send(out, "200 OK", file.content_type, &file.bytes, head),
            None => send(out, "404 Not Found", "text/plain", b"not found\n", head),
        },
        Err(refusal) => send(out, refusal.status(), "text/plain", refusal.status().as_bytes(), false),
    }
}

fn send(out: &mut impl Write, status: &str, content_type: &str, body: &[u8], head: bool) -> io::Result<()> {
    let length = body.len();
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nCache-Control: no-cache\r\n{allow}{HEADERS}\r\n"
    )?;
    if head { Ok(()) } else { out.write_all(body) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::Arc;

    fn server() -> SocketAddr {
        let site =
            Arc::new(Site::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("www"), None).expect("the page"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || accept(&listener, &site));
        address
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("connects");
        // The server may close before it has read an overlong request to its end.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn the_page_health_and_about_are_served() {
        let address = server();
        let page = ask(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html"), "{page}");
        assert!(page.contains("Content-Security-Policy: default-src 'none'") && page.ends_with("</html>\n"));
        assert!(ask(address, b"GET /health HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
        let about = ask(address, b"GET /about.json HTTP/1.1\r\n\r\n");
        assert!(about.contains("application/json") && about.contains("\"uptime_s\":"), "{about}");
        let head = ask(address, b"HEAD / HTTP/1.1\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn what_is_not_served_is_refused_in_words() {
        let address = server();
        let long = [b"GET /".as_slice(), &vec![b'a'; HEADER_MAX_BYTES], b" HTTP/1.1\r\n\r\n"].concat();
        let table: &[(&[u8], &str)] = &[
            (b"GET /../pillar.toml HTTP/1.1\r\n\r\n", "404 Not Found"),
            (b"GET /%2e%2e/pillar.toml HTTP/1.1\r\n\r\n", "404 Not Found"),
            (b"POST / HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            (b"nonsense\r\n\r\n", "400 Bad Request"),
            (&long, "431 Request Header Fields Too Large"),
        ];
        for (request, want) in table {
            let answer = ask(address, request);
            assert!(
                answer.is_empty() && request.len() > HEADER_MAX_BYTES || answer.contains(want),
                "{answer}"
            );
        }
    }
}
