//! Who an NTS server is: whom the node settings trust by the digest of a key, and when certificates are valid for a machine
//! that does not know the time yet.
//!
//! The image holds no list of authorities, and needs none: whoever operates pillars names the key beside the server, so
//! that one server's key says nothing about another. A digest is 71 characters where a certificate is about as long as
//! node settings may be altogether. It is the server's own key, and then a certificate says nothing more: no name, no
//! dates, as in RFC 7858 section 4.2. Or it is an authority's, whose certificate the server sends along, and then everything
//! is checked: signatures, name, usage, dates.
//!
//! Dates cannot be checked by a clock that is not set. So a certificate counts in the handshake when there is a moment
//! after this software was made at which all of the chain is valid, and it is checked again, for good, at the time that the
//! server then tells and proves. Once proven answers have set the clock, the handshake goes by the clock. What remains
//! possible (RFC 8915 section 8.5): who holds the key of a certificate that expired since this software was made can claim
//! that it is not expired yet.

use pillar_model::KeyPin;
use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// Longer chains are not looked at.
const CHAIN_MAX: usize = 8;
/// How often the moment is moved into some certificate's time: every certificate of a chain may move it twice.
const MOVES_MAX: usize = 2 * CHAIN_MAX;

/// Why a server is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Keys that the settings do not name.
    #[error("the node settings name none of its keys ({0})")]
    UnknownKey(String),
    /// No chain to the key, another name, another purpose.
    #[error("its certificate is not valid: {0}")]
    Certificate(String),
    /// Its certificates are never valid together, or not since this software was made.
    #[error("there is no time after the release of this software at which its certificates are valid")]
    NoMoment,
    /// Not valid at this time.
    #[error("its certificate is not valid at the time {0} (seconds since 1970)")]
    Date(u64),
    /// Something that we did not ask for.
    #[error("it does not speak TLS 1.3")]
    Version,
}

/// What is known of the time when a certificate is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Our clock, seconds since 1970.
    pub unix_s: u64,
    /// No true time is before this.
    pub earliest_unix_s: u64,
    /// The clock was set by proven answers.
    pub is_proven: bool,
}

/// By what a server is trusted.
#[derive(Debug, Clone)]
enum Anchor {
    /// Its own key is named.
    Key,
    /// The key of an authority is named that vouches for it.
    Authority(Arc<WebPkiServerVerifier>),
}

/// A server's certificates, and why they count.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The server's own first, then those between it and the authority.
    certificates: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
    anchor: Anchor,
}

impl Chain {
    /// Finds a key that is named. Nothing is verified yet but that.
    pub fn new(
        certificates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        keys: &[KeyPin],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TrustError> {
        let certificates: Vec<_> =
            certificates.iter().take(CHAIN_MAX).map(|certificate| certificate.clone().into_owned()).collect();
        let pins: Vec<Option<KeyPin>> = certificates.iter().map(pin).collect();
        let is_named = |pin: &Option<KeyPin>| pin.is_some_and(|pin| keys.contains(&pin));
        if !pins.iter().any(is_named) {
            let told: Vec<String> = pins.iter().flatten().map(ToString::to_string).collect();
            return Err(TrustError::UnknownKey(told.join(", ")));
        }
        if pins.first().is_some_and(is_named) {
            return Ok(Self { certificates, name: name.to_owned(), anchor: Anchor::Key });
        }
        let (authorities, others): (Vec<_>, Vec<_>) =
            certificates.into_iter().zip(&pins).partition(|(_, pin)| is_named(pin));
        let authorities = authorities.into_iter().map(|(certificate, _)| certificate);
        Ok(Self {
            certificates: others.into_iter().map(|(certificate, _)| certificate).collect(),
            name: name.to_owned(),
            anchor: Anchor::Authority(verifier(authorities, provider)?),
        })
    }

    /// Everything but who holds the key: that is what TLS proves.
    fn check(&self, clock: Clock) -> Result<(), TrustError> {
        if clock.is_proven {
            return self.is_valid_at(clock.unix_s);
        }
        let mut at = clock.unix_s.max(clock.earliest_unix_s);
        for _ in 0..MOVES_MAX {
            at = match self.verify(at) {
                Ok(()) if at >= clock.earliest_unix_s => return Ok(()),
                Ok(()) => return Err(TrustError::NoMoment),
                Err(CertificateError::ExpiredContext { not_after, .. }) => not_after.as_secs(),
                Err(CertificateError::NotValidYetContext { not_before, .. }) => not_before.as_secs(),
                Err(error) => return Err(invalid(&error)),
            };
        }
        Err(TrustError::NoMoment)
    }

    /// Refuses when the time that the server proved is not one at which it may prove anything.
    pub fn is_valid_at(&self, unix_s: u64) -> Result<(), TrustError> {
        self.verify(unix_s).map_err(|error| match error {
            CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::NotValidYet => TrustError::Date(unix_s),
            error => invalid(&error),
        })
    }

    fn verify(&self, unix_s: u64) -> Result<(), CertificateError> {
        let Anchor::Authority(verifier) = &self.anchor else { return Ok(()) };
        let (end, others) = self.certificates.split_first().ok_or(CertificateError::BadEncoding)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(unix_s));
        match verifier.verify_server_cert(end, others, &self.name, &[], at) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(_) => Err(CertificateError::BadEncoding),
        }
    }
}

fn invalid(error: &CertificateError) -> TrustError {
    TrustError::Certificate(match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the authority that the node settings name did not sign it".to_owned()
        }
        error => error.to_string(),
    })
}

/// Digest of a certificate's key; none when it is no certificate.
fn pin(certificate: &CertificateDer<'_>) -> Option<KeyPin> {
    let key = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
    digest(&SHA256, &key).as_ref().try_into().ok().map(KeyPin)
}

/// Trusts these authorities: keys that are named, in certificates that anybody may have sent. What only such a certificate
/// says (its dates, its constraints) is nobody's word; what the key signed is.
fn verifier(
    authorities: impl Iterator<Item = CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TrustError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| TrustError::Certificate(error.to_string()))?;
    }
    WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .build()
        .map_err(|error| TrustError::Certificate(error.to_string()))
}

/// What the handshake asks.
#[derive(Debug)]
pub struct Pinned {
    /// Keys that the node settings name.
    pub keys: Vec<KeyPin>,
    /// What is known of the time.
    pub clock: Clock,
    /// The cryptography.
    pub provider: Arc<CryptoProvider>,
}

fn refused(error: TrustError) -> rustls::Error {
    rustls::Error::Other(OtherError(Arc::new(error)))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificates: Vec<_> = [end_entity].into_iter().chain(intermediates).cloned().collect();
        let chain = Chain::new(&certificates, server_name, &self.keys, &self.provider).map_err(refused)?;
        chain.check(self.clock).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refused(TrustError::Version))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
