//! `pillar found`: makes a cluster of machines that run.
//!
//! All entries are made and signed here first, from evidence that is a moment old, and kept in a file; then every machine is
//! given all of them. So an interrupted run is taken up by handing over the same bytes, and no two machines ever see
//! different first entries.

use crate::attest::{Proved, prove};
use crate::chain::{self, refused};
use crate::cli::{Caller, Found, Run};
use crate::clock;
use crate::failure::{Failure, Kind, Outcome, Said};
use crate::file;
use crate::operators;
use crate::reference::{Reference, now_unix_s};
use crate::row;
use crate::signer::{Opened, Signer};
use crate::target::{Place, check_addr};
use crate::view::{self, Peer, Witness};
use pillar_model::{
    Action, Constitution, Digest, Member, OperatorEntry, OperatorKey, PeerState, ReleasePredicate,
};
use pillar_quorum::{Cluster, Envelope, propose_founding, replay};
use pillar_signer::Source;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Entries that are signed and not yet with every machine, in the run folder.
const FILE: &str = "founding.json";
/// A constitution, a release, a row for each machine.
const FILE_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// How long a machine may take to answer: none is left out, and emulated ones are slow.
const ANSWER: Duration = Duration::from_secs(40);
/// How long a machine may take to come to the last entry.
const CATCH_UP: Duration = Duration::from_secs(20);
/// How long the machines may take to attest each other before they are left to it.
const MEET: Duration = Duration::from_secs(15);
/// How often they are asked.
const POLL: Duration = Duration::from_millis(250);

/// Who signs and asks.
struct Founders {
    caller: Caller,
    signers: Vec<Signer>,
    operators: Vec<OperatorEntry>,
}

/// Runs it.
pub async fn run(args: &Found) -> Outcome<Said> {
    let places = places(args)?;
    if places.len() < 2 {
        return Ok(nothing(args, "fewer than two machines run, and a cluster needs two: nothing to do"));
    }
    let named = named_peers(args)?;
    let founders = founders(args)?;
    let mut witnesses = Vec::new();
    for (_, answer) in view::all(places, &founders.caller, ANSWER).await {
        witnesses.push(answer?);
    }
    one_cluster(&witnesses)?;
    if witnesses.iter().any(|witness| witness.view.said.founded) {
        return resume(args, &founders, witnesses).await;
    }
    fresh(args, &founders, &named, witnesses).await
}

/// A script is not told that there is nothing to do.
fn nothing(args: &Found, words: &str) -> Said {
    if args.if_several { String::new().into() } else { format!("{words}\n").into() }
}

fn places(args: &Found) -> Outcome<Vec<Place>> {
    if args.names.is_empty() {
        return Ok(Place::running(&args.run));
    }
    let mut places: Vec<Place> = Vec::new();
    for text in &args.names {
        let place = Place::named(text, &args.run)?;
        place.id()?;
        if places.iter().any(|known| known.name == place.name) {
            return Err(Failure::new(format!("{} is named twice", place.name)));
        }
        places.push(place);
    }
    Ok(places)
}

fn named_peers(args: &Found) -> Outcome<Vec<(String, String)>> {
    let one = |text: &String| {
        let (name, address) = text.split_once('=').ok_or_else(|| {
            Failure::new(format!("\"{text}\" is not NAME=HOST:PORT")).hint("--peer p1=10.0.0.1:7444")
        })?;
        check_addr(address)?;
        Ok((name.to_owned(), address.to_owned()))
    };
    args.peer.iter().map(one).collect()
}

fn founders(args: &Found) -> Outcome<Founders> {
    let default = Path::new(crate::cli::DEFAULT_KEY);
    let keys = if args.key.is_empty() {
        operators::in_folder(default, "key").into_iter().map(Source::File).collect()
    } else {
        args.key.clone()
    };
    if keys.is_empty() {
        return Err(Failure::new("no operator's key is there to sign with")
            .hint("`./just keys` makes development keys; --key FILE… names others"));
    }
    let first =
        keys.iter().find_map(|key| if let Source::File(path) = key { Some(path.clone()) } else { None });
    let caller = Caller {
        key: first.unwrap_or_else(|| default.to_owned()),
        cert: args.cert.clone(),
        passphrase_from: args.passphrase_from.clone(),
        opened: Opened::default(),
        run: args.run.clone(),
    };
    let signers = keys.iter().map(|key| Signer::open(key, &caller)).collect::<Outcome<Vec<_>>>()?;
    let operators = operators::load(&args.operators, &caller.cert())?;
    Ok(Founders { caller, signers, operators })
}

