//! TCP ports of 127.0.0.1.

use crate::error::{Error, Result};
use crate::process::listener;
use std::net::{Ipv4Addr, TcpListener};

/// How often a pair of neighbours is looked for.
const PAIR_TRIES: usize = 64;

/// A port that was free a moment ago. Somebody may take it before it is used: who uses it tries again then.
pub(crate) fn free() -> Result<u16> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|_| Error::NoPort)?;
    Ok(bound.local_addr().map_err(|_| Error::NoPort)?.port())
}

/// A free port whose successor is free too.
pub(crate) fn free_pair() -> Result<u16> {
    for _ in 0..PAIR_TRIES {
        let Ok(first) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else { continue };
        let Ok(address) = first.local_addr() else { continue };
        let Some(next) = address.port().checked_add(1) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, next)).is_ok() {
            return Ok(address.port());
        }
    }
    Err(Error::NoPort)
}

/// Refuses a port that somebody listens on, and says who.
pub(crate) fn must_be_free(port: u16) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::PortInUse { port, owner: listener(port) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused_by_name() {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = bound.local_addr().expect("bound").port();
        let error = must_be_free(port).expect_err("somebody listens").to_string();
        assert!(error.contains(&format!("port {port} of 127.0.0.1 is in use by")), "{error}");
        assert!(must_be_free(free().expect("a port is free")).is_ok());
    }
}
