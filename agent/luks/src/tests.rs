//! Headers as cryptsetup 2.7 writes them, taken apart and put together again with one thing changed and every checksum
//! right: what an attacker with the disk can do.

use crate::binary::seal;
use crate::*;
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::path::Path;

const DEVICE_BYTES: u64 = 1 << 30;
const UUID: &str = "ede02953-db66-4f31-bd27-da39718f5133";
const SALT: &str = "Wi+AxhGGl/PR61WZTLt0wfH9xSJOuh7suIiWqpvNKnY=";

fn metadata(shape: &Shape) -> Value {
    let area = |index: u64| (HEADER_BYTES as u64 + index * shape.area_bytes()).to_string();
    let keyslot = |index: u64| {
        json!({
            "type": "luks2",
            "key_size": shape.volume_key_bytes,
            "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
            "area": {
                "type": "raw",
                "offset": area(index),
                "size": shape.area_bytes().to_string(),
                "encryption": "aes-xts-plain64",
                "key_size": 64,
            },
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": SALT},
        })
    };
    let mut segment = json!({
        "type": "crypt", "offset": shape.data_offset.to_string(), "size": "dynamic", "iv_tweak": "0",
        "encryption": "aes-xts-plain64", "sector_size": 4096,
    });
    if let Some(integrity) = shape.integrity {
        segment["integrity"] =
            json!({"type": integrity, "journal_encryption": "none", "journal_integrity": "none"});
    }
    json!({
        "keyslots": {"0": keyslot(0), "1": keyslot(1)},
        "tokens": {
            "0": {"type": "pillar-tpm", "keyslots": ["0"], "blob": "00ff"},
            "1": {"type": "pillar-recovery", "keyslots": ["1"], "k": 2},
        },
        "segments": {"0": segment},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0", "1"], "segments": ["0"], "hash": "sha256",
            "iterations": 1000, "salt": SALT, "digest": SALT,
        }},
        "config": {"json_size": "12288", "keyslots_size": shape.keyslots_bytes.to_string()},
    })
}

fn copy(place: binary::Place, sequence: u64, json: &str) -> Vec<u8> {
    let mut bytes = vec![0; COPY_BYTES];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, place.magic());
    put(6, &2_u16.to_be_bytes());
    put(8, &(COPY_BYTES as u64).to_be_bytes());
    put(16, &sequence.to_be_bytes());
    put(24, b"pillar-state");
    put(72, b"sha256");
    put(104, &[place.magic()[0]; 64]);
    put(168, UUID.as_bytes());
    put(208, b"pillar");
    put(256, &(place.offset() as u64).to_be_bytes());
    put(BINARY_BYTES, json.as_bytes());
    seal(&mut bytes);
    bytes
}

fn head(json: &str) -> Vec<u8> {
    [copy(binary::Place::First, 5, json), copy(binary::Place::Second, 5, json)].concat()
}

/// Both copies changed in the same way, with right checksums.
fn changed(edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let whole = head(&metadata(&Shape::state(false)).to_string());
    whole
        .chunks(COPY_BYTES)
        .flat_map(|copy| {
            let mut copy = copy.to_vec();
            edit(&mut copy);
            seal(&mut copy);
            copy
        })
        .collect()
}

#[track_caller]
fn refused(head: &[u8], field: &str, found: &str) {
    let refusal = check(head, &Shape::state(false), DEVICE_BYTES).expect_err("refused");
    assert_eq!((refusal.field.as_str(), refusal.found.as_str()), (field, found), "{refusal}");
}

#[test]
fn our_header_is_ours_with_and_without_integrity() {
    for integrity in [false, true] {
        let shape = Shape::state(integrity);
        let head = head(&metadata(&shape).to_string());
        let header = check(&head, &shape, DEVICE_BYTES).expect("ours");
        assert_eq!((header.uuid.as_str(), header.sequence, header.repair), (UUID, 5, None));
        assert_eq!(header.tokens[0]["blob"], "00ff");
        assert_eq!(header.tokens[1]["k"], 2);
        check(&head, &Shape::state(!integrity), DEVICE_BYTES).expect_err("the other shape");
    }
}