/// Two clusters are not made one.
fn one_cluster(witnesses: &[Witness]) -> Outcome {
    let mut founded = witnesses.iter().filter(|witness| witness.view.said.founded);
    let Some(first) = founded.next() else { return Ok(()) };
    match founded.find(|other| other.view.said.cluster != first.view.said.cluster) {
        None => Ok(()),
        Some(other) => Err(Failure::new(format!(
            "{} belongs to the cluster {}, and {} to {}",
            first.place.name,
            crate::paint::harmless(&first.view.said.cluster),
            other.place.name,
            crate::paint::harmless(&other.view.said.cluster)
        ))
        .kind(Kind::NoCluster)
        .hint(
            "`pillar state erase` makes a machine forget its cluster, with everything on its state volume",
        )),
    }
}

/// Some machines have entries: nothing new is signed. Members that lack some are given them.
async fn resume(args: &Found, founders: &Founders, mut witnesses: Vec<Witness>) -> Outcome<Said> {
    let farthest = witnesses.iter_mut().filter(|w| w.view.said.founded).max_by_key(|w| w.view.said.serial);
    let Some(farthest) = farthest else { return Err(Failure::new("no machine has entries")) };
    let trusted = chain::keys(&founders.operators);
    let chain = chain::fetch(farthest, &trusted).await?;
    let path = founding_file(&args.run);
    let (envelopes, cluster) = match kept(&path, &chain.envelopes, &trusted) {
        Some((envelopes, cluster)) => (envelopes, cluster),
        None => (chain.envelopes, chain.cluster),
    };
    let mut out = String::new();
    let mut behind = Vec::new();
    for mut witness in witnesses {
        if !witness.view.said.founded && !is_member(&mut witness, &cluster).await? {
            outsider(&mut out, &witness.place.name, &cluster);
        } else if !witness.view.said.founded || witness.view.said.serial < cluster.serial() {
            behind.push(witness);
        }
    }
    let late: Vec<String> = behind.iter().map(|witness| witness.place.name.clone()).collect();
    let behind = hand_out(behind, &envelopes).await?;
    // It was only for this.
    let _ = std::fs::remove_file(&path);
    if late.is_empty() {
        let name = &cluster.constitution().cluster;
        let words = format!("the cluster {name} is there, and its entries are with every member that runs");
        return Ok(Said { text: nothing(args, &words).text + &out, kind: None });
    }
    let _ = writeln!(
        out,
        "{} of {}: given the entries that they lacked",
        late.join(", "),
        cluster.constitution().cluster
    );
    out.push_str(&met(behind, MEET).await);
    Ok(out.into())
}

fn founding_file(run: &Run) -> PathBuf {
    run.dir.join(FILE)
}

/// Entries of an interrupted run, when they go on from what a machine has.
fn kept(path: &Path, known: &[Envelope], trusted: &[OperatorKey]) -> Option<(Vec<Envelope>, Cluster)> {
    let bytes = file::read(path, FILE_MAX_BYTES).ok()?;
    let texts: Vec<String> = serde_json::from_slice(&bytes).ok()?;
    let envelopes: Vec<Envelope> =
        texts.iter().map(|text| Envelope::parse(text.as_bytes())).collect::<Result<_, _>>().ok()?;
    let goes_on = envelopes.len() > known.len()
        && known.iter().zip(&envelopes).all(|(known, kept)| known.digest() == kept.digest());
    if !goes_on {
        return None;
    }
    let cluster = replay(&envelopes, trusted).ok()?;
    Some((envelopes, cluster))
}

/// Whether this machine's TPM has a row under its name.
async fn is_member(witness: &mut Witness, cluster: &Cluster) -> Outcome<bool> {
    let Ok(id) = witness.place.id() else { return Ok(false) };
    let Some(member) = cluster.member(&id) else { return Ok(false) };
    let request = witness.connected.client.identity(pillar_wire::proto::IdentityRequest {});
    let identity = crate::session::call("tell its identity", request).await?;
    Ok(identity.ek_public == member.ek_public.0)
}

