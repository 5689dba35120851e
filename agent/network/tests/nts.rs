//! NTS against chrony, and against a server of ours that misbehaves in every way but one at a time.
//!
//! chrony is that of the tools tree, or the host's when the tree has none: an ordinary process on loopback, with a
//! configuration of its own, which does not touch the clock.

use aes_siv::KeyInit as _;
use aes_siv::siv::Aes128Siv;
use pillar_model::{KeyPin, TimeServer};
use pillar_network::nts::Client;
use pillar_network::nts::trust::Clock;
use pillar_tools::Tools;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, date_time_ymd};
use ring::digest::{SHA256, digest};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::error::Error;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// A key, a certificate for 127.0.0.1, and how node settings name the key.
struct Identity {
    key: KeyPair,
    certificate: rcgen::Certificate,
    pin: KeyPin,
}

fn identity() -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    params.not_after = date_time_ymd(2099, 1, 1);
    let pin = digest(&SHA256, &key.subject_public_key_info());
    let pin = KeyPin(pin.as_ref().try_into().expect("32 bytes"));
    Identity { certificate: params.self_signed(&key).expect("a certificate"), key, pin }
}

fn client(port: u16, pin: KeyPin) -> Client {
    let text = format!("nts://127.0.0.1:{port}#{pin}");
    match text.parse() {
        Ok(TimeServer::Nts(server)) => Client::new(server),
        other => panic!("{text}: {other:?}"),
    }
}

fn clock() -> Clock {
    let unix_s = UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Clock { unix_s, earliest_unix_s: 0, is_proven: false }
}

/// An error with its causes in one line.
fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

// ---- chrony

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ready for arguments; None where there is no chrony.
fn chronyd() -> Option<Command> {
    if let Ok(tools) = Tools::open()
        && tools.path("usr/sbin/chronyd").is_file()
    {
        return Some(tools.command("chronyd"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("chronyd")).find(|program| program.is_file()).map(Command::new)
}

/// Ports that nobody uses: one for key exchange, one for NTP.
fn free_ports() -> (u16, u16) {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    (tcp.local_addr().expect("an address").port(), udp.local_addr().expect("an address").port())
}

fn configuration(folder: &Path, exchange_port: u16, port: u16) -> String {
    let folder = folder.display();
    format!(
        "port {port}\nbindaddress 127.0.0.1\nallow 127.0.0.1\ncmdport 0\nbindcmdaddress /\nlocal stratum 2\n\
         pidfile {folder}/pid\nntsport {exchange_port}\nntsprocesses 0\n\
         ntsserverkey {folder}/key.pem\nntsservercert {folder}/certificate.pem\n"
    )
}

fn start(mut command: Command, folder: &Path, exchange_port: u16) -> Killed {
    command.args(["-x", "-d", "-U"]).arg("-f").arg(folder.join("chrony.conf"));
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "root"]);
    }
    let log = fs::File::create(folder.join("log")).expect("a log");
    let process =
        Killed(command.stderr(log.try_clone().expect("a log")).stdout(log).spawn().expect("chronyd runs"));
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, exchange_port)).is_err() {
        let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(began.elapsed() < Duration::from_secs(10), "chronyd does not listen: {said}");
        std::thread::sleep(Duration::from_millis(50));
    }
    process
}

