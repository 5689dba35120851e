//! The switch with its sockets: endpoints that do as QEMU does, QEMU itself, and the program around it.

use pillar_qemu::accel::Accel;
use pillar_qemu::switch::{Change, Control, Pair, Share};
use pillar_qemu::{Builder, DiskMode, Error, Firmware, Lab, Machine, Record, Switch, TpmKind};
use pillar_tools::Tools;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Bounds a hang; it times nothing.
const DEADLINE: Duration = Duration::from_secs(60);
/// What nobody sends is waited for so long.
const SILENCE: Duration = Duration::from_millis(100);
const ALL: u8 = 0xff;

/// A machine as the switch sees it.
struct Endpoint {
    stream: UnixStream,
    number: u8,
}

impl Endpoint {
    fn new(switch: &Switch, name: &str) -> Self {
        let stream = UnixStream::connect(switch.socket(name)).expect("the switch listens");
        let number = name.strip_prefix('p').and_then(|n| n.parse().ok()).expect("a name with a number");
        Self { stream, number }
    }

    /// Sends a text to the machine of that number.
    fn send(&mut self, to: u8, text: &str) {
        let destination = if to == ALL { [ALL; 6] } else { [2, 0, 0, 0, 0, to] };
        let frame =
            [&destination[..], &[2, 0, 0, 0, 0, self.number], &[0x88, 0xb5], text.as_bytes()].concat();
        let length = u32::try_from(frame.len()).expect("a short text").to_be_bytes();
        self.stream.write_all(&[&length[..], &frame].concat()).expect("the switch takes it");
    }

    /// The next frame.
    fn frame(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(patience)).expect("a time");
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("a length")];
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a time");
        self.stream.read_exact(&mut frame).expect("the rest of a frame");
        Some(frame)
    }

    fn text(&mut self, patience: Duration) -> Option<String> {
        self.frame(patience).map(|frame| String::from_utf8_lossy(&frame[14..]).into_owned())
    }

    /// Everything until this text comes.
    fn until(&mut self, last: &str) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match self.text(DEADLINE).expect("more frames") {
                text if text == last => return texts,
                text => texts.push(text),
            }
        }
    }
}

struct World {
    switch: Switch,
    control: Control,
    machines: Vec<Endpoint>,
    /// Goes last.
    _dir: tempfile::TempDir,
}

const NAMES: [&str; 3] = ["p1", "p2", "p3"];

fn world() -> World {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let switch = Switch::start(dir.path(), &NAMES, 42).expect("it starts");
    let machines: Vec<Endpoint> = NAMES.iter().map(|name| Endpoint::new(&switch, name)).collect();
    let mut control = switch.control().expect("it answers");
    control.wait_attached(&NAMES, DEADLINE).expect("they are connected");
    World { switch, control, machines, _dir: dir }
}

impl World {
    /// p1 sends numbered frames to p2, then faults end and a last one follows; what p2 got before it.
    fn numbered(&mut self, count: usize) -> Vec<usize> {
        // So that addresses are learned: from here on p3 gets nothing of it.
        self.machines[1].send(1, "I am p2");
        assert_eq!(self.machines[0].text(DEADLINE).as_deref(), Some("I am p2"));
        for number in 0..count {
            self.machines[0].send(2, &number.to_string());
        }
        // Orders overtake frames that the switch has not read: it has them all when they are counted.
        while self.decided() < count as u64 {
            std::thread::yield_now();
        }
        self.control.reset().expect("known");
        self.machines[0].send(2, "last");
        let mut got = self.machines[1].until("last");
        // Frames that were held back are behind it.
        got.extend(std::iter::from_fn(|| self.machines[1].text(SILENCE)));
        got.iter().map(|text| text.parse().expect("a number")).collect()
    }

    fn decided(&mut self) -> u64 {
        let state = self.control.show().expect("it answers");
        let counters = state.link("p1", "p2").expect("a link").counters;
        counters.delivered + counters.lost + counters.cut + counters.overflowed - counters.duplicated
    }
}

