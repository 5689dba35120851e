//! Four pillars in one network: how soon they attest each other, how soon a reset TPM or a dead machine is noticed by
//! all others, what an agent costs while nothing happens. There is no public figure of a peer to set beside these: other
//! systems attest a machine to a server every some seconds, and not machines to each other. So they stand beside what the
//! project wants of itself.

use crate::figures::Summary;
use crate::memory::metric;
use anyhow::{Context, Result, ensure};
use pillar_e2e::cluster::Cluster;
use pillar_e2e::programs::workspace;
use pillar_wire::client::{Connected, connect};
use pillar_wire::proto;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const NAMES: [&str; 4] = ["p1", "p2", "p3", "p4"];
/// Its TPM is reset under it.
const TAPPED: &str = "p4";
/// Its power is cut.
const KILLED: &str = "p3";
/// From the last healthy workload to every pair attested, seconds.
const TARGET_ATTESTED: f64 = 10.0;
/// From the tampering until all others have cut it off: two heartbeats, seconds.
const TARGET_CUT_OFF: f64 = 4.0;
/// Of one processor.
const TARGET_CPU: f64 = 0.01;
const TARGET_RESIDENT_BYTES: f64 = 32e6;
/// Bounds a hang; times nothing.
const DEADLINE: Duration = Duration::from_secs(180);
/// Between two questions of the same pillar.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// What starting costs is over by then.
const SETTLE: Duration = Duration::from_secs(30);

/// What one agent costs while nothing happens.
#[derive(Debug, Serialize)]
pub struct Idle {
    name: &'static str,
    /// Of one processor.
    cpu_share: f64,
    resident_bytes: f64,
}

/// What the benchmark found; all times in seconds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `pillar found`, from its start to its end.
    found_s: f64,
    /// From the start of `pillar found` to every pair attested.
    founded_s: f64,
    /// Starts of all four at once.
    runs: u32,
    /// From the last healthy workload to every pair attested, each start.
    attested_s: Summary,
    /// How long the agents were left alone.
    idle_s: f64,
    idle: Vec<Idle>,
    /// From the reset of a TPM until all others have cut off its machine.
    cut_off_s: f64,
    /// From a machine's death until all others suspect it.
    suspected_s: f64,
    /// And until all say that it is down.
    down_s: f64,
    accelerator: String,
    host_load: String,
}

/// Runs it.
pub fn bench(runs: u32, idle: Duration) -> Result<Report> {
    let mut cluster = Cluster::prepare("bench-cluster", &NAMES)?;
    let measured = measure(&mut cluster, runs, idle);
    let report = cluster.explain(measured)?;
    cluster.passed();
    Ok(report)
}

fn measure(cluster: &mut Cluster, runs: u32, idle: Duration) -> Result<Report> {
    cluster.tap(TAPPED);
    cluster.start(&NAMES)?;
    let began = Instant::now();
    cluster.done(&["found", "--cluster", "bench"])?;
    let found_s = began.elapsed().as_secs_f64();
    Eyes::open(cluster, &NAMES)?.until("every pair attested", all_up)?;
    let founded_s = began.elapsed().as_secs_f64();
    eprintln!("founded {found_s:.1} s, every pair attested {founded_s:.1} s after the beginning");

    let mut attested = Vec::new();
    for run in 1..=runs {
        for name in NAMES {
            cluster.power_cut(name)?;
        }
        cluster.start(&NAMES)?;
        Eyes::open(cluster, &NAMES)?.until("every pair attested", all_up)?;
        let after = cluster.since_healthy().as_secs_f64();
        eprintln!("run {run}/{runs}: every pair attested {after:.2} s after the last healthy workload");
        attested.push(after);
    }

    eprintln!("the agents are left alone for {} s", (SETTLE + idle).as_secs());
    std::thread::sleep(SETTLE);
    let agents = idle_agents(cluster, idle)?;

    let mut eyes = Eyes::open(cluster, &["p1", "p2", "p3"])?;
    let tampered = Instant::now();
    cluster.machine(TAPPED)?.reset_tpm()?;
    eyes.until("its TPM's reset known", |view| state(view, TAPPED) == "untrusted")?;
    let cut_off_s = tampered.elapsed().as_secs_f64();
    drop(eyes);
    cluster.reboot(TAPPED)?;
    let mut eyes = Eyes::open(cluster, &NAMES)?;
    eyes.until("every pair attested", all_up)?;
    drop(eyes);

    let accelerator = cluster.machine(KILLED)?.accel().to_string();
    let mut eyes = Eyes::open(cluster, &["p1", "p2", "p4"])?;
    let killed = Instant::now();
    cluster.cut(KILLED)?;
    eyes.until("the dead one missed", |view| state(view, KILLED) != "up")?;
    let suspected_s = killed.elapsed().as_secs_f64();
    eyes.until("the dead one down", |view| state(view, KILLED) == "down")?;
    let down_s = killed.elapsed().as_secs_f64();

    Ok(Report {
        found_s,
        founded_s,
        runs,
        attested_s: Summary::of(attested).context("no runs")?,
        idle_s: idle.as_secs_f64(),
        idle: agents,
        cut_off_s,
        suspected_s,
        down_s,
        accelerator,
        host_load: crate::boot::host_load(),
    })
}

