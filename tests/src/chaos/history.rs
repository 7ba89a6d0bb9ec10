//! What a run leaves behind: what was asked and answered, what the outside world saw, and what the database says.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

/// Microseconds since 1970-01-01 UTC, by this machine's clock.
pub type Micros = i64;

/// Everything that the checker looks at.
#[derive(Clone, Default, Debug)]
pub struct History {
    /// What was submitted, by its number in the run.
    pub submissions: BTreeMap<u64, Submission>,
    /// What the destination was asked to do, in order.
    pub calls: Vec<Call>,
    /// What agents of the gateway were nudged with, in each agent's order.
    pub nudged: Vec<Call>,
    /// What became of the answers to questions, by submission.
    pub answers: BTreeMap<u64, Answers>,
    /// What the programs of command tasks said about themselves.
    pub stamps: Vec<Stamp>,
    /// What watchers of streams received.
    pub watched: Vec<Watched>,
    /// What the database holds, by job.
    pub jobs: BTreeMap<Uuid, Job>,
    /// The last number of each session's stream, by session.
    pub sessions: BTreeMap<Uuid, i64>,
    /// What was said in sessions.
    pub messages: Vec<Said>,
}

/// What a submission asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// A call to the destination.
    Http,
    /// A task whose engine says this prompt back.
    Echo(String),
    /// A task whose engine is a program that prints so many lines.
    Program(u32),
    /// A message to an agent of a gateway, which names the submission.
    Nudge,
    /// A question for a person, which two answer at once.
    Question,
}

/// What became of the answers to one question.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Answers {
    /// The question's id, once it is known.
    pub question: String,
    /// How many were told that theirs counts.
    pub accepted: usize,
    /// How many were told that another's does.
    pub told: usize,
    /// How often the asker heard an answer.
    pub resumed: usize,
}

/// Something that a client asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submission {
    /// What.
    pub work: Work,
    /// The job that the client was told of; `None`: no answer came, or none that says yes.
    pub job: Option<Uuid>,
    /// A client asked to cancel it, or another task of its session may have pushed it aside.
    pub may_be_cancelled: bool,
}

/// A call that the destination received whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The submission that its body names.
    pub submission: u64,
    /// Its `Idempotency-Key`.
    pub key: String,
}

/// A moment of one run of a command task's program, told by the program itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The task.
    pub job: Uuid,
    /// The run's own random name, which it also prints.
    pub run: String,
    /// When.
    pub at: Micros,
}

/// What one watcher received of one stream, over all its connections.
#[derive(Clone, PartialEq, Debug)]
pub struct Watched {
    /// The stream's name.
    pub stream: String,
    /// Each event as it came.
    pub events: Vec<Seen>,
    /// The stream told its end, or the watcher stayed until all was quiet.
    pub to_the_end: bool,
}

/// An event as a watcher saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The database's epoch.
    pub epoch: String,
    /// Its number in the watched stream.
    pub seq: i64,
    /// Its job.
    pub job: Uuid,
    /// Its type.
    pub kind: String,
    /// When it was written.
    pub ts: Micros,
}

/// A job as the database holds it.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// The submission that its metadata names.
    pub submission: Option<u64>,
    /// Its state.
    pub state: String,
    /// The last number of its stream, as its row says.
    pub tail_seq: i64,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// Its session.
    pub session: Option<Uuid>,
    /// Its stream, by number.
    pub events: Vec<Event>,
}

/// Why a job failed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Failure {
    /// Its class.
    pub class: String,
    /// Its code.
    pub code: String,
}

/// An event as the database holds it.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Its number in the job's stream.
    pub seq: i64,
    /// Its number in the session's stream.
    pub session_seq: Option<i64>,
    /// When it was written.
    pub ts: Micros,
    /// The attempt it belongs to.
    pub attempt: i64,
    /// The claim it belongs to.
    pub claim: i64,
    /// Its type.
    pub kind: String,
    /// Its fields.
    pub data: Value,
}

/// A message of a session.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Said {
    /// The task that brought it.
    pub job: Uuid,
    /// `user` or `assistant`.
    pub role: String,
}

impl Job {
    /// The text that a reader of its stream is left with: what was retracted is gone.
    #[must_use]
    pub fn visible_text(&self) -> String {
        let mut pieces: Vec<(i64, &str)> = Vec::new();
        for event in &self.events {
            match event.kind.as_str() {
                "text" => pieces.push((event.seq, event.data["content"].as_str().unwrap_or_default())),
                "text_retracted" => {
                    let from = event.data["from_seq"].as_i64().unwrap_or_default();
                    pieces.retain(|(seq, _)| *seq < from);
                }
                _ => {}
            }
        }
        pieces.into_iter().map(|(_, text)| text).collect()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        crate::client::TERMINAL.contains(&self.state.as_str())
    }
}
