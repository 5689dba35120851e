//! A pillar's TPM in the wrong hands: it has the member's true keys, speaks as a member does, and shows what it likes.
#![allow(dead_code, reason = "each test program uses a part")]

use crate::lab::{Lab, TestResult, boot, own_log};
use pillar_layout::pcr;
use pillar_model::{Bank, Binding, Evidence, PcrIndex, PillarId};
use pillar_quorum::Cluster;
use pillar_session::{BoxError, Endpoint, Gatekeeper, Refusal, TlsSigner};
use pillar_tpm::{Clock, Quote, Tpm};
use pillar_wire::proto;
use prost::Message as _;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Quotes these PCRs over this, with whatever key it has.
pub type Quotes = dyn Fn(&[PcrIndex], &[u8; 32]) -> TestResult<Quote> + Send + Sync;

/// What is shown as evidence.
#[derive(Clone)]
pub enum Shows {
    /// What an honest pillar would show.
    Truth,
    /// What it showed the last time, for another challenge: an old quote.
    TheLast,
    /// The right words, quoted by another key.
    Another(Arc<Quotes>),
}

/// A member that is not what it was.
pub struct Liar {
    name: PillarId,
    tpm: Mutex<Tpm>,
    clock: Clock,
    spki: Vec<u8>,
    cluster: Cluster,
    key: Ed25519KeyPair,
    shows: Mutex<Shows>,
    last: Mutex<Option<Evidence>>,
}

/// Its end of connections.
pub type End = Endpoint<Proves, Believes>;

impl Liar {
    /// In place of that pillar's agent, which is dead.
    pub fn new(lab: &Lab, index: usize) -> TestResult<Arc<Self>> {
        let mut tpm = Tpm::open(&lab.pillars[index].tap.tcti)?;
        tpm.identity()?;
        let row = lab.cluster.member(&lab.pillars[index].name).ok_or("a row")?;
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|e| e.to_string())?;
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).map_err(|e| e.to_string())?;
        let (clock, spki, cluster) = (tpm.clock()?, row.tls_spki.0.clone(), lab.cluster.clone());
        let (name, tpm) = (row.name.clone(), Mutex::new(tpm));
        let (shows, last) = (Mutex::new(Shows::Truth), Mutex::default());
        Ok(Arc::new(Self { name, tpm, clock, spki, cluster, key, shows, last }))
    }

    pub fn end(self: &Arc<Self>) -> End {
        let signer = Arc::new(Signs(Arc::clone(self)));
        Endpoint::new(signer, Arc::new(Proves(Arc::clone(self))), Arc::new(Believes(Arc::clone(self))))
    }

    /// From now on.
    pub fn shows(&self, shows: Shows) {
        *self.shows.lock().expect("not poisoned") = shows;
    }

    /// As an honest member would send it.
    pub fn heartbeat(&self, sequence: u64) -> proto::Heartbeat {
        self.says(sequence, self.cluster.serial(), &self.cluster.head().0)
    }

    /// One that says that there is more than anybody has.
    pub fn boast(&self, sequence: u64) -> proto::Heartbeat {
        self.says(sequence, u64::MAX, &[1; 32])
    }

    fn says(&self, sequence: u64, serial: u64, head: &[u8]) -> proto::Heartbeat {
        let body = proto::HeartbeatBody {
            name: self.name.to_string(),
            sequence,
            reset_count: self.clock.reset_count,
            restart_count: self.clock.restart_count,
            serial,
            head: head.to_vec(),
            slot: "a".to_owned(),
            workload: "healthy".to_owned(),
            ..proto::HeartbeatBody::default()
        };
        let body = body.encode_to_vec();
        let signature = self.key.sign(&[b"pillar-heartbeat-v1\0", body.as_slice()].concat());
        proto::Heartbeat { body, signature: signature.as_ref().to_vec() }
    }

    fn evidence(&self, binding: &Binding) -> TestResult<Evidence> {
        let shows = self.shows.lock().expect("not poisoned").clone();
        if let Shows::TheLast = shows {
            return Ok(self.last.lock().expect("not poisoned").clone().ok_or("it has shown nothing yet")?);
        }
        let (event_log, cel) = (boot::EVENT_LOG.to_vec(), own_log().into_bytes());
        let heartbeat_key = self.key.public_key().as_ref().to_vec();
        let qualifying = pillar_verify::qualifying_data(binding, &event_log, &cel, &heartbeat_key);
        let pcrs = pcr::QUOTED.map(|number| PcrIndex::new(number).expect("below 24"));
        // Held also while somebody else uses the TPM.
        let mut tpm = self.tpm.lock().expect("not poisoned");
        let Quote { attest, signature } = match &shows {
            Shows::Another(quotes) => quotes(&pcrs, &qualifying)?,
            _ => tpm.quote(Bank::Sha256, &pcrs, &qualifying)?,
        };
        let shown = Evidence { attest, signature, event_log, cel, heartbeat_key, ..Evidence::default() };
        *self.last.lock().expect("not poisoned") = Some(shown.clone());
        Ok(shown)
    }
}

struct Signs(Arc<Liar>);

impl fmt::Debug for Signs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signs")
    }
}

impl TlsSigner for Signs {
    fn spki(&self) -> &[u8] {
        &self.0.spki
    }

    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let hash = digest(&SHA256, message).as_ref().try_into().expect("32 bytes");
        self.0.tpm.lock().expect("not poisoned").sign_tls(&hash).map_err(io::Error::other)
    }
}

pub struct Proves(Arc<Liar>);

impl pillar_session::Attester for Proves {
    async fn evidence(&self, binding: Binding) -> Result<Evidence, BoxError> {
        let liar = Arc::clone(&self.0);
        let made = spawn_blocking(move || liar.evidence(&binding).map_err(|error| error.to_string()));
        Ok(made.await??)
    }
}

/// Whoever is a member, whatever it shows.
pub struct Believes(Arc<Liar>);

impl Gatekeeper for Believes {
    type Proof = ();

    fn admits(&self, tls_spki: &[u8]) -> Option<PillarId> {
        self.0.cluster.member_by_tls(tls_spki).map(|row| row.name.clone())
    }

    fn judge(&self, _: &PillarId, _: Evidence, _: &Binding) -> Result<(), Refusal> {
        Ok(())
    }
}

pub async fn connect(port: u16) -> TcpStream {
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(tcp) => return tcp,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
