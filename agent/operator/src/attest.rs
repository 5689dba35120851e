//! Evidence: asked for, saved, judged. The judgement itself is `pillar_verify`'s; here is what it cannot know: files,
//! randomness, the clock, the connection, and what was pinned.

use crate::chain;
use crate::cli::{Caller, Judge, Run, Target, Viewer};
use crate::failure::{Failure, Kind, Outcome};
use crate::operators;
use crate::paint::{Mark, harmless};
use crate::pins::Pins;
use crate::policy::PolicyFile;
use crate::reference::{Reference, now_unix_s};
use crate::report::{Check, Report, Verdict};
use crate::saved::Saved;
use crate::session::{call, connect, denied};
use crate::target::{Place, files_of};
use crate::view::{self, Peer, Witness};
use pillar_layout::pcr::QUOTED;
use pillar_model::{
    Bank, Binding, Evidence, NodeSettings, Nonce, PcrIndex, PeerState, ReleasePredicate, Role,
};
use pillar_verify::ear::{Verifier, ear};
use pillar_verify::{EkTrust, ExitBootServices, Firmware, Policy, Rejection, SameTpm, StateVolume, Verified};
use pillar_wire::client::Connected;
use pillar_wire::{Challenge, Identity, proto};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use std::error::Error;
use std::path::Path;
use tonic::Code;

/// The verifier knows the values; how to pin others is ours to say.
const HINT_FIRMWARE: &str = "if you changed the firmware, its settings or the hardware, `pillar attest --forget` learns \
    this machine anew; if nobody did, find out who did";

/// Who judges, in an attestation result.
const VERIFIER: Verifier<'_> =
    Verifier { developer: "pillar", build: concat!("pillar ", env!("CARGO_PKG_VERSION")) };

/// Why there is no evidence to judge.
enum NoEvidence {
    /// Nobody answered, or not to us.
    Failure(Failure),
    /// The pillar has none, or what it sent is none.
    Refusal(String),
}

impl From<Failure> for NoEvidence {
    fn from(failure: Failure) -> Self {
        NoEvidence::Failure(failure)
    }
}

/// An answer to a challenge that was made a moment ago.
struct Answer {
    identity: Identity,
    evidence: Evidence,
    binding: Binding,
    /// Wrapped for the keys that the evidence shows; the evidence's `activated` must be the same.
    secret: [u8; 32],
}

/// Challenges a pillar and judges its answer.
pub async fn online(target: &Target, judge: &Judge, bank: Bank, forget: bool) -> Outcome<Report> {
    let place = Place::find(target)?;
    let mut reference = Reference::load(&place.files, judge)?;
    let pins_path = place.files.pins(judge);
    let pins = match &pins_path {
        // The old pins stay until there are new ones.
        Some(path) if !forget => Pins::read(path)?,
        _ => None,
    };
    let mut connected = connect(&place, &target.caller).await?;
    let answer = match ask_on(&mut connected, bank).await {
        Ok(answer) => answer,
        Err(NoEvidence::Failure(failure)) => return Err(failure),
        Err(NoEvidence::Refusal(reason)) => return Ok(no_evidence(place.name, &reason)),
    };
    let demands = demands(&place, connected, &target.caller, &mut reference).await;
    let expected = Expected {
        reference: &reference,
        bank,
        pins: pins.as_ref(),
        same_tpm: SameTpm::Activated(&answer.secret),
    };
    let (mut report, verified) =
        judged(&place.name, &answer.evidence, &answer.binding, &expected, Purpose::Fresh);
    report.checks.extend(demands);
    let Some(verified) = verified else { return Ok(report) };
    match (&pins_path, &pins) {
        (Some(path), None) => {
            Pins::of(&verified, None).write(path)?;
            report.checks.push(note("pins", format!("learnt now, kept in {}", path.display())));
        }
        (Some(path), Some(old)) => Pins::of(&verified, Some(old)).write(path)?,
        (None, _) => {
            report.checks.push(note("pins", "nothing is kept: --pins FILE would notice a change next time"));
        }
    }
    Ok(report)
}

