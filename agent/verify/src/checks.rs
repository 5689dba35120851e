//! The checks that are about the evidence as a whole, one function each; `verdict.rs` has their order. What was booted is
//! `content.rs`'s and `firmware.rs`'s business.

use crate::content::{self, Proved};
use crate::credential;
use crate::ek::{self, check_ek};
use crate::policy::{EkTrust, Policy, SameTpm, StateVolume};
use crate::quote::attestation_key;
use crate::report::{Fault, Found};
use crate::tpm::{self, Counters, Curve, Public, PublicKey, Quote, Scheme};
use crate::{
    AK_ATTRIBUTES, ATTEST_MAX_BYTES, EXPORTER_BYTES, HEARTBEAT_KEY_BYTES, PUBLIC_MAX_BYTES, SECRET_MAX_BYTES,
    SIGNATURE_MAX_BYTES, SPKI_MAX_BYTES,
};
use pillar_layout::pcr;
use pillar_measure::cel::{self, CelLog};
use pillar_measure::hash::hash;
use pillar_measure::review::review;
use pillar_measure::tcg::{self, EventLog};
use pillar_model::{
    Bank, Binding, DeniedTpmFirmware, Digest, Evidence, PcrIndex, StateReport, TpmMaker, TpmVersion,
};
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;

pub(crate) fn sizes(evidence: &Evidence, binding: &Binding, policy: &Policy<'_>) -> Found<()> {
    let fields = [
        ("attest", evidence.attest.len(), ATTEST_MAX_BYTES),
        ("signature", evidence.signature.len(), SIGNATURE_MAX_BYTES),
        ("AK", evidence.ak_public.len(), PUBLIC_MAX_BYTES),
        ("EK", evidence.ek_public.len(), PUBLIC_MAX_BYTES),
        ("event log", evidence.event_log.len(), tcg::LOG_MAX_BYTES),
        ("own event log", evidence.cel.len(), cel::LOG_MAX_BYTES),
        ("attester's TLS key", binding.attester_spki.len(), SPKI_MAX_BYTES),
    ];
    for (name, len, limit) in fields {
        if len == 0 || len > limit {
            return Err(Fault::new(format!("{name} has {len} bytes; 1 to {limit} are allowed")));
        }
    }
    let certificate = evidence.ek_certificate.len();
    let least = match policy.ek {
        EkTrust::Chain { .. } => 1,
        EkTrust::Row { .. } => 0,
    };
    if !(least..=ek::CERTIFICATE_MAX_BYTES).contains(&certificate) {
        let limit = ek::CERTIFICATE_MAX_BYTES;
        return Err(Fault::new(format!(
            "EK certificate has {certificate} bytes; {least} to {limit} are allowed"
        )));
    }
    let heartbeat_key = evidence.heartbeat_key.len();
    if ![0, HEARTBEAT_KEY_BYTES].contains(&heartbeat_key) {
        return Err(Fault::new(format!(
            "heartbeat key has {heartbeat_key} bytes; none or {HEARTBEAT_KEY_BYTES} are allowed"
        )));
    }
    if evidence.activated.len() > SECRET_MAX_BYTES || binding.verifier_spki.len() > SPKI_MAX_BYTES {
        return Err(Fault::new("activation secret or verifier's TLS key is too long"));
    }
    if binding.exporter.len() != EXPORTER_BYTES {
        return Err(Fault::new(format!(
            "TLS exporter has {} bytes, not {EXPORTER_BYTES}",
            binding.exporter.len()
        )));
    }
    if !matches!(policy.bank, Bank::Sha256 | Bank::Sha384) {
        return Err(Fault::new(format!("policy's bank {} is none of sha256 and sha384", policy.bank)));
    }
    if policy.releases.is_empty() || policy.releases.len() > 2 {
        return Err(Fault::new(format!(
            "policy has {} releases; one or two are allowed",
            policy.releases.len()
        )));
    }
    Ok(((), format!("event log {} bytes, own log {} bytes", evidence.event_log.len(), evidence.cel.len())))
}

