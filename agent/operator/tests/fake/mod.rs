//! A pillar that answers as it was told to: no machine, no TPM, and the real rules about entries.

use pillar_model::{
    Action, Bank, Constitution, Digest, FirmwareReference, Member, OperatorEntry, PcrIndex, PcrPrediction,
    ReleasePredicate, RootHash, SecureBootKeys,
};
use pillar_quorum::{Cluster, Envelope, founding, propose_founding, replay};
use pillar_signer::{PassphraseFrom, Signer, Source};
use pillar_wire::proto;
use pillar_wire::proto::pillar_server::{Pillar, PillarServer};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::{Request, Response, Status};
use tower_service::Service as _;

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Operators with their keys in a folder, as `./just keys` leaves them.
pub struct Operators {
    pub entries: Vec<OperatorEntry>,
    signers: Vec<Signer>,
}

impl Operators {
    pub fn write(folder: &Path, names: &[&str]) -> Self {
        std::fs::create_dir_all(folder).expect("folder");
        let signers: Vec<Signer> = names.iter().map(|name| write_operator(folder, name)).collect();
        let entry = |(name, signer): (&&str, &Signer)| OperatorEntry {
            name: (*name).to_owned(),
            key: signer.public(),
        };
        Self { entries: names.iter().zip(&signers).map(entry).collect(), signers }
    }

    fn keys(&self) -> Vec<pillar_model::OperatorKey> {
        self.entries.iter().map(|operator| operator.key).collect()
    }

    fn sign(&self, envelope: &mut Envelope, count: usize) {
        for signer in self.signers.iter().take(count) {
            let signature = signer.sign(&envelope.pae()).expect("signed");
            envelope.add_signature(&signer.public(), signature).expect("added");
        }
    }
}

