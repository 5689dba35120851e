//! Answers of time servers, good and bad, and what is made of several.

use super::*;
use proptest::prelude::*;

const NONCE: u64 = 0x0123_4567_89ab_cdef;
/// 2026-06-01 00:00:00.
const ASKED: i64 = 1_780_272_000_000_000_000;
const TOOK: Duration = Duration::from_millis(20);

/// An offset, and how many say so.
type Agreed = Option<(i64, usize)>;

/// An NTP timestamp so many milliseconds after [`ASKED`].
fn stamp(ms: i64) -> u64 {
    let nanos = i128::from(ASKED) + i128::from(ms) * 1_000_000;
    let seconds = (nanos.div_euclid(NANOS) + UNIX_EPOCH) as u64;
    seconds << 32 | ((nanos.rem_euclid(NANOS) << 32) / NANOS) as u64
}

/// A good answer of a server whose clock is this far ahead of ours.
fn good(ahead_ms: i64) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = VERSION << 3 | SERVER;
    packet[1] = 2;
    // Root delay 1/16 s, root dispersion 1/32 s.
    packet[6] = 0x10;
    packet[10] = 0x08;
    packet[24..32].copy_from_slice(&NONCE.to_be_bytes());
    packet[32..40].copy_from_slice(&stamp(ahead_ms + 9).to_be_bytes());
    packet[40..48].copy_from_slice(&stamp(ahead_ms + 11).to_be_bytes());
    packet
}

fn read(packet: &[u8]) -> Result<Sample, Refusal> {
    answer(packet, NONCE, ASKED, TOOK, 0)
}

#[test]
fn good_answers() {
    for ahead in [0, 1, -1, 500, -90_000, 3_600_000] {
        let sample = read(&good(ahead)).expect("a good answer");
        assert!((sample.offset - ahead * 1_000_000).abs() < 1000, "{ahead}: {sample:?}");
        // Half of 18 ms on the way, half of 62.5 ms to the reference clock, 31.25 ms that it may be off.
        assert!((sample.distance - 71_500_000).abs() < 1000, "{sample:?}");
    }
    // Longer packets carry extensions, which we do not read.
    assert!(read(&[&good(0)[..], &[0; 20]].concat()).is_ok());
}

#[test]
fn after_2036_the_seconds_begin_anew() {
    let later = 2_100_000_000_i128 * NANOS;
    assert!(unix_nanos(((2_100_000_000_i128 + UNIX_EPOCH) as u64) << 32) == later);
}

#[test]
fn the_question_says_nothing_about_us() {
    let question = question(NONCE);
    assert_eq!(question[0], 0x23);
    assert!(question[1..40].iter().all(|byte| *byte == 0));
    assert_eq!(question[40..], NONCE.to_be_bytes());
}

// attack: P18
#[test]
fn bad_answers_are_named() {
    // (place, bytes, why)
    let long_ago = (3_000_000_000_u64 << 32).to_be_bytes();
    let table: [(usize, &[u8], Refusal); 14] = [
        (0, &[0x23], Refusal::NotOurs),
        (0, &[0x25], Refusal::NotOurs),
        (0, &[0x14], Refusal::NotOurs),
        (0, &[0x2c], Refusal::NotOurs),
        (24, &[0], Refusal::NotOurs),
        (31, &[0], Refusal::NotOurs),
        (0, &[0xe4], Refusal::Unsynchronized),
        (1, &[16], Refusal::Unsynchronized),
        (40, &[0; 8], Refusal::Unsynchronized),
        (32, &[0; 8], Refusal::Unsynchronized),
        (4, &[0, 3, 0, 0], Refusal::TooFar),
        (8, &[0, 1, 0x80, 0], Refusal::TooFar),
        // It sent before it received; it thought longer than it took.
        (40, &stamp(8).to_be_bytes(), Refusal::Impossible),
        (40, &stamp(40).to_be_bytes(), Refusal::Impossible),
    ];
    for (at, bytes, why) in table {
        let mut packet = good(0);
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(read(&packet), Err(why), "{at}: {bytes:x?}");
    }
    let mut packet = good(0);
    packet[32..40].copy_from_slice(&long_ago);
    packet[40..48].copy_from_slice(&long_ago);
    assert_eq!(read(&packet), Err(Refusal::Impossible));
    for length in 0..PACKET_BYTES {
        assert_eq!(read(&good(0)[..length]), Err(Refusal::NotOurs));
    }
    assert_eq!(answer(&good(0), NONCE, ASKED, Duration::from_millis(1100), 0), Err(Refusal::TooFar));
}

