//! The agent as a process, called by an operator and by strangers over real TLS, with a real TPM implementation.

use pillar_layout::{pcr, root, run};
use pillar_model::{Binding, Evidence, PcrIndex, Role};
use pillar_qemu::Swtpm;
use pillar_tools::Tools;
use pillar_wire::client::{self, Connected, connect};
use pillar_wire::{Challenge, Identity, Status, proto};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use ring::rand::SystemRandom;
use std::error::Error as StdError;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tonic::Code;

type TestResult = Result<(), Box<dyn StdError>>;

/// Every wait of these tests ends after this time, failed.
const DEADLINE: Duration = Duration::from_secs(60);
const EVENT_LOG: &[u8] = b"stands for the firmware's event log; the agent does not look into it";
const CEL: &[u8] = b"\x1e{\"recnum\":0}\n";
const SECRET: &[u8; 32] = b"a secret that only this TPM sees";
const NO_TPM: &str = "device:/nonexistent/tpm";

const BOOT: &str = r#"{
    "name": "alpha", "version": "0.1.0", "flavour": "virt", "slot": "a",
    "root_hash": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "kernel": "6.12", "trial": true, "phases": [{"name": "ready", "at_us": 2500000}],
    "tpm": {"state": "present"}, "agent_starts": 1,
    "workload": {"name": "hello", "state": "healthy", "reason": "", "restarts": 3}
}"#;

/// A certificate and its key, PEM.
struct Credential {
    certificate: String,
    key: String,
}

impl Credential {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A running agent with a root folder of its own.
struct Agent {
    process: Child,
    addr: String,
    lines: mpsc::Receiver<String>,
    root: tempfile::TempDir,
    operator: Credential,
}

impl Agent {
    fn start(tcti: &str) -> Result<Self, Box<dyn StdError>> {
        Self::start_with(tcti, Credential::new(&PKCS_ED25519), |_| Ok(()))
    }

    fn start_with(
        tcti: &str,
        operator: Credential,
        prepare: impl FnOnce(&Path) -> TestResult,
    ) -> Result<Self, Box<dyn StdError>> {
        let root = tempfile::tempdir()?;
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(&path[1..]);
            fs::create_dir_all(path.parent().expect("a folder"))?;
            fs::write(path, bytes)
        };
        put(run::BOOT, BOOT.as_bytes())?;
        put(run::CEL, CEL)?;
        put(root::OPERATORS, operator.certificate.as_bytes())?;
        put("/sys/kernel/security/tpm0/binary_bios_measurements", EVENT_LOG)?;
        fs::create_dir(root.path().join("dev"))?;
        std::os::unix::fs::symlink("/dev/kmsg", root.path().join("dev/kmsg"))?;
        prepare(root.path())?;
        let mut process = command(root.path(), tcti).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut agent = Self { process, addr: String::new(), lines, root, operator };
        let line = agent.wait_line("listening on ")?;
        agent.addr = line.rsplit(' ').next().unwrap_or_default().to_owned();
        Ok(agent)
    }

    /// The next line of the agent's log that contains the words.
    fn wait_line(&self, words: &str) -> Result<String, Box<dyn StdError>> {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).map_err(|_| format!("no log line with {words:?}"))?;
            if line.contains(words) {
                return Ok(line);
            }
        }
    }

    async fn connect(&self) -> Result<Connected, client::Error> {
        connect(&self.addr, self.operator.certificate.as_bytes(), self.operator.key.as_bytes()).await
    }

    /// SIGTERM, then the exit code. Off the event loop: the clients' connections take part in the ending.
    async fn stop(self) -> Result<Option<i32>, Box<dyn StdError>> {
        let stopped = move || self.terminate().map_err(|error| error.to_string());
        Ok(tokio::task::spawn_blocking(stopped).await??)
    }

    fn terminate(mut self) -> Result<Option<i32>, Box<dyn StdError>> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let line = self.wait_line("stopped, ")?;
        assert!(line.contains("connections ended"), "{line}");
        Ok(self.process.wait()?.code())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(root: &Path, tcti: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillar-agent"));
    command.arg("--root").arg(root);
    command.args(["--listen", "127.0.0.1:0", "--listen-peers", "127.0.0.1:0", "--tcti", tcti]);
    command
}