/// ATTACKS C3: what a header could say instead, and what is said about it.
// attack: C3
#[test]
fn edited_metadata_is_refused_for_its_reason() {
    let edits: &[(&str, Value, &str, &str)] = &[
        // (where, new value; null removes it, field that is named, what it is found to be)
        ("/segments/0/encryption", json!("cipher_null-ecb"), "segments.0.encryption", "\"cipher_null-ecb\""),
        ("/segments/0/encryption", json!("aes-cbc-plain"), "segments.0.encryption", "\"aes-cbc-plain\""),
        ("/segments/0/type", json!("linear"), "segments.0.type", "\"linear\""),
        ("/segments/0/offset", json!("8388608"), "segments.0.offset", "\"8388608\""),
        ("/segments/0/offset", json!("0"), "segments.0.offset", "\"0\""),
        ("/segments/0/offset", json!("+4194304"), "segments.0.offset", "\"+4194304\""),
        ("/segments/0/offset", json!(4194304), "segments.0.offset", "4194304"),
        ("/segments/0/size", json!("4096"), "segments.0.size", "\"4096\""),
        ("/segments/0/iv_tweak", json!("8"), "segments.0.iv_tweak", "\"8\""),
        ("/segments/0/sector_size", json!(512), "segments.0.sector_size", "512"),
        ("/segments/0/flags", json!(["backup-final"]), "segments.0.flags", "there"),
        ("/segments/0/integrity", json!({"type": "hmac(sha256)"}), "segments.0.integrity", "there"),
        ("/segments/1", json!({"type": "linear"}), "segments.1", "there"),
        ("/segments/0", Value::Null, "segments.0", "missing"),
        ("/keyslots/2", json!({"type": "luks2"}), "keyslots.2", "there"),
        ("/keyslots/2", json!({"type": "reencrypt"}), "keyslots.2", "there"),
        ("/keyslots/1", Value::Null, "keyslots.1", "missing"),
        ("/keyslots/0/type", json!("reencrypt"), "keyslots.0.type", "\"reencrypt\""),
        ("/keyslots/0/priority", json!(2), "keyslots.0.priority", "there"),
        ("/keyslots/0/key_size", json!(32), "keyslots.0.key_size", "32"),
        ("/keyslots/0/af/stripes", json!(1), "keyslots.0.af.stripes", "1"),
        ("/keyslots/0/af/hash", json!("sha1"), "keyslots.0.af.hash", "\"sha1\""),
        ("/keyslots/0/area/type", json!("journal"), "keyslots.0.area.type", "\"journal\""),
        (
            "/keyslots/0/area/encryption",
            json!("cipher_null"),
            "keyslots.0.area.encryption",
            "\"cipher_null\"",
        ),
        ("/keyslots/0/area/key_size", json!(16), "keyslots.0.area.key_size", "16"),
        ("/keyslots/0/area/size", json!("4096"), "keyslots.0.area.size", "\"4096\""),
        ("/keyslots/0/area/offset", json!("0"), "keyslots.0.area.offset", "0"),
        ("/keyslots/0/area/offset", json!("32769"), "keyslots.0.area.offset", "32769"),
        ("/keyslots/0/area/offset", json!("3997696"), "keyslots.0.area.offset", "3997696"),
        (
            "/keyslots/0/area/offset",
            json!("18446744073709547520"),
            "keyslots.0.area.offset",
            "18446744073709547520",
        ),
        ("/keyslots/1/area/offset", json!("32768"), "keyslots.1.area", "at 32768..290816"),
        ("/keyslots/1/area/offset", json!("286720"), "keyslots.1.area", "at 286720..544768"),
        ("/keyslots/0/kdf/type", json!("argon2id"), "keyslots.0.kdf.type", "\"argon2id\""),
        ("/keyslots/0/kdf/hash", json!("sha1"), "keyslots.0.kdf.hash", "\"sha1\""),
        ("/keyslots/0/kdf/iterations", json!(1), "keyslots.0.kdf.iterations", "1"),
        ("/keyslots/0/kdf/iterations", json!(4_294_967_295_u32), "keyslots.0.kdf.iterations", "4294967295"),
        ("/keyslots/0/kdf/iterations", json!("1000"), "keyslots.0.kdf.iterations", "\"1000\""),
        ("/keyslots/0/kdf/salt", json!(""), "keyslots.0.kdf.salt", "\"\""),
        ("/keyslots/0/kdf/memory", json!(4), "keyslots.0.kdf.memory", "there"),
        ("/digests/0/iterations", json!(1), "digests.0.iterations", "1"),
        ("/digests/0/hash", json!("sha1"), "digests.0.hash", "\"sha1\""),
        ("/digests/0/type", json!("none"), "digests.0.type", "\"none\""),
        ("/digests/0/digest", json!("AAAA"), "digests.0.digest", "\"AAAA\""),
        ("/digests/0/segments", json!([]), "digests.0.segments", "[]"),
        ("/digests/0/keyslots", json!(["0"]), "digests.0.keyslots", "[\"0\"]"),
        ("/digests/0/keyslots", json!(["0", "1", "2"]), "digests.0.keyslots", "[\"0\",\"1\",\"2\"]"),
        ("/digests/1", json!({"type": "pbkdf2"}), "digests.1", "there"),
        ("/tokens/0", Value::Null, "tokens.0", "missing"),
        ("/tokens/2", json!({"type": "luks2-keyring"}), "tokens.2", "there"),
        ("/tokens/0/type", json!("pillar-recovery"), "tokens.0.type", "\"pillar-recovery\""),
        ("/tokens/0/type", json!("systemd-tpm2"), "tokens.0.type", "\"systemd-tpm2\""),
        ("/tokens/0/keyslots", json!(["1"]), "tokens.0.keyslots", "[\"1\"]"),
        ("/tokens/1/keyslots", json!(["0", "1"]), "tokens.1.keyslots", "[\"0\",\"1\"]"),
        (
            "/config/requirements",
            json!({"mandatory": ["online-reencrypt-v2"]}),
            "config.requirements",
            "there",
        ),
        ("/config/requirements", json!({"mandatory": ["offline-reencrypt"]}), "config.requirements", "there"),
        ("/config/requirements", json!({"mandatory": ["never-heard-of"]}), "config.requirements", "there"),
        ("/config/flags", json!(["allow-discards"]), "config.flags", "there"),
        ("/config/flags", json!(["no-journal"]), "config.flags", "there"),
        ("/config/json_size", json!("4096"), "config.json_size", "\"4096\""),
        ("/config/keyslots_size", json!("0"), "config.keyslots_size", "\"0\""),
        ("/config", json!([]), "config", "[]"),
        ("/more", json!({}), "more", "there"),
    ];
    for (pointer, value, field, found) in edits {
        let mut metadata = metadata(&Shape::state(false));
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = metadata.pointer_mut(parent).and_then(Value::as_object_mut).expect("it is there");
        match value {
            Value::Null => parent.remove(name),
            value => parent.insert((*name).to_owned(), value.clone()),
        };
        refused(&head(&metadata.to_string()), &format!("first copy: {field}"), found);
    }
}