#[test]
fn chrony_proves_the_time() {
    let (Some(first), Some(second)) = (chronyd(), chronyd()) else {
        return eprintln!("skipped: needs `chronyd` (package chrony), in the tools tree or on the host");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let own = identity();
    let (exchange_port, port) = free_ports();
    fs::write(folder.path().join("key.pem"), own.key.serialize_pem()).expect("written");
    fs::write(folder.path().join("certificate.pem"), own.certificate.pem()).expect("written");
    let text = configuration(folder.path(), exchange_port, port);
    fs::write(folder.path().join("chrony.conf"), text).expect("written");
    let first = start(first, folder.path(), exchange_port);

    let mut asking = client(exchange_port, own.pin);
    // More often than there were cookies in the beginning: each answer brings a new one.
    for round in 0..12 {
        let sample = asking.ask(clock()).unwrap_or_else(|error| panic!("{round}: {}", words(&error)));
        assert!(sample.offset.abs() < 100_000_000, "chrony has our clock: {sample:?}");
    }
    // Somebody else's key is not enough.
    let error = client(exchange_port, KeyPin([7; 32])).ask(clock()).expect_err("another key");
    let said = words(&error);
    assert!(said.contains("name none of its keys") && said.contains(&own.pin.to_string()), "{said}");
    // A chrony that starts again does not know its cookies any more, and says so; then new ones are fetched.
    drop(first);
    let _second = start(second, folder.path(), exchange_port);
    let sample = asking.ask(clock()).unwrap_or_else(|error| panic!("after NTSN: {}", words(&error)));
    assert!(sample.offset.abs() < 100_000_000, "{sample:?}");
}

// ---- a server of ours

const EIGHT_SECONDS: Duration = Duration::from_secs(8);

/// A record of key exchange.
fn record(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// What is in an answer before it is proven.
struct Answer {
    header: [u8; 48],
    unique: Vec<u8>,
    key: [u8; 32],
    /// Fields that are encrypted.
    secret: Vec<u8>,
}

/// What a server does wrong.
#[derive(Clone)]
struct Habits {
    /// To its answer in key exchange.
    exchange: fn(&mut Vec<Vec<u8>>),
    /// To the bytes of it.
    exchange_bytes: fn(&mut Vec<u8>),
    /// What it agrees on with TLS.
    protocols: Vec<Vec<u8>>,
    /// To its answer to the question of this number, before it proves it.
    answer: fn(usize, &mut Answer),
    /// To the packets that it sends.
    packets: fn(usize, &mut Vec<Vec<u8>>),
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            exchange: |_| {},
            exchange_bytes: |_| {},
            protocols: vec![b"ntske/1".to_vec()],
            answer: |_, _| {},
            packets: |_, _| {},
        }
    }
}

/// A server with habits, and how often keys were asked for.
struct Server {
    port: u16,
    pin: KeyPin,
    exchanges: Arc<AtomicUsize>,
}

impl Server {
    fn new(habits: Habits) -> Self {
        let own = identity();
        let key = PrivateKeyDer::try_from(own.key.serialize_der()).expect("a key");
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .with_no_client_auth()
                .with_single_cert(vec![own.certificate.der().clone()], key)
                .expect("a certificate");
        config.alpn_protocols = habits.protocols.clone();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let time_port = socket.local_addr().expect("an address").port();
        let exchanges = Arc::new(AtomicUsize::new(0));
        let (config, count, own_habits) = (Arc::new(config), Arc::clone(&exchanges), habits.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = give_keys(stream, &config, &own_habits, time_port);
            }
        });
        std::thread::spawn(move || tell_time(&socket, &habits));
        Self { port, pin: own.pin, exchanges }
    }

    fn client(&self) -> Client {
        client(self.port, self.pin)
    }

    fn exchanges(&self) -> usize {
        self.exchanges.load(Ordering::Relaxed)
    }
}

/// Cookies carry the keys, for all to see: this server keeps nothing else.
fn give_keys(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    habits: &Habits,
    time_port: u16,
) -> io::Result<()> {
    let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(tls, stream);
    let mut request = [0; 16];
    tls.read_exact(&mut request)?;
    assert_eq!(request, [0x80, 1, 0, 2, 0, 0, 0x80, 4, 0, 2, 0, 15, 0x80, 0, 0, 0]);
    let mut cookie = Vec::new();
    for context in [[0, 0, 0, 15, 0], [0, 0, 0, 15, 1]] {
        let label = b"EXPORTER-network-time-security";
        let key =
            tls.conn.export_keying_material([0; 32], label, Some(&context)).map_err(io::Error::other)?;
        cookie.extend(key);
    }
    let mut records = vec![
        record(0x8001, &[0, 0]),
        record(0x8004, &[0, 15]),
        record(7, &time_port.to_be_bytes()),
        record(5, &cookie),
        record(5, &cookie),
        record(0x8000, &[]),
    ];
    (habits.exchange)(&mut records);
    let mut bytes = records.concat();
    (habits.exchange_bytes)(&mut bytes);
    tls.write_all(&bytes)?;
    tls.conn.send_close_notify();
    tls.flush()?;
    // Until the client is done: closing while bytes wait would reset the connection.
    let _ = tls.sock.read(&mut [0; 1]);
    Ok(())
}

