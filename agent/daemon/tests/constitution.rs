//! Amendments of the constitution as real agents live by them: what machines are held to, and who is let in.

mod lab;

use lab::{DEADLINE, LOOK, Lab, Operator, Pillar, TestResult, is, maker, now_unix_s};
use pillar_model::{
    Action, Constitution, DbxEntry, DeniedTpmFirmware, Digest, Member, OperatorEntry, TpmVersion,
};
use pillar_quorum::Envelope;
use pillar_wire::client::{self, Connected, connect};
use pillar_wire::proto;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use tonic::Code;

/// What no dbx here holds.
const DBX: DbxEntry = DbxEntry::Image([0x5a; 32]);
/// Two heartbeats, and what a busy machine needs to tell of it.
const AT_ONCE: Duration = Duration::from_secs(6);

/// The next constitution with a change in it, signed by these, as an entry that is not in force yet.
fn amendment(
    lab: &Lab,
    signers: &[&Operator],
    change: impl FnOnce(&mut Constitution),
) -> TestResult<Envelope> {
    let mut next = lab.cluster.constitution().clone();
    next.version += 1;
    change(&mut next);
    let mut envelope = lab.cluster.propose(Action::Amend(Box::new(next)), now_unix_s())?;
    for signer in signers {
        signer.sign(&mut envelope)?;
    }
    Ok(envelope)
}

/// Gives an entry to one pillar, and holds it in force.
async fn submit(lab: &mut Lab, client: &mut Connected, envelope: Envelope) -> TestResult {
    let request = proto::SubmitRequest { envelope: envelope.to_json().into() };
    let reply = client.client.submit(request).await?.into_inner();
    assert!(reply.applied, "{reply:?}");
    lab.cluster = lab.cluster.apply(&envelope, now_unix_s())?;
    lab.chain.push(envelope);
    Ok(())
}

/// Two of the operators amend it by way of p1.
async fn amend(lab: &mut Lab, change: impl FnOnce(&mut Constitution)) -> TestResult {
    let envelope = amendment(lab, &[&lab.operators[0], &lab.operators[1]], change)?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?;
    submit(lab, &mut client, envelope).await
}

