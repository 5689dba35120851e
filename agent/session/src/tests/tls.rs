//! The handshake: what it demands of the other end.

use super::doubles::{Key, Pillar, SOMEWHERE, two};
use super::kinds::Kind;
use super::raw::{client_config, server_config, tls_connect};
use super::refused::error;
use crate::tls::ALPN;
use crate::{Error, TlsSigner};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

/// What `p2` says when somebody with this configuration calls.
async fn calls(other: &Pillar, config: ClientConfig) -> Error {
    let (near, far) = duplex(16 * 1024);
    let stranger = async {
        // In TLS 1.3 the client is done before it is judged.
        if let Ok(mut tls) = tls_connect(&Arc::new(config), near).await {
            let _ = tls.read_to_end(&mut Vec::new()).await;
        }
    };
    error(tokio::join!(other.end.accept(far, SOMEWHERE), stranger).0)
}

/// What `p1` says when somebody with this configuration answers in the name of `p2`.
async fn answers(one: &Pillar, other: &Pillar, config: ServerConfig) -> Error {
    let (near, far) = duplex(16 * 1024);
    let stranger = async {
        if let Ok(mut tls) = TlsAcceptor::from(Arc::new(config)).accept(far).await {
            let _ = tls.read_to_end(&mut Vec::new()).await;
        }
    };
    error(tokio::join!(one.end.dial(near, &other.name), stranger).0)
}

#[track_caller]
fn assert_protocol(error: &Error, words: &str) {
    assert_eq!(error.kind(), Kind::Protocol, "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

// attack: P13
#[tokio::test(start_paused = true)]
async fn the_protocol_must_be_agreed_on() {
    let (one, other) = two();
    for offered in [vec![], vec![b"h2".to_vec()], vec![b"pillar-peer/2".to_vec()]] {
        let mut config = client_config(&one, &other);
        config.alpn_protocols.clone_from(&offered);
        let words = if offered.is_empty() { "ALPN" } else { "known protocol" };
        assert_protocol(&calls(&other, config).await, words);
        let mut config = server_config(&other, &one);
        config.alpn_protocols = offered;
        assert_eq!(answers(&one, &other, config).await.kind(), Kind::Protocol);
    }
    let mut config = client_config(&one, &other);
    config.alpn_protocols = vec![b"h2".to_vec(), ALPN.to_vec()];
    assert_eq!(calls(&other, config).await.kind(), Kind::Unreachable, "agreed, then left");
}

// attack: B4
#[tokio::test]
async fn who_shows_no_key_or_a_certificate_is_refused() {
    let (one, other) = two();
    let mut config = client_config(&one, &other);
    config.client_auth_cert_resolver = Arc::new(NoKey);
    let found = calls(&other, config).await;
    assert_eq!((found.kind(), found.peer()), (Kind::Protocol, None), "{found:?}");

    // Says that it has a raw key, and sends none.
    let mut config = client_config(&one, &other);
    config.client_auth_cert_resolver = Arc::new(NoRawKey);
    assert_protocol(&calls(&other, config).await, "no certificates");
}

/// No key, and no word of raw ones.
#[derive(Debug)]
struct NoKey;
/// No key after all.
#[derive(Debug)]
struct NoRawKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

impl rustls::client::ResolvesClientCert for NoRawKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        true
    }
    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

/// A member's key in public, another one in private.
#[derive(Debug)]
struct Impostor {
    shows: Vec<u8>,
    has: Key,
}

impl TlsSigner for Impostor {
    fn spki(&self) -> &[u8] {
        &self.shows
    }
    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        self.has.sign(message)
    }
}

// attack: B2
#[tokio::test]
async fn who_shows_a_member_s_key_without_having_it_is_refused() {
    use crate::tls::{Door, client_config, server_config};
    let (one, other) = two();
    let impostor = |of: &Pillar| -> Arc<dyn TlsSigner> {
        Arc::new(Impostor { shows: of.key.spki().to_vec(), has: Key::new() })
    };
    let door = Door::new(&one.members, one.key.spki(), Some(&other.name));
    let found = calls(&other, client_config(&impostor(&one), &door).expect("a configuration")).await;
    assert_protocol(&found, "BadSignature");
    assert_eq!(found.peer(), None, "anybody could do that");
    let door = Door::new(&other.members, other.key.spki(), Some(&one.name));
    let found =
        answers(&one, &other, server_config(&impostor(&other), &door).expect("a configuration")).await;
    assert_protocol(&found, "BadSignature");
    assert_eq!(found.peer(), None, "anybody could do that");
}

