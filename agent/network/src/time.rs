//! Asks time servers and sets the clock: the hands of `ntp`. In a thread of its own, since looking up a name may take a
//! while, and leases do not wait.

use crate::ntp::{self, Action, Discipline, PACKET_BYTES, Refusal, Sample};
use crate::{chain, random, say};
use pillar_model::Host;
use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Servers that are asked in one round.
const SERVERS: usize = 4;
/// For one answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Until the clock was set: the first wait between rounds, doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// While it is right, a round is this much later each time, from the first to the second.
const WAITS: (Duration, Duration) = (Duration::from_secs(64), Duration::from_secs(1024));

/// Why one server's answer is none.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No socket, no route, no answer.
    #[error("no answer")]
    Socket(#[from] io::Error),
    /// An answer that is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks one server.
pub fn ask(server: SocketAddr) -> Result<Sample, AskError> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    // From now on only this address can answer, at a port that nobody else knows.
    socket.connect(server)?;
    let nonce = random();
    let (asked, began) = (clock(), Instant::now());
    socket.send(&ntp::question(nonce))?;
    let mut buffer = [0; PACKET_BYTES];
    loop {
        let left = ANSWER_TIME.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        socket.set_read_timeout(Some(left))?;
        let bytes = match socket.recv(&mut buffer) {
            // How a socket says that the time is over.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            received => received?,
        };
        let took = began.elapsed();
        match ntp::answer(buffer.get(..bytes).unwrap_or_default(), nonce, asked, took) {
            // Somebody guesses: the answer may still come.
            Err(Refusal::NotOurs) => {}
            answer => return Ok(answer?),
        }
    }
}

fn clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Whom to ask, and when again.
#[derive(Debug)]
struct Rounds {
    settings: Vec<Host>,
    dhcp: Vec<Host>,
    /// Servers that asked not to be asked.
    spared: HashSet<SocketAddr>,
    discipline: Discipline,
    wait: Duration,
    /// The last thing said, so that it is said once.
    said: String,
}

/// Asks for ever. Servers that DHCP gives are used when the settings name none.
pub fn run(settings: Vec<Host>, from_dhcp: &Receiver<Vec<Host>>) {
    let mut rounds = Rounds {
        settings,
        dhcp: Vec::new(),
        spared: HashSet::new(),
        discipline: Discipline::default(),
        wait: FIRST_WAIT,
        said: String::new(),
    };
    loop {
        rounds.round();
        match from_dhcp.recv_timeout(rounds.wait) {
            Ok(servers) => rounds.take(servers),
            Err(RecvTimeoutError::Timeout) => {}
            // No card uses DHCP.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(rounds.wait),
        }
    }
}

impl Rounds {
    /// A lease is news of the network too: what did not answer before may do now.
    fn take(&mut self, servers: Vec<Host>) {
        self.dhcp = servers;
        if self.discipline == Discipline::default() {
            self.wait = FIRST_WAIT;
        }
    }

    fn round(&mut self) {
        let hosts = if self.settings.is_empty() { &self.dhcp } else { &self.settings };
        if hosts.is_empty() {
            self.wait = WAITS.1;
            return;
        }
        let servers: Vec<SocketAddr> = addresses(hosts)
            .into_iter()
            .filter(|server| !self.spared.contains(server))
            .take(SERVERS)
            .collect();
        let mut samples = Vec::new();
        let mut failures = Vec::new();
        for server in &servers {
            match ask(*server) {
                Ok(sample) => samples.push(sample),
                Err(error) => {
                    if let AskError::Refused(Refusal::Kiss(_)) = error {
                        self.spared.insert(*server);
                    }
                    failures.push(format!("{}: {}", server.ip(), chain(&error)));
                }
            }
        }
        match ntp::agreed(&samples) {
            Some((offset, servers)) => self.set(offset, servers),
            None => {
                let why = match (samples.len(), failures.is_empty()) {
                    (0, true) => "their names are not found".to_owned(),
                    (0, false) => failures.join("; "),
                    (several, _) => format!("{several} answers do not agree"),
                };
                self.say(say::warning, format!("no time from the time servers: {why}"));
                self.wait = (self.wait * 2).min(WAITS.1);
            }
        }
    }

    fn set(&mut self, offset: i64, servers: usize) {
        let action = self.discipline.decide(offset);
        let done = match action {
            Action::Leave => Ok(()),
            Action::Slew => pillar_os::slew_clock(offset),
            Action::Step => pillar_os::step_clock(offset),
        };
        if let Err(error) = done {
            self.say(say::warning, format!("cannot set the clock: {error}"));
            self.wait = WAITS.1;
            return;
        }
        let ms = offset / 1_000_000;
        if action == Action::Step {
            say::notice(format_args!("clock set by {ms} ms, as {servers} time servers say"));
            self.wait = WAITS.0;
        } else if offset.unsigned_abs() > ntp::JUMP.as_nanos() as u64 {
            say::warning(format_args!("the clock seems to be {ms} ms behind: asking again"));
            self.wait = WAITS.0;
        } else {
            self.say(say::notice, "the clock agrees with the time servers".to_owned());
            self.wait = (self.wait * 2).clamp(WAITS.0, WAITS.1);
        }
    }

    fn say(&mut self, say: fn(String), what: String) {
        if what != self.said {
            say(what.clone());
            self.said = what;
        }
    }
}

/// Addresses of servers; a name can have several.
fn addresses(hosts: &[Host]) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for host in hosts {
        match host {
            Host::Address(address) => all.push(SocketAddr::new(*address, ntp::PORT)),
            Host::Name(name) => {
                all.extend((name.as_str(), ntp::PORT).to_socket_addrs().into_iter().flatten());
            }
        }
    }
    all
}
