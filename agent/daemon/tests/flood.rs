//! Somebody at one address floods both ports: with connections that say nothing, and with handshakes under a key of
//! nobody, for each of which the TPM signs. Who comes from another address is served as if nothing was.

mod lab;
#[path = "lab/liar.rs"]
mod liar;

use lab::{Lab, TestResult};
use liar::{End, Liar, connect};
use pillar_model::{Binding, Evidence, PillarId};
use pillar_session::{Attester, BoxError, Endpoint, Gatekeeper, Refusal, TlsSigner};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

/// Where the flood comes from; everybody else is 127.0.0.1.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How long the flood goes on before anybody else comes.
const BEFORE: Duration = Duration::from_secs(2);
/// Connections at once.
const BURST: usize = 40;
/// Times that a member attests and an operator connects.
const TIMES: usize = 5;
/// What the TPM's queue may cost besides: as many signatures as one source has connections in the making.
const QUEUE: Duration = Duration::from_secs(3);
/// SubjectPublicKeyInfo of an uncompressed P-256 key up to the point (RFC 5480).
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

async fn connect_from_there(port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((SOURCE, 0)))?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

/// More connections at once than there is room for, many times a second, without a word; the last are held.
async fn silence(port: u16) {
    let mut held = VecDeque::new();
    loop {
        for _ in 0..BURST {
            held.push_back(connect_from_there(port).await);
        }
        held.drain(..held.len().saturating_sub(200));
        sleep(Duration::from_millis(25)).await;
    }
}

/// A key of nobody.
#[derive(Debug)]
struct Stranger {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl Stranger {
    fn end() -> TestResult<Endpoint<Nothing, Anybody>> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|error| error.to_string())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random)
            .map_err(|error| error.to_string())?;
        let spki = [P256_SPKI, pair.public_key().as_ref()].concat();
        Ok(Endpoint::new(Arc::new(Self { pair, spki }), Arc::new(Nothing), Arc::new(Anybody)))
    }
}

impl TlsSigner for Stranger {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let signature =
            self.pair.sign(&SystemRandom::new(), message).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(signature.as_ref().to_vec())
    }
}

struct Nothing;

impl Attester for Nothing {
    async fn evidence(&self, _: Binding) -> Result<Evidence, BoxError> {
        Err("nobody's".into())
    }
}

struct Anybody;

impl Gatekeeper for Anybody {
    type Proof = ();

    fn admits(&self, _: &[u8]) -> Option<PillarId> {
        "p1".parse().ok()
    }

    fn judge(&self, _: &PillarId, _: Evidence, _: &Binding) -> Result<(), Refusal> {
        Ok(())
    }
}

/// One handshake after the other, none of which is waited for to its end.
async fn handshakes(end: &Endpoint<Nothing, Anybody>, port: u16) {
    let p1: PillarId = "p1".parse().expect("a name");
    loop {
        if let Ok(tcp) = connect_from_there(port).await {
            let (end, p1) = (end.clone(), p1.clone());
            tokio::spawn(async move { end.dial(tcp, &p1).await.map(drop) });
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The slowest of some attestations.
async fn attests(end: &End, port: u16) -> TestResult<Duration> {
    let p1: PillarId = "p1".parse()?;
    let mut slowest = Duration::ZERO;
    for _ in 0..TIMES {
        let begun = Instant::now();
        end.dial(connect(port).await, &p1).await?;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

/// The slowest of some operators.
async fn is_asked(lab: &Lab) -> TestResult<Duration> {
    let (operator, addr) = (&lab.operators[0], format!("127.0.0.1:{}", lab.pillars[0].operators_port));
    let mut slowest = Duration::ZERO;
    for _ in 0..TIMES {
        let begun = Instant::now();
        pillar_wire::client::connect(&addr, operator.certificate.as_bytes(), operator.key.as_bytes()).await?;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

// attack: P9 P13
#[tokio::test]
async fn one_address_that_floods_keeps_nobody_else_out() -> TestResult {
    let Some(mut lab) = Lab::new(2).await? else { return Ok(()) };
    lab.all_up().await?;
    // Its TPM serves the test from here on.
    lab.pillars[1].kill()?;
    let liar = Liar::new(&lab, 1)?;
    let (end, stranger) = (liar.end(), Stranger::end()?);
    let (peers, operators) = (lab.pillars[0].peers_port, lab.pillars[0].operators_port);
    let (attested, asked) = (attests(&end, peers).await?, is_asked(&lab).await?);

    let flood = async {
        tokio::join!(silence(peers), silence(operators), handshakes(&stranger, peers));
    };
    let others = async {
        sleep(BEFORE).await;
        TestResult::Ok((attests(&end, peers).await?, is_asked(&lab).await?))
    };
    let (flooded, asked_meanwhile) = tokio::select! {
        served = others => served.map_err(|error| format!("{error}\n{}", lab.logs()))?,
        () = flood => return Err("the flood ended".into()),
    };
    eprintln!("a member attests within {attested:?}, {flooded:?} in the flood");
    eprintln!("an operator is answered within {asked:?}, {asked_meanwhile:?} in the flood");
    assert!(flooded < attested + QUEUE, "{attested:?} became {flooded:?}");
    assert!(asked_meanwhile < asked + QUEUE, "{asked:?} became {asked_meanwhile:?}");
    Ok(())
}
