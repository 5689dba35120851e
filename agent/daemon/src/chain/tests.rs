//! Hostile operators and peers, and disks that lie.

use super::{
    ANSWER_BYTES, ANSWER_MARGIN_BYTES, CHAIN_MAX_BYTES, Chain, ENTRIES_MAX, Error, PENDING_MAX, Room,
    file_name, store,
};
use crate::places::Places;
use pillar_layout::{root, run};
use pillar_model::{Action, Constitution, Digest, OperatorEntry, OperatorKey};
use pillar_quorum::limits::{CERTIFICATE_MAX_BYTES, EK_ROOTS_MAX, ENVELOPE_MAX_BYTES};
use pillar_quorum::{Cluster, Envelope, propose_founding};
use pillar_wire::limit::REPLY_BYTES;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000;
const YEAR: u64 = 365 * 86_400;

fn pair(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("a seed")
}

fn key(number: u8) -> OperatorKey {
    OperatorKey(pair(number).public_key().as_ref().try_into().expect("32 bytes"))
}

fn image() -> Vec<OperatorKey> {
    (1..=3).map(key).collect()
}

fn constitution(version: u64) -> Constitution {
    Constitution {
        version,
        cluster: "lab".to_owned(),
        operators: (1..=3)
            .map(|number| OperatorEntry { name: format!("operator-{number}"), key: key(number) })
            .collect(),
        threshold: 2,
        ek_roots: Vec::new(),
        ek_intermediates: Vec::new(),
        ek_allowed: Vec::new(),
        denied_tpm_firmware: Vec::new(),
        dbx_required: Vec::new(),
        expires_unix_s: NOW + YEAR,
    }
}

fn signed(mut envelope: Envelope, by: &[u8]) -> Envelope {
    for number in by {
        let signature = pair(*number).sign(&envelope.pae()).as_ref().try_into().expect("64 bytes");
        envelope.add_signature(&key(*number), signature).expect("a good signature");
    }
    envelope
}

fn founding(by: &[u8]) -> Envelope {
    signed(propose_founding(constitution(1), &image(), NOW).expect("a founding"), by)
}

/// The next entry: a constitution that expires `odd` seconds later than usual.
fn amendment(cluster: &Cluster, odd: u64) -> Envelope {
    let version = cluster.constitution().version + 1;
    let next = Constitution { expires_unix_s: NOW + YEAR + odd, ..constitution(version) };
    cluster.propose(Action::Amend(Box::new(next)), NOW).expect("an amendment")
}

/// The same with some 330 KiB in it.
fn large_amendment(cluster: &Cluster, odd: u64) -> Envelope {
    let ek_roots = vec![Digest(vec![0x30; CERTIFICATE_MAX_BYTES / 2]); EK_ROOTS_MAX];
    let version = cluster.constitution().version + 1;
    let next = Constitution { ek_roots, expires_unix_s: NOW + YEAR + odd, ..constitution(version) };
    cluster.propose(Action::Amend(Box::new(next)), NOW).expect("an amendment")
}

fn json(envelope: &Envelope) -> Vec<u8> {
    envelope.to_json().into_bytes()
}

/// Entries that are held back.
fn late_files(disk: &Disk) -> usize {
    let files = fs::read_dir(disk.entry(0).parent().expect("a folder")).expect("there");
    files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("late-")).count()
}

/// A pillar's disk.
struct Disk {
    root: TempDir,
}

impl Disk {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let operators = root::OPERATORS.rsplit_once('/').expect("a path").0;
        for folder in [run::DIR, operators, root::AGENT_STATE] {
            fs::create_dir_all(root.path().join(&folder[1..])).expect("folders");
        }
        Self { root }
    }

    fn chain(&self) -> Chain {
        self.chain_of(&image())
    }

    fn chain_of(&self, image: &[OperatorKey]) -> Chain {
        Chain::open(&Places::open(self.root.path()).expect("places"), image.into())
    }

    fn entry(&self, serial: u64) -> PathBuf {
        self.root.path().join(&root::AGENT_STATE[1..]).join("entries").join(file_name(serial))
    }

    /// A chain with so many entries.
    fn with(&self, entries: u64) -> (Chain, Vec<Envelope>) {
        let chain = self.chain();
        let mut all = vec![founding(&[1, 2])];
        chain.submit(&json(&all[0]), NOW).expect("founded");
        for serial in 1..entries {
            let next = signed(amendment(&cluster(&chain), serial), &[2, 3]);
            assert!(chain.submit(&json(&next), NOW).expect("amended").applied);
            all.push(next);
        }
        (chain, all)
    }
}

