//! The DHCP clients' hands: sockets, addresses and routes of all cards, in one loop that waits for whatever comes first.

use crate::client::{Effect, Event, Lease, Now, State, To};
use crate::dhcp::{Asker, CLIENT_PORT, Ignored, Reply, Request, SERVER_PORT};
use crate::names::Names;
use crate::options::{Dhcp, Options};
use crate::{chain, frame, now, say};
use pillar_model::{Host, PillarId};
use pillar_os::{Card, Gateway, LinkNews, PacketSocket, RouteError, Router};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// An Ethernet frame, and as much as we take of a larger one.
const PACKET_MAX_BYTES: usize = 1600;
/// Packets that are read of one card before the others get their turn.
const PACKETS_AT_ONCE: usize = 64;
/// The loop looks around at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Default routes of DHCP come after static ones (100 and up) and before those of router advertisements (1024).
const METRIC: u32 = 200;
/// So often at most is told that answers are bad: whoever sends them must not fill the log.
const COMPLAINTS_EVERY: Duration = Duration::from_secs(60);

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum CardsError {
    /// The kernel tells no news of links, or takes no addresses.
    #[error("cannot look after the network cards")]
    Route(#[from] RouteError),
    /// It cannot wait.
    #[error("cannot wait for packets")]
    Wait(#[source] io::Error),
}

/// All cards that ask a DHCP server.
#[derive(Debug)]
pub struct Cards {
    wanted: Dhcp,
    name: Option<PillarId>,
    find: fn() -> Vec<Card>,
    clients: Vec<Client>,
    news: LinkNews,
    router: Router,
    names: Names,
    time: Sender<Vec<Host>>,
    /// Name servers and time servers that were told last.
    told: Option<(Vec<Ipv4Addr>, Vec<Ipv4Addr>)>,
}

impl Cards {
    /// For the cards that `find` finds, now and whenever links change. Name servers go to `names`, time servers to `time`.
    pub fn new(
        options: &Options,
        names: Names,
        find: fn() -> Vec<Card>,
        time: Sender<Vec<Host>>,
    ) -> Result<Self, CardsError> {
        Ok(Self {
            wanted: options.dhcp.clone(),
            name: options.name.clone(),
            find,
            clients: Vec::new(),
            news: LinkNews::open()?,
            router: Router::open()?,
            names,
            time,
            told: None,
        })
    }

    /// Runs for ever.
    pub fn run(mut self) -> Result<std::convert::Infallible, CardsError> {
        self.look();
        loop {
            self.do_what_is_due();
            if self.wait()? {
                self.news.clear();
                self.look();
            }
            self.read();
        }
    }

    /// Takes in cards that came and carriers that came back; forgets cards that went.
    fn look(&mut self) {
        let cards = (self.find)();
        self.clients.retain(|client| cards.contains(&client.card));
        for (place, card) in cards.into_iter().enumerate() {
            let known = self.clients.iter().position(|client| client.card == card);
            match known {
                Some(index) => self.carrier(index),
                None if self.wanted.wants(place, &card) => self.take_in(card, place),
                None => {}
            }
        }
    }

    fn take_in(&mut self, card: Card, place: usize) {
        if let Err(error) = self.router.up(card.interface) {
            say::warning(format_args!("{}: {}", card.name, chain(&error)));
        }
        let metric = METRIC + u32::try_from(place).unwrap_or(0);
        self.clients.push(Client::new(card, metric));
    }

    fn carrier(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let before = std::mem::replace(&mut client.carrier, client.card.has_carrier());
        if client.carrier && !before {
            self.step(index, Event::Carrier);
        }
    }

    fn do_what_is_due(&mut self) {
        for index in 0..self.clients.len() {
            if self.clients.get(index).is_some_and(|client| client.state.due() <= now().at) {
                self.step(index, Event::Due);
            }
        }
    }

    /// Waits for a packet, for what is due, or for news of links, which is then true.
    fn wait(&self) -> Result<bool, CardsError> {
        let now = now().at;
        let due = self.clients.iter().map(|client| client.state.due().saturating_sub(now)).min();
        let time = due.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let sockets = self.clients.iter().filter_map(|client| client.ears.fd());
        let mut fds: Vec<PollFd<'_>> = std::iter::once(self.news.as_fd())
            .chain(sockets)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, Some(&timespec(time))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {
                Ok(fds.first().is_some_and(|news| !news.revents().is_empty()))
            }
            Err(errno) => Err(CardsError::Wait(errno.into())),
        }
    }

    fn read(&mut self) {
        for index in 0..self.clients.len() {
            for _ in 0..PACKETS_AT_ONCE {
                match self.clients.get_mut(index).map(Client::reply) {
                    Some(Heard::Reply(reply)) => self.step(index, Event::Reply(reply)),
                    Some(Heard::Noise) => {}
                    Some(Heard::Nothing) | None => break,
                }
            }
        }
    }

    fn step(&mut self, index: usize, event: Event) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let now = now();
        let state = std::mem::replace(&mut client.state, State::new(now));
        let (state, effects) = state.step(event, now);
        client.state = state;
        client.listen();
        for effect in effects {
            self.carry_out(index, effect, now);
        }
    }

    fn carry_out(&mut self, index: usize, effect: Effect, now: Now) {
        let Some(client) = self.clients.get_mut(index) else { return };
        match effect {
            Effect::Send(request, to) => client.send(&request, to, self.name.as_ref(), now),
            Effect::Use(lease) => {
                client.take(lease, &mut self.router, now);
                self.tell();
            }
            Effect::Drop(lease, why) => {
                client.give_up(&lease, &why, &mut self.router);
                self.tell();
            }
            Effect::Refused(why) => {
                say::warning(format_args!(
                    "{}: the DHCP server's offer came to nothing: {why}",
                    client.card.name
                ));
            }
        }
    }

    /// Tells others what the leases say beside addresses.
    fn tell(&mut self) {
        let leases = || self.clients.iter().filter_map(|client| client.lease.as_ref());
        let dns: Vec<Ipv4Addr> = leases().flat_map(|lease| lease.terms.dns.iter().copied()).collect();
        let time: Vec<Ipv4Addr> = leases().flat_map(|lease| lease.terms.time.iter().copied()).collect();
        let news = Some((dns, time));
        // Renewals that change nothing are no reason to ask anybody for the time.
        if self.told == news {
            return;
        }
        self.told = news;
        let Some((dns, time)) = &self.told else { return };
        self.names.write(dns);
        // That nobody listens is no reason to stop: the addresses are what counts.
        let _ = self.time.send(time.iter().map(|server| Host::Address(IpAddr::V4(*server))).collect());
    }
}

