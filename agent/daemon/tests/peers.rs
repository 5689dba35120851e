//! Agents of one cluster as processes, each with a TPM of its own that has measured a real boot, over loopback.

mod lab;

use lab::bench::run;
use lab::{DEADLINE, LOOK, Lab, Pillar, TestResult, is, measure_a_boot, now_unix_s};
use pillar_layout::root;
use pillar_model::{Action, Digest, PillarId};
use pillar_wire::proto;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Two heartbeats, the promise; and what a busy machine needs to tell of it.
const CUT_OFF: Duration = Duration::from_secs(4);
const TELLING: Duration = Duration::from_secs(2);

// attack: B5
#[tokio::test]
async fn pillars_attest_each_other_and_cut_off_whose_tpm_was_reset() -> TestResult {
    let Some(lab) = Lab::new(3).await? else { return Ok(()) };
    eprintln!("every pair after {:?}", lab.all_up().await?);
    for index in 0..3 {
        let view = lab.view(index).await?;
        assert_eq!((view.trouble.as_str(), view.serial), ("", 4), "{}", lab.logs());
        // Everybody is vouched for by the two others: the third's word comes with its heartbeat.
        for peer in &view.peers {
            lab.sees(index, &peer.name, |peer| peer.vouchers.len() == 2, DEADLINE).await?;
        }
    }

    lab.pillars[2].bench.reset()?;
    run(lab.pillars[2].bench.tool("tpm2_startup").arg("-c"))?;
    let reset = Instant::now();
    for index in 0..2 {
        let within = (CUT_OFF + TELLING).saturating_sub(reset.elapsed());
        let peer = lab.sees(index, "p3", |peer| is(peer, "untrusted"), within).await?;
        eprintln!("p{} cut p3 off {:?} after the reset: {}", index + 1, reset.elapsed(), peer.reason);
        assert_eq!(peer.check, "counters");
        assert_eq!(peer.event, "the TPM was reset under the running system");
    }
    // The same boot, measured into it again by somebody: the agent that quotes it has not been started since.
    measure_a_boot(&lab.pillars[2].bench)?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?.client;
    let asked = client.attest_peer(proto::AttestPeerRequest { name: "p3".to_owned() }).await?.into_inner();
    assert!(is(&asked, "untrusted") && asked.check == "counters", "{asked:#?}");
    // Neither of the honest ones minds the other.
    let peer = lab.sees(0, "p2", |peer| is(peer, "up"), DEADLINE).await?;
    assert_eq!(peer.vouchers, ["p1"], "who is cut off vouches for nobody");
    Ok(())
}

// attack: B4
#[tokio::test]
async fn what_changed_behind_a_verdict_is_found_and_a_crash_is_no_crime() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;

    // A crash is silence: suspect, then down, never untrusted; and the agent comes back with its chain.
    lab.pillars[1].kill()?;
    let peer = lab.sees(0, "p2", |peer| peer.state != "up", DEADLINE).await?;
    assert!(["suspect", "down"].contains(&peer.state.as_str()), "{peer:#?}");
    let peer = lab.sees(0, "p2", |peer| peer.state == "down", DEADLINE).await?;
    assert!(!peer.reason.is_empty() && peer.check.is_empty(), "{peer:#?}");
    lab.pillars[1].start_again()?;
    lab.all_up().await?;

    // Something was extended that no event tells.
    let bench = &lab.pillars[2].bench;
    run(bench.tool("tpm2_pcrextend").arg(format!("11:sha256={}", "11".repeat(32))))?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?.client;
    let asked = client.attest_peer(proto::AttestPeerRequest { name: "p3".to_owned() }).await?.into_inner();
    assert!(is(&asked, "untrusted") && asked.check == "replay", "{asked:#?}\n{}", lab.logs());
    assert!(asked.reason.contains("no event explains"), "{}", asked.reason);
    let failed: Vec<&str> =
        asked.checks.iter().filter(|line| line.verdict == "failed").map(|line| line.name.as_str()).collect();
    assert_eq!(failed, ["replay"]);
    // The refused one is told why, and says so.
    let peer = lab.sees(2, "p1", |peer| peer.reason.contains("refuses this pillar"), DEADLINE).await?;
    assert_eq!(peer.state, "down", "{peer:#?}");
    for status in [
        client.attest_peer(proto::AttestPeerRequest { name: "p9".to_owned() }).await.expect_err("unknown"),
        client.attest_peer(proto::AttestPeerRequest { name: "../x".to_owned() }).await.expect_err("no name"),
    ] {
        assert!(status.message().contains("is no member of this pillar's cluster"), "{status}");
    }
    Ok(())
}