/// None, with words, where the tools tree was not built.
fn swtpm(dir: &Path) -> Result<Option<Swtpm>, Box<dyn StdError>> {
    match Tools::open() {
        Ok(_) => Ok(Some(Swtpm::start(dir)?)),
        Err(error) => {
            eprintln!("skipped: {error}");
            Ok(None)
        }
    }
}

fn challenge(identity: &Identity) -> Result<Challenge, Box<dyn StdError>> {
    let name = pillar_verify::ak_name(&identity.ak_public)?;
    let credential =
        pillar_verify::make_credential(&identity.ek_public, &name, SECRET, &SystemRandom::new())?;
    Ok(Challenge {
        nonce: pillar_model::Nonce([9; 32]),
        credential_blob: credential.blob,
        encrypted_secret: credential.encrypted_secret,
        bank: pillar_model::Bank::Sha256,
        pcrs: pcr::QUOTED.iter().map(|&number| PcrIndex::new(number)).collect::<Result<_, _>>()?,
    })
}

/// A well-formed challenge that no TPM made a key for.
fn any_challenge() -> proto::EvidenceRequest {
    proto::EvidenceRequest {
        nonce: vec![1; 32],
        credential_blob: vec![2; 68],
        encrypted_secret: vec![3; 256],
        bank: "sha256".to_owned(),
        pcrs: vec![7],
    }
}

#[tokio::test]
async fn an_operator_gets_every_answer() -> TestResult {
    let dir = tempfile::tempdir()?;
    let Some(swtpm) = swtpm(dir.path())? else { return Ok(()) };
    let agent = Agent::start(&swtpm.tcti())?;
    let init = UnixDatagram::bind(agent.root.path().join(&run::INIT_SOCKET[1..]))?;
    init.set_read_timeout(Some(DEADLINE))?;
    let mut connected = agent.connect().await?;

    let status = Status::try_from(connected.client.status(proto::StatusRequest {}).await?.into_inner())?;
    assert_eq!(status.boot, serde_json::from_str(BOOT)?);
    assert!(status.uptime > Duration::ZERO);

    let identity = connected.client.identity(proto::IdentityRequest {}).await?.into_inner();
    let identity = Identity::try_from(identity)?;
    let challenge = challenge(&identity)?;
    let evidence = connected.client.evidence(proto::EvidenceRequest::from(challenge.clone())).await?;
    let evidence = Evidence::try_from(evidence.into_inner())?;
    assert_eq!(evidence.activated, SECRET);
    assert_eq!((&evidence.event_log[..], &evidence.cel[..]), (EVENT_LOG, CEL));
    assert_eq!((&evidence.ek_public, &evidence.ak_public), (&identity.ek_public, &identity.ak_public));
    let qualifying = qualifying(&connected, &challenge, &evidence);
    assert!(evidence.attest.windows(32).any(|part| part == qualifying), "bound to this connection");

    // Another connection, same challenge: bound to that one alone.
    let mut other = agent.connect().await?;
    assert_ne!(other.exporter, connected.exporter);
    let evidence = other.client.evidence(proto::EvidenceRequest::from(challenge.clone())).await?;
    let evidence = Evidence::try_from(evidence.into_inner())?;
    assert!(!evidence.attest.windows(32).any(|part| part == qualifying), "not bound to another connection");

    let page = connected.metrics().await?;
    for line in [
        "pillar_quotes_total 2",
        "pillar_quotes_failed_total 0",
        "pillar_connections_open 2",
        "pillar_boot_phase_seconds{phase=\"ready\"} 2.5",
        "pillar_workload_up 1",
        "pillar_workload_restarts_total 3",
        "pillar_tpm_present 1",
    ] {
        assert!(page.lines().any(|one| one == line), "{line} in\n{page}");
    }

    connected.client.reboot(proto::RebootRequest { power_off: false }).await?;
    connected.client.reboot(proto::RebootRequest { power_off: true }).await?;
    let mut word = [0; 64];
    for expected in ["reboot", "poweroff"] {
        let length = init.recv(&mut word)?;
        assert_eq!(&word[..length], expected.as_bytes());
    }
    agent.wait_line("reboot asked for by operator ")?;
    assert_eq!(agent.stop().await?, Some(0));
    Ok(())
}

