//! The switch without its sockets: which frame goes where, and when. Pure: time comes from outside.
//!
//! It learns which machine has which address from the frames' sources, and sends to all what it has not learned and
//! what is for a group, as IEEE 802.1D bridges do.

use super::control::{LinkState, Pair, PortState, State};
use super::faults::{Change, Link};
use super::frame::{Frame, Mac, is_group};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Instant;

/// Machines on one switch: as many as have a number.
pub(crate) const PORTS_MAX: usize = 254;
/// Addresses that are remembered: a machine that invents them must not fill the memory.
const LEARNED_MAX: usize = 4096;

/// A machine's place on the switch.
pub(crate) type Port = usize;

/// A frame whose time has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) from: Port,
    pub(crate) to: Port,
    pub(crate) frame: Frame,
}

/// A frame on its way; ordered by the time of its arrival, then by its own.
#[derive(Debug)]
struct UnderWay {
    due: Instant,
    sequence: u64,
    delivery: Delivery,
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for UnderWay {}
impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

/// Ports, addresses, faults, and the frames on their way.
#[derive(Debug)]
pub(crate) struct Fabric {
    seed: u64,
    ports: Vec<(String, bool)>,
    learned: BTreeMap<Mac, Port>,
    links: BTreeMap<(Port, Port), Link>,
    /// Groups that do not reach each other; ports in none of them are one more group.
    partition: Vec<BTreeSet<Port>>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sequence: u64,
}

impl Fabric {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            ports: Vec::new(),
            learned: BTreeMap::new(),
            links: BTreeMap::new(),
            partition: Vec::new(),
            under_way: BinaryHeap::new(),
            sequence: 0,
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<Port> {
        self.ports.iter().position(|(known, _)| known == name)
    }

    /// A new port with links to and from every other; none when there are too many.
    pub(crate) fn add(&mut self, name: &str) -> Option<Port> {
        let new = self.ports.len();
        if new >= PORTS_MAX {
            return None;
        }
        for (port, (other, _)) in self.ports.iter().enumerate() {
            self.links.insert((new, port), Link::new(self.seed, name, other));
            self.links.insert((port, new), Link::new(self.seed, other, name));
        }
        self.ports.push((name.to_owned(), false));
        Some(new)
    }

    /// A machine came or went.
    pub(crate) fn set_attached(&mut self, port: Port, attached: bool) {
        self.ports[port].1 = attached;
        if !attached {
            self.learned.retain(|_, known| *known != port);
        }
    }

    pub(crate) fn is_attached(&self, port: Port) -> bool {
        self.ports[port].1
    }

    /// Takes a frame from a machine.
    pub(crate) fn receive(&mut self, now: Instant, from: Port, frame: &Frame) {
        let source = frame.source();
        if !is_group(source) && (self.learned.len() < LEARNED_MAX || self.learned.contains_key(&source)) {
            self.learned.insert(source, from);
        }
        let destination = frame.destination();
        match self.learned.get(&destination).filter(|_| !is_group(destination)) {
            Some(to) => self.send(now, from, *to, frame),
            None => (0..self.ports.len()).for_each(|to| self.send(now, from, to, frame)),
        }
    }

    fn send(&mut self, now: Instant, from: Port, to: Port, frame: &Frame) {
        let apart = self.apart(from, to);
        // There is no link from a machine to itself.
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        if apart {
            link.counters.cut += 1;
            return;
        }
        for due in link.decide(now, frame.bytes()).into_iter().flatten() {
            let delivery = Delivery { from, to, frame: frame.clone() };
            self.under_way.push(Reverse(UnderWay { due, sequence: self.sequence, delivery }));
            self.sequence += 1;
        }
    }

    /// When the next frame arrives.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(next)| next.due)
    }

    /// The next frame that has arrived by now and that its machine is there to take.
    pub(crate) fn arrived(&mut self, now: Instant) -> Option<Delivery> {
        while self.next_due().is_some_and(|due| due <= now) {
            let Reverse(UnderWay { delivery, .. }) = self.under_way.pop()?;
            let apart = self.apart(delivery.from, delivery.to);
            let attached = self.is_attached(delivery.to);
            let link = self.links.get_mut(&(delivery.from, delivery.to))?;
            link.under_way = link.under_way.saturating_sub(1);
            if apart {
                link.counters.cut += 1;
            } else if !attached {
                link.counters.absent += 1;
            } else {
                link.counters.delivered += 1;
                return Some(delivery);
            }
        }
        None
    }

