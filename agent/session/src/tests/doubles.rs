//! Pillars whose TPM is a pair of keys in memory. Their evidence is a hash over everything that evidence is bound to,
//! signed by the attestation key; the gatekeeper recomputes the hash from its own view of the connection.

use crate::{Attester, BoxError, Endpoint, Gatekeeper, PeerChannel, Refusal, TlsSigner};
use pillar_model::{Binding, Evidence, PillarId};
use pillar_verify::{Check, Rejection};
use pillar_wire::proto;
use pillar_wire::proto::peers_server::{Peers, PeersServer};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// SubjectPublicKeyInfo of an uncompressed P-256 key up to the point (RFC 5480).
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Where connections come from.
pub(super) const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Where others come from.
pub(super) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

pub(super) fn name(text: &str) -> PillarId {
    text.parse().expect("a good name")
}

/// A P-256 key in memory.
pub(super) struct Key {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
    random: SystemRandom,
    /// Signing fails.
    pub(super) broken: AtomicBool,
    /// How long signing blocks its thread.
    pub(super) slow: Duration,
    pub(super) signatures: AtomicUsize,
}

impl Key {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a new key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
            .expect("the key that was just made");
        let spki = [P256_SPKI, pair.public_key().as_ref()].concat();
        let (broken, signatures) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { pair, spki, random, broken, slow: Duration::ZERO, signatures }
    }

    pub(super) fn slow(duration: Duration) -> Self {
        Self { slow: duration, ..Self::new() }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl TlsSigner for Key {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("the TPM is in lockout"));
        }
        std::thread::sleep(self.slow);
        self.signatures.fetch_add(1, Ordering::SeqCst);
        let signature = self.pair.sign(&self.random, message).map_err(|_| io::Error::other("ring"))?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Everything that evidence is bound to.
pub(super) fn bound(binding: &Binding, evidence: &Evidence) -> Vec<u8> {
    let parts: [&[u8]; 8] = [
        &[binding.role as u8],
        &binding.nonce.0,
        &binding.exporter,
        &binding.attester_spki,
        &binding.verifier_spki,
        &evidence.event_log,
        &evidence.cel,
        &evidence.heartbeat_key,
    ];
    let hashes: Vec<u8> = parts.iter().flat_map(|part| digest(&SHA256, part).as_ref().to_vec()).collect();
    digest(&SHA256, &hashes).as_ref().to_vec()
}

/// What an attester does wrong.
#[derive(Debug, Clone, Default)]
pub(super) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The TPM fails.
    Fails,
    /// The TPM never answers.
    Hangs,
    /// Other logs are sent than were signed.
    SwapsLogs,
    /// The first answer again.
    Replays,
    /// Somebody else's answer.
    Shows(Box<Evidence>),
    /// Evidence is made for this.
    Binds(Box<dyn Change>),
    /// Another heartbeat key each time.
    NewHeartbeatKey,
}

/// A change to what evidence is made for.
pub(super) trait Change: Send + Sync + fmt::Debug {
    fn change(&self, binding: Binding) -> Binding;
    fn boxed(&self) -> Box<dyn Change>;
}

impl Clone for Box<dyn Change> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

/// One field replaced.
#[derive(Debug, Clone)]
pub(super) enum Replace {
    Exporter(Vec<u8>),
    Verifier(Vec<u8>),
    Nonce([u8; 32]),
    Role(pillar_model::Role),
}

impl Change for Replace {
    fn change(&self, binding: Binding) -> Binding {
        match self.clone() {
            Self::Exporter(exporter) => Binding { exporter, ..binding },
            Self::Verifier(verifier_spki) => Binding { verifier_spki, ..binding },
            Self::Nonce(nonce) => Binding { nonce: pillar_model::Nonce(nonce), ..binding },
            Self::Role(role) => Binding { role, ..binding },
        }
    }

    fn boxed(&self) -> Box<dyn Change> {
        Box::new(self.clone())
    }
}

/// Makes evidence with an attestation key in memory.
pub(super) struct Prover {
    pub(super) ak: Key,
    pub(super) log: Vec<u8>,
    pub(super) fault: Mutex<Fault>,
    /// All that it made, in order.
    pub(super) made: Mutex<Vec<Evidence>>,
}

impl Prover {
    pub(super) fn evidence_for(&self, binding: &Binding, heartbeat_key: [u8; 32]) -> Evidence {
        let mut evidence = Evidence {
            event_log: self.log.clone(),
            cel: b"init's log".to_vec(),
            heartbeat_key: heartbeat_key.to_vec(),
            ..Evidence::default()
        };
        evidence.attest = bound(binding, &evidence);
        evidence.signature = self.ak.sign(&evidence.attest).expect("signs");
        evidence
    }
}

impl Attester for Prover {
    async fn evidence(&self, binding: Binding) -> Result<Evidence, BoxError> {
        let fault = self.fault.lock().expect("not poisoned").clone();
        let good = self.evidence_for(&binding, [7; 32]);
        let evidence = match fault {
            Fault::None => good,
            Fault::Fails => return Err("the TPM gave up".into()),
            Fault::Hangs => std::future::pending().await,
            Fault::SwapsLogs => Evidence { event_log: b"another log".to_vec(), ..good },
            Fault::Replays => self.made.lock().expect("not poisoned").first().cloned().unwrap_or(good),
            Fault::Shows(evidence) => *evidence,
            Fault::Binds(change) => self.evidence_for(&change.change(binding), [7; 32]),
            Fault::NewHeartbeatKey => self.evidence_for(&binding, [8; 32]),
        };
        self.made.lock().expect("not poisoned").push(evidence.clone());
        Ok(evidence)
    }
}

