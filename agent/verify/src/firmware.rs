//! The firmware's PCRs against what was pinned. What decides are the values; the events that led to them tell what it is
//! that changed.

use crate::content::{Proved, index};
use crate::report::Fault;
use crate::{FIRMWARE_PCRS, Firmware};
use pillar_measure::tcg::{Event, EventLog};
use pillar_measure::words::words;
use pillar_model::{Bank, FirmwareEvent, FirmwareReference, PcrIndex};

/// Compares.
pub(crate) fn check(proved: &Proved<'_>, firmware: Firmware<'_>) -> Result<((), String), Fault> {
    let Firmware::Pinned(reference) = firmware else {
        return Ok(((), "PCR 0 to 3 and 5 learnt, not compared".into()));
    };
    for number in FIRMWARE_PCRS {
        let pcr = index(number)?;
        match (proved.pcrs.get(&pcr), reference.pcrs.get(&pcr)) {
            (_, None) => return Err(Fault::pcr(pcr, "has no pinned value")),
            (Some(found), Some(pinned)) if found == pinned => {}
            (found, Some(pinned)) => {
                let found = found.map(ToString::to_string).unwrap_or_default();
                return Err(changed(proved, reference, pcr, &format!("is {found}, {pinned} is pinned")));
            }
        }
    }
    Ok(((), "PCR 0 to 3 and 5 are the pinned ones".into()))
}

/// The events of the firmware's PCRs.
pub(crate) fn events(log: &EventLog<'_>, bank: Bank) -> Vec<FirmwareEvent> {
    let named = |event: &Event<'_>| {
        let pcr = event.pcr.filter(|pcr| event.extends() && FIRMWARE_PCRS.contains(&pcr.get()))?;
        let kind = event.event_type.to_string();
        Some(FirmwareEvent { pcr, kind, digest: event.digest(bank)?, words: words(event) })
    };
    log.events.iter().filter_map(named).collect()
}

/// A refusal that names the first event that is another one, as far as the pinned events tell.
fn changed(proved: &Proved<'_>, reference: &FirmwareReference, pcr: PcrIndex, values: &str) -> Fault {
    let before: Vec<&FirmwareEvent> = reference.events.iter().filter(|e| e.pcr == pcr).collect();
    let numbers: Vec<usize> = proved.events(pcr.get()).map(|e| e.number).collect();
    let now = events(proved.log, proved.bank);
    let now: Vec<(&FirmwareEvent, usize)> = now.iter().filter(|e| e.pcr == pcr).zip(numbers).collect();
    if before.is_empty() {
        return Fault::pcr(pcr, values);
    }
    let (event, change) = difference(&before, &now);
    let mut fault = Fault::pcr(pcr, format!("{change} ({values})"));
    fault.event = event;
    fault.changed = Some(change);
    fault
}

/// What is different between the events of one PCR, and the number of the event that shows it.
fn difference(before: &[&FirmwareEvent], now: &[(&FirmwareEvent, usize)]) -> (Option<usize>, String) {
    let same = |(old, new): &(&&FirmwareEvent, &(&FirmwareEvent, usize))| old.digest == new.0.digest;
    let front = before.iter().zip(now).take_while(same).count();
    let (before, now) = (&before[front..], &now[front..]);
    let back = before.iter().rev().zip(now.iter().rev()).take_while(same).count();
    let (before, now) = (&before[..before.len() - back], &now[..now.len() - back]);
    let more = |count: usize| match count {
        0 | 1 => String::new(),
        count => format!(", and {} more differ", count - 1),
    };
    match (before.first(), now.first()) {
        (None, None) => (None, "its events are those of when the pillar was admitted".to_owned()),
        (None, Some((added, number))) => {
            let what = &added.words;
            (
                Some(*number),
                format!("event {number} is new since the pillar was admitted: {what}{}", more(now.len())),
            )
        }
        (Some(missing), None) => {
            let what = &missing.words;
            (
                None,
                format!(
                    "an event is missing that was there when the pillar was admitted: {what}{}",
                    more(before.len())
                ),
            )
        }
        (Some(_), Some((_, number))) if reordered(before, now) => (
            Some(*number),
            format!(
                "its events stand in another order than when the pillar was admitted, from event {number} on"
            ),
        ),
        (Some(old), Some((new, number))) => {
            let what = if old.words == new.words {
                format!("the {} is another than when the pillar was admitted", new.words)
            } else {
                format!("{} stands where {} stood when the pillar was admitted", new.words, old.words)
            };
            let count = before.len().max(now.len());
            (
                Some(*number),
                format!("{what}: event {number}, was {}, is {}{}", old.digest, new.digest, more(count)),
            )
        }
    }
}

fn reordered(before: &[&FirmwareEvent], now: &[(&FirmwareEvent, usize)]) -> bool {
    let mut old: Vec<_> = before.iter().map(|e| &e.digest).collect();
    let mut new: Vec<_> = now.iter().map(|(e, _)| &e.digest).collect();
    old.sort_unstable();
    new.sort_unstable();
    old == new
}
