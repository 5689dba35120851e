//! Two pillars with two chains: where they part, and who signed both decisions for that place. No pillar can make such a
//! thing by itself, and none is accused: the signatures are.

use crate::chain::entry_of;
use crate::session::call;
use crate::words::title;
use pillar_model::{Action, Constitution};
use pillar_quorum::{Envelope, fork, signed_both};
use pillar_wire::client::Connected;
use pillar_wire::proto;

/// Where a chain parts from ours, in words; none when it does not, or its entries cannot be had. Nothing of it is believed
/// but signatures that our own operators made.
pub async fn told(ours: &[Envelope], connected: &mut Connected) -> Option<String> {
    let mut from = 0;
    while from < ours.len() {
        let request = proto::EntriesRequest { from: from as u64 };
        let reply = call("give its entries", connected.client.entries(request)).await.ok()?;
        let theirs: Vec<Envelope> =
            reply.envelopes.iter().map_while(|json| Envelope::parse(json).ok()).collect();
        if theirs.is_empty() {
            return None;
        }
        if let Some(at) = fork(&ours[from..], &theirs) {
            return words(ours, from + at, &theirs[at]);
        }
        from += theirs.len();
    }
    None
}

fn words(ours: &[Envelope], at: usize, theirs: &Envelope) -> Option<String> {
    let our_entry = entry_of(&ours[at]).ok()?;
    let their_title = match entry_of(theirs) {
        Ok(entry) => title(&entry.action),
        Err(_) => "something that cannot be read".to_owned(),
    };
    let both = match in_force_before(ours, at) {
        Some(constitution) => signed_both(&ours[at], theirs, &constitution),
        None => Vec::new(),
    };
    let who = match both.as_slice() {
        [] => "no operator signed both: the other one is not signed as it must be, or of another cluster"
            .to_owned(),
        some => format!("signed both: {}", some.join(", ")),
    };
    Some(format!("entry {at} is \"{}\" here and \"{their_title}\" there; {who}", title(&our_entry.action)))
}

/// The constitution under which an entry was decided; of the first one, its own.
fn in_force_before(chain: &[Envelope], at: usize) -> Option<Constitution> {
    let constitution = |envelope: &Envelope| match entry_of(envelope).ok()?.action {
        Action::Found(constitution) | Action::Amend(constitution) => Some(*constitution),
        _ => None,
    };
    chain[..at.max(1)].iter().rev().find_map(constitution)
}