#[test]
fn frames_reach_those_they_are_for() {
    let mut world = world();
    let [p1, p2, p3] = &mut world.machines[..] else { panic!("three machines") };
    p1.send(ALL, "who is p2?");
    assert_eq!(p2.text(DEADLINE).as_deref(), Some("who is p2?"));
    assert_eq!(p3.text(DEADLINE).as_deref(), Some("who is p2?"));
    p2.send(1, "I am");
    assert_eq!(p1.text(DEADLINE).as_deref(), Some("I am"));
    p1.send(2, "to p2 alone");
    assert_eq!(p2.text(DEADLINE).as_deref(), Some("to p2 alone"));
    assert_eq!(p3.text(SILENCE), None);
    let state = world.control.show().expect("it answers");
    assert_eq!(state.seed, 42);
    assert_eq!(state.machines[0].macs, ["02:00:00:00:00:01"]);
    assert_eq!(state.link("p1", "p2").expect("a link").counters.delivered, 2);
}

#[test]
fn a_partition_drops_and_healing_ends_it() {
    let mut world = world();
    world.control.partition(&[&["p1", "p2"], &["p3"]]).expect("known");
    world.machines[0].send(ALL, "one");
    assert_eq!(world.machines[1].text(DEADLINE).as_deref(), Some("one"));
    world.machines[2].send(ALL, "two");
    assert_eq!(world.machines[0].text(SILENCE), None);
    let state = world.control.heal().expect("known");
    assert_eq!(state.link("p1", "p3").expect("a link").counters.cut, 1);
    world.machines[0].send(ALL, "three");
    assert_eq!(world.machines[2].text(DEADLINE).as_deref(), Some("three"), "\"one\" never came");
}

#[test]
fn loss_is_the_share_that_was_asked_for_and_the_same_for_the_same_seed() {
    let run = || {
        let mut world = world();
        world.control.fault(Pair::both_ways("p2", "p3"), Change::loss(Share::ALL)).expect("known");
        world.control.fault([Pair::one_way("p1", "p2")], Change::loss(Share::percent(20))).expect("known");
        world.numbered(1000)
    };
    let got = run();
    // 800 are expected; five times the standard deviation of 12.6 on each side.
    assert!((736..=864).contains(&got.len()), "{} of 1000 came", got.len());
    assert!(got.is_sorted());
    assert_eq!(got, run());
}

#[test]
fn duplicates_come_twice_and_reordered_frames_late() {
    let mut world = world();
    world.control.fault([Pair::ALL], Change::duplicate(Share::percent(50))).expect("known");
    let got = world.numbered(500);
    let twice = got.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert_eq!(got.len(), 500 + twice);
    assert!((190..310).contains(&twice), "{twice} of 500 came twice");

    let mut world = self::world();
    world.control.fault([Pair::ALL], Change::reorder(Share::percent(10))).expect("known");
    let mut got = world.numbered(500);
    assert!(!got.is_sorted(), "nothing was overtaken");
    got.sort_unstable();
    assert!(got.into_iter().eq(0..500), "nothing is lost by it");
}

#[test]
fn delay_is_there_and_holds_one_direction_alone() {
    let mut world = world();
    let slow = Change::delay(Duration::from_millis(200), Duration::from_millis(20));
    world.control.fault([Pair::one_way("p1", "p2")], slow).expect("known");
    let begun = Instant::now();
    world.machines[0].send(ALL, "slow to p2");
    assert_eq!(world.machines[2].text(DEADLINE).as_deref(), Some("slow to p2"));
    world.machines[1].send(1, "back");
    assert_eq!(world.machines[0].text(DEADLINE).as_deref(), Some("back"));
    let others = begun.elapsed();
    assert_eq!(world.machines[1].text(DEADLINE).as_deref(), Some("slow to p2"));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(180), "{took:?}");
    assert!(others < took && took < Duration::from_secs(10), "{others:?} and {took:?}");
}

