//! The DHCP client of one card (RFC 2131 section 4.4) as a state machine: no socket, no clock, no randomness.
//!
//! ```text
//!                offer            ack                 T1             T2
//!  Selecting ──────────▶ Requesting ────▶ Bound ──────────▶ Renewing ────▶ Rebinding
//!      ▲  ▲     nak, silence  │             ▲  │   ack          │              │ │ ▲
//!      │  └───────────────────┘             └──┼────────────────┴──────────────┘ │ │
//!      │                                       └── carrier came back ────────────┼─┘
//!      └──────────────────────────────── nak, lease over ────────────────────────┘
//! ```
//!
//! The machine keeps what it leased while servers are silent, and loses it when the lease is over or a server takes it
//! back. It never gives up asking, and whatever it is told, each round of asking begins with a wait of its own.

use crate::dhcp::{Reply, Request, Terms};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The wait after the first message; each one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait between messages while there is no address.
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// So often an offer is asked for before others are looked for.
const REQUESTS: u32 = 4;
/// After so many quick repetitions a lease is asked for at leisure.
const QUICK_RENEWALS: u32 = 3;
/// At leisure: after half of what is left, and not more often than this (RFC 2131 section 4.4.5).
const LEISURE: Duration = Duration::from_secs(60);

/// The moment of a step, and something to roll dice with.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// On a clock that nobody sets and that counts sleep.
    pub at: Duration,
    /// Fresh random bits.
    pub random: u64,
}

/// An address for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What was granted.
    pub terms: Terms,
    /// When the request for it was sent: the earliest moment from which the server may count.
    pub since: Duration,
}

/// Messages that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Their number, which answers must carry.
    pub number: u32,
    /// When it began.
    pub began: Duration,
    /// How many were sent.
    pub sent: u32,
    /// When the last one was sent.
    pub last: Duration,
    /// When to send the next.
    pub due: Duration,
}

/// Where the client stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Looking for servers.
    Selecting(Exchange),
    /// One has an offer, which was asked for.
    Requesting(Exchange, Terms),
    /// There is an address.
    Bound(Lease),
    /// Its server is asked to prolong it.
    Renewing(Exchange, Lease),
    /// Any server is.
    Rebinding(Exchange, Lease),
}

/// What happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The time of [`State::due`] has come.
    Due,
    /// The cable has a carrier again, perhaps of another network.
    Carrier,
    /// A server's answer to this exchange.
    Reply(Reply),
}

/// To whom a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Everybody on the link.
    Everybody,
    /// This server, from our own address.
    Server(Ipv4Addr),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this.
    Send(Request, To),
    /// Use the address; perhaps it is in use, and its time goes on.
    Use(Lease),
    /// Use it no more.
    Drop(Lease, String),
    /// Tell that an offer was not kept.
    Refused(String),
}

impl State {
    /// The beginning: due at once.
    #[must_use]
    pub fn new(now: Now) -> State {
        State::Selecting(Exchange::new(now, Duration::ZERO))
    }

    /// When to be told [`Event::Due`].
    #[must_use]
    pub fn due(&self) -> Duration {
        match self {
            State::Selecting(exchange)
            | State::Requesting(exchange, _)
            | State::Renewing(exchange, _)
            | State::Rebinding(exchange, _) => exchange.due,
            State::Bound(lease) => lease.since + lease.terms.renew,
        }
    }

    /// The exchange that answers are awaited for.
    #[must_use]
    pub fn exchange(&self) -> Option<&Exchange> {
        match self {
            State::Selecting(exchange)
            | State::Requesting(exchange, _)
            | State::Renewing(exchange, _)
            | State::Rebinding(exchange, _) => Some(exchange),
            State::Bound(_) => None,
        }
    }

    /// Goes on.
    #[must_use]
    pub fn step(self, event: Event, now: Now) -> (State, Vec<Effect>) {
        match self {
            State::Selecting(exchange) => selecting(exchange, event, now),
            State::Requesting(exchange, terms) => requesting(exchange, terms, event, now),
            State::Bound(lease) => bound(lease, event, now),
            State::Renewing(exchange, lease) => renewing(exchange, lease, event, now),
            State::Rebinding(exchange, lease) => rebinding(exchange, lease, event, now),
        }
    }
}

fn selecting(mut exchange: Exchange, event: Event, now: Now) -> (State, Vec<Effect>) {
    match event {
        Event::Reply(Reply::Offer(terms)) if exchange.sent > 0 => {
            let mut exchange = Exchange { sent: 0, ..exchange };
            exchange.sending(now);
            let request = Request::Select { address: terms.address, server: terms.server };
            (State::Requesting(exchange, terms), vec![Effect::Send(request, To::Everybody)])
        }
        Event::Reply(_) => (State::Selecting(exchange), Vec::new()),
        Event::Carrier => (State::new(now), Vec::new()),
        Event::Due => {
            exchange.sending(now);
            (State::Selecting(exchange), vec![Effect::Send(Request::Discover, To::Everybody)])
        }
    }
}