/// Adds what the constitution of the pillar's cluster demands of each machine, as that pillar has it. A pillar that hides a
/// newer one is found out by its peers, whose verdict `status` shows.
async fn demands(
    place: &Place,
    mut connected: Connected,
    caller: &Caller,
    reference: &mut Reference,
) -> Option<Check> {
    let view = match view::ask(place, &mut connected).await {
        Ok(view) if view.said.founded => view,
        Ok(_) => return None,
        Err(failure) => return Some(not_demanded("of its cluster, if it has one,", &failure)),
    };
    let mut witness = Witness { place: place.clone(), connected, view };
    let chain = match operators::load(&[], &caller.cert()) {
        Ok(operators) => chain::fetch(&mut witness, &chain::keys(&operators)).await,
        Err(failure) => Err(failure),
    };
    Some(match chain {
        Ok(chain) => {
            let constitution = chain.cluster.constitution();
            reference.denied_tpm_firmware.clone_from(&constitution.denied_tpm_firmware);
            reference.dbx_required.clone_from(&constitution.dbx_required);
            let (version, cluster) = (constitution.version, &constitution.cluster);
            note("constitution", format!("{version} of {cluster}: what it demands of machines was demanded"))
        }
        Err(failure) => not_demanded(&format!("of {}", witness.view.said.cluster), &failure),
    })
}

/// Who reads "verified" must know what it leaves out.
fn not_demanded(whose: &str, failure: &Failure) -> Check {
    let words = format!("what that {whose} demands was not looked at: {}", failure.words());
    note("constitution", harmless(&words))
}

/// Has a member of the cluster attest another one now.
pub async fn by_peer(name: &str, from: &str, caller: &Caller) -> Outcome<Report> {
    let viewer = Viewer { from: Some(from.to_owned()) };
    let mut witness = Witness::find(&viewer, caller, None).await?;
    // Says by name when there is no such member.
    let peer = witness.view.peer(name)?;
    if peer.said.self_ {
        return Err(Failure::new(format!("{name} cannot vouch for itself"))
            .hint(format!("`pillar attest {name}` attests it from here; --from takes another member")));
    }
    let request = proto::AttestPeerRequest { name: name.to_owned() };
    let said = call(&format!("attest {name}"), witness.connected.client.attest_peer(request)).await?;
    let peer = Peer::try_from(said).map_err(|error| crate::session::malformed("view of a peer", &error))?;
    if peer.said.verified || peer.state == PeerState::Untrusted {
        return Ok(Report::from_peer(&witness.place.name, &peer.said));
    }
    Err(Failure::new(format!("{} cannot reach {name}: {}", witness.place.name, harmless(&peer.said.reason)))
        .kind(Kind::Unreachable)
        .hint(format!("`pillar explain {name} --from {from}` says what was tried")))
}

/// A machine that has just proved what it runs and which TPM it has.
pub struct Proved {
    /// Its keys; EK and AK are those of the evidence.
    pub identity: Identity,
    /// The proof.
    pub verified: Verified,
}

/// Opens nothing and keeps nothing: has the pillar at the other end of this connection prove that it runs one of the
/// releases. What was pinned of it does not count.
pub async fn prove(place: &Place, connected: &mut Connected, reference: &Reference) -> Outcome<Proved> {
    proved(place, connected, reference, Purpose::Fresh).await
}

/// The same where a refusal is an answer: the check's name and the reason.
pub async fn try_prove(
    place: &Place,
    connected: &mut Connected,
    reference: &Reference,
) -> Outcome<Result<Proved, (String, String)>> {
    let (report, proved) = fresh(place, connected, reference, Purpose::Fresh).await?;
    Ok(proved.ok_or(match report.verdict {
        Verdict::Refused { check, reason, .. } => (check, reason),
        // The verifier's own proof decides, not the words about it.
        Verdict::Verified { .. } | Verdict::Vouched { .. } => (String::new(), String::new()),
    }))
}

/// Opens a connection whose other end has just proved that it runs the release. Its state volume need not be open, and
/// what was pinned of it does not count: that TPM or firmware changed is why somebody recovers.
pub async fn connect_for_recovery(target: &Target, judge: &Judge) -> Outcome<(Place, Connected)> {
    let place = Place::find(target)?;
    let reference = Reference::load(&place.files, judge)?;
    let mut connected = connect(&place, &target.caller).await?;
    proved(&place, &mut connected, &reference, Purpose::Recovery).await.map_err(|failure| {
        if failure.kind == Kind::Refused {
            failure.hint(
                "`pillar attest` shows every check; a share goes only to a pillar that runs the release",
            )
        } else {
            failure
        }
    })?;
    Ok((place, connected))
}