// attack: C3
#[test]
fn swapped_tokens_are_refused() {
    let mut metadata = metadata(&Shape::state(false));
    let one = metadata["tokens"]["0"].take();
    metadata["tokens"]["0"] = metadata["tokens"]["1"].take();
    metadata["tokens"]["1"] = one;
    refused(&head(&metadata.to_string()), "first copy: tokens.0.type", "\"pillar-recovery\"");
}

// attack: C3
#[test]
fn a_segment_with_integrity_is_held_to_its_own_rules() {
    let shape = Shape::state(true);
    for (name, value) in
        [("type", "none"), ("type", "poly1305"), ("journal_encryption", "aes"), ("journal_integrity", "x")]
    {
        let mut metadata = metadata(&shape);
        metadata["segments"]["0"]["integrity"][name] = value.into();
        let refusal = check(&head(&metadata.to_string()), &shape, DEVICE_BYTES).expect_err("refused");
        assert_eq!(refusal.field, format!("first copy: segments.0.integrity.{name}"));
    }
}

// attack: C3
#[test]
fn json_that_parsers_could_read_differently_is_refused() {
    let good = metadata(&Shape::state(false)).to_string();
    let area = "first copy: JSON area";
    let twice = good.replacen("\"config\":", "\"config\":{},\"config\":", 1);
    for (text, found) in [
        (twice, "the name \"config\" is there twice"),
        (good.replacen("\"blob\":", "\"blob\":1,\"blob\":", 1), "the name \"blob\" is there twice"),
        (format!("{good}\0{{}}"), "not zero behind its object"),
        (format!("{good}\n"), "not printable at byte"),
        (good.replacen("00ff", "\u{e9}", 1), "not printable at byte"),
        (format!("{good}{{}}"), "trailing characters"),
        (good.replacen("\"blob\":\"00ff\"", "\"blob\":1.5", 1), "the number 1.5 is not whole"),
        (good.replacen("\"blob\":\"00ff\"", "\"blob\":null", 1), "a null"),
        ("[".repeat(12_000), "recursion limit exceeded"),
        (String::new(), "EOF while parsing"),
        (good[..good.len() - 1].to_owned(), "EOF while parsing"),
        ("x".repeat(COPY_BYTES - BINARY_BYTES), "full"),
    ] {
        let refusal = check(&head(&text), &Shape::state(false), DEVICE_BYTES).expect_err("refused");
        assert_eq!(refusal.field, area);
        assert!(refusal.found.starts_with(found), "{refusal}");
    }
    let long = good.replacen("00ff", &"f".repeat(TOKEN_MAX_BYTES), 1);
    let refusal = check(&head(&long), &Shape::state(false), DEVICE_BYTES);
    // Both limits are near each other: which one speaks depends on what else is there, that one does is what counts.
    let field = refusal.expect_err("refused").field;
    assert_eq!(field, "first copy: tokens.0");
}