pub(crate) fn structures(evidence: &Evidence) -> Found<(Quote, Public, Public)> {
    let quote = Quote::parse(&evidence.attest)?;
    let ak = attestation_key(&evidence.ak_public)?;
    tpm::Signature::parse(&evidence.signature, &ak.key)
        .map_err(|e| Fault::new(format!("TPMT_SIGNATURE {e}")))?;
    let ek = credential::storage_key(&evidence.ek_public)?;
    if !credential::is_default_template(&ek) {
        return Err(Fault::new("EK is of none of the TCG's default templates"));
    }
    Ok(((quote, ak, ek), "a quote, its signature, AK and EK".into()))
}

pub(crate) fn attestation_key_of_a_pillar(ak: &Public) -> Found<()> {
    let key = matches!(ak.key, PublicKey::Ecc { curve: Curve::P256, .. });
    if !key || ak.scheme != Some(Scheme::Ecdsa(Bank::Sha256)) || ak.name_alg != Bank::Sha256 {
        return Err(Fault::new("AK is not an ECC P-256 key that signs with ECDSA and SHA-256"));
    }
    if ak.attributes != AK_ATTRIBUTES || !ak.auth_policy.is_empty() {
        let found = ak.attributes;
        return Err(Fault::new(format!("AK has attributes {found:#x}, the template has {AK_ATTRIBUTES:#x}")));
    }
    Ok(((), format!("P-256, restricted, fixed to its TPM, name {}", hex::encode(ak.name()))))
}

/// Who vouches for the EK, and whose TPM it is.
pub(crate) struct Endorsed {
    pub(crate) issuers: Vec<String>,
    pub(crate) maker: Option<TpmMaker>,
}

pub(crate) fn ek_certificate(evidence: &Evidence, ek: &Public, policy: &Policy<'_>) -> Found<Endorsed> {
    match policy.ek {
        EkTrust::Chain { roots, intermediates, allowed, now_unix_s } => {
            let digest = hash(Bank::Sha256, &[&evidence.ek_public]);
            if !allowed.is_empty() && !allowed.contains(&digest) {
                return Err(Fault::new(format!(
                    "EK {digest} is not on the list of those that alone are trusted"
                )));
            }
            let issuers = check_ek(&evidence.ek_certificate, &ek.key, roots, intermediates, now_unix_s)?;
            let words = format!("for this EK, issued by {}", issuers.join(" ← "));
            // It parsed; who made the TPM is in what the issuer signed.
            Ok((Endorsed { issuers, maker: ek::tpm_maker(&evidence.ek_certificate) }, words))
        }
        EkTrust::Row { ek_public, maker } if ek_public == evidence.ek_public => {
            let endorsed = Endorsed { issuers: Vec::new(), maker };
            Ok((endorsed, "the EK is the enrolled one, whose certificate was checked then".into()))
        }
        EkTrust::Row { .. } => Err(Fault::new("the EK is another than the enrolled one")),
    }
}

pub(crate) fn same_tpm(evidence: &Evidence, ak: &Public, policy: &Policy<'_>) -> Found<()> {
    match policy.same_tpm {
        SameTpm::Activated([]) | SameTpm::PinnedAk([]) => Err(Fault::new("policy expects nothing")),
        SameTpm::Activated(secret) if bool::from(evidence.activated.ct_eq(secret)) => {
            Ok(((), "the TPM of the EK gave back the secret for this AK".into()))
        }
        SameTpm::Activated(_) => Err(Fault::new("the secret for EK and AK did not come back")),
        SameTpm::PinnedAk(name) if name == ak.name() => Ok(((), "the AK is the pinned one".into())),
        SameTpm::PinnedAk(name) => {
            let (found, pinned) = (hex::encode(ak.name()), hex::encode(name));
            Err(Fault::new(format!("AK's name is {found}, {pinned} is pinned")))
        }
    }
}