async fn proved(
    place: &Place,
    connected: &mut Connected,
    reference: &Reference,
    purpose: Purpose,
) -> Outcome<Proved> {
    match fresh(place, connected, reference, purpose).await? {
        // The verifier's own proof decides, not the words about it.
        (_, Some(proved)) => Ok(proved),
        (report, None) => {
            let why = report.refusal().unwrap_or_default();
            Err(Failure::new(format!("{} is not verified: {why}", place.name))
                .kind(report.kind)
                .hint(format!("`pillar attest {}` shows every check", place.name)))
        }
    }
}

/// Has the other end prove what it runs, and judges that without pins.
async fn fresh(
    place: &Place,
    connected: &mut Connected,
    reference: &Reference,
    purpose: Purpose,
) -> Outcome<(Report, Option<Proved>)> {
    let bank = Bank::Sha256;
    let answer = match ask_on(connected, bank).await {
        Ok(answer) => answer,
        Err(NoEvidence::Failure(failure)) => return Err(failure),
        Err(NoEvidence::Refusal(reason)) => {
            return Err(Failure::new(format!("{} gives no evidence: {reason}", place.name))
                .kind(Kind::Refused)
                .hint("nothing can be proved without a TPM 2.0 with an EK certificate and both event logs"));
        }
    };
    let same_tpm = SameTpm::Activated(&answer.secret);
    let expected = Expected { reference, bank, pins: None, same_tpm };
    let (report, verified) = judged(&place.name, &answer.evidence, &answer.binding, &expected, purpose);
    Ok((report, verified.map(|verified| Proved { identity: answer.identity, verified })))
}

/// Challenges a pillar and saves its answer.
pub async fn save(target: &Target, bank: Bank, path: &Path) -> Outcome<String> {
    let place = Place::find(target)?;
    let answer = match ask(&place, target, bank).await {
        Ok(answer) => answer,
        Err(NoEvidence::Failure(failure)) => return Err(failure),
        Err(NoEvidence::Refusal(reason)) => {
            return Err(
                Failure::new(format!("{} gives no evidence: {reason}", place.name)).kind(Kind::Denied)
            );
        }
    };
    let saved = Saved { name: place.name, binding: answer.binding, evidence: answer.evidence };
    let size = saved.write(path)?;
    let (name, path) = (saved.name, path.display());
    Ok(format!(
        "saved evidence of {name} in {path} ({size} bytes), not judged; `pillar verify {path}` does that\n"
    ))
}

/// Judges a saved answer by the files that the arguments or the machine's record name.
pub fn offline(path: &Path, judge: &Judge, bank: Bank, run: &Run) -> Outcome<Report> {
    let saved = Saved::read(path)?;
    let files = files_of(run, &saved.name);
    let reference = Reference::load(&files, judge)?;
    let pins = match files.pins(judge) {
        Some(path) => Pins::read(&path)?,
        None => None,
    };
    let Some(pins) = pins else {
        return Ok(Report::refused(
            saved.name,
            "AK in this TPM",
            "AK not proven to share a TPM with the EK",
            "attest online once (`pillar attest` pins the AK), or give --pins FILE from such an attest",
        ));
    };
    Ok(judged_saved(&saved, &reference, &pins, bank))
}

/// Judges a saved answer by a policy file and nothing else.
pub fn by_policy(path: &Path, policy: &Path, bank: Bank) -> Outcome<Report> {
    let saved = Saved::read(path)?;
    let policy = PolicyFile::read(policy)?;
    Ok(judged_saved(&saved, &policy.reference(), &policy.pins, bank))
}

fn judged_saved(saved: &Saved, reference: &Reference, pins: &Pins, bank: Bank) -> Report {
    let same_tpm = SameTpm::PinnedAk(&pins.ak_name.0);
    let expected = Expected { reference, bank, pins: Some(pins), same_tpm };
    let (mut report, _) = judged(&saved.name, &saved.evidence, &saved.binding, &expected, Purpose::Saved);
    if report.is_verified() {
        report.checks.push(note(
            "freshness",
            "what was true when the evidence was made; `pillar attest` tells of now",
        ));
    }
    report
}

/// What evidence is held against.
struct Expected<'a> {
    reference: &'a Reference,
    bank: Bank,
    pins: Option<&'a Pins>,
    same_tpm: SameTpm<'a>,
}

/// What evidence is judged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// What is true now.
    Fresh,
    /// What was true when it was saved.
    Saved,
    /// Whether a pillar without its state volume may get shares of the recovery key.
    Recovery,
}

