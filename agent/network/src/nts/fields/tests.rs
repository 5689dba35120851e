//! Questions as servers see them, and answers, true and false.

use super::*;
use proptest::prelude::*;

const UNIQUE_ID: [u8; UNIQUE_BYTES] = [7; UNIQUE_BYTES];
const NONCE: [u8; NONCE_BYTES] = [3; NONCE_BYTES];

fn key(byte: u8) -> Key {
    Key::new([byte; KEY_BYTES])
}

fn with_field(mut packet: Vec<u8>, kind: u16, value: &[u8]) -> Vec<u8> {
    write(&mut packet, kind, value);
    packet
}

/// A packet of NTP with our identifier.
fn started() -> Vec<u8> {
    with_field(vec![0x24; PACKET_BYTES], UNIQUE, &UNIQUE_ID)
}

fn sealed(before: Vec<u8>, secret: &[u8]) -> Vec<u8> {
    let proof = seal(&key(1), &before, &NONCE, secret);
    with_field(before, AUTHENTICATOR, &proof)
}

/// A good answer with so many new cookies.
fn good(cookies: u8) -> Vec<u8> {
    let secret = (0..cookies).fold(Vec::new(), |secret, number| with_field(secret, COOKIE, &[number; 100]));
    sealed(started(), &secret)
}

fn read(packet: &[u8]) -> Result<Vec<Vec<u8>>, FieldError> {
    open(packet, &UNIQUE_ID, &key(1))
}

#[test]
fn a_question_proves_itself_and_asks_for_as_many_cookies_as_fit() {
    let header = [0x23; PACKET_BYTES];
    // (bytes of a cookie, cookies wanted, bytes of the question)
    for (cookie, wanted, bytes) in [
        (100, 1, 48 + 36 + 104 + 40),
        (100, 8, 48 + 36 + 8 * 104 + 40),
        (100, 0, 48 + 36 + 104 + 40),
        (99, 1, 48 + 36 + 104 + 40),
        (200, 8, 48 + 36 + 5 * 204 + 40),
        (1, 2, 48 + 36 + 2 * 16 + 40),
        (COOKIE_MAX_BYTES, 8, 48 + 36 + 1028 + 40),
    ] {
        let cookie = vec![5; cookie];
        let packet = question(&header, &UNIQUE_ID, &cookie, wanted, &key(1), &NONCE);
        assert_eq!(packet.len(), bytes, "{} {wanted}", cookie.len());
        assert!(packet.len() <= QUESTION_MAX_BYTES);
        // A server checks it just as we check answers; it carries no cookies that were encrypted.
        assert_eq!(open(&packet, &UNIQUE_ID, &key(1)), Ok(vec![]));
        assert_eq!(open(&packet, &UNIQUE_ID, &key(2)), Err(FieldError::Forged));
        let ((kind, value), _) = field(&packet[PACKET_BYTES + 36..]).expect("a field");
        assert_eq!((kind, &value[..cookie.len()]), (COOKIE, &cookie[..]));
    }
}

#[test]
fn good_answers() {
    assert_eq!(read(&good(0)), Ok(vec![]));
    assert_eq!(read(&good(2)), Ok(vec![vec![0; 100], vec![1; 100]]));
    assert_eq!(read(&good(20)).map(|cookies| cookies.len()), Ok(COOKIES));
    // Fields of other kinds, before the proof and encrypted.
    let before = with_field(with_field(vec![0x24; PACKET_BYTES], 0x2005, &[0; 30]), UNIQUE, &UNIQUE_ID);
    assert_eq!(read(&sealed(before, &with_field(vec![], 0x2005, &[0; 30]))), Ok(vec![]));
    // What stands behind the proof is not looked at.
    assert_eq!(read(&[good(1), vec![0xff; 7]].concat()), Ok(vec![vec![0; 100]]));
    // Nonces of other lengths.
    for length in [1, 12, 33, NONCE_MAX_BYTES] {
        let proof = seal(&key(1), &started(), &vec![9; length], &[]);
        assert_eq!(read(&with_field(started(), AUTHENTICATOR, &proof)), Ok(vec![]), "{length}");
    }
}

