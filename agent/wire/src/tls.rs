//! What all our ends of TLS have in common: version 1.3 alone, the other end's key judged by a function of ours, its
//! signature by rustls, one protocol, and no resumption, tickets or early data: each connection proves its keys anew.
//!
//! What a key must be, [`Judge`] says: an operator's, a member's, or anybody's who has it.

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use std::fmt;
use std::sync::Arc;

/// How ends show their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// In a certificate, of which the key alone counts.
    Certificate,
    /// By themselves (RFC 7250).
    RawKey,
}

/// Who may be at the other end.
pub trait Judge: Send + Sync {
    /// How it must show its key.
    const SHOWN: Shown;
    /// What it may sign the handshake with.
    const SCHEMES: &'static [SignatureScheme];

    /// Whether it may. `shown` is a certificate or a key, `more` what came behind it. Whether it has that key, the
    /// handshake's signature says.
    fn judge(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error>;
}

/// A judge as rustls wants one, for either end.
pub struct Verifier<J> {
    judge: Arc<J>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<J: Judge> Verifier<J> {
    /// A verifier that asks `judge` and has signatures checked by `provider`.
    pub fn new(judge: Arc<J>, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { judge, algorithms: provider.signature_verification_algorithms })
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match J::SHOWN {
            Shown::Certificate => verify_tls13_signature(message, shown, signature, &self.algorithms),
            Shown::RawKey => {
                let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
                verify_tls13_signature_with_raw_key(message, &spki, signature, &self.algorithms)
            }
        }
    }
}

impl<J> fmt::Debug for Verifier<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// What both of rustls' traits ask alike.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.check_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            J::SCHEMES.to_vec()
        }

        fn requires_raw_public_keys(&self) -> bool {
            J::SHOWN == Shown::RawKey
        }
    };
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge.judge(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl<J: Judge> ClientCertVerifier for Verifier<J> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge.judge(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}

/// A client's rules that are no question of keys.
pub fn restrict_client(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
}

/// A server's rules that are no question of keys.
pub fn restrict_server(config: &mut ServerConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

/// SubjectPublicKeyInfo (DER) of a certificate.
pub fn spki(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, rustls::Error> {
    Ok(ParsedCertificate::try_from(certificate)?.subject_public_key_info().to_vec())
}
