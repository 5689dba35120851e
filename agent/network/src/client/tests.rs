//! Stories of a client, told step by step, and any story at all.

use super::*;
use proptest::prelude::*;

/// No jitter: the middle of the dice.
fn at(seconds: u64) -> Now {
    Now { at: Duration::from_secs(seconds), random: 7 << 32 | 0x8000_0000 }
}

fn terms() -> Terms {
    Terms {
        address: [10, 0, 0, 5].into(),
        prefix: 24,
        gateway: None,
        dns: Vec::new(),
        time: Vec::new(),
        server: [10, 0, 0, 1].into(),
        renew: Duration::from_secs(1800),
        rebind: Duration::from_secs(3150),
        lease: Duration::from_secs(3600),
    }
}

const SELECT: Effect = Effect::Send(
    Request::Select { address: Ipv4Addr::new(10, 0, 0, 5), server: Ipv4Addr::new(10, 0, 0, 1) },
    To::Everybody,
);
const DISCOVER: Effect = Effect::Send(Request::Discover, To::Everybody);

fn renew(to: To) -> Effect {
    Effect::Send(Request::Renew { address: [10, 0, 0, 5].into() }, to)
}

fn ours() -> To {
    To::Server([10, 0, 0, 1].into())
}

fn offer() -> Event {
    Event::Reply(Reply::Offer(terms()))
}

fn ack() -> Event {
    Event::Reply(Reply::Ack(terms()))
}

fn nak() -> Event {
    Event::Reply(Reply::Nak { server: [10, 0, 0, 1].into(), why: "no".to_owned() })
}

fn lease(since: u64) -> Lease {
    Lease { terms: terms(), since: Duration::from_secs(since) }
}

/// The state's name.
fn name(state: &State) -> &'static str {
    match state {
        State::Selecting(_) => "selecting",
        State::Requesting(..) => "requesting",
        State::Bound(_) => "bound",
        State::Renewing(..) => "renewing",
        State::Rebinding(..) => "rebinding",
    }
}

/// Takes a client through a story: when, what happens, where it stands then, what it does, when it is due.
#[track_caller]
fn tell(mut state: State, story: Vec<(u64, Event, &str, Vec<Effect>, u64)>) -> State {
    for (when, event, then, does, due) in story {
        let said = format!("{event:?} at {when}");
        let (next, effects) = state.step(event, at(when));
        assert_eq!(name(&next), then, "{said}");
        assert_eq!(effects, does, "{said}");
        assert_eq!(next.due().as_millis(), u128::from(due) * 1000, "{said}");
        state = next;
    }
    state
}

#[test]
fn an_address_is_got_renewed_rebound_and_lost() {
    let state = State::new(at(1));
    assert_eq!(state.due(), Duration::from_secs(1));
    let state = tell(
        state,
        vec![
            (1, Event::Due, "selecting", vec![DISCOVER], 3),
            (2, offer(), "requesting", vec![SELECT], 4),
            (3, ack(), "bound", vec![Effect::Use(lease(2))], 1802),
            (1802, Event::Due, "renewing", vec![renew(ours())], 1804),
            (1803, ack(), "bound", vec![Effect::Use(lease(1802))], 3602),
            (3602, Event::Due, "renewing", vec![renew(ours())], 3604),
            (3604, Event::Due, "renewing", vec![renew(ours())], 3608),
            (3608, Event::Due, "renewing", vec![renew(ours())], 3616),
            // At leisure: half of what is left until T2 at 4952.
            (3616, Event::Due, "renewing", vec![renew(ours())], 3616 + 668),
            (4284, Event::Due, "renewing", vec![renew(ours())], 4284 + 334),
        ],
    );
    let (state, effects) = state.step(Event::Due, at(4952));
    assert_eq!((name(&state), effects), ("rebinding", vec![renew(To::Everybody)]));
    let (state, effects) = state.step(Event::Due, at(5402));
    assert_eq!(effects, [Effect::Drop(lease(1802), "the lease is over".to_owned())]);
    tell(state, vec![(5402, Event::Due, "selecting", vec![DISCOVER], 5404)]);
}

#[test]
fn nobody_answers() {
    let mut state = State::new(at(0));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let when = state.due();
        let (next, effects) = state.step(Event::Due, Now { at: when, ..at(0) });
        assert_eq!(effects, [DISCOVER]);
        waits.push((next.due() - when).as_secs_f64().round() as u64);
        state = next;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64, 64]);
}

