//! On files: what needs no device-mapper.

use super::*;
use std::fs::{self, File};

const SLOT: KeyslotParams<'_> =
    KeyslotParams { encryption: "aes-xts-plain64", key_bytes: 64, pbkdf2: Pbkdf2 { iterations: 1000 } };
const FORMAT: FormatParams<'_> = FormatParams {
    cipher: "aes",
    mode: "xts-plain64",
    integrity: None,
    sector_bytes: 4096,
    data_offset_bytes: 4 << 20,
    metadata_bytes: 16 << 10,
    keyslots_bytes: (4 << 20) - (32 << 10),
    label: "pillar-state",
    subsystem: "pillar",
    uuid: Some("11111111-2222-4333-8444-555555555555"),
    pbkdf2: Pbkdf2 { iterations: 1000 },
};

/// A file that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: u64) -> Self {
        let path = std::env::temp_dir().join(format!("pillar-os-{}-{name}", std::process::id()));
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("a scratch file");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("ours");
    }
}

fn made(path: &Path) -> Device {
    let mut device = Device::open(path).expect("a file opens");
    device.format_luks2(&FORMAT, &[7; 64]).expect("a volume");
    device.add_keyslot(0, &[7; 64], b"first", &SLOT).expect("slot 0");
    device.add_keyslot(1, &[7; 64], b"second", &SLOT).expect("slot 1");
    device
}

#[test]
fn a_volume_gives_its_key_to_both_passphrases_and_to_no_other() {
    let file = Scratch::new("keys", 16 << 20);
    drop(made(&file.0));
    let mut device = Device::open(&file.0).expect("open");
    device.load().expect("a header");
    assert_eq!(device.uuid().as_deref(), FORMAT.uuid);
    assert_eq!(device.volume_key(0, b"first").expect("slot 0")[..], [7; 64]);
    assert_eq!(device.volume_key(1, b"second").expect("slot 1")[..], [7; 64]);
    for (slot, passphrase) in [(0, &b"second"[..]), (1, b"first"), (0, b""), (0, b"firs")] {
        let error = device.volume_key(slot, passphrase).expect_err("another slot's passphrase");
        assert!(error.is_wrong_key(), "{error}");
    }
}

#[test]
fn a_key_slot_is_changed_and_destroyed() {
    let file = Scratch::new("change", 16 << 20);
    let mut device = made(&file.0);
    device.change_keyslot(0, b"first", b"third", &SLOT).expect("changed");
    assert!(device.volume_key(0, b"first").expect_err("old").is_wrong_key());
    assert_eq!(device.volume_key(0, b"third").expect("new")[..], [7; 64]);
    device.destroy_keyslot(0).expect("destroyed");
    let error = device.volume_key(0, b"third").expect_err("gone");
    assert!(!error.is_wrong_key(), "{error}");
    assert_eq!(device.volume_key(1, b"second").expect("the other stays")[..], [7; 64]);
}

#[test]
fn tokens_are_written_and_removed() {
    let file = Scratch::new("tokens", 16 << 20);
    let mut device = made(&file.0);
    device.set_token(0, r#"{"type":"pillar-tpm","keyslots":["0"],"blob":"00ff"}"#).expect("a token");
    let text = String::from_utf8_lossy(&fs::read(&file.0).expect("readable")).into_owned();
    assert!(text.contains(r#""blob":"00ff""#));
    device.remove_token(0).expect("removed");
    let error = device.set_token(1, "{not json").expect_err("no JSON");
    assert_eq!(error.operation, "write a token of");
}

#[test]
fn a_failure_says_what_libcryptsetup_said() {
    let file = Scratch::new("empty", 16 << 20);
    let error = Device::open(&file.0).expect("open").load().expect_err("no header");
    assert_eq!(error.operation, "read the header of");
    let missing = Device::open(Path::new("/nonexistent/device")).expect_err("not there");
    assert!(missing.to_string().contains("/nonexistent/device"), "{missing}");
    let mut device = Device::open(&file.0).expect("open");
    let cipher = FormatParams { cipher: "rot13", ..FORMAT };
    let error = device.format_luks2(&cipher, &[7; 64]).expect_err("no such cipher");
    assert!(error.message.len() > 10 && error.message != "it says nothing more", "{error}");
    let smaller = KeyslotParams { encryption: "rot13", ..SLOT };
    device.format_luks2(&FORMAT, &[7; 64]).expect("a volume");
    let error = device.add_keyslot(0, &[7; 64], b"first", &smaller).expect_err("no such cipher");
    assert_eq!(error.operation, "set the parameters of a key slot of");
    let nul = device.set_label("a\0b", "").expect_err("a NUL");
    assert_eq!(nul.message, "an argument has a NUL in it");
}

#[test]
fn a_header_in_a_file_of_its_own_leaves_the_data_device_alone() {
    let (header, data) = (Scratch::new("header", 4 << 20), Scratch::new("data", 16 << 20));
    let mut device = Device::open_detached(&header.0, &data.0).expect("open");
    device.format_luks2(&FORMAT, &[7; 64]).expect("a volume");
    device.add_keyslot(0, &[7; 64], b"first", &SLOT).expect("slot 0");
    drop(device);
    assert!(fs::read(&data.0).expect("readable").iter().all(|byte| *byte == 0));
    let mut device = Device::open_detached(&header.0, &data.0).expect("open");
    device.load().expect("a header");
    assert_eq!(device.volume_key(0, b"first").expect("slot 0")[..], [7; 64]);
}
