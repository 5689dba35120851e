//! Who is asked. Nothing here sets a clock.

use super::*;
use std::net::TcpListener;

/// A server that is not there any more.
fn gone() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    format!("nts://127.0.0.1:{port}#sha256:{}", "0a".repeat(32))
}

fn rounds(servers: &[&str], no_time: bool) -> Rounds {
    let mut rounds =
        Rounds::new(servers.iter().map(|text| text.parse().expect("a server")).collect(), no_time);
    // DHCP names a server.
    rounds.take(vec!["127.0.0.3".parse().expect("an address")]);
    rounds
}

// attack: P18
#[test]
fn only_servers_that_the_settings_name_take_the_place_of_one_that_proves_the_time() {
    let gone = gone();
    let place = gone.split('#').next().expect("a place");
    // (servers of the settings, none of them is usable, who was asked)
    let table: [(&[&str], bool, &[&str]); 5] = [
        (&[], false, &["127.0.0.3"]),
        (&[], true, &[]),
        (&["127.0.0.2"], false, &["127.0.0.2"]),
        (&[&gone], false, &[place]),
        (&[&gone, "127.0.0.2"], false, &[place, "127.0.0.2"]),
    ];
    for (servers, no_time, asked) in table {
        let heard = rounds(servers, no_time).ask();
        assert!(heard.samples.is_empty() && !heard.is_proven);
        let failed: Vec<&str> =
            heard.failures.iter().map(|failure| failure.split_once(": ").expect("a reason").0).collect();
        assert_eq!(failed, asked, "{:?}", heard.failures);
    }
}

#[test]
fn no_time_is_before_the_release() {
    assert!(earliest_unix_s() >= ntp::EARLIEST_UNIX_S);
}

// attack: P18
#[test]
fn why_a_proven_clock_is_not_set_is_said() {
    let ms = 1_000_000;
    let mut rounds = rounds(&[], true);
    rounds.discipline.decide(0, true);
    rounds.set(900 * ms, 1, false);
    assert_eq!(rounds.said, "the clock is proven: not set by 900 ms, which nobody proves");
    // As if the clock had been moved already.
    rounds.discipline.decide(500 * ms, false);
    for offset in [20, -30] {
        rounds.set(offset * ms, 1, false);
        assert!(rounds.said.ends_with("which may move it by 500 ms altogether"), "{}", rounds.said);
    }
}
