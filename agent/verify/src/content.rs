//! The rules about what was booted: the replayed values against the release, and the events against what a pillar's
//! boot looks like. Every value here was proved by the quote before.

use crate::report::Fault;
use pillar_layout::{cmdline, pcr, phase};
use pillar_measure::cel::{CelLog, Kind};
use pillar_measure::hash::{hash, zero};
use pillar_measure::secure_boot::{Authority, Signature, state};
use pillar_measure::tcg::{Event, EventLog, EventType};
use pillar_model::{Bank, DbxEntry, Digest, NodeSettings, PcrIndex, ReleasePredicate, StateReport};
use std::collections::{BTreeMap, BTreeSet};

/// A UUID as text.
const UUID_CHARS: usize = 36;
/// An HMAC-SHA-256 in hexadecimal.
const TAG_CHARS: usize = 64;

/// Everything that the quote proved.
pub(crate) struct Proved<'a> {
    pub(crate) bank: Bank,
    pub(crate) log: &'a EventLog<'a>,
    pub(crate) cel: &'a CelLog,
    /// Values of all quoted PCRs.
    pub(crate) pcrs: &'a BTreeMap<PcrIndex, Digest>,
}

pub(crate) fn index(number: u8) -> Result<PcrIndex, Fault> {
    PcrIndex::new(number).map_err(Fault::new)
}

impl Proved<'_> {
    fn value(&self, number: u8) -> Result<(PcrIndex, &Digest), Fault> {
        let pcr = index(number)?;
        self.pcrs.get(&pcr).map(|v| (pcr, v)).ok_or_else(|| Fault::pcr(pcr, "was not quoted"))
    }

    pub(crate) fn events(&self, number: u8) -> impl Iterator<Item = &Event<'_>> {
        self.log.events.iter().filter(move |e| e.extends() && e.pcr.map(PcrIndex::get) == Some(number))
    }
}

/// The phases that init measured are all of them, in order: the pillar is ready, and nothing else was logged.
pub(crate) fn phases(cel: &CelLog) -> Result<(), Fault> {
    let reached: Vec<&str> = cel
        .records()
        .iter()
        .filter(|r| r.content.event == Kind::Phase)
        .map(|r| r.content.string.as_str())
        .collect();
    if reached == phase::ALL {
        return Ok(());
    }
    let pcr = index(pcr::UKI)?;
    let reason = if phase::ALL.starts_with(&reached) {
        let last = reached.last().copied().unwrap_or("none");
        format!("the boot is not complete: its last phase is {last}, {} comes last", phase::READY)
    } else {
        format!("phases are {reached:?}, must be {:?}", phase::ALL)
    };
    Err(Fault::pcr(pcr, reason))
}

/// The release whose predictions all hold; when none does, what differs from the one that comes nearest.
pub(crate) fn release<'r>(
    proved: &Proved<'_>,
    releases: &[&'r ReleasePredicate],
) -> Result<&'r ReleasePredicate, Fault> {
    let mut nearest: Option<(usize, Fault)> = None;
    for release in releases {
        match first_difference(proved, release) {
            Ok(()) => return Ok(release),
            Err((held, fault)) => {
                if nearest.as_ref().is_none_or(|(most, _)| held > *most) {
                    nearest = Some((held, fault));
                }
            }
        }
    }
    Err(nearest.map_or_else(|| Fault::new("policy has no release"), |(_, fault)| fault))
}

/// Compares PCR 4, 9 and 11; an error has the number of those that hold, and the first that does not.
fn first_difference(proved: &Proved<'_>, release: &ReleasePredicate) -> Result<(), (usize, Fault)> {
    let bank = proved.bank;
    let Some(prediction) = release.pcrs.get(&bank) else {
        return Err((0, Fault::new(format!("release {} predicts nothing in {bank}", release.version))));
    };
    let fixed = |number: u8| PcrIndex::new(number).ok().and_then(|i| prediction.fixed.get(&i));
    let ready = prediction.uki_after_phase.get(phase::READY);
    let expected = [
        (pcr::BOOT_APPLICATIONS, fixed(pcr::BOOT_APPLICATIONS)),
        (pcr::KERNEL, fixed(pcr::KERNEL)),
        (pcr::UKI, ready),
    ];
    let (mut held, mut first) = (0, None);
    for (number, expected) in expected {
        match difference(proved, release, number, expected) {
            Ok(()) => held += 1,
            Err(fault) => {
                first.get_or_insert(fault);
            }
        }
    }
    if let Err(fault) = root_hash(proved, release) {
        first.get_or_insert(fault);
    }
    first.map_or(Ok(()), |fault| Err((held, fault)))
}

