//! Attested connections in use: cut, attested anew, slow TPMs, large evidence, too many.

use super::doubles::{ELSEWHERE, Fault, Key, Pillar, Proof, SOMEWHERE, introduce, name, service, two};
use super::good::meet;
use super::kinds::Kind;
use super::raw::{At, Deed, Raw, frame_of};
use super::refused::error;
use crate::{Attested, Error, PeerChannel, PeerConnection, Refusal, Server, Step, TlsSigner as _, limit};
use pillar_model::Role;
use pillar_wire::proto;
use pillar_wire::proto::peers_client::PeersClient;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;
use tonic::Code;

/// `p1` dialled `p2`, and may call it.
struct Line {
    one: Pillar,
    other: Pillar,
    client: PeersClient<PeerConnection>,
    near: Arc<PeerChannel>,
    far: Arc<PeerChannel>,
    served: JoinHandle<Result<(), Error>>,
}

async fn line() -> Line {
    let (one, other) = two();
    let (dialled, accepted) = meet(&one, &other).await;
    let (dialled, accepted) = (dialled.expect("attested"), accepted.expect("attested"));
    let (near, far) = (Arc::clone(dialled.channel()), Arc::clone(accepted.channel()));
    let (proof, accepted) = accepted.split();
    assert_eq!(proof, Proof { of: name("p1") });
    let served = tokio::spawn(accepted.serve(service(&other), pending()));
    let client = dialled.peers_client().await.expect("HTTP/2");
    Line { one, other, client, near, far, served }
}

/// A call that is never answered.
const FOREVER: proto::EntriesRequest = proto::EntriesRequest { from: 1 };

// attack: B5
#[tokio::test]
async fn a_cut_ends_a_call_in_progress_and_says_why() {
    let Line { mut client, near, served, .. } = line().await;
    let mut caller = client.clone();
    let call = tokio::spawn(async move { caller.chain(FOREVER).await });
    sleep(Duration::from_millis(20)).await;
    assert!(!call.is_finished());
    near.cut().cut("its verdict is gone");
    near.cut().cut("a second reason");
    let status = timeout(Duration::from_secs(1), call).await.expect("at once").expect("no panic");
    let status = status.expect_err("cut");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "connection with p2 was cut: its verdict is gone");
    let later = client.chain(proto::EntriesRequest { from: 0 }).await.expect_err("no connection any more");
    assert_eq!(later.message(), "connection with p2 was cut: its verdict is gone");
    // The other end sees a broken connection, whose reason it is told when it connects anew.
    let served = timeout(Duration::from_secs(1), served).await.expect("at once").expect("no panic");
    assert!(!matches!(served, Err(Error::Cut { .. })), "{served:?}");
}

// attack: B5
#[tokio::test]
async fn a_cut_ends_a_stream() {
    let Line { mut client, near, .. } = line().await;
    let (beats, receiver) = tokio::sync::mpsc::channel(1);
    let beats_in = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.beat(beats_in).await.expect("a stream").into_inner();
    beats.send(proto::Heartbeat::default()).await.expect("room");
    assert_eq!(replies.next().await.expect("an answer").expect("good").sequence, 1);
    near.cut().cut("the TPM's counters moved");
    let status = timeout(Duration::from_secs(1), replies.next()).await.expect("at once").expect("an error");
    let status = status.expect_err("cut");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "connection with p2 was cut: the TPM's counters moved")
    );
}

// attack: B5
#[tokio::test]
async fn the_end_that_serves_may_cut_as_well() {
    let Line { mut client, far, served, .. } = line().await;
    let call = tokio::spawn(async move { client.chain(FOREVER).await });
    sleep(Duration::from_millis(20)).await;
    far.cut().cut("its verdict is gone");
    match timeout(Duration::from_secs(1), served).await.expect("at once").expect("no panic") {
        Err(Error::Cut { peer, reason }) => {
            assert_eq!((peer, reason.as_str()), (name("p1"), "its verdict is gone"));
        }
        wrong => panic!("{wrong:?}"),
    }
    let status = timeout(Duration::from_secs(1), call).await.expect("at once").expect("no panic");
    assert_eq!(status.expect_err("cut").code(), Code::Unavailable);
}