/// The pinned state volume, as far as it is of interest.
fn state_volume(own: Option<&Pins>, purpose: Purpose) -> StateVolume<'_> {
    match own.and_then(|pins| pins.state_volume.as_deref()) {
        _ if purpose == Purpose::Recovery => StateVolume::Any,
        Some(pinned) => StateVolume::Pinned(pinned),
        None => StateVolume::Learn,
    }
}

/// Runs the verifier, then what it cannot know: the pinned key of an online answer, and the machine's name.
fn judged(
    name: &str,
    evidence: &Evidence,
    binding: &Binding,
    expected: &Expected<'_>,
    purpose: Purpose,
) -> (Report, Option<Verified>) {
    let Expected { reference, bank, pins, same_tpm } = *expected;
    // Another TPM's values say nothing about this one: all other checks run without them, then it is refused.
    let own = pins
        .filter(|pins| pillar_verify::ak_name(&evidence.ak_public).is_ok_and(|name| name == pins.ak_name.0));
    let firmware = own.and_then(|pins| pins.firmware.get(&bank));
    let releases: Vec<&ReleasePredicate> = reference.releases.iter().collect();
    let now_unix_s = now_unix_s();
    let policy = Policy {
        releases: &releases,
        bank,
        ek: EkTrust::Chain {
            roots: &reference.ek_roots,
            intermediates: &reference.ek_intermediates,
            allowed: &reference.ek_allowed,
            now_unix_s,
        },
        same_tpm,
        firmware: firmware.map_or(Firmware::Learn, Firmware::Pinned),
        state: state_volume(own, purpose),
        exit_boot_services: ExitBootServices::Required,
        denied_tpm_firmware: &reference.denied_tpm_firmware,
        dbx_required: &reference.dbx_required,
        // A saved answer may be older than the last one that was judged.
        previous: own.filter(|_| purpose != Purpose::Saved).and_then(|pins| pins.counters),
        session: None,
    };
    let (steps, result) = pillar_verify::judge(evidence, binding, &policy);
    let mut report = Report::from_verifier(name, &steps, &result, firmware.is_none());
    report.ear = Some(ear(name, &steps, result.as_ref(), now_unix_s, VERIFIER));
    let verified = match result {
        Ok(verified) => verified,
        Err(rejection) => {
            if rejection.check == pillar_verify::Check::Firmware {
                report.advise(HINT_FIRMWARE);
            }
            if rejection.check == pillar_verify::Check::EkCertificate {
                early_clock(&mut report, &evidence.ek_certificate, now_unix_s);
            }
            return (report, None);
        }
    };
    if let Some(refused) = pinned_key(&verified, pins).or_else(|| other_name(name, &verified)) {
        report.ear = Some(ear_of_another(name, steps, &refused, now_unix_s));
        report.refuse(refused);
        return (report, None);
    }
    (report, Some(verified))
}

/// Good evidence of another machine than the one that was meant is no attestation result for that one.
fn ear_of_another(name: &str, mut steps: pillar_verify::Report, refused: &Verdict, now_unix_s: u64) -> Value {
    let check = pillar_verify::Check::SameTpm;
    let reason = match refused {
        Verdict::Refused { reason, .. } => reason.clone(),
        Verdict::Verified { .. } | Verdict::Vouched { .. } => String::new(),
    };
    if let Some(line) = steps.checks.iter_mut().find(|line| line.check == check) {
        line.verdict = pillar_verify::Verdict::Failed;
        line.words.clone_from(&reason);
    }
    let rejection = Rejection { check, pcr: None, event: None, reason, changed: None, hint: check.hint() };
    ear(name, &steps, Err(&rejection), now_unix_s, VERIFIER)
}

/// A certificate from the future is most often one that is looked at with a clock of the past.
fn early_clock(report: &mut Report, certificate: &[u8], now_unix_s: u64) {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return };
    let not_before = parsed.validity().not_before;
    if i64::try_from(now_unix_s).is_ok_and(|now| now < not_before.timestamp()) {
        report.kind = Kind::Clock;
        report.advise(&format!(
            "this machine's clock says that the certificate is not valid yet (it is from {not_before}): set the clock, or find out why the TPM has such a certificate"
        ));
    }
}