/// A key and its certificate.
fn write_operator(folder: &Path, name: &str) -> Signer {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = parameters.self_signed(&key).expect("certificate");
    std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("written");
    let path: PathBuf = folder.join(format!("{name}.key"));
    std::fs::write(&path, key.serialize_pem()).expect("written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, private).expect("private");
    Signer::open(&Source::File(path), &PassphraseFrom::default()).expect("a signer")
}

/// A row with made-up keys.
pub fn row(number: u8) -> Member {
    let pcrs = [0, 1, 2, 3, 5].map(|pcr| (PcrIndex::new(pcr).expect("a PCR"), Digest(vec![number; 32])));
    let firmware = FirmwareReference { pcrs: BTreeMap::from(pcrs), events: Vec::new() };
    Member {
        name: format!("p{number}").parse().expect("a name"),
        ek_public: Digest(vec![number; 122]),
        ek_certificate: Digest(vec![number; 32]),
        tpm_maker: None,
        ak_public: Digest(ecc_public(number)),
        tls_spki: Digest(vec![number; 91]),
        firmware: BTreeMap::from([(Bank::Sha256, firmware)]),
        state_volume: "open".to_owned(),
        addresses: vec![format!("10.77.0.{number}:7444")],
    }
}

/// `TPMT_PUBLIC` of a P-256 signing key: a key by its form alone.
fn ecc_public(number: u8) -> Vec<u8> {
    let head = [
        0x00, 0x23, 0x00, 0x0b, 0x00, 0x05, 0x04, 0x72, 0, 0, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0, 3, 0,
        0x10,
    ];
    let coordinate = [&[0, 32][..], &[number; 32]].concat();
    [&head[..], &coordinate, &coordinate].concat()
}

fn release() -> ReleasePredicate {
    let digest = Digest(vec![7; 32]);
    let after = BTreeMap::from([("ready".to_owned(), digest.clone())]);
    let prediction = PcrPrediction { fixed: BTreeMap::new(), uki_after_phase: after };
    ReleasePredicate {
        version: "0.1.0".to_owned(),
        flavour: "virt".to_owned(),
        epoch: 1,
        root_hash: RootHash([0xab; 32]),
        kernel: "6.12".to_owned(),
        cmdline: format!("roothash={}", "ab".repeat(32)),
        sizes_bytes: BTreeMap::new(),
        boot_applications: Vec::new(),
        pcrs: BTreeMap::from([(Bank::Sha256, prediction)]),
        secure_boot: SecureBootKeys { pk: digest.clone(), kek: digest.clone(), db: digest },
        packages: Vec::new(),
    }
}

/// The entries of a cluster of p1 to p3, made at that time, by a constitution that then lives for a year.
pub fn chain(operators: &Operators, made_unix_s: u64) -> Vec<Envelope> {
    chain_called("lab", operators, made_unix_s)
}

/// The same under another name.
pub fn chain_called(cluster: &str, operators: &Operators, made_unix_s: u64) -> Vec<Envelope> {
    let constitution = Constitution {
        version: 1,
        cluster: cluster.to_owned(),
        operators: operators.entries.clone(),
        threshold: 2,
        ek_roots: vec![Digest(vec![1; 100])],
        ek_intermediates: Vec::new(),
        ek_allowed: Vec::new(),
        denied_tpm_firmware: Vec::new(),
        dbx_required: Vec::new(),
        expires_unix_s: made_unix_s + 365 * 86_400,
    };
    let keys = operators.keys();
    let mut first = propose_founding(constitution, &keys, made_unix_s).expect("a founding");
    operators.sign(&mut first, 2);
    let mut cluster = Cluster::found(&first, &keys, made_unix_s).expect("founded");
    let mut envelopes = vec![first];
    let run = Action::Run { committed: Box::new(release()), trial: None };
    let admit = |number| Action::Admit { member: Box::new(row(number)), replaces: None };
    for action in std::iter::once(run).chain((1..=3).map(admit)) {
        let mut envelope = cluster.propose(action, made_unix_s).expect("a proposal");
        operators.sign(&mut envelope, 2);
        cluster = cluster.apply(&envelope, made_unix_s).expect("applied");
        envelopes.push(envelope);
    }
    envelopes
}

/// A proposal on top of a chain, signed by the first operator alone.
pub fn proposal(operators: &Operators, envelopes: &[Envelope], action: Action) -> Envelope {
    let cluster = replay(envelopes, &operators.keys()).expect("a chain");
    let mut envelope = cluster.propose(action, now()).expect("a proposal");
    operators.sign(&mut envelope, 1);
    envelope
}

/// A chain with one decision more, signed by two.
pub fn decided(operators: &Operators, envelopes: &[Envelope], action: Action) -> Vec<Envelope> {
    let mut envelope = proposal(operators, envelopes, action);
    operators.sign(&mut envelope, 2);
    [envelopes, &[envelope]].concat()
}

/// What the pillar has and says.
#[derive(Default)]
pub struct Mind {
    pub envelopes: Vec<Envelope>,
    pub pending: Vec<Envelope>,
    pub peers: Vec<proto::Peer>,
    /// What it finds when it is told to attest.
    pub attested: proto::Peer,
    /// The EK that it shows.
    pub ek: Vec<u8>,
    /// `date` of its replies, when it is not the true one.
    pub date: Option<&'static str>,
    pub keys: Vec<pillar_model::OperatorKey>,
}

impl Mind {
    /// A pillar that has these entries, perhaps none.
    pub fn of(operators: &Operators, envelopes: Vec<Envelope>) -> Self {
        Self { envelopes, keys: operators.keys(), ..Self::default() }
    }

    fn cluster(&self) -> Option<Cluster> {
        replay(&self.envelopes, &self.keys).ok()
    }

    fn view(&self) -> proto::ClusterReply {
        let Some(cluster) = self.cluster() else { return proto::ClusterReply::default() };
        let constitution = cluster.constitution();
        proto::ClusterReply {
            founded: true,
            cluster: constitution.cluster.clone(),
            constitution_version: constitution.version,
            constitution_expires_unix_s: constitution.expires_unix_s,
            threshold: constitution.threshold,
            serial: cluster.serial(),
            head: cluster.head().0.clone(),
            committed: "0.1.0".to_owned(),
            own_name: "p1".to_owned(),
            peers: self.peers.clone(),
            period_ms: 2000,
            ..proto::ClusterReply::default()
        }
    }

    fn take(&mut self, envelope: Envelope) -> Result<proto::SubmitReply, String> {
        let reply = |serial, count: &pillar_quorum::Count, applied| proto::SubmitReply {
            serial,
            have: u32::try_from(count.have()).expect("few"),
            needed: u32::try_from(count.needed).expect("few"),
            applied,
        };
        let (serial, tally) = match self.cluster() {
            None => (0, founding(&envelope, &self.keys, now())),
            Some(cluster) => (cluster.serial() + 1, cluster.needed(&envelope, now())),
        };
        let tally = tally.map_err(|refusal| refusal.to_string())?;
        if tally.enough() {
            self.envelopes.push(envelope);
            self.pending.clear();
        } else {
            self.pending = vec![envelope];
        }
        Ok(reply(serial, &tally.current, tally.enough()))
    }
}

/// The service over a shared mind.
#[derive(Clone)]
struct Fake(Arc<Mutex<Mind>>);

impl Fake {
    fn reply<T>(&self, make: impl FnOnce(&mut Mind) -> Result<T, Status>) -> Result<Response<T>, Status> {
        let mut mind = self.0.lock().expect("whole");
        let mut response = Response::new(make(&mut mind)?);
        if let Some(date) = mind.date {
            response.metadata_mut().insert("date", date.parse().expect("ASCII"));
        }
        Ok(response)
    }
}

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("a made-up pillar"))
}