fn cluster(chain: &Chain) -> Arc<Cluster> {
    chain.cluster().expect("founded")
}

/// The `keyid` of its first signature blown up, so that the envelope is as large as one may be.
fn blown(envelope: &Envelope) -> Vec<u8> {
    let text = envelope.to_json();
    let keyid = envelope.signatures()[0].key_id.clone();
    let long = "x".repeat(ENVELOPE_MAX_BYTES - text.len() + keyid.len());
    let blown = text.replacen(&keyid, &long, 1).into_bytes();
    assert_eq!(blown.len(), ENVELOPE_MAX_BYTES);
    blown
}

// attack: P9
#[test]
fn one_operator_cannot_make_an_entry_that_is_not_read_back() {
    let disk = Disk::new();
    let (chain, _) = disk.with(1);
    let proposal = amendment(&cluster(&chain), 1);
    let hostile = chain.submit(&blown(&signed(proposal.clone(), &[3])), NOW).expect("waits");
    assert_eq!((hostile.have, hostile.applied), (1, false));
    assert!(chain.submit(&json(&signed(proposal, &[1])), NOW).expect("enough").applied);
    let stored = fs::read(disk.entry(1)).expect("there");
    assert!(stored.len() < ENVELOPE_MAX_BYTES / 10, "{} bytes", stored.len());
    assert_eq!(cluster(&disk.chain()).serial(), 1, "read back");
}

// attack: P9 P12
#[test]
fn a_peer_cannot_blow_up_what_the_operators_signed() {
    let (disk, other) = (Disk::new(), Disk::new());
    let (_, entries) = disk.with(3);
    let (chain, _) = other.with(1);
    let texts: Vec<Vec<u8>> = entries.iter().map(blown).collect();
    assert_eq!(chain.take(&texts).expect("good"), 2);
    for serial in 1..3 {
        let stored = fs::read(other.entry(serial)).expect("there");
        assert_eq!(stored, fs::read(disk.entry(serial)).expect("there"), "as the honest one has it");
    }
}

// attack: P14
#[test]
fn a_clock_set_back_keeps_no_decision_from_a_pillar() {
    let (disk, other) = (Disk::new(), Disk::new());
    let (_, entries) = disk.with(3);
    let (chain, _) = other.with(1);
    let texts: Vec<Vec<u8>> = entries.iter().map(json).collect();
    assert_eq!(chain.take(&texts).expect("good"), 2);
}

// attack: P14
#[test]
fn a_machine_that_joins_years_later_is_given_the_whole_chain() {
    let (disk, other) = (Disk::new(), Disk::new());
    let (chain, mut entries) = disk.with(3);
    // A year later under the constitution of that time, and another one after that.
    for years in 1..4 {
        let here = cluster(&chain);
        let version = here.constitution().version + 1;
        let next = Constitution { expires_unix_s: NOW + (years + 1) * YEAR, ..constitution(version) };
        let then = NOW + years * YEAR - 1;
        let next = here.propose(Action::Amend(Box::new(next)), then).expect("an amendment");
        entries.push(signed(next, &[1, 3]));
        assert!(chain.submit(&json(&entries[entries.len() - 1]), then).expect("in time").applied);
    }
    let now = NOW + 4 * YEAR - 2;
    let joins = other.chain();
    let (last, first) = entries.split_last().expect("some");
    for (serial, envelope) in first.iter().enumerate() {
        for _ in 0..2 {
            let submitted = joins.submit(&json(envelope), now).expect("taken");
            assert_eq!((submitted.serial, submitted.applied), (serial as u64, false));
        }
    }
    assert!(joins.cluster().is_none(), "nothing is in force yet");
    assert_eq!(late_files(&other), first.len());
    assert!(joins.submit(&json(last), now).expect("taken").applied);
    assert_eq!(cluster(&joins), cluster(&chain));
    assert_eq!(late_files(&other), 0);
    assert_eq!(cluster(&other.chain()), cluster(&chain), "read back");

    // Without the last one it is in force nowhere.
    let third = Disk::new();
    let joins = third.chain();
    for envelope in first {
        joins.submit(&json(envelope), now + YEAR).expect("taken");
    }
    assert!(joins.cluster().is_none());
    // They are forgotten with the agent, and can be given again.
    assert_eq!(late_files(&third), first.len());
    drop(joins);
    let joins = third.chain();
    assert_eq!((joins.cluster(), late_files(&third)), (None, 0));
    for envelope in &entries {
        joins.submit(&json(envelope), now).expect("taken");
    }
    assert_eq!(cluster(&joins), cluster(&chain));
    // A disk that fails in the middle: what is there stays, the rest is given again.
    let fourth = Disk::new();
    let joins = fourth.chain();
    for envelope in first {
        joins.submit(&json(envelope), now).expect("taken");
    }
    let lost = fourth.entry(3).with_file_name("late-00000003.json");
    fs::remove_file(&lost).expect("there");
    fs::create_dir(&lost).expect("in the way");
    let error = joins.submit(&json(last), now).expect_err("it cannot be read");
    assert!(matches!(error, Error::File { operation: "read", serial: 3, .. }), "{error}");
    assert_eq!(cluster(&joins).serial(), 2);
    fs::remove_dir(&lost).expect("out of the way");
    for envelope in &entries[3..] {
        joins.submit(&json(envelope), now).expect("taken");
    }
    assert_eq!((cluster(&joins), late_files(&fourth)), (cluster(&chain), 0));
    let one_sided = founding(&[1]);
    assert!(Disk::new().chain().submit(&json(&one_sided), now).is_err(), "late, and not enough signed");
}

