//! A table is built here by hand, then damaged place by place.

use super::*;

pub(crate) const BLOCKS: u64 = 2048;
const BLOCK: usize = 512;

/// A disk with the given partitions (type, GUID, label), each ten blocks long, and both copies of the table.
pub(crate) fn disk(partitions: &[(&str, &str, &str)]) -> Vec<u8> {
    let mut entries = vec![0_u8; 128 * 128];
    for (index, (kind, guid, label)) in partitions.iter().enumerate() {
        let entry = &mut entries[128 * index..128 * (index + 1)];
        entry[..16].copy_from_slice(&kind.parse::<Guid>().expect("type").0);
        entry[16..32].copy_from_slice(&guid.parse::<Guid>().expect("guid").0);
        let first = 40 + 10 * index as u64;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&(first + 9).to_le_bytes());
        for (at, unit) in label.encode_utf16().enumerate() {
            entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let mut disk = vec![0; BLOCK * BLOCKS as usize];
    for (lba, other, entries_lba) in [(1, BLOCKS - 1, 2), (BLOCKS - 1, 1, BLOCKS - 33)] {
        put(&mut disk, entries_lba, &entries);
        put(&mut disk, lba, &header(lba, other, entries_lba, &entries));
    }
    disk
}

fn put(disk: &mut [u8], lba: u64, bytes: &[u8]) {
    let at = lba as usize * BLOCK;
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

fn header(lba: u64, other: u64, entries_lba: u64, entries: &[u8]) -> Vec<u8> {
    let mut h = Vec::new();
    h.extend(SIGNATURE);
    h.extend(REVISION.to_le_bytes());
    h.extend(HEADER_BYTES.to_le_bytes());
    h.extend([0; 8]);
    for value in [lba, other, 34, BLOCKS - 34] {
        h.extend(value.to_le_bytes());
    }
    h.extend([7; 16]);
    h.extend(entries_lba.to_le_bytes());
    h.extend(128_u32.to_le_bytes());
    h.extend(128_u32.to_le_bytes());
    h.extend(crc32fast::hash(entries).to_le_bytes());
    seal(&mut h);
    h
}

/// Sets the header checksum anew, so that a change behind it is what is found.
fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn parse(disk: &[u8]) -> Result<Gpt, GptError> {
    Gpt::read(512, (disk.len() / BLOCK) as u64, |offset, bytes| {
        let at = offset as usize;
        disk.get(at..at + bytes)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "end of disk"))
    })
}

const ESP: &str = pillar_layout::gpt::TYPE_ESP;
const ROOT: &str = pillar_layout::gpt::TYPE_ROOT;
const GUID_1: &str = "11111111-2222-3333-4444-555555555555";
const GUID_2: &str = "11111111-2222-3333-4444-555555555556";

fn sample() -> Vec<u8> {
    disk(&[(ESP, GUID_1, "esp"), (ROOT, GUID_2, "root-a")])
}

#[test]
fn whole_table() {
    let gpt = parse(&sample()).expect("both copies are whole");
    assert!(gpt.primary_damage.is_none() && gpt.backup_damage.is_none() && !gpt.copies_differ);
    assert_eq!(gpt.warning(), None);
    let seen: Vec<_> = gpt
        .partitions
        .iter()
        .map(|p| (p.number, p.guid.to_string(), p.label.as_str(), p.first_lba))
        .collect();
    assert_eq!(seen, [(1, GUID_1.to_owned(), "esp", 40), (2, GUID_2.to_owned(), "root-a", 50)]);
    assert_eq!(gpt.partitions[0].kind.to_string(), ESP);
}

