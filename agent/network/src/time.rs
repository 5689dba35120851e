//! Asks time servers and sets the clock: the hands of `ntp`. In a thread of its own, since looking up a name may take a
//! while, and leases do not wait.

use crate::ntp::{self, Action, Discipline, PACKET_BYTES, Refusal, Sample};
use crate::nts::Client;
use crate::nts::trust::Clock;
use crate::{chain, random, say};
use pillar_layout::root;
use pillar_model::{Host, TimeServer};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Servers that are asked in one round, and do not prove their answers.
const SERVERS: usize = 4;
/// For one answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Packets that are looked at for one answer: more of them are a flood.
const PACKETS_MAX: usize = 64;
/// More than a true answer has: a longer packet is cut off, and then it is none.
const BUFFER_BYTES: usize = 2048;
/// Until the clock was set: the first wait between rounds, doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// While it is right, a round is this much later each time, from the first to the second.
const WAITS: (Duration, Duration) = (Duration::from_secs(64), Duration::from_secs(1024));
/// So much may the clock have been ahead with which a release was made.
const RELEASE_CLOCK: Duration = Duration::from_secs(24 * 60 * 60);

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

/// Asks one server that does not prove its answers.
pub fn ask(server: SocketAddr, earliest_unix_s: u64) -> Result<Sample, AskError> {
    let nonce = random();
    let answer = converse(server, &ntp::question(nonce), |packet, asked, took| {
        let packet = packet.get(..PACKET_BYTES)?;
        // Somebody guesses: the answer may still come.
        Some(ntp::answer(packet, nonce, asked, took, earliest_unix_s)).filter(|a| *a != Err(Refusal::NotOurs))
    })?;
    Ok(answer?)
}

