//! An error in each step, at each end: never an attested connection, always an error of the right kind, in time.

use super::doubles::{Fault, Pillar, SOMEWHERE, two};
use super::good::meet;
use super::kinds::Kind;
use super::raw::{At, Deed, Raw, frame_of, framed};
use super::refused::error;
use crate::{Error, Step, limit};
use pillar_model::{Evidence, Role};
use pillar_wire::proto::{PeerEvidence, PeerHello, PeerVerdict};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::Instant;

/// What the honest end `p2` says of `p1`, who has the right key and does the deed.
async fn deed(role: Role, at: At, deed: Deed) -> Error {
    let (guilty, honest) = two();
    let (near, far) = duplex(16 * 1024);
    let raw = async {
        let mut raw = Raw::new(&guilty, &honest, role, near).await;
        raw.exchange(&guilty, Some((at, deed))).await
    };
    match role {
        Role::Client => error(tokio::join!(honest.end.accept(far, SOMEWHERE), raw).0),
        Role::Server => error(tokio::join!(honest.end.dial(far, &guilty.name), raw).0),
    }
}

fn step(at: At) -> Step {
    match at {
        At::Hello => Step::Hello,
        At::Evidence => Step::Evidence,
        At::Verdict => Step::Verdict,
    }
}

fn announced(length: usize) -> Deed {
    Deed::Bytes(u32::try_from(length).expect("short").to_be_bytes().to_vec())
}

const STEPS: [At; 3] = [At::Hello, At::Evidence, At::Verdict];
const ROLES: [Role; 2] = [Role::Client, Role::Server];

// attack: B4
#[tokio::test(start_paused = true)]
async fn an_error_in_any_step_of_the_exchange_ends_in_a_refusal() {
    for role in ROLES {
        for at in STEPS {
            let (time, bytes) = match at {
                At::Hello => (limit::HELLO, limit::HELLO_FRAME_BYTES),
                At::Evidence => (limit::EVIDENCE, limit::EVIDENCE_FRAME_BYTES),
                At::Verdict => (limit::VERDICT, limit::VERDICT_FRAME_BYTES),
            };
            let begun = Instant::now();
            match deed(role, at, Deed::Silence).await {
                Error::Silent { step: found, limit } => assert_eq!((found, limit), (step(at), time)),
                wrong => panic!("{role:?}, {at:?}, silence: {wrong:?}"),
            }
            assert!(begun.elapsed() < time * 2, "{role:?}, {at:?}: {:?}", begun.elapsed());

            for gone in [Deed::Close, Deed::Truncated] {
                let found = deed(role, at, gone.clone()).await;
                assert!(
                    matches!(&found, Error::Broken { step: found, .. } if *found == step(at)),
                    "{role:?}, {at:?}, {gone:?}: {found:?}"
                );
                assert_eq!(found.kind(), Kind::Unreachable);
            }

            let unknown_field = [&[0x7a, 1, 0][..]].concat();
            let deeds: [(&str, Deed); 6] = [
                ("one byte over the limit", announced(bytes + 1)),
                ("as much as can be said", announced(u32::MAX as usize)),
                ("HTTP/2 before its time", Deed::Bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec())),
                ("no protobuf", Deed::Bytes(framed(&[0xff; 16]))),
                ("a field that nobody knows", Deed::Bytes(framed(&unknown_field))),
                ("the frame of another step", Deed::Bytes(other_frame(at))),
            ];
            for (what, bad) in deeds {
                let found = deed(role, at, bad).await;
                match &found {
                    Error::Protocol { peer, step: found, .. } => {
                        assert_eq!(peer.as_ref().map(|peer| peer.as_str()), Some("p1"));
                        assert_eq!(*found, step(at));
                    }
                    wrong => panic!("{role:?}, {at:?}, {what}: {wrong:?}"),
                }
                assert_eq!(found.kind(), Kind::Protocol);
            }
        }
    }
}

fn other_frame(at: At) -> Vec<u8> {
    let evidence = PeerEvidence {
        attest: vec![1; 8],
        signature: vec![1; 8],
        event_log: vec![1; 8],
        cel: Vec::new(),
        heartbeat_key: vec![1; 32],
    };
    match at {
        At::Hello => frame_of(&PeerVerdict { accepted: true, ..PeerVerdict::default() }),
        At::Evidence => frame_of(&PeerHello { nonce: vec![1; 32], protocol: 1 }),
        At::Verdict => frame_of(&evidence),
    }
}