// attack: C3
#[test]
fn edited_binary_fields_are_refused_for_their_reason() {
    refused(&changed(|copy| copy[0] ^= 1), "first copy: magic", "4d554b53babe");
    refused(&changed(|copy| copy[7] = 1), "first copy: version", "1");
    refused(&changed(|copy| copy[7] = 3), "first copy: version", "3");
    refused(&changed(|copy| copy[14] = 0x80), "first copy: header size", "32768");
    refused(&changed(|copy| copy[24] = b'x'), "first copy: label", "\"xillar-state\"");
    refused(
        &changed(|copy| copy[72..78].copy_from_slice(b"sha1\0\0")),
        "first copy: checksum algorithm",
        "\"sha1\"",
    );
    refused(&changed(|copy| copy[208..].fill(0)), "first copy: subsystem", "\"\"");
    refused(&changed(|copy| copy[263] = 1), "first copy: header offset", "1");
    refused(
        &changed(|copy| copy[168] = b'E'),
        "first copy: uuid",
        &format!("{:?}", UUID.replacen('e', "E", 1)),
    );
    refused(&changed(|copy| copy[300] = 1), "first copy: padding", "not zero at byte 300");
    refused(&changed(|copy| copy[4095] = 1), "first copy: padding", "not zero at byte 4095");
    let hidden = changed(|copy| copy[40] = b'x');
    assert_eq!(
        check(&hidden, &Shape::state(false), DEVICE_BYTES).expect_err("refused").field,
        "first copy: label"
    );
}

fn good() -> Vec<u8> {
    head(&metadata(&Shape::state(false)).to_string())
}

fn judged(head: &[u8]) -> Result<Header, Refusal> {
    check(head, &Shape::state(false), DEVICE_BYTES)
}

/// Applies a repair and expects the same header, now with two equal copies.
#[track_caller]
fn mends(head: &[u8], expected_sequence: u64) {
    let header = judged(head).expect("one copy counts");
    assert_eq!(header.sequence, expected_sequence);
    let repair = header.repair.clone().expect("the other is mended");
    let mut mended = head.to_vec();
    let at = repair.offset as usize;
    mended[at..at + repair.bytes.len()].copy_from_slice(&repair.bytes);
    assert_eq!(judged(&mended).expect("mended"), Header { repair: None, ..header });
}

// attack: P6
#[test]
fn what_a_power_cut_leaves_of_two_copies_is_mended() {
    for torn in [BINARY_BYTES + 100, COPY_BYTES + BINARY_BYTES + 100, 450, COPY_BYTES + 450] {
        let mut head = good();
        head[torn] ^= 1;
        mends(&head, 5);
    }
    let later = metadata(&Shape::state(false)).to_string().replacen("00ff", "aa", 1);
    let (old, new) = (good(), later);
    let second = [&old[..COPY_BYTES], &copy(binary::Place::Second, 6, &new)].concat();
    mends(&second, 6);
    assert_eq!(judged(&second).expect("the later counts").tokens[0]["blob"], "aa");
    let first = [&copy(binary::Place::First, 6, &new)[..], &old[COPY_BYTES..]].concat();
    mends(&first, 6);
    assert_eq!(judged(&first).expect("the later counts").tokens[0]["blob"], "aa");
}

