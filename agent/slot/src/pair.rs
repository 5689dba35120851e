//! The pair of partitions that a root hash names, and the slot that they are.

use crate::gpt::{Gpt, Guid, GuidError, Partition};
use pillar_layout::gpt as labels;
use pillar_model::{RootHash, Slot};

/// The data and the hash partition of the image that a root hash names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPair {
    /// Which slot it is.
    pub slot: Slot,
    /// The data partition.
    pub data: Partition,
    /// The hash partition.
    pub hash: Partition,
}

/// Why the table has no usable pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// No partition has this GUID.
    #[error("no partition has the GUID {guid}, the {half} half of the root hash")]
    Missing {
        /// The GUID looked for.
        guid: Guid,
        /// "first" or "second".
        half: &'static str,
    },
    /// The partition is not of the type that it should be.
    #[error("partition {number} ({label:?}) has the GUID of the root hash and the wrong type {kind}")]
    Kind {
        /// Its number.
        number: u32,
        /// Its label.
        label: String,
        /// Its type.
        kind: Guid,
    },
    /// Labels that do not belong together.
    #[error("labels {data:?} and {hash:?} are no slot")]
    Labels {
        /// Label of the data partition.
        data: String,
        /// Label of the hash partition.
        hash: String,
    },
    /// Our own table of GUIDs is wrong.
    #[error(transparent)]
    Guid(#[from] GuidError),
}

/// Finds the pair whose partition GUIDs are the two halves of the root hash.
pub fn root_pair(gpt: &Gpt, hash: &RootHash) -> Result<RootPair, PairError> {
    let (first, second) = hash.partition_guids();
    let data = find(gpt, &first, "first", labels::TYPE_ROOT)?;
    let hash = find(gpt, &second, "second", labels::TYPE_ROOT_VERITY)?;
    let slot = match (data.label.as_str(), hash.label.as_str()) {
        (labels::LABEL_ROOT_A, labels::LABEL_VERITY_A) => Slot::A,
        (labels::LABEL_ROOT_B, labels::LABEL_VERITY_B) => Slot::B,
        _ => return Err(PairError::Labels { data: data.label.clone(), hash: hash.label.clone() }),
    };
    Ok(RootPair { slot, data: data.clone(), hash: hash.clone() })
}

fn find<'a>(gpt: &'a Gpt, guid: &str, half: &'static str, kind: &str) -> Result<&'a Partition, PairError> {
    let (guid, kind) = (guid.parse::<Guid>()?, kind.parse::<Guid>()?);
    let found = gpt.partitions.iter().find(|p| p.guid == guid).ok_or(PairError::Missing { guid, half })?;
    if found.kind != kind {
        return Err(PairError::Kind { number: found.number, label: found.label.clone(), kind: found.kind });
    }
    Ok(found)
}

/// The first partition of this type (the ESP, the state partition); `kind` as in `pillar_layout::gpt`.
#[must_use]
pub fn find_by_type<'a>(gpt: &'a Gpt, kind: &str) -> Option<&'a Partition> {
    let kind = kind.parse::<Guid>().ok()?;
    gpt.partitions.iter().find(|p| p.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::tests::{disk, parse};

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
    const DATA: &str = "00112233-4455-6677-8899-aabbccddeeff";
    const TREE: &str = "01234567-89ab-cdef-0123-456789abcdef";
    const OTHER: &str = "ffffffff-89ab-cdef-0123-456789abcdef";
    const ROOT: &str = labels::TYPE_ROOT;
    const VERITY: &str = labels::TYPE_ROOT_VERITY;

    fn check(data: (&str, &str, &str), tree: (&str, &str, &str)) -> Result<Slot, PairError> {
        let esp = (labels::TYPE_ESP, "aaaaaaaa-89ab-cdef-0123-456789abcdef", labels::LABEL_ESP);
        let gpt = parse(&disk(&[esp, data, tree])).expect("a whole table");
        assert_eq!(find_by_type(&gpt, labels::TYPE_ESP).map(|p| p.number), Some(1));
        assert!(find_by_type(&gpt, labels::TYPE_STATE).is_none());
        root_pair(&gpt, &HASH.parse().expect("64 digits")).map(|pair| pair.slot)
    }

    #[test]
    fn the_root_hash_names_the_slot() {
        assert_eq!(check((ROOT, DATA, "root-a"), (VERITY, TREE, "root-a-verity")), Ok(Slot::A));
        assert_eq!(check((ROOT, DATA, "root-b"), (VERITY, TREE, "root-b-verity")), Ok(Slot::B));
    }

    #[test]
    fn refusals_say_why() {
        let table = [
            ((ROOT, OTHER, "root-a"), (VERITY, TREE, "root-a-verity"), "first half"),
            ((ROOT, DATA, "root-a"), (VERITY, OTHER, "root-a-verity"), "second half"),
            ((VERITY, DATA, "root-a"), (VERITY, TREE, "root-a-verity"), "wrong type"),
            ((ROOT, DATA, "root-a"), (VERITY, TREE, "root-b-verity"), "are no slot"),
            ((ROOT, DATA, "x"), (VERITY, TREE, "y"), "are no slot"),
        ];
        for (data, tree, said) in table {
            let error = check(data, tree).expect_err("refused").to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
