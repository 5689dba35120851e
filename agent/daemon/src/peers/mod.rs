//! The other pillars of the cluster: every one is called, every one may call, and none is spoken to before both ends have
//! proved what they run.
//!
//! One task listens ([`serve`]), one calls each member ([`dial`]), one watches for verdicts that lapse, and a thread keeps
//! the pulse ([`beat`]). What they learn goes into one table ([`table`]); who may come in and what their evidence is worth is decided in [`gate`].
//!
//! **Invariant:** a connection of a peer whose verdict has lapsed or been refused is cut; there is no path by which a
//! request of it is answered.

pub mod beat;
mod dial;
mod gate;
mod heartbeat;
mod hints;
mod serve;
pub mod table;
mod view;

use crate::attest::Attester;
use crate::chain::Chain;
use crate::places::Places;
use heartbeat::HeartbeatKey;
use hints::Hints;
use pillar_model::PillarId;
use pillar_quorum::Cluster;
use pillar_session::{Cut, PeerChannel};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use table::Table;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

pub use heartbeat::NoKey;
pub use serve::listen;

/// Between two tries to get this machine's identity from its TPM.
const IDENTITY_PAUSE: Duration = Duration::from_secs(5);
/// How long an operator waits for an attestation that he asked for: a call, a handshake and a quote on a slow machine.
const ASKED: Duration = Duration::from_secs(45);

/// What all tasks share.
pub struct Shared {
    pub chain: Arc<Chain>,
    pub places: Arc<Places>,
    pub attester: Attester,
    key: HeartbeatKey,
    table: Mutex<Table>,
    own_spki: OnceLock<Vec<u8>>,
    no_identity: Mutex<Option<String>>,
    /// The latest heartbeat with its number, for whoever sends it.
    pulse: watch::Sender<beat::Pulse>,
    /// Ticks when something was judged or tried.
    news: watch::Sender<u64>,
    cuts: Mutex<BTreeMap<PillarId, BTreeMap<u64, Cut>>>,
    connections: AtomicU64,
    /// Peers whose last entry is another one than ours of the same number.
    forks: Mutex<BTreeSet<PillarId>>,
    callers: Mutex<BTreeMap<PillarId, Arc<Caller>>>,
    hints: Hints,
    look_ups: Arc<Semaphore>,
}

/// What the task that calls one peer is asked for.
#[derive(Debug, Default)]
struct Caller {
    /// Attest it again now.
    attest: Notify,
    /// It has entries that are missing here.
    fetch: Notify,
    /// It has just called, so that it can be called.
    wake: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Nothing runs yet.
    pub fn new(chain: Arc<Chain>, places: Arc<Places>, attester: Attester) -> Result<Self, NoKey> {
        let hints = Hints::of(&places.node_settings());
        Ok(Self {
            chain,
            places,
            attester,
            key: HeartbeatKey::generate()?,
            table: Mutex::default(),
            own_spki: OnceLock::new(),
            no_identity: Mutex::default(),
            pulse: watch::channel(None).0,
            news: watch::channel(0).0,
            cuts: Mutex::default(),
            connections: AtomicU64::new(0),
            forks: Mutex::default(),
            callers: Mutex::default(),
            hints,
            look_ups: Arc::new(Semaphore::new(dial::LOOK_UPS)),
        })
    }

