//! The list of name servers (resolv.conf(5)).

use pillar_layout::run;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crate::dhcp::NAME_SERVERS;
use crate::say;

/// A server that does not answer holds nobody up for long.
const OPTIONS: &str = "options timeout:2 attempts:2\n";

/// Writes the list when it changed.
#[derive(Debug)]
pub struct Names {
    path: PathBuf,
    settings: Vec<IpAddr>,
    written: Option<String>,
}

impl Names {
    /// Name servers of the settings, for when DHCP gives none.
    #[must_use]
    pub fn new(settings: &[IpAddr]) -> Self {
        Self::at(run::RESOLV_CONF, settings)
    }

    /// The same in another place.
    #[must_use]
    pub fn at(path: impl AsRef<Path>, settings: &[IpAddr]) -> Self {
        Self { path: path.as_ref().to_owned(), settings: settings.to_vec(), written: None }
    }

    /// Writes the list for what DHCP gave.
    pub fn write(&mut self, dhcp: &[Ipv4Addr]) {
        let text = text(dhcp, &self.settings);
        if self.written.as_ref() == Some(&text) {
            return;
        }
        match self.replace(&text) {
            Ok(()) => self.written = Some(text),
            Err(error) => {
                say::warning(format_args!("cannot write {}: {error}", self.path.display()));
            }
        }
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, &self.path)
    }
}

fn text(dhcp: &[Ipv4Addr], settings: &[IpAddr]) -> String {
    let mut servers: Vec<IpAddr> = dhcp.iter().map(|server| IpAddr::V4(*server)).collect();
    if servers.is_empty() {
        servers = settings.to_vec();
    }
    let mut seen = Vec::new();
    servers.retain(|server| {
        !seen.contains(server) && {
            seen.push(*server);
            true
        }
    });
    let lines: String =
        servers.iter().take(NAME_SERVERS).map(|server| format!("nameserver {server}\n")).collect();
    lines + OPTIONS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dhcp_comes_first_and_nobody_twice() {
        let settings: [IpAddr; 1] = ["fd00::53".parse().expect("an address")];
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(text(&[], &settings), format!("nameserver fd00::53\n{OPTIONS}"));
        assert_eq!(text(&[a, b, a], &settings), format!("nameserver {a}\nnameserver {b}\n{OPTIONS}"));
        assert_eq!(text(&[], &[]), OPTIONS);
    }

    #[test]
    fn the_file_is_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        let mut names = Names::at(&path, &[]);
        names.write(&[Ipv4Addr::new(10, 0, 0, 1)]);
        assert_eq!(fs::read_to_string(&path).expect("written"), format!("nameserver 10.0.0.1\n{OPTIONS}"));
        names.write(&[]);
        assert_eq!(fs::read_to_string(&path).expect("written"), OPTIONS);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
