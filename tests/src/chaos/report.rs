//! The table at the end.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    check::{Breach, Law},
    history::{History, Work},
    inject::Injected,
    measure::percentile,
};

/// Breaches of one law that are shown in words.
const SHOWN: usize = 5;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it was called, to be called so again.
    pub command: String,
    /// From the first submission to the last end.
    pub took: Duration,
    /// What was done to the fleet.
    pub injected: Injected,
    /// What was broken.
    pub breaches: Vec<Breach>,
    /// What should not have happened beside that.
    pub troubles: Vec<String>,
    /// Processes that ended though nobody asked them to, and were started again.
    pub restarts: u32,
    /// Refused writes of stale holders.
    pub refused: f64,
    /// Leases that their holders lost.
    pub leases_lost: f64,
    /// Submissions that never got an answer.
    pub unanswered: usize,
    /// How soon the jobs of killed workers ran again, sorted.
    pub recoveries: Vec<Duration>,
    /// Lines of the table that count what the history holds.
    pub counted: Counted,
}

/// What a history holds, in numbers.
#[derive(Clone, Default, Debug)]
pub struct Counted {
    jobs: BTreeMap<(String, String), usize>,
    calls: usize,
    nudged: usize,
    resumed: usize,
    runs: usize,
    crashes: usize,
    handed_back: usize,
    events: usize,
    watchers: usize,
    delivered: usize,
    programs: usize,
}

impl Counted {
    /// Counts.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut counted = Self {
            calls: history.calls.len(),
            nudged: history.nudged.len(),
            resumed: history.answers.values().map(|answers| answers.resumed).sum(),
            watchers: history.watched.len(),
            delivered: history.watched.iter().map(|watched| watched.events.len()).sum(),
            programs: history.stamps.iter().map(|stamp| &stamp.run).collect::<std::collections::BTreeSet<_>>().len(),
            ..Self::default()
        };
        for job in history.jobs.values() {
            let work = job.submission.and_then(|number| history.submissions.get(&number)).map(|asked| &asked.work);
            let kind = match work {
                Some(Work::Http) => "http",
                Some(Work::Echo(_)) => "task (echo)",
                Some(Work::Program(_)) => "task (program)",
                Some(Work::Nudge) => "nudge",
                Some(Work::Question) => "question",
                None => "unknown",
            };
            let outcome = match &job.failure {
                Some(failure) if job.state == "failed" => format!("failed ({}, {})", failure.class, failure.code),
                _ => job.state.clone(),
            };
            *counted.jobs.entry((kind.to_owned(), outcome)).or_default() += 1;
            counted.events += job.events.len();
            for event in &job.events {
                match event.kind.as_str() {
                    "started" => counted.runs += 1,
                    "retrying" if event.data["class"] == "crash" => counted.crashes += 1,
                    "queued" if event.data["reason"] == "lease_lost" => counted.handed_back += 1,
                    _ => {}
                }
            }
        }
        counted
    }
}

impl Report {
    /// Whether every promise was kept and the faults have bitten.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.breaches.is_empty() && self.troubles.is_empty() && self.unanswered == 0 && self.bitten()
    }

    /// Faults that nothing had to withstand prove nothing.
    fn bitten(&self) -> bool {
        self.refused + self.leases_lost > 0.0 && self.counted.crashes + self.counted.handed_back > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = &self.counted;
        writeln!(f, "{}\n", self.command)?;
        let jobs: usize = counted.jobs.values().sum();
        writeln!(f, "| jobs | {jobs} in {:.0} s |\n|---|---|", self.took.as_secs_f64())?;
        for ((kind, outcome), count) in &counted.jobs {
            writeln!(f, "| {kind}: {outcome} | {count} |")?;
        }
        writeln!(f, "| runs, of which programs | {}, {} |", counted.runs, counted.programs)?;
        writeln!(f, "| calls that the destination got | {} |", counted.calls)?;
        writeln!(f, "| nudges, and answers, that agents heard | {}, {} |", counted.nudged, counted.resumed)?;
        writeln!(f, "| events written | {} |", counted.events)?;
        writeln!(f, "| events delivered to {} watchers | {} |", counted.watchers, counted.delivered)?;

        let faults: usize = self.injected.faults.values().sum();
        writeln!(f, "\n| faults | {faults} |\n|---|---|")?;
        for (class, count) in &self.injected.faults {
            writeln!(f, "| {class} | {count} |")?;
        }

        writeln!(f, "\n| what must be zero | |\n|---|---|")?;
        for law in Law::ALL {
            let count = self.breaches.iter().filter(|breach| breach.law == *law).count();
            writeln!(f, "| {} | {count} |", law.breach())?;
        }
        writeln!(f, "| submissions without an answer | {} |", self.unanswered)?;
        writeln!(f, "| other troubles | {} |", self.troubles.len())?;

        writeln!(f, "\n| what shows that the faults bit | |\n|---|---|")?;
        writeln!(f, "| stale writes refused | {} |", self.refused)?;
        writeln!(f, "| leases that their holders lost | {} |", self.leases_lost)?;
        writeln!(f, "| runs that the sweep found dead | {} |", counted.crashes)?;
        writeln!(f, "| runs that the sweep took back from the living | {} |", counted.handed_back)?;
        writeln!(f, "| processes that ended by themselves | {} |", self.restarts)?;
        let recovery = |percent| {
            percentile(&self.recoveries, percent)
                .map_or("–".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()))
        };
        writeln!(
            f,
            "| SIGKILL to the next start, p50 / p99 / max of {} jobs | {} / {} / {} |",
            self.recoveries.len(),
            recovery(50),
            recovery(99),
            recovery(100)
        )?;

        for law in Law::ALL {
            for breach in self.breaches.iter().filter(|breach| breach.law == *law).take(SHOWN) {
                writeln!(f, "\n✗ {breach}")?;
            }
        }
        for trouble in &self.troubles {
            writeln!(f, "\n✗ {trouble}")?;
        }
        if !self.bitten() {
            writeln!(f, "\n✗ no write was refused or no run was cut off: these faults prove nothing")?;
        }
        Ok(())
    }
}