/// The release's root hash is the one in its command line, and that command line is the one that was measured:
/// otherwise the release says one thing and predicts another.
fn root_hash(proved: &Proved<'_>, release: &ReleasePredicate) -> Result<(), Fault> {
    let prefix = format!("{}=", cmdline::ROOT_HASH);
    let named: Vec<&str> =
        release.cmdline.split_ascii_whitespace().filter_map(|w| w.strip_prefix(prefix.as_str())).collect();
    let version = &release.version;
    if named != [release.root_hash.to_string()] {
        return Err(Fault::new(format!(
            "release {version} has the root hash {}, its command line names {named:?}",
            release.root_hash
        )));
    }
    let (pcr, _) = proved.value(pcr::KERNEL)?;
    let measured = proved.events(pcr::KERNEL).next().and_then(|e| e.digest(proved.bank));
    if measured != Some(load_options(proved.bank, release)) {
        return Err(Fault::pcr(
            pcr,
            format!("release {version} names another command line than was measured"),
        ));
    }
    Ok(())
}

/// The kernel's load options as its EFI stub measures them: UTF-16, with the NUL.
fn load_options(bank: Bank, release: &ReleasePredicate) -> Digest {
    let options: Vec<u8> =
        release.cmdline.trim().encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    hash(bank, &[&options])
}

fn difference(
    proved: &Proved<'_>,
    release: &ReleasePredicate,
    number: u8,
    expected: Option<&Digest>,
) -> Result<(), Fault> {
    let (pcr, found) = proved.value(number)?;
    let version = &release.version;
    let Some(expected) = expected else {
        return Err(Fault::pcr(pcr, format!("release {version} does not predict it")));
    };
    if found == expected {
        return Ok(());
    }
    let (event, what) = match number {
        pcr::BOOT_APPLICATIONS => other_application(proved, release),
        pcr::KERNEL => other_kernel_input(proved, release),
        _ => (None, other_section(proved, release)),
    };
    let fault = Fault::pcr(pcr, format!("is {found}, release {version} predicts {expected}: {what}"));
    Err(match event {
        Some(event) => fault.at(event),
        None => fault,
    })
}

/// Which program of PCR 4 is not the release's.
fn other_application(proved: &Proved<'_>, release: &ReleasePredicate) -> (Option<usize>, String) {
    let mut expected = release.boot_applications.iter();
    for event in
        proved.events(pcr::BOOT_APPLICATIONS).filter(|e| e.event_type == EventType::BootServicesApplication)
    {
        let number = event.number;
        let Some(application) = expected.next() else {
            return (Some(number), format!("event {number} starts a program more than the release does"));
        };
        let digest = event.digest(proved.bank);
        if digest.as_ref() != application.authenticode.get(&proved.bank) {
            let digest = digest.map(|d| d.to_string()).unwrap_or_default();
            return (Some(number), format!("event {number} starts another {} ({digest})", application.name));
        }
    }
    match expected.next() {
        Some(missing) => (None, format!("the {} was not started", missing.name)),
        None => (None, "an event besides the programs differs".into()),
    }
}

/// Which of the kernel's inputs is not the release's: its command line, or else the initrd.
fn other_kernel_input(proved: &Proved<'_>, release: &ReleasePredicate) -> (Option<usize>, String) {
    let expected = load_options(proved.bank, release);
    let mut events = proved.events(pcr::KERNEL);
    match (events.next(), events.next()) {
        (Some(first), _) if first.digest(proved.bank) != Some(expected) => {
            (Some(first.number), format!("event {} has another command line", first.number))
        }
        (Some(_), Some(second)) => {
            (Some(second.number), format!("event {} has another initrd", second.number))
        }
        _ => (None, "the kernel did not measure its command line and initrd".into()),
    }
}

/// From where on PCR 11 is not the release's.
fn other_section(proved: &Proved<'_>, release: &ReleasePredicate) -> String {
    let after = release.pcrs.get(&proved.bank).map(|p| &p.uki_after_phase);
    let mut value = BTreeMap::new();
    if let (Some(pcrs), Ok(pcr)) = (proved.log.replay(proved.bank), PcrIndex::new(pcr::UKI)) {
        value.insert(pcr, pcrs.get(&pcr).cloned().unwrap_or_else(|| zero(proved.bank)));
    }
    let first = phase::ALL.first().copied().unwrap_or_default();
    let digest = hash(proved.bank, &[first.as_bytes()]);
    for value in value.values_mut() {
        pillar_measure::hash::extend(proved.bank, value, &digest);
        if after.and_then(|a| a.get(first)) != Some(value) {
            return "a section of the UKI (kernel, initrd, command line, os-release …) is another".into();
        }
    }
    "the UKI is the release's, the phases behind it are not".into()
}

/// PCR 12 and 14 are untouched; PCR 13 holds nothing but the node settings, which are returned. No firmware event is in
/// PCR 15.
pub(crate) fn additions(proved: &Proved<'_>) -> Result<Option<String>, Fault> {
    for number in [pcr::OVERRIDES, pcr::NODE, 14, pcr::IDENTITY] {
        let (pcr, value) = proved.value(number)?;
        if let Some(event) = proved.events(number).next() {
            let what = match number {
                pcr::OVERRIDES => "a command line or add-on from outside the UKI",
                pcr::NODE => "an extension image",
                _ => "something that a pillar's boot does not have",
            };
            let reason = format!("event {} ({}) adds {what}", event.number, event.event_type);
            return Err(Fault::pcr(pcr, reason).at(event.number));
        }
        if ![pcr::NODE, pcr::IDENTITY].contains(&number) && *value != zero(proved.bank) {
            return Err(Fault::pcr(pcr, "is not zero"));
        }
    }
    let mut settings = proved.cel.records().iter().filter(|r| r.content.event == Kind::NodeSettings);
    let (first, second) = (settings.next(), settings.next());
    let pcr = index(pcr::NODE)?;
    if second.is_some() {
        return Err(Fault::pcr(pcr, "node settings were measured twice"));
    }
    let Some(record) = first else { return Ok(None) };
    serde_json::from_str::<NodeSettings>(&record.content.string)
        .map_err(|e| Fault::pcr(pcr, format!("node settings are not understood: {e}")))?;
    Ok(Some(record.content.string.clone()))
}