/// What listens for answers.
#[derive(Debug)]
enum Ears {
    /// Nothing.
    None,
    /// For everybody's answers, with or without an address.
    Packets(PacketSocket),
    /// For our server's, to our address.
    Own(UdpSocket),
}

impl Ears {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Ears::None => None,
            Ears::Packets(socket) => Some(socket.as_fd()),
            Ears::Own(socket) => Some(socket.as_fd()),
        }
    }
}

/// What was read.
enum Heard {
    Reply(Reply),
    Noise,
    Nothing,
}

/// One card.
#[derive(Debug)]
struct Client {
    card: Card,
    metric: u32,
    state: State,
    carrier: bool,
    ears: Ears,
    /// What is in use.
    lease: Option<Lease>,
    complained: Option<Duration>,
}

impl Client {
    fn new(card: Card, metric: u32) -> Self {
        let carrier = card.has_carrier();
        Self {
            card,
            metric,
            state: State::new(now()),
            carrier,
            ears: Ears::None,
            lease: None,
            complained: None,
        }
    }

    /// Opens and closes sockets, so that each is open only while an answer may come.
    fn listen(&mut self) {
        let opened = match (&self.state, &self.ears) {
            (State::Bound(_), _) => Ok(Ears::None),
            (State::Renewing(_, lease), Ears::None | Ears::Packets(_)) => {
                own(lease.terms.address).map(Ears::Own)
            }
            (
                State::Selecting(_) | State::Requesting(..) | State::Rebinding(..),
                Ears::None | Ears::Own(_),
            ) => PacketSocket::open(self.card.interface).map(Ears::Packets),
            _ => return,
        };
        self.ears = opened.unwrap_or_else(|error| {
            say::warning(format_args!("{}: cannot listen for DHCP servers: {error}", self.card.name));
            Ears::None
        });
    }