#[test]
fn machines_go_and_come_again() {
    let mut world = world();
    world.machines.remove(1);
    world.machines[0].send(ALL, "p2 is away");
    assert_eq!(world.machines[1].text(DEADLINE).as_deref(), Some("p2 is away"));
    let mut p2 = Endpoint::new(&world.switch, "p2");
    // The new connection is there when it says something; the order alone might be about the old one.
    p2.send(ALL, "p2 is back");
    assert_eq!(world.machines[0].text(DEADLINE).as_deref(), Some("p2 is back"));
    world.machines[0].send(2, "welcome");
    assert_eq!(p2.text(DEADLINE).as_deref(), Some("welcome"));

    // A connection that sends nonsense is cut; the same machine may connect again.
    p2.stream.write_all(&[0xff; 64]).expect("the switch reads it");
    assert_eq!(p2.frame(DEADLINE), None);
    let mut p2 = Endpoint::new(&world.switch, "p2");
    p2.send(ALL, "p2 again");
    assert_eq!(world.machines[0].text(DEADLINE).as_deref(), Some("p2 again"));

    world.control.add("p4").expect("there is room");
    world.control.add("p4").expect("it has its place already");
    let late = world.control.wait_attached(&["p4"], Duration::ZERO).expect_err("nobody connected");
    assert!(late.to_string().contains("not all machines came"), "{late}");
    let mut p4 = Endpoint::new(&world.switch, "p4");
    p4.send(1, "I am new");
    assert_eq!(world.machines[0].text(DEADLINE).as_deref(), Some("I am new"));
}

#[test]
fn a_machine_that_does_not_read_holds_nobody_up() {
    let mut world = world();
    let long = "x".repeat(1400);
    // Far more than the socket's buffer and the queue hold.
    for _ in 0..5000 {
        world.machines[0].send(ALL, &long);
        assert_eq!(world.machines[2].text(DEADLINE).map(|text| text.len()), Some(1400));
    }
    let state = world.control.show().expect("it answers");
    let counters = state.link("p1", "p2").expect("a link").counters;
    assert_eq!(counters.delivered + counters.overflowed, 5000);
    assert!(counters.overflowed > 0, "{counters:?}");
}

#[test]
fn what_is_no_order_is_refused_and_a_second_switch_too() {
    let mut world = world();
    let unknown = world.control.fault([Pair::from("p9")], Change::loss(Share::ALL)).expect_err("no p9");
    assert!(unknown.to_string().contains("there is no p9"), "{unknown}");
    let name = world.control.add("../p9").expect_err("no name");
    assert!(name.to_string().contains("not a machine name"), "{name}");
    let dir = world.switch.socket("p1").parent().expect("a folder").to_owned();
    let mut raw = UnixStream::connect(dir.join("control.sock")).expect("it listens");
    raw.write_all(b"dance\n{\"do\":\"show\"}\n").expect("written");
    raw.shutdown(std::net::Shutdown::Write).expect("no more");
    let mut answers = String::new();
    raw.read_to_string(&mut answers).expect("two lines");
    let answers: Vec<Value> = answers.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert!(answers[0]["refused"].as_str().is_some_and(|text| text.contains("not an order")));
    assert_eq!(answers[1]["state"]["seed"], 42);
    assert!(matches!(Switch::start(&dir, &NAMES, 1), Err(Error::Busy { .. })));
    drop(world.switch);
    assert!(Control::find(&dir).expect("asked").is_none());
    drop(Switch::start(&dir, &NAMES, 1).expect("the folder is free again"));
}

/// Machines need the tools tree; without it there is nothing to test, and the log says so.
fn ready() -> bool {
    let there = Tools::open().is_ok();
    if !there {
        eprintln!("skipped: no tools tree; `./just tools` builds it");
    }
    there
}

