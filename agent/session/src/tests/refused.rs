//! Who and what is refused, and what each end is told.

use super::doubles::{Fault, Pillar, Replace, SOMEWHERE, introduce, name, two};
use super::good::meet;
use super::kinds::Kind;
use crate::{Error, Refusal};
use pillar_model::Role;

/// The error of an end that must not have been attested.
#[track_caller]
pub(super) fn error<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("attested"),
        Err(error) => error,
    }
}

/// `error` is this pillar's refusal of `peer`, by `check`.
#[track_caller]
fn assert_refused(error: &Error, peer: &str, check: &str) {
    match error {
        Error::Refused { peer: Some(found), refusal } => {
            assert_eq!((found.as_str(), refusal.check()), (peer, check), "{error}");
        }
        other => panic!("not a refusal by {check}: {other:?}"),
    }
}

/// `error` is the peer's refusal, by `check`.
#[track_caller]
fn assert_refused_by_peer(error: &Error, check: &str) {
    match error {
        Error::RefusedByPeer { check: found, .. } => assert_eq!(found, check, "{error}"),
        other => panic!("not the peer's refusal by {check}: {other:?}"),
    }
}

// attack: B2 B4
#[tokio::test]
async fn a_key_of_no_member_is_refused_in_the_handshake() {
    let (stranger, member) = (Pillar::new("p1"), Pillar::new("p2"));
    introduce(&[&member]);
    stranger.members.add(&member);
    let (dialled, accepted) = meet(&stranger, &member).await;
    let accepted = error(accepted);
    assert!(
        matches!(&accepted, Error::Refused { peer: None, refusal: Refusal::Stranger { .. } }),
        "{accepted:?}"
    );
    assert_eq!((accepted.kind(), accepted.peer()), (Kind::Refused, None));
    assert_refused_by_peer(&error(dialled), "membership");
    // The other way round: who is dialled is no member.
    let (dialled, accepted) = meet(&member, &stranger).await;
    let dialled = error(dialled);
    assert!(
        matches!(&dialled, Error::Refused { peer: None, refusal: Refusal::Stranger { .. } }),
        "{dialled:?}"
    );
    assert_refused_by_peer(&error(accepted), "membership");
    assert_eq!(stranger.prover.made.lock().expect("not poisoned").len(), 0, "nobody asked for evidence");
}

// attack: B4
#[tokio::test]
async fn a_member_that_was_revoked_is_refused() {
    let (one, other) = two();
    other.members.remove(&one);
    let (dialled, accepted) = meet(&one, &other).await;
    assert!(matches!(error(accepted), Error::Refused { refusal: Refusal::Stranger { .. }, .. }));
    assert_refused_by_peer(&error(dialled), "membership");
}

// attack: B2
#[tokio::test]
async fn another_member_than_the_dialled_one_is_refused() {
    let (one, other) = two();
    let third = Pillar::new("p3");
    introduce(&[&one, &other, &third]);
    let (near, far) = tokio::io::duplex(4096);
    let (dialled, accepted) = tokio::join!(one.end.dial(near, &third.name), other.end.accept(far, SOMEWHERE));
    match error(dialled) {
        Error::Refused { refusal: Refusal::OtherMember { expected, found }, .. } => {
            assert_eq!((expected, found), (name("p3"), name("p2")));
        }
        wrong => panic!("{wrong:?}"),
    }
    assert_refused_by_peer(&error(accepted), "membership");
}

// attack: B1
#[tokio::test]
async fn a_pillar_does_not_talk_to_itself() {
    let one = Pillar::new("p1");
    introduce(&[&one]);
    let (dialled, accepted) = meet(&one, &one).await;
    assert!(matches!(error(dialled), Error::Refused { refusal: Refusal::OwnKey, .. }));
    error(accepted);
}

/// With this fault `p1` is refused by `p2` for this check, whoever dials; and is told.
async fn check(what: &str, check: &str, fault: impl AsyncFn(&Pillar, &Pillar) -> Fault) {
    for guilty_dials in [true, false] {
        let (guilty, honest) = two();
        guilty.fault(fault(&guilty, &honest).await);
        let (at_guilty, at_honest) = if guilty_dials {
            let (dialled, accepted) = meet(&guilty, &honest).await;
            (error(dialled), error(accepted))
        } else {
            let (dialled, accepted) = meet(&honest, &guilty).await;
            (error(accepted), error(dialled))
        };
        eprintln!("{what}: {at_honest}");
        assert_refused(&at_honest, "p1", check);
        assert_eq!(at_honest.kind(), Kind::Refused);
        assert_refused_by_peer(&at_guilty, check);
        assert_eq!(at_guilty.kind(), Kind::RefusedByPeer);
    }
}

