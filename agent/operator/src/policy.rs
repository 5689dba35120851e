//! What a pillar is judged by, in one file: releases, TPM roots, pins. With it and saved evidence, a machine that knows
//! nothing else and has no TPM comes to the same verdict.

use crate::chain;
use crate::cli::{Caller, Judge, Target, Via};
use crate::failure::{Failure, Kind, Outcome};
use crate::file;
use crate::operators;
use crate::paint::harmless;
use crate::pins::Pins;
use crate::reference::Reference;
use crate::target::Place;
use crate::view::Witness;
use pillar_model::{DbxEntry, DeniedTpmFirmware, Digest, Member, ReleasePredicate};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// First field of the file; another one is another format.
const FORMAT: &str = "pillar-policy-v1";
/// Two releases with their packages, the roots of every TPM maker in hexadecimal, some hundred events.
const FILE_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// The file. Who reads it trusts whoever wrote it: it is not signed. What is signed is the chain that it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    format: String,
    /// The pillar.
    pub name: String,
    /// The entry of the cluster that was the last one then; none when the policy is from local files.
    pub entry: Option<Origin>,
    /// The releases that may run.
    pub releases: Vec<ReleasePredicate>,
    /// Trusted authorities: DER in hexadecimal.
    pub ek_roots: Vec<Digest>,
    /// Authorities that need a root above them.
    pub ek_intermediates: Vec<Digest>,
    /// Endorsement keys that alone are trusted; empty: every one with a good certificate.
    pub ek_allowed: Vec<Digest>,
    /// Firmware of TPMs that is not believed. Like the next one, files of before lack it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied_tpm_firmware: Vec<DeniedTpmFirmware>,
    /// What the machine's dbx must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dbx_required: Vec<DbxEntry>,
    /// Which TPM, firmware and state volume.
    pub pins: Pins,
}

/// Where in a cluster's chain a policy is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The cluster.
    pub cluster: String,
    /// Number of its last entry.
    pub serial: u64,
    /// SHA-256 of that entry's payload.
    pub head: Digest,
}

impl PolicyFile {
    /// From what is compared with and what is pinned.
    pub fn new(name: &str, entry: Option<Origin>, reference: Reference, pins: Pins) -> Self {
        let digests = |all: Vec<Vec<u8>>| all.into_iter().map(Digest).collect();
        Self {
            format: FORMAT.to_owned(),
            name: name.to_owned(),
            entry,
            releases: reference.releases,
            ek_roots: digests(reference.ek_roots),
            ek_intermediates: digests(reference.ek_intermediates),
            ek_allowed: reference.ek_allowed,
            denied_tpm_firmware: reference.denied_tpm_firmware,
            dbx_required: reference.dbx_required,
            pins,
        }
    }

    /// What to compare with.
    pub fn reference(&self) -> Reference {
        let der = |all: &[Digest]| all.iter().map(|digest| digest.0.clone()).collect();
        Reference {
            releases: self.releases.clone(),
            ek_roots: der(&self.ek_roots),
            ek_intermediates: der(&self.ek_intermediates),
            ek_allowed: self.ek_allowed.clone(),
            denied_tpm_firmware: self.denied_tpm_firmware.clone(),
            dbx_required: self.dbx_required.clone(),
        }
    }

    /// Reads a file that [`PolicyFile::write`] wrote.
    pub fn read(path: &Path) -> Outcome<Self> {
        let hint = "`pillar policy NAME -o FILE` writes such a file";
        let bytes = file::read(path, FILE_MAX_BYTES)?;
        let policy: Self = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::because(format!("{} is not a policy", path.display()), &error).hint(hint)
        })?;
        if policy.format != FORMAT {
            return Err(
                Failure::new(format!("{} is not a policy of the format {FORMAT}", path.display())).hint(hint)
            );
        }
        if policy.releases.is_empty() || policy.ek_roots.is_empty() {
            return Err(Failure::new(format!(
                "{} names no release or no TPM root, so nothing can fit it",
                path.display()
            ))
            .hint(hint));
        }
        Ok(policy)
    }

    /// Writes a new file.
    pub fn write(&self, path: &Path) -> Outcome {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::because("cannot write a policy", &error))?;
        text.push(b'\n');
        file::create(path, &text)
    }
}