// attack: B5
#[tokio::test]
async fn a_peer_that_no_longer_proves_itself_is_refused_on_the_living_connection() {
    let Line { one, other, mut client, near, .. } = line().await;
    one.end.reattest(&mut client, &near).await.expect("still good");
    let mut refused = async |fault: Fault, check: &str| {
        other.fault(fault);
        match error(one.end.reattest(&mut client, &near).await) {
            Error::Refused { peer, refusal } => {
                assert_eq!(peer, Some(name("p2")));
                assert_eq!(refusal.check(), check, "{refusal}");
            }
            wrong => panic!("{wrong:?}"),
        }
    };
    refused(Fault::SwapsLogs, "challenge").await;
    refused(Fault::Replays, "challenge").await;
    refused(Fault::NewHeartbeatKey, "heartbeat key").await;
    one.members.remove(&other);
    refused(Fault::None, "policy").await;
    // A TPM that fails is no proof of anything bad.
    one.members.add(&other);
    other.fault(Fault::Fails);
    assert_eq!(error(one.end.reattest(&mut client, &near).await).kind(), Kind::Unreachable);
    other.fault(Fault::None);
    one.end.reattest(&mut client, &near).await.expect("good again");
}

#[tokio::test]
async fn evidence_is_made_for_one_request_at_a_time() {
    let Line { other, mut client, .. } = line().await;
    other.fault(Fault::Hangs);
    let mut second = client.clone();
    let first =
        tokio::spawn(async move { client.reattest(proto::ReattestRequest { nonce: vec![1; 32] }).await });
    sleep(Duration::from_millis(20)).await;
    let status =
        second.reattest(proto::ReattestRequest { nonce: vec![1; 32] }).await.expect_err("one at a time");
    assert_eq!(status.code(), Code::ResourceExhausted);
    first.abort();
    let status = loop {
        let again =
            second.reattest(proto::ReattestRequest { nonce: vec![1; 31] }).await.expect_err("no nonce");
        if again.code() != Code::ResourceExhausted {
            break again;
        }
        sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "nonce must have 32 bytes"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_slow_tpm_does_not_stop_the_only_thread() {
    const SLOW: Duration = Duration::from_millis(800);
    let one = Pillar::with("p1", Key::slow(SLOW), b"log".to_vec());
    let other = Pillar::with("p2", Key::slow(SLOW), b"log".to_vec());
    introduce(&[&one, &other]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
    let (far, _) = listener.accept().await.expect("a connection");
    let ticking = async {
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        loop {
            sleep(Duration::from_millis(5)).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if one.key.signatures.load(Ordering::SeqCst) + other.key.signatures.load(Ordering::SeqCst) == 2 {
                return longest;
            }
        }
    };
    let (dialled, accepted, longest) =
        tokio::join!(one.end.dial(near, &other.name), other.end.accept(far, SOMEWHERE), ticking);
    dialled.expect("attested");
    accepted.expect("attested");
    assert!(longest < SLOW / 2, "the thread stood still for {longest:?}");
}

#[tokio::test]
async fn large_evidence_crosses_both_ways_at_once() {
    let log = || vec![5; pillar_wire::limit::EVENT_LOG_BYTES];
    let (one, other) = (Pillar::with("p1", Key::new(), log()), Pillar::with("p2", Key::new(), log()));
    introduce(&[&one, &other]);
    let (near, far) = duplex(512);
    let (dialled, accepted) = tokio::join!(one.end.dial(near, &other.name), other.end.accept(far, SOMEWHERE));
    dialled.expect("attested");
    accepted.expect("attested");
}

// attack: P13
#[tokio::test]
async fn the_newest_connection_of_a_member_displaces_one_in_the_making() {
    let (one, other) = two();
    let (near, far) = duplex(16 * 1024);
    let end = other.end.clone();
    let first = tokio::spawn(async move { end.accept(far, SOMEWHERE).await });
    let mut silent = Raw::new(&one, &other, Role::Client, near).await;
    silent.is_heard().await;
    let (dialled, accepted) = meet(&one, &other).await;
    dialled.expect("attested");
    accepted.expect("attested");
    match error(timeout(Duration::from_secs(1), first).await.expect("at once").expect("no panic")) {
        Error::Displaced { peer } => assert_eq!(peer, name("p1")),
        wrong => panic!("{wrong:?}"),
    }
}

// attack: P13
#[tokio::test]
async fn strangers_who_say_nothing_keep_no_member_out() {
    let (one, other) = two();
    let mut held = Vec::new();
    for number in 0..limit::UNATTESTED {
        let from = if number < limit::UNATTESTED_PER_SOURCE { SOMEWHERE } else { ELSEWHERE };
        held.push(silent(&other, from).await);
    }
    assert!(held.iter().all(|(_, task)| !task.is_finished()));
    let (dialled, accepted) = meet(&one, &other).await;
    dialled.expect("attested");
    accepted.expect("attested");
    // The oldest had to go for it, and no other.
    let (_near, oldest) = held.remove(0);
    let gone = timeout(Duration::from_secs(1), oldest).await.expect("at once").expect("no panic");
    assert!(matches!(error(gone), Error::Busy { limit: limit::UNATTESTED }));
    assert!(held.iter().all(|(_, task)| !task.is_finished()));
    held.iter().for_each(|(_, task)| task.abort());
}

/// Somebody who connects and says nothing.
async fn silent(
    other: &Pillar,
    from: IpAddr,
) -> (DuplexStream, JoinHandle<Result<Attested<Server, Proof>, Error>>) {
    let (near, far) = duplex(1024);
    let end = other.end.clone();
    let task = tokio::spawn(async move { end.accept(far, from).await });
    tokio::task::yield_now().await;
    (near, task)
}

// attack: P13
#[tokio::test]
async fn who_floods_from_one_address_keeps_nobody_from_another_out() {
    let one = Pillar::with("p1", Key::slow(Duration::from_millis(300)), b"log".to_vec());
    let other = Pillar::with("p2", Key::slow(Duration::from_millis(10)), b"log".to_vec());
    introduce(&[&one, &other]);
    let mut flood = Vec::new();
    let floods = async {
        for _ in 0..20 * limit::UNATTESTED {
            flood.push(silent(&other, ELSEWHERE).await);
            sleep(Duration::from_millis(1)).await;
        }
        // Whoever has its share loses its oldest to its newest.
        flood.iter().filter(|(_, task)| !task.is_finished()).count()
    };
    let ((dialled, accepted), left) = tokio::join!(meet(&one, &other), floods);
    dialled.expect("attested");
    accepted.expect("attested");
    assert_eq!(left, limit::UNATTESTED_PER_SOURCE);
    flood.iter().for_each(|(_, task)| task.abort());
}

// attack: P13
#[tokio::test]
async fn members_in_the_making_are_not_displaced_by_others() {
    let other = Pillar::new("other");
    let members: Vec<Pillar> = (0..limit::UNATTESTED).map(|n| Pillar::new(&format!("p{n}"))).collect();
    let mut held = Vec::new();
    for member in &members {
        introduce(&[member, &other]);
        let (near, far) = duplex(16 * 1024);
        let end = other.end.clone();
        let task = tokio::spawn(async move { end.accept(far, SOMEWHERE).await });
        let mut raw = Raw::new(member, &other, Role::Client, near).await;
        raw.is_heard().await;
        held.push((raw, task));
    }
    let (_near, far) = duplex(1024);
    assert!(matches!(
        error(other.end.accept(far, SOMEWHERE).await),
        Error::Busy { limit: limit::UNATTESTED }
    ));
    assert!(held.iter().all(|(_, task)| !task.is_finished()));
    held.iter().for_each(|(_, task)| task.abort());
}

// attack: P13
#[tokio::test]
async fn a_member_has_one_connection_and_evidence_once_a_second() {
    let Line { one, other, mut client, served, .. } = line().await;
    let start = Instant::now();
    let (dialled, accepted) = meet(&one, &other).await;
    let (dialled, accepted) = (dialled.expect("attested"), accepted.expect("attested"));
    let made = start.elapsed();
    assert!(made > limit::EVIDENCE_PAUSE / 2, "attested again after {made:?}");
    let ended = timeout(Duration::from_secs(1), served).await.expect("at once").expect("no panic");
    assert_eq!(error(ended).to_string(), "connection with p1 was cut: it connected anew");
    client.chain(proto::EntriesRequest { from: 0 }).await.expect_err("the older one is gone");

    let channel = Arc::clone(dialled.channel());
    let _served = tokio::spawn(accepted.split().1.serve(service(&other), pending()));
    let mut client = dialled.peers_client().await.expect("HTTP/2");
    let start = Instant::now();
    for _ in 0..2 {
        one.end.reattest(&mut client, &channel).await.expect("attested anew");
    }
    let made = start.elapsed();
    assert!(made > limit::EVIDENCE_PAUSE, "two in {made:?}");
}

// attack: B4
#[tokio::test]
async fn a_frame_behind_the_verdict_is_no_request() {
    let (one, other) = two();
    let (near, far) = duplex(16 * 1024);
    let raw = async {
        let mut raw = Raw::new(&one, &other, Role::Client, near).await;
        assert!(raw.exchange(&one, None).await.expect("a verdict").accepted);
        raw.tls.write_all(&frame_of(&proto::PeerHello::default())).await.expect("room");
        raw.tls.write_all(&[0; 64]).await.expect("room");
        raw
    };
    let (accepted, _raw) = tokio::join!(other.end.accept(far, SOMEWHERE), raw);
    let served = accepted.expect("attested").serve(service(&other), pending());
    let ended = timeout(Duration::from_secs(5), served).await.expect("at once");
    assert!(matches!(ended, Err(Error::Broken { step: Step::Http2, .. })), "{ended:?}");
}

// attack: B4
#[tokio::test]
async fn requests_before_the_verdict_reach_nobody() {
    let (one, other) = two();
    let (near, far) = duplex(16 * 1024);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let raw = async {
        let mut raw = Raw::new(&one, &other, Role::Client, near).await;
        raw.exchange(&one, Some((At::Verdict, Deed::Bytes(preface)))).await
    };
    let (accepted, verdict) = tokio::join!(other.end.accept(far, SOMEWHERE), raw);
    assert_eq!(error(accepted).kind(), Kind::Protocol);
    assert!(verdict.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_accepted_connection_must_bring_a_request() {
    let (one, other) = two();
    let (dialled, accepted) = meet(&one, &other).await;
    let (_held, accepted) = (dialled.expect("attested"), accepted.expect("attested"));
    let ended = accepted.serve(service(&other), pending()).await;
    assert!(matches!(ended, Err(Error::Silent { step: Step::Http2, .. })), "{ended:?}");
}

#[tokio::test]
async fn a_stop_ends_a_connection_in_order() {
    let (one, other) = two();
    let (dialled, accepted) = meet(&one, &other).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let served = tokio::spawn(accepted.expect("attested").serve(service(&other), stopped));
    let mut client = dialled.expect("attested").peers_client().await.expect("HTTP/2");
    client.chain(proto::EntriesRequest { from: 0 }).await.expect("an answer");
    stop.send(()).expect("it listens");
    timeout(limit::DRAIN * 2, served).await.expect("in time").expect("no panic").expect("in order");
}

#[tokio::test]
async fn bindings_of_the_two_ends_are_each_other_s() {
    let Line { one, other, near, far, .. } = line().await;
    let nonce = pillar_model::Nonce([3; 32]);
    assert_eq!(near.own_binding(nonce), far.peer_binding(nonce));
    assert_eq!(near.peer_binding(nonce), far.own_binding(nonce));
    let binding = near.own_binding(nonce);
    assert_eq!((binding.role, binding.attester_spki.as_slice()), (Role::Client, one.key.spki()));
    assert_eq!(binding.verifier_spki, other.key.spki());
    assert!(matches!(Refusal::HeartbeatKey.check(), "heartbeat key"));
}