fn outsider(out: &mut String, name: &str, cluster: &Cluster) {
    let known = cluster.members().keys().any(|member| member.as_str() == name);
    let label = &cluster.constitution().cluster;
    let _ = if known {
        writeln!(
            out,
            "{name} has another TPM than the member of that name; `pillar readmit {name}` proposes it anew"
        )
    } else {
        writeln!(out, "{name} does not belong to {label}; `pillar enroll {name}` proposes it")
    };
}

/// No machine has entries.
async fn fresh(
    args: &Found,
    founders: &Founders,
    named: &[(String, String)],
    witnesses: Vec<Witness>,
) -> Outcome<Said> {
    for witness in &witnesses {
        served(witness, founders)?;
        clock::check(&witness.place.name, witness.view.clock_offset_s)?;
    }
    let references = witnesses
        .iter()
        .map(|w| Reference::load(&w.place.files, &args.judge))
        .collect::<Outcome<Vec<_>>>()?;
    let release = one_release(&witnesses, &references)?;
    let constitution = constitution(args, &founders.operators, &references)?;
    let proved = prove_all(witnesses, references).await?;
    let machines: Vec<_> = proved.iter().map(|(w, proved)| (&w.place, row::settings(proved))).collect();
    let addresses = row::addresses(named, &machines);
    let mut rows = Vec::new();
    for ((witness, proved), addresses) in proved.iter().zip(addresses) {
        rows.push(row::member(&witness.place, proved, addresses)?);
    }
    let nowhere: Vec<&str> =
        rows.iter().filter(|r| r.addresses.is_empty()).map(|r| r.name.as_str()).collect();
    let mut out = String::new();
    if !nowhere.is_empty() {
        let _ = writeln!(
            out,
            "note: it is not known where {} can be called by the others; --peer NAME=HOST:PORT says it",
            nowhere.join(", ")
        );
    }
    let (envelopes, cluster) = entries(constitution, release, rows, founders)?;
    keep(&founding_file(&args.run), &envelopes)?;
    let witnesses = proved.into_iter().map(|(witness, _)| witness).collect();
    let witnesses = hand_out(witnesses, &envelopes).await?;
    let _ = std::fs::remove_file(founding_file(&args.run));
    let (constitution, members) = (cluster.constitution(), cluster.members().len());
    let _ = writeln!(
        out,
        "founded {}: {members} pillars, entry {}; any {} of {} operators decide",
        constitution.cluster,
        cluster.serial(),
        constitution.threshold,
        constitution.operators.len()
    );
    out.push_str(&met(witnesses, MEET).await);
    Ok(out.into())
}

/// With the first entry a machine ceases to serve the operators of its image: who is none of the constitution's would not
/// be let in any more to hand over the second one.
fn served(witness: &Witness, founders: &Founders) -> Outcome {
    if operators::serve(&founders.operators, &witness.connected.client_spki) {
        return Ok(());
    }
    let names: Vec<&str> = founders.operators.iter().map(|operator| operator.name.as_str()).collect();
    Err(Failure::new(format!(
        "the holder of {} would be no operator of the cluster, and be shut out of its machines at once",
        founders.caller.cert().display()
    ))
    .kind(Kind::Refused)
    .hint(format!(
        "nothing was signed; its operators would be {}: let the first file of --key be the key of one of them, or name this certificate too with --operators",
        names.join(", ")
    )))
}

/// Machines of one cluster run one release.
fn one_release(witnesses: &[Witness], references: &[Reference]) -> Outcome<ReleasePredicate> {
    let first = references.first().and_then(|reference| reference.releases.first());
    let first = first.ok_or_else(|| Failure::new("there is no release to run"))?;
    let other =
        witnesses.iter().zip(references).find(|(_, reference)| reference.releases.first() != Some(first));
    match other {
        None => Ok(first.clone()),
        Some((witness, _)) => Err(Failure::new(format!(
            "{} was started with another release than {}",
            witness.place.name, witnesses[0].place.name
        ))
        .hint("`./just up` starts machines with the image in out/; all of a cluster run the same")),
    }
}