/// Writes the policy of a member of a cluster, or of a pillar that was attested from here.
pub async fn save(target: &Target, judge: &Judge, via: &Via, path: &Path) -> Outcome<String> {
    let place = Place::find(target)?;
    let caller = &target.caller;
    let policy = match from_cluster(&place, via, caller).await? {
        Some(policy) => policy,
        None => from_files(&place, judge)?,
    };
    policy.write(path)?;
    let from = match &policy.entry {
        Some(origin) => format!("entry {} of {}", origin.serial, harmless(&origin.cluster)),
        None => "what was pinned here".to_owned(),
    };
    let path = path.display();
    Ok(format!(
        "saved what {} is judged by in {path}, from {from}; `pillar verify FILE --policy {path}`\n",
        policy.name
    ))
}

/// None when the pillar that is asked belongs to no cluster.
async fn from_cluster(place: &Place, via: &Via, caller: &Caller) -> Outcome<Option<PolicyFile>> {
    let chain = if via.via.is_some() {
        chain::open(via, caller).await?.1
    } else {
        let mut witness = Witness::at(place.clone(), caller).await?;
        if !witness.view.said.founded {
            return Ok(None);
        }
        chain::fetch(&mut witness, &chain::keys(&operators::load(&via.operators, &caller.cert())?)).await?
    };
    let name = place.id()?;
    let member = chain.cluster.member(&name).ok_or_else(|| {
        Failure::new(format!("{name} is not a member of {}", chain.cluster.constitution().cluster))
            .kind(Kind::Unknown)
    })?;
    let entry = Origin {
        cluster: chain.cluster.constitution().cluster.clone(),
        serial: chain.cluster.serial(),
        head: chain.cluster.head().clone(),
    };
    Ok(Some(PolicyFile::new(name.as_str(), Some(entry), chain.reference()?, pins_of(member)?)))
}

fn from_files(place: &Place, judge: &Judge) -> Outcome<PolicyFile> {
    let reference = Reference::load(&place.files, judge)?;
    let pins = match place.files.pins(judge) {
        Some(path) => Pins::read(&path)?,
        None => None,
    };
    let pins = pins.ok_or_else(|| {
        Failure::new(format!("nothing is pinned of {}", place.name))
            .hint("`pillar attest` pins at its first success; --pins FILE names such a file")
    })?;
    Ok(PolicyFile::new(&place.name, None, reference, pins))
}

/// A member's row as pins.
pub fn pins_of(member: &Member) -> Outcome<Pins> {
    let ak_name = pillar_verify::ak_name(&member.ak_public.0).map_err(|error| {
        Failure::because(format!("the row of {} has no AK that can be read", member.name), &error)
    })?;
    Ok(Pins {
        ak_name: Digest(ak_name),
        firmware: member.firmware.clone(),
        state_volume: Some(member.state_volume.clone()),
        counters: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

    fn policy() -> PolicyFile {
        let reference = Reference { ek_roots: vec![vec![1, 2, 3]], ..Reference::default() };
        let pins = Pins {
            ak_name: Digest(vec![0, 11, 1]),
            firmware: BTreeMap::new(),
            state_volume: Some("open".to_owned()),
            counters: None,
        };
        let entry = Origin { cluster: "lab".to_owned(), serial: 5, head: Digest(vec![7; 32]) };
        PolicyFile::new("p2", Some(entry), reference, pins)
    }

    #[test]
    fn a_policy_that_nothing_can_fit_is_refused_and_so_is_another_file() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("p2.policy.json");
        policy().write(&path).expect("written");
        assert!(policy().write(&path).expect_err("exists").to_string().contains("exists already"));
        let error = PolicyFile::read(&path).expect_err("no release").to_string();
        assert!(error.contains("names no release or no TPM root"), "{error}");
        let text = fs::read_to_string(&path).expect("text");
        fs::write(&path, text.replace(FORMAT, "other")).expect("written");
        assert!(
            PolicyFile::read(&path).expect_err("other").to_string().contains("not a policy of the format")
        );
        fs::write(&path, "{}").expect("written");
        assert!(
            PolicyFile::read(&path)
                .expect_err("none")
                .to_string()
                .contains("is not a policy\n  caused by: missing field")
        );
    }
}
