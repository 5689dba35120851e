//! One HTTP/1.1 request line and the end of its header (RFC 9112), and nothing more: the page needs no header's value.

/// The longest header that is read; browsers send one to two KiB.
pub const HEADER_MAX_BYTES: usize = 8 * 1024;

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// `HEAD`: everything but the body.
    pub head: bool,
    /// Path without the query.
    pub path: &'a str,
}

/// A request that cannot.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not HTTP/1.x.
    Malformed,
    /// A method other than GET and HEAD.
    Method,
    /// Longer than [`HEADER_MAX_BYTES`].
    TooLong,
}

impl Refusal {
    /// Status line's code and words.
    pub fn status(&self) -> &'static str {
        match self {
            Refusal::Malformed => "400 Bad Request",
            Refusal::Method => "405 Method Not Allowed",
            Refusal::TooLong => "431 Request Header Fields Too Large",
        }
    }
}

/// Looks at what was received so far: `None` means that the header's end is not there yet.
pub fn parse(received: &[u8]) -> Option<Result<Request<'_>, Refusal>> {
    if received.len() > HEADER_MAX_BYTES {
        return Some(Err(Refusal::TooLong));
    }
    received.windows(4).position(|w| w == b"\r\n\r\n")?;
    let line = received.split(|b| *b == b'\r').next().unwrap_or_default();
    Some(parse_line(line))
}

fn parse_line(line: &[u8]) -> Result<Request<'_>, Refusal> {
    let line = str::from_utf8(line).map_err(|_| Refusal::Malformed)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::Malformed);
    };
    let head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refusal::Method),
    };
    if !target.starts_with('/') || !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::Malformed);
    }
    Ok(Request { head, path: target.split('?').next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_refusals() {
        let get = |path| Some(Ok(Request { head: false, path }));
        #[rustfmt::skip]
        let table: &[(&str, Option<Result<Request<'_>, Refusal>>)] = &[
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", get("/")),
            ("GET /health HTTP/1.0\r\n\r\n", get("/health")),
            ("GET /a?b=c HTTP/1.1\r\n\r\n", get("/a")),
            ("HEAD / HTTP/1.1\r\n\r\n", Some(Ok(Request { head: true, path: "/" }))),
            ("GET / HTTP/1.1\r\nHost: x\r\n", None),
            ("", None),
            ("\r\n\r\n", Some(Err(Refusal::Malformed))),
            ("POST / HTTP/1.1\r\n\r\n", Some(Err(Refusal::Method))),
            ("GET / HTTP/2\r\n\r\n", Some(Err(Refusal::Malformed))),
            ("GET  / HTTP/1.1\r\n\r\n", Some(Err(Refusal::Malformed))),
            ("GET http://x/ HTTP/1.1\r\n\r\n", Some(Err(Refusal::Malformed))),
            ("GET /\u{1} HTTP/1.1\r\n\r\n", Some(Err(Refusal::Malformed))),
        ];
        for (text, want) in table {
            assert_eq!(parse(text.as_bytes()), *want, "{text:?}");
        }
        assert_eq!(parse(b"GET /\xFF HTTP/1.1\r\n\r\n"), Some(Err(Refusal::Malformed)));
        assert_eq!(parse(&[b'a'; HEADER_MAX_BYTES + 1]), Some(Err(Refusal::TooLong)));
    }
}
