//! Answers of key exchange servers, good, bad and cut off.

use super::*;
use proptest::prelude::*;

fn record(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// What a server sends, without the end.
fn good() -> Vec<Vec<u8>> {
    vec![
        record(CRITICAL | NEXT_PROTOCOL, &[0, 0]),
        record(CRITICAL | ALGORITHM, &[0, 15]),
        record(COOKIE, &[1; 100]),
        record(COOKIE, &[2; 100]),
    ]
}

fn end() -> Vec<u8> {
    record(CRITICAL | END, &[])
}

fn read_all(records: &[Vec<u8>]) -> Result<Option<Agreement>, RecordError> {
    read(&[records.concat(), end()].concat())
}

fn cookies(how_many: usize) -> Vec<Vec<u8>> {
    (0..how_many).map(|number| record(COOKIE, &[number as u8; 100])).collect()
}

#[test]
fn the_request_is_the_shortest_there_is() {
    let expected = [0x80, 1, 0, 2, 0, 0, 0x80, 4, 0, 2, 0, 15, 0x80, 0, 0, 0];
    assert_eq!(request(), expected);
}

#[test]
fn a_good_answer() {
    let cookies = vec![vec![1; 100], vec![2; 100]];
    let plain = Agreement { server: None, port: None, cookies: cookies.clone() };
    assert_eq!(read_all(&good()), Ok(Some(plain.clone())));
    // What is not critical need not be understood; what comes behind the end is nobody's.
    let mut more = good();
    more.push(record(0x4000, b"from another world"));
    assert_eq!(read(&[more.concat(), end(), vec![9; 9]].concat()), Ok(Some(plain)));
    more.push(record(CRITICAL | SERVER, b"time.example.org."));
    more.push(record(PORT, &[1, 0]));
    let server = "time.example.org".parse().ok();
    assert_eq!(read_all(&more), Ok(Some(Agreement { server, port: Some(256), cookies })));
}

#[test]
fn more_cookies_than_we_keep_are_left() {
    let read = read_all(&[&good()[..2], &cookies(20)].concat()).expect("good").expect("whole");
    assert_eq!(read.cookies.len(), COOKIES);
    assert_eq!(read.cookies[0][0], 0);
}

// attack: P18
#[test]
fn bad_answers_are_named() {
    let with = |more: Vec<u8>| [good(), vec![more]].concat();
    let long_name = "a.".repeat(200);
    let table: Vec<(Vec<Vec<u8>>, RecordError)> = vec![
        (vec![], RecordError::Protocol),
        (good()[1..].to_vec(), RecordError::Protocol),
        (with(record(NEXT_PROTOCOL, &[])), RecordError::Protocol),
        (vec![record(NEXT_PROTOCOL, &[0, 1])], RecordError::Protocol),
        (good()[..1].to_vec(), RecordError::Algorithm),
        (vec![good()[0].clone(), record(ALGORITHM, &[0, 16])], RecordError::Algorithm),
        (vec![good()[0].clone(), record(ALGORITHM, &[])], RecordError::Algorithm),
        (good()[..2].to_vec(), RecordError::NoCookies),
        (with(good()[0].clone()), RecordError::Repeated("protocol")),
        (with(good()[1].clone()), RecordError::Repeated("algorithm")),
        (vec![record(PORT, &[0, 1]), record(PORT, &[0, 1])], RecordError::Repeated("port")),
        (vec![record(SERVER, b"a"), record(SERVER, b"b")], RecordError::Repeated("time server")),
        (with(record(COOKIE, &[])), RecordError::Malformed("cookie")),
        (with(record(COOKIE, &[0; COOKIE_MAX_BYTES + 1])), RecordError::Malformed("cookie")),
        (with(record(NEXT_PROTOCOL, &[0, 0, 0, 0])), RecordError::Malformed("protocol")),
        (with(record(ALGORITHM, &[15])), RecordError::Malformed("algorithm")),
        (with(record(PORT, &[0, 0])), RecordError::Malformed("port")),
        (with(record(PORT, &[1, 2, 3])), RecordError::Malformed("port")),
        (with(record(SERVER, b"a b")), RecordError::Malformed("time server")),
        (with(record(SERVER, &[0xff])), RecordError::Malformed("time server")),
        (with(record(SERVER, b"")), RecordError::Malformed("time server")),
        (with(record(SERVER, long_name.as_bytes())), RecordError::Malformed("time server")),
        (with(record(SERVER, b"224.0.0.1")), RecordError::Malformed("time server")),
        (with(record(CRITICAL, &[1])), RecordError::Malformed("end")),
        (with(record(CRITICAL | 0x4000, &[])), RecordError::UnknownCritical(0x4000)),
        (vec![record(CRITICAL | ERROR, &[0, 1])], RecordError::Reported(1)),
        (with(record(CRITICAL | WARNING, &[0, 7])), RecordError::Warned(7)),
        (vec![record(ERROR, &[])], RecordError::Malformed("error")),
        (vec![record(0x4000, &[]); RECORDS_MAX], RecordError::TooLong),
        (vec![record(0x4000, &[0; MESSAGE_MAX_BYTES])], RecordError::TooLong),
    ];
    for (records, why) in table {
        assert_eq!(read_all(&records), Err(why.clone()), "{why}");
    }
    let told = RecordError::Reported(1).to_string();
    assert_eq!(told, "it reports that our request is bad");
}

#[test]
fn what_is_cut_off_is_not_whole_yet() {
    let whole = [good().concat(), end()].concat();
    for length in 0..whole.len() {
        assert_eq!(read(&whole[..length]), Ok(None), "{length}");
    }
}

proptest! {
    /// Whatever comes: no panic, and what is taken is in bounds.
    #[test]
    fn any_records(records in prop::collection::vec(
        (0_u16..9, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..80), cut in 0_usize..4000)
    {
        let bytes: Vec<u8> = records.iter().flat_map(|(kind, critical, body)| {
            record(if *critical { CRITICAL | kind } else { *kind }, body)
        }).collect();
        // Preceded by what makes a good answer, and cut off anywhere.
        let bytes = [good().concat(), bytes, end()].concat();
        if let Ok(Some(agreement)) = read(&bytes[..cut.min(bytes.len())]) {
            prop_assert!((1..=COOKIES).contains(&agreement.cookies.len()));
            prop_assert!(agreement.cookies.iter().all(|c| (1..=COOKIE_MAX_BYTES).contains(&c.len())));
            prop_assert!(agreement.port != Some(0));
        }
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        // Without both lists and a cookie nothing is taken, and chance does not make them.
        prop_assert!(!matches!(read(&bytes), Ok(Some(_))));
    }

    /// What was read of a part does not change when the rest comes.
    #[test]
    fn refused_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0_usize..400) {
        let part = read(&bytes[..cut.min(bytes.len())]);
        prop_assert!(part == Ok(None) || part == read(&bytes));
    }
}
