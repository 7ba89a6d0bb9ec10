//! Answers: the first valid one wins, wherever the delivery is.

use errand_common::{
    domain::{
        JobState, Stream,
        coordination::QuestionState,
        event::EventType::{Completed, QuestionAnswered, QuestionOpened, Queued, Retrying, Started},
    },
    port::store::{NewJob, Outcome, coordination::Answered},
    wire::coordination::{MessagePayload, NUDGE, Recipient},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, answer, ask, far, now, question_in};
use crate::conformance::{failure, on_both};

on_both! {
    async fn the_answer_ends_the_job_and_goes_to_who_asked(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, id) = fixture.asked(ask(&world)).await;
        fixture.delivered(job).await;
        let (answered, consequences) = fixture.store.answer(answer(id, json!("blue"), "user-7")).await.unwrap().unwrap();
        let Answered::Won(question) = answered else { panic!("{answered:?}") };
        assert_eq!((question.state, question.answer.clone()), (QuestionState::Answered, Some(json!("blue"))));
        assert_eq!(*question, fixture.question(id).await);
        assert_eq!(question.answered_by.as_deref(), Some("user-7"));
        let main = fixture.store.main_agent(TENANT, world.gateway).await.unwrap().unwrap();
        let ended = fixture.job(job).await;
        assert_eq!(ended.state, JobState::Completed);
        assert_eq!(ended.result, Some(json!({
            "ok": true, "board_id": world.board, "main_agent_id": main.id, "main_agent_name": main.name,
            "question_id": id, "answer": "blue", "answered_by": "user-7",
        })));
        assert_eq!(fixture.events(Stream::Job(job)).await, [Queued, QuestionOpened, Started, Queued, QuestionAnswered, Completed]);
        assert_eq!(fixture.events(Stream::Board(world.board)).await, [QuestionOpened, QuestionAnswered]);

        let nudges = fixture.jobs_of_kind(NUDGE).await;
        assert_eq!(nudges.len(), 1);
        assert_eq!(consequences.ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [nudges[0].id]);
        assert_eq!(nudges[0].retry, ended.retry);
        let nudge: MessagePayload = serde_json::from_value(nudges[0].payload.clone()).unwrap();
        assert_eq!(nudge.recipient, Recipient::Agent { agent_id: world.lead });
        let text = format!(
            "USER ANSWER\nBoard: Board ops\nBoard ID: {}\nQuestion ID: {id}\nCorrelation ID: c-1\n\nblue", world.board,
        );
        assert_eq!(nudge.message, text);
        let run = fixture.claim(nudges[0].id, LEASE).await;
        assert!(run.window_ends_at.is_some());
        assert!(fixture.complete(&run, "ok").await);
        assert!(fixture.audit().await.contains(&("agent.nudge.sent".to_owned(), "Nudge sent to the lead.".to_owned())));

        assert!(matches!(fixture.answer(id, json!("red")).await, Answered::Late(late) if late.answer == Some(json!("blue"))));
        assert_eq!(fixture.jobs_of_kind(NUDGE).await.len(), 1);
    }

    async fn an_answer_may_come_before_the_delivery_is_known(fixture: Fixture) {
        let world = fixture.world().await;
        // While it waits for a worker.
        let (queued, first) = fixture.asked(ask(&world)).await;
        assert!(matches!(fixture.answer(first, json!("a")).await, Answered::Won(_)));
        let worker = fixture.worker().await;
        let (claims, _) = fixture.store.claim(worker, LEASE, &[queued], now()).await.unwrap();
        assert!(claims.claimed.is_empty(), "nothing is left to deliver");
        // Put off for later.
        let (scheduled, second) = fixture.asked(NewJob { run_at: Some(far()), ..ask(&world) }).await;
        assert!(matches!(fixture.answer(second, json!("a")).await, Answered::Won(_)));
        // Between two attempts.
        let (retrying, third) = fixture.asked(ask(&world)).await;
        let run = fixture.claim(retrying, LEASE).await;
        let lost = failure(errand_common::domain::FailureClass::Transient);
        assert!(fixture.finish(&run, Outcome::Retry { failure: lost, run_at: far() }).await);
        assert!(matches!(fixture.answer(third, json!("a")).await, Answered::Won(_)));
        assert_eq!(fixture.events(Stream::Job(retrying)).await, [Queued, QuestionOpened, Started, Retrying, QuestionAnswered, Completed]);
        assert_eq!(fixture.job(retrying).await.failure, None, "in the end it did not fail");
        // While a worker sends it.
        let (running, fourth) = fixture.asked(ask(&world)).await;
        let run = fixture.claim(running, LEASE).await;
        let (answered, consequences) = fixture.store.answer(answer(fourth, json!("a"), "k")).await.unwrap().unwrap();
        assert!(matches!(answered, Answered::Won(_)));
        assert_eq!(consequences.stops.len(), 1, "it is told to stop");
        assert!(!fixture.finish(&run, Outcome::AwaitingAnswer { result: json!({}) }).await, "its end comes too late");
        assert_eq!(fixture.store.release(run.fence.into(), now()).await.unwrap().0, Ok(()));
        for job in [queued, scheduled, retrying, running] {
            let job = fixture.job(job).await;
            assert_eq!((job.state, job.lease_until), (JobState::Completed, None));
        }
        let sent = fixture.audit().await.into_iter().filter(|(kind, _)| kind == "gateway.lead.ask_user.sent").count();
        assert_eq!(sent, 4, "each was told");
    }

    async fn an_answer_has_to_follow_its_schema(fixture: Fixture) {
        let world = fixture.world().await;
        let mut job = ask(&world);
        let schema = json!({"type": "object", "required": ["size"], "properties": {"size": {"type": "integer"}}});
        question_in(&mut job).answer_schema = Some(schema);
        let (job, id) = fixture.asked(job).await;
        fixture.delivered(job).await;
        let unfit = fixture.answer(id, json!({"size": "big"})).await;
        assert!(matches!(&unfit, Answered::Unfit { pointer, .. } if pointer == "/size"), "{unfit:?}");
        assert_eq!(fixture.question(id).await.state, QuestionState::Open);
        assert_eq!(fixture.job(job).await.state, JobState::AwaitingAnswer);
        assert!(matches!(fixture.answer(id, json!("{\"size\": 3}")).await, Answered::Won(won) if won.answer == Some(json!({"size": 3}))));
    }

    async fn after_its_time_an_answer_is_late_though_nobody_has_ended_the_question_yet(fixture: Fixture) {
        let world = fixture.world().await;
        let mut job = ask(&world);
        question_in(&mut job).expires_at = now();
        let (job, id) = fixture.asked(job).await;
        let late = fixture.answer(id, json!("blue")).await;
        assert!(matches!(&late, Answered::Late(question) if question.state == QuestionState::Expired), "{late:?}");
        assert_eq!((fixture.question(id).await.state, fixture.job(job).await.state), (QuestionState::Open, JobState::Queued));
        assert_eq!(fixture.store.expire_questions(far(), 10).await.unwrap().0, 1, "the sweep ends it as ever");
        assert_eq!((fixture.question(id).await.state, fixture.job(job).await.state), (QuestionState::Expired, JobState::Failed));
    }

    async fn a_question_that_no_agent_asks_nudges_nobody(fixture: Fixture) {
        let world = fixture.world().await;
        let mut by_key = ask(&world);
        question_in(&mut by_key).agent_id = None;
        let (_, first) = fixture.asked(by_key).await;
        assert!(matches!(fixture.answer(first, json!("x")).await, Answered::Won(_)));
        let (_, second) = fixture.asked(ask(&world)).await;
        fixture.store.remove_agent(TENANT, world.lead).await.unwrap();
        assert!(matches!(fixture.answer(second, json!("x")).await, Answered::Won(_)), "who asked is gone");
        assert!(fixture.jobs_of_kind(NUDGE).await.is_empty());
    }
}
