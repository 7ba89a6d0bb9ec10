//! A history without a fault, for tests to plant one in.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Law, check};
use crate::chaos::history::{Answers, Call, Event, History, Job, Said, Seen, Stamp, Submission, Watched, Work};

/// Ids that read well.
pub(super) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// An `http` job that crashed once.
pub(super) const HTTP: u64 = 1;
/// An echo task that was handed back in mid-run.
pub(super) const ECHO: u64 = 2;
/// A task with a program, whose first run was cut off.
pub(super) const PROGRAM: u64 = 3;
/// An `http` job that was cancelled before it ran.
pub(super) const CANCELLED: u64 = 4;

/// A nudge.
pub(super) const NUDGE: u64 = 5;
/// A question that was answered while it was being delivered.
pub(super) const QUESTION: u64 = 6;

pub(super) fn job_id(submission: u64) -> Uuid {
    id(submission.into())
}

fn session() -> Uuid {
    id(100)
}

fn log(events: &[(i64, i64, &str, Value)]) -> Vec<Event> {
    (1..)
        .zip(events)
        .map(|(seq, (attempt, claim, kind, data))| Event {
            seq,
            session_seq: None,
            ts: seq * 1_000,
            attempt: *attempt,
            claim: *claim,
            kind: (*kind).to_owned(),
            data: data.clone(),
        })
        .collect()
}

fn job(submission: u64, state: &str, events: Vec<Event>) -> (Uuid, Job) {
    let tail_seq = events.len().try_into().expect("few events");
    let job =
        Job { submission: Some(submission), state: state.to_owned(), tail_seq, failure: None, session: None, events };
    (job_id(submission), job)
}

pub(super) fn sample() -> History {
    let queued = || json!({"state": "queued"});
    let crash = || json!({"class": "crash", "code": "WORKER_LOST"});
    let text = |content: &str| json!({"content": content});
    let none = || json!({});
    let http = log(&[
        (1, 0, "queued", json!({"state": "scheduled"})),
        (1, 0, "queued", queued()),
        (1, 1, "started", none()),
        (1, 1, "retrying", crash()),
        (2, 2, "started", none()),
        (2, 2, "completed", none()),
    ]);
    let mut echo = log(&[
        (1, 0, "queued", queued()),
        (1, 1, "started", none()),
        (1, 1, "text", text("say ")),
        (1, 1, "queued", queued()),
        (1, 2, "text_retracted", json!({"from_seq": 3})),
        (1, 2, "started", none()),
        (1, 2, "text", text("say ")),
        (1, 2, "text", text("this")),
        (1, 2, "completed", none()),
    ]);
    for event in &mut echo {
        event.session_seq = Some(event.seq);
    }
    let program = log(&[
        (1, 0, "queued", queued()),
        (1, 1, "started", none()),
        (1, 1, "text", text("a 1/2\n")),
        (1, 1, "retrying", crash()),
        (2, 2, "text_retracted", json!({"from_seq": 3})),
        (2, 2, "started", none()),
        (2, 2, "text", text("b 1/2\nb 2/2\n")),
        (2, 2, "completed", none()),
    ]);
    let cancelled = log(&[(1, 0, "queued", queued()), (1, 0, "cancelled", none())]);

    let nudge = log(&[(1, 0, "queued", queued()), (1, 1, "started", none()), (1, 1, "completed", none())]);
    let question = log(&[
        (1, 0, "queued", queued()),
        (1, 0, "question_opened", none()),
        (1, 1, "started", none()),
        (1, 1, "queued", json!({"state": "awaiting_answer"})),
        (1, 1, "question_answered", none()),
        (1, 1, "completed", none()),
    ]);

    let seen = |submission: u64, events: &[Event]| {
        let seen = events.iter().map(|event| Seen {
            epoch: "e".to_owned(),
            seq: event.seq,
            job: job_id(submission),
            kind: event.kind.clone(),
            ts: event.ts,
        });
        seen.collect::<Vec<_>>()
    };
    let watched = vec![
        Watched { stream: format!("job:{}", job_id(HTTP)), events: seen(HTTP, &http), to_the_end: true },
        Watched { stream: format!("session:{}", session()), events: seen(ECHO, &echo), to_the_end: true },
    ];
    let submission = |number: u64, work: Work| {
        (number, Submission { work, job: Some(job_id(number)), may_be_cancelled: number == CANCELLED })
    };
    let call = || Call { submission: HTTP, key: job_id(HTTP).to_string() };
    let stamp = |run: &str, at| Stamp { job: job_id(PROGRAM), run: run.to_owned(), at };
    let said = |submission, role: &str| Said { job: job_id(submission), role: role.to_owned() };
    let mut jobs = [
        job(HTTP, "completed", http),
        job(ECHO, "completed", echo),
        job(PROGRAM, "completed", program),
        job(CANCELLED, "cancelled", cancelled),
        job(NUDGE, "completed", nudge),
        job(QUESTION, "completed", question),
    ];
    jobs[1].1.session = Some(session());
    History {
        submissions: [
            submission(HTTP, Work::Http),
            submission(ECHO, Work::Echo("say this".to_owned())),
            submission(PROGRAM, Work::Program(2)),
            submission(CANCELLED, Work::Http),
            submission(NUDGE, Work::Nudge),
            submission(QUESTION, Work::Question),
        ]
        .into(),
        calls: vec![call(), call()],
        nudged: vec![Call { submission: NUDGE, key: job_id(NUDGE).to_string() }],
        answers: [(QUESTION, Answers { question: "q".to_owned(), accepted: 1, told: 1, resumed: 1 })].into(),
        stamps: vec![stamp("a", 10), stamp("a", 20), stamp("b", 30), stamp("b", 40)],
        watched,
        sessions: [(session(), jobs[1].1.tail_seq)].into(),
        jobs: jobs.into(),
        messages: vec![said(ECHO, "user"), said(ECHO, "assistant")],
    }
}

/// Asserts that `plant` makes the clean history break this law.
pub(super) fn assert_found(law: Law, plant: impl FnOnce(&mut History)) {
    let mut history = sample();
    plant(&mut history);
    let breaches = check(&history);
    assert!(breaches.iter().any(|breach| breach.law == law), "{law:?} is not among {breaches:#?}");
}

/// The planted job.
pub(super) fn job_mut(history: &mut History, submission: u64) -> &mut Job {
    history.jobs.get_mut(&job_id(submission)).expect("a job of the sample")
}