    fn send(&mut self, request: &Request, to: To, name: Option<&PillarId>, now: Now) {
        let Some(exchange) = self.state.exchange() else { return };
        let seconds = now.at.saturating_sub(exchange.began).as_secs();
        let asker = Asker {
            mac: self.card.mac,
            name: name.map(PillarId::as_str),
            exchange: exchange.number,
            seconds: u16::try_from(seconds).unwrap_or(u16::MAX),
        };
        let message = request.write(&asker);
        let sent = match (&self.ears, to) {
            (Ears::Packets(socket), To::Everybody) => {
                let own = match request {
                    Request::Renew { address } => *address,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
                socket.broadcast(&frame::write(SocketAddrV4::new(own, CLIENT_PORT), to, &message))
            }
            (Ears::Own(socket), To::Server(server)) => {
                socket.send_to(&message, SocketAddrV4::new(server, SERVER_PORT)).map(|_| ())
            }
            // Listening failed, which was told.
            _ => Ok(()),
        };
        if let Err(error) = sent {
            self.complain(now.at, &format!("cannot ask a DHCP server: {error}"));
        }
    }

    fn reply(&mut self) -> Heard {
        let Some(exchange) = self.state.exchange().copied() else { return Heard::Nothing };
        let mut buffer = [0; PACKET_MAX_BYTES];
        let message = match &self.ears {
            Ears::None => return Heard::Nothing,
            Ears::Packets(socket) => match socket.receive(&mut buffer) {
                Ok(Some(packet)) => frame::read(packet, SERVER_PORT, CLIENT_PORT).map(|(_, message)| message),
                // The card is down: news of it will come.
                Ok(None) | Err(_) => return Heard::Nothing,
            },
            Ears::Own(socket) => match socket.recv_from(&mut buffer) {
                Ok((bytes, from)) if from.port() == SERVER_PORT => buffer.get(..bytes),
                Ok(_) => None,
                Err(_) => return Heard::Nothing,
            },
        };
        let Some(message) = message else { return Heard::Noise };
        match Reply::read(message, self.card.mac, exchange.number) {
            Ok(reply) => Heard::Reply(reply),
            Err(Ignored::NotOurs) => Heard::Noise,
            Err(bad) => {
                self.complain(now().at, &bad.to_string());
                Heard::Noise
            }
        }
    }

    fn complain(&mut self, at: Duration, why: &str) {
        if self.complained.is_none_or(|last| at.saturating_sub(last) >= COMPLAINTS_EVERY) {
            say::warning(format_args!("{}: {why}", self.card.name));
            self.complained = Some(at);
        }
    }

    fn gateway(&self, lease: &Lease) -> Option<Gateway> {
        Some(Gateway {
            address: IpAddr::V4(lease.terms.gateway?),
            interface: self.card.interface,
            metric: self.metric,
            on_link: lease.terms.gateway_is_elsewhere(),
        })
    }

    /// Uses a lease, for the first time or on. The kernel knows when it ends, so that the address goes even if we do not
    /// live to see it.
    fn take(&mut self, lease: Lease, router: &mut Router, now: Now) {
        let terms = &lease.terms;
        let left = (lease.since + terms.lease).saturating_sub(now.at);
        let mut set = || -> Result<(), RouteError> {
            let address = IpAddr::V4(terms.address);
            router.add_address(self.card.interface, address, terms.prefix, Some(left))?;
            let old = self.lease.as_ref().and_then(|old| self.gateway(old));
            let new = self.gateway(&lease);
            if let Some(old) = old.filter(|old| Some(*old) != new) {
                let _ = router.remove_gateway(&old);
            }
            new.map_or(Ok(()), |gateway| router.set_gateway(&gateway))
        };
        if let Err(error) = set() {
            say::warning(format_args!("{}: {}", self.card.name, chain(&error)));
        }
        // Renewals that change nothing are not worth a record.
        if self.lease.as_ref().map(|old| (old.terms.address, old.terms.gateway))
            != Some((terms.address, terms.gateway))
        {
            let seconds = terms.lease.as_secs();
            say::notice(format_args!(
                "{}: {}/{} from {} for {seconds} s",
                self.card.name, terms.address, terms.prefix, terms.server
            ));
        }
        self.lease = Some(lease);
    }

    fn give_up(&mut self, lease: &Lease, why: &str, router: &mut Router) {
        say::warning(format_args!("{}: {} is not ours any more: {why}", self.card.name, lease.terms.address));
        if let Some(gateway) = self.gateway(lease) {
            let _ = router.remove_gateway(&gateway);
        }
        // The kernel may have been faster with both.
        let _ =
            router.remove_address(self.card.interface, IpAddr::V4(lease.terms.address), lease.terms.prefix);
        self.lease = None;
    }
}

fn own(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(address, CLIENT_PORT))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