fn qualifying(connected: &Connected, challenge: &Challenge, evidence: &Evidence) -> [u8; 32] {
    let binding = Binding {
        role: Role::Server,
        nonce: challenge.nonce,
        exporter: connected.exporter.to_vec(),
        attester_spki: connected.server_spki.clone(),
        verifier_spki: connected.client_spki.clone(),
    };
    pillar_verify::qualifying_data(&binding, &evidence.event_log, &evidence.cel, &evidence.heartbeat_key)
}

#[tokio::test]
async fn an_operator_may_have_a_p256_key() -> TestResult {
    let agent = Agent::start_with(NO_TPM, Credential::new(&PKCS_ECDSA_P256_SHA256), |_| Ok(()))?;
    agent.connect().await?.client.status(proto::StatusRequest {}).await?;
    Ok(())
}

// attack: P9
#[tokio::test]
async fn strangers_are_refused_and_the_reason_is_logged() -> TestResult {
    let agent = Agent::start(NO_TPM)?;

    let stranger = Credential::new(&PKCS_ED25519);
    let error = connect(&agent.addr, stranger.certificate.as_bytes(), stranger.key.as_bytes()).await;
    let error = error.expect_err("an unknown key");
    assert!(matches!(&error, client::Error::Refused { alert, .. } if alert == "AccessDenied"), "{error}");
    agent.wait_line("its certificate's key is no operator's")?;

    // The operator's certificate without the operator's key: everybody can have the certificate.
    let thief = anonymous::config_showing(&agent.operator.certificate, &stranger.key);
    assert_eq!(anonymous::verdict(&agent.addr, thief).await?, "received fatal alert: DecryptError");
    agent.wait_line("refused 127.0.0.1:")?;

    assert_eq!(alert_for(&agent.addr, &hello(&SUPPORTS_TLS_1_2))?, PROTOCOL_VERSION);
    agent.wait_line("refused 127.0.0.1:")?;
    assert_eq!(alert_for(&agent.addr, b"GET / HTTP/1.1\r\n\r\n")?, DECODE_ERROR);
    agent.wait_line("refused 127.0.0.1:")?;

    // None of this kept the operator out.
    let page = agent.connect().await?.metrics().await?;
    assert!(page.contains("\npillar_handshakes_refused_total 4\n"), "{page}");
    Ok(())
}

// attack: P9 P13
#[tokio::test]
async fn an_operator_who_takes_all_places_keeps_no_other_out() -> TestResult {
    const GREEDY: usize = 40;
    const STAY: usize = 8;
    let (greedy, other) = (Credential::new(&PKCS_ED25519), Credential::new(&PKCS_ED25519));
    let agent = Agent::start_with(NO_TPM, Credential::new(&PKCS_ED25519), |root| {
        let all = [&greedy.certificate, &other.certificate].map(String::as_str).concat();
        Ok(fs::write(root.join(&root::OPERATORS[1..]), all)?)
    })?;
    let mut held = Vec::new();
    for _ in 0..GREEDY {
        let mut one = connect(&agent.addr, greedy.certificate.as_bytes(), greedy.key.as_bytes()).await?;
        one.client.status(proto::StatusRequest {}).await?;
        held.push(one);
    }
    for _ in STAY..GREEDY {
        agent.wait_line("goes: its operator has 8 newer connections")?;
    }
    let mut another = connect(&agent.addr, other.certificate.as_bytes(), other.key.as_bytes()).await?;
    another.client.status(proto::StatusRequest {}).await?;
    for (number, one) in held.iter_mut().enumerate() {
        let answered = one.client.status(proto::StatusRequest {}).await.is_ok();
        assert_eq!(answered, number >= GREEDY - STAY, "{number}");
    }
    Ok(())
}

