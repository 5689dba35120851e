//! A user-space Ethernet switch for machines of one host: each machine has a unix socket of its own in the switch's
//! folder, to which its QEMU connects (`-netdev stream`). No address, no bridge and no privilege on the host.
//!
//! ```text
//!  QEMU ── p1.port ─► connection ─┐ events              ┌─► connection ─► p2.port ── QEMU
//!  QEMU ── p2.port ─► connection ─┼────────► Hub ───────┤
//!  CLI ─ control.sock ─► dialogue ┘    (owns Fabric)    └─► connection ─► p1.port ── QEMU
//! ```
//! Everything is decided in `fabric` and `faults`, which know neither sockets nor the time. Machines may come, go and
//! come again; all queues are bounded, and what does not fit is dropped and counted, as on any network.

pub(crate) mod control;
mod fabric;
mod faults;
mod frame;

pub use control::{Control, LinkState, Order, Pair, PortState, State};
pub use faults::{Change, Counters, Faults, Share};

use crate::error::{Error, Result, file_error};
use crate::machine::{check_name, lock};
use control::{Answer, CONTROL_SOCKET, ORDER_MAX_BYTES, listen};
use fabric::{Fabric, Port};
use frame::Frame;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Frames and orders that wait for the hub; a connection that finds it full waits, and so does its machine.
const EVENTS: usize = 256;
/// Frames that wait for one machine to take them: what a network card's ring holds.
const OUTBOX: usize = 1024;
/// After a caller could not be taken.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Orders that wait for machines to come.
const WAITERS_MAX: usize = 64;

/// The socket of a machine in the switch's folder.
pub(crate) fn socket_name(machine: &str) -> String {
    format!("{machine}.port")
}

/// A switch in this process; it ends when dropped.
#[derive(Debug)]
pub struct Switch {
    dir: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts one with its sockets in `dir`, where no other may run, and places for these machines.
    pub fn start(dir: &Path, machines: &[&str], seed: u64) -> Result<Self> {
        let prepared = Prepared::new(dir, machines, seed)?;
        let thread = std::thread::spawn(move || prepared.run());
        Ok(Self { dir: dir.to_owned(), thread: Some(thread) })
    }

    /// A connection to its control socket.
    pub fn control(&self) -> Result<Control> {
        Control::connect(&self.dir)
    }

