//! A cluster as one pillar sees it. Self-description: what is believed, each pillar judges by evidence.

use crate::cli::{Caller, Viewer};
use crate::clock;
use crate::failure::{Failure, Kind, Outcome};
use crate::session::{self, connect, denied, malformed};
use crate::target::Place;
use pillar_model::{PeerState, PillarId};
use pillar_wire::client::Connected;
use pillar_wire::proto;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Code;

/// How long one of several machines may take to answer before it is left out.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One member, as the answering pillar sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: PillarId,
    /// Its state.
    pub state: PeerState,
    /// Everything else, as sent.
    pub said: proto::Peer,
}

impl TryFrom<proto::Peer> for Peer {
    type Error = FieldError;

    fn try_from(said: proto::Peer) -> Result<Self, FieldError> {
        let name = said.name.parse().map_err(|error| FieldError(format!("{error}")))?;
        let state = match said.state.as_str() {
            "up" => PeerState::Up,
            "suspect" => PeerState::Suspect,
            "down" => PeerState::Down,
            "untrusted" => PeerState::Untrusted,
            other => {
                let shown: String = other.chars().take(32).collect();
                return Err(FieldError(format!("{shown:?} is not a state")));
            }
        };
        Ok(Peer { name, state, said })
    }
}

/// What of a reply cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FieldError(String);

/// What one pillar knows of its cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The pillar that answered, as we call it.
    pub from: String,
    /// Every member, by name.
    pub peers: Vec<Peer>,
    /// Everything else, as sent.
    pub said: proto::ClusterReply,
    /// Its wall clock minus ours, when it could be told.
    pub clock_offset_s: Option<i64>,
}

impl View {
    /// A reply with its peers parsed and in order.
    pub fn of(from: &str, mut said: proto::ClusterReply) -> Result<Self, FieldError> {
        let mut peers: Vec<Peer> =
            std::mem::take(&mut said.peers).into_iter().map(Peer::try_from).collect::<Result<_, _>>()?;
        peers.sort_by(|a, b| in_order(&a.name, &b.name));
        Ok(View { from: from.to_owned(), peers, said, clock_offset_s: None })
    }

    /// The member of that name.
    pub fn peer(&self, name: &str) -> Outcome<&Peer> {
        self.peers.iter().find(|peer| peer.name.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
            let name = crate::paint::harmless(name);
            Failure::new(format!("{name} is not a member of the cluster, says {}", self.from))
                .kind(Kind::Unknown)
                .hint(format!("members are {}; `pillar enroll {name}` proposes a new one", known.join(", ")))
        })
    }

    /// The constitution expired, by our clock.
    pub fn is_expired(&self, now_unix_s: u64) -> bool {
        self.said.founded && self.said.constitution_expires_unix_s <= now_unix_s
    }
}

/// p2 before p10.
fn in_order(a: &PillarId, b: &PillarId) -> std::cmp::Ordering {
    let key = |id: &PillarId| {
        let text = id.as_str();
        let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (stem, number) = text.split_at(text.len() - digits);
        (stem.to_owned(), number.parse::<u64>().unwrap_or_default(), text.to_owned())
    };
    key(a).cmp(&key(b))
}

/// A pillar with its view. An agent that knows no clusters belongs to none.
pub async fn ask(place: &Place, connected: &mut Connected) -> Outcome<View> {
    let (reply, offset) = match connected.client.cluster(proto::ClusterRequest {}).await {
        Ok(response) => {
            let offset = clock::offset_s(response.metadata());
            (response.into_inner(), offset)
        }
        Err(status) if status.code() == Code::Unimplemented => (proto::ClusterReply::default(), None),
        Err(status) => return Err(denied("tell about its cluster", &status)),
    };
    let mut view = View::of(&place.name, reply).map_err(|error| malformed("view of its cluster", &error))?;
    view.clock_offset_s = offset;
    Ok(view)
}

/// An open connection to a pillar, and what that one sees.
pub struct Witness {
    /// Where.
    pub place: Place,
    /// The connection.
    pub connected: Connected,
    /// What it sees.
    pub view: View,
}

impl Witness {
    /// Connects and asks.
    pub async fn at(place: Place, caller: &Caller) -> Outcome<Witness> {
        let mut connected = connect(&place, caller).await?;
        let view = ask(&place, &mut connected).await?;
        Ok(Witness { place, connected, view })
    }

    /// The pillar that is named, or the first machine that answers and belongs to a cluster. One that is asked about
    /// others (`not`) is no witness of itself unless nobody else is there.
    pub async fn find(viewer: &Viewer, caller: &Caller, not: Option<&str>) -> Outcome<Witness> {
        if let Some(from) = &viewer.from {
            let place = Place::named(from, &caller.run)?;
            return Witness::at(place, caller).await?.founded();
        }
        let mut places = Place::running(&caller.run);
        if places.is_empty() {
            return Err(Failure::new("no machine runs")
                .kind(Kind::Unreachable)
                .hint("`./just up` starts one; --from or --via HOST:PORT names any other pillar"));
        }
        places.sort_by_key(|place| Some(place.name.as_str()) == not);
        let mut why = None;
        for (_, answer) in all(places, caller, ANSWER_TIMEOUT).await {
            match answer.and_then(Witness::founded) {
                Ok(witness) => return Ok(witness),
                // That one belongs to no cluster says more than that another one is slow.
                Err(failure) if failure.kind == Kind::NoCluster => why = Some(failure),
                Err(failure) => why = Some(why.unwrap_or(failure)),
            }
        }
        Err(why.unwrap_or_else(|| Failure::new("nobody answers").kind(Kind::Unreachable)))
    }