/// Sends a question, and gives what comes back to `read` until it takes something: the packet, when the question was asked
/// by our clock in nanoseconds since 1970, and how long the answer took.
pub(crate) fn converse<T>(
    server: SocketAddr,
    question: &[u8],
    mut read: impl FnMut(&[u8], i64, Duration) -> Option<T>,
) -> io::Result<T> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    // From now on only this address can answer, at a port that nobody else knows.
    socket.connect(server)?;
    let (asked, began) = (clock(), Instant::now());
    socket.send(question)?;
    let mut buffer = [0; BUFFER_BYTES];
    for _ in 0..PACKETS_MAX {
        let left = ANSWER_TIME.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let bytes = match socket.recv(&mut buffer) {
            // How a socket says that the time is over.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            received => received?,
        };
        let packet = buffer.get(..bytes).unwrap_or_default();
        if let Some(taken) = read(packet, asked, began.elapsed()) {
            return Ok(taken);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Our clock, seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// No time is before the release that runs: its files are dated so when it is built.
fn earliest_unix_s() -> u64 {
    let made = fs::metadata(Path::new(root::OS_RELEASE)).and_then(|file| file.modified());
    let since = made.unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
    since.saturating_sub(RELEASE_CLOCK).as_secs().max(ntp::EARLIEST_UNIX_S)
}

/// Whom to ask, and when again.
#[derive(Debug)]
struct Rounds {
    /// Servers of the settings that prove their answers.
    proven: Vec<Client>,
    /// Servers of the settings that do not.
    unproven: Vec<Host>,
    /// Servers that DHCP names: none, unless the settings name no server at all.
    dhcp: Option<Vec<Host>>,
    earliest_unix_s: u64,
    /// Servers that asked not to be asked.
    spared: HashSet<SocketAddr>,
    discipline: Discipline,
    wait: Duration,
    /// The last thing said, so that it is said once.
    said: String,
    /// Why the time is not proven, as it was said last.
    unproven_because: String,
}

/// What was heard in one round.
#[derive(Debug, Default)]
struct Heard {
    samples: Vec<Sample>,
    /// The samples are proven.
    is_proven: bool,
    failures: Vec<String>,
}

/// Asks for ever. Servers that DHCP gives are used when the settings name none, not even unusable ones (`no_time`).
pub fn run(settings: Vec<TimeServer>, no_time: bool, from_dhcp: &Receiver<Vec<Host>>) {
    let mut rounds = Rounds::new(settings, no_time);
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
    fn new(settings: Vec<TimeServer>, no_time: bool) -> Self {
        let dhcp = (settings.is_empty() && !no_time).then(Vec::new);
        let (mut proven, mut unproven) = (Vec::new(), Vec::new());
        for server in settings {
            match server {
                TimeServer::Nts(server) => proven.push(Client::new(server)),
                TimeServer::Ntp(host) => unproven.push(host),
            }
        }
        Self {
            proven,
            unproven,
            dhcp,
            earliest_unix_s: earliest_unix_s(),
            spared: HashSet::new(),
            discipline: Discipline::default(),
            wait: FIRST_WAIT,
            said: String::new(),
            unproven_because: String::new(),
        }
    }

    /// A lease is news of the network too: what did not answer before may do now.
    fn take(&mut self, servers: Vec<Host>) {
        if let Some(dhcp) = &mut self.dhcp {
            *dhcp = servers;
        }
        if self.discipline == Discipline::default() {
            self.wait = FIRST_WAIT;
        }
    }

    fn round(&mut self) {
        let hosts = self.dhcp.as_ref().unwrap_or(&self.unproven);
        if self.proven.is_empty() && hosts.is_empty() {
            self.wait = WAITS.1;
            return;
        }
        let heard = self.ask();
        match ntp::agreed(&heard.samples) {
            Some((offset, servers)) => {
                self.warn_of_unproven(&heard);
                self.set(offset, servers, heard.is_proven);
            }
            None => {
                let why = match (heard.samples.len(), heard.failures.is_empty()) {
                    (0, true) => "their names are not found".to_owned(),
                    (0, false) => heard.failures.join("; "),
                    (several, _) => format!("{several} answers do not agree"),
                };
                self.say(say::warning, format!("no time from the time servers: {why}"));
                self.wait = (self.wait * 2).min(WAITS.1);
            }
        }
    }

    /// Asks those that prove their answers. Only when none of them does, and the settings name others too, these are asked:
    /// what is not proven is never mixed with what is.
    fn ask(&mut self) -> Heard {
        let mut heard = Heard::default();
        for client in &mut self.proven {
            let clock = Clock {
                unix_s: unix_s(),
                earliest_unix_s: self.earliest_unix_s,
                is_proven: self.discipline.is_proven(),
            };
            match client.ask(clock) {
                Ok(sample) => heard.samples.push(sample),
                Err(error) => heard.failures.push(format!("{}: {}", client.name(), chain(&error))),
            }
        }
        heard.is_proven = !heard.samples.is_empty();
        if heard.is_proven {
            return heard;
        }
        let hosts = self.dhcp.as_ref().unwrap_or(&self.unproven);
        let servers = addresses(hosts).into_iter().filter(|server| !self.spared.contains(server));
        for server in servers.take(SERVERS).collect::<Vec<_>>() {
            match ask(server, self.earliest_unix_s) {
                Ok(sample) => heard.samples.push(sample),
                Err(error) => {
                    if matches!(&error, AskError::Refused(refusal) if refusal.is_farewell()) {
                        self.spared.insert(server);
                    }
                    heard.failures.push(format!("{}: {}", server.ip(), chain(&error)));
                }
            }
        }
        heard
    }

    /// Nobody falls back silently.
    fn warn_of_unproven(&mut self, heard: &Heard) {
        let wanted = !self.proven.is_empty() && !heard.is_proven;
        let because = if wanted { heard.failures.join("; ") } else { String::new() };
        if wanted && because != self.unproven_because {
            say::warning(format_args!("the time is from servers that do not prove it: {because}"));
        }
        self.unproven_because = because;
    }

    fn set(&mut self, offset: i64, servers: usize, is_proven: bool) {
        let action = self.discipline.decide(offset, is_proven);
        let done = match action {
            Action::Leave | Action::Refuse => Ok(()),
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
            let how = if is_proven { "prove" } else { "say" };
            say::notice(format_args!("clock set by {ms} ms, as {servers} time servers {how}"));
            self.wait = WAITS.0;
        } else if action == Action::Refuse {
            self.say(say::warning, refusal(offset));
            self.wait = WAITS.0;
        } else if offset.unsigned_abs() > ntp::JUMP.as_nanos() as u64 {
            say::warning(format_args!("the clock seems to be {ms} ms behind: asking again"));
            self.wait = WAITS.0;
        } else {
            let proof = if is_proven { ", and they prove it" } else { "" };
            self.say(say::notice, format!("the clock agrees with the time servers{proof}"));
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

/// Why a proven clock is not set. Small offsets are not told: they differ each time, and the same words are said once.
fn refusal(offset: i64) -> String {
    if offset.unsigned_abs() > ntp::JUMP.as_nanos() as u64 {
        let ms = offset / 1_000_000;
        return format!("the clock is proven: not set by {ms} ms, which nobody proves");
    }
    format!(
        "the clock is proven: not set any more by what nobody proves, which may move it by {} ms altogether",
        ntp::JUMP.as_millis()
    )
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

#[cfg(test)]
mod tests;
