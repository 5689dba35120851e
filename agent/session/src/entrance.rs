//! Room for connections that came in and are not attested yet. Anybody can make them, so that there are few, and a
//! stranger who holds his open without a word loses it to the next who comes: the oldest goes first, and a handshake
//! takes less time than it takes to get there, unless somebody connects dozens of times a second.

use crate::error::Error;
use crate::limit;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Who is in it.
#[derive(Default)]
pub(crate) struct Entrance(Arc<Mutex<Guests>>);

#[derive(Default)]
struct Guests {
    /// In the order in which they came. Who finds its sender gone gives up.
    strangers: BTreeMap<u64, oneshot::Sender<()>>,
    members: usize,
    came: u64,
}

impl Guests {
    fn of(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them; it leaves when dropped.
pub(crate) struct Guest {
    guests: Arc<Mutex<Guests>>,
    number: u64,
    member: bool,
}

impl Entrance {
    /// Lets one more in. The other half ends when it must go again. Refused when all who are there are members.
    pub(crate) fn enter(&self) -> Result<(Guest, oneshot::Receiver<()>), Error> {
        let mut guests = Guests::of(&self.0);
        if guests.strangers.len() + guests.members >= limit::UNATTESTED
            && guests.strangers.pop_first().is_none()
        {
            return Err(Error::Busy { limit: limit::UNATTESTED });
        }
        let number = guests.came;
        guests.came += 1;
        let (stays, displaced) = oneshot::channel();
        guests.strangers.insert(number, stays);
        Ok((Guest { guests: Arc::clone(&self.0), number, member: false }, displaced))
    }
}

impl Guest {
    /// It proved a member's key, and is not sent away for others any more.
    pub(crate) fn is_a_member(&mut self) {
        let mut guests = Guests::of(&self.guests);
        guests.strangers.remove(&self.number);
        guests.members += usize::from(!self.member);
        self.member = true;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = Guests::of(&self.guests);
        guests.strangers.remove(&self.number);
        guests.members -= usize::from(self.member);
    }
}