// attack: P9
#[test]
fn strangers_cannot_fill_a_founding() {
    let disk = Disk::new();
    let chain = disk.chain();
    let all: Vec<u8> = (4..=66).collect();
    let crowded = signed(founding(&[3]), &all);
    assert_eq!(crowded.signatures().len(), 64);
    assert!(!chain.submit(&json(&crowded), NOW).expect("waits").applied);
    assert!(chain.submit(&json(&founding(&[1])), NOW).expect("enough").applied);
    assert_eq!(disk.chain().cluster().expect("founded").serial(), 0);
}

// attack: P9
#[test]
fn one_operator_cannot_crowd_out_the_proposals_of_others() {
    let disk = Disk::new();
    let (chain, _) = disk.with(1);
    let here = cluster(&chain);
    let honest = signed(amendment(&here, 1), &[1]);
    chain.submit(&json(&honest), NOW).expect("waits");
    for odd in 0..3 * PENDING_MAX as u64 {
        chain.submit(&json(&signed(amendment(&here, 10 + odd), &[3])), NOW).expect("waits");
    }
    let pending = chain.pending();
    assert_eq!(pending.len(), PENDING_MAX);
    assert!(pending[..2].contains(&json(&honest)));
    assert!(
        pending.contains(&json(&signed(amendment(&here, 9 + 3 * PENDING_MAX as u64), &[3]))),
        "the newest stay"
    );
    // Nor make the answer too large to be sent.
    for odd in 0..4 {
        chain.submit(&json(&signed(large_amendment(&here, 100 + odd), &[3])), NOW).expect("waits");
    }
    let pending = chain.pending();
    assert!(pending.contains(&json(&honest)));
    let bytes: usize = pending.iter().map(Vec::len).sum();
    assert!(bytes + ANSWER_BYTES < REPLY_BYTES, "{bytes} bytes");
}

// attack: C1
#[test]
fn a_damaged_entry_costs_what_follows_it_and_comes_again() {
    let disk = Disk::new();
    let (_, entries) = disk.with(4);
    for (damage, words) in [(Some("{"), "cut off"), (None, "swapped")] {
        let text = damage.map_or_else(|| json(&entries[3]), |text| text.as_bytes().to_vec());
        fs::write(disk.entry(2), text).expect("damaged");
        let chain = disk.chain();
        assert_eq!(cluster(&chain).serial(), 1, "{words}");
        let trouble = chain.trouble().expect(words);
        assert!(trouble.starts_with("entry 2 on its disk is not believed: "), "{trouble}");
        assert!(
            trouble.contains("entries 2 to 3 have to come again, and until then an operator"),
            "{trouble}"
        );
        let texts: Vec<Vec<u8>> = entries.iter().map(json).collect();
        assert_eq!(chain.take(&texts[..3]).expect("good"), 1, "{words}");
        assert!(chain.trouble().is_some(), "{words}: one is still missing");
        assert_eq!(chain.take(&texts).expect("good"), 1, "{words}");
        assert_eq!(chain.trouble(), None, "{words}");
        let damaged = fs::read(disk.entry(2).with_file_name("damaged-00000002.json")).expect("set aside");
        assert_ne!(damaged, json(&entries[2]), "{words}");
        let again = disk.chain();
        assert_eq!((cluster(&again).serial(), again.trouble()), (3, None), "{words}");
    }
    // The first one can only come from operators.
    fs::write(disk.entry(0), "").expect("damaged");
    let chain = disk.chain();
    assert!(chain.cluster().is_none());
    for envelope in &entries {
        assert!(chain.submit(&json(envelope), NOW).expect("good").applied);
    }
    assert_eq!(cluster(&disk.chain()).serial(), 3);
}