    /// What is known about the others. Held for moments only, never over an await.
    fn table(&self) -> MutexGuard<'_, Table> {
        locked(&self.table)
    }

    /// This pillar's name, when the cluster has it.
    pub fn own_name(&self, cluster: &Cluster) -> Option<PillarId> {
        cluster.member_by_tls(self.own_spki.get()?).map(|row| row.name.clone())
    }

    /// Why this pillar takes no part in a cluster; empty when it does.
    pub fn trouble(&self) -> String {
        if let Some(trouble) = self.chain.trouble() {
            return trouble;
        }
        if let Some(reason) = locked(&self.no_identity).clone() {
            return format!("no identity: {reason}");
        }
        match self.chain.cluster() {
            None => "belongs to no cluster".to_owned(),
            Some(cluster) if self.own_spki.get().is_some() && self.own_name(&cluster).is_none() => {
                "is no member of the cluster that it knows: not admitted yet, or revoked".to_owned()
            }
            Some(_) => match locked(&self.forks).first() {
                Some(other) => format!(
                    "{other} says that it has another chain of entries; if so, operators signed two entries of one number: `pillar explain {other}` names them"
                ),
                None => String::new(),
            },
        }
    }

    /// Has a peer attested now, and waits for how it goes.
    pub async fn attest_now(&self, name: &PillarId) {
        let mut news = self.news.subscribe();
        let before = self.table().get(name).map(table::Peer::tries).unwrap_or_default();
        let Some(caller) = locked(&self.callers).get(name).cloned() else { return };
        caller.attest.notify_one();
        let done = async {
            while self.table().get(name).map(table::Peer::tries).unwrap_or_default() == before {
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        // What is known by then is told; it says how old it is.
        let _ = timeout(ASKED, done).await;
    }

    /// Something was judged or tried.
    fn judged(&self, name: &PillarId) {
        self.table().peer(name).count_try();
        self.news.send_modify(|news| *news += 1);
    }

    /// A peer could not be reached, or left.
    fn unreachable(&self, name: &PillarId, reason: String) {
        self.table().peer(name).unreachable(reason);
        self.judged(name);
    }

    /// Notes an open connection, to be cut when its peer is; it is forgotten with what is returned.
    fn connected(self: &Arc<Self>, channel: &PeerChannel) -> Connected {
        let (name, cut) = (channel.peer().clone(), channel.cut().clone());
        let id = self.connections.fetch_add(1, Ordering::Relaxed);
        locked(&self.cuts).entry(name.clone()).or_default().insert(id, cut.clone());
        // Its peer may have been refused on another connection while this one was made, or lost its row to another machine.
        if !self.is_believed(channel) {
            cut.cut("no live verdict about it");
        }
        Connected { shared: Arc::clone(self), name, id }
    }

    /// Whether there is a live verdict about the machine at the other end.
    fn is_believed(&self, channel: &PeerChannel) -> bool {
        let name = channel.peer();
        let verified = self.table().get(name).is_some_and(|peer| peer.live_verdict(Instant::now()).is_some());
        verified && self.member_by_tls(channel.peer_spki()).as_ref() == Some(name)
    }

    /// Those with whom there are connections.
    fn connected_names(&self) -> Vec<PillarId> {
        locked(&self.cuts).keys().cloned().collect()
    }

    /// Cuts all connections with a peer.
    fn cut_all(&self, name: &PillarId, reason: &str) {
        for cut in locked(&self.cuts).remove(name).unwrap_or_default().into_values() {
            cut.cut(reason);
        }
    }
}

/// An open connection.
struct Connected {
    shared: Arc<Shared>,
    name: PillarId,
    id: u64,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut cuts = locked(&self.shared.cuts);
        if let Some(of_peer) = cuts.get_mut(&self.name) {
            of_peer.remove(&self.id);
            if of_peer.is_empty() {
                cuts.remove(&self.name);
            }
        }
    }
}

/// The tasks.
pub struct Peers {
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
}

impl Peers {
    /// Not running yet.
    pub fn new(shared: Arc<Shared>, listener: std::net::TcpListener) -> Self {
        Self { shared, listener }
    }