/// The pins are of one TPM; another one, however genuine, is another machine.
fn pinned_key(verified: &Verified, pins: Option<&Pins>) -> Option<Verdict> {
    let pinned = &pins?.ak_name.0;
    if pinned == verified.ak_name() {
        return None;
    }
    Some(Verdict::Refused {
        check: "pinned TPM".to_owned(),
        reason: format!("AK's name is {}, {} is pinned", hex::encode(verified.ak_name()), hex::encode(pinned)),
        hint: "this is another TPM than at the first attestation; if you exchanged or cleared it, `pillar attest --forget`".to_owned(),
    })
}

/// A machine that was named must have measured that name, if it measured one.
fn other_name(name: &str, verified: &Verified) -> Option<Verdict> {
    let settings: NodeSettings = serde_json::from_str(verified.node_settings()?).ok()?;
    let measured = settings.name.filter(|measured| measured != name)?;
    // An address is no name.
    if name.contains(':') {
        return None;
    }
    Some(Verdict::Refused {
        check: "name".to_owned(),
        reason: format!("asked for {name}, the machine that answered was started as {measured}"),
        hint: "look at the machine's record in its run folder, or at --run-dir".to_owned(),
    })
}

fn note(name: &str, words: impl Into<String>) -> Check {
    Check { mark: Mark::Note, name: name.to_owned(), words: words.into() }
}

fn no_evidence(name: String, reason: &str) -> Report {
    Report::refused(
        name,
        "evidence",
        reason,
        "nothing can be proved without a TPM 2.0 with an EK certificate and both event logs; `pillar status` and `pillar logs` may tell more",
    )
}

/// Draws a challenge for the pillar's keys and has it answered on one connection.
async fn ask(place: &Place, target: &Target, bank: Bank) -> Result<Answer, NoEvidence> {
    ask_on(&mut connect(place, &target.caller).await?, bank).await
}

/// The same on a connection that goes on to be used.
async fn ask_on(connected: &mut Connected, bank: Bank) -> Result<Answer, NoEvidence> {
    let reply = connected.client.identity(proto::IdentityRequest {}).await.map_err(no_answer)?;
    let identity = Identity::try_from(reply.into_inner()).map_err(malformed)?;

    let random = SystemRandom::new();
    let (mut nonce, mut secret) = ([0; 32], [0; 32]);
    for bytes in [&mut nonce, &mut secret] {
        random.fill(bytes).map_err(|_| Failure::new("the system gives no random bytes"))?;
    }
    let ak_name = pillar_verify::ak_name(&identity.ak_public).map_err(malformed)?;
    let credential =
        pillar_verify::make_credential(&identity.ek_public, &ak_name, &secret, &random).map_err(malformed)?;
    let challenge = Challenge {
        nonce: Nonce(nonce),
        credential_blob: credential.blob,
        encrypted_secret: credential.encrypted_secret,
        bank,
        pcrs: QUOTED.iter().filter_map(|pcr| PcrIndex::new(*pcr).ok()).collect(),
    };
    let reply =
        connected.client.evidence(proto::EvidenceRequest::from(challenge)).await.map_err(no_answer)?;
    let evidence = Evidence::try_from(reply.into_inner()).map_err(malformed)?;
    // The secret proves something about the keys it was wrapped for, and about no others.
    if evidence.ek_public != identity.ek_public || evidence.ak_public != identity.ak_public {
        return Err(NoEvidence::Refusal("it shows other keys than those that were challenged".to_owned()));
    }
    let binding = Binding {
        role: Role::Server,
        nonce: Nonce(nonce),
        exporter: connected.exporter.to_vec(),
        attester_spki: connected.server_spki.clone(),
        verifier_spki: connected.client_spki.clone(),
    };
    Ok(Answer { identity, evidence, binding, secret })
}

/// A pillar that cannot prove anything is refused; one that cannot be asked is a failure.
#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn no_answer(status: tonic::Status) -> NoEvidence {
    match status.code() {
        Code::FailedPrecondition | Code::Unimplemented | Code::NotFound => {
            NoEvidence::Refusal(status.message().to_owned())
        }
        _ => NoEvidence::Failure(denied("give evidence", &status)),
    }
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn malformed(error: impl Error) -> NoEvidence {
    NoEvidence::Refusal(format!("what it sent cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_that_were_not_looked_at_are_a_line_of_the_report() {
        let failure = Failure::new("the pillar did not tell its cluster: \u{7}lost");
        let line = not_demanded("of its cluster, if it has one,", &failure);
        assert!(matches!(line.mark, Mark::Note));
        assert_eq!(
            line.words,
            "what that of its cluster, if it has one, demands was not looked at: the pillar did not tell its cluster: \u{fffd}lost"
        );
    }
}
