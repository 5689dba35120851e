//! The order of the checks, and the proof that they all passed. Nothing outside of this file can make a [`Verified`].

use crate::checks;
use crate::content::{self, Proved};
use crate::policy::Policy;
use crate::quote::{check_nonce, check_selection, check_signature};
use crate::report::{Check, Fault, Found, Rejection, Report, Verdict};
use crate::tpm::{self, Counters, evidence_selection};
use crate::{FIRMWARE_PCRS, firmware, qualifying_data};
use pillar_layout::pcr;
use pillar_measure::tcg::EventLog;
use pillar_model::{Bank, Binding, Digest, Evidence, FirmwareReference, PcrIndex, RootHash, TpmMaker};
use std::collections::BTreeMap;
use std::fmt;

/// Proof that evidence passed every check: made by [`verify`] alone, never stored and read back.
#[derive(Debug)]
pub struct Verified {
    version: String,
    flavour: String,
    root_hash: RootHash,
    bank: Bank,
    ak_name: Vec<u8>,
    ek_issuers: Vec<String>,
    tpm_maker: Option<TpmMaker>,
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

    /// Who made the TPM, if that is known.
    #[must_use]
    pub fn tpm_maker(&self) -> Option<TpmMaker> {
        self.tpm_maker
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
        self.check(Check::Sizes, || checks::sizes(evidence, binding, policy))?;
        let (quote, ak, ek) = self.check(Check::Structures, || checks::structures(evidence))?;
        self.check(Check::AttestationKey, || checks::attestation_key_of_a_pillar(&ak))?;
        let endorsed = self.check(Check::EkCertificate, || checks::ek_certificate(evidence, &ek, policy))?;
        self.check(Check::SameTpm, || checks::same_tpm(evidence, &ak, policy))?;
        self.check(Check::Signature, || {
            check_signature(&ak, &evidence.attest, &evidence.signature)?;
            // What keys of the owner's hierarchy sign has the counters disguised (part 1, section 36.7), and they
            // are replaced with the owner, not with the TPM.
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
        self.check(Check::Counters, || checks::counters(quote.counters, policy))?;
        self.check(Check::TpmFirmware, || checks::tpm_firmware(quote.counters, endorsed.maker, policy))?;
        let (log, cel) = self.check(Check::Logs, || checks::logs(evidence))?;
        let pcrs = self.check(Check::Replay, || checks::replay(&log, &cel, &quote, policy.bank))?;
        let proved = Proved { bank: policy.bank, log: &log, cel: &cel, pcrs: &pcrs };
        self.check(Check::Events, || checks::events(&proved, policy))?;
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
        let state_volume = self.check(Check::State, || checks::state(&proved, policy.state))?;
        self.check(Check::SecureBoot, || {
            content::secure_boot(&proved, release, policy.dbx_required)?;
            let dbx = match policy.dbx_required.len() {
                0 => String::new(),
                required => format!("; dbx has the {required} entries that it must have"),
            };
            Ok(((), format!("on, with the release's PK, KEK and db alone{dbx}")))
        })?;
        self.check(Check::Firmware, || firmware::check(&proved, policy.firmware))?;
        Ok(Verified {
            version: release.version.clone(),
            flavour: release.flavour.clone(),
            root_hash: release.root_hash,
            bank: policy.bank,
            ak_name: ak.name().to_vec(),
            ek_issuers: endorsed.issuers,
            tpm_maker: endorsed.maker,
            counters: quote.counters,
            pcrs,
            event_log: Log(evidence.event_log.clone()),
            node_settings,
            state_volume,
            heartbeat_key: evidence.heartbeat_key.clone(),
        })
    }
}