/// What good evidence becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) of: PillarId,
}

/// A member's name and attestation key.
type Row = (PillarId, Vec<u8>);

/// The members of the cluster, as one pillar knows them.
#[derive(Default)]
pub(super) struct Members {
    rows: Mutex<BTreeMap<Vec<u8>, Row>>,
    /// Judging fails by itself, with this.
    pub(super) objects: Mutex<Option<fn() -> Refusal>>,
    pub(super) judged: AtomicUsize,
}

impl Members {
    pub(super) fn add(&self, pillar: &Pillar) {
        let row = (pillar.name.clone(), pillar.prover.ak.pair.public_key().as_ref().to_vec());
        self.rows.lock().expect("not poisoned").insert(pillar.key.spki.clone(), row);
    }

    pub(super) fn remove(&self, pillar: &Pillar) {
        self.rows.lock().expect("not poisoned").remove(&pillar.key.spki);
    }
}

pub(super) fn rejection(check: Check, reason: &str) -> Rejection {
    Rejection { check, pcr: None, event: None, changed: None, reason: reason.to_owned(), hint: check.hint() }
}

impl Gatekeeper for Members {
    type Proof = Proof;

    fn admits(&self, tls_spki: &[u8]) -> Option<PillarId> {
        self.rows.lock().expect("not poisoned").get(tls_spki).map(|(name, _)| name.clone())
    }

    fn judge(&self, peer: &PillarId, evidence: Evidence, binding: &Binding) -> Result<Proof, Refusal> {
        self.judged.fetch_add(1, Ordering::SeqCst);
        if let Some(objection) = *self.objects.lock().expect("not poisoned") {
            return Err(objection());
        }
        let rows = self.rows.lock().expect("not poisoned");
        let ak = rows.values().find(|(name, _)| name == peer).map(|(_, ak)| ak.clone());
        let ak = ak.ok_or_else(|| Refusal::Policy("the row is gone".to_owned()))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, ak)
            .verify(&evidence.attest, &evidence.signature)
            .map_err(|_| rejection(Check::Signature, "not by the member's key"))?;
        if evidence.attest != bound(binding, &evidence) {
            return Err(rejection(Check::Challenge, "made for something else").into());
        }
        Ok(Proof { of: peer.clone() })
    }
}

/// One pillar.
pub(super) struct Pillar {
    pub(super) name: PillarId,
    pub(super) key: Arc<Key>,
    pub(super) prover: Arc<Prover>,
    pub(super) members: Arc<Members>,
    pub(super) end: Endpoint<Prover, Members>,
}

impl Pillar {
    pub(super) fn new(called: &str) -> Self {
        Self::with(called, Key::new(), b"a log of the firmware".to_vec())
    }

    pub(super) fn with(called: &str, key: Key, log: Vec<u8>) -> Self {
        let key = Arc::new(key);
        let prover = Prover { ak: Key::new(), log, fault: Mutex::default(), made: Mutex::default() };
        let (prover, members) = (Arc::new(prover), Arc::new(Members::default()));
        let signer = Arc::clone(&key) as Arc<dyn TlsSigner>;
        let end = Endpoint::new(signer, Arc::clone(&prover), Arc::clone(&members));
        Self { name: name(called), key, prover, members, end }
    }

    pub(super) fn fault(&self, fault: Fault) {
        *self.prover.fault.lock().expect("not poisoned") = fault;
    }
}

/// Makes members of all of them, themselves too.
pub(super) fn introduce(pillars: &[&Pillar]) {
    for one in pillars {
        pillars.iter().for_each(|other| one.members.add(other));
    }
}

/// Two members.
pub(super) fn two() -> (Pillar, Pillar) {
    let (one, other) = (Pillar::new("p1"), Pillar::new("p2"));
    introduce(&[&one, &other]);
    (one, other)
}

/// What a pillar answers on an attested connection.
pub(super) struct Service {
    pub(super) end: Endpoint<Prover, Members>,
}

pub(super) fn service(pillar: &Pillar) -> PeersServer<Service> {
    PeersServer::new(Service { end: pillar.end.clone() })
}

fn channel<T>(request: &Request<T>) -> Arc<PeerChannel> {
    Arc::clone(request.extensions().get::<Arc<PeerChannel>>().expect("each request has its channel"))
}

type Replies = Box<dyn Stream<Item = Result<proto::BeatReply, Status>> + Send + Unpin>;

#[tonic::async_trait]
impl Peers for Service {
    type BeatStream = Replies;

    /// Answers each heartbeat.
    async fn beat(&self, request: Request<Streaming<proto::Heartbeat>>) -> Result<Response<Replies>, Status> {
        use tokio_stream::StreamExt as _;
        let beats = request.into_inner();
        Ok(Response::new(Box::new(beats.map(|beat| beat.map(|_| proto::BeatReply { sequence: 1 })))))
    }

    async fn reattest(
        &self,
        request: Request<proto::ReattestRequest>,
    ) -> Result<Response<proto::PeerEvidence>, Status> {
        let channel = channel(&request);
        self.end.answer(&channel, request.into_inner()).await.map(Response::new)
    }

    /// Serial 0: who asks, as an envelope. Any other: no answer, ever.
    async fn chain(
        &self,
        request: Request<proto::EntriesRequest>,
    ) -> Result<Response<proto::EntriesReply>, Status> {
        let asker = channel(&request).peer().to_string();
        if request.into_inner().from != 0 {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(proto::EntriesReply { envelopes: vec![asker.into_bytes()], pending: Vec::new() }))
    }
}
