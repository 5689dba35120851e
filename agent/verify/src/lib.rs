//! Evidence to verdict: one pure function, [`verify`], from what a pillar sent, what the verifier knows of its own
//! connection, and a policy, to a proof type that nothing else can make, or a reason.
//!
//! No files, no sockets, no clock, no randomness of its own, no TPM, no panic, and no default that accepts: what is
//! not understood is a [`Rejection`]. The checks and their order are [`Check::ALL`].
#![forbid(unsafe_code)]

mod certify;
mod content;
mod credential;
pub mod ear;
mod ek;
mod firmware;
mod quote;
mod read;
mod report;
pub mod tpm;

pub use certify::{TLS_CERTIFY_DATA, TlsKeyError, certified_key, tls_key};
pub use credential::{Credential, CredentialError, SECRET_MAX_BYTES, make_credential};
pub use ek::{EkError, check_ek};
pub use pillar_measure::review::ExitBootServices;
pub use quote::{QuoteError, attestation_key, check_nonce, check_quote, check_selection, check_signature};
pub use read::Malformed;
pub use report::{Check, CheckResult, Rejection, Report, Verdict};
pub use tpm::{Counters, evidence_selection};

use content::Proved;
use pillar_layout::pcr;
use pillar_measure::cel::{self, CelLog};
use pillar_measure::hash::hash;
use pillar_measure::review::review;
use pillar_measure::tcg::{self, EventLog};
use pillar_model::{
    Bank, Binding, Digest, Evidence, FirmwareReference, PcrIndex, ReleasePredicate, Role, RootHash,
    StateReport,
};
use report::Fault;
use std::collections::BTreeMap;
use std::fmt;
use subtle::ConstantTimeEq;
use tpm::{Curve, Public, PublicKey, Quote, Scheme, attribute};

/// Label of the TLS exporter (RFC 8446 section 7.5) that ties evidence to one connection: 32 bytes, no context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-pillar-attest-v1";
/// Bytes of that exporter.
pub const EXPORTER_BYTES: usize = 32;

/// What qualifying data begins with, so that a quote for anything else never fits.
const QUALIFYING_LABEL: &[u8] = b"pillar-attest-v1";

/// The largest `TPMS_ATTEST`; a quote of one bank has 145 bytes with SHA-256.
pub const ATTEST_MAX_BYTES: usize = 1024;
/// The largest `TPMT_SIGNATURE`; RSA-4096 has 518 bytes.
pub const SIGNATURE_MAX_BYTES: usize = 1024;
/// The largest `TPMT_PUBLIC`.
pub const PUBLIC_MAX_BYTES: usize = 1024;
/// The largest SubjectPublicKeyInfo of a TLS certificate.
pub const SPKI_MAX_BYTES: usize = 1024;
/// Bytes of the Ed25519 key that signs heartbeats, where there is one.
pub const HEARTBEAT_KEY_BYTES: usize = 32;

/// Attributes of a pillar's AK, exactly (`agent/tpm` makes it).
pub const AK_ATTRIBUTES: u32 = attribute::FIXED_TPM
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::USER_WITH_AUTH
    | attribute::NO_DA
    | attribute::RESTRICTED
    | attribute::SIGN;

/// PCRs of the firmware and its settings: learnt, then pinned per machine.
pub const FIRMWARE_PCRS: [u8; 5] = [0, 1, 2, 3, 5];

/// What the verifier demands.
#[derive(Debug, Clone)]
pub struct Policy<'a> {
    /// What the pillar may run: one release, or the committed and the trial one.
    pub releases: &'a [&'a ReleasePredicate],
    /// The PCR bank; SHA-1 is refused.
    pub bank: Bank,
    /// Why the EK is believed to be a TPM's.
    pub ek: EkTrust<'a>,
    /// How it is known that the AK is in the TPM of the EK.
    pub same_tpm: SameTpm<'a>,
    /// What the firmware's PCRs must be.
    pub firmware: Firmware<'a>,
    /// What the state volume must be.
    pub state: StateVolume<'a>,
    /// Whether the firmware's log must end with the end of the boot services.
    pub exit_boot_services: ExitBootServices,
    /// TPM firmware versions, as quotes tell them, that are known to be broken.
    pub denied_tpm_firmware: &'a [u64],
    /// Clock and counters of this pillar's last accepted evidence, perhaps of an earlier boot: they only count up.
    pub previous: Option<Counters>,
    /// Clock and counters of the evidence that opened the session on which this evidence came: the TPM was not reset
    /// since, so that both counters are the same.
    pub session: Option<Counters>,
}