fn constitution(
    args: &Found,
    operators: &[OperatorEntry],
    references: &[Reference],
) -> Outcome<Constitution> {
    let count = u32::try_from(operators.len()).unwrap_or(u32::MAX);
    let certificates = |of: fn(&Reference) -> &Vec<Vec<u8>>| {
        let mut all: Vec<Digest> = Vec::new();
        for der in references.iter().flat_map(of) {
            if all.iter().all(|known| known.0 != *der) {
                all.push(Digest(der.clone()));
            }
        }
        all
    };
    Ok(Constitution {
        version: 1,
        cluster: args.cluster.clone(),
        operators: operators.to_vec(),
        threshold: args.threshold.unwrap_or(count / 2 + 1),
        ek_roots: certificates(|reference| &reference.ek_roots),
        ek_intermediates: certificates(|reference| &reference.ek_intermediates),
        ek_allowed: Vec::new(),
        denied_tpm_firmware: Vec::new(),
        dbx_required: Vec::new(),
        expires_unix_s: now_unix_s().saturating_add(u64::from(args.days) * 86_400),
    })
}

/// All machines at once.
async fn prove_all(witnesses: Vec<Witness>, references: Vec<Reference>) -> Outcome<Vec<(Witness, Proved)>> {
    let tasks: Vec<_> = witnesses
        .into_iter()
        .zip(references)
        .map(|(mut witness, reference)| {
            tokio::spawn(async move {
                let proved = prove(&witness.place, &mut witness.connected, &reference).await?;
                Ok((witness, proved))
            })
        })
        .collect();
    joined(tasks).await
}

/// Gives all entries to all of them at once, and waits until each has them.
async fn hand_out(witnesses: Vec<Witness>, envelopes: &[Envelope]) -> Outcome<Vec<Witness>> {
    let serial = (envelopes.len() as u64).saturating_sub(1);
    let tasks: Vec<_> = witnesses
        .into_iter()
        .map(|mut witness| {
            let envelopes = envelopes.to_vec();
            tokio::spawn(async move {
                chain::hand_over(&mut witness, &envelopes).await?;
                chain::wait_for(&mut witness, serial, CATCH_UP).await?;
                Ok(witness)
            })
        })
        .collect();
    joined(tasks).await
}

async fn joined<T>(tasks: Vec<tokio::task::JoinHandle<Outcome<T>>>) -> Outcome<Vec<T>> {
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.map_err(|error| Failure::because("cannot ask", &error))??);
    }
    Ok(done)
}

/// The constitution, the release, a row for each machine: signed by everybody whose key is here.
fn entries(
    constitution: Constitution,
    release: ReleasePredicate,
    rows: Vec<Member>,
    founders: &Founders,
) -> Outcome<(Vec<Envelope>, Cluster)> {
    let now = now_unix_s();
    let trusted = chain::keys(&founders.operators);
    let mut founding = propose_founding(constitution, &trusted, now).map_err(|error| refused(&error))?;
    sign(&mut founding, founders)?;
    let mut cluster = Cluster::found(&founding, &trusted, now).map_err(|error| refused(&error))?;
    let mut envelopes = vec![founding];
    let run = Action::Run { committed: Box::new(release), trial: None };
    let admit = |member| Action::Admit { member: Box::new(member), replaces: None };
    for action in std::iter::once(run).chain(rows.into_iter().map(admit)) {
        let mut envelope = cluster.propose(action, now).map_err(|error| refused(&error))?;
        sign(&mut envelope, founders)?;
        cluster = cluster.apply(&envelope, now).map_err(|error| refused(&error))?;
        envelopes.push(envelope);
    }
    Ok((envelopes, cluster))
}

fn sign(envelope: &mut Envelope, founders: &Founders) -> Outcome {
    founders.signers.iter().try_for_each(|signer| signer.approve(envelope))
}

fn keep(path: &Path, envelopes: &[Envelope]) -> Outcome {
    let texts: Vec<String> = envelopes.iter().map(Envelope::to_json).collect();
    let bytes =
        serde_json::to_vec(&texts).map_err(|error| Failure::because("cannot write the entries", &error))?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::because(format!("cannot make {}", folder.display()), &error))?;
    }
    file::replace(path, &bytes)
}