    /// A frame that [`Fabric::arrived`] gave could not be handed over.
    pub(crate) fn overflowed(&mut self, from: Port, to: Port) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.counters.delivered -= 1;
            link.counters.overflowed += 1;
        }
    }

    fn apart(&self, one: Port, other: Port) -> bool {
        let group = |port| self.partition.iter().position(|group| group.contains(&port));
        group(one) != group(other)
    }

    /// Changes the faults of the links that are meant; nothing when one of the names is not known.
    pub(crate) fn change(&mut self, pairs: &[Pair], change: &Change) -> Result<(), String> {
        change.check()?;
        let mut meant = Vec::new();
        for pair in pairs {
            let from = pair.from.as_deref().map(|name| self.known(name)).transpose()?;
            let to = pair.to.as_deref().map(|name| self.known(name)).transpose()?;
            if from.is_some() && from == to {
                return Err(format!("{} has no link to itself", self.ports[from.unwrap_or_default()].0));
            }
            meant.push((from, to));
        }
        let fits = |asked: &Option<Port>, port: &Port| asked.is_none_or(|asked| asked == *port);
        for ((from, to), link) in &mut self.links {
            if meant.iter().any(|(a, b)| fits(a, from) && fits(b, to)) {
                link.change(change);
            }
        }
        Ok(())
    }

    /// Keeps these groups apart, and the machines in none of them from all.
    pub(crate) fn partition(&mut self, groups: &[Vec<String>]) -> Result<(), String> {
        let mut partition: Vec<BTreeSet<Port>> = Vec::new();
        for group in groups {
            let members = group.iter().map(|name| self.known(name)).collect::<Result<BTreeSet<_>, _>>()?;
            if let Some(twice) = members.iter().find(|port| partition.iter().any(|g| g.contains(port))) {
                return Err(format!("{} is in two groups", self.ports[*twice].0));
            }
            partition.push(members);
        }
        partition.retain(|group| !group.is_empty());
        self.partition = partition;
        Ok(())
    }

    /// Ends all faults and partitions; with a seed, chance begins anew. Counters go on.
    pub(crate) fn reset(&mut self, seed: Option<u64>) {
        self.partition.clear();
        self.seed = seed.unwrap_or(self.seed);
        let ports = &self.ports;
        for ((from, to), link) in &mut self.links {
            match seed {
                Some(seed) => link.begin_anew(seed, &ports[*from].0, &ports[*to].0),
                None => link.clear(),
            }
        }
    }

    fn known(&self, name: &str) -> Result<Port, String> {
        self.find(name).ok_or_else(|| {
            let known: Vec<&str> = self.ports.iter().map(|(name, _)| name.as_str()).collect();
            format!("there is no {name} on this switch; known are: {}", known.join(", "))
        })
    }

    /// Everything about it.
    pub(crate) fn state(&self) -> State {
        let name = |port: Port| self.ports[port].0.clone();
        let mut partition: Vec<Vec<String>> =
            self.partition.iter().map(|group| group.iter().map(|port| name(*port)).collect()).collect();
        if !partition.is_empty() {
            let rest: Vec<String> = (0..self.ports.len())
                .filter(|port| !self.partition.iter().any(|group| group.contains(port)))
                .map(name)
                .collect();
            partition.extend(Some(rest).filter(|rest| !rest.is_empty()));
        }
        State {
            seed: self.seed,
            machines: self
                .ports
                .iter()
                .enumerate()
                .map(|(port, (name, attached))| PortState {
                    name: name.clone(),
                    attached: *attached,
                    macs: self
                        .learned
                        .iter()
                        .filter(|(_, p)| **p == port)
                        .map(|(mac, _)| text(*mac))
                        .collect(),
                })
                .collect(),
            partition,
            links: self
                .links
                .iter()
                .map(|((from, to), link)| LinkState {
                    from: name(*from),
                    to: name(*to),
                    faults: link.faults,
                    counters: link.counters,
                })
                .collect(),
        }
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::faults::Share;
    use std::time::Duration;

    const ALL: Mac = [0xff; 6];

    fn mac(number: u8) -> Mac {
        [0x52, 0x54, 0, 0, 0, number]
    }

    fn frame(from: Mac, to: Mac) -> Frame {
        Frame::of(&[&to[..], &from, &[8, 0], b"hello"].concat()).expect("a frame")
    }

    struct World {
        fabric: Fabric,
        now: Instant,
    }

    /// Four machines, all there.
    fn world() -> World {
        let mut fabric = Fabric::new(1);
        for name in ["p1", "p2", "p3", "p4"] {
            let port = fabric.add(name).expect("there is room");
            fabric.set_attached(port, true);
        }
        World { fabric, now: Instant::now() }
    }

    impl World {
        /// Who gets a frame, within a second.
        fn send(&mut self, from: Port, source: Mac, destination: Mac) -> Vec<Port> {
            self.fabric.receive(self.now, from, &frame(source, destination));
            self.now += Duration::from_secs(1);
            let mut got = Vec::new();
            while let Some(delivery) = self.fabric.arrived(self.now) {
                assert_eq!(delivery.from, from);
                got.push(delivery.to);
            }
            got
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_learned_and_unknown_ones_go_to_all() {
        let mut world = world();
        assert_eq!(world.send(0, mac(1), mac(2)), [1, 2, 3], "not learned yet");
        assert_eq!(world.send(1, mac(2), mac(1)), [0], "learned from the first frame");
        assert_eq!(world.send(0, mac(1), mac(2)), [1]);
        assert_eq!(world.send(0, mac(1), ALL), [1, 2, 3]);
        assert_eq!(world.send(0, mac(1), [0x33, 0x33, 0, 0, 0, 1]), [1, 2, 3], "IPv6 neighbours");
        assert_eq!(world.send(2, mac(1), ALL), [0, 1, 3], "the address moved");
        assert_eq!(world.send(1, mac(2), mac(1)), [2]);
        assert_eq!(world.send(1, mac(2), mac(2)), [] as [Port; 0], "to itself");
        assert_eq!(world.send(3, ALL, mac(9)), [0, 1, 2]);
        assert_eq!(world.send(0, mac(7), ALL), [1, 2, 3], "no group address is learned");
    }

    #[test]
    fn addresses_go_with_their_machine() {
        let mut world = world();
        world.send(1, mac(2), ALL);
        world.fabric.set_attached(1, false);
        assert_eq!(world.send(0, mac(1), mac(2)), [2, 3], "p2 is away");
        assert_eq!(world.fabric.links[&(0, 1)].counters.absent, 1);
        world.fabric.set_attached(1, true);
        assert_eq!(world.send(0, mac(1), mac(2)), [1, 2, 3]);
    }

    #[test]
    fn invented_addresses_do_not_fill_the_memory() {
        let mut world = world();
        for number in 0..u16::MAX {
            let [high, low] = number.to_be_bytes();
            world.fabric.receive(world.now, 0, &frame([2, 0, 0, 0, high, low], mac(1)));
        }
        assert_eq!(world.fabric.learned.len(), LEARNED_MAX);
        assert!(world.fabric.under_way.len() <= 3 * 1024);
        assert!(world.fabric.links[&(0, 1)].counters.overflowed > 60_000);
    }

    #[test]
    fn a_partition_cuts_between_groups_and_what_is_under_way() {
        let mut world = world();
        world.fabric.partition(&[names(&["p1"]), names(&["p2"])]).expect("known names");
        assert_eq!(world.send(0, mac(1), ALL), [] as [Port; 0]);
        assert_eq!(world.send(2, mac(3), ALL), [3], "those in no group are together");
        assert_eq!(world.fabric.state().partition, [names(&["p1"]), names(&["p2"]), names(&["p3", "p4"])]);
        world.fabric.partition(&[]).expect("healed");
        assert_eq!(world.send(0, mac(1), ALL), [1, 2, 3]);
        world.fabric.receive(world.now, 0, &frame(mac(1), ALL));
        world.fabric.partition(&[names(&["p1", "p2"])]).expect("known names");
        assert_eq!(world.fabric.arrived(world.now).map(|d| d.to), Some(1));
        assert_eq!(world.fabric.arrived(world.now), None, "cut before it arrived");
        assert!(world.fabric.partition(&[names(&["p1"]), names(&["p1"])]).is_err());
        assert!(
            world.fabric.partition(&[names(&["p9"])]).expect_err("unknown").contains("known are: p1, p2")
        );
    }

    #[test]
    fn faults_are_those_of_their_direction() {
        let mut world = world();
        let all = Change::loss(Share::ALL);
        world.fabric.change(&[Pair::one_way("p1", "p2")], &all).expect("known");
        assert_eq!(world.send(0, mac(1), ALL), [2, 3]);
        assert_eq!(world.send(1, mac(2), ALL), [0, 2, 3]);
        world.fabric.change(&[Pair::from("p3")], &all).expect("known");
        assert_eq!(world.send(2, mac(3), ALL), [] as [Port; 0]);
        assert_eq!(world.send(3, mac(4), ALL), [0, 1, 2]);
        world.fabric.change(&[Pair::ALL], &all).expect("known");
        assert_eq!(world.send(3, mac(4), ALL), [] as [Port; 0]);
        world.fabric.reset(None);
        assert_eq!(world.send(0, mac(1), ALL), [1, 2, 3]);
        assert!(world.fabric.change(&[Pair::one_way("p1", "p1")], &all).is_err());
        let wrong = [Pair::ALL, Pair::from("p9")];
        assert!(world.fabric.change(&wrong, &all).is_err());
        assert_eq!(world.send(0, mac(1), ALL), [1, 2, 3], "a refused change changes nothing");
    }

    #[test]
    fn frames_of_one_moment_arrive_in_the_order_they_were_sent() {
        let mut world = world();
        for number in 0..100 {
            world.fabric.receive(world.now, 0, &frame(mac(1), [3, 0, 0, 0, 0, number]));
        }
        let mut order = Vec::new();
        while let Some(delivery) = world.fabric.arrived(world.now) {
            if delivery.to == 1 {
                order.push(delivery.frame.destination()[5]);
            }
        }
        assert_eq!(order, (0..100).collect::<Vec<u8>>());
    }
}