#[tonic::async_trait]
impl Pillar for Fake {
    type LogsStream = tokio_stream::Empty<Result<proto::LogRecord, Status>>;

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        self.reply(|_| {
            Ok(proto::StatusReply {
                name: "p1".to_owned(),
                version: "0.1.0".to_owned(),
                flavour: "virt".to_owned(),
                slot: "a".to_owned(),
                root_hash: vec![0xab; 32],
                kernel: "6.12".to_owned(),
                tpm: "present".to_owned(),
                workload: Some(proto::Workload { state: "none".to_owned(), ..proto::Workload::default() }),
                agent_starts: 1,
                ..proto::StatusReply::default()
            })
        })
    }
    async fn cluster(
        &self,
        _: Request<proto::ClusterRequest>,
    ) -> Result<Response<proto::ClusterReply>, Status> {
        self.reply(|mind| Ok(mind.view()))
    }
    async fn entries(
        &self,
        request: Request<proto::EntriesRequest>,
    ) -> Result<Response<proto::EntriesReply>, Status> {
        let from = usize::try_from(request.into_inner().from).expect("few");
        self.reply(|mind| {
            let json = |envelope: &Envelope| envelope.to_json().into_bytes();
            // Two at a time, as if no more fitted.
            let envelopes = mind.envelopes.iter().skip(from).take(2).map(json).collect();
            Ok(proto::EntriesReply { envelopes, pending: mind.pending.iter().map(json).collect() })
        })
    }
    async fn submit(
        &self,
        request: Request<proto::SubmitRequest>,
    ) -> Result<Response<proto::SubmitReply>, Status> {
        let envelope = Envelope::parse(&request.into_inner().envelope).expect("an envelope");
        self.reply(|mind| mind.take(envelope).map_err(Status::failed_precondition))
    }
    async fn attest_peer(
        &self,
        _: Request<proto::AttestPeerRequest>,
    ) -> Result<Response<proto::Peer>, Status> {
        self.reply(|mind| Ok(mind.attested.clone()))
    }

    async fn identity(
        &self,
        _: Request<proto::IdentityRequest>,
    ) -> Result<Response<proto::IdentityReply>, Status> {
        self.reply(|mind| {
            Ok(proto::IdentityReply { ek_public: mind.ek.clone(), ..proto::IdentityReply::default() })
        })
    }
    async fn evidence(
        &self,
        _: Request<proto::EvidenceRequest>,
    ) -> Result<Response<proto::EvidenceReply>, Status> {
        Err(Status::failed_precondition("no TPM"))
    }
    async fn logs(&self, _: Request<proto::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        no()
    }
    async fn reboot(&self, _: Request<proto::RebootRequest>) -> Result<Response<proto::RebootReply>, Status> {
        no()
    }
    async fn state(&self, _: Request<proto::StateRequest>) -> Result<Response<proto::StateReply>, Status> {
        no()
    }
    async fn offer_share(
        &self,
        _: Request<proto::OfferShareRequest>,
    ) -> Result<Response<proto::OfferShareReply>, Status> {
        no()
    }
    async fn erase_state(
        &self,
        _: Request<proto::EraseStateRequest>,
    ) -> Result<Response<proto::EraseStateReply>, Status> {
        no()
    }
}

/// Whom it serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    Everybody,
    Nobody,
}

/// Starts it; it ends with the test's process.
pub fn start(mind: Mind, serves: Serves) -> (SocketAddr, Arc<Mutex<Mind>>) {
    let mind = Arc::new(Mutex::new(mind));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let fake = Fake(Arc::clone(&mind));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(listener, fake, serves));
    });
    (addr, mind)
}

async fn serve(listener: TcpListener, fake: Fake, serves: Serves) {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls_config(serves)));
    listener.set_nonblocking(true).expect("not blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let (tls, server) = (tls.clone(), PillarServer::new(fake.clone()));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(tcp).await else { return };
            let service = hyper::service::service_fn(move |request| server.clone().call(request));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn tls_config(serves: Serves) -> rustls::ServerConfig {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3");
    let builder = match serves {
        Serves::Everybody => builder.with_no_client_auth(),
        Serves::Nobody => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certificate.der().clone()).expect("a root");
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let private = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], private).expect("a config");
    config.alpn_protocols = vec![pillar_wire::ALPN.to_vec()];
    config
}
