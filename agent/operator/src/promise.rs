//! What this desk's keys have signed, by its place in a cluster's chain: no key signs two decisions for one place.
//!
//! With two properly signed entries of one number a cluster falls apart, and thresholds of more than half mean that
//! somebody must have signed both: by mistake, because two decisions were made at the same time, or because the pillar
//! that was asked hid the first one. An honest operator's desk refuses the second.

use crate::chain::{Chain, Proposal};
use crate::failure::{Failure, Kind, Outcome};
use crate::file;
use pillar_model::{Digest, OperatorKey};
use pillar_quorum::Envelope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// In the run folder.
const FILE: &str = "signed.json";
/// Some 10000 decisions.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The file, by key.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Signed(BTreeMap<String, Decisions>);

/// What one key signed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decisions {
    /// By the digest of the entry before, the digest of what was signed to follow it.
    places: BTreeMap<Digest, Digest>,
    /// The last of them as JSON, so that it can be handed in again when it got lost on the way.
    last: String,
}

impl Decisions {
    /// The last decision as a proposal, if it says the same.
    fn again(&self, chain: &Chain, proposal: &Proposal) -> Option<Proposal> {
        let last = chain.count(Envelope::parse(self.last.as_bytes()).ok()?).ok()?;
        (last.entry.action == proposal.entry.action).then_some(last)
    }
}

/// Notes that this key signs the proposal, and returns what to sign: the same as before, when it says the same. Refused
/// when the key signed another one for the same place, unless that one is known to be dead (`instead`).
pub fn promise(
    folder: &Path,
    key: &OperatorKey,
    chain: &Chain,
    proposal: Proposal,
    instead: bool,
) -> Outcome<Proposal> {
    let path = folder.join(FILE);
    let mut signed = read(&path)?;
    let decisions = signed.0.entry(key.to_string()).or_default();
    let decision = proposal.envelope.digest();
    match decisions.places.get(&proposal.entry.previous) {
        Some(before) if *before == decision => return Ok(proposal),
        Some(_) if !instead => {
            return decisions.again(chain, &proposal).ok_or_else(|| another(&proposal));
        }
        _ => {}
    }
    decisions.places.insert(proposal.entry.previous.clone(), decision);
    decisions.last = proposal.envelope.to_json();
    let text = serde_json::to_vec_pretty(&signed)
        .map_err(|error| Failure::because("cannot note what is signed", &error))?;
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::because(format!("cannot make {}", folder.display()), &error))?;
    file::replace(&path, &text)?;
    Ok(proposal)
}

fn another(proposal: &Proposal) -> Failure {
    Failure::new(format!(
        "this key signed another decision as entry {}, and of two only one can be in force",
        proposal.entry.serial
    ))
    .kind(Kind::Refused)
    .hint(
        "if the other one is in force somewhere, the pillar that was asked is behind: name another with --via; if it was given up, --instead signs this one",
    )
}

fn read(path: &Path) -> Outcome<Signed> {
    if !path.exists() {
        return Ok(Signed::default());
    }
    serde_json::from_slice(&file::read(path, FILE_MAX_BYTES)?).map_err(|error| {
        Failure::because(format!("cannot understand {}", path.display()), &error)
            .hint("restore the file: it keeps your keys from signing two decisions for one place")
    })
}