// attack: B2
#[tokio::test]
async fn entries_spread_and_who_is_revoked_or_somebody_else_gets_no_word_in() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;

    // Given to p1 alone, with one signature first: proposed, not applied.
    let name: PillarId = "p3".parse()?;
    let ek = lab.cluster.member(&name).ok_or("a row")?.ek_public.0.clone();
    let ek = Digest(ring::digest::digest(&ring::digest::SHA256, &ek).as_ref().to_vec());
    let revoke = Action::Revoke { name, ek, reason: "sold".to_owned() };
    let mut envelope = lab.cluster.propose(revoke, now_unix_s())?;
    let mut client = lab.pillars[0].connect(&lab.operators[0]).await?.client;
    for (operator, expected) in [(0, (1, false)), (0, (1, false)), (1, (2, true))] {
        lab.operators[operator].sign(&mut envelope)?;
        let submit = proto::SubmitRequest { envelope: envelope.to_json().into() };
        let reply = client.submit(submit).await?.into_inner();
        assert_eq!((reply.have, reply.applied), expected);
        assert_eq!((reply.serial, reply.needed), (5, 2));
    }
    let spread = async {
        for index in 0..2 {
            let end = Instant::now() + DEADLINE;
            while lab.view(index).await?.serial != 5 {
                if Instant::now() > end {
                    return Err(format!("p{} has not got entry 5\n{}", index + 1, lab.logs()).into());
                }
                sleep(LOOK).await;
            }
            let view = lab.view(index).await?;
            assert_eq!(view.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["p1", "p2"]);
        }
        TestResult::Ok(())
    };
    spread.await?;
    lab.sees(0, "p2", |peer| is(peer, "up"), DEADLINE).await?;

    // Another machine with p2's address: its key is nobody's, and that is not p2's fault.
    lab.pillars[1].kill()?;
    let operators = std::mem::take(&mut lab.operators);
    let other = Pillar::new("p2", &operators)?.ok_or("a TPM")?;
    lab.operators = operators;
    let impostor = TcpListener::bind(("127.0.0.1", lab.pillars[1].peers_port))?;
    let target = other.peers_port;
    std::thread::spawn(move || forward(&impostor, target));
    let peer = lab.sees(0, "p2", |peer| peer.state == "down", DEADLINE).await?;
    assert!(peer.check.is_empty(), "{peer:#?}");
    Ok(())
}

// attack: B2 B3
#[tokio::test]
async fn a_machine_takes_the_place_of_another_at_once() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;
    let old = lab.cluster.member(&"p3".parse()?).ok_or("a row")?.ek_public.0.clone();
    let old = Digest(ring::digest::digest(&ring::digest::SHA256, &old).as_ref().to_vec());
    let new = Pillar::new("p3", &lab.operators)?.ok_or("a TPM")?;
    lab.pillars.push(new);
    let member = Box::new(lab.row(3).await?);
    lab.decide(Action::Admit { member, replaces: Some(old) })?;
    lab.hand_over(0).await?;
    lab.hand_over(3).await?;
    // The old one, which runs on, is let in by nobody and says nothing in the new one's name.
    lab.sees(2, "p1", |peer| peer.state == "down", DEADLINE).await?;
    lab.sees(3, "p1", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
    for index in [0, 1] {
        lab.sees(index, "p3", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
    }
    let begun = Instant::now();
    while begun.elapsed() < 3 * CUT_OFF / 2 {
        for index in [0, 1] {
            lab.sees(index, "p3", |peer| is(peer, "up"), Duration::ZERO).await?;
        }
        sleep(LOOK).await;
    }
    Ok(())
}

// attack: C1 P12
#[tokio::test]
async fn what_a_disk_lost_of_the_chain_comes_from_the_others() -> TestResult {
    let Some(mut lab) = Lab::new(3).await? else { return Ok(()) };
    lab.all_up().await?;
    let folder = lab.pillars[1].root.path().join(&root::AGENT_STATE[1..]).join("entries");
    let last = folder.join("00000004.json");
    let whole = fs::read(&last)?;
    // Damaged, and a disk of some time ago.
    for damage in [Some(&whole[..whole.len() / 2]), None] {
        lab.pillars[1].kill()?;
        match damage {
            Some(bytes) => fs::write(&last, bytes)?,
            None => fs::remove_file(&last)?,
        }
        lab.pillars[1].start_again()?;
        lab.sees(1, "p3", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
        lab.sees(2, "p2", |peer| is(peer, "up") && peer.heard, DEADLINE).await?;
        assert_eq!(lab.view(1).await?.serial, 4);
        assert_eq!(fs::read(&last)?, whole);
    }
    assert!(folder.join("damaged-00000004.json").exists());
    Ok(())
}

fn forward(listener: &TcpListener, target: u16) {
    for client in listener.incoming().flatten() {
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else {
            continue;
        };
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let (mut from_server, mut to_client) = (server, client);
        std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
    }
}