// attack: P9
#[tokio::test]
async fn a_client_without_a_certificate_is_refused() -> TestResult {
    let agent = Agent::start(NO_TPM)?;
    let verdict = anonymous::verdict(&agent.addr, anonymous::config()).await?;
    assert_eq!(verdict, "received fatal alert: CertificateRequired");
    agent.wait_line("it showed no certificate")?;
    Ok(())
}

// attack: P9
#[tokio::test]
async fn requests_outside_the_limits_are_refused_by_name() -> TestResult {
    let agent = Agent::start(NO_TPM)?;
    let mut client = agent.connect().await?.client.max_encoding_message_size(1 << 20);
    let mut check = async |change: fn(&mut proto::EvidenceRequest), code: Code, words: &str| {
        let mut request = any_challenge();
        change(&mut request);
        let status = client.evidence(request).await.expect_err(words);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
    };
    check(|r| r.nonce.truncate(31), Code::InvalidArgument, "nonce has 31 bytes, must have 32").await;
    check(|r| r.bank = "sha1".into(), Code::InvalidArgument, r#"bank is "sha1""#).await;
    check(|r| r.pcrs = vec![7, 7], Code::InvalidArgument, "pcrs is \"7\", must be strictly ascending").await;
    check(|r| r.encrypted_secret = vec![0; 4096], Code::InvalidArgument, "encrypted_secret has 4096").await;
    check(|r| r.nonce = vec![0; 600_000], Code::OutOfRange, "message length too large").await;

    // As many readers of the log as there are, and one more.
    let mut readers = Vec::new();
    for _ in 0..4 {
        let request = proto::LogsRequest { tail: 1, follow: true };
        match client.logs(request).await {
            Ok(stream) => readers.push(stream.into_inner()),
            Err(status) => {
                eprintln!("skipped: {status}");
                return Ok(());
            }
        }
    }
    let status = client.logs(proto::LogsRequest::default()).await.expect_err("one too many");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("4 others are reading it"), "{status}");
    readers[0].message().await?.ok_or("a record")?;

    // A reader that went away makes room.
    drop(readers);
    let end = Instant::now() + DEADLINE;
    while client.logs(proto::LogsRequest { tail: 1, follow: false }).await.is_err() {
        assert!(Instant::now() < end, "no reader came back");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn the_log_has_a_tail_and_can_be_followed() -> TestResult {
    if fs::File::open("/dev/kmsg").and_then(|mut log| log.read(&mut [0; 8192])).is_err() {
        eprintln!("skipped: /dev/kmsg cannot be read here");
        return Ok(());
    }
    let agent = Agent::start(NO_TPM)?;
    let mut client = agent.connect().await?.client;
    let mut records = client.logs(proto::LogsRequest { tail: 3, follow: false }).await?.into_inner();
    let mut sequences = Vec::new();
    while let Some(record) = records.message().await? {
        assert!(record.level < 8);
        sequences.push(record.sequence);
    }
    assert!((1..=3).contains(&sequences.len()), "{sequences:?}");
    assert!(sequences.is_sorted());

    // A follower has no end of its own: it does not hold up the agent's.
    let mut follower = client.logs(proto::LogsRequest { tail: 1, follow: true }).await?.into_inner();
    follower.message().await?.ok_or("a record")?;
    let ending = async {
        loop {
            match follower.message().await {
                Ok(record) => assert!(record.is_some(), "the stream ended without a word"),
                Err(status) => break status,
            }
        }
    };
    let (status, stopped) = tokio::join!(ending, agent.stop());
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the agent is stopping"));
    assert_eq!(stopped?, Some(0));
    Ok(())
}

#[tokio::test]
async fn without_a_tpm_the_status_still_comes_and_the_rest_says_what_is_missing() -> TestResult {
    let agent = Agent::start(NO_TPM)?;
    let mut client = agent.connect().await?.client;
    client.status(proto::StatusRequest {}).await?;
    let check = |status: tonic::Status, words: &str| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(words), "{status}");
    };
    let words = "cannot open the TPM at device:/nonexistent/tpm; switch it on in the firmware's settings";
    check(client.identity(proto::IdentityRequest {}).await.expect_err("no TPM"), words);
    check(client.evidence(any_challenge()).await.expect_err("no TPM"), words);
    Ok(())
}

