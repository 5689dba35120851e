//! Talking to a switch: one JSON object on a line each way over the unix socket [`CONTROL_SOCKET`] of its folder.

use super::faults::{Change, Counters, Faults};
use crate::error::{Error, Result, file_error};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The control socket's name in the switch's folder.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
/// The switch answers within a moment; a loaded host may let it wait for its turn.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The longest line: the state of a full switch has 64 thousand links.
const LINE_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The longest line that the switch takes.
pub(crate) const ORDER_MAX_BYTES: u64 = 1024 * 1024;

/// Which directions are meant: from whom, to whom; none is every machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pair {
    /// Who sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Pair {
    /// Every direction.
    pub const ALL: Self = Self { from: None, to: None };

    /// From one machine to another.
    #[must_use]
    pub fn one_way(from: &str, to: &str) -> Self {
        Self { from: Some(from.to_owned()), to: Some(to.to_owned()) }
    }

    /// Between two machines.
    #[must_use]
    pub fn both_ways(one: &str, other: &str) -> [Self; 2] {
        [Self::one_way(one, other), Self::one_way(other, one)]
    }

    /// From one machine to all.
    #[must_use]
    pub fn from(from: &str) -> Self {
        Self { from: Some(from.to_owned()), to: None }
    }

    /// Everything that one machine sends or receives.
    #[must_use]
    pub fn of(machine: &str) -> [Self; 2] {
        [Self::from(machine), Self { from: None, to: Some(machine.to_owned()) }]
    }
}

/// What a switch is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    /// Say how things are.
    Show,
    /// Make a place for this machine; nothing new when it has one.
    Add {
        /// Its name.
        machine: String,
    },
    /// Change faults.
    Fault {
        /// Of which directions.
        links: Vec<Pair>,
        /// How.
        change: Change,
    },
    /// Keep groups apart; machines in none of them are one more group. No groups: everybody reaches everybody.
    Partition {
        /// Names of machines.
        groups: Vec<Vec<String>>,
    },
    /// End all faults and partitions.
    Reset {
        /// Begin chance anew.
        #[serde(default)]
        seed: Option<u64>,
    },
    /// Answer once all of these are connected.
    Await {
        /// Names of machines.
        machines: Vec<String>,
        /// Or not at all after so long.
        within_ms: u64,
    },
    /// End.
    Stop,
}

/// A machine's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Its name.
    pub name: String,
    /// Whether its QEMU is connected.
    pub attached: bool,
    /// Addresses that were learned from its frames.
    pub macs: Vec<String>,
}

/// One direction between two machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// Who sends.
    pub from: String,
    /// Who receives.
    pub to: String,
    /// What is done to frames.
    pub faults: Faults,
    /// What became of them.
    pub counters: Counters,
}

/// How a switch is: the answer to every order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What chance began with.
    pub seed: u64,
    /// The machines, in the order they came.
    pub machines: Vec<PortState>,
    /// Groups that do not reach each other; empty when all do.
    pub partition: Vec<Vec<String>>,
    /// Every direction.
    pub links: Vec<LinkState>,
}

impl State {
    /// The direction between these two.
    #[must_use]
    pub fn link(&self, from: &str, to: &str) -> Option<&LinkState> {
        self.links.iter().find(|link| link.from == from && link.to == to)
    }
}

/// What a switch answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    State(State),
    Refused(String),
}