fn requesting(mut exchange: Exchange, terms: Terms, event: Event, now: Now) -> (State, Vec<Effect>) {
    match event {
        Event::Reply(Reply::Ack(granted))
            if granted.server == terms.server
                && granted.address == terms.address
                && exchange.is_fresh(&granted, now) =>
        {
            grant(Lease { terms: granted, since: exchange.last })
        }
        Event::Reply(Reply::Nak { server, why }) if server == terms.server => {
            (again(now), vec![Effect::Refused(why)])
        }
        Event::Reply(_) => (State::Requesting(exchange, terms), Vec::new()),
        Event::Carrier => (State::new(now), Vec::new()),
        Event::Due if exchange.sent >= REQUESTS => {
            (State::new(now), vec![Effect::Refused("no answer to a request for its own offer".to_owned())])
        }
        Event::Due => {
            exchange.sending(now);
            let request = Request::Select { address: terms.address, server: terms.server };
            (State::Requesting(exchange, terms), vec![Effect::Send(request, To::Everybody)])
        }
    }
}

fn bound(lease: Lease, event: Event, now: Now) -> (State, Vec<Effect>) {
    match event {
        Event::Reply(_) => (State::Bound(lease), Vec::new()),
        Event::Due => renewing(Exchange::new(now, Duration::ZERO), lease, event, now),
        // Perhaps this is another network: whoever is there shall say.
        Event::Carrier => rebinding(Exchange::new(now, Duration::ZERO), lease, Event::Due, now),
    }
}

fn renewing(mut exchange: Exchange, lease: Lease, event: Event, now: Now) -> (State, Vec<Effect>) {
    let until = lease.since + lease.terms.rebind;
    match event {
        Event::Reply(reply) => match prolonged(&exchange, &lease, reply, now) {
            Some(done) => done,
            None => (State::Renewing(exchange, lease), Vec::new()),
        },
        Event::Due if now.at < until => {
            exchange.sending(now);
            exchange.at_leisure(until, now);
            let send = Effect::Send(renewal(&lease), To::Server(lease.terms.server));
            (State::Renewing(exchange, lease), vec![send])
        }
        Event::Due | Event::Carrier => rebinding(Exchange::new(now, Duration::ZERO), lease, Event::Due, now),
    }
}

fn rebinding(mut exchange: Exchange, lease: Lease, event: Event, now: Now) -> (State, Vec<Effect>) {
    let until = lease.since + lease.terms.lease;
    match event {
        Event::Reply(reply) => match prolonged(&exchange, &lease, reply, now) {
            Some(done) => done,
            None => (State::Rebinding(exchange, lease), Vec::new()),
        },
        Event::Due if now.at >= until => {
            (State::new(now), vec![Effect::Drop(lease, "the lease is over".to_owned())])
        }
        Event::Carrier => rebinding(Exchange::new(now, Duration::ZERO), lease, Event::Due, now),
        Event::Due => {
            exchange.sending(now);
            exchange.at_leisure(until, now);
            let send = Effect::Send(renewal(&lease), To::Everybody);
            (State::Rebinding(exchange, lease), vec![send])
        }
    }
}

fn renewal(lease: &Lease) -> Request {
    Request::Renew { address: lease.terms.address }
}

/// What an answer to a renewal changes, if anything.
fn prolonged(exchange: &Exchange, lease: &Lease, reply: Reply, now: Now) -> Option<(State, Vec<Effect>)> {
    match reply {
        // Another address than ours is no answer to what was asked.
        Reply::Ack(terms) if terms.address == lease.terms.address && exchange.is_fresh(&terms, now) => {
            Some(grant(Lease { terms, since: exchange.last }))
        }
        Reply::Nak { why, .. } => {
            let why = if why.is_empty() { "the server took it back".to_owned() } else { why };
            Some((again(now), vec![Effect::Drop(lease.clone(), why)]))
        }
        Reply::Ack(_) | Reply::Offer(_) => None,
    }
}

fn grant(lease: Lease) -> (State, Vec<Effect>) {
    (State::Bound(lease.clone()), vec![Effect::Use(lease)])
}

/// From the beginning after a refusal: not at once, or two machines could keep each other busy.
fn again(now: Now) -> State {
    State::Selecting(Exchange::new(now, jittered(FIRST_WAIT, now.random)))
}

impl Exchange {
    fn new(now: Now, wait: Duration) -> Exchange {
        // The number and the jitter come from different ends of the random bits.
        let number = (now.random >> 32) as u32;
        Exchange { number, began: now.at + wait, sent: 0, last: now.at, due: now.at + wait }
    }

    /// False for a lease that is over when the answer comes.
    fn is_fresh(&self, terms: &Terms, now: Now) -> bool {
        self.last + terms.lease > now.at
    }

    fn sending(&mut self, now: Now) {
        let wait = FIRST_WAIT.saturating_mul(1 << self.sent.min(8)).min(LONGEST_WAIT);
        self.sent = self.sent.saturating_add(1);
        self.last = now.at;
        self.due = now.at + jittered(wait, now.random);
    }

    /// Not so often, when the first repetitions had no answer, but in time for what comes then.
    fn at_leisure(&mut self, until: Duration, now: Now) {
        if self.sent > QUICK_RENEWALS {
            let half = until.saturating_sub(now.at) / 2;
            self.due = now.at + half.max(LEISURE);
        }
        self.due = self.due.min(until);
    }
}

/// A quarter more or less, so that machines that started together do not ask together.
fn jittered(wait: Duration, random: u64) -> Duration {
    let quarter = wait / 4;
    let part = f64::from(random as u32) / f64::from(u32::MAX);
    wait - quarter + quarter.mul_f64(2.0 * part)
}

#[cfg(test)]
mod tests;