// attack: B1 B2
#[tokio::test]
async fn evidence_of_another_connection_end_or_time_is_refused() {
    let binds = |replace: Replace| Fault::Binds(Box::new(replace));
    check("relayed: another connection's exporter", "challenge", async |_, _| {
        binds(Replace::Exporter(vec![1; 32]))
    })
    .await;
    check("diverted: made for another verifier", "challenge", async |guilty, _| {
        use crate::TlsSigner as _;
        binds(Replace::Verifier(guilty.key.spki().to_vec()))
    })
    .await;
    check("replayed: another nonce", "challenge", async |_, _| binds(Replace::Nonce([1; 32]))).await;
    check("replayed: an earlier connection's", "challenge", async |guilty, honest| {
        let (dialled, accepted) = meet(guilty, honest).await;
        dialled.expect("honest so far");
        accepted.expect("honest so far");
        Fault::Replays
    })
    .await;
    check("reflected: the verifier's own", "signature", async |guilty, honest| {
        let (dialled, accepted) = meet(guilty, honest).await;
        dialled.expect("honest so far");
        accepted.expect("honest so far");
        let own = honest.prover.made.lock().expect("not poisoned").first().cloned().expect("it made some");
        Fault::Shows(Box::new(own))
    })
    .await;
    check("relayed: a good pillar's, over a connection with this key", "signature", async |guilty, _| {
        let good = Pillar::new("p3");
        introduce(&[guilty, &good]);
        let (dialled, accepted) = meet(guilty, &good).await;
        dialled.expect("honest so far");
        accepted.expect("honest so far");
        let relayed = good.prover.made.lock().expect("not poisoned").first().cloned().expect("it made some");
        Fault::Shows(Box::new(relayed))
    })
    .await;
    check("other logs than signed", "challenge", async |_, _| Fault::SwapsLogs).await;
}

// attack: B1
#[tokio::test]
async fn evidence_made_as_the_other_end_is_refused() {
    let (client, server) = two();
    client.fault(Fault::Binds(Box::new(Replace::Role(Role::Server))));
    let (dialled, accepted) = meet(&client, &server).await;
    assert_refused(&error(accepted), "p1", "challenge");
    assert_refused_by_peer(&error(dialled), "challenge");
    let (client, server) = two();
    server.fault(Fault::Binds(Box::new(Replace::Role(Role::Client))));
    let (dialled, accepted) = meet(&client, &server).await;
    assert_refused(&error(dialled), "p2", "challenge");
    assert_refused_by_peer(&error(accepted), "challenge");
}

#[tokio::test]
async fn both_may_refuse() {
    let (one, other) = two();
    one.fault(Fault::SwapsLogs);
    other.fault(Fault::SwapsLogs);
    let (dialled, accepted) = meet(&one, &other).await;
    assert_refused(&error(dialled), "p2", "challenge");
    assert_refused(&error(accepted), "p1", "challenge");
}

// attack: B4
#[tokio::test]
async fn what_cannot_be_judged_is_refused() {
    let (one, other) = two();
    *other.members.objects.lock().expect("not poisoned") =
        Some(|| Refusal::Policy("the constitution is void\u{1b}[31m".to_owned()));
    let (dialled, accepted) = meet(&one, &other).await;
    assert_refused(&error(accepted), "p1", "policy");
    match error(dialled) {
        Error::RefusedByPeer { peer, check, reason } => {
            assert_eq!(peer, Some(name("p2")));
            assert_eq!((check.as_str(), reason.as_str()), ("policy", "the constitution is void?[31m"));
        }
        wrong => panic!("{wrong:?}"),
    }
}

// attack: B4
#[tokio::test]
async fn a_judgement_that_panics_accepts_nobody() {
    let (one, other) = two();
    *other.members.objects.lock().expect("not poisoned") = Some(|| panic!("a fault in the verifier"));
    let (dialled, accepted) = meet(&one, &other).await;
    assert!(matches!(error(accepted), Error::Own { what: "judge evidence", .. }));
    assert_eq!(error(dialled).kind(), Kind::Unreachable);
}