/// Nobody asks them anything meanwhile.
fn idle_agents(cluster: &Cluster, idle: Duration) -> Result<Vec<Idle>> {
    let value = |page: &str, name: &str| {
        metric::<f64>(page, name).with_context(|| format!("the agent does not tell {name}"))
    };
    // One connection for both questions: a handshake costs more than seconds of idleness.
    let eyes = Eyes::open(cluster, &NAMES)?;
    let before = eyes.pages()?;
    eyes.runtime.block_on(async { tokio::time::sleep(idle).await });
    let after = eyes.pages()?;
    let mut agents = Vec::new();
    for (name, ((began, before), (ended, after))) in NAMES.into_iter().zip(before.into_iter().zip(after)) {
        let cpu = |page: &str| value(page, "pillar_agent_cpu_seconds_total");
        agents.push(Idle {
            name,
            cpu_share: (cpu(&after)? - cpu(&before)?) / ended.duration_since(began).as_secs_f64(),
            resident_bytes: value(&after, "pillar_agent_resident_bytes")?,
        });
    }
    Ok(agents)
}

/// Open connections to several pillars, so that a look costs no handshake.
struct Eyes {
    runtime: Runtime,
    pillars: Vec<(String, Connected)>,
}

impl Eyes {
    fn open(cluster: &Cluster, names: &[&str]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start tokio")?;
        let keys = workspace().join("keys/dev");
        let (certificate, key) =
            (fs::read(keys.join("operator-1.crt"))?, fs::read(keys.join("operator-1.key"))?);
        let mut pillars = Vec::new();
        for name in names {
            let addr = cluster.machine(name)?.agent_addr().to_string();
            pillars.push(((*name).to_owned(), runtime.block_on(connect(&addr, &certificate, &key))?));
        }
        Ok(Self { runtime, pillars })
    }

    /// Asks each until it sees what is wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&proto::ClusterReply) -> bool) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        for (name, pillar) in &mut self.pillars {
            loop {
                let view = self.runtime.block_on(pillar.client.cluster(proto::ClusterRequest {}))?;
                if wanted(view.get_ref()) {
                    break;
                }
                ensure!(Instant::now() < deadline, "{name} does not see {what}: {:#?}", view.get_ref().peers);
                std::thread::sleep(ASK_EVERY);
            }
        }
        Ok(())
    }

    fn pages(&self) -> Result<Vec<(Instant, String)>> {
        let page = |(_, pillar): &(String, Connected)| {
            let text = self.runtime.block_on(pillar.metrics())?;
            Ok((Instant::now(), text))
        };
        self.pillars.iter().map(page).collect()
    }
}

fn all_up(view: &proto::ClusterReply) -> bool {
    view.peers.len() == NAMES.len()
        && view.peers.iter().all(|peer| peer.state == "up" && (peer.self_ || peer.verified))
}

fn state<'a>(view: &'a proto::ClusterReply, name: &str) -> &'a str {
    view.peers.iter().find(|peer| peer.name == name).map_or("absent", |peer| &peer.state)
}

fn verdict(value: f64, target: f64) -> &'static str {
    if value <= target { "within the target" } else { "over the target" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { min, median, max } = self.attested_s;
        writeln!(f, "cluster of {} pillars, one processor each; seconds by the host's clock", NAMES.len())?;
        writeln!(
            f,
            "founding: `pillar found` took {:.1}, every pair attested {:.1} after its beginning",
            self.found_s, self.founded_s
        )?;
        writeln!(f, "last workload healthy to every pair attested, {} start(s) of all at once:", self.runs)?;
        writeln!(
            f,
            "  min {min:.2}, median {median:.2}, max {max:.2}   target ≤ {TARGET_ATTESTED}: {}",
            verdict(max, TARGET_ATTESTED)
        )?;
        writeln!(
            f,
            "TPM reset under a running machine, cut off by all others: {:.2}   target ≤ {TARGET_CUT_OFF}: {}",
            self.cut_off_s,
            verdict(self.cut_off_s, TARGET_CUT_OFF)
        )?;
        writeln!(
            f,
            "power cut, missed by all others: {:.1}, down for all others: {:.1}",
            self.suspected_s, self.down_s
        )?;
        writeln!(f, "agents left alone for {:.0} s with {} peers each:", self.idle_s, NAMES.len() - 1)?;
        for Idle { name, cpu_share, resident_bytes } in &self.idle {
            writeln!(
                f,
                "  {name}: {:.2} % of a processor (target ≤ {:.0} %: {}), {:.1} MB resident (target ≤ {:.0} MB: {})",
                cpu_share * 100.0,
                TARGET_CPU * 100.0,
                verdict(*cpu_share, TARGET_CPU),
                resident_bytes / 1e6,
                TARGET_RESIDENT_BYTES / 1e6,
                verdict(*resident_bytes, TARGET_RESIDENT_BYTES)
            )?;
        }
        writeln!(f, "no public figure of a peer is known that measures the same")?;
        writeln!(f, "{}; host load {}", self.accelerator, self.host_load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, state: &str, verified: bool) -> proto::Peer {
        proto::Peer {
            name: name.to_owned(),
            state: state.to_owned(),
            verified,
            self_: name == "p1",
            ..proto::Peer::default()
        }
    }

    #[test]
    fn a_pair_counts_when_it_is_attested() {
        let mut view = proto::ClusterReply::default();
        assert!(!all_up(&view));
        view.peers = NAMES.map(|name| peer(name, "up", name != "p1")).to_vec();
        assert!(all_up(&view));
        view.peers[2].verified = false;
        assert!(!all_up(&view));
        view.peers[2] = peer("p3", "suspect", true);
        assert!(!all_up(&view) && state(&view, "p3") == "suspect" && state(&view, "p5") == "absent");
    }
}
