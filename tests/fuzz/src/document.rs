//! JSON documents, and names that are read like documents.

use crate::input::longer;
use pillar_model::{NodeSettings, Release};
use pillar_recovery::{Operator, Token, VolumeId};
use pillar_slot::{BootEntry, root_hash};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// The volume and the seeds of the operators of the tokens in the corpus.
pub(crate) const VOLUME: VolumeId = VolumeId([0x11; 16]);
const SEEDS: [[u8; 32]; 3] = [[1; 32], [2; 32], [3; 32]];

/// Reads a document; what was read is written and read again to the same, and nothing stands behind it.
fn read<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let behind: Result<T, _> = serde_json::from_slice(&[bytes, b"{}"].concat());
    assert!(behind.is_err(), "a second document behind the first was accepted");
    assert!(serde_json::from_slice::<T>(&longer(bytes)).is_err(), "a NUL behind the document was accepted");
    let written = serde_json::to_vec(&value).expect("documents are JSON");
    let again: T = serde_json::from_slice(&written).expect("our own document");
    assert_eq!(again, value, "written and read again it is another document");
    Some(value)
}

pub(crate) fn settings(bytes: &[u8]) -> bool {
    read::<NodeSettings>(bytes).is_some()
}

pub(crate) fn release(bytes: &[u8]) -> bool {
    read::<Release>(bytes).is_some()
}

pub(crate) fn recovery(bytes: &[u8]) -> bool {
    let Some(token) = read::<Token>(bytes) else { return false };
    let judged = token.judge().is_ok();
    if judged {
        assert!((1..=token.n).contains(&token.k), "more shares are needed than there are");
        assert_eq!(token.shares.len(), usize::from(token.n));
    }
    let mut shares = Vec::new();
    for seed in &SEEDS {
        let operator = Operator::of_seed(seed).expect("a key");
        let Ok(share) = token.open(seed, VOLUME) else { continue };
        let sealed = token.share_of(&operator).expect("what was opened is there");
        assert_eq!((share.index(), share.volume()), (sealed.index, VOLUME));
        assert_eq!(share.commitment().to_string(), sealed.commitment, "another share than was committed to");
        shares.push(share);
    }
    assert!(token.combine(&[], VOLUME).is_err(), "no share at all makes a key");
    let opens = token.combine(&shares, VOLUME).is_ok();
    assert!(!opens || judged && shares.len() >= usize::from(token.k), "too few shares make a key");
    opens
}

pub(crate) fn boot(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (entry, hash) = (BootEntry::parse(text), root_hash(text));
    if let Ok(entry) = &entry {
        let again = BootEntry::parse(&entry.to_string());
        assert_eq!(again.as_ref(), Ok(entry), "written and read again it is another entry");
        let blessed = BootEntry::parse(&entry.blessed_name()).expect("a blessed name is one");
        assert_eq!((blessed.version.as_str(), blessed.is_trial()), (entry.version.as_str(), false));
        assert!(!entry.version.contains(['/', '\0']), "a version that leaves its folder");
    }
    if let Ok(hash) = &hash {
        let twice = format!("{text} roothash={hash}");
        assert!(root_hash(&twice).is_err(), "two root hashes and one of them was taken");
    }
    entry.is_ok() || hash.is_ok()
}
