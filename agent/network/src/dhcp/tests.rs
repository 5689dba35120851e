//! Messages of servers: good, foreign, bad and at random.

use super::*;
use proptest::prelude::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x70, 0x69, 1];
const NUMBER: u32 = 0x1234_5678;

/// An option with its value.
type Said<'a> = (u8, &'a [u8]);

/// A server's message with these options, and `yiaddr` 10.0.2.15.
fn message(options: &[Said<'_>]) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES];
    message[..3].copy_from_slice(&[BOOT_REPLY, 1, 6]);
    message[4..8].copy_from_slice(&NUMBER.to_be_bytes());
    message[16..20].copy_from_slice(&[10, 0, 2, 15]);
    message[28..34].copy_from_slice(&MAC);
    message[236..240].copy_from_slice(&COOKIE);
    for (code, value) in options {
        push(&mut message, *code, value);
    }
    message.push(option::END);
    message
}

fn read(options: &[Said<'_>]) -> Result<Reply, Ignored> {
    Reply::read(&message(options), MAC, NUMBER)
}

const SERVER: Said<'_> = (option::SERVER, &[10, 0, 2, 2]);
const MASK: Said<'_> = (option::MASK, &[255, 255, 255, 0]);
const HOUR: Said<'_> = (option::LEASE, &[0, 0, 14, 16]);
const OFFER: Said<'_> = (option::TYPE, &[kind::OFFER]);

#[test]
fn a_whole_offer() {
    let reply = read(&[
        OFFER,
        SERVER,
        MASK,
        HOUR,
        (option::ROUTER, &[10, 0, 2, 2, 10, 0, 2, 3]),
        (option::DNS, &[10, 0, 2, 3, 0, 0, 0, 0, 224, 0, 0, 1, 10, 0, 2, 4, 10, 0, 2, 5, 10, 0, 2, 6]),
        (option::NTP, &[10, 0, 2, 7]),
        (200, b"somebody's own"),
    ]);
    let terms = Terms {
        address: [10, 0, 2, 15].into(),
        prefix: 24,
        gateway: Some([10, 0, 2, 2].into()),
        dns: vec![[10, 0, 2, 3].into(), [10, 0, 2, 4].into(), [10, 0, 2, 5].into()],
        time: vec![[10, 0, 2, 7].into()],
        server: [10, 0, 2, 2].into(),
        renew: Duration::from_secs(1800),
        rebind: Duration::from_secs(3150),
        lease: Duration::from_secs(3600),
    };
    assert!(!terms.gateway_is_elsewhere());
    assert_eq!(reply, Ok(Reply::Offer(terms)));
}

#[test]
fn times_of_the_server_count_when_they_are_in_order() {
    // (T1, T2, what they become)
    for (renew, rebind, expected) in
        [(600, 1200, (600, 1200)), (1200, 600, (1800, 3150)), (0, 1, (1800, 3150)), (600, 3600, (1800, 3150))]
    {
        let (t1, t2) = (u32::to_be_bytes(renew), u32::to_be_bytes(rebind));
        let reply = read(&[OFFER, SERVER, MASK, HOUR, (option::RENEW, &t1), (option::REBIND, &t2)]);
        let Ok(Reply::Offer(terms)) = reply else { panic!("{reply:?}") };
        assert_eq!((terms.renew.as_secs(), terms.rebind.as_secs()), expected);
    }
}

#[test]
fn a_gateway_may_be_in_another_network() {
    let alone = (option::MASK, &[255, 255, 255, 255][..]);
    let reply = read(&[OFFER, SERVER, alone, HOUR, (option::ROUTER, &[172, 31, 1, 1])]);
    let Ok(Reply::Offer(terms)) = reply else { panic!("{reply:?}") };
    assert!(terms.gateway_is_elsewhere());
}

#[test]
fn options_in_pieces_and_in_other_fields() {
    let (one, two) = ((option::LEASE, &[0, 0][..]), (option::LEASE, &[14, 16][..]));
    assert!(matches!(read(&[OFFER, SERVER, MASK, one, two]), Ok(Reply::Offer(_))));
    let mut bytes = message(&[OFFER, SERVER, HOUR, (option::OVERLOAD, &[2])]);
    bytes[44..51].copy_from_slice(&[option::MASK, 4, 255, 255, 0, 0, option::END]);
    let Ok(Reply::Offer(terms)) = Reply::read(&bytes, MAC, NUMBER) else { panic!("overload") };
    assert_eq!(terms.prefix, 16);
}

#[test]
fn refusals_carry_clean_words() {
    let nak = (option::TYPE, &[kind::NAK][..]);
    let reply = read(&[nak, SERVER, (option::MESSAGE, b"no\x1b[2J \xff such lease\n")]);
    assert_eq!(reply, Ok(Reply::Nak { server: [10, 0, 2, 2].into(), why: "no[2J  such lease".to_owned() }));
}

#[test]
fn others_messages_are_silence() {
    let good = message(&[OFFER, SERVER, MASK, HOUR]);
    assert_eq!(Reply::read(&good, MAC, NUMBER + 1), Err(Ignored::NotOurs));
    assert_eq!(Reply::read(&good, [2; 6], NUMBER), Err(Ignored::NotOurs));
    for length in 0..HEADER_BYTES {
        assert_eq!(Reply::read(&good[..length], MAC, NUMBER), Err(Ignored::NotOurs));
    }
    for at in [0, 1, 2, 236] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert_eq!(Reply::read(&bytes, MAC, NUMBER), Err(Ignored::NotOurs));
    }
}

// attack: P17
#[test]
fn bad_answers_are_named() {
    let table: [(&[Said<'_>], &str); 16] = [
        (&[SERVER, MASK, HOUR], "no type"),
        (&[(option::TYPE, &[9]), SERVER, MASK, HOUR], "no type"),
        (&[(option::TYPE, &[2, 2]), SERVER, MASK, HOUR], "no type"),
        (&[OFFER, MASK, HOUR], "no server"),
        (&[OFFER, (option::SERVER, &[0, 0, 0, 0]), MASK, HOUR], "impossible server"),
        (&[OFFER, (option::SERVER, &[10, 0, 2]), MASK, HOUR], "wrong length"),
        (&[OFFER, SERVER, HOUR], "no network mask"),
        (&[OFFER, SERVER, (option::MASK, &[255, 0, 255, 0]), HOUR], "impossible network mask"),
        (&[OFFER, SERVER, (option::MASK, &[0, 0, 0, 0]), HOUR], "impossible network mask"),
        (&[OFFER, SERVER, (option::MASK, &[254, 0, 0, 0]), HOUR], "impossible network mask"),
        // 10.0.2.15 is the last of 16 addresses.
        (&[OFFER, SERVER, (option::MASK, &[255, 255, 255, 240]), HOUR], "impossible address"),
        (&[OFFER, SERVER, MASK], "no lease time"),
        (&[OFFER, SERVER, MASK, (option::LEASE, &[0, 0, 0, 9])], "less than ten seconds"),
        (&[OFFER, SERVER, MASK, (option::LEASE, &[0, 0, 9])], "wrong length"),
        (&[OFFER, SERVER, MASK, HOUR, (option::OVERLOAD, &[4])], "overload"),
        (&[OFFER, SERVER, MASK, HOUR, (option::RENEW, &[4])], "wrong length"),
    ];
    for (options, said) in table {
        let error = read(options).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    let mut cut = message(&[OFFER, SERVER, MASK, HOUR]);
    cut.truncate(cut.len() - 2);
    assert_eq!(Reply::read(&cut, MAC, NUMBER), Err(Ignored::Malformed("an option cut off")));
}

// attack: P17
#[test]
fn impossible_addresses_of_ours() {
    for address in
        [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1], [10, 0, 2, 255]]
    {
        let mut bytes = message(&[OFFER, SERVER, MASK, HOUR]);
        bytes[16..20].copy_from_slice(&address);
        let error = Reply::read(&bytes, MAC, NUMBER);
        assert_eq!(error, Err(Ignored::Malformed("an impossible address for us")), "{address:?}");
    }
}

#[test]
fn what_is_asked() {
    let asker = Asker { mac: MAC, name: Some("p1"), exchange: NUMBER, seconds: 3 };
    let discover = Request::Discover.write(&asker);
    assert_eq!(discover.len(), MESSAGE_MIN_BYTES);
    assert_eq!(discover[..12], [1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78, 0, 3, 0x80, 0]);
    assert_eq!(discover[12..28], [0; 16]);
    assert_eq!(discover[28..34], MAC);
    assert_eq!(discover[236..243], [99, 130, 83, 99, 53, 1, 1]);
    assert_eq!(discover[243..247], [12, 2, b'p', b'1']);
    let nobody = Asker { name: None, ..asker };
    assert_eq!(Request::Discover.write(&nobody)[243], option::PARAMETERS);

    let select = Request::Select { address: [10, 0, 2, 15].into(), server: [10, 0, 2, 2].into() };
    let select = select.write(&asker);
    assert_eq!(select[240..255], [53, 1, 3, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2]);
    assert_eq!(select[12..16], [0; 4]);

    let renew = Request::Renew { address: [10, 0, 2, 15].into() }.write(&asker);
    assert_eq!((&renew[10..16], &renew[240..243]), (&[0, 0, 10, 0, 2, 15][..], &[53, 1, 3][..]));
    assert_eq!(renew[243], option::HOST_NAME);
}

proptest! {
    /// Whatever a server says: no panic, and what is taken is in order.
    // attack: P17
    #[test]
    fn any_options_are_taken_or_refused(tail in prop::collection::vec(any::<u8>(), 0..400), kind in 1_u8..8) {
        let mut bytes = message(&[(option::TYPE, &[kind]), SERVER]);
        bytes.pop();
        bytes.extend(tail);
        if let Ok(Reply::Offer(terms) | Reply::Ack(terms)) = Reply::read(&bytes, MAC, NUMBER) {
            prop_assert!(terms.renew < terms.rebind && terms.rebind < terms.lease);
            prop_assert!(terms.lease >= LEASE_MIN && (8..=32).contains(&terms.prefix));
            prop_assert!(terms.dns.len() <= NAME_SERVERS && terms.time.len() <= TIME_SERVERS);
        }
    }

    /// Any single change of a good offer.
    #[test]
    fn any_byte_changed(at in 0_usize..270, byte in any::<u8>()) {
        let mut bytes = message(&[OFFER, SERVER, MASK, HOUR, (option::DNS, &[10, 0, 2, 3])]);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(Reply::Offer(terms) | Reply::Ack(terms)) = Reply::read(&bytes, MAC, NUMBER) {
            prop_assert!(terms.renew < terms.rebind && terms.rebind < terms.lease);
        }
    }
}
