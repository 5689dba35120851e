//! Room for connections that came in and have proved nothing yet. Anybody can make them, so that there are few, and a
//! stranger who holds his open without a word loses it to others who come.
//!
//! Who goes is decided by where they come from: first a source's own oldest, when it has its share; then the oldest of
//! whichever source has most. So one source that floods the door pushes out itself, and whoever comes from elsewhere
//! has all the time of a handshake. Only where as many sources as there is room each hold one does the oldest of all go.
//!
//! Who proved who he is stays. Where those who did are no equals of ours, none of them may take all the room: there each
//! key has its share, and its newest connection pushes out its own oldest.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Where a connection comes from: an IPv4 address, or the network of an IPv6 address (/64), since whoever has one
/// address of it has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address => Self(address),
        }
    }
}

/// Who is in it.
#[derive(Debug)]
pub struct Entrance(Arc<Mutex<Guests>>);

/// Ends when its connection must go for another one.
pub type Displaced = oneshot::Receiver<()>;

#[derive(Debug)]
struct Guests {
    room: usize,
    share: usize,
    /// In the order in which they came. Who finds its sender gone gives up.
    strangers: BTreeMap<u64, (Source, oneshot::Sender<()>)>,
    known: usize,
    /// Of those who are known, the ones whose keys have a share.
    named: BTreeMap<u64, (Vec<u8>, oneshot::Sender<()>)>,
    came: u64,
}

impl Guests {
    fn of(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, source: Source) -> usize {
        self.strangers.values().filter(|(other, _)| *other == source).count()
    }

    /// Whoever goes for one more of `newcomer`, if somebody must; `Err` when nobody can.
    fn goes(&self, newcomer: Source) -> Result<Option<u64>, Crowded> {
        let oldest = |source| self.strangers.iter().find(|(_, (other, _))| *other == source).map(|(n, _)| *n);
        if self.count(newcomer) >= self.share {
            return Ok(oldest(newcomer));
        }
        if self.strangers.len() + self.known < self.room {
            return Ok(None);
        }
        // Of sources that have as many, the one whose oldest came first.
        let sources = self.strangers.iter().map(|(number, (source, _))| {
            let newer = usize::from(*source == newcomer);
            (self.count(*source) + newer, Reverse(*number))
        });
        sources.max().map(|(_, Reverse(number))| Some(number)).ok_or(Crowded { room: self.room })
    }
}

/// All who are there have proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{room} connections are there, and all have proved who they are")]
pub struct Crowded {
    /// How many there may be.
    pub room: usize,
}

/// One of them; it leaves when dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Mutex<Guests>>,
    number: u64,
    is_known: bool,
}

impl Entrance {
    /// One for so many connections, of which so many may come from one source as long as they have proved nothing.
    #[must_use]
    pub fn new(room: usize, share: usize) -> Self {
        let guests =
            Guests { room, share, strangers: BTreeMap::new(), known: 0, named: BTreeMap::new(), came: 0 };
        Self(Arc::new(Mutex::new(guests)))
    }

    /// Lets one more in.
    pub fn enter(&self, from: IpAddr) -> Result<(Guest, Displaced), Crowded> {
        let mut guests = Guests::of(&self.0);
        if let Some(gone) = guests.goes(from.into())? {
            guests.strangers.remove(&gone);
        }
        let number = guests.came;
        guests.came += 1;
        let (stays, displaced) = oneshot::channel();
        guests.strangers.insert(number, (from.into(), stays));
        Ok((Guest { guests: Arc::clone(&self.0), number, is_known: false }, displaced))
    }
}

impl Guest {
    /// It proved who it is, and is not sent away for others any more.
    pub fn is_known(&mut self) {
        let mut guests = Guests::of(&self.guests);
        guests.strangers.remove(&self.number);
        guests.known += usize::from(!self.is_known);
        self.is_known = true;
    }

