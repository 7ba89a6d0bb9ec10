//! Questions: open from the start, and over with their jobs, whichever way.

use std::time::Duration;

use errand_common::{
    domain::{
        FailureClass, Job, JobState, Receipt, Stream,
        coordination::QuestionState,
        event::EventType::{
            Completed, Error, QuestionAnswered, QuestionCancelled, QuestionExpired, QuestionOpened, Queued, Started,
        },
    },
    port::store::{
        Consequences, EffectReceipt, Intended, JobFilter, NewJob, Outcome, Refused,
        coordination::{Answer, Answered, QuestionFilter, Removed},
    },
    wire::coordination::{MessagePayload, NOTICE, Recipient},
};
use serde_json::json;

use super::{DAY, Fixture, LEASE, TENANT, answer, ask, cancel, far, now, question_in};
use crate::conformance::{failure, on_both, plain_job};

impl Fixture {
    async fn remind(&self, at: errand_common::domain::Timestamp) -> (usize, Consequences) {
        self.store.remind(3_600, at, 10).await.unwrap()
    }

    pub(super) async fn jobs_of_kind(&self, kind: &str) -> Vec<Job> {
        let filter = JobFilter { kind: Some(kind.to_owned()), limit: 100, ..JobFilter::default() };
        self.store.jobs(TENANT, &filter).await.unwrap()
    }
}

/// The same job once more.
fn again(job: Job) -> NewJob {
    NewJob { payload: job.payload, retry_of: Some(job.id), kind: job.kind, ..plain_job() }
}