fn tell_time(socket: &UdpSocket, habits: &Habits) {
    let mut buffer = [0; 2000];
    for number in 0.. {
        let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { return };
        let question = &buffer[..bytes];
        assert!(bytes <= 1232, "a question of {bytes} bytes");
        let cookie = &question[88..88 + 64];
        let nonce = &question[bytes - 32..bytes - 16];
        let mut to_server = Aes128Siv::new(cookie[..32].try_into().expect("a key"));
        let opened = to_server.decrypt([&question[..bytes - 40], nonce], &question[bytes - 16..]);
        assert!(opened.is_ok(), "the question does not prove itself");
        let since = UNIX_EPOCH.elapsed().expect("after 1970");
        let seconds = (since.as_secs() + 2_208_988_800) & 0xffff_ffff;
        let now = (seconds << 32) | ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000);
        let mut header = [0; 48];
        header[..2].copy_from_slice(&[0x24, 1]);
        header[24..32].copy_from_slice(&question[40..48]);
        header[32..40].copy_from_slice(&now.to_be_bytes());
        header[40..48].copy_from_slice(&now.to_be_bytes());
        let mut answer = Answer {
            header,
            unique: question[52..84].to_vec(),
            key: cookie[32..].try_into().expect("a key"),
            secret: field(0x204, cookie),
        };
        (habits.answer)(number, &mut answer);
        let mut packets = vec![prove(&answer)];
        (habits.packets)(number, &mut packets);
        for packet in packets {
            let _ = socket.send_to(&packet, from);
        }
    }
}

/// A field whose value fills it.
fn field(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(value.len() as u16 + 4).to_be_bytes(), value].concat()
}

fn prove(answer: &Answer) -> Vec<u8> {
    let before = [&answer.header[..], &field(0x104, &answer.unique)].concat();
    let nonce = [5; 16];
    let sealed = Aes128Siv::new(&answer.key.into()).encrypt([&before[..], &nonce], &answer.secret);
    let sealed = sealed.expect("encrypted");
    let lengths = [0, 16, 0, sealed.len() as u8];
    [&before[..], &field(0x404, &[&lengths[..], &nonce, &sealed].concat())].concat()
}

/// Kiss-o'-death.
fn kiss(header: &mut [u8; 48], code: &[u8; 4]) {
    header[1] = 0;
    header[12..16].copy_from_slice(code);
}

#[test]
fn a_good_server_is_asked_for_keys_once() {
    let server = Server::new(Habits::default());
    let mut client = server.client();
    for _ in 0..20 {
        let sample = client.ask(clock()).unwrap_or_else(|error| panic!("{}", words(&error)));
        assert!(sample.offset.abs() < 100_000_000, "the server has our clock: {sample:?}");
    }
    assert_eq!(server.exchanges(), 1);
}

/// Asks a server with each of these habits, all at once, since most answers are waited for in vain.
fn all_refused(table: Vec<(&'static str, Habits)>) {
    std::thread::scope(|scope| {
        for (why, habits) in table {
            scope.spawn(move || {
                let error = Server::new(habits).client().ask(clock()).expect_err(why);
                let said = words(&error);
                assert!(said.contains(why), "{why}: {said}");
            });
        }
    });
}

fn exchange(change: fn(&mut Vec<Vec<u8>>)) -> Habits {
    Habits { exchange: change, ..Habits::default() }
}

fn exchange_bytes(change: fn(&mut Vec<u8>)) -> Habits {
    Habits { exchange_bytes: change, ..Habits::default() }
}

// attack: P18
#[test]
fn key_exchange_that_goes_wrong_is_refused_with_its_reason() {
    all_refused(vec![
        ("unknown type 99", exchange(|records| records.insert(0, record(0x8000 | 99, &[])))),
        ("gives no cookies", exchange(|records| drop(records.drain(3..5)))),
        ("its cookie is malformed", exchange(|records| records.insert(3, record(5, &[1; 2000])))),
        (
            "the answer is too long",
            exchange(|records| records.splice(0..0, vec![record(99, &[0; 9000]); 9]).for_each(drop)),
        ),
        (
            "the answer is too long",
            exchange(|records| records.splice(0..0, vec![record(99, &[]); 99]).for_each(drop)),
        ),
        (
            "the answer is too long",
            exchange_bytes(|bytes| *bytes = [&[0, 99, 255, 255][..], &[0; 20_000]].concat()),
        ),
        ("it does not offer NTPv4", exchange(|records| records[0] = record(0x8001, &[0, 1]))),
        ("does not offer AEAD_AES_SIV_CMAC_256", exchange(|records| records[1] = record(0x8004, &[0, 16]))),
        ("reports that our request is bad", exchange(|records| records.insert(0, record(0x8002, &[0, 1])))),
        ("warns of something unknown", exchange(|records| records.insert(0, record(0x8003, &[0, 1])))),
        ("ends too early", exchange_bytes(|bytes| bytes.clear())),
        ("ends too early", exchange_bytes(|bytes| bytes.truncate(3))),
        ("ends too early", exchange_bytes(|bytes| bytes.truncate(100))),
        ("ends too early", exchange_bytes(|bytes| bytes.truncate(bytes.len() - 1))),
        ("does not agree on \"ntske/1\"", Habits { protocols: vec![], ..Habits::default() }),
        ("does not agree on \"ntske/1\"", Habits { protocols: vec![b"h2".to_vec()], ..Habits::default() }),
    ]);
}

/// Asks a server whose key exchange is this.
fn refused_by(serve: fn(TcpStream)) -> (String, Duration) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    let began = Instant::now();
    let error = client(port, KeyPin([7; 32])).ask(clock()).expect_err("no server");
    (words(&error), began.elapsed())
}