// attack: B7
#[tokio::test]
async fn a_missing_log_is_named() -> TestResult {
    let check = async |missing: &'static str, words: &str| -> TestResult {
        let dir = tempfile::tempdir()?;
        let Some(swtpm) = swtpm(dir.path())? else { return Ok(()) };
        let agent = Agent::start_with(&swtpm.tcti(), Credential::new(&PKCS_ED25519), |root| {
            Ok(fs::remove_file(root.join(missing))?)
        })?;
        let mut client = agent.connect().await?.client;
        let identity = client.identity(proto::IdentityRequest {}).await?.into_inner();
        let challenge = challenge(&Identity::try_from(identity)?)?;
        let status = client.evidence(proto::EvidenceRequest::from(challenge)).await.expect_err(words);
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().starts_with(words), "{status}");
        Ok(())
    };
    check("sys/kernel/security/tpm0/binary_bios_measurements", "no firmware event log at /sys/").await?;
    check(&run::CEL[1..], "no measurements of our own in /run/pillar/cel.jsonseq; init found no TPM").await
}

#[test]
fn an_agent_that_nobody_may_call_does_not_start() -> TestResult {
    let check = |operators: Option<&str>, words: &str| -> TestResult {
        let root = tempfile::tempdir()?;
        fs::create_dir_all(root.path().join("run/pillar"))?;
        fs::create_dir_all(root.path().join("usr/lib/pillar"))?;
        if let Some(pem) = operators {
            fs::write(root.path().join(&root::OPERATORS[1..]), pem)?;
        }
        let output = command(root.path(), NO_TPM).output()?;
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8(output.stderr)?;
        assert!(errors.starts_with(&format!("error: {words}")), "{errors}");
        Ok(())
    };
    check(None, "cannot open /usr/lib/pillar/operators.pem\ncaused by: No such file")?;
    check(Some(""), "cannot use the operators' certificates\ncaused by: no certificate in it")
}

const PROTOCOL_VERSION: u8 = 70;
const DECODE_ERROR: u8 = 50;
/// The extensions of a client of 2015: signature algorithms and groups, no `supported_versions`.
const SUPPORTS_TLS_1_2: [u8; 16] =
    [0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03, 0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17];

/// A TLS ClientHello (RFC 5246 section 7.4.1.2) in one record.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
    let suites = sized(&[0xc0, 0x2b, 0x13, 0x01]);
    let body = [&[3, 3][..], &[7; 32], &[0], &suites, &[1, 0], &sized(extensions)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[0x16, 3, 1][..], &sized(&message)].concat()
}

/// Sends bytes and reads the fatal alert that comes back.
fn alert_for(addr: &str, bytes: &[u8]) -> Result<u8, Box<dyn StdError>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(bytes)?;
    let mut alert = [0; 7];
    stream.read_exact(&mut alert)?;
    assert_eq!((alert[0], alert[5]), (0x15, 2), "a fatal alert: {alert:?}");
    Ok(alert[6])
}

/// A TLS client that believes every server, and shows what it is told to show.
mod anonymous {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use std::sync::Arc;
    use tokio::io::AsyncReadExt as _;

    /// What the server says to this client, as an error: it never serves one of these.
    pub async fn verdict(addr: &str, config: ClientConfig) -> Result<String, Box<dyn std::error::Error>> {
        let tcp = tokio::net::TcpStream::connect(addr).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(ServerName::try_from("pillar")?, tcp).await?;
        match stream.read(&mut [0; 64]).await {
            Ok(bytes) => Err(format!("served with {bytes} bytes").into()),
            Err(error) => Ok(error.to_string()),
        }
    }

    /// A certificate with a key that may be another's.
    pub fn config_showing(certificate: &str, key: &str) -> ClientConfig {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key of ring's");
        let mut config = config();
        config.client_auth_cert_resolver =
            Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        config
    }

    pub fn config() -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth()
    }

    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}