// attack: B8
#[tokio::test]
async fn whose_tpm_firmware_is_denied_is_untrusted_at_once_by_all() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;
    let seen = lab.sees(0, "p3", |peer| !peer.tpm_firmware.is_empty(), DEADLINE).await?;
    let version: TpmVersion = seen.tpm_firmware.parse()?;
    let of = |index| DeniedTpmFirmware { maker: maker(index), first: TpmVersion(0), last: version };

    amend(&mut lab, |next| next.denied_tpm_firmware = vec![of(2)]).await?;
    let amended = Instant::now();
    for index in 0..2 {
        let within = AT_ONCE.saturating_sub(amended.elapsed());
        let peer = lab.sees(index, "p3", |peer| is(peer, "untrusted"), within).await?;
        eprintln!("p{} cut p3 off {:?} after the amendment: {}", index + 1, amended.elapsed(), peer.reason);
        assert_eq!((peer.check.as_str(), peer.pcr), ("TPM firmware", -1));
        let range = format!("TPM firmware {version} is denied (id:00001003 0.0.0.0 to {version})");
        assert!(peer.reason.contains(&range), "{}", peer.reason);
        assert!(peer.hint.contains("update the TPM's firmware"), "{}", peer.hint);
    }
    // It may try again, and is refused by the verifier now. The others have the same version by other makers.
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?.client;
    let asked = client.attest_peer(proto::AttestPeerRequest { name: "p3".to_owned() }).await?.into_inner();
    assert!(is(&asked, "untrusted") && asked.check == "TPM firmware", "{asked:#?}\n{}", lab.logs());
    lab.sees(0, "p2", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
    lab.sees(1, "p1", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;

    // The operators think better of it: it comes back by itself, and is given what it lacks.
    amend(&mut lab, |next| next.denied_tpm_firmware.clear()).await?;
    for index in 0..2 {
        lab.sees(index, "p3", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
    }
    let end = Instant::now() + DEADLINE;
    while lab.view(2).await?.constitution_version != 3 {
        assert!(Instant::now() < end, "p3 has the entries\n{}", lab.logs());
        sleep(LOOK).await;
    }

    // A row that does not say whose TPM it is is held to every maker's ranges.
    let row = lab.cluster.member(&"p2".parse()?).ok_or("a row")?.clone();
    let ek = ring::digest::digest(&ring::digest::SHA256, &row.ek_public.0).as_ref().to_vec();
    let member = Box::new(Member { tpm_maker: None, ..row });
    lab.decide(Action::Admit { member, replaces: Some(Digest(ek)) })?;
    let entry = lab.chain.last().ok_or("an entry")?.to_json().into();
    client.submit(proto::SubmitRequest { envelope: entry }).await?;
    let another = DeniedTpmFirmware { maker: maker(9), first: version, last: version };
    amend(&mut lab, |next| next.denied_tpm_firmware = vec![another]).await?;
    let peer = lab.sees(0, "p2", |peer| is(peer, "untrusted"), AT_ONCE).await?;
    assert!(peer.reason.ends_with("; who made this TPM is not known"), "{}", peer.reason);
    lab.sees(0, "p3", |peer| is(peer, "up"), DEADLINE).await?;
    Ok(())
}

// attack: B8
#[tokio::test]
async fn denied_firmware_is_said_though_the_same_entry_makes_every_verdict_lapse() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;
    let seen = lab.sees(0, "p3", |peer| !peer.tpm_firmware.is_empty(), DEADLINE).await?;
    let last = seen.tpm_firmware.parse()?;
    // It cannot prove itself anew: what is said of it is said by what it proved before.
    lab.pillars[2].kill()?;
    lab.sees(0, "p3", |peer| peer.state == "down", DEADLINE).await?;
    amend(&mut lab, |next| {
        next.denied_tpm_firmware = vec![DeniedTpmFirmware { maker: maker(2), first: TpmVersion(0), last }];
        next.dbx_required = vec![DBX];
    })
    .await?;
    let peer = lab.sees(0, "p3", |peer| is(peer, "untrusted"), AT_ONCE).await?;
    assert_eq!(peer.check, "TPM firmware", "{}", peer.reason);
    lab.sees(0, "p2", |peer| is(peer, "untrusted") && peer.check == "secure boot", DEADLINE).await?;
    Ok(())
}

// attack: P22
#[tokio::test]
async fn who_does_not_forbid_what_must_be_forbidden_is_untrusted() -> TestResult {
    let Some(mut lab) = Lab::new(2).await? else { return Ok(()) };
    lab.all_up().await?;
    amend(&mut lab, |next| next.dbx_required = vec![DBX]).await?;
    let peer = lab.sees(0, "p2", |peer| is(peer, "untrusted"), DEADLINE).await?;
    assert_eq!((peer.check.as_str(), peer.pcr), ("secure boot", 7));
    let want = format!("dbx lacks 1 of the 1 entries that it must have: {DBX} first");
    assert!(peer.reason.contains(&want), "{}", peer.reason);
    amend(&mut lab, |next| next.dbx_required.clear()).await?;
    lab.sees(0, "p2", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
    Ok(())
}

/// Connects without patience; what became of it.
async fn knock(pillar: &Pillar, operator: &Operator) -> Result<Connected, client::Error> {
    let addr = format!("127.0.0.1:{}", pillar.operators_port);
    connect(&addr, operator.certificate.as_bytes(), operator.key.as_bytes()).await
}

#[track_caller]
fn refused(knocked: Result<Connected, client::Error>, alert: &str) {
    match knocked {
        Err(client::Error::Refused { alert: found, .. }) => assert_eq!(found, alert),
        other => panic!("must be refused: {other:?}"),
    }
}

fn entry(operator: &Operator) -> OperatorEntry {
    OperatorEntry { name: operator.name.clone(), key: operator.public() }
}

// attack: P23
#[tokio::test]
async fn an_operator_who_was_removed_is_out_at_once_and_one_who_came_is_in() -> TestResult {
    let Some(mut lab) = Lab::new(2).await? else { return Ok(()) };
    let newcomer = Operator::new(4)?;
    for pillar in &lab.pillars {
        refused(knock(pillar, &newcomer).await, "AccessDenied");
    }
    // The third operator follows a log, and has a connection on which nothing happens.
    let mut third = lab.pillars[0].connect(&lab.operators[2]).await?.client;
    let mut idle = lab.pillars[1].connect(&lab.operators[2]).await?.client;
    idle.cluster(proto::ClusterRequest {}).await?;
    let mut log = third.logs(proto::LogsRequest { tail: 0, follow: true }).await.map(|log| log.into_inner());

    let fourth = entry(&newcomer);
    amend(&mut lab, |next| next.operators[2] = fourth).await?;
    let words = "its key is in the sealed image, but constitution 2 of lab does not name it";
    let status = third.cluster(proto::ClusterRequest {}).await.expect_err("removed");
    // By the answer to this request, or by the end of the connection before it.
    if status.code() == Code::PermissionDenied {
        assert!(status.message().contains(words), "{status}");
    }
    if let Ok(log) = &mut log {
        let ended = async { while let Ok(Some(_)) = log.message().await {} };
        timeout(AT_ONCE, ended).await.map_err(|_| "the log goes on")?;
    }
    for (index, pillar) in lab.pillars.iter().enumerate() {
        let end = Instant::now() + DEADLINE;
        while lab.view(index).await?.constitution_version != 2 {
            assert!(Instant::now() < end, "p{} has the entry\n{}", index + 1, lab.logs());
            sleep(LOOK).await;
        }
        refused(knock(pillar, &lab.operators[2]).await, "CertificateRevoked");
        let mut client = knock(pillar, &newcomer).await?.client;
        client.cluster(proto::ClusterRequest {}).await?;
    }
    let status = idle.cluster(proto::ClusterRequest {}).await.expect_err("removed");
    assert!(status.code() != Code::PermissionDenied || status.message().contains(words), "{status}");
    assert!(lab.pillars[1].log().contains(words), "{}", lab.logs());
    Ok(())
}

// attack: P23
#[tokio::test]
async fn when_nobody_of_the_image_is_left_the_constitutions_operators_are_let_in() -> TestResult {
    let Some(mut lab) = Lab::new(1).await? else { return Ok(()) };
    let others = (4..=6).map(Operator::new).collect::<Result<Vec<_>, _>>()?;
    // The last entry of the old ones, given by one of them: its answer still comes.
    let signers = [&lab.operators[0], &lab.operators[1], &others[0], &others[1]];
    let envelope = amendment(&lab, &signers, |next| next.operators = others.iter().map(entry).collect())?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?;
    submit(&mut lab, &mut client, envelope).await?;
    for operator in &lab.operators {
        refused(knock(&lab.pillars[0], operator).await, "CertificateRevoked");
    }
    // Also by an agent that reads it from its disk.
    lab.pillars[0].kill()?;
    lab.pillars[0].start_again()?;
    lab.pillars[0].connect(&others[2]).await?;
    for operator in &lab.operators {
        refused(knock(&lab.pillars[0], operator).await, "CertificateRevoked");
    }
    // They can decide, and are alone in that.
    let envelope = amendment(&lab, &[&others[1], &others[2]], |next| next.expires_unix_s += 1)?;
    let mut client = lab.pillars[0].connect(&others[0]).await?;
    submit(&mut lab, &mut client, envelope).await?;
    // A machine that knows no cluster serves its image's operators, or nobody could ever admit it.
    let new = Pillar::new("p2", &lab.operators)?.ok_or("a TPM")?;
    new.connect(&lab.operators[2]).await?;
    refused(knock(&new, &others[0]).await, "AccessDenied");
    Ok(())
}