/// A TLS handshake that must succeed, and what happens then is no matter.
async fn handshake(config: &Arc<ClientConfig>, other: &Pillar) -> (Option<HandshakeKind>, u32) {
    let (near, far) = duplex(16 * 1024);
    let end = other.end.clone();
    let accepting = tokio::spawn(async move { end.accept(far, SOMEWHERE).await.map(drop) });
    let mut tls = tls_connect(config, near).await.expect("a handshake");
    // The server's first frame comes behind any ticket.
    tls.read_u32().await.expect("a hello");
    let (_, session) = tls.get_ref();
    let found = (session.handshake_kind(), session.tls13_tickets_received());
    drop(tls);
    error(accepting.await.expect("no panic"));
    found
}

// attack: P13
#[tokio::test]
async fn nothing_is_resumed() {
    let (one, other) = two();
    let mut config = client_config(&one, &other);
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..3 {
        assert_eq!(handshake(&config, &other).await, (Some(HandshakeKind::Full), 0));
    }
    // A server that hands out tickets gets none of them back.
    let mut config = server_config(&other, &one);
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    config.send_tls13_tickets = 2;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    for _ in 0..2 {
        let (near, far) = duplex(16 * 1024);
        let end = one.end.clone();
        let name = other.name.clone();
        let dialling = tokio::spawn(async move { end.dial(near, &name).await.map(drop) });
        let mut tls = acceptor.accept(far).await.expect("a handshake");
        tls.read_u32().await.expect("a hello");
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        drop(tls);
        error(dialling.await.expect("no panic"));
    }
}

/// A ClientHello of TLS 1.2 (RFC 5246 section 7.4.1.2) with the one cipher suite that all have.
fn hello_of_tls12() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, u8::try_from(extensions.len()).expect("short")]);
    body.extend_from_slice(extensions);
    let length = u8::try_from(body.len()).expect("short");
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend_from_slice(&body);
    record
}

// attack: P13
#[tokio::test(start_paused = true)]
async fn older_tls_is_refused() {
    let (one, _) = two();
    let (mut near, far) = duplex(1024);
    let old = async {
        near.write_all(&hello_of_tls12()).await.expect("room");
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.expect("an end");
        answer
    };
    let (accepted, answer) = tokio::join!(one.end.accept(far, SOMEWHERE), old);
    assert_eq!(error(accepted).kind(), Kind::Protocol);
    // A fatal alert, protocol_version (RFC 8446 section 6).
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
}

/// Keeps what went over the wire from the client to the server.
async fn recorded(one: &Pillar, other: &Pillar) -> Vec<u8> {
    let (near, mut tapped) = duplex(64 * 1024);
    let (mut onwards, far) = duplex(64 * 1024);
    let tap = async {
        let mut seen = Vec::new();
        let (mut from, mut to) = (vec![0; 4096], vec![0; 4096]);
        loop {
            tokio::select! {
                read = tapped.read(&mut from) => match read {
                    Ok(count) if count > 0 => {
                        seen.extend_from_slice(&from[..count]);
                        forward(&mut onwards, &from[..count]).await;
                    }
                    _ => return seen,
                },
                read = onwards.read(&mut to) => match read {
                    Ok(count) if count > 0 => forward(&mut tapped, &to[..count]).await,
                    _ => return seen,
                },
            }
        }
    };
    let ends = async {
        let (dialled, accepted) =
            tokio::join!(one.end.dial(near, &other.name), other.end.accept(far, SOMEWHERE));
        drop((dialled.expect("attested"), accepted.expect("attested")));
    };
    tokio::join!(tap, ends).0
}

async fn forward(io: &mut DuplexStream, bytes: &[u8]) {
    // An end that left has its own error.
    let _ = io.write_all(bytes).await;
}

