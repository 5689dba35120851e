//! Against servers that are ours, on real sockets: DHCP between two network namespaces, SNTP on loopback.
//!
//! The DHCP test runs this program again inside each namespace, as client and as server, so that nothing in the program
//! under test knows of namespaces.

use pillar_network::cards::Cards;
use pillar_network::frame;
use pillar_network::names::Names;
use pillar_network::options::Options;
use pillar_network::{ntp, time};
use pillar_os::{Card, Interface, PacketSocket};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const ROLE: &str = "PILLAR_NETWORK_TEST_ROLE";
const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The shortest lease that clients take.
const LEASE_S: u32 = 10;
/// Requests that the server acknowledges before it falls silent: the first, and one renewal.
const ACKNOWLEDGED: u32 = 2;

/// Two namespaces with a cable between them; gone when dropped.
struct Wire {
    name: String,
}

impl Wire {
    /// None when this host does not let us, and why.
    fn new() -> Result<Wire, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root for network namespaces".to_owned());
        }
        let wire = Wire { name: format!("pn{}", std::process::id()) };
        let (client, server) = (wire.namespace("c"), wire.namespace("s"));
        ip(&["netns", "add", &client])?;
        ip(&["netns", "add", &server])?;
        ip(&[
            "-n", &client, "link", "add", "card", "type", "veth", "peer", "name", "card", "netns", &server,
        ])?;
        ip(&["-n", &server, "addr", "add", &format!("{SERVER_ADDRESS}/24"), "dev", "card"])?;
        ip(&["-n", &server, "link", "set", "card", "up"])?;
        Ok(wire)
    }

    fn namespace(&self, end: &str) -> String {
        format!("{}{end}", self.name)
    }

    /// This test program again, at one end of the wire.
    fn run(&self, end: &str) -> Killed {
        let program = std::env::current_exe().expect("this program");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(end)])
            .arg(program)
            .args(["--exact", "one_end_of_the_wire", "--nocapture"])
            .env(ROLE, end)
            .stdout(Stdio::inherit())
            .spawn();
        Killed(child.expect("ip runs"))
    }

    fn client(&self, words: &[&str]) -> String {
        let namespace = self.namespace("c");
        ip(&[&["-n", &namespace], words].concat()).expect("ip")
    }

    /// Waits until what `ip` shows is as it should be.
    #[track_caller]
    fn until(&self, words: &[&str], what: &str, good: impl Fn(&str) -> bool) -> Duration {
        let began = Instant::now();
        loop {
            let shown = self.client(words);
            if good(&shown) {
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(40), "{what}: {shown}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in ["c", "s"] {
            let _ = ip(&["netns", "del", &self.namespace(end)]);
        }
    }
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(words: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(words).output().map_err(|error| format!("needs `ip`: {error}"))?;
    if !output.status.success() {
        return Err(format!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Not a test by itself: what runs inside the namespaces.
#[test]
fn one_end_of_the_wire() {
    match std::env::var(ROLE).as_deref() {
        Ok("c") => be_the_client(),
        Ok("s") => be_the_server(),
        _ => {}
    }
}

fn be_the_client() {
    let line = ["--dhcp", "all", "--name", "p1"].map(str::to_owned);
    let (sender, _receiver) = mpsc::channel();
    let find = || Card::named("card").into_iter().collect();
    let folder = tempfile::tempdir().expect("a folder");
    let names = Names::at(folder.path().join("resolv.conf"), &[]);
    let options = Options::parse(line).expect("good words");
    let cards = Cards::new(&options, names, find, sender).expect("sockets");
    match cards.run() {
        Ok(never) => match never {},
        Err(error) => panic!("{error}"),
    }
}

/// A server with one address, which answers so many requests, then none until a client discovers again.
fn be_the_server() {
    let interface = Interface::named("card").expect("a card");
    let socket = PacketSocket::open(interface).expect("a packet socket");
    // Renewals go to our address; without a socket there the kernel would say that nobody listens.
    let _port = UdpSocket::bind((SERVER_ADDRESS, 67)).expect("port 67");
    let mut buffer = [0; 2000];
    let mut acknowledged = 0;
    loop {
        let Ok(Some(packet)) = socket.receive(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let Some((from, message)) = frame::read(packet, 68, 67) else { continue };
        let kind = message[242];
        println!("server: a message of type {kind} from {from}");
        let answer = match kind {
            1 => {
                acknowledged = 0;
                answer(message, 2)
            }
            _ if acknowledged < ACKNOWLEDGED => {
                acknowledged += 1;
                answer(message, 5)
            }
            _ => continue,
        };
        let to = if from.is_unspecified() { Ipv4Addr::BROADCAST } else { from };
        let packet = frame::write(SocketAddrV4::new(SERVER_ADDRESS, 67), SocketAddrV4::new(to, 68), &answer);
        socket.broadcast(&packet).expect("sent");
    }
}

fn answer(request: &[u8], kind: u8) -> Vec<u8> {
    let mut message = request[..240].to_vec();
    message[0] = 2;
    message[16..20].copy_from_slice(&[10, 77, 0, 5]);
    message.extend([53, 1, kind]);
    message.extend([54, 4, 10, 77, 0, 1]);
    message.extend([1, 4, 255, 255, 255, 0]);
    message.extend([3, 4, 10, 77, 0, 1]);
    message.extend([51, 4]);
    message.extend(LEASE_S.to_be_bytes());
    message.push(255);
    message
}

// attack: P17
#[test]
fn an_address_is_leased_renewed_and_gone_when_the_server_falls_silent() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let addresses = ["-4", "-o", "addr", "show", "dev", "card"];
    let _client = wire.run("c");
    // The first message is lost: nobody is there yet.
    std::thread::sleep(Duration::from_millis(500));
    let _server = wire.run("s");
    let leased = |shown: &str| shown.contains("10.77.0.5/24") && shown.contains("valid_lft");
    wire.until(&addresses, "no address", leased);
    let began = Instant::now();
    let route = wire.client(&["route", "show", "default"]);
    assert!(route.contains("via 10.77.0.1") && route.contains("metric 200"), "{route}");
    // Renewed at half of the time, so it is there after all of it, and gone when the second one is over.
    std::thread::sleep(Duration::from_secs(u64::from(LEASE_S) + 1));
    assert!(leased(&wire.client(&addresses)), "not renewed");
    wire.until(&addresses, "still there", |shown| !shown.contains("10.77.0.5"));
    let lived = began.elapsed().as_secs();
    assert!((14..=17).contains(&lived), "two overlapping leases of {LEASE_S} s lived {lived} s");
    assert_eq!(wire.client(&["route", "show", "default"]), "");
    // And from the beginning.
    wire.until(&addresses, "no address again", leased);
}

/// A time server that gives each of these answers in turn: what it changes in a good one.
fn time_server(changes: Vec<fn(&mut [u8; 48])>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        for change in changes {
            let mut question = [0; 100];
            let Ok((bytes, from)) = socket.recv_from(&mut question) else { return };
            assert_eq!(bytes, ntp::PACKET_BYTES);
            let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
            let seconds = (since.as_secs() + 2_208_988_800) & 0xffff_ffff;
            let now = (seconds << 32) | ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000);
            let mut answer = [0; 48];
            answer[..2].copy_from_slice(&[0x24, 1]);
            answer[24..32].copy_from_slice(&question[40..48]);
            answer[32..40].copy_from_slice(&now.to_be_bytes());
            answer[40..48].copy_from_slice(&now.to_be_bytes());
            change(&mut answer);
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

// attack: P18
#[test]
fn time_servers_are_asked_and_not_believed_blindly() {
    let server = time_server(vec![
        |_| {},
        |answer| {
            answer[1] = 0;
            answer[12..16].copy_from_slice(b"DENY");
        },
        |answer| answer[1] = 0,
        |answer| answer[0] = 0xe4,
        // Somebody who did not see the question.
        |answer| answer[24..32].fill(7),
    ]);
    let sample = time::ask(server, 0).expect("a good answer");
    assert!(sample.offset.abs() < 100_000_000, "the server has our clock: {sample:?}");
    for said in ["does not want to be asked", "own clock is not set", "own clock is not set", "no answer"] {
        let error = time::ask(server, 0).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}