/// A machine whose guest does nothing: its card is all that is of interest.
fn idle(run_dir: &Path, lab: &Lab, name: &str) -> Builder {
    let disk = run_dir.join("empty.raw");
    fs::write(&disk, vec![0; 1024 * 1024]).expect("the folder is ours");
    Machine::builder(name)
        .dir(run_dir.join(name))
        .disk(disk, DiskMode::Copy)
        .firmware(Firmware::Bios)
        .tpm(TpmKind::None)
        .memory_mib(64)
        .accel(Accel::Tcg)
        .lab(&lab.seat(name).expect("it joined"))
}

/// QEMU has the machine's card say where it is (RARP), as after a migration.
fn announce(machine: &Machine) {
    let once = json!({ "initial": 1, "max": 1, "rounds": 1, "step": 1 });
    machine.qmp().execute("announce-self", &once).expect("QEMU knows it");
}

#[test]
fn cards_of_real_machines_are_on_the_switch_and_find_it_again() {
    if !ready() {
        return;
    }
    let run_dir = tempfile::tempdir().expect("a temporary folder");
    let mut lab = Lab::make(&Lab::dir_in(run_dir.path()), Some(1)).expect("a lab");
    lab.join(&["p1", "p2", "p3"]).expect("joined");
    // The switch comes after the machines: they run without it.
    let machines = ["p1", "p2"].map(|name| idle(run_dir.path(), &lab, name).start().expect("it starts"));
    let facts = machines[1].record().lab.clone().expect("it is in a lab");
    assert_eq!((facts.number, facts.peer.to_string().as_str()), (2, "10.77.0.2:7444"));
    let hear = || {
        let switch = lab.switch().expect("it starts");
        let mut control = switch.control().expect("it answers");
        control.wait_attached(&["p1", "p2"], DEADLINE).expect("QEMU connects by itself");
        // A card without a driver takes nothing; QEMU then reads no further until it does, and would not see the end.
        control.fault(Pair::both_ways("p1", "p2"), Change::loss(Share::ALL)).expect("known");
        let mut third = Endpoint::new(&switch, "p3");
        control.wait_attached(&["p3"], DEADLINE).expect("connected");
        for (machine, number) in machines.iter().zip(1..) {
            announce(machine);
            let frame = third.frame(DEADLINE).expect("the card says where it is");
            assert_eq!(frame[..6], [ALL; 6]);
            assert_eq!(frame[6..12], [0x52, 0x54, 0, 0x70, 0x6c, number]);
        }
    };
    hear();
    // The first switch has ended; another one is found as well.
    hear();
}

