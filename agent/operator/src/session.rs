//! One connection to a pillar, and its refusals in our words.

use crate::cli::Caller;
use crate::failure::{Failure, Kind, Outcome};
use crate::file;
use crate::paint::harmless;
use crate::signer;
use crate::target::Place;
use pillar_wire::client::{self, Connected};
use std::future::Future;
use tonic::{Code, Response, Status};

/// The alert for a key that the image knows and the constitution does not.
const REVOKED: &str = "CertificateRevoked";
/// No certificate file is larger.
const PEM_MAX_BYTES: u64 = 64 * 1024;

/// Connects with the operator's key.
pub async fn connect(place: &Place, caller: &Caller) -> Outcome<Connected> {
    let hinted = |failure: Failure| {
        if failure.has_hint() {
            return failure;
        }
        failure.hint("`./just keys` makes development keys; --key and --cert name others")
    };
    let key = signer::pem(caller).map_err(hinted)?;
    let cert = file::read(&caller.cert(), PEM_MAX_BYTES).map_err(hinted)?;
    client::connect(&place.addr, &cert, &key).await.map_err(|error| no_connection(place, caller, &error))
}

fn no_connection(place: &Place, caller: &Caller, error: &client::Error) -> Failure {
    let cert = caller.cert();
    let cert = cert.display();
    match error {
        client::Error::Credential { .. } => Failure::of(error).hint(format!(
            "--cert and --key must be a pair of PEM files; used were {cert} and {}",
            caller.key.display()
        )),
        client::Error::Refused { alert, .. } if alert == REVOKED => Failure::of(error)
            .kind(Kind::Denied)
            .hint(format!("the constitution of its cluster does not name the holder of {cert} as an operator, or no more; `pillar constitution show` with another operator's key says who they are")),
        client::Error::Refused { .. } => Failure::of(error).kind(Kind::Denied).hint(format!(
            "a pillar serves the operators of its cluster's constitution, or without a cluster those its image was built with; {cert} is none of them"
        )),
        _ => Failure::because(format!("cannot reach {}", place.name), error)
            .kind(Kind::Unreachable)
            .hint("does it run, and has it finished booting? `./just console` shows"),
    }
}

/// Nobody answers there, for a reason of our own.
pub fn unreachable(place: &Place, why: &str) -> Failure {
    Failure::new(format!("cannot reach {}: {why}", place.name))
        .kind(Kind::Unreachable)
        .hint("does it run, and has it finished booting? `./just console` shows")
}

/// Runs one call; `what` completes "the pillar did not …".
pub async fn call<T>(what: &str, reply: impl Future<Output = Result<Response<T>, Status>>) -> Outcome<T> {
    reply.await.map(Response::into_inner).map_err(|status| denied(what, &status))
}

/// A failed call as a failure.
pub fn denied(what: &str, status: &Status) -> Failure {
    // The message comes from the pillar.
    let message = harmless(status.message());
    let failure = Failure::new(format!("the pillar did not {what}: {message}"));
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
            failure.kind(Kind::Unreachable).hint("the connection was lost; try again")
        }
        Code::OutOfRange | Code::Internal => {
            failure.kind(Kind::Denied).hint("the pillar's log may say more: `pillar logs`")
        }
        _ => failure.kind(Kind::Denied),
    }
}

/// A reply that is not what it must be.
pub fn malformed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::because(format!("the pillar's {what} is malformed"), error)
        .kind(Kind::Denied)
        .hint("its agent and this program are of different versions, or it is not a pillar")
}