#[test]
fn one_flipped_bit_anywhere_in_one_copy_is_found_and_the_other_copy_serves() {
    let whole = sample();
    let last = BLOCKS as usize - 1;
    // (place of the flip, is it in the primary, what is said)
    let table = [
        (BLOCK, true, "no GPT signature"),
        (BLOCK + 8, true, "revision"),
        (BLOCK + 12, true, "header size"),
        (BLOCK + 16, true, "header checksum"),
        (BLOCK + 24, true, "header checksum"),
        (BLOCK + 60, true, "header checksum"),
        (BLOCK + 91, true, "header checksum"),
        (2 * BLOCK, true, "entry checksum"),
        (2 * BLOCK + 128 * 128 - 1, true, "entry checksum"),
        (last * BLOCK, false, "no GPT signature"),
        (last * BLOCK + 24, false, "header checksum"),
        ((last - 32) * BLOCK + 130, false, "entry checksum"),
    ];
    for (place, primary, said) in table {
        let mut disk = whole.clone();
        disk[place] ^= 1;
        let gpt = parse(&disk).expect("one copy is whole");
        assert_eq!(gpt.partitions.len(), 2, "flip at {place}");
        assert_eq!((gpt.primary_damage.is_some(), gpt.backup_damage.is_some()), (primary, !primary));
        let warning = gpt.warning().expect("damage is told");
        assert!(warning.contains(said), "flip at {place}: {warning}");
    }
}

#[test]
fn both_copies_damaged_is_an_error_that_names_both() {
    let mut disk = sample();
    disk[BLOCK + 60] ^= 1;
    let entries = (BLOCKS as usize - 33) * BLOCK;
    disk[entries] ^= 1;
    let error = parse(&disk).expect_err("no whole copy").to_string();
    assert!(error.contains("primary copy: header checksum") && error.contains("backup copy: entry checksum"));
}

#[test]
fn sealed_lies_are_refused() {
    type Change = fn(&mut [u8]);
    let table: [(Change, &str); 6] = [
        (|h| h[24] = 9, "says that it is at block 9"),
        (|h| h[84] = 129, "entry size of 129"),
        (|h| h[80..84].fill(0xff), "4294967295 entries"),
        (|h| h[72..80].fill(0xff), "lie outside of the disk"),
        (|h| h[72] = 0, "lie outside of the disk"),
        (|h| h[40] = 45, "partition 1 lies outside"),
    ];
    for (change, said) in table {
        let mut disk = sample();
        let header = &mut disk[BLOCK..BLOCK + 92];
        change(header);
        seal(header);
        let why = parse(&disk).expect("the backup is whole").primary_damage.expect("the primary is not");
        assert!(why.to_string().contains(said), "{why}");
    }
}

#[test]
fn same_guid_twice_is_refused() {
    let error = parse(&disk(&[(ROOT, GUID_1, "a"), (ROOT, GUID_1, "b")])).expect_err("ambiguous");
    assert!(error.to_string().contains("partitions 1 and 2 have the same GUID"));
}

#[test]
fn copies_that_differ_are_told() {
    let mut mixed = sample();
    let other = disk(&[(ESP, GUID_1, "esp"), (ROOT, GUID_2, "root-b")]);
    let half = mixed.len() / 2;
    mixed[half..].copy_from_slice(&other[half..]);
    let gpt = parse(&mixed).expect("both are whole");
    assert!(gpt.copies_differ && gpt.warning().is_some());
    assert_eq!(gpt.partitions[1].label, "root-a");
}

#[test]
fn no_table_no_disk() {
    assert!(matches!(parse(&[0; 512 * 64]), Err(GptError::Both { .. })));
    assert!(matches!(parse(&[]), Err(GptError::Small(0))));
    assert!(matches!(Gpt::read(1000, 64, |_, _| Ok(Vec::new())), Err(GptError::BlockSize(1000))));
    assert!(matches!(Gpt::read(512, 64, |_, _| Ok(Vec::new())), Err(GptError::Both { .. })));
}

#[test]
fn guid_text() {
    assert_eq!(ESP.parse::<Guid>().expect("a GUID").to_string(), ESP);
    for wrong in
        ["", "11111111-2222-3333-4444-55555555555", "g1111111-2222-3333-4444-555555555555", "1-2-3-4-5"]
    {
        assert!(wrong.parse::<Guid>().is_err(), "{wrong}");
    }
}