// attack: P17
#[test]
fn a_server_that_does_not_keep_its_offer() {
    let refused = |why: &str| vec![Effect::Refused(why.to_owned())];
    let state = tell(
        State::new(at(0)),
        vec![(0, Event::Due, "selecting", vec![DISCOVER], 2), (0, offer(), "requesting", vec![SELECT], 2)],
    );
    // It refuses: again, after a while.
    tell(state.clone(), vec![(1, nak(), "selecting", refused("no"), 3)]);
    // It is silent.
    tell(
        state.clone(),
        vec![
            (2, Event::Due, "requesting", vec![SELECT], 6),
            (6, Event::Due, "requesting", vec![SELECT], 14),
            (14, Event::Due, "requesting", vec![SELECT], 30),
            (30, Event::Due, "selecting", refused("no answer to a request for its own offer"), 30),
        ],
    );
    // It, or another, grants something else than was asked for.
    let other = Terms { address: [10, 0, 0, 6].into(), ..terms() };
    let stranger = Terms { server: [10, 0, 0, 2].into(), ..terms() };
    for reply in [Reply::Ack(other), Reply::Ack(stranger), Reply::Offer(terms())] {
        tell(state.clone(), vec![(1, Event::Reply(reply), "requesting", vec![], 2)]);
    }
    let foreign = Reply::Nak { server: [10, 0, 0, 2].into(), why: String::new() };
    tell(state, vec![(1, Event::Reply(foreign), "requesting", vec![], 2)]);
}

// attack: P17
#[test]
fn what_was_not_asked_for_changes_nothing() {
    tell(State::new(at(0)), vec![(0, offer(), "selecting", vec![], 0), (0, ack(), "selecting", vec![], 0)]);
    for reply in [offer(), ack(), nak()] {
        tell(State::Bound(lease(0)), vec![(1, reply, "bound", vec![], 1800)]);
    }
}

#[test]
fn a_lease_taken_back_is_dropped() {
    let dropped = vec![Effect::Drop(lease(0), "no".to_owned())];
    for start in [1800, 3150] {
        let (state, _) = State::Bound(lease(0)).step(Event::Due, at(start));
        tell(state, vec![(start, nak(), "selecting", dropped.clone(), start + 2)]);
    }
}

#[test]
fn another_cable_is_asked_about_at_once() {
    tell(
        State::Bound(lease(0)),
        vec![
            (100, Event::Carrier, "rebinding", vec![renew(To::Everybody)], 102),
            (102, Event::Due, "rebinding", vec![renew(To::Everybody)], 106),
            (103, ack(), "bound", vec![Effect::Use(lease(102))], 1902),
        ],
    );
    let (state, _) = State::new(at(0)).step(Event::Due, at(0));
    tell(
        state,
        vec![(1, Event::Carrier, "selecting", vec![], 1), (1, Event::Due, "selecting", vec![DISCOVER], 3)],
    );
}

#[test]
fn the_diagram_has_every_state() {
    let source = include_str!("../client.rs");
    let diagram = source.split("```").nth(1).expect("a diagram");
    for state in ["Selecting", "Requesting", "Bound", "Renewing", "Rebinding"] {
        assert!(diagram.contains(state), "{state}");
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let short = Terms {
        renew: Duration::from_secs(5),
        rebind: Duration::from_secs(8),
        lease: Duration::from_secs(10),
        ..terms()
    };
    prop_oneof![
        4 => Just(Event::Due),
        1 => Just(Event::Carrier),
        2 => Just(offer()),
        2 => Just(ack()),
        1 => Just(nak()),
        1 => Just(Event::Reply(Reply::Ack(short.clone()))),
        1 => Just(Event::Reply(Reply::Offer(short))),
    ]
}

proptest! {
    /// Whatever servers say and whenever: an address is used only while its lease lasts, what is dropped was in use, and
    /// nobody makes us send faster than our waits allow.
    // attack: P17
    #[test]
    fn any_story(events in prop::collection::vec((any_event(), 0_u64..90_000, any::<u64>()), 1..200)) {
        let mut now = Duration::ZERO;
        let mut state = State::new(at(0));
        let mut used: Option<Lease> = None;
        for (event, wait, random) in events {
            // The loop never lets a due time pass.
            let due = state.due();
            let when = (now + Duration::from_millis(wait)).min(due.max(now));
            let event = if when == due { Event::Due } else { event };
            now = when;
            let carrier = event == Event::Carrier;
            let (next, effects) = state.step(event, Now { at: now, random });
            for effect in effects {
                match effect {
                    Effect::Use(lease) => {
                        prop_assert!(now <= lease.since + lease.terms.lease);
                        used = Some(lease);
                    }
                    Effect::Drop(lease, _) => {
                        prop_assert_eq!(used.take(), Some(lease));
                    }
                    Effect::Send(..) => prop_assert!(carrier || next.due() > now, "{:?}", next),
                    Effect::Refused(_) => {}
                }
            }
            if let Some(lease) = &used {
                prop_assert!(now < lease.since + lease.terms.lease || next.due() <= now);
                prop_assert!(next.due() <= lease.since + lease.terms.lease);
            }
            state = next;
        }
    }
}
