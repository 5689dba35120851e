//! What init tells the program on its command line.

use pillar_model::{PillarId, TimeServer};
use pillar_os::{Card, CardName};
use std::net::IpAddr;
use std::str::FromStr;

/// Why the command line is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A word too many.
    #[error("unknown word {0:?}")]
    Word(String),
    /// A value that is missing or none.
    #[error("{0} needs a value, {1:?} is none")]
    Value(String, String),
}

/// Which cards ask a DHCP server.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// All of them.
    pub all: bool,
    /// These.
    pub cards: Vec<CardName>,
}

impl Dhcp {
    /// True when this card at this place (from 0) does.
    #[must_use]
    pub fn wants(&self, place: usize, card: &Card) -> bool {
        self.all || self.cards.iter().any(|name| name.means(place, card))
    }
}

/// The command line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    /// `--name NAME`: told to DHCP servers.
    pub name: Option<PillarId>,
    /// `--dhcp all` or `--dhcp CARD`.
    pub dhcp: Dhcp,
    /// `--dns ADDRESS`: name servers when DHCP gives none.
    pub dns: Vec<IpAddr>,
    /// `--time SERVER`: time servers. When there are some, or `--time -`, those that DHCP gives are not asked.
    pub time: Vec<TimeServer>,
    /// `--time -`: the settings name time servers, and none is to be asked.
    pub no_time: bool,
}

impl Options {
    /// Reads it.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Options, OptionsError> {
        let mut options = Options::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_default();
            match word.as_str() {
                "--name" => options.name = Some(read(&word, value)?),
                "--dhcp" if value == "all" => options.dhcp.all = true,
                "--dhcp" => options.dhcp.cards.push(read(&word, value)?),
                "--dns" => options.dns.push(read(&word, value)?),
                "--time" if value == "-" => options.no_time = true,
                "--time" => options.time.push(read(&word, value)?),
                _ => return Err(OptionsError::Word(word)),
            }
        }
        Ok(options)
    }
}

fn read<T: FromStr>(word: &str, value: String) -> Result<T, OptionsError> {
    value.parse().map_err(|_| OptionsError::Value(word.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, OptionsError> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_whole_line() {
        let options =
            parse("--name p1 --dhcp 2 --dhcp 52:54:00:00:00:01 --dns fd00::1 --time a.b").expect("good");
        assert_eq!(options.dhcp.cards.len(), 2);
        assert!(!options.dhcp.all && parse("--dhcp all").expect("good").dhcp.all);
        assert_eq!(options.time, ["a.b".parse().expect("good")]);
        assert!(!options.no_time && parse("--time -").expect("good").no_time);
    }

    #[test]
    fn bad_lines_are_refused() {
        for (line, said) in [
            ("--name", "--name needs"),
            ("--dhcp eth0", "\"eth0\" is none"),
            ("--dns a.b", "--dns needs"),
            ("--time nts://a.b", "--time needs"),
            ("-x", "unknown word \"-x\""),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