// attack: P18
#[test]
fn bad_answers_are_named() {
    let other = with_field(vec![0x24; PACKET_BYTES], UNIQUE, &[8; UNIQUE_BYTES]);
    let short = with_field(vec![0x24; PACKET_BYTES], UNIQUE, &[7; UNIQUE_BYTES - 4]);
    let twice = with_field(started(), UNIQUE, &UNIQUE_ID);
    let late = {
        let proof = seal(&key(1), &[0x24; PACKET_BYTES], &NONCE, &[]);
        with_field(with_field(vec![0x24; PACKET_BYTES], AUTHENTICATOR, &proof), UNIQUE, &UNIQUE_ID)
    };
    let empty_field = [started(), vec![1, 4, 0, 0]].concat();
    let odd_field = [started(), vec![1, 4, 0, 18], vec![0; 14]].concat();
    let many = (0..FIELDS_MAX).fold(started(), |packet, _| with_field(packet, 0x2005, &[]));
    let proof = |bytes: &[u8]| with_field(started(), AUTHENTICATOR, bytes);
    let table: Vec<(Vec<u8>, FieldError)> = vec![
        (vec![0x24; PACKET_BYTES - 1], FieldError::Malformed),
        (vec![0x24; PACKET_BYTES], FieldError::Unproven),
        (started(), FieldError::Unproven),
        (sealed(other.clone(), &[]), FieldError::NotOurs),
        (other, FieldError::NotOurs),
        (sealed(short, &[]), FieldError::NotOurs),
        (late, FieldError::NotOurs),
        (sealed(twice, &[]), FieldError::Repeated("identifiers")),
        (empty_field, FieldError::Malformed),
        (odd_field, FieldError::Malformed),
        (sealed(many, &[]), FieldError::Malformed),
        // Lengths of nonce and ciphertext that cannot be.
        (proof(&[0; 40]), FieldError::Malformed),
        (proof(&[[0, 16, 0, 15].as_slice(), &[0; 40]].concat()), FieldError::Malformed),
        (proof(&[[0, 16, 0, 40].as_slice(), &[0; 40]].concat()), FieldError::Malformed),
        (proof(&[[0xff, 0xff, 0xff, 0xff].as_slice(), &[0; 40]].concat()), FieldError::Malformed),
        (proof(&[[0, 16, 0, 16].as_slice(), &[0; 32]].concat()), FieldError::Forged),
        // Rubbish, but proven: a server that is broken.
        (sealed(started(), &[1, 2, 3]), FieldError::Malformed),
        (sealed(started(), &[0; 16]), FieldError::Malformed),
    ];
    for (number, (packet, why)) in table.into_iter().enumerate() {
        assert_eq!(read(&packet), Err(why), "{number}");
    }
    assert_eq!(open(&good(1), &UNIQUE_ID, &key(2)), Err(FieldError::Forged));
}

#[test]
fn a_server_that_lost_its_keys_answers_without_a_proof() {
    assert!(is_unproven_answer(&started(), &UNIQUE_ID));
    for packet in [vec![0x24; PACKET_BYTES], good(0), started()[..80].to_vec()] {
        assert!(!is_unproven_answer(&packet, &UNIQUE_ID));
    }
    assert!(!is_unproven_answer(&started(), &[8; UNIQUE_BYTES]));
}

// attack: P18
#[test]
fn every_part_of_an_answer_is_needed() {
    let good = good(1);
    for length in 0..good.len() {
        assert!(read(&good[..length]).is_err(), "{length}");
    }
}

proptest! {
    /// No byte of an answer can be changed, but for those that fill up a field behind the proof: here are none.
    // attack: P18
    #[test]
    fn any_changed_byte(at in 0_usize..1000, change in 1_u8..) {
        let mut packet = good(2);
        let at = at % packet.len();
        packet[at] ^= change;
        prop_assert!(read(&packet).is_err(), "byte {at}");
    }

    /// Whatever comes: no panic, and nothing is taken.
    #[test]
    fn any_packet(fields in prop::collection::vec(
        (prop::sample::select(vec![UNIQUE, COOKIE, PLACEHOLDER, AUTHENTICATOR, 0x2005]),
         prop::collection::vec(any::<u8>(), 0..100)), 0..40), behind in prop::collection::vec(any::<u8>(), 0..20))
    {
        let packet = fields.iter().fold(started(), |packet, (kind, value)| with_field(packet, *kind, value));
        prop_assert!(read(&[packet, behind].concat()).is_err());
    }

    /// What was encrypted is parsed too, and a true server may be broken.
    #[test]
    fn any_secret(secret in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(cookies) = read(&sealed(started(), &secret)) {
            prop_assert!(cookies.len() <= COOKIES && cookies.iter().all(|c| c.len() <= COOKIE_MAX_BYTES));
        }
    }
}
