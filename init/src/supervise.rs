//! Decisions about children, without any of the doing: when one that ended is started again, when it is given up, what
//! a health report means, and what a trial boot waits for.

use pillar_model::WorkloadState;
use std::time::Duration;

/// An agent that ran at least this long did not die quickly.
const AGENT_FLOOR: Duration = Duration::from_secs(20);
/// So many quick deaths in a row, and the machine reboots: nobody could attest it.
const AGENT_QUICK_DEATHS: u32 = 5;
const AGENT_PAUSE: Duration = Duration::from_millis(500);

/// A workload that ran at least this long starts anew without more delay than the first time.
const WORKLOAD_FLOOR: Duration = Duration::from_secs(60);
const WORKLOAD_FIRST_PAUSE: Duration = Duration::from_millis(500);
const WORKLOAD_LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A workload may take this long to become healthy before it counts as unhealthy.
const WORKLOAD_START: Duration = Duration::from_secs(60);
/// After so many times the failures that make it unhealthy, an unhealthy workload is killed and starts anew.
const KILL_FACTOR: u32 = 4;

/// What follows when a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it again after this time.
    StartIn(Duration),
    /// Too often: give up.
    GiveUp,
}

/// The agent's restarts.
#[derive(Debug, Default)]
pub struct AgentPolicy {
    quick_deaths: u32,
}

impl AgentPolicy {
    /// The agent ended (or did not start) after having run for this long.
    pub fn ended(&mut self, ran: Duration) -> Next {
        self.quick_deaths = if ran < AGENT_FLOOR { self.quick_deaths + 1 } else { 0 };
        if self.quick_deaths >= AGENT_QUICK_DEATHS { Next::GiveUp } else { Next::StartIn(AGENT_PAUSE) }
    }
}

/// The workload's restarts: never given up, since the machine is also there to be asked why.
#[derive(Debug, Default)]
pub struct WorkloadPolicy {
    streak: u32,
}

impl WorkloadPolicy {
    /// The workload ended after having run for this long; when to start it again.
    pub fn ended(&mut self, ran: Duration) -> Duration {
        self.streak = if ran < WORKLOAD_FLOOR { self.streak.saturating_add(1) } else { 1 };
        let pause = WORKLOAD_FIRST_PAUSE.saturating_mul(1 << (self.streak - 1).min(16));
        pause.min(WORKLOAD_LONGEST_PAUSE)
    }
}

/// What the prober's reports mean.
#[derive(Debug)]
pub struct HealthJudge {
    failures: u32,
    started: Duration,
    streak: u32,
    ever_healthy: bool,
}

/// What to do about a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new.
    Same,
    /// The workload is now in this state.
    Now(WorkloadState),
    /// It has been unhealthy for long: kill it.
    Kill,
}

impl HealthJudge {
    /// For a workload that started at this time and may fail so many checks in a row.
    pub fn new(failures: u32, started: Duration) -> HealthJudge {
        HealthJudge { failures: failures.max(1), started, streak: 0, ever_healthy: false }
    }

    /// Takes a report.
    pub fn report(&mut self, passed: bool, now: Duration) -> Verdict {
        if passed {
            let news = !self.ever_healthy || self.streak >= self.failures;
            (self.ever_healthy, self.streak) = (true, 0);
            return if news { Verdict::Now(WorkloadState::Healthy) } else { Verdict::Same };
        }
        if !self.ever_healthy && now.saturating_sub(self.started) < WORKLOAD_START {
            return Verdict::Same;
        }
        self.streak = self.streak.saturating_add(1);
        if self.streak == self.failures {
            Verdict::Now(WorkloadState::Unhealthy)
        } else if self.streak == self.failures.saturating_mul(KILL_FACTOR) {
            Verdict::Kill
        } else {
            Verdict::Same
        }
    }
}

/// A trial boot that is not healthy by then (from the kernel's start on) is rebooted; the loader counted it already.
const TRIAL_DEADLINE: Duration = Duration::from_secs(300);
/// The boot is blessed when everything was well for this long.
const SETTLE: Duration = Duration::from_secs(15);
/// The entry is looked up when the workload is healthy, for that costs boot time; at the latest then.
const LOOK_AFTER: Duration = Duration::from_secs(30);

/// Where a boot stands between trial and blessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// The boot entry was not looked up yet.
    Unknown,
    /// It is counted.
    Counted {
        /// Since when everything is well.
        well_since: Option<Duration>,
    },
    /// It is not, or not any more.
    Over,
}