fn pillar_qemu(run_dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pillar-qemu"))
        .args(words)
        .current_dir(run_dir)
        .env("PILLAR_RUN_DIR", run_dir)
        .env("PILLAR_ACCEL", "tcg")
        .output()
        .expect("the program starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn where_there_is_no_lab_the_program_says_what_makes_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = pillar_qemu(dir.path(), &["lab", "show"]);
    assert_eq!(output.status.code(), Some(1));
    let text = errors(&output);
    assert!(text.contains("error: there is no lab") && text.contains("hint: `./just up 4`"), "{text}");
    let output = pillar_qemu(dir.path(), &["lab", "delay", "--help"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("lab delay WHERE TIME"));
}

#[test]
fn the_switch_of_up_serves_the_labs_commands_and_ends_with_the_last_machine() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut lab = Lab::make(&Lab::dir_in(dir.path()), Some(9)).expect("a lab");
    lab.join(&["p1", "p2"]).expect("joined");
    // As `up` leaves them; what runs inside is of no interest here.
    for name in ["p1", "p2"] {
        drop(idle(dir.path(), &lab, name).detached().start().expect("it starts").release());
    }
    let run = |words: &[&str]| {
        let output = pillar_qemu(dir.path(), words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", errors(&output));
        output
    };
    let started = run(&["up", "2", "--image", "empty.raw"]);
    assert!(errors(&started).contains("lab: the switch runs; its chance begins with 9"));
    assert!(String::from_utf8_lossy(&started.stdout).contains("10.77.0.2"));
    assert!(
        !errors(&run(&["up", "2", "--image", "empty.raw"])).contains("the switch runs"),
        "once is enough"
    );
    Control::connect(lab.dir())
        .and_then(|mut control| control.wait_attached(&["p1", "p2"], DEADLINE))
        .expect("QEMU connects by itself");

    fs::write(
        dir.path().join("faults"),
        "delay p1:p2 200ms --jitter 20ms\nwait 1ms # a while\nloss p1 p2 20%\n",
    )
    .expect("the folder is ours");
    run(&["lab", "script", "faults"]);
    run(&["lab", "partition", "p1", "p2"]);
    let shown = String::from_utf8_lossy(&run(&["lab", "show"]).stdout).into_owned();
    for line in [
        "seed 9",
        "p1          10.77.0.1:7444      connected",
        "partition   p1 | p2",
        "p1 → p2: delay 200ms ± 20ms, loss 20%",
        "p2 → p1: loss 20%",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    let json: Value = serde_json::from_slice(&run(&["lab", "reset", "-o", "json"]).stdout).expect("JSON");
    assert_eq!(json["machines"][1]["peer"], "10.77.0.2:7444");
    assert_eq!((&json["partition"], &json["links"][0]["faults"]["loss_ppm"]), (&json!([]), &json!(0)));
    let unknown = pillar_qemu(dir.path(), &["lab", "loss", "p1", "p7", "20%"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        errors(&unknown).contains("there is no p7 on this switch; known are: p1, p2"),
        "{}",
        errors(&unknown)
    );

    run(&["down", "p1"]);
    assert!(Control::find(lab.dir()).expect("asked").is_some(), "p2 still runs");
    assert!(errors(&run(&["down"])).contains("lab: the switch ended"));
    assert!(Control::find(lab.dir()).expect("asked").is_none());
    let record = Record::read(&dir.path().join("p2")).expect("readable").expect("written at its start");
    assert!(!record.is_running());
}

#[test]
fn machines_that_do_not_come_up_leave_no_switch_behind_and_keep_their_place() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("empty.raw"), vec![0; 1024 * 1024]).expect("the folder is ours");
    let up = |words: &[&str]| {
        let usual = ["--image", "empty.raw", "--no-tpm", "--no-secure-boot", "--memory", "256"];
        let output = pillar_qemu(dir.path(), &[&["up"], words, &usual].concat());
        assert_eq!(output.status.code(), Some(1));
        errors(&output)
    };
    let text = up(&["2", "--lab-seed", "5"]);
    assert!(text.contains("lab: the switch runs; its chance begins with 5"), "{text}");
    assert!(text.contains("found nothing to boot"), "{text}");
    assert!(text.contains("lab: the switch ended with the last machine"), "{text}");
    let lab = Lab::open(&Lab::dir_in(dir.path())).expect("readable").expect("made by up");
    assert!(Control::find(lab.dir()).expect("asked").is_none());
    let settings = |name: &str| fs::read_to_string(dir.path().join(name).join("node.json")).expect("written");
    let second = settings("p2");
    assert!(second.contains("10.77.0.2/24") && second.contains("p1=10.77.0.1:7444"), "{second}");
    let command = fs::read_to_string(dir.path().join("p2/command.txt")).expect("written");
    assert!(command.contains("netdev=lab,mac=52:54:00:70:6c:02"), "{command}");

    // Another one joins; those that were there keep what they are told.
    assert!(up(&["p5"]).contains("its chance begins with 5"));
    assert!(settings("p5").contains("p5=10.77.0.3:7444"), "{}", settings("p5"));
    up(&["p2"]);
    assert_eq!(settings("p2"), second);
    // Without the lab a machine is as it ever was.
    let alone = up(&["p2", "--alone"]);
    assert!(!alone.contains("lab:"), "{alone}");
    assert!(!settings("p2").contains("10.77"), "{}", settings("p2"));
}