/// Waits a while until all members have attested each other, as the first one hears; that some have not yet is no failure.
async fn met(mut witnesses: Vec<Witness>, limit: Duration) -> String {
    let deadline = Instant::now() + limit;
    let Some(witness) = witnesses.first_mut() else { return String::new() };
    loop {
        let waiting: Vec<String> = match view::ask(&witness.place, &mut witness.connected).await {
            Ok(view) => {
                let waiting = view.peers.iter().filter(|peer| !attested_by_all(peer, &view.peers));
                waiting.map(|peer| peer.name.to_string()).collect()
            }
            Err(_) => return String::new(),
        };
        if waiting.is_empty() {
            return String::new();
        }
        if Instant::now() >= deadline {
            return format!(
                "{} not attested by everybody yet, as far as {} knows\n",
                waiting.join(", "),
                witness.place.name
            );
        }
        sleep(POLL).await;
    }
}

/// Whether it is up, and every other one of these vouches for it.
fn attested_by_all(peer: &Peer, all: &[Peer]) -> bool {
    let vouches = |other: &Peer| peer.said.vouchers.iter().any(|name| name == other.name.as_str());
    peer.state == PeerState::Up && all.iter().all(|other| other.name == peer.name || vouches(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::tests::write_operator;
    use pillar_model::{Bank, FirmwareReference, PcrIndex, PcrPrediction, RootHash, SecureBootKeys};
    use std::collections::BTreeMap;

    #[test]
    fn all_have_met_when_everybody_vouches_for_everybody() {
        let peer = |name: &str, state, vouchers: &[&str]| Peer {
            name: name.parse().expect("a name"),
            state,
            said: pillar_wire::proto::Peer {
                vouchers: vouchers.iter().map(|name| (*name).to_owned()).collect(),
                ..pillar_wire::proto::Peer::default()
            },
        };
        let met = |all: &[Peer]| all.iter().all(|peer| attested_by_all(peer, all));
        let p1 = peer("p1", PeerState::Up, &["p2"]);
        assert!(met(&[p1.clone(), peer("p2", PeerState::Up, &["p1"])]));
        // p2 is believed, and has not said yet that it believes p1.
        assert!(!met(&[peer("p1", PeerState::Up, &[]), peer("p2", PeerState::Up, &["p1"])]));
        assert!(!met(&[p1, peer("p2", PeerState::Suspect, &["p1"])]));
    }

    fn founders(folder: &Path, signing: usize) -> Founders {
        for n in 1..=3 {
            write_operator(folder, &format!("operator-{n}"), &format!("operator-{n}"));
        }
        let key = folder.join("operator-1.key");
        let signers = operators::in_folder(&key, "key").into_iter().take(signing);
        let signers = signers.map(|path| Signer::alone(&Source::File(path)).expect("a key")).collect();
        Founders {
            signers,
            operators: operators::load(&[], &key).expect("operators"),
            caller: Caller {
                key,
                cert: None,
                passphrase_from: None,
                opened: Opened::default(),
                run: Run { dir: folder.to_owned() },
            },
        }
    }

    fn release() -> ReleasePredicate {
        let digest = Digest(vec![7; 32]);
        let prediction = PcrPrediction {
            fixed: BTreeMap::new(),
            uki_after_phase: BTreeMap::from([("ready".to_owned(), digest.clone())]),
        };
        ReleasePredicate {
            version: "0.1.0".to_owned(),
            flavour: "virt".to_owned(),
            epoch: 1,
            root_hash: RootHash([0xab; 32]),
            kernel: "6.12".to_owned(),
            cmdline: format!("roothash={}", "ab".repeat(32)),
            sizes_bytes: BTreeMap::new(),
            boot_applications: Vec::new(),
            pcrs: BTreeMap::from([(Bank::Sha256, prediction)]),
            secure_boot: SecureBootKeys { pk: digest.clone(), kek: digest.clone(), db: digest },
            packages: Vec::new(),
        }
    }

    fn row(number: u8) -> Member {
        let pcrs = [0, 1, 2, 3, 5].map(|pcr| (PcrIndex::new(pcr).expect("a PCR"), Digest(vec![number; 32])));
        Member {
            name: format!("p{number}").parse().expect("a name"),
            ek_public: Digest(vec![number; 122]),
            ek_certificate: Digest(vec![number; 32]),
            tpm_maker: None,
            ak_public: Digest(vec![number + 100; 88]),
            tls_spki: Digest(vec![number; 91]),
            firmware: BTreeMap::from([(
                Bank::Sha256,
                FirmwareReference { pcrs: BTreeMap::from(pcrs), events: Vec::new() },
            )]),
            state_volume: "open".to_owned(),
            addresses: vec![format!("10.77.0.{number}:7444")],
        }
    }

    fn args() -> Found {
        use clap::Parser as _;
        match crate::cli::Arguments::parse_from(["pillar", "found"]).action {
            crate::cli::Action::Found(found) => found,
            _ => panic!("another command"),
        }
    }

    fn reference() -> Reference {
        Reference { ek_roots: vec![vec![1; 10]], ek_intermediates: vec![vec![2; 10]], ..Reference::default() }
    }

    #[test]
    fn the_first_entries_are_signed_and_stand() {
        let dir = tempfile::tempdir().expect("folder");
        let founders = founders(dir.path(), 3);
        let document =
            constitution(&args(), &founders.operators, &[reference(), reference()]).expect("a constitution");
        assert_eq!((document.threshold, document.ek_roots.len()), (2, 1));
        let (envelopes, cluster) =
            entries(document, release(), vec![row(1), row(2)], &founders).expect("entries");
        assert_eq!((envelopes.len(), cluster.serial(), cluster.members().len()), (4, 3, 2));
        // What an interrupted run left goes on from what a machine has, and from nothing else.
        let path = dir.path().join(FILE);
        let trusted = chain::keys(&founders.operators);
        keep(&path, &envelopes).expect("kept");
        let (kept_envelopes, kept_cluster) = kept(&path, &envelopes[..2], &trusted).expect("goes on");
        assert_eq!((kept_envelopes.len(), kept_cluster.head()), (4, cluster.head()));
        assert!(kept(&path, &envelopes, &trusted).is_none());
        assert!(kept(&path, &envelopes[1..2], &trusted).is_none());
    }

    // attack: D1 P15
    #[test]
    fn too_few_keys_found_nothing() {
        let dir = tempfile::tempdir().expect("folder");
        let founders = founders(dir.path(), 1);
        let document = constitution(&args(), &founders.operators, &[reference()]).expect("a constitution");
        let failure =
            entries(document, release(), vec![row(1)], &founders).map(drop).expect_err("one of three");
        assert_eq!(failure.kind, Kind::Unsigned);
        assert!(failure.to_string().contains("1 of 2 signatures"), "{failure}");
    }

    // attack: P14
    #[test]
    fn an_expired_constitution_is_its_own_failure() {
        let dir = tempfile::tempdir().expect("folder");
        let founders = founders(dir.path(), 3);
        let document = constitution(&args(), &founders.operators, &[reference()]).expect("a constitution");
        let trusted = chain::keys(&founders.operators);
        let then = document.expires_unix_s - 10;
        let mut founding = propose_founding(document, &trusted, then).expect("a founding");
        sign(&mut founding, &founders).expect("signed");
        let cluster = Cluster::found(&founding, &trusted, then).expect("founded");
        let run = Action::Run { committed: Box::new(release()), trial: None };
        let failure = refused(&cluster.propose(run, then + 10).expect_err("expired"));
        assert_eq!(failure.kind, Kind::Expired);
        assert!(failure.to_string().contains("hint: amend the constitution"), "{failure}");
    }

    #[test]
    fn who_is_outside_is_told_what_to_do() {
        let dir = tempfile::tempdir().expect("folder");
        let founders = founders(dir.path(), 2);
        let document = constitution(&args(), &founders.operators, &[reference()]).expect("a constitution");
        let (_, cluster) = entries(document, release(), vec![row(1)], &founders).expect("entries");
        let mut out = String::new();
        outsider(&mut out, "p5", &cluster);
        outsider(&mut out, "p1", &cluster);
        assert_eq!(
            out,
            "p5 does not belong to lab; `pillar enroll p5` proposes it\np1 has another TPM than the member of that name; `pillar readmit p1` proposes it anew\n"
        );
    }
}