on_both! {
    async fn a_question_is_open_as_soon_as_it_is_asked(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, id) = fixture.asked(ask(&world)).await;
        let question = fixture.question(id).await;
        assert_eq!((question.state, question.job_id, question.agent_id), (QuestionState::Open, job, Some(world.lead)));
        assert_eq!(question.reply_tags, ["gateway_main", "user_reply"]);
        assert_eq!(fixture.events(Stream::Job(job)).await, [Queued, QuestionOpened]);
        assert_eq!(fixture.events(Stream::Board(world.board)).await, [QuestionOpened]);
        let told = fixture.store.events(Stream::Board(world.board), 0, 10).await.unwrap();
        assert_eq!(told[0].data["question_id"], json!(id));
        assert_eq!(told[0].data["content"], "which one?");
        assert_eq!((told[0].job_id, told[0].board_id), (Some(job), Some(world.board)));
        let filter = |state| QuestionFilter {
            tenant: TENANT.to_owned(), board_id: Some(world.board), state, before: None, limit: 10,
        };
        assert_eq!(fixture.store.questions(&filter(Some(QuestionState::Open))).await.unwrap(), [question]);
        assert!(fixture.store.questions(&filter(Some(QuestionState::Expired))).await.unwrap().is_empty());
    }

    async fn delivered_it_waits_for_its_answer_without_a_holder(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, _) = fixture.asked(ask(&world)).await;
        fixture.delivered(job).await;
        let job = fixture.job(job).await;
        assert_eq!((job.state, job.lease_until), (JobState::AwaitingAnswer, None));
        assert_eq!(job.result, Some(json!({"ok": true})));
        assert_eq!(fixture.audit().await, [("gateway.lead.ask_user.sent".to_owned(), "Sent.".to_owned())]);
        let (_, _) = fixture.store.cancel(cancel(job.id)).await.unwrap().unwrap();
        assert_eq!(fixture.audit().await.len(), 1, "it was told once");
    }

    async fn a_question_ends_with_its_job(fixture: Fixture) {
        let world = fixture.world().await;
        // Cancelled while it waits.
        let (cancelled, first) = fixture.asked(ask(&world)).await;
        fixture.delivered(cancelled).await;
        let (_, _) = fixture.store.cancel(cancel(cancelled)).await.unwrap().unwrap();
        // Never delivered.
        let (failed, second) = fixture.asked(ask(&world)).await;
        let run = fixture.claim(failed, LEASE).await;
        assert!(fixture.finish(&run, Outcome::Failed { failure: failure(FailureClass::Fatal) }).await);
        // Not started in time.
        let (_, third) = fixture.asked(NewJob { expires_at: Some(now()), ..ask(&world) }).await;
        assert_eq!(fixture.store.expire(far(), 10).await.unwrap().0, 1);
        // With the job it belongs to.
        let child = ask(&world);
        let fourth = child.coordination.as_ref().unwrap().question.as_ref().unwrap().id;
        let group = NewJob { kind: "group".to_owned(), children: vec![child], ..plain_job() };
        let group = fixture.submit(group).await.unwrap().id;
        let (_, _) = fixture.store.cancel(cancel(group)).await.unwrap().unwrap();
        for id in [first, second, third, fourth] {
            let question = fixture.question(id).await;
            assert_eq!(question.state, QuestionState::Cancelled);
            assert!(question.ended_at.is_some());
        }
        let mut events = fixture.events(Stream::Board(world.board)).await;
        events.retain(|kind| *kind == QuestionCancelled);
        assert_eq!(events.len(), 4);
    }

    async fn expiry_is_final_and_fails_the_job(fixture: Fixture) {
        let world = fixture.world().await;
        let (waiting, first) = fixture.asked(ask(&world)).await;
        fixture.delivered(waiting).await;
        let (running, second) = fixture.asked(ask(&world)).await;
        let run = fixture.claim(running, LEASE).await;
        let mut later = ask(&world);
        question_in(&mut later).expires_at = now().plus(10 * DAY);
        let (_, third) = fixture.asked(later).await;
        assert_eq!(fixture.store.expire_questions(now(), 10).await.unwrap().0, 0);
        let (count, consequences) = fixture.store.expire_questions(far(), 10).await.unwrap();
        assert_eq!((count, consequences.stops.len()), (2, 1), "whoever still delivers it is told to stop");
        for (job, question) in [(waiting, first), (running, second)] {
            let job = fixture.job(job).await;
            let why = job.failure.unwrap();
            assert_eq!((job.state, why.class, why.code.as_str()), (JobState::Failed, FailureClass::Timeout, "QUESTION_EXPIRED"));
            assert_eq!(fixture.question(question).await.state, QuestionState::Expired);
        }
        assert_eq!(fixture.events(Stream::Job(waiting)).await, [Queued, QuestionOpened, Started, Queued, QuestionExpired, Error]);
        assert!(!fixture.finish(&run, Outcome::AwaitingAnswer { result: json!({}) }).await, "it is over");
        assert_eq!(fixture.question(third).await.state, QuestionState::Open);
        assert!(matches!(fixture.answer(first, json!("x")).await, Answered::Late(late) if late.state == QuestionState::Expired));
        assert_eq!(fixture.store.expire_questions(far(), 10).await.unwrap().0, 0);
    }

    async fn an_asking_is_repeated_while_it_waits(fixture: Fixture) {
        let world = fixture.world().await;
        let start = now();
        let mut job = ask(&world);
        question_in(&mut job).remind_at = Some(start);
        let (job, id) = fixture.asked(job).await;
        assert_eq!(fixture.remind(start).await.0, 0, "it was not delivered yet");
        fixture.delivered(job).await;
        let next = start.plus(Duration::from_secs(3_600));
        assert_eq!(fixture.remind(start).await.0, 0, "it was put off");
        let (count, consequences) = fixture.remind(next).await;
        assert_eq!((count, consequences.ready.len()), (1, 1));
        let notices = fixture.jobs_of_kind(NOTICE).await;
        let notice: MessagePayload = serde_json::from_value(notices[0].payload.clone()).unwrap();
        assert_eq!(notice.message, "REMINDER\nLEAD REQUEST: which one?");
        assert_eq!((notice.recipient, notice.question_id), (Recipient::Main { gateway_id: world.gateway }, Some(id)));
        let question = fixture.question(id).await;
        assert_eq!((question.reminders, question.remind_at), (1, Some(next.plus(Duration::from_secs(3_600)))));
        fixture.answer(id, json!("blue")).await;
        assert_eq!(fixture.remind(far()).await.0, 0, "it is answered");
    }

    async fn a_retry_asks_anew(fixture: Fixture) {
        let world = fixture.world().await;
        let original = ask(&world);
        let (job, first) = fixture.asked(original.clone()).await;
        let (_, _) = fixture.store.cancel(cancel(job)).await.unwrap().unwrap();
        let repeated = fixture.submit(again(fixture.job(job).await)).await.unwrap().id;
        let asked: MessagePayload = serde_json::from_value(fixture.job(repeated).await.payload).unwrap();
        let second = fixture.question(asked.question_id.unwrap()).await;
        assert_ne!(second.id, first);
        assert_eq!((second.state, second.job_id, second.content.as_str()), (QuestionState::Open, repeated, "which one?"));
        let waits = second.expires_at.since(second.created_at);
        assert!(waits > DAY - Duration::from_secs(60) && waits <= DAY, "for as long as the first: {waits:?}");
        fixture.delivered(repeated).await;
        fixture.answer(second.id, json!("blue")).await;
        let told = fixture.audit().await;
        assert_eq!(told.last().unwrap().0, "gateway.lead.ask_user.sent", "what is told of it was handed down: {told:?}");
        assert_eq!(fixture.events(Stream::Job(repeated)).await, [Queued, QuestionOpened, Started, Queued, QuestionAnswered, Completed]);
    }

    async fn a_retry_of_what_was_delivered_is_delivered_too(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, _) = fixture.asked(ask(&world)).await;
        let run = fixture.claim(job, LEASE).await;
        fixture.intend(run.fence, 1).await.unwrap();
        let sent = EffectReceipt { ordinal: 1, receipt: Receipt::Done(json!({"ok": true})) };
        assert!(fixture.finish_with(&run, vec![sent], Outcome::AwaitingAnswer { result: json!({"ok": true}) }).await);
        assert_eq!(fixture.store.expire_questions(far(), 10).await.unwrap().0, 1);
        let repeated = fixture.submit(again(fixture.job(job).await)).await.unwrap().id;
        let run = fixture.claim(repeated, LEASE).await;
        let intended = fixture.intend(run.fence, 1).await.unwrap();
        assert!(matches!(intended, Intended::Fresh { .. }), "nobody has seen the new question: {intended:?}");
    }

    async fn what_was_asked_on_a_board_that_is_gone_is_not_asked_again(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, id) = fixture.asked(ask(&world)).await;
        let (_, _) = fixture.store.cancel(cancel(job)).await.unwrap().unwrap();
        let board = fixture.question(id).await.board_id;
        fixture.store.remove_agent(TENANT, world.lead).await.unwrap();
        assert_eq!(fixture.store.remove_board(TENANT, board).await.unwrap(), Removed::Done);
        let refused = fixture.submit(again(fixture.job(job).await)).await;
        assert_eq!(refused.unwrap_err(), Refused::QuestionGone);
    }

    async fn what_an_older_process_left_open_is_withdrawn(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, id) = fixture.asked(ask(&world)).await;
        let (_, _) = fixture.store.cancel(cancel(job)).await.unwrap().unwrap();
        fixture.tamper("UPDATE questions SET state = 'open', ended_at = NULL").await;
        assert_eq!(fixture.store.expire_questions(far(), 10).await.unwrap().0, 0, "its job has ended");
        assert_eq!(fixture.question(id).await.state, QuestionState::Cancelled);
    }

    async fn an_answer_after_the_time_is_late_though_nobody_has_said_so_yet(fixture: Fixture) {
        let world = fixture.world().await;
        let (_, id) = fixture.asked(ask(&world)).await;
        let late = Answer { now: far(), ..answer(id, json!("blue"), "key-1") };
        let (answered, _) = fixture.store.answer(late).await.unwrap().unwrap();
        let Answered::Late(question) = answered else { panic!("{answered:?}") };
        assert_eq!(question.state, QuestionState::Expired);
        assert_eq!(fixture.question(id).await.state, QuestionState::Open, "the sweep ends it with its job");
    }
}