/// What init measured about the state volume, once: the volume by UUID and HMAC of its key, or that none is open.
pub(crate) fn state_volume(proved: &Proved<'_>) -> Result<String, Fault> {
    let mut records = proved.cel.records().iter().filter(|r| r.content.event == Kind::StateVolume);
    let (first, second) = (records.next(), records.next());
    let pcr = index(pcr::IDENTITY)?;
    let Some(record) = first else {
        return Err(Fault::pcr(pcr, "is not extended: the state volume's key can still be unsealed"));
    };
    if second.is_some() {
        return Err(Fault::pcr(pcr, "a state volume was measured twice"));
    }
    let text = record.content.string.as_str();
    let is_volume = text.split_once(' ').is_some_and(|(uuid, tag)| {
        uuid.len() == UUID_CHARS && tag.len() == TAG_CHARS && tag.bytes().all(|b| b.is_ascii_hexdigit())
    });
    if text != StateReport::NONE && !is_volume {
        return Err(Fault::pcr(pcr, format!("what was measured names no state volume: {text:?}")));
    }
    Ok(text.to_owned())
}

/// Secure Boot is on, with exactly the release's certificates, dbx forbids at least what it must, and db's key is what
/// let everything start.
pub(crate) fn secure_boot(
    proved: &Proved<'_>,
    release: &ReleasePredicate,
    dbx_required: &[DbxEntry],
) -> Result<(), Fault> {
    let pcr = index(pcr::SECURE_BOOT)?;
    let refuse = |reason: String| Err(Fault::pcr(pcr, reason));
    let state = state(proved.log, proved.bank).map_err(|e| Fault::pcr(pcr, e))?;
    if !state.enabled {
        return refuse("Secure Boot is off".into());
    }
    let keys = &release.secure_boot;
    for (name, found, expected) in
        [("PK", &state.pk, &keys.pk), ("KEK", &state.kek, &keys.kek), ("db", &state.db, &keys.db)]
    {
        if found.as_slice() != [Signature::Certificate(expected.clone())] {
            return refuse(format!(
                "{name} holds {}, must hold the certificate {expected} alone",
                list(found)
            ));
        }
    }
    let lacking = lacking(&state.dbx, dbx_required);
    if let Some(first) = lacking.first() {
        let (lacks, required) = (lacking.len(), dbx_required.len());
        return refuse(format!(
            "dbx lacks {lacks} of the {required} entries that it must have: {first} first"
        ));
    }
    if !state.others.is_empty() {
        return refuse("a timestamp or recovery database is not empty".into());
    }
    if let Some(remark) = state.remarks.first() {
        return refuse(format!("firmware says {remark:?}"));
    }
    if state.authorities.is_empty() {
        return refuse("no program was started by leave of db".into());
    }
    match state.authorities.iter().find(|a| **a != Authority::Certificate(keys.db.clone())) {
        Some(other) => refuse(format!("a program was started by leave of {}", authority(other))),
        None => Ok(()),
    }
}

/// What a dbx must forbid and does not. A digest counts as what it is the digest of, and as nothing else.
fn lacking<'d>(dbx: &[Signature], required: &'d [DbxEntry]) -> Vec<&'d DbxEntry> {
    // Most constitutions demand nothing, and a dbx has hundreds of entries.
    if required.is_empty() {
        return Vec::new();
    }
    let sha256 = |digest: &Digest| <[u8; 32]>::try_from(digest.0.as_slice()).ok();
    let there: BTreeSet<DbxEntry> = dbx
        .iter()
        .filter_map(|entry| match entry {
            Signature::Certificate(digest) => sha256(digest).map(DbxEntry::Certificate),
            Signature::ImageSha256(digest) => sha256(digest).map(DbxEntry::Image),
            Signature::Other(_) => None,
        })
        .collect();
    required.iter().filter(|entry| !there.contains(entry)).collect()
}

fn list(signatures: &[Signature]) -> String {
    if signatures.is_empty() {
        return "nothing".into();
    }
    let word = |s: &Signature| match s {
        Signature::Certificate(digest) => format!("certificate {digest}"),
        Signature::ImageSha256(digest) => format!("image {digest}"),
        Signature::Other(_) => "an entry of unknown kind".to_owned(),
    };
    signatures.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn authority(authority: &Authority) -> String {
    match authority {
        Authority::Certificate(digest) => format!("the certificate {digest}"),
        Authority::Other(name) => format!("{name:?}"),
    }
}