/// Why the EK is believed to be a TPM's.
#[derive(Debug, Clone, Copy)]
pub enum EkTrust<'a> {
    /// A manufacturer's certificate says so.
    Chain {
        /// Roots of the TPM manufacturers that are trusted, as DER.
        roots: &'a [Vec<u8>],
        /// Certificates between them and the EKs', as DER. Not trusted by themselves.
        intermediates: &'a [Vec<u8>],
        /// SHA-256 of the `TPMT_PUBLIC` of the EKs that alone are trusted; empty: every one with a good certificate.
        allowed: &'a [Digest],
        /// Now, in seconds since 1970, for the certificates' dates.
        now_unix_s: u64,
    },
    /// It is the enrolled one, whose certificate was checked when its machine was admitted. The evidence need not bring
    /// the certificate; one that it brings is not looked at.
    Row {
        /// The row's EK, as `TPMT_PUBLIC`.
        ek_public: &'a [u8],
    },
}

/// How it is known that the AK is in the TPM of the EK.
#[derive(Debug, Clone, Copy)]
pub enum SameTpm<'a> {
    /// The TPM gave back this secret, which was wrapped by [`make_credential`] for the EK and the AK's name.
    Activated(&'a [u8]),
    /// The AK has this name, which an earlier activation proved (enrolled machines, offline verification).
    PinnedAk(&'a [u8]),
}

/// What the firmware's PCRs ([`FIRMWARE_PCRS`]) must be.
#[derive(Debug, Clone, Copy)]
pub enum Firmware<'a> {
    /// Anything that the log explains; the values are returned, to be pinned.
    Learn,
    /// These values: all of the PCRs must be named. With its events a change can be named as well.
    Pinned(&'a FirmwareReference),
}

/// What the state volume must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateVolume<'a> {
    /// Open; which one is returned, to be pinned.
    Learn,
    /// The one that was measured with this text: another one is a look-alike, or the pillar's was erased.
    Pinned(&'a str),
    /// Open or not: for those who come to recover it.
    Any,
}

/// Proof that evidence passed every check: made by [`verify`] alone, never stored and read back.
#[derive(Debug)]
pub struct Verified {
    version: String,
    flavour: String,
    root_hash: RootHash,
    bank: Bank,
    ak_name: Vec<u8>,
    ek_issuers: Vec<String>,
    counters: Counters,
    pcrs: BTreeMap<PcrIndex, Digest>,
    /// Kept for its events, which are put into words when somebody wants them.
    event_log: Log,
    node_settings: Option<String>,
    state_volume: String,
    heartbeat_key: Vec<u8>,
}

/// Bytes that nobody wants to see in a debug print.
struct Log(Vec<u8>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Verified {
    /// Version of the release that runs.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its flavour.
    #[must_use]
    pub fn flavour(&self) -> &str {
        &self.flavour
    }

    /// Root hash of the release that runs.
    #[must_use]
    pub fn root_hash(&self) -> RootHash {
        self.root_hash
    }

    /// The bank that was verified.
    #[must_use]
    pub fn bank(&self) -> Bank {
        self.bank
    }

    /// Name of the AK: what to pin.
    #[must_use]
    pub fn ak_name(&self) -> &[u8] {
        &self.ak_name
    }

    /// Issuers of the EK certificate, nearest first.
    #[must_use]
    pub fn ek_issuers(&self) -> &[String] {
        &self.ek_issuers
    }

    /// Clock and counters: what to give as `previous` next time.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All quoted PCRs.
    #[must_use]
    pub fn pcrs(&self) -> &BTreeMap<PcrIndex, Digest> {
        &self.pcrs
    }

    /// The firmware's PCRs with their events: what to pin.
    #[must_use]
    pub fn firmware(&self) -> FirmwareReference {
        let firmware = self.pcrs.iter().filter(|(pcr, _)| FIRMWARE_PCRS.contains(&pcr.get()));
        let pcrs = firmware.map(|(pcr, value)| (*pcr, value.clone())).collect();
        // It parsed when it was verified.
        let events = EventLog::parse(&self.event_log.0).map(|log| firmware::events(&log, self.bank));
        FirmwareReference { pcrs, events: events.unwrap_or_default() }
    }

    /// The state volume as measured: what to pin.
    #[must_use]
    pub fn state_volume(&self) -> &str {
        &self.state_volume
    }

    /// The node settings as measured (JSON), when there are any.
    #[must_use]
    pub fn node_settings(&self) -> Option<&str> {
        self.node_settings.as_deref()
    }

    /// The Ed25519 key that signs this pillar's heartbeats; empty when the evidence named none.
    #[must_use]
    pub fn heartbeat_key(&self) -> &[u8] {
        &self.heartbeat_key
    }
}

/// What a quote must have signed: the challenge, this connection with both ends' keys, both logs, and the key of the
/// heartbeats (empty, or [`HEARTBEAT_KEY_BYTES`]).
#[must_use]
pub fn qualifying_data(binding: &Binding, event_log: &[u8], cel: &[u8], heartbeat_key: &[u8]) -> [u8; 32] {
    let sha256 = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let role = match binding.role {
        Role::Server => 0,
        Role::Client => 1,
    };
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(QUALIFYING_LABEL);
    context.update(&[0, role]);
    context.update(&binding.nonce.0);
    // Lengths over 4 GiB do not exist in memory that a handshake filled; `verify` demands 32 bytes.
    context.update(&u32::try_from(binding.exporter.len()).unwrap_or(u32::MAX).to_be_bytes());
    context.update(&binding.exporter);
    for bytes in [&binding.attester_spki, &binding.verifier_spki, event_log, cel, heartbeat_key] {
        context.update(sha256(bytes).as_ref());
    }
    let mut data = [0; 32];
    data.copy_from_slice(context.finish().as_ref());
    data
}

/// Name of a key (TPM 2.0 part 1, section 16) from its `TPMT_PUBLIC`: SHA-256's or SHA-384's number, then that hash.
pub fn ak_name(ak_public: &[u8]) -> Result<Vec<u8>, Malformed> {
    Public::parse(ak_public).map(|key| key.name().to_vec())
}

/// Judges evidence.
pub fn verify(evidence: &Evidence, binding: &Binding, policy: &Policy<'_>) -> Result<Verified, Rejection> {
    judge(evidence, binding, policy).1
}

/// Judges evidence, and tells how each check ended. The report comes from the same run as the verdict.
pub fn judge(
    evidence: &Evidence,
    binding: &Binding,
    policy: &Policy<'_>,
) -> (Report, Result<Verified, Rejection>) {
    let mut run = Run { report: Report::new() };
    let result = run.all(evidence, binding, policy);
    (run.report, result)
}

struct Run {
    report: Report,
}

/// What a check found, and the words for it.
type Found<T> = Result<(T, String), Fault>;

impl Run {
    fn check<T>(&mut self, check: Check, found: impl FnOnce() -> Found<T>) -> Result<T, Rejection> {
        match found() {
            Ok((value, words)) => {
                self.report.set(check, Verdict::Passed, words);
                Ok(value)
            }
            Err(Fault { pcr, event, reason, changed }) => {
                self.report.set(check, Verdict::Failed, reason.clone());
                Err(Rejection { check, pcr, event, reason, changed, hint: check.hint() })
            }
        }
    }

    fn all(
        &mut self,
        evidence: &Evidence,
        binding: &Binding,
        policy: &Policy<'_>,
    ) -> Result<Verified, Rejection> {
        self.check(Check::Sizes, || sizes(evidence, binding, policy))?;
        let (quote, ak, ek) = self.check(Check::Structures, || structures(evidence))?;
        self.check(Check::AttestationKey, || attestation_key_of_a_pillar(&ak))?;
        let ek_issuers = self.check(Check::EkCertificate, || ek_certificate(evidence, &ek, policy))?;
        self.check(Check::SameTpm, || same_tpm(evidence, &ak, policy))?;
        self.check(Check::Signature, || {
            check_signature(&ak, &evidence.attest, &evidence.signature)?;
            // In another hierarchy a key outlives no clear of the owner's, and the TPM hides its counters from it.
            if quote.qualified_signer != tpm::endorsement_primary(&ak) {
                return Err(Fault::new("the AK is not a primary key of the endorsement hierarchy"));
            }
            Ok(((), "ECDSA P-256 over the quote, by the AK".into()))
        })?;
        self.check(Check::Challenge, || {
            let Evidence { event_log, cel, heartbeat_key, .. } = evidence;
            check_nonce(&quote, &qualifying_data(binding, event_log, cel, heartbeat_key))?;
            Ok(((), format!("fresh nonce {}, this connection, these logs", binding.nonce)))
        })?;
        self.check(Check::Selection, || {
            check_selection(&quote, &evidence_selection(policy.bank))?;
            Ok(((), format!("{} PCRs {:?}", policy.bank, pcr::QUOTED)))
        })?;
        self.check(Check::Counters, || counters(quote.counters, policy))?;
        let (log, cel) = self.check(Check::Logs, || logs(evidence))?;
        let pcrs = self.check(Check::Replay, || replay(&log, &cel, &quote, policy.bank))?;
        let proved = Proved { bank: policy.bank, log: &log, cel: &cel, pcrs: &pcrs };
        self.check(Check::Events, || events(&proved, policy))?;
        let release = self.check(Check::Release, || {
            let release = content::release(&proved, policy.releases)?;
            let words = format!("PCR 4, 9 and 11 are those of {} {}", release.version, release.flavour);
            Ok((release, words))
        })?;
        let node_settings = self.check(Check::Additions, || {
            let settings = content::additions(&proved)?;
            let node = settings.as_ref().map_or("", |_| "; node settings in PCR 13");
            let words = format!("PCR 12 and 14 are zero{node}");
            Ok((settings, words))
        })?;
        let state_volume = self.check(Check::State, || state(&proved, policy.state))?;
        self.check(Check::SecureBoot, || {
            content::secure_boot(&proved, release)?;
            Ok(((), "on, with the release's PK, KEK and db alone".into()))
        })?;
        self.check(Check::Firmware, || firmware::check(&proved, policy.firmware))?;
        Ok(Verified {
            version: release.version.clone(),
            flavour: release.flavour.clone(),
            root_hash: release.root_hash,
            bank: policy.bank,
            ak_name: ak.name().to_vec(),
            ek_issuers,
            counters: quote.counters,
            pcrs,
            event_log: Log(evidence.event_log.clone()),
            node_settings,
            state_volume,
            heartbeat_key: evidence.heartbeat_key.clone(),
        })
    }
}

fn sizes(evidence: &Evidence, binding: &Binding, policy: &Policy<'_>) -> Found<()> {
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

fn structures(evidence: &Evidence) -> Found<(Quote, Public, Public)> {
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

fn attestation_key_of_a_pillar(ak: &Public) -> Found<()> {
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

fn ek_certificate(evidence: &Evidence, ek: &Public, policy: &Policy<'_>) -> Found<Vec<String>> {
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
            Ok((issuers, words))
        }
        EkTrust::Row { ek_public } if ek_public == evidence.ek_public => {
            Ok((Vec::new(), "the EK is the enrolled one, whose certificate was checked then".into()))
        }
        EkTrust::Row { .. } => Err(Fault::new("the EK is another than the enrolled one")),
    }
}

fn same_tpm(evidence: &Evidence, ak: &Public, policy: &Policy<'_>) -> Found<()> {
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
fn counters(now: Counters, policy: &Policy<'_>) -> Found<()> {
    if policy.denied_tpm_firmware.contains(&now.firmware_version) {
        let version = now.firmware_version;
        return Err(Fault::new(format!("TPM firmware version {version:#x} is on the deny list")));
    }
    if let Some(before) = policy.previous {
        only_up(now, before)?;
    }
    if let Some(opened) = policy.session {
        same_boot(now, opened)?;
    }
    let safe = if now.safe { "" } else { "; the clock was not stopped cleanly before" };
    let words = format!(
        "clock {} ms, {} resets, {} restarts, firmware {:#x}{safe}",
        now.clock_ms, now.reset_count, now.restart_count, now.firmware_version
    );
    Ok(((), words))
}

fn only_up(now: Counters, before: Counters) -> Result<(), Fault> {
    let went_back =
        |what: &str, from: u64, to: u64| Err(Fault::new(format!("{what} went back from {from} to {to}")));
    if now.firmware_version < before.firmware_version {
        return went_back("TPM firmware version", before.firmware_version, now.firmware_version);
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
        return moved("TPM firmware version", opened.firmware_version, now.firmware_version);
    }
    if now.clock_ms < opened.clock_ms {
        let (from, to) = (opened.clock_ms, now.clock_ms);
        return Err(Fault::new(format!("clock went back from {from} to {to} in one session")));
    }
    Ok(())
}

fn logs(evidence: &Evidence) -> Found<(EventLog<'_>, CelLog)> {
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

fn replay(log: &EventLog<'_>, cel: &CelLog, quote: &Quote, bank: Bank) -> Found<BTreeMap<PcrIndex, Digest>> {
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

fn events(proved: &Proved<'_>, policy: &Policy<'_>) -> Found<()> {
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

fn state(proved: &Proved<'_>, policy: StateVolume<'_>) -> Found<String> {
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