// attack: P18
#[test]
fn a_kiss_is_obeyed_only_when_it_answers_us() {
    let mut packet = good(0);
    packet[1] = 0;
    packet[12..16].copy_from_slice(b"RATE");
    assert_eq!(read(&packet), Err(Refusal::Kiss("RATE".to_owned())));
    packet[12..16].copy_from_slice(b"\x1b[2J");
    assert_eq!(read(&packet), Err(Refusal::Kiss("2J".to_owned())));
    packet[30] ^= 1;
    assert_eq!(read(&packet), Err(Refusal::NotOurs));
}

// attack: P18
#[test]
fn a_majority_decides() {
    let sample = |offset: i64, distance: i64| Sample { offset, distance };
    // (offset and distance of each, what is agreed)
    let table: [(&[(i64, i64)], Agreed); 8] = [
        (&[], None),
        (&[(100, 5)], Some((100, 1))),
        (&[(100, 5), (104, 5)], Some((100, 2))),
        (&[(100, 5), (900, 5)], None),
        (&[(100, 5), (900, 5), (103, 5)], Some((100, 2))),
        (&[(900, 5), (100, 5), (103, 5), (101, 5)], Some((101, 3))),
        (&[(900, 5), (901, 5), (103, 5), (101, 5)], None),
        // Who says that he may be off by anything agrees with everybody, and does not decide.
        (&[(100, 5), (103, 5), (5000, 9000)], Some((103, 3))),
    ];
    for (samples, expected) in table {
        let samples: Vec<Sample> =
            samples.iter().map(|(offset, distance)| sample(*offset, *distance)).collect();
        assert_eq!(agreed(&samples), expected, "{samples:?}");
    }
}

#[test]
fn the_clock_jumps_at_first_and_then_only_when_told_again_and_again() {
    let ms = 1_000_000;
    let mut discipline = Discipline::default();
    let mut decide = |offset| discipline.decide(offset, false);
    assert_eq!(decide(-3_600_000 * ms), Action::Step);
    assert_eq!(decide(ms / 2), Action::Leave);
    assert_eq!(decide(20 * ms), Action::Slew);
    assert_eq!(decide(501 * ms), Action::Leave);
    assert_eq!(decide(499 * ms), Action::Slew);
    assert_eq!(
        [decide(-600 * ms), decide(-600 * ms), decide(-600 * ms)],
        [Action::Leave, Action::Leave, Action::Step]
    );
    assert_eq!(decide(-600 * ms), Action::Leave);
}

// attack: P18
#[test]
fn times_that_cannot_be_are_refused() {
    let told_at = |unix_s: u64, earliest: u64| {
        let mut packet = good(0);
        let told = ((unix_s + UNIX_EPOCH as u64) << 32).to_be_bytes();
        packet[32..40].copy_from_slice(&told);
        packet[40..48].copy_from_slice(&told);
        answer(&packet, NONCE, ASKED, TOOK, earliest).map(drop)
    };
    let released = EARLIEST_UNIX_S + 1000;
    for (unix_s, earliest, expected) in [
        (EARLIEST_UNIX_S, 0, Ok(())),
        (EARLIEST_UNIX_S - 1, 0, Err(Refusal::Impossible)),
        (released, released, Ok(())),
        (released - 1, released, Err(Refusal::Impossible)),
        (LATEST_UNIX_S - 1, 0, Ok(())),
        (LATEST_UNIX_S, 0, Err(Refusal::Impossible)),
    ] {
        assert_eq!(told_at(unix_s, earliest), expected, "{unix_s}");
    }
}

// attack: P18
#[test]
fn what_nobody_proved_makes_no_proven_clock_jump() {
    let ms = 1_000_000;
    let mut discipline = Discipline::default();
    assert_eq!(discipline.decide(3_600_000 * ms, false), Action::Step);
    assert!(!discipline.is_proven());
    // Proven answers correct at once what others said.
    assert_eq!(discipline.decide(-3_600_000 * ms, true), Action::Step);
    assert!(discipline.is_proven());
    for _ in 0..10 {
        assert_eq!(discipline.decide(3_600_000 * ms, false), Action::Refuse);
    }
    assert_eq!(discipline.decide(20 * ms, false), Action::Slew);
    // And jumps of their own are told three times as ever.
    let jumps: Vec<Action> = (0..3).map(|_| discipline.decide(900 * ms, true)).collect();
    assert_eq!(jumps, [Action::Leave, Action::Leave, Action::Step]);
}