/// A switch, from outside.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the switch of that folder.
    pub fn connect(dir: &Path) -> Result<Self> {
        Self::find(dir)?.ok_or_else(|| Error::NoSwitch(dir.to_owned()))
    }

    /// The same; none when no switch runs there.
    pub fn find(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(CONTROL_SOCKET);
        if !dir.is_dir() {
            return Ok(None);
        }
        let stream = match UnixStream::connect(Short::of(dir)?.path(CONTROL_SOCKET)) {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(file_error("connect to", &path)(error)),
        };
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(file_error("connect to", &path))?;
        Ok(Some(Self { stream: BufReader::new(stream) }))
    }

    /// Gives an order; the answer is how the switch is then.
    pub fn order(&mut self, order: &Order) -> Result<State> {
        match self.ask(order).map_err(|e| Error::Switch(e.to_string()))? {
            Answer::State(state) => Ok(state),
            Answer::Refused(reason) => Err(Error::Switch(reason)),
        }
    }

    fn ask(&mut self, order: &Order) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        line.clear();
        (&mut self.stream).take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("the switch ended"));
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// How it is.
    pub fn show(&mut self) -> Result<State> {
        self.order(&Order::Show)
    }

    /// Makes a place for a machine.
    pub fn add(&mut self, machine: &str) -> Result<State> {
        self.order(&Order::Add { machine: machine.to_owned() })
    }

    /// Changes the faults of these directions.
    pub fn fault(&mut self, links: impl Into<Vec<Pair>>, change: Change) -> Result<State> {
        self.order(&Order::Fault { links: links.into(), change })
    }

    /// Keeps groups of machines apart, and the machines in none of them from all.
    pub fn partition(&mut self, groups: &[&[&str]]) -> Result<State> {
        let groups = groups.iter().map(|group| group.iter().map(ToString::to_string).collect()).collect();
        self.order(&Order::Partition { groups })
    }

    /// Ends a partition.
    pub fn heal(&mut self) -> Result<State> {
        self.partition(&[])
    }

    /// Ends all faults and partitions.
    pub fn reset(&mut self) -> Result<State> {
        self.order(&Order::Reset { seed: None })
    }

    /// Waits until all of these machines are connected.
    pub fn wait_attached(&mut self, machines: &[&str], within: Duration) -> Result<State> {
        let machines = machines.iter().map(ToString::to_string).collect();
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let patience = |time| move |e| Error::Switch(format!("cannot wait {time:?}: {e}"));
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(within + ANSWER_DEADLINE)).map_err(patience(within))?;
        let answer = self.order(&Order::Await { machines, within_ms });
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(patience(ANSWER_DEADLINE))?;
        answer
    }

    /// Ends it. It may be gone before it has answered.
    pub(crate) fn stop(mut self) {
        let _ = self.ask(&Order::Stop);
    }
}

/// Nobody listens on a socket: it is not there, or left over.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A folder by its descriptor: the path of a unix socket has 107 bytes at most, and so it is always short.
pub(crate) struct Short(File);

impl Short {
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        File::open(dir).map(Self).map_err(file_error("open", dir))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }
}

/// Listens on a socket of that name, whatever was left there.
pub(crate) fn listen(dir: &Path, name: &str) -> Result<UnixListener> {
    let path = dir.join(name);
    crate::swtpm::remove_if_there(&path)?;
    let bind = || -> io::Result<UnixListener> {
        let folder = File::open(dir)?;
        let listener = UnixListener::bind(Short(folder).path(name))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(file_error("listen on", &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::faults::Share;

    #[test]
    fn orders_are_as_the_protocol_says() {
        for (order, text) in [
            (Order::Show, r#"{"do":"show"}"#),
            (Order::Add { machine: "p1".to_owned() }, r#"{"do":"add","machine":"p1"}"#),
            (
                Order::Fault {
                    links: vec![Pair::one_way("p1", "p2"), Pair::ALL],
                    change: Change::loss(Share::percent(20)),
                },
                r#"{"do":"fault","links":[{"from":"p1","to":"p2"},{}],"change":{"loss_ppm":200000}}"#,
            ),
            (Order::Partition { groups: vec![] }, r#"{"do":"partition","groups":[]}"#),
            (Order::Stop, r#"{"do":"stop"}"#),
        ] {
            assert_eq!(serde_json::to_string(&order).expect("written"), text);
            assert_eq!(serde_json::from_str::<Order>(text).expect("read"), order);
        }
        assert_eq!(
            serde_json::from_str::<Order>(r#"{"do":"reset"}"#).expect("read"),
            Order::Reset { seed: None }
        );
        for wrong in [r#"{"do":"dance"}"#, r#"{"do":"fault","links":[{"form":"p1"}],"change":{}}"#, "[]"] {
            assert!(serde_json::from_str::<Order>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn where_no_switch_runs_there_is_none() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(Control::find(&dir.path().join("missing")).expect("asked").is_none());
        assert!(Control::find(dir.path()).expect("asked").is_none());
        drop(listen(dir.path(), CONTROL_SOCKET).expect("a socket that is left over"));
        assert!(Control::find(dir.path()).expect("asked").is_none());
        assert!(matches!(Control::connect(dir.path()), Err(Error::NoSwitch(_))));
    }
}