// attack: B4
#[tokio::test]
async fn fields_that_are_not_as_they_must_be_are_refused_by_name() {
    let good = PeerEvidence::from(Evidence {
        attest: vec![1],
        signature: vec![1],
        event_log: vec![1],
        heartbeat_key: vec![1; 32],
        ..Evidence::default()
    });
    let evidence = |change: fn(&mut PeerEvidence)| {
        let mut evidence = good.clone();
        change(&mut evidence);
        frame_of(&evidence)
    };
    let hello = |nonce, protocol| frame_of(&PeerHello { nonce: vec![1; nonce], protocol });
    let table = [
        (At::Hello, hello(31, 1), "its nonce has 31 bytes, not 32"),
        (At::Hello, hello(33, 1), "its nonce has 33 bytes, not 32"),
        (At::Hello, hello(32, 2), "it speaks version 2, not 1"),
        (At::Hello, hello(32, 0), "it speaks version 0, not 1"),
        (
            At::Evidence,
            evidence(|e| e.heartbeat_key.truncate(31)),
            "heartbeat_key has 31 bytes, must have 32",
        ),
        (At::Evidence, evidence(|e| e.attest.clear()), "attest is empty"),
        (At::Evidence, evidence(|e| e.signature.clear()), "signature is empty"),
        (At::Evidence, evidence(|e| e.event_log.clear()), "event_log is empty"),
        (
            At::Evidence,
            evidence(|e| e.attest = vec![0; 2049]),
            "attest has 2049 bytes or entries, at most 2048 are allowed",
        ),
        (
            At::Evidence,
            evidence(|e| e.cel = vec![0; 256 * 1024 + 1]),
            "cel has 262145 bytes or entries, at most 262144 are allowed",
        ),
    ];
    for (at, bytes, words) in table {
        for role in ROLES {
            match deed(role, at, Deed::Bytes(bytes.clone())).await {
                Error::Protocol { reason, .. } => assert_eq!(reason, words),
                wrong => panic!("{words}: {wrong:?}"),
            }
        }
    }
}

// attack: P13
#[tokio::test]
async fn a_verdict_against_us_is_told_and_made_harmless() {
    let refused = PeerVerdict {
        accepted: false,
        check: "firmware\n".repeat(20),
        reason: format!("PCR 0: \u{202e}{}", "x".repeat(700)),
    };
    for role in ROLES {
        match deed(role, At::Verdict, Deed::Bytes(frame_of(&refused))).await {
            Error::RefusedByPeer { peer, check, reason } => {
                assert_eq!(peer.as_ref().map(|peer| peer.as_str()), Some("p1"));
                assert!(check.starts_with("firmware?firmware?") && check.len() == 64, "{check}");
                assert!(reason.starts_with("PCR 0: ?xxx") && reason.len() == 512, "{reason}");
            }
            wrong => panic!("{wrong:?}"),
        }
        // An empty frame is a verdict with nothing in it: no acceptance.
        let silent = deed(role, At::Verdict, Deed::Bytes(framed(&[]))).await;
        assert_eq!(silent.kind(), Kind::RefusedByPeer);
    }
}

// attack: B4
#[tokio::test(start_paused = true)]
async fn what_fails_at_home_ends_the_connection_too() {
    for guilty_dials in [true, false] {
        for (fault, expected) in [(Fault::Fails, Kind::Own), (Fault::Hangs, Kind::Unreachable)] {
            let (guilty, honest) = two();
            guilty.fault(fault.clone());
            let (at_guilty, at_honest) = by(guilty_dials, &guilty, &honest).await;
            assert_eq!(at_guilty.kind(), expected, "{fault:?}: {at_guilty:?}");
            assert_eq!(at_honest.kind(), Kind::Unreachable, "{fault:?}: {at_honest:?}");
        }
        let (guilty, honest) = two();
        guilty.key.broken.store(true, Ordering::SeqCst);
        let (at_guilty, at_honest) = by(guilty_dials, &guilty, &honest).await;
        assert!(
            matches!(&at_guilty, Error::Own { what: "sign the TLS handshake", .. }),
            "{guilty_dials}: {at_guilty:?}"
        );
        assert!(at_honest.peer().is_none(), "{at_honest:?}");
    }
}

async fn by(guilty_dials: bool, guilty: &Pillar, honest: &Pillar) -> (Error, Error) {
    if guilty_dials {
        let (dialled, accepted) = meet(guilty, honest).await;
        (error(dialled), error(accepted))
    } else {
        let (dialled, accepted) = meet(honest, guilty).await;
        (error(accepted), error(dialled))
    }
}

// attack: P13
#[tokio::test(start_paused = true)]
async fn silence_and_noise_before_tls_blame_nobody() {
    let (one, other) = two();
    let (_held, far) = duplex(1024);
    assert!(matches!(error(one.end.accept(far, SOMEWHERE).await), Error::Silent { step: Step::Tls, .. }));
    let (_held, far) = duplex(1024);
    assert!(matches!(error(one.end.dial(far, &other.name).await), Error::Silent { step: Step::Tls, .. }));

    let (near, far) = duplex(1024);
    drop(near);
    assert_eq!(error(one.end.accept(far, SOMEWHERE).await).kind(), Kind::Unreachable);

    for dials in [true, false] {
        let (mut near, far) = duplex(1024);
        let noise = async {
            near.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("room");
            near.read_to_end(&mut Vec::new()).await.expect("an end");
        };
        let found = if dials {
            error(tokio::join!(one.end.dial(far, &other.name), noise).0)
        } else {
            error(tokio::join!(one.end.accept(far, SOMEWHERE), noise).0)
        };
        assert_eq!((found.kind(), found.peer()), (Kind::Protocol, None), "{found:?}");
    }
}