// attack: C3
#[test]
fn copies_that_no_power_cut_explains_are_refused() {
    let text = metadata(&Shape::state(false)).to_string();
    let with =
        |sequence, text: &str| [&good()[..COPY_BYTES], &copy(binary::Place::Second, sequence, text)].concat();
    refused(&with(5, &text.replacen("00ff", "aa", 1)), "second copy: JSON", "another one");
    refused(&with(7, &text), "first copy: sequence number", "5");
    refused(&with(3, &text), "second copy: sequence number", "3");
    refused(&with(u64::MAX, &text), "first copy: sequence number", "5");
    // The older one counts for nothing and is judged all the same.
    let weak = text.replace("\"iv_tweak\":\"0\"", "\"iv_tweak\":\"1\"");
    let refusal = judged(&with(4, &weak)).expect_err("refused");
    assert_eq!(refusal.field, "second copy: segments.0.iv_tweak");
    // Another volume's copy, both checksums broken, too little to see.
    let mut foreign = good();
    foreign[COPY_BYTES + 168] = b'f';
    seal(&mut foreign[COPY_BYTES..]);
    refused(&foreign, "second copy: uuid", &UUID.replacen('e', "f", 1));
    let mut broken = good();
    broken[COPY_BYTES + 450] ^= 1;
    broken[450] ^= 1;
    assert_eq!(judged(&broken).expect_err("refused").field, "first copy: checksum");
    refused(&good()[..HEADER_BYTES - 1], "its size", "32767 bytes");
    refused(&[], "its size", "0 bytes");
}

#[test]
fn a_partition_that_ends_before_the_data_is_refused() {
    let shape = Shape::state(false);
    let refusal = check(&good(), &shape, shape.data_offset).expect_err("refused");
    assert_eq!(refusal.field, "first copy: the partition's size");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// One byte changed: refused, or mended to the very same meaning.
    // attack: C1 C3
    #[test]
    fn one_changed_byte_never_changes_what_a_header_means(at in 0..HEADER_BYTES, flip in 1..=255_u8) {
        let good = good();
        let mut head = good.clone();
        head[at] ^= flip;
        if let Ok(header) = judged(&head) {
            let before = judged(&good).expect("ours");
            prop_assert!(header.repair.is_some());
            prop_assert_eq!(Header { repair: None, ..header }, before);
        }
    }

    /// The same byte changed in both copies with right checksums: what is accepted differs in nothing but values that
    /// are free (salts, digests, tokens, sequence number, UUID).
    #[test]
    fn a_changed_byte_with_right_checksums_never_gets_through_to_what_matters(at in 0..6200_usize, flip in 1..=127_u8) {
        let head = changed(|copy| copy[at] ^= flip);
        if let Ok(header) = judged(&head) {
            let text = metadata(&Shape::state(false)).to_string();
            let free = |at: usize| {
                let at = at.wrapping_sub(BINARY_BYTES);
                [SALT, "00ff", "blob", "\"k\":2"].iter().any(|free| {
                    text.match_indices(free).any(|(start, free)| (start..start + free.len()).contains(&at))
                })
            };
            // Sequence number, salt, UUID; the checksum is made right again.
            let fields = [16..24, 104..204, 448..512];
            let fields = fields.iter().any(|field| field.contains(&at));
            prop_assert!(fields || free(at), "byte {} made {:?}", at, header);
        }
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0..HEADER_BYTES) {
        let mut head = good();
        for (byte, noise) in head[at..].iter_mut().zip(&noise) {
            *byte = *noise;
        }
        let _ = judged(&head);
        for copy in head.chunks_mut(COPY_BYTES) {
            seal(copy);
        }
        let _ = judged(&head);
        let _ = state_of(&head);
    }
}

fn whole(start: &[u8]) -> Vec<u8> {
    let mut head = vec![0; HEAD_BYTES];
    head[..start.len()].copy_from_slice(start);
    head
}