// attack: P18
#[test]
fn who_speaks_no_tls_or_too_slowly_holds_nobody_up() {
    let (said, _) = refused_by(|mut stream| drop(stream.write_all(b"220 time.lan ESMTP\r\n")));
    assert!(said.contains("TLS failed") || said.contains("broke off"), "{said}");
    let (said, _) = refused_by(drop);
    assert!(said.contains("broke off"), "{said}");
    let slow: [fn(TcpStream); 2] = [
        |stream| {
            std::thread::sleep(2 * EIGHT_SECONDS);
            drop(stream);
        },
        // A record of handshake that comes byte by byte.
        |mut stream| {
            for byte in [0x16, 3, 3, 0x20, 0].into_iter().chain([0; 100]) {
                let _ = stream.write_all(&[byte]);
                std::thread::sleep(Duration::from_millis(500));
            }
        },
    ];
    std::thread::scope(|scope| {
        for serve in slow {
            scope.spawn(move || {
                let (said, took) = refused_by(serve);
                assert!(said.contains("broke off"), "{said}");
                assert!(took < EIGHT_SECONDS + Duration::from_secs(2), "{took:?}");
            });
        }
    });
}

fn answer(change: fn(usize, &mut Answer)) -> Habits {
    Habits { answer: change, ..Habits::default() }
}

fn packets(change: fn(usize, &mut Vec<Vec<u8>>)) -> Habits {
    Habits { packets: change, ..Habits::default() }
}

// attack: P18
#[test]
fn answers_that_prove_nothing_are_refused_with_their_reason() {
    all_refused(vec![
        ("answers another question", answer(|_, answer| answer.unique[0] ^= 1)),
        ("answers another question", answer(|_, answer| answer.unique.truncate(28))),
        ("authenticator is wrong", answer(|_, answer| answer.key[0] ^= 1)),
        // Somebody on the way changes the time.
        ("authenticator is wrong", packets(|_, packets| packets[0][43] ^= 1)),
        ("not authenticated", packets(|_, packets| packets[0].truncate(48))),
        ("not authenticated", packets(|_, packets| packets[0].truncate(84))),
        ("its fields are malformed", packets(|_, packets| packets[0].truncate(47))),
        ("its fields are malformed", packets(|_, packets| packets[0].truncate(60))),
        ("its fields are malformed", packets(|_, packets| packets[0].truncate(100))),
        (
            "its fields are malformed",
            packets(|_, packets| packets[0].splice(48..48, vec![0; 3000]).for_each(drop)),
        ),
        ("no answer", packets(|_, packets| packets.clear())),
        // A kiss that nothing proves is not obeyed.
        (
            "not authenticated",
            packets(|_, packets| {
                packets[0].truncate(84);
                packets[0][1] = 0;
                packets[0][12..16].copy_from_slice(b"DENY");
            }),
        ),
        // Proven, and not taken all the same.
        ("does not want to be asked (DENY)", answer(|_, answer| kiss(&mut answer.header, b"DENY"))),
        ("its own clock is not set", answer(|_, answer| answer.header[0] |= 0xc0)),
        ("no answer to the question", answer(|_, answer| answer.header[24] ^= 1)),
        ("time cannot be right", answer(|_, answer| answer.header[32] ^= 0x80)),
        ("its fields are malformed", answer(|_, answer| answer.secret = vec![0; 16])),
    ]);
}

