//! Waiting for the agent: whether something speaks TLS behind a forwarded port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A TLS handshake message that no TLS 1.3 server accepts (it offers no version): the alert that it answers is what
/// tells a server from QEMU, which accepts connections for a guest that does not listen. RFC 8446, sections 4.1.2, 6.
#[rustfmt::skip]
const HELLO: [u8; 50] = [
    22, 3, 1, 0, 45,            // record: handshake, 45 bytes
    1, 0, 0, 41,                // ClientHello, 41 bytes
    3, 3,                       // legacy version
    b'p', b'i', b'l', b'l', b'a', b'r', b'-', b'q', b'e', b'm', b'u', b':', b' ', b'a', b'r', b'e',
    b' ', b'y', b'o', b'u', b' ', b't', b'h', b'e', b'r', b'e', b'?', 0, 0, 0, 0, 0, // random: none is needed
    0,                          // no session
    0, 2, 0x13, 0x01,           // one cipher suite
    1, 0,                       // no compression
];

/// Whether TLS answers at this address: an alert or a handshake record came back within `patience`.
#[must_use]
pub fn speaks_tls(address: SocketAddr, patience: Duration) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&HELLO)?;
        let mut head = [0; 3];
        stream.read_exact(&mut head)?;
        Ok(matches!(head, [21 | 22, 3, _]))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_alert_is_an_answer_and_silence_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("bound");
        let server = std::thread::spawn(move || {
            let (mut first, _) = listener.accept().expect("a caller");
            let mut hello = [0; HELLO.len()];
            first.read_exact(&mut hello).expect("a hello");
            assert_eq!(usize::from(hello[4]) + 5, HELLO.len(), "the record's length");
            assert_eq!(usize::from(hello[8]) + 9, HELLO.len(), "the message's length");
            first.write_all(&[21, 3, 3, 0, 2, 2, 70]).expect("an alert");
            drop(listener.accept().expect("a second caller"));
        });
        assert!(speaks_tls(address, Duration::from_secs(5)));
        assert!(!speaks_tls(address, Duration::from_secs(5)));
        server.join().expect("the server is content");
    }
}