    /// The same under a key that has so many connections at most: its oldest goes for this one.
    pub fn is_known_by(&mut self, key: &[u8], share: usize) -> Displaced {
        self.is_known();
        let mut guests = Guests::of(&self.guests);
        let (stays, displaced) = oneshot::channel();
        guests.named.insert(self.number, (key.to_vec(), stays));
        let same: Vec<u64> =
            guests.named.iter().filter(|(_, (other, _))| other == key).map(|(number, _)| *number).collect();
        let others = same.iter().filter(|number| **number != self.number);
        for oldest in others.take(same.len().saturating_sub(share)) {
            guests.named.remove(oldest);
        }
        displaced
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = Guests::of(&self.guests);
        guests.strangers.remove(&self.number);
        guests.named.remove(&self.number);
        guests.known -= usize::from(self.is_known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const ROOM: usize = 32;
    const SHARE: usize = 16;

    type Inside = (Guest, Displaced);

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn enter(entrance: &Entrance, from: &str) -> Inside {
        entrance.enter(address(from)).expect("room")
    }

    fn must_go((_, displaced): &mut Inside) -> bool {
        displaced.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    // attack: P13
    #[test]
    fn a_source_that_floods_pushes_out_itself() {
        let entrance = Entrance::new(ROOM, SHARE);
        let mut honest = enter(&entrance, "192.0.2.1");
        let mut flood: VecDeque<Inside> = VecDeque::new();
        for number in 0..1000 {
            flood.push_back(enter(&entrance, "192.0.2.2"));
            assert!(!must_go(&mut honest), "after {number}");
            if flood.len() > SHARE {
                let mut oldest = flood.pop_front().expect("not empty");
                assert!(must_go(&mut oldest), "{number}: its own oldest goes");
            }
            assert!(flood.iter_mut().all(|guest| !must_go(guest)));
            // Others come and stay as well.
            assert!(!must_go(&mut enter(&entrance, "192.0.2.3")));
        }
    }

    // attack: P13
    #[test]
    fn many_sources_push_out_whoever_has_most() {
        let entrance = Entrance::new(ROOM, SHARE);
        let mut honest = enter(&entrance, "192.0.2.1");
        let mut all: Vec<Inside> = Vec::new();
        for number in 0..1000 {
            all.push(enter(&entrance, &format!("198.51.100.{}", number % 4)));
            assert!(!must_go(&mut honest), "after {number}");
        }
        all.retain_mut(|guest| !must_go(guest));
        assert_eq!(all.len(), ROOM - 1);
    }

    #[test]
    fn of_as_many_sources_as_there_is_room_the_oldest_goes() {
        let entrance = Entrance::new(ROOM, SHARE);
        let from = |number: usize| format!("198.51.100.{number}");
        let mut all: Vec<Inside> = (0..ROOM).map(|number| enter(&entrance, &from(number))).collect();
        assert!(all.iter_mut().all(|guest| !must_go(guest)));
        let mut last = enter(&entrance, &from(200));
        assert!(must_go(&mut all[0]) && !must_go(&mut last));
        assert!(all[1..].iter_mut().all(|guest| !must_go(guest)));
    }

    #[test]
    fn who_is_known_stays_and_takes_room_until_it_leaves() {
        let entrance = Entrance::new(ROOM, SHARE);
        let mut known: Vec<Inside> = Vec::new();
        for _ in 0..ROOM {
            let mut inside = enter(&entrance, "192.0.2.1");
            inside.0.is_known();
            inside.0.is_known();
            known.push(inside);
        }
        assert_eq!(entrance.enter(address("192.0.2.2")).expect_err("full"), Crowded { room: ROOM });
        known.pop();
        let mut stranger = enter(&entrance, "192.0.2.2");
        drop(enter(&entrance, "192.0.2.3"));
        assert!(must_go(&mut stranger));
        drop((known, stranger));
        assert_eq!(Guests::of(&entrance.0).known, 0);
        assert!(Guests::of(&entrance.0).strangers.is_empty());
    }

    // attack: P13
    #[test]
    fn a_key_that_takes_all_it_can_pushes_out_its_own_oldest() {
        const KEYS: usize = 8;
        let entrance = Entrance::new(ROOM, SHARE);
        let known = |key: &[u8]| {
            let (mut guest, _) = enter(&entrance, "192.0.2.1");
            let displaced = guest.is_known_by(key, KEYS);
            (guest, displaced)
        };
        let mut honest = known(b"honest");
        let mut greedy: VecDeque<Inside> = VecDeque::new();
        for number in 0..10 * ROOM {
            greedy.push_back(known(b"greedy"));
            if greedy.len() > KEYS {
                let mut oldest = greedy.pop_front().expect("not empty");
                assert!(must_go(&mut oldest), "{number}: its own oldest goes");
            }
            assert!(greedy.iter_mut().all(|inside| !must_go(inside)), "{number}");
            assert!(!must_go(&mut honest), "{number}");
            assert!(!must_go(&mut known(b"another")), "{number}: others come");
        }
        assert_eq!(Guests::of(&entrance.0).known, KEYS + 1);
        drop((honest, greedy));
        assert!(Guests::of(&entrance.0).named.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_ipv4_is_what_it_is() {
        let source = |text| Source::from(address(text));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    }
}