// attack: B1
#[tokio::test(start_paused = true)]
async fn a_recorded_connection_played_again_gets_nowhere() {
    let (one, other) = two();
    let recorded = recorded(&one, &other).await;
    let before = other.prover.made.lock().expect("not poisoned").len();
    let (mut near, far) = duplex(64 * 1024);
    let replay = async {
        near.write_all(&recorded).await.expect("room");
        near.read_to_end(&mut Vec::new()).await.expect("an end");
    };
    let found = error(tokio::join!(other.end.accept(far, SOMEWHERE), replay).0);
    assert_eq!((found.kind(), found.peer()), (Kind::Protocol, None), "{found:?}");
    assert_eq!(other.prover.made.lock().expect("not poisoned").len(), before, "no evidence was made for it");
}

// attack: B2
#[tokio::test]
async fn a_member_of_another_kind_of_key_cannot_sign() {
    // The row says P-256; a key that signs otherwise has no scheme in common.
    let (one, other) = two();
    let ed25519 =
        ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).expect("a key");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(ed25519.as_ref()));
    let key = rustls::crypto::ring::sign::any_eddsa_type(match &key {
        PrivateKeyDer::Pkcs8(pkcs8) => pkcs8,
        _ => unreachable!("made above"),
    })
    .expect("an Ed25519 key");
    let spki = CertificateDer::from(one.key.spki().to_vec());
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![spki], key));
    let mut config = client_config(&one, &other);
    config.client_auth_cert_resolver =
        Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified));
    let found = calls(&other, config).await;
    assert_eq!((found.kind(), found.peer()), (Kind::Protocol, None), "{found:?}");
}

// attack: P13
#[tokio::test]
async fn a_changed_byte_ends_the_connection_and_blames_nobody() {
    let (one, other) = two();
    for changed in 0.. {
        let (near, mut tapped) = duplex(64 * 1024);
        let (mut onwards, far) = duplex(64 * 1024);
        let ends = async {
            let (dialled, accepted) =
                tokio::join!(one.end.dial(near, &other.name), other.end.accept(far, SOMEWHERE));
            (dialled.map(drop), accepted.map(drop))
        };
        let tap = change_record(changed, &mut tapped, &mut onwards);
        let ((dialled, accepted), records) = tokio::join!(ends, tap);
        if changed >= records {
            dialled.expect("nothing was changed");
            accepted.expect("nothing was changed");
            // Hello, change of cipher, key, signature and end; then three frames.
            assert!(records >= 6, "only {records} records");
            return;
        }
        let found = error(accepted);
        assert!(found.kind() == Kind::Protocol && found.peer().is_none(), "record {changed}: {found:?}");
        // The client is done before its last frame arrives, not earlier.
        if let Err(found) = dialled {
            assert!(found.peer().is_none(), "record {changed}: {found:?}");
        } else {
            assert!(changed >= 5, "attested although record {changed} was changed");
        }
    }
}

/// Copies both ways until both ends are gone; in the record with this number towards the server the last byte is
/// changed. How many records there were.
async fn change_record(changed: usize, client: &mut DuplexStream, server: &mut DuplexStream) -> usize {
    let (mut from, mut to) = (vec![0; 4096], vec![0; 4096]);
    let (mut waiting, mut records) = (Vec::new(), 0);
    let mut open = [true, true];
    while open.contains(&true) {
        tokio::select! {
            read = client.read(&mut from), if open[0] => {
                let count = read.unwrap_or(0);
                waiting.extend_from_slice(&from[..count]);
                while let Some(mut record) = first_record(&mut waiting) {
                    if let Some(last) = record.last_mut().filter(|_| records == changed) {
                        *last ^= 1;
                    }
                    records += 1;
                    forward(server, &record).await;
                }
                if count == 0 {
                    open[0] = false;
                    let _ = server.shutdown().await;
                }
            }
            read = server.read(&mut to), if open[1] => {
                let count = read.unwrap_or(0);
                forward(client, &to[..count]).await;
                if count == 0 {
                    open[1] = false;
                    let _ = client.shutdown().await;
                }
            }
        }
    }
    records
}

/// Takes the first whole TLS record (RFC 8446 section 5.1).
fn first_record(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = 5 + usize::from(u16::from_be_bytes([*bytes.get(3)?, *bytes.get(4)?]));
    (bytes.len() >= length).then(|| bytes.drain(..length).collect())
}