/// Nothing that only counts up may have gone down (TPM 2.0 part 1, section 36), and on a live session the TPM was not
/// reset.
pub(crate) fn counters(now: Counters, policy: &Policy<'_>) -> Found<()> {
    if let Some(before) = policy.previous {
        only_up(now, before)?;
    }
    if let Some(opened) = policy.session {
        same_boot(now, opened)?;
    }
    let safe = if now.safe { "" } else { "; the clock was not stopped cleanly before" };
    let words = format!(
        "clock {} ms, {} resets, {} restarts{safe}",
        now.clock_ms, now.reset_count, now.restart_count
    );
    Ok(((), words))
}

/// The quote tells the version, the EK's certificate or the row the maker: one without the other says nothing.
pub(crate) fn tpm_firmware(now: Counters, maker: Option<TpmMaker>, policy: &Policy<'_>) -> Found<()> {
    denied_tpm_firmware(policy.denied_tpm_firmware, maker, now.tpm_version())?;
    let maker = maker.map_or_else(|| "a maker that is not known".to_owned(), |maker| maker.to_string());
    let words = match policy.denied_tpm_firmware.len() {
        0 => "none is denied".to_owned(),
        1 => "not what is denied".to_owned(),
        some => format!("none of {some} that are denied"),
    };
    Ok(((), format!("{} by {maker}; {words}", now.tpm_version())))
}

/// Whether TPM firmware is denied, and then why in words. When the maker is not known it could be anybody's, and a
/// version that is denied of one maker is denied.
pub fn denied_tpm_firmware(
    denied: &[DeniedTpmFirmware],
    maker: Option<TpmMaker>,
    version: TpmVersion,
) -> Result<(), DeniedFirmware> {
    match denied.iter().find(|range| range.covers(maker, version)) {
        Some(range) => Err(DeniedFirmware { version, range: *range, known: maker.is_some() }),
        None => Ok(()),
    }
}

/// A TPM's firmware is one of those that are denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TPM firmware {version} is denied ({range}){}", if *known { "" } else { "; who made this TPM is not known" })]
pub struct DeniedFirmware {
    version: TpmVersion,
    range: DeniedTpmFirmware,
    known: bool,
}

fn only_up(now: Counters, before: Counters) -> Result<(), Fault> {
    let went_back =
        |what: &str, from: u64, to: u64| Err(Fault::new(format!("{what} went back from {from} to {to}")));
    if now.firmware_version < before.firmware_version {
        let (from, to) = (before.tpm_version(), now.tpm_version());
        return Err(Fault::new(format!("TPM firmware version went back from {from} to {to}")));
    }
    if now.reset_count < before.reset_count {
        return went_back("reset counter", before.reset_count.into(), now.reset_count.into());
    }
    let same_reset = now.reset_count == before.reset_count;
    if same_reset && now.restart_count < before.restart_count {
        return went_back("restart counter", before.restart_count.into(), now.restart_count.into());
    }
    // Over a reset without notice the clock may lose what it had not stored yet; then it says so itself.
    if now.clock_ms < before.clock_ms && (same_reset || now.safe) {
        return went_back("clock", before.clock_ms, now.clock_ms);
    }
    Ok(())
}

/// A TPM that was reset under a running system can be extended with any golden values: its counters tell.
fn same_boot(now: Counters, opened: Counters) -> Result<(), Fault> {
    let moved = |what: &str, from: u64, to: u64| {
        let reason = format!("{what} moved from {from} to {to}: the TPM was reset since the session began");
        Err(Fault::new(reason))
    };
    if now.reset_count != opened.reset_count {
        return moved("reset counter", opened.reset_count.into(), now.reset_count.into());
    }
    if now.restart_count != opened.restart_count {
        return moved("restart counter", opened.restart_count.into(), now.restart_count.into());
    }
    if now.firmware_version != opened.firmware_version {
        let (from, to) = (opened.tpm_version(), now.tpm_version());
        let reason = format!("TPM firmware version moved from {from} to {to} in one session");
        return Err(Fault::new(reason));
    }
    if now.clock_ms < opened.clock_ms {
        let (from, to) = (opened.clock_ms, now.clock_ms);
        return Err(Fault::new(format!("clock went back from {from} to {to} in one session")));
    }
    Ok(())
}

