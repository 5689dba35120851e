//! The agent's end of TLS: version 1.3 alone, a certificate of its own that lives as long as the process, and clients
//! that show the certificate of an operator. What is compared is the public key; names, dates and issuers in the
//! certificates say nothing. No resumption, no tickets, no early data: each connection proves the key anew.

use crate::access::Access;
use pillar_model::OperatorKey;
use pillar_quorum::ImageOperators;
use pillar_wire::ALPN;
use pillar_wire::tls::{Verifier, restrict_server, spki};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, pki_types};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many operators there may be; each handshake compares with all of them.
const OPERATORS_MAX: usize = 64;
/// SubjectPublicKeyInfo of an Ed25519 key up to the key (RFC 8410).
const ED25519_SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// SubjectPublicKeyInfo of an uncompressed P-256 key up to the coordinates (RFC 5480).
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The own certificate cannot be made.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// The configuration is refused.
    #[error("TLS configuration refused")]
    Config(#[from] rustls::Error),
    /// The list of operators is not PEM.
    #[error("not a list of PEM certificates")]
    Pem(#[from] pki_types::pem::Error),
    /// Nobody could ever call.
    #[error("no certificate in it")]
    NoOperator,
    /// Too many.
    #[error("more than {OPERATORS_MAX} certificates")]
    TooMany,
    /// A certificate that cannot be read.
    #[error("certificate {number} cannot be read")]
    Certificate {
        /// Counted from 1.
        number: usize,
        /// Why.
        source: rustls::Error,
    },
    /// A key that is not of a kind that operators use.
    #[error("certificate {number} holds neither an Ed25519 nor a P-256 key")]
    Key {
        /// Counted from 1.
        number: usize,
    },
}

/// The agent's certificate and key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    /// SubjectPublicKeyInfo of the certificate.
    pub spki: Vec<u8>,
}

impl Identity {
    /// A new P-256 key with a self-signed certificate.
    pub fn generate() -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = CertificateParams::new(vec!["pillar".to_owned()])?.self_signed(&key)?;
        let certificate = certificate.der().clone();
        let spki = spki(&certificate)?;
        Ok(Self { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()), spki })
    }
}

/// The operators of the sealed image.
#[derive(Debug)]
pub struct Operators {
    spkis: Vec<Vec<u8>>,
}

impl Operators {
    /// Reads a list of PEM certificates; one that cannot be used makes the whole list unusable.
    pub fn parse(pem: &[u8]) -> Result<Self, Error> {
        let mut spkis = Vec::new();
        for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(pem)) {
            if number > OPERATORS_MAX {
                return Err(Error::TooMany);
            }
            let spki = spki(&certificate?).map_err(|source| Error::Certificate { number, source })?;
            if !is_operator_key(&spki) {
                return Err(Error::Key { number });
            }
            spkis.push(spki);
        }
        if spkis.is_empty() {
            return Err(Error::NoOperator);
        }
        Ok(Self { spkis })
    }
}

impl Operators {
    /// Who may found: those with keys that can sign entries, and how many others there are.
    pub fn founders(&self) -> ImageOperators {
        let distinct: BTreeSet<&Vec<u8>> = self.spkis.iter().collect();
        let signers: Vec<OperatorKey> = distinct.iter().filter_map(|spki| operator_key(spki)).collect();
        let others = distinct.len() - signers.len();
        ImageOperators::new(signers, others)
    }

    /// Whether this key (SubjectPublicKeyInfo) is one of them.
    pub fn contains(&self, spki: &[u8]) -> bool {
        self.spkis.iter().any(|known| known == spki)
    }
}

/// The key in a SubjectPublicKeyInfo, if it is one that can sign entries.
pub fn operator_key(spki: &[u8]) -> Option<OperatorKey> {
    spki.strip_prefix(ED25519_SPKI)?.try_into().ok().map(OperatorKey)
}

fn is_operator_key(spki: &[u8]) -> bool {
    let is = |prefix: &[u8], key: usize| spki.starts_with(prefix) && spki.len() == prefix.len() + key;
    is(ED25519_SPKI, 32) || is(P256_SPKI, 64)
}

/// Everything about the agent's end.
pub fn server_config(identity: &Identity, access: Arc<Access>) -> Result<ServerConfig, Error> {
    let key = PrivateKeyDer::Pkcs8(identity.key.clone_key());
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(access, &provider);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], key)?;
    restrict_server(&mut config, ALPN);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        CertificateParams::default().self_signed(&key).expect("a certificate").pem()
    }

    #[test]
    fn operators_have_ed25519_or_p256_keys() {
        let both = certificate(&rcgen::PKCS_ED25519) + &certificate(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(Operators::parse(both.as_bytes()).expect("two operators").spkis.len(), 2);
    }

    // attack: P15
    #[test]
    fn who_cannot_sign_is_counted_among_the_founders_all_the_same() {
        let [first, second] = [(); 2].map(|()| certificate(&PKCS_ECDSA_P256_SHA256));
        let pem = certificate(&rcgen::PKCS_ED25519) + &first + &second + &first;
        let operators = Operators::parse(pem.as_bytes()).expect("three operators");
        let founders = operators.founders();
        let signer = operator_key(&operators.spkis[0]).expect("an Ed25519 key");
        assert_eq!(founders, ImageOperators::new([signer], 2), "each key once");
    }

    #[test]
    fn a_list_with_one_bad_certificate_is_refused_whole() {
        let check = |pem: &str, words: &str| {
            let error = Operators::parse(pem.as_bytes()).expect_err(words);
            assert_eq!(error.to_string(), words);
        };
        let good = certificate(&rcgen::PKCS_ED25519);
        check("", "no certificate in it");
        check("no PEM at all", "no certificate in it");
        check(
            &(good.clone() + &certificate(&rcgen::PKCS_ECDSA_P384_SHA384)),
            "certificate 2 holds neither an Ed25519 nor a P-256 key",
        );
        check(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate 1 cannot be read",
        );
        check("-----BEGIN CERTIFICATE-----\nAAAA\n", "not a list of PEM certificates");
        check(&good.repeat(65), "more than 64 certificates");
    }
}