/// What the trial asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialStep {
    /// Look up the boot entry.
    Look,
    /// Bless it.
    Bless,
    /// Reboot: the trial failed.
    Fail,
}

impl Trial {
    /// Goes on; `well`: agent and workload are as they should be.
    pub fn step(&mut self, now: Duration, well: bool) -> Option<TrialStep> {
        match self {
            Trial::Unknown => (well || now >= LOOK_AFTER).then_some(TrialStep::Look),
            Trial::Over => None,
            Trial::Counted { well_since } if well => {
                let since = *well_since.get_or_insert(now);
                (now.saturating_sub(since) >= SETTLE).then_some(TrialStep::Bless)
            }
            Trial::Counted { well_since } => {
                *well_since = None;
                (now >= TRIAL_DEADLINE).then_some(TrialStep::Fail)
            }
        }
    }

    /// When to ask again, at the latest.
    pub fn due(&self) -> Option<Duration> {
        match self {
            Trial::Unknown => Some(LOOK_AFTER),
            Trial::Counted { well_since: Some(since) } => Some(*since + SETTLE),
            Trial::Counted { well_since: None } => Some(TRIAL_DEADLINE),
            Trial::Over => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn quick_deaths_in_a_row_end_it_and_a_long_life_forgives() {
        let mut policy = AgentPolicy::default();
        for _ in 0..AGENT_QUICK_DEATHS - 1 {
            assert_eq!(policy.ended(S(1)), Next::StartIn(AGENT_PAUSE));
        }
        assert_eq!(policy.ended(S(21)), Next::StartIn(AGENT_PAUSE));
        for _ in 0..AGENT_QUICK_DEATHS - 1 {
            assert_eq!(policy.ended(S(1)), Next::StartIn(AGENT_PAUSE));
        }
        assert_eq!(policy.ended(S(1)), Next::GiveUp);
    }

    #[test]
    fn workload_waits_longer_each_time_up_to_a_minute() {
        let mut policy = WorkloadPolicy::default();
        let pauses: Vec<_> = (0..9).map(|_| policy.ended(S(1)).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(policy.ended(S(60)), WORKLOAD_FIRST_PAUSE);
    }

    #[test]
    fn health() {
        let mut judge = HealthJudge::new(2, S(10));
        assert_eq!(judge.report(false, S(20)), Verdict::Same);
        assert_eq!(judge.report(true, S(21)), Verdict::Now(WorkloadState::Healthy));
        assert_eq!(judge.report(true, S(22)), Verdict::Same);
        assert_eq!(judge.report(false, S(23)), Verdict::Same);
        assert_eq!(judge.report(false, S(24)), Verdict::Now(WorkloadState::Unhealthy));
        assert_eq!(judge.report(true, S(25)), Verdict::Now(WorkloadState::Healthy));
        let reports: Vec<_> = (0..8).map(|n| judge.report(false, S(26 + n))).collect();
        assert_eq!(reports[1], Verdict::Now(WorkloadState::Unhealthy));
        assert_eq!(reports[7], Verdict::Kill);
    }

    #[test]
    fn never_healthy_counts_after_the_start_time() {
        let mut judge = HealthJudge::new(1, S(0));
        assert_eq!(judge.report(false, S(59)), Verdict::Same);
        assert_eq!(judge.report(false, S(60)), Verdict::Now(WorkloadState::Unhealthy));
    }

    #[test]
    fn trial() {
        let mut trial = Trial::Unknown;
        assert_eq!(trial.step(S(5), false), None);
        assert_eq!(trial.step(S(30), false), Some(TrialStep::Look));
        assert_eq!(trial.step(S(6), true), Some(TrialStep::Look));
        trial = Trial::Counted { well_since: None };
        assert_eq!(trial.step(S(299), false), None);
        assert_eq!(trial.step(S(300), false), Some(TrialStep::Fail));
        assert_eq!(trial.step(S(310), true), None);
        assert_eq!(trial.due(), Some(S(325)));
        assert_eq!(trial.step(S(325), true), Some(TrialStep::Bless));
        // A relapse starts the time anew, and behind the deadline it ends the trial.
        assert_eq!(trial.step(S(326), false), Some(TrialStep::Fail));
        assert_eq!(Trial::Over.step(S(999), false), None);
    }
}
