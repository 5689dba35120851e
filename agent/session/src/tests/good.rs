//! What works.

use super::doubles::{Pillar, Proof, SOMEWHERE, name, service, two};
use crate::{Attested, Client, Error, Server};
use pillar_wire::proto;
use std::future::pending;
use tokio::io::duplex;

type Ends = (Result<Attested<Client, Proof>, Error>, Result<Attested<Server, Proof>, Error>);

/// `dialler` calls `acceptor` over a pipe.
pub(super) async fn meet(dialler: &Pillar, acceptor: &Pillar) -> Ends {
    let (near, far) = duplex(16 * 1024);
    tokio::join!(dialler.end.dial(near, &acceptor.name), acceptor.end.accept(far, SOMEWHERE))
}

#[tokio::test]
async fn two_members_attest_each_other_and_call() {
    let (one, other) = two();
    let (dialled, accepted) = meet(&one, &other).await;
    let (dialled, accepted) = (dialled.expect("attested"), accepted.expect("attested"));
    assert_eq!(dialled.peer(), &name("p2"));
    assert_eq!(accepted.peer(), &name("p1"));
    assert_eq!(dialled.proof(), &Proof { of: name("p2") });
    assert_eq!(dialled.channel().heartbeat_key(), [7; 32]);
    assert_eq!(dialled.channel().exporter, accepted.channel().exporter);

    let served = tokio::spawn(accepted.serve(service(&other), pending()));
    let channel = std::sync::Arc::clone(dialled.channel());
    let mut client = dialled.peers_client().await.expect("HTTP/2");
    let reply = client.chain(proto::EntriesRequest { from: 0 }).await.expect("an answer").into_inner();
    assert_eq!(reply.envelopes, [b"p1".to_vec()]);
    let again = one.end.reattest(&mut client, &channel).await.expect("attested anew");
    assert_eq!(again, Proof { of: name("p2") });
    drop(client);
    // It left; whether in order depends on who closes first.
    let _ = served.await.expect("no panic");
}