pub(crate) fn logs(evidence: &Evidence) -> Found<(EventLog<'_>, CelLog)> {
    let log = EventLog::parse(&evidence.event_log).map_err(|error| {
        let fault = Fault::new(&error);
        match error {
            tcg::Error::Event { number, .. } => fault.at(number),
            _ => fault,
        }
    })?;
    let cel = CelLog::parse(&evidence.cel).map_err(|e| Fault::new(format!("own log: {e}")))?;
    let words = format!(
        "{} events of firmware, loader and kernel, {} of init",
        log.events.len(),
        cel.records().len()
    );
    Ok(((log, cel), words))
}

pub(crate) fn replay(
    log: &EventLog<'_>,
    cel: &CelLog,
    quote: &Quote,
    bank: Bank,
) -> Found<BTreeMap<PcrIndex, Digest>> {
    let Some(mut replayed) = log.replay(bank) else {
        return Err(Fault::new(format!("the firmware's log has no {bank} digests")));
    };
    if !cel.replay_onto(bank, &mut replayed) {
        return Err(Fault::new(format!("init's log has a record without a {bank} digest")));
    }
    let mut pcrs = BTreeMap::new();
    for number in pcr::QUOTED {
        let index = content::index(number)?;
        pcrs.insert(index, replayed.remove(&index).unwrap_or_else(|| log.initial(index, bank)));
    }
    let values: Vec<&[u8]> = pcrs.values().map(|v| v.0.as_slice()).collect();
    // The quote's digest is made with the hash of the signing scheme: SHA-256 for every AK of a pillar.
    if hash(Bank::Sha256, &values) != quote.pcr_digest {
        return Err(Fault::new(
            "the logs do not lead to the quoted PCR values: something was extended that no event explains, or an event \
             was changed, added or left out",
        ));
    }
    Ok((pcrs, "every quoted value follows from the events".into()))
}

pub(crate) fn events(proved: &Proved<'_>, policy: &Policy<'_>) -> Found<()> {
    let pcrs: Vec<PcrIndex> = proved.pcrs.keys().copied().collect();
    review(proved.log, proved.bank, &pcrs, policy.exit_boot_services).map_err(|objection| Fault {
        pcr: objection.pcr,
        event: (objection.number != 0).then_some(objection.number),
        reason: match objection.pcr {
            Some(pcr) => format!("PCR {pcr}: {objection}"),
            None => objection.to_string(),
        },
        changed: None,
    })?;
    content::phases(proved.cel)?;
    Ok(((), "only events that belong there, in order; every phase up to ready".into()))
}

pub(crate) fn state(proved: &Proved<'_>, policy: StateVolume<'_>) -> Found<String> {
    let measured = content::state_volume(proved)?;
    let pcr = content::index(pcr::IDENTITY)?;
    let uuid = measured.split(' ').next().unwrap_or_default().to_owned();
    let words = match policy {
        _ if measured == StateReport::NONE => match policy {
            StateVolume::Any => "is not open; nothing unseals its key in this boot".to_owned(),
            _ => return Err(Fault::pcr(pcr, "no state volume is open: the pillar started without its data")),
        },
        StateVolume::Pinned(pinned) if pinned != measured => {
            let pinned = pinned.split(' ').next().unwrap_or_default();
            let reason = if pinned == uuid {
                format!("the state volume {uuid} has another key than the pinned one: a look-alike")
            } else {
                format!("the state volume is {uuid}, {pinned} is pinned")
            };
            return Err(Fault::pcr(pcr, reason));
        }
        StateVolume::Pinned(_) => format!("{uuid}, the pinned one; PCR 15 is closed"),
        StateVolume::Learn | StateVolume::Any => format!("{uuid}, learnt; PCR 15 is closed"),
    };
    Ok((measured, words))
}