// attack: C1
#[test]
fn a_disk_that_fails_once_costs_nothing() {
    let disk = Disk::new();
    disk.with(4);
    for serial in [0, 2] {
        // A folder in the place of the file: the error of a disk, also for root.
        let (file, elsewhere) = (disk.entry(serial), disk.entry(serial).with_file_name("elsewhere"));
        fs::rename(&file, &elsewhere).expect("there");
        fs::create_dir(&file).expect("in the way");
        let chain = disk.chain();
        assert_eq!(chain.cluster().map(|cluster| cluster.serial() + 1).unwrap_or(0), serial);
        let trouble = chain.trouble().expect("the disk");
        assert!(
            trouble.starts_with(&format!("entry {serial} on its disk is not believed: it cannot be read")),
            "{trouble}"
        );
        fs::remove_dir(&file).expect("left as it was");
        // Lost altogether.
        let trouble = disk.chain().trouble().expect("a gap");
        assert!(trouble.contains("it is missing"), "{trouble}");
        fs::rename(&elsewhere, &file).expect("back");
        let healed = disk.chain();
        assert_eq!((cluster(&healed).serial(), healed.trouble()), (3, None));
    }
}

#[test]
fn a_newer_image_without_one_of_the_founders_keeps_the_cluster() {
    let disk = Disk::new();
    disk.with(3);
    // Operators 2 and 3 signed what follows the founding, 1 and 2 the founding.
    for numbers in [[2, 3].as_slice(), &[2, 1], &[2, 3, 4]] {
        let image: Vec<OperatorKey> = numbers.iter().copied().map(key).collect();
        let chain = disk.chain_of(&image);
        assert_eq!((cluster(&chain).serial(), chain.trouble()), (2, None), "{numbers:?}");
    }
}

// attack: C3
#[test]
fn a_cluster_that_this_images_operators_did_not_sign_is_not_believed_and_stays_on_the_disk() {
    let disk = Disk::new();
    disk.with(3);
    // None, half, and less than half of them.
    for numbers in [[7, 8].as_slice(), &[2, 7], &[1, 3, 7, 8, 9], &[]] {
        let image: Vec<OperatorKey> = numbers.iter().copied().map(key).collect();
        let chain = disk.chain_of(&image);
        assert_eq!(chain.cluster(), None, "{numbers:?}");
        let trouble = chain.trouble().expect("refused");
        assert!(trouble.starts_with("entry 0 on its disk is not believed: "), "{trouble}");
        assert!(
            trouble.contains("not more than half of this image's operators signed any entry"),
            "{trouble}"
        );
        assert!(trouble.contains("entries 0 to 2"), "{trouble}");
    }
    let back = disk.chain();
    assert_eq!((cluster(&back).serial(), back.trouble()), (2, None), "the old image has all of it");
    // What that image's operators found takes its place, and nothing of the old one follows.
    let others: Vec<OperatorKey> = [7, 8].map(key).to_vec();
    let mut theirs = constitution(1);
    theirs.operators =
        [7, 8].map(|number| OperatorEntry { name: format!("operator-{number}"), key: key(number) }).to_vec();
    let theirs = signed(propose_founding(theirs, &others, NOW).expect("a founding"), &[7, 8]);
    let chain = disk.chain_of(&others);
    assert!(chain.submit(&json(&theirs), NOW).expect("founded").applied);
    assert_eq!(chain.trouble(), None);
    let again = disk.chain_of(&others);
    assert_eq!((cluster(&again).serial(), again.trouble()), (0, None));
    for serial in 0..3 {
        let name = format!("damaged-{}", file_name(serial));
        assert!(disk.entry(serial).with_file_name(name).exists(), "{serial}");
    }
}

