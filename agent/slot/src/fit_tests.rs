//! Disks of both block sizes, grown, cut in the middle of the writes, and refused.

use super::*;
use crate::gpt::{Gpt, Guid};
use proptest::prelude::*;

const MIB: u64 = ALIGNMENT;
/// ESP at 1 MiB, state from 2 MiB to 3 MiB, 1 MiB behind it for the backup copy: as `image/build` lays disks out.
const IMAGE: u64 = 4 * MIB;

#[derive(Clone)]
struct Bytes {
    block: u32,
    disk: Vec<u8>,
}

impl Bytes {
    fn image(block: u32, last: (&str, &str)) -> Self {
        let mut entries = vec![0; 128 * 128];
        let rows = [(labels::TYPE_ESP, labels::LABEL_ESP), last];
        for (index, (kind, label)) in rows.into_iter().enumerate() {
            let entry = &mut entries[128 * index..128 * (index + 1)];
            entry[..16].copy_from_slice(&kind.parse::<Guid>().expect("type").0);
            entry[16..32].fill(1 + index as u8);
            let per_mib = MIB / u64::from(block);
            let first = (1 + index as u64) * per_mib;
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&(first + per_mib - 1).to_le_bytes());
            entry[48] = 5; // An attribute: must survive.
            for (at, unit) in label.encode_utf16().enumerate() {
                entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let mut image = Self { block, disk: vec![0; IMAGE as usize] };
        let blocks = image.blocks();
        let entry_blocks = entries.len() as u64 / u64::from(block);
        for (lba, other, at) in [(1, blocks - 1, 2), (blocks - 1, 1, blocks - 1 - entry_blocks)] {
            let mut h = Vec::new();
            h.extend(SIGNATURE);
            h.extend(REVISION.to_le_bytes());
            h.extend(HEADER_BYTES.to_le_bytes());
            h.extend([0; 8]);
            for value in [lba, other, MIB / u64::from(block), blocks - 2 - entry_blocks] {
                h.extend(u64::to_le_bytes(value));
            }
            h.extend([7; 16]);
            h.extend(u64::to_le_bytes(at));
            h.extend([128_u32.to_le_bytes(), 128_u32.to_le_bytes()].concat());
            h.extend(crc32fast::hash(&entries).to_le_bytes());
            let crc = crc32fast::hash(&h);
            h[16..20].copy_from_slice(&crc.to_le_bytes());
            image.put(lba * u64::from(block), &h);
            image.put(at * u64::from(block), &entries);
        }
        image.put(446, &[0, 0, 2, 0, 0xee, 1, 2, 3, 1, 0, 0, 0]);
        image.put(458, &(blocks as u32 - 1).to_le_bytes());
        image.put(510, &MBR_SIGNATURE);
        image
    }

    fn pillar(block: u32) -> Self {
        Self::image(block, (labels::TYPE_STATE, labels::LABEL_STATE))
    }

    /// The same bytes on a disk of another size.
    fn on(mut self, bytes: u64) -> Self {
        self.disk.resize(bytes as usize, 0);
        self
    }

    fn blocks(&self) -> u64 {
        self.disk.len() as u64 / u64::from(self.block)
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.disk[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let end = io::Error::new(io::ErrorKind::UnexpectedEof, "end of disk");
        self.disk.get(offset as usize..offset as usize + bytes).map(<[u8]>::to_vec).ok_or(end)
    }

    fn fit(&self) -> Result<Option<Fit>, FitError> {
        fit(self.block, self.blocks(), |offset, bytes| self.read(offset, bytes))
    }

    fn gpt(&self) -> Result<Gpt, GptError> {
        Gpt::read(self.block, self.blocks(), |offset, bytes| self.read(offset, bytes))
    }

    fn fitted(&self) -> Self {
        let mut disk = self.clone();
        for write in self.fit().expect("fits").expect("changes").writes {
            disk.put(write.offset, &write.bytes);
        }
        disk
    }
}

#[test]
fn a_table_on_a_disk_of_its_own_size_stays() {
    for block in [512, 4096] {
        assert_eq!(Bytes::pillar(block).fit().expect("fits"), None, "{block}");
    }
}

#[test]
fn on_a_larger_disk_the_state_partition_ends_at_the_last_whole_mib() {
    // (bytes of the disk, where the state partition ends)
    let table = [
        (IMAGE + 4096, 3 * MIB),
        (5 * MIB, 4 * MIB),
        (16 * MIB, 15 * MIB),
        (16 * MIB + 512 * 1024, 16 * MIB),
        (33 * MIB - 4096, 32 * MIB),
        // Between the image's last partition and its end there is room: a disk may be that much smaller.
        (IMAGE - 512 * 1024, 3 * MIB),
    ];
    for (block, (bytes, end)) in [512, 4096].into_iter().flat_map(|block| table.map(|row| (block, row))) {
        let disk = Bytes::pillar(block).on(bytes);
        let fit = disk.fit().expect("fits").expect("the backup is elsewhere");
        assert_eq!((fit.state_number, fit.state_offset, fit.state_bytes_before), (2, 2 * MIB, MIB));
        assert_eq!(fit.state_offset + fit.state_bytes, end, "{block} {bytes}");
        let fitted = disk.fitted();
        let gpt = fitted.gpt().expect("a table");
        assert_eq!(gpt.warning(), None);
        assert_eq!((gpt.partitions[1].last_lba + 1) * u64::from(block), end);
        assert_eq!(fitted.fit().expect("fits"), None, "idempotent");
        let covered = fitted.read(458, 4).expect("there");
        assert_eq!(covered, (fitted.blocks() as u32 - 1).to_le_bytes());
        let attribute = 2 * u64::from(block) + 128 + 48;
        assert_eq!(fitted.read(attribute, 1).expect("there"), [5]);
    }
}

#[test]
fn a_disk_without_a_table_gets_all_of_it() {
    for (block, size) in [(512, IMAGE), (4096, IMAGE), (512, 9 * MIB), (4096, IMAGE - 512 * 1024)] {
        let image = Bytes::pillar(block);
        let read = |offset, bytes| image.read(offset, bytes);
        let fit = lay(block, size / u64::from(block), read).expect("fits");
        let mut disk = Bytes { block, disk: vec![0; size as usize] };
        for (done, write) in fit.writes.iter().enumerate() {
            assert_eq!(disk.gpt().is_ok(), done >= 2, "the backup is whole first");
            disk.put(write.offset, &write.bytes);
        }
        assert_eq!(disk.gpt().expect("a table").warning(), None);
        assert_eq!(disk.fit().expect("fits"), None);
    }
}

#[test]
fn a_damaged_copy_is_made_whole_from_the_other() {
    for block in [512_u32, 4096] {
        let whole = Bytes::pillar(block).on(9 * MIB).fitted();
        for place in [0, u64::from(block), 2 * u64::from(block), 9 * MIB - u64::from(block)] {
            let mut damaged = whole.clone();
            damaged.disk[place as usize..place as usize + 512].fill(0xa5);
            assert!(damaged.fitted().disk == whole.disk, "{block}: damage at {place}");
        }
    }
}

#[test]
fn refusals_say_why() {
    for block in [512, 4096] {
        let small = Bytes::pillar(block).on(2 * MIB).fit().expect_err("too small").to_string();
        let needed = 3 * MIB + 16384 + u64::from(block);
        assert_eq!(small, format!("the disk has {} bytes, its partitions need at least {needed}", 2 * MIB));
        let no_backup = Bytes::pillar(block).on(3 * MIB + 8192).fit().expect_err("no room for the backup");
        assert!(matches!(no_backup, FitError::Small { needed: n, .. } if n == needed), "{no_backup}");
        let foreign =
            Bytes::image(block, (labels::TYPE_ROOT, "data")).on(8 * MIB).fit().expect_err("foreign");
        assert!(foreign.to_string().contains("the last partition is \"data\", not \"state\""), "{foreign}");
        let none = Bytes { block, disk: vec![0; IMAGE as usize] }.fit().expect_err("no table").to_string();
        assert!(none.contains("no partition table"), "{none}");
    }
    let wrong = fit(1000, 4096, |_, bytes| Ok(vec![0; bytes])).expect_err("no such disk");
    assert!(matches!(wrong, FitError::Table(GptError::BlockSize(1000))));
    // Read with the wrong block size, no table is there.
    let image = Bytes::pillar(4096);
    let misread = fit(512, IMAGE / 512, |offset, bytes| image.read(offset, bytes)).expect_err("misread");
    assert!(misread.to_string().contains("no GPT signature"), "{misread}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Power is cut after any byte of any write: a copy is whole, and fitting again ends in the same bytes.
    #[test]
    fn a_cut_anywhere_leaves_a_whole_copy(
        large in any::<bool>(),
        extra in 1..40_u64,
        lost in prop_oneof![Just(None), Just(Some(true)), Just(Some(false))],
        cut in 0.0..1.0_f64,
    ) {
        let block = if large { 4096 } else { 512 };
        let mut disk = Bytes::pillar(block).on(IMAGE + extra * 128 * 1024);
        if let Some(primary) = lost {
            // From a fitted disk with one damaged copy.
            disk = disk.fitted();
            let place = if primary { u64::from(block) } else { disk.disk.len() as u64 - u64::from(block) };
            disk.put(place, &[0xff; 92]);
        }
        let whole = disk.fitted();
        let writes = disk.fit().expect("fits").expect("changes").writes;
        let total: usize = writes.iter().map(|w| w.bytes.len()).sum();
        let mut left = (total as f64 * cut) as usize;
        for write in &writes {
            let now = left.min(write.bytes.len());
            disk.put(write.offset, &write.bytes[..now]);
            left -= now;
        }
        let gpt = disk.gpt();
        prop_assert!(gpt.is_ok(), "{:?}", gpt.err());
        let again = match disk.fit().expect("fits") {
            Some(_) => disk.fitted(),
            None => disk,
        };
        prop_assert!(again.disk == whole.disk);
    }

    #[test]
    fn whatever_the_bytes_are_it_returns(seed in prop::collection::vec(any::<u8>(), 1..200), at in 0..2000_usize) {
        let mut disk = Bytes::pillar(512);
        for (index, byte) in seed.iter().enumerate() {
            disk.disk[at + index] ^= byte;
        }
        let _ = disk.fit();
    }
}