    /// Runs until it is dropped. Ends when a part of it that must not end has ended.
    pub async fn run(self) -> io::Result<()> {
        let Self { shared, listener } = self;
        let spki = identity(&shared).await;
        let endpoint = Arc::new(serve::endpoint(&shared, &spki));
        let _ = shared.own_spki.set(spki);
        let mut tasks = JoinSet::new();
        let (beats, pulse) = watch::channel(None);
        let vital = [
            tasks.spawn(serve::run(Arc::clone(&shared), Arc::clone(&endpoint), listener)?).id(),
            tasks.spawn(beat::Watch::new(Arc::clone(&shared), pulse).run()).id(),
        ];
        let mut pulse = beat::Beat::new(Arc::clone(&shared), beats).start()?;
        let mut changes = shared.chain.changes();
        let mut callers: BTreeMap<PillarId, AbortHandle> = BTreeMap::new();
        loop {
            call_members(&shared, &endpoint, &mut tasks, &mut callers);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                _ = &mut pulse => return Err(io::Error::other("the heartbeats ended")),
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, why) = match ended {
                        Ok((id, ())) => (id, "it ended".to_owned()),
                        Err(error) => (error.id(), error.to_string()),
                    };
                    if vital.contains(&id) {
                        return Err(io::Error::other(why));
                    }
                    callers.retain(|_, task| !task.is_finished());
                }
            }
        }
    }
}

/// One task for each other member; whoever is none any more is cut off and forgotten. Those who stay are attested anew:
/// what they are held to may have changed.
fn call_members(
    shared: &Arc<Shared>,
    endpoint: &Arc<serve::OwnEndpoint>,
    tasks: &mut JoinSet<()>,
    callers: &mut BTreeMap<PillarId, AbortHandle>,
) {
    let Some(cluster) = shared.chain.cluster() else { return };
    // Whoever is no member itself calls nobody and knows nobody.
    let own = shared.own_name(&cluster);
    let is_other = |name: &PillarId| own.as_ref().is_some_and(|own| own != name);
    let rows: BTreeMap<PillarId, &[u8]> = cluster
        .members()
        .values()
        .filter(|row| is_other(&row.name))
        .map(|row| (row.name.clone(), row.tls_spki.0.as_slice()))
        .collect();
    callers.retain(|name, task| {
        let stays = rows.contains_key(name);
        if !stays {
            info!("{name} is no member any more");
            task.abort();
            locked(&shared.callers).remove(name);
        }
        stays
    });
    let replaced = shared.table().keep(&rows);
    shared.hold_to(&cluster);
    locked(&shared.forks).retain(|name| rows.contains_key(name));
    for name in &replaced {
        shared.cut_all(name, "another machine has taken its place");
    }
    for name in shared.connected_names().iter().filter(|name| !rows.contains_key(name)) {
        shared.cut_all(name, "it is no member any more");
    }
    // What the entry says does not wait for the next pulse.
    shared.cut_unverified();
    for name in rows.into_keys() {
        match callers.get(&name) {
            Some(_) => {
                if let Some(caller) = locked(&shared.callers).get(&name) {
                    caller.attest.notify_one();
                }
            }
            None => {
                let caller = Arc::new(Caller::default());
                locked(&shared.callers).insert(name.clone(), Arc::clone(&caller));
                let task = dial::run(Arc::clone(shared), Arc::clone(endpoint), name.clone(), caller);
                callers.insert(name, tasks.spawn(task));
            }
        }
    }
}

/// The TLS key from the TPM; without one there is nothing to do but to try again.
async fn identity(shared: &Shared) -> Vec<u8> {
    loop {
        let tried = shared.attester.identity().await.map_err(|error| crate::service::words(&error));
        let spki = tried.and_then(|identity| {
            let pillar_tpm::Identity { ak_public, tls_public, tls_attest, tls_signature, .. } = identity;
            pillar_verify::tls_key(&ak_public, &tls_public, &tls_attest, &tls_signature)
                .map_err(|error| error.to_string())
        });
        match spki {
            Ok(spki) => {
                *locked(&shared.no_identity) = None;
                return spki;
            }
            Err(reason) => {
                let mut known = locked(&shared.no_identity);
                if known.as_ref() != Some(&reason) {
                    warn!("no part in a cluster: {reason}");
                    *known = Some(reason);
                }
            }
        }
        sleep(IDENTITY_PAUSE).await;
    }
}
