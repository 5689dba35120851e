//! TLS between pillars: version 1.3 alone, raw public keys (RFC 7250) at both ends, P-256 with SHA-256 as the only
//! signature, one ALPN protocol that must be agreed on, and no resumption, tickets or early data: each connection proves
//! both keys anew.
//!
//! A configuration is made for each connection, because its verifier remembers why it refused: TLS carries an alert and
//! no reason.

use crate::error::{Error, MEMBERSHIP, Refusal, Step};
use crate::{Gatekeeper, TlsSigner};
use pillar_model::PillarId;
use pillar_verify::{EXPORTER_BYTES, EXPORTER_LABEL};
use pillar_wire::tls::{Judge, Shown, Verifier, restrict_client, restrict_server};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    AlertDescription, CertificateError, CipherSuite, ClientConfig, CommonState, HandshakeKind, OtherError,
    ProtocolVersion, ServerConfig, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite, version,
};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsStream;

/// The one protocol of ALPN: frames, then HTTP/2, both as in this crate.
pub(crate) const ALPN: &[u8] = b"pillar-peer/1";
/// The only signature.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// The configuration of the end that dials.
pub(crate) fn client_config<G: Gatekeeper>(
    signer: &Arc<dyn TlsSigner>,
    door: &Arc<Door<G>>,
) -> Result<ClientConfig, rustls::Error> {
    let own = AlwaysResolvesClientRawPublicKeys::new(certified(signer));
    let provider = provider();
    let verifier = Verifier::new(Arc::clone(door), &provider);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(own));
    restrict_client(&mut config, ALPN);
    Ok(config)
}

/// The configuration of the end that accepts.
pub(crate) fn server_config<G: Gatekeeper>(
    signer: &Arc<dyn TlsSigner>,
    door: &Arc<Door<G>>,
) -> Result<ServerConfig, rustls::Error> {
    let own = AlwaysResolvesServerRawPublicKeys::new(certified(signer));
    let provider = provider();
    let verifier = Verifier::new(Arc::clone(door), &provider);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(own));
    restrict_server(&mut config, ALPN);
    Ok(config)
}

/// The name in the configuration's interface; it is neither sent nor looked at.
pub(crate) fn nobody() -> ServerName<'static> {
    ServerName::try_from("pillar").expect("a host name")
}

/// Both ends' demands on a finished handshake that rustls leaves open.
pub(crate) fn check_agreed(tls: &CommonState) -> Result<(), &'static str> {
    if tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err("not TLS 1.3");
    }
    if tls.alpn_protocol() != Some(ALPN) {
        return Err("it does not speak pillar-peer/1 (ALPN)");
    }
    if !matches!(tls.handshake_kind(), Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)) {
        return Err("not a full handshake");
    }
    Ok(())
}

/// SubjectPublicKeyInfo (DER) that the other end proved.
pub(crate) fn peer_spki(tls: &CommonState) -> Option<&[u8]> {
    tls.peer_certificates()?.first().map(|key| key.as_ref())
}

/// What both ends of this connection alone can compute.
pub(crate) fn exporter<S>(tls: &TlsStream<S>) -> Result<[u8; EXPORTER_BYTES], rustls::Error> {
    let empty = [0; EXPORTER_BYTES];
    match tls {
        TlsStream::Client(end) => end.get_ref().1.export_keying_material(empty, EXPORTER_LABEL, None),
        TlsStream::Server(end) => end.get_ref().1.export_keying_material(empty, EXPORTER_LABEL, None),
    }
}

/// What an I/O error of a TLS stream means.
pub(crate) fn failure(peer: Option<&PillarId>, step: Step, source: io::Error) -> Error {
    let peer = peer.cloned();
    match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        None => Error::Broken { step, source },
        Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied)) => Error::RefusedByPeer {
            peer,
            check: MEMBERSHIP.to_owned(),
            reason: "this pillar's TLS key is not the one that it expects of a member".to_owned(),
        },
        Some(rustls::Error::Other(OtherError(own))) if own.is::<CannotSign>() => {
            Error::Own { what: "sign the TLS handshake", source: source.into() }
        }
        // Whoever changes a byte on the way causes this as well: no member is to blame.
        Some(error) => Error::Protocol { peer: None, step, reason: error.to_string() },
    }
}

fn certified(signer: &Arc<dyn TlsSigner>) -> Arc<CertifiedKey> {
    let spki = CertificateDer::from(signer.spki().to_vec());
    Arc::new(CertifiedKey::new(vec![spki], Arc::new(OwnKey(Arc::clone(signer)))))
}

/// The own key, whose private part is wherever the signer has it.
#[derive(Debug, Clone)]
struct OwnKey(Arc<dyn TlsSigner>);

/// The signer's error, so that it is told apart from the other end's faults.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign")]
struct CannotSign(#[source] io::Error);

impl SigningKey for OwnKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SCHEME).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.spki().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for OwnKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message).map_err(|error| OtherError(Arc::new(CannotSign(error))).into())
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

/// Who may pass on one connection, and why it was refused.
pub(crate) struct Door<G> {
    gatekeeper: Arc<G>,
    own_spki: Vec<u8>,
    /// The member that is dialled; none on connections that are accepted.
    expected: Option<PillarId>,
    refusal: Mutex<Option<Refusal>>,
}

impl<G: Gatekeeper> Door<G> {
    pub(crate) fn new(gatekeeper: &Arc<G>, own_spki: &[u8], expected: Option<&PillarId>) -> Arc<Self> {
        Arc::new(Self {
            gatekeeper: Arc::clone(gatekeeper),
            own_spki: own_spki.to_vec(),
            expected: expected.cloned(),
            refusal: Mutex::new(None),
        })
    }

    /// Whose key it is, if it may pass.
    pub(crate) fn admit(&self, spki: &[u8]) -> Result<PillarId, Refusal> {
        if spki == self.own_spki {
            return Err(Refusal::OwnKey);
        }
        let found = self.gatekeeper.admits(spki).ok_or_else(|| Refusal::stranger(spki))?;
        match &self.expected {
            Some(expected) if *expected != found => {
                Err(Refusal::OtherMember { expected: expected.clone(), found })
            }
            _ => Ok(found),
        }
    }

    /// Why the handshake was refused by this end, if it was.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Without instructions for it AES is slow, and a machine without them is one whose time is dear.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !has_aes() {
        let is_chacha =
            |suite: &SupportedCipherSuite| suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
        provider.cipher_suites.sort_by_key(|suite| !is_chacha(suite));
    }
    provider
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::is_x86_feature_detected!("aes")
}

/// Some boards' processors (Raspberry Pi 4) lack the cryptographic extension.
#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

/// Nothing is known: the cipher that is quick everywhere.
#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

impl<G> fmt::Debug for Door<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl<G: Gatekeeper> Judge for Door<G> {
    const SHOWN: Shown = Shown::RawKey;
    const SCHEMES: &'static [SignatureScheme] = &[SCHEME];

    fn judge(&self, key: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !more.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        self.admit(key).map(drop).map_err(|refusal| {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
            // Its alert is access_denied, by which the other end knows.
            CertificateError::ApplicationVerificationFailure.into()
        })
    }
}