// attack: C3
#[test]
fn what_a_partition_is() {
    let known = |name| State::Foreign(Foreign::Known(name));
    assert_eq!(state_of(&whole(&[])), State::Blank);
    assert_eq!(state_of(&whole(&marker())), State::Interrupted);
    assert_eq!(state_of(&whole(&good())), State::Luks2);
    assert_eq!(state_of(&[0; 512]), State::Foreign(Foreign::Short { bytes: 512 }));
    let mut last = whole(&[]);
    last[HEAD_BYTES - 1] = 1;
    assert_eq!(state_of(&last), State::Foreign(Foreign::Unknown { offset: HEAD_BYTES - 1 }));
    let mut ext4 = whole(&[]);
    ext4[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    assert_eq!(state_of(&ext4), known("an ext2, ext3 or ext4 file system"));
    assert_eq!(state_of(&whole(b"LUKS\xba\xbe\0\x01")), known("a LUKS1 volume"));
    assert_eq!(state_of(&whole(b"LUKS\xba\xbe\0\x03")), known("a LUKS volume of an unknown version"));
}

#[test]
fn a_marker_that_is_not_whole_is_only_ours_when_nothing_else_is_there() {
    let marker = marker();
    let end = marker.iter().rposition(|byte| *byte != 0).expect("it has text") + 1;
    for cut in 1..end {
        assert_eq!(state_of(&whole(&marker[..cut])), State::Interrupted, "{cut}");
        let mut other = whole(&marker[..cut]);
        other[HEAD_BYTES / 2] = 1;
        assert_eq!(state_of(&other), State::Foreign(Foreign::Unknown { offset: 0 }), "{cut}");
    }
    let mut changed = whole(&marker);
    changed[3] ^= 1;
    assert!(matches!(state_of(&changed), State::Foreign(_)));
}

/// A head up to the data, with a key slot's worth of noise where the slots are.
fn head_to_data(json: &str, noise: u8) -> Vec<u8> {
    let mut head = vec![noise; Shape::state(false).data_offset as usize];
    head[..HEADER_BYTES].copy_from_slice(&self::head(json));
    head
}

fn apply(disk: &mut [u8], write: &Write, bytes: usize) {
    let at = write.offset as usize;
    disk[at..at + bytes].copy_from_slice(&write.bytes[..bytes]);
}

// attack: P6
#[test]
fn a_cut_anywhere_in_making_leaves_a_marker_or_a_volume() {
    let head = head_to_data(&metadata(&Shape::state(false)).to_string(), 7);
    let mut disk = whole(&marker());
    let [body, sector] = commit(&head);
    for part in 0..=8 {
        apply(&mut disk, &body, body.bytes.len() * part / 8);
        assert_eq!(state_of(&disk), State::Interrupted, "{part}/8 of the body");
    }
    assert_eq!((sector.offset, sector.bytes.len()), (0, SECTOR_BYTES));
    apply(&mut disk, &sector, SECTOR_BYTES);
    assert_eq!(state_of(&disk), State::Luks2);
    assert_eq!(judged(&disk).expect("ours").repair, None);
    assert_eq!(disk[..head.len()], head);
}

// attack: P6
#[test]
fn a_cut_anywhere_in_an_update_leaves_the_old_or_the_new_header_with_its_key_slots() {
    let shape = Shape::state(false);
    let text = metadata(&shape).to_string();
    // Key slot 0 moved behind both, with another key and another token; its old area is wiped.
    let moved = (HEADER_BYTES as u64 + 2 * shape.area_bytes()) as usize;
    let later = text.replacen("\"32768\"", &format!("\"{moved}\""), 1).replacen("00ff", "aa", 1);
    let old = head_to_data(&text, 7);
    let mut new = head_to_data(&later, 7);
    let area = shape.area_bytes() as usize;
    new[moved..moved + area].fill(8);
    new[HEADER_BYTES..HEADER_BYTES + area].fill(9);
    let writes = update(&old, &new, &shape, DEVICE_BYTES).expect("possible");
    let mut disk = old.clone();
    let mut seen = std::collections::BTreeSet::new();
    for write in &writes {
        for bytes in (0..=write.bytes.len()).step_by(SECTOR_BYTES) {
            apply(&mut disk, write, bytes);
            let header = judged(&disk).expect("one of the two");
            let blob = header.tokens[0]["blob"].as_str().expect("text").to_owned();
            let (at, key) = if blob == "00ff" { (HEADER_BYTES, 7) } else { (moved, 8) };
            assert!(disk[at..at + area].iter().all(|byte| *byte == key), "the key slot of {blob}");
            seen.insert(blob);
        }
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(disk[HEADER_BYTES..], new[HEADER_BYTES..]);
    assert_eq!(judged(&disk).expect("the new").sequence, 6);
}

#[test]
fn updates_that_cannot_be_safe_are_refused() {
    let shape = Shape::state(false);
    let text = metadata(&shape).to_string();
    let old = head_to_data(&text, 7);
    let in_place = head_to_data(&text, 8);
    let update = |new: &[u8]| update(&old, new, &shape, DEVICE_BYTES).expect_err("refused");
    assert_eq!(update(&in_place), UpdateError::InPlace { offset: HEADER_BYTES });
    assert!(matches!(update(&old[1..]), UpdateError::Length { .. }));
    assert!(matches!(update(&head_to_data("{}", 7)), UpdateError::New(_)));
}

/// The real thing, from the tools tree.
fn cryptsetup(file: &Path, arguments: &[&str], keys: &Path) {
    let tools = pillar_tools::Tools::open().unwrap_or_else(|error| panic!("{error}"));
    let output = tools
        .command("cryptsetup")
        .args(arguments)
        .args(["--batch-mode", "--pbkdf", "pbkdf2", "--hash", "sha256", "--pbkdf-force-iterations", "1000"])
        .arg(file)
        .args(arguments.first().filter(|verb| **verb != "luksFormat").map(|_| keys.join("new")))
        .output()
        .expect("cryptsetup starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_cryptsetup_makes_is_accepted_and_its_change_of_a_key_is_an_update() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, shape) = (folder.path().join("volume"), Shape::state(false));
    fs::File::create(&file).and_then(|f| f.set_len(16 << 20)).expect("a file");
    for key in ["first", "new"] {
        fs::write(folder.path().join(key), key.repeat(8)).expect("a key");
    }
    let first = folder.path().join("first").display().to_string();
    let with_key = |verb, slot| vec![verb, "--key-file", first.as_str(), slot];
    let format: Vec<&str> = with_key("luksFormat", "--key-slot=0")
        .into_iter()
        .chain("--type=luks2 --cipher=aes-xts-plain64 --key-size=512 --sector-size=4096".split(' '))
        .chain("--label=pillar-state --subsystem=pillar --offset=8192".split(' '))
        .chain("--luks2-metadata-size=16k --luks2-keyslots-size=4161536".split(' '))
        .collect();
    cryptsetup(&file, &format, folder.path());
    let head = || fs::read(&file).expect("readable")[..shape.data_offset as usize].to_vec();
    let refusal = check(&head(), &shape, 16 << 20).expect_err("without the second slot and the tokens");
    assert_eq!(refusal.field, "first copy: keyslots.1");
    cryptsetup(&file, &with_key("luksAddKey", "--new-key-slot=1"), folder.path());
    for (id, kind, slot) in [("0", "pillar-tpm", "0"), ("1", "pillar-recovery", "1")] {
        let json = folder.path().join("token");
        fs::write(&json, json!({"type": kind, "keyslots": [slot]}).to_string()).expect("a token");
        let tools = pillar_tools::Tools::open().expect("opened before");
        let mut import = tools.command("cryptsetup");
        import.args(["token", "import", "--token-id", id, "--json-file"]).arg(&json).arg(&file);
        assert!(import.status().expect("cryptsetup starts").success());
    }
    let old = head();
    assert_eq!(check(&old, &shape, 16 << 20).expect("ours").repair, None);
    cryptsetup(&file, &with_key("luksChangeKey", "--key-slot=0"), folder.path());
    let new = head();
    let writes = update(&old, &new, &shape, 16 << 20).expect("the key went to an area of its own");
    let mut disk = old;
    writes.iter().for_each(|write| apply(&mut disk, write, write.bytes.len()));
    assert_eq!(disk[HEADER_BYTES..], new[HEADER_BYTES..]);
}