// attack: P18
#[test]
fn an_answer_that_is_replayed_is_refused() {
    // The answer to the first question comes again as that to the second.
    static FIRST: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(Vec::new());
    let server = Server::new(packets(|number, packets| {
        let mut first = FIRST.lock().expect("no panic");
        if number == 0 { first.clone_from(packets) } else { packets.clone_from(&first) }
    }));
    let mut client = server.client();
    assert!(client.ask(clock()).is_ok());
    let said = words(&client.ask(clock()).expect_err("replayed"));
    assert!(said.contains("answers another question"), "{said}");
}

// attack: P18
#[test]
fn a_true_answer_is_found_among_false_ones() {
    let server = Server::new(packets(|_, packets| {
        let truth = packets[0].clone();
        let mut forged = truth.clone();
        forged[43] ^= 1;
        *packets = vec![vec![], truth[..48].to_vec(), forged, truth[..84].to_vec(), truth];
    }));
    let sample = server.client().ask(clock()).expect("a good answer");
    assert!(sample.offset.abs() < 100_000_000, "{sample:?}");
}

/// NTSN: what a server says that lost its keys.
fn lost_keys(packet: &mut Vec<u8>) {
    packet.truncate(84);
    packet[1] = 0;
    packet[12..16].copy_from_slice(b"NTSN");
}

// attack: P18
#[test]
fn a_server_that_lost_its_keys_is_asked_for_new_ones_once() {
    // Once it is only the second question that it does not understand, once every one.
    let server = Server::new(packets(|number, packets| {
        if number == 1 {
            lost_keys(&mut packets[0]);
        }
    }));
    let mut client = server.client();
    assert!(client.ask(clock()).is_ok() && client.ask(clock()).is_ok());
    assert_eq!(server.exchanges(), 2);

    let server = Server::new(packets(|number, packets| {
        if number > 0 {
            lost_keys(&mut packets[0]);
        }
    }));
    let mut client = server.client();
    assert!(client.ask(clock()).is_ok());
    let said = words(&client.ask(clock()).expect_err("no keys that it knows"));
    assert!(said.contains("does not know our cookie any more"), "{said}");
    assert_eq!(server.exchanges(), 2);
}

#[test]
fn when_cookies_or_patience_are_over_keys_are_fetched_anew() {
    // Two cookies at first, and no new ones.
    let server = Server::new(answer(|_, answer| answer.secret.clear()));
    let mut client = server.client();
    for exchanges in [1, 1, 2, 2] {
        assert!(client.ask(clock()).is_ok());
        assert_eq!(server.exchanges(), exchanges);
    }
    // Eight cookies and no answers: after three of them perhaps the keys are wrong.
    let server = Server::new(Habits {
        exchange: |records| {
            let cookie = records[3].clone();
            records.splice(3..3, vec![cookie; 6]).for_each(drop);
        },
        packets: |_, packets| packets.clear(),
        ..Habits::default()
    });
    let mut client = server.client();
    for exchanges in [1, 1, 1, 2] {
        assert!(words(&client.ask(clock()).expect_err("silence")).contains("no answer"));
        assert_eq!(server.exchanges(), exchanges);
    }
}

// attack: P18
#[test]
fn who_proves_that_he_does_not_want_to_be_asked_is_not_asked() {
    let server = Server::new(answer(|number, answer| match number {
        0 => kiss(&mut answer.header, b"RATE"),
        1 => kiss(&mut answer.header, b"DENY"),
        _ => {}
    }));
    let mut client = server.client();
    let mut ask = || words(&client.ask(clock()).expect_err("a kiss"));
    // Too often is not never.
    assert!(ask().contains("(RATE)"));
    assert!(ask().contains("(DENY)"));
    assert_eq!(ask(), "it does not want to be asked");
}

// attack: P18
#[test]
fn a_server_that_has_no_time_yet_is_asked_until_it_has() {
    // What chrony proves while it is not synchronised: stratum 0, without a code; and what ntpd says.
    let server = Server::new(answer(|number, answer| match number {
        0 | 1 => {
            kiss(&mut answer.header, &[0; 4]);
            answer.header[0] |= 0xc0;
        }
        2 => kiss(&mut answer.header, &[0; 4]),
        3 => kiss(&mut answer.header, b"INIT"),
        _ => {}
    }));
    let mut client = server.client();
    let mut said = Vec::new();
    let sample = loop {
        match client.ask(clock()) {
            Ok(sample) => break sample,
            Err(error) => said.push(words(&error)),
        }
        assert!(said.len() <= 4, "{said:?}");
    };
    assert!(sample.offset.abs() < 100_000_000, "{sample:?}");
    assert_eq!(said, ["its own clock is not set"; 4]);
}
