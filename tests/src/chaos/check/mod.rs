//! The checker: a history in, what was broken out. It knows nothing of how the run was made.

mod effect;
mod gateway;
mod job;
mod overlap;
#[cfg(test)]
mod sample;
mod stream;
mod watch;

use std::fmt;

use super::history::History;

/// A promise that a history can break.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Law {
    /// What was acknowledged exists and ends.
    JobsLost,
    /// One submission makes one job, and each job was asked for.
    JobsDoubled,
    /// A job ends as it should: it completes, unless somebody cancelled it or its workers crashed too often.
    OutcomesWrong,
    /// The destination never sees two keys for one job.
    EffectsDoubled,
    /// What a completed job was to do outside has been done.
    EffectsMissing,
    /// One answer to a question counts, the others are told so, and whoever asked hears it once.
    AnswersWrong,
    /// Streams are numbered from 1 to their tail, each number once.
    EventsMissing,
    /// Events come in an order that the life of a job allows, and it ends once.
    EventsOutOfOrder,
    /// Nothing of a run is written after its claim is over: neither an event, nor a word of another run's text.
    StaleWrites,
    /// No two runs of one task overlap in time.
    RunsOverlapping,
    /// An attempt is spent by a failure, and by nothing else.
    AttemptsMisspent,
    /// Each task says its prompt and its answer once in its session.
    MessagesDoubled,
    /// A watcher receives exactly the log, from its start to its end.
    WatchersWrong,
}

impl Law {
    /// All of them, as the table has them.
    pub const ALL: &'static [Self] = &[
        Self::JobsLost,
        Self::JobsDoubled,
        Self::OutcomesWrong,
        Self::EffectsDoubled,
        Self::EffectsMissing,
        Self::AnswersWrong,
        Self::EventsMissing,
        Self::EventsOutOfOrder,
        Self::StaleWrites,
        Self::RunsOverlapping,
        Self::AttemptsMisspent,
        Self::MessagesDoubled,
        Self::WatchersWrong,
    ];

    /// What the table calls its breaches.
    #[must_use]
    pub const fn breach(self) -> &'static str {
        match self {
            Self::JobsLost => "jobs lost",
            Self::JobsDoubled => "jobs doubled",
            Self::OutcomesWrong => "outcomes without a cause",
            Self::EffectsDoubled => "effects under two keys",
            Self::EffectsMissing => "effects missing",
            Self::AnswersWrong => "answers lost or doubled",
            Self::EventsMissing => "events missing or doubled",
            Self::EventsOutOfOrder => "events out of order",
            Self::StaleWrites => "stale writes let through",
            Self::RunsOverlapping => "runs beside themselves",
            Self::AttemptsMisspent => "attempts misspent",
            Self::MessagesDoubled => "messages missing or doubled",
            Self::WatchersWrong => "watchers that missed or doubled",
        }
    }
}

/// One breach of a law.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breach {
    /// Which.
    pub law: Law,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law.breach(), self.what)
    }
}

/// Breaches, as they are found.
#[derive(Default)]
struct Breaches(Vec<Breach>);

impl Breaches {
    fn add(&mut self, law: Law, what: impl Into<String>) {
        self.0.push(Breach { law, what: what.into() });
    }
}

/// All breaches of a history. None: every law was kept.
#[must_use]
pub fn check(history: &History) -> Vec<Breach> {
    let mut breaches = Breaches::default();
    job::check(history, &mut breaches);
    effect::check(history, &mut breaches);
    gateway::check(history, &mut breaches);
    stream::check(history, &mut breaches);
    overlap::check(history, &mut breaches);
    watch::check(history, &mut breaches);
    breaches.0
}

#[cfg(test)]
mod tests {
    use super::{sample::sample, *};

    #[test]
    fn a_history_of_crashes_and_hand_backs_without_a_fault_is_clean() {
        assert_eq!(check(&sample()), []);
    }
}
