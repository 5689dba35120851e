//! A cluster of three operators, and everything to make entries for it.
#![allow(dead_code)]

use pillar_model::{
    Action, Bank, BootApplication, Constitution, Digest, Entry, FirmwareEvent, FirmwareReference, Member,
    OperatorEntry, OperatorKey, PcrIndex, PcrPrediction, PillarId, ReleasePredicate, RootHash,
    SecureBootKeys,
};
use pillar_quorum::{Cluster, ENTRY_TYPE, Envelope, propose_founding};
use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::collections::BTreeMap;

/// When the tests play.
pub const NOW: u64 = 1_800_000_000;
pub const YEAR: u64 = 365 * 86_400;

pub fn pair(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("32 bytes are a seed")
}

pub fn key(number: u8) -> OperatorKey {
    OperatorKey(pair(number).public_key().as_ref().try_into().expect("32 bytes"))
}

pub fn operator(number: u8) -> OperatorEntry {
    OperatorEntry { name: format!("operator-{number}"), key: key(number) }
}

pub fn constitution(version: u64, operators: &[u8], threshold: u32) -> Constitution {
    Constitution {
        version,
        cluster: "lab".to_owned(),
        operators: operators.iter().copied().map(operator).collect(),
        threshold,
        ek_roots: vec![Digest(vec![0x30; 600])],
        ek_intermediates: vec![Digest(vec![0x31; 600])],
        ek_allowed: Vec::new(),
        denied_tpm_firmware: Vec::new(),
        dbx_required: Vec::new(),
        expires_unix_s: NOW + YEAR,
    }
}

pub fn id(name: &str) -> PillarId {
    name.parse().expect("a label")
}

pub fn firmware(bank: Bank) -> FirmwareReference {
    let value = Digest(vec![7; bank.digest_bytes()]);
    let pcr = |index| PcrIndex::new(index).expect("below 24");
    let event = FirmwareEvent {
        pcr: pcr(0),
        kind: "EV_POST_CODE".to_owned(),
        digest: value.clone(),
        words: "firmware volume at 0x1000".to_owned(),
    };
    FirmwareReference {
        pcrs: [0, 1, 2, 3, 5].into_iter().map(|index| (pcr(index), value.clone())).collect(),
        events: vec![event],
    }
}

pub fn member(name: &str, machine: u8) -> Member {
    Member {
        name: id(name),
        ek_public: Digest(vec![machine, 1, 1]),
        ek_certificate: Digest(vec![machine; 32]),
        tpm_maker: None,
        ak_public: Digest(vec![machine, 2, 2]),
        tls_spki: Digest(vec![machine, 3, 3]),
        firmware: BTreeMap::from([(Bank::Sha256, firmware(Bank::Sha256))]),
        state_volume: "none".to_owned(),
        addresses: vec!["p1.example:7444".to_owned(), "[fd00::1]:7444".to_owned(), "10.0.0.1:1".to_owned()],
    }
}

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(digest(&SHA256, bytes).as_ref().to_vec())
}

pub fn ek(member: &Member) -> Digest {
    sha256(&member.ek_public.0)
}

pub fn release(version: &str, epoch: u64) -> ReleasePredicate {
    let value = Digest(vec![9; 32]);
    ReleasePredicate {
        version: version.to_owned(),
        flavour: "virt".to_owned(),
        epoch,
        root_hash: RootHash([1; 32]),
        kernel: "6.12.1".to_owned(),
        cmdline: "quiet".to_owned(),
        sizes_bytes: BTreeMap::from([("pillar.raw".to_owned(), 1 << 28)]),
        boot_applications: vec![BootApplication {
            name: "uki".to_owned(),
            authenticode: BTreeMap::from([(Bank::Sha256, value.clone())]),
        }],
        pcrs: BTreeMap::from([(
            Bank::Sha256,
            PcrPrediction {
                fixed: BTreeMap::new(),
                uki_after_phase: BTreeMap::from([("ready".to_owned(), value.clone())]),
            },
        )]),
        secure_boot: SecureBootKeys { pk: value.clone(), kek: value.clone(), db: value },
        packages: Vec::new(),
    }
}

pub fn run(committed: ReleasePredicate, trial: Option<ReleasePredicate>) -> Action {
    Action::Run { committed: Box::new(committed), trial: trial.map(Box::new) }
}

pub fn admit(member: Member) -> Action {
    Action::Admit { member: Box::new(member), replaces: None }
}

pub fn replace(member: Member, replaces: Digest) -> Action {
    Action::Admit { member: Box::new(member), replaces: Some(replaces) }
}

pub fn revoke(member: &Member) -> Action {
    Action::Revoke { name: member.name.clone(), ek: ek(member), reason: "stolen".to_owned() }
}

pub fn amend(constitution: Constitution) -> Action {
    Action::Amend(Box::new(constitution))
}

pub fn sign(envelope: &mut Envelope, numbers: &[u8]) {
    for number in numbers {
        let signature = pair(*number).sign(&envelope.pae());
        let signature = signature.as_ref().try_into().expect("64 bytes");
        envelope.add_signature(&key(*number), signature).expect("a good signature");
    }
}

pub fn signed(mut envelope: Envelope, numbers: &[u8]) -> Envelope {
    sign(&mut envelope, numbers);
    envelope
}

/// Not judged before it is signed, as a careless or hostile author makes it.
pub fn raw(entry: &Entry, numbers: &[u8]) -> Envelope {
    let payload = serde_json::to_vec(entry).expect("JSON");
    signed(Envelope::new(ENTRY_TYPE, payload).expect("small"), numbers)
}

pub fn next(cluster: &Cluster, action: Action) -> Entry {
    Entry { serial: cluster.serial() + 1, previous: cluster.head().clone(), made_unix_s: NOW, action }
}

/// The image's operators.
pub fn image() -> Vec<OperatorKey> {
    (1..=3).map(key).collect()
}

pub fn founding_envelope() -> Envelope {
    let founding = propose_founding(constitution(1, &[1, 2, 3], 2), &image(), NOW).expect("a good founding");
    signed(founding, &[1, 2])
}

/// Operators 1, 2 and 3, of whom two must sign.
pub fn lab() -> Cluster {
    Cluster::found(&founding_envelope(), &image(), NOW).expect("a good founding")
}

pub fn after(cluster: &Cluster, action: Action) -> Cluster {
    let envelope = signed(cluster.propose(action, NOW).expect("a good entry"), &[1, 3]);
    cluster.apply(&envelope, NOW).expect("a good entry")
}