    /// The socket to which a machine's QEMU connects.
    #[must_use]
    pub fn socket(&self, machine: &str) -> PathBuf {
        self.dir.join(socket_name(machine))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Somebody else may have ended it already.
        if let Ok(Some(control)) = Control::find(&self.dir) {
            control.stop();
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the switch was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Runs a switch in this thread until it is told to stop; `ready` is called when all sockets listen.
pub fn run(dir: &Path, machines: &[&str], seed: u64, ready: impl FnOnce()) -> Result<()> {
    let prepared = Prepared::new(dir, machines, seed)?;
    ready();
    prepared.run();
    Ok(())
}

/// A switch whose sockets listen: who connects from now on is served.
struct Prepared {
    runtime: tokio::runtime::Runtime,
    hub: Hub,
    control: std::os::unix::net::UnixListener,
    /// Held while the switch runs.
    _lock: fs::File,
}

impl Prepared {
    fn new(dir: &Path, machines: &[&str], seed: u64) -> Result<Self> {
        fs::create_dir_all(dir).map_err(file_error("create", dir))?;
        let lock = lock("switch", dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(file_error("serve", dir))?;
        let (events, inbox) = mpsc::channel(EVENTS);
        let mut hub = Hub {
            dir: dir.to_owned(),
            fabric: Fabric::new(seed),
            cables: BTreeMap::new(),
            waiters: Vec::new(),
            events,
            inbox,
        };
        let inside = runtime.enter();
        for machine in machines {
            hub.add(machine)?;
        }
        drop(inside);
        let control = listen(dir, CONTROL_SOCKET)?;
        Ok(Self { runtime, hub, control, _lock: lock })
    }

    fn run(self) {
        let Self { runtime, hub, control, _lock } = self;
        runtime.block_on(async move {
            let Ok(control) = UnixListener::from_std(control) else { return };
            tokio::spawn(serve_control(control, hub.events.clone()));
            hub.run().await;
        });
        // Connections end with the runtime; the answer to the last order may still be on its way.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// What the hub is told.
enum Event {
    /// A machine's QEMU has connected; its frames go into the outbox.
    Attached(Port, Cable),
    /// A frame from the machine with that cable.
    Frame(Port, u64, Frame),
    /// That cable is gone.
    Detached(Port, u64),
    Order(Order, oneshot::Sender<Answer>),
}

/// A connection to a machine.
struct Cable {
    /// No two have the same: what an old connection says of a machine that came again is not taken.
    number: u64,
    outbox: mpsc::Sender<Frame>,
}

/// Who waits for machines to come.
struct Waiter {
    ports: Vec<Port>,
    reply: oneshot::Sender<Answer>,
}

/// The one place that sees every frame and every order.
struct Hub {
    dir: PathBuf,
    fabric: Fabric,
    cables: BTreeMap<Port, Cable>,
    waiters: Vec<Waiter>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
}

impl Hub {
    async fn run(mut self) {
        loop {
            let next = self.fabric.next_due();
            let at = tokio::time::Instant::from_std(next.unwrap_or_else(Instant::now));
            tokio::select! {
                event = self.inbox.recv() => {
                    let Some(event) = event else { return };
                    if self.handle(event).is_break() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(at), if next.is_some() => {}
            }
            self.deliver();
        }
    }

    fn handle(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            // An older connection may tell of itself after a newer one.
            Event::Attached(port, cable)
                if self.cables.get(&port).is_none_or(|c| c.number < cable.number) =>
            {
                self.cables.insert(port, cable);
                self.fabric.set_attached(port, true);
                self.wake();
            }
            Event::Frame(port, number, frame) if self.is_plugged(port, number) => {
                self.fabric.receive(Instant::now(), port, &frame);
            }
            Event::Detached(port, number) if self.is_plugged(port, number) => {
                self.cables.remove(&port);
                self.fabric.set_attached(port, false);
            }
            Event::Attached(..) | Event::Frame(..) | Event::Detached(..) => {}
            Event::Order(order, reply) => return self.obey(order, reply),
        }
        ControlFlow::Continue(())
    }

    fn is_plugged(&self, port: Port, number: u64) -> bool {
        self.cables.get(&port).is_some_and(|cable| cable.number == number)
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(delivery) = self.fabric.arrived(now) {
            let sent = self.cables.get(&delivery.to).map(|cable| cable.outbox.try_send(delivery.frame));
            if !matches!(sent, Some(Ok(()))) {
                self.fabric.overflowed(delivery.from, delivery.to);
            }
        }
    }

    fn obey(&mut self, order: Order, reply: oneshot::Sender<Answer>) -> ControlFlow<()> {
        let stop = order == Order::Stop;
        let done = match order {
            Order::Show | Order::Stop => Ok(()),
            Order::Add { machine } => self.add(&machine).map_err(|e| e.to_string()),
            Order::Fault { links, change } => self.fabric.change(&links, &change),
            Order::Partition { groups } => self.fabric.partition(&groups),
            Order::Reset { seed } => {
                self.fabric.reset(seed);
                Ok(())
            }
            Order::Await { machines, .. } => return self.wait_for(&machines, reply),
        };
        self.answer(reply, done);
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn answer(&self, reply: oneshot::Sender<Answer>, done: std::result::Result<(), String>) {
        let answer = match done {
            Ok(()) => Answer::State(self.fabric.state()),
            Err(reason) => Answer::Refused(reason),
        };
        // Who asked may be gone.
        let _ = reply.send(answer);
    }

    fn wait_for(&mut self, machines: &[String], reply: oneshot::Sender<Answer>) -> ControlFlow<()> {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        let ports: Option<Vec<Port>> = machines.iter().map(|name| self.fabric.find(name)).collect();
        match ports {
            Some(ports) if self.waiters.len() < WAITERS_MAX => self.waiters.push(Waiter { ports, reply }),
            Some(_) => self.answer(reply, Err(format!("more than {WAITERS_MAX} wait already"))),
            None => self.answer(reply, Err("one of the machines has no place on this switch".to_owned())),
        }
        self.wake();
        ControlFlow::Continue(())
    }

    /// Answers those whose machines have all come.
    fn wake(&mut self) {
        let (come, waiting) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.ports.iter().all(|port| self.fabric.is_attached(*port)));
        self.waiters = waiting;
        for waiter in Vec::from_iter::<Vec<Waiter>>(come) {
            self.answer(waiter.reply, Ok(()));
        }
    }

    /// Makes a place for a machine and listens for its QEMU.
    fn add(&mut self, machine: &str) -> Result<()> {
        check_name(machine)?;
        if self.fabric.find(machine).is_some() {
            return Ok(());
        }
        let name = socket_name(machine);
        let listener = listen(&self.dir, &name)?;
        let listener =
            UnixListener::from_std(listener).map_err(file_error("listen on", &self.dir.join(name)))?;
        let port = self.fabric.add(machine).ok_or(Error::LabFull(fabric::PORTS_MAX))?;
        tokio::spawn(serve_port(listener, port, self.events.clone()));
        Ok(())
    }
}

/// The next caller. What keeps one from being taken (no descriptor is free) passes.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Takes the connections of one machine, one after the other.
async fn serve_port(listener: UnixListener, port: Port, events: mpsc::Sender<Event>) {
    let mut number = 0;
    loop {
        let stream = accept(&listener).await;
        number += 1;
        tokio::spawn(serve_machine(stream, port, number, events.clone()));
    }
}

async fn serve_machine(stream: UnixStream, port: Port, number: u64, events: mpsc::Sender<Event>) {
    let (reading, mut writing) = stream.into_split();
    let (outbox, mut frames) = mpsc::channel::<Frame>(OUTBOX);
    if events.send(Event::Attached(port, Cable { number, outbox })).await.is_err() {
        return;
    }
    // Ends when the hub forgets the cable, or when the machine is gone.
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if writing.write_all(frame.wire()).await.is_err() {
                return;
            }
        }
    });
    let mut reading = BufReader::new(reading);
    // What is no frame ends the connection as its end does: QEMU connects again.
    while let Ok(Some(frame)) = Frame::read(&mut reading).await {
        if events.send(Event::Frame(port, number, frame)).await.is_err() {
            return;
        }
    }
    // The hub may have ended; then nobody needs to know.
    let _ = events.send(Event::Detached(port, number)).await;
}

async fn serve_control(listener: UnixListener, events: mpsc::Sender<Event>) {
    loop {
        let stream = accept(&listener).await;
        let events = events.clone();
        // A caller who goes away in the middle is no matter.
        tokio::spawn(async move { converse(stream, events).await.ok() });
    }
}

/// One line, one answer, until the caller hangs up.
async fn converse(mut stream: UnixStream, events: mpsc::Sender<Event>) -> io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::new(reading);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reading).take(ORDER_MAX_BYTES).read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(order) => ask(order, &events).await,
            Err(error) => Answer::Refused(format!("not an order: {error}")),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writing.write_all(&text).await?;
    }
}

async fn ask(order: Order, events: &mpsc::Sender<Event>) -> Answer {
    let patience = match &order {
        Order::Await { within_ms, .. } => Duration::from_millis(*within_ms),
        _ => Duration::MAX,
    };
    let (reply, answer) = oneshot::channel();
    if events.send(Event::Order(order, reply)).await.is_err() {
        return Answer::Refused("the switch ends".to_owned());
    }
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Answer::Refused("the switch ends".to_owned()),
        Err(_) => Answer::Refused(format!("not all machines came within {} s", patience.as_secs_f64())),
    }
}
