//! What time servers send: key exchange for NTS, packets of NTP with fields that prove them, and what a server that is
//! known, and broken, encrypts.

use crate::input::{Input, somewhere};
use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use pillar_network::ntp::{self, PACKET_BYTES};
use pillar_network::nts::fields::{self, FieldError, KEY_BYTES, Key, UNIQUE_BYTES};
use pillar_network::nts::records::{self, COOKIE_MAX_BYTES, COOKIES};
use std::time::Duration;

const KEY: [u8; KEY_BYTES] = [1; KEY_BYTES];
const UNIQUE: [u8; UNIQUE_BYTES] = [7; UNIQUE_BYTES];
/// What the question of NTP had at random: the packet must repeat it.
const NONCE: u64 = u64::from_be_bytes([7; 8]);
/// 2026-06-01 00:00:00 by our clock, nanoseconds since 1970.
const ASKED: i64 = 1_780_272_000_000_000_000;

/// Input: a byte that says what it is, and the rest.
pub(crate) fn time(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => exchange(input.rest()),
        1 => ntp(input.rest()),
        2 => stranger(input.rest()),
        _ => acquaintance(input.rest()),
    }
}

/// An answer in key exchange. What came first is judged as it will be when all came.
fn exchange(bytes: &[u8]) -> bool {
    let whole = records::read(bytes);
    if let Some(cut) = somewhere(bytes, bytes.len()) {
        let part = records::read(&bytes[..cut]);
        assert!(part == Ok(None) || part == whole, "another answer when it comes in pieces");
    }
    let Ok(Some(agreement)) = whole else { return false };
    let lengths = 1..=COOKIE_MAX_BYTES;
    assert!((1..=COOKIES).contains(&agreement.cookies.len()) && agreement.port != Some(0));
    assert!(agreement.cookies.iter().all(|cookie| lengths.contains(&cookie.len())));
    true
}

/// A packet of NTP as such.
fn ntp(packet: &[u8]) -> bool {
    let took = Duration::from_millis(20);
    let Ok(sample) = ntp::answer(packet, NONCE, ASKED, took, 0) else { return false };
    assert!((0..=1_500_000_000).contains(&sample.distance), "{sample:?}");
    true
}

/// A packet of somebody who does not know the key: it proves nothing, whatever it is. At most it is a kiss.
fn stranger(packet: &[u8]) -> bool {
    let key = Key::new(KEY);
    let error = fields::open(packet, &UNIQUE, &key).expect_err("nobody knows the key");
    let kiss = fields::is_unproven_answer(packet, &UNIQUE);
    assert!(!kiss || error == FieldError::Unproven, "{error}");
    kiss
}

/// What a server that knows the key encrypted.
fn acquaintance(secret: &[u8]) -> bool {
    let secret = &secret[..secret.len().min(30_000)];
    let before = [&[0x24; PACKET_BYTES][..], &field(0x104, &UNIQUE)].concat();
    let nonce = [5; 16];
    let mut sealed = Aes128Siv::new(&KEY.into()).encrypt([&before[..], &nonce], secret).expect("two headers");
    let lengths = [[0, 16], (sealed.len() as u16).to_be_bytes()].concat();
    sealed.resize(sealed.len().next_multiple_of(4), 0);
    let packet = [&before[..], &field(0x404, &[&lengths[..], &nonce, &sealed].concat())].concat();
    let Ok(cookies) = fields::open(&packet, &UNIQUE, &Key::new(KEY)) else { return false };
    assert!(cookies.len() <= COOKIES && cookies.iter().all(|cookie| cookie.len() <= COOKIE_MAX_BYTES));
    true
}

/// A field whose value fills it.
fn field(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(value.len() as u16 + 4).to_be_bytes(), value].concat()
}