    /// Only one that belongs to a cluster.
    fn founded(self) -> Outcome<Witness> {
        if self.view.said.founded { Ok(self) } else { Err(no_cluster(&self.place.name)) }
    }
}

/// A pillar without a cluster was asked about one.
pub fn no_cluster(name: &str) -> Failure {
    Failure::new(format!("{name} belongs to no cluster"))
        .kind(Kind::NoCluster)
        .hint("`pillar found` makes one of machines that run; `pillar enroll NAME` adds a machine to one that is there")
}

/// Asks all places at once; the answers come in the order of the places.
pub async fn all(places: Vec<Place>, caller: &Caller, patience: Duration) -> Vec<(Place, Outcome<Witness>)> {
    let tasks: Vec<_> = places
        .into_iter()
        .map(|place| {
            let (caller, asked) = (caller.clone(), place.clone());
            let task = tokio::spawn(async move {
                timeout(patience, Witness::at(asked.clone(), &caller)).await.unwrap_or_else(|_| {
                    let limit = patience.as_secs();
                    Err(session::unreachable(&asked, &format!("it did not answer within {limit} s")))
                })
            });
            (place, task)
        })
        .collect();
    let mut answers = Vec::new();
    for (place, task) in tasks {
        let answer = task.await.unwrap_or_else(|error| Err(Failure::because("cannot ask", &error)));
        answers.push((place, answer));
    }
    answers
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A member as sent, up and vouched for.
    pub fn peer(name: &str, state: &str) -> proto::Peer {
        proto::Peer {
            name: name.to_owned(),
            state: state.to_owned(),
            pcr: -1,
            heard: true,
            verified: true,
            heartbeat_age_ms: 800,
            verdict_age_ms: 32_000,
            version: "0.1.0".to_owned(),
            slot: "a".to_owned(),
            workload: "healthy".to_owned(),
            vouchers: vec!["p1".to_owned(), "p4".to_owned()],
            addresses: vec![format!("10.77.0.{}:7444", &name[1..])],
            ..proto::Peer::default()
        }
    }

    /// Four members as p1 sees them: one of each state.
    pub fn view() -> View {
        let reply = proto::ClusterReply {
            founded: true,
            cluster: "lab".to_owned(),
            constitution_version: 1,
            constitution_expires_unix_s: 2_000_000_000,
            threshold: 2,
            serial: 5,
            committed: "0.1.0".to_owned(),
            own_name: "p1".to_owned(),
            period_ms: 2000,
            peers: vec![
                proto::Peer {
                    reason: "PCR 1: is 00, ff is pinned".to_owned(),
                    check: "firmware".to_owned(),
                    pcr: 1,
                    event: "EV_EFI_VARIABLE_BOOT Boot0000: other".to_owned(),
                    hint: "look at it".to_owned(),
                    verified: false,
                    vouchers: Vec::new(),
                    ..peer("p10", "untrusted")
                },
                proto::Peer { self_: true, ..peer("p1", "up") },
                proto::Peer {
                    heartbeat_age_ms: 9000,
                    reason: "no heartbeat for 9.0 s".to_owned(),
                    phi: 9.5,
                    ..peer("p2", "suspect")
                },
                proto::Peer {
                    heard: false,
                    verified: false,
                    version: String::new(),
                    slot: String::new(),
                    workload: String::new(),
                    vouchers: Vec::new(),
                    reason: "cannot connect to 10.77.0.3:7444".to_owned(),
                    ..peer("p3", "down")
                },
            ],
            ..proto::ClusterReply::default()
        };
        View::of("p1", reply).expect("a view")
    }

    #[test]
    fn members_are_in_order_and_strangers_are_unknown() {
        let view = view();
        let names: Vec<&str> = view.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["p1", "p2", "p3", "p10"]);
        let failure = view.peer("p9").expect_err("none");
        assert_eq!(failure.kind, Kind::Unknown);
        assert!(
            failure
                .to_string()
                .contains("p9 is not a member of the cluster, says p1\n  hint: members are p1, p2")
        );
        assert!(view.is_expired(2_000_000_000) && !view.is_expired(1_999_999_999));
    }

    #[test]
    fn replies_with_nonsense_are_refused() {
        for bad in [peer("P1", "up"), peer("p1", "fine")] {
            let reply = proto::ClusterReply { peers: vec![bad], ..proto::ClusterReply::default() };
            assert!(View::of("p1", reply).is_err());
        }
    }
}