#[test]
fn who_is_asked_too_often_is_asked_again() {
    let kiss = |code: &str| Refusal::Kiss(code.to_owned());
    assert!(!kiss("RATE").is_farewell() && !Refusal::TooFar.is_farewell());
    for code in ["", "INIT", "STEP", "NTSN", "deny"] {
        assert!(!kiss(code).is_farewell(), "{code}");
    }
    assert!(kiss("DENY").is_farewell() && kiss("RSTR").is_farewell());
}

#[test]
fn a_server_that_was_just_started_has_no_time_yet() {
    let told = |first: u8, code: &[u8; 4]| {
        let mut packet = good(0);
        (packet[0], packet[1]) = (first, 0);
        packet[12..16].copy_from_slice(code);
        read(&packet).expect_err("stratum 0")
    };
    for code in [&[0; 4], b"INIT", b"STEP"] {
        assert_eq!(
            [told(0xe4, code), told(0x24, code)],
            [Refusal::Unsynchronized, Refusal::Unsynchronized],
            "{code:?}"
        );
    }
    // Whoever has no time may still not want to be asked, or not know a cookie.
    for code in [b"DENY", b"RSTR", b"RATE", b"NTSN"] {
        let name = String::from_utf8_lossy(code).into_owned();
        assert_eq!(told(0xe4, code), Refusal::Kiss(name), "{code:?}");
    }
}

// attack: P18
#[test]
fn what_nobody_proved_moves_a_proven_clock_by_one_jump_at_most() {
    let ms = 1_000_000;
    let mut discipline = Discipline::default();
    assert_eq!(discipline.decide(0, true), Action::Leave);
    let mut moved = 0;
    for offset in [200, -200, 0, 101, 100, 1, 2, -499, 500, 501].into_iter().cycle().take(1000) {
        match discipline.decide(offset * ms, false) {
            Action::Slew => moved += offset.abs(),
            Action::Leave => assert!(offset.abs() <= 1, "{offset}"),
            action => assert_eq!(action, Action::Refuse),
        }
    }
    assert_eq!(moved, 500);
    // A proven answer that waits to be confirmed changes nothing; one that agrees does, once more.
    assert_eq!(discipline.decide(900 * ms, true), Action::Leave);
    assert_eq!(discipline.decide(20 * ms, false), Action::Refuse);
    assert_eq!(discipline.decide(20 * ms, true), Action::Slew);
    assert_eq!([500, 2].map(|offset| discipline.decide(offset * ms, false)), [Action::Slew, Action::Refuse]);
    // A clock that was never proven has nothing to lose.
    let mut discipline = Discipline::default();
    for _ in 0..10 {
        assert_eq!(discipline.decide(400 * ms, false), Action::Slew);
    }
}

proptest! {
    /// Whatever comes: no panic, and what is taken answers us and is in bounds.
    #[test]
    fn any_packet(mut packet in prop::collection::vec(any::<u8>(), 0..100), ours in any::<bool>()) {
        if ours && packet.len() >= PACKET_BYTES {
            packet[0] = VERSION << 3 | SERVER;
            packet[24..32].copy_from_slice(&NONCE.to_be_bytes());
        }
        if let Ok(sample) = read(&packet) {
            prop_assert!(ours && sample.distance >= 0 && sample.distance <= DISTANCE_MAX.as_nanos() as i64);
        }
    }

    /// One liar among three moves nothing further than the honest ones are apart.
    // attack: P18
    #[test]
    fn one_liar(lie in any::<i32>(), distance in 0_i64..1_000_000, a in -50_i64..50, b in -50_i64..50) {
        let honest = |offset| Sample { offset, distance: 100 };
        let samples = [Sample { offset: lie.into(), distance }, honest(a), honest(b)];
        let (offset, _) = agreed(&samples).expect("two honest ones agree");
        prop_assert!((a.min(b) - 100..=a.max(b) + 100).contains(&offset) || offset == i64::from(lie));
    }
}