// attack: P14
#[test]
fn an_expired_founding_does_not_keep_the_right_one_out() {
    let disk = Disk::new();
    let chain = disk.chain();
    let now = NOW + YEAR + 1;
    // Of a cluster that was given up, and after it the beginning of another one, expired as well.
    let old = founding(&[1, 3]);
    assert!(!chain.submit(&json(&old), now).expect("held back").applied);
    let right =
        propose_founding(Constitution { cluster: "right".to_owned(), ..constitution(1) }, &image(), NOW);
    let right = signed(right.expect("a founding"), &[1, 2]);
    let held = chain.submit(&json(&right), now).expect("held back instead");
    assert_eq!((held.serial, held.applied, late_files(&disk)), (0, false, 1));
    let next = Constitution { cluster: "right".to_owned(), expires_unix_s: now + YEAR, ..constitution(2) };
    let founded = Cluster::found(&right, &image(), NOW).expect("a cluster");
    let next = signed(founded.propose(Action::Amend(Box::new(next)), NOW + 1).expect("proposed"), &[1, 2]);
    assert!(chain.submit(&json(&next), now).expect("in force").applied);
    assert_eq!((cluster(&chain).constitution().cluster.as_str(), late_files(&disk)), ("right", 0));
    assert_eq!(cluster(&disk.chain()), cluster(&chain), "read back");
}

#[test]
fn what_cannot_be_written_is_not_in_force() {
    let disk = Disk::new();
    let (chain, _) = disk.with(1);
    // A folder in the way of the file: the error of a disk, also for root.
    fs::create_dir(disk.entry(0).with_file_name("new")).expect("in the way");
    let next = json(&signed(amendment(&cluster(&chain), 1), &[1, 2]));
    assert!(matches!(chain.submit(&next, NOW), Err(Error::File { operation: "create", serial: 1, .. })));
    assert_eq!(cluster(&chain).serial(), 0);
    fs::remove_dir(disk.entry(0).with_file_name("new")).expect("out of the way");
    assert!(chain.submit(&next, NOW).expect("good").applied);
}

// attack: P9
#[test]
fn a_chain_has_its_limits_in_entries_and_in_bytes() {
    let disk = Disk::new();
    let (chain, entries) = disk.with(1);
    let place = chain.place().expect("a folder");
    let bytes = json(&entries[0]).len() as u64;
    let stored = |entries_there, bytes_there| {
        let room = Room { entries: entries_there, bytes: bytes_there };
        store(place, "tried", 1, &entries[0], room).map_err(|error| error.to_string())
    };
    assert!(stored(ENTRIES_MAX - 1, CHAIN_MAX_BYTES - bytes).is_ok());
    fs::remove_file(disk.entry(0).with_file_name("tried")).expect("there");
    let full = |entries: usize, bytes: u64| {
        Err(format!("the chain has {entries} entries of {bytes} bytes, no more fit"))
    };
    let at_end = CHAIN_MAX_BYTES - bytes + 1;
    assert_eq!(stored(5, at_end), full(5, at_end));
    assert_eq!(stored(ENTRIES_MAX, 0), full(ENTRIES_MAX, 0));
    assert!(!disk.entry(0).with_file_name("tried").exists(), "nothing was written");
    // What is held back counts as well.
    let kept = super::Kept {
        entries: vec![super::Known { bytes: 7, ..super::Known::of(&entries[0], b"") }],
        ..Default::default()
    };
    assert_eq!((kept.room().entries, kept.room().bytes), (1, 7));
}

// attack: P9
#[test]
fn an_answer_has_its_limit_in_bytes_and_is_asked_for_again() {
    let disk = Disk::new();
    let (chain, mut all) = disk.with(1);
    for odd in 0..4 {
        let here = cluster(&chain);
        let next = signed(large_amendment(&here, odd), &[1, 2]);
        assert!(chain.submit(&json(&next), NOW).expect("signed").applied);
        all.push(next);
    }
    let mut got: Vec<Vec<u8>> = Vec::new();
    loop {
        let answer = chain.entries(got.len() as u64);
        let bytes: usize = answer.iter().map(Vec::len).sum();
        assert!(bytes <= ANSWER_BYTES, "{bytes} bytes");
        assert!(answer.len() * 16 <= ANSWER_MARGIN_BYTES, "framed, it is taken by who asked");
        if answer.is_empty() {
            break;
        }
        got.extend(answer);
    }
    assert_eq!(got, all.iter().map(json).collect::<Vec<_>>());
    assert!(chain.entries(u64::MAX).is_empty());
    // What the disk lost meanwhile is not made up.
    fs::write(disk.entry(3), "{").expect("damaged");
    assert_eq!(chain.entries(2).len(), 1);
    assert!(chain.entries(3).is_empty());
}
